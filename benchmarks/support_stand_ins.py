"""The tests' stand-ins for a Kubernetes API server and for Cloud Storage, as a process of their own.

    PYTHONPATH=tests python -m benchmarks.support_stand_ins DEPLOYMENTS

Prints where they are as one line of JSON, then a line for each patch that was accepted: the Deployment's name and when
(seconds of CLOCK_MONOTONIC, which all processes of a machine share). Ends with its standard input.
"""

import json
import sys
import time

from support.api_server import ApiServer
from support.cluster import DEPLOYMENTS, Key, Object
from support.sim_gcs import SimGcs

NAMESPACE = "shop"


class NotingServer(ApiServer):
    """Says when a patch of a template was accepted."""

    def _patch(self, key: Key, sub: str | None, media_type: str, body: bytes) -> Object:
        changed = super()._patch(key, sub, media_type, body)
        print(json.dumps({"patched": key[2], "at_s": time.monotonic(), "image": self.cluster.image(key)}), flush=True)
        return changed


def main() -> None:
    server = NotingServer()
    for number in range(int(sys.argv[1])):
        for image in ("web:v1", "web:v2"):
            key = (DEPLOYMENTS, NAMESPACE, f"web-{number}")
            if image == "web:v1":
                server.cluster.deployment(key[2], image)
            else:
                server.cluster.deploy(key, image)
    with server.listening(), SimGcs("logs") as storage:
        print(json.dumps({"kubernetes": server.url, "storage": storage.url}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
