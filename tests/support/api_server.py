"""A stand-in for a Kubernetes API server: a real HTTP server over a cluster of the tests' own, which follows the API's
rules for what we ask of it.

- Bearer tokens: 401 without a known one. What they may do is a Role's rules: 403 for the rest, in the API's words.
- `get`, `list` with label selectors, `patch` as JSON patch and merge patch. A patch whose test fails, or that cannot
  be applied, is 422 without a cause; one that names another resource version is 409; a strategic one is 415.
- Deployments are checked as far as we could break them: 422 with the cause.
- The subresource `status` changes the status alone. Rollouts may be installed without it: then it is 404.

Faults are armed for the next call of a verb: a status with headers, or a connection that is reset, before or after the
call took effect.
"""

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from support.cluster import DEPLOYMENTS, ROLLOUTS, Cluster, Key, Object
from support.json_patch import PatchFailedError, apply_patch, merge

USER: Final = "system:serviceaccount:governors:governors"
_PATH: Final = re.compile(
    r"/apis/(?P<group>[a-z.]+)/(?P<version>[a-z0-9]+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[a-z]+)"
    r"(/(?P<name>[^/]+)(/(?P<sub>[a-z]+))?)?"
)
_SERVED: Final = {("apps", "v1"): {"deployments", "replicasets"}, ("argoproj.io", "v1alpha1"): {"rollouts"}}
_REASONS: Final = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict",
    415: "UnsupportedMediaType", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError",
    503: "ServiceUnavailable",
}  # fmt: skip
EVERYTHING: Final = ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},)


class RefusedError(Exception):
    def __init__(self, status: int, message: str, causes: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.causes = causes


@dataclass
class Fault:
    """A call that goes wrong. `status` 0: the connection is reset."""

    verb: str
    status: int
    landed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ApiServer:
    """`before_patch` is called with the cluster before a patch is applied: somebody else is quicker."""

    cluster: Cluster = field(default_factory=Cluster)
    tokens: set[str] = field(default_factory=lambda: {"token-1"})
    rules: Sequence[Mapping[str, Any]] = EVERYTHING
    has_status_resource: bool = True
    faults: list[Fault] = field(default_factory=list)
    before_patch: Callable[[Cluster], None] | None = None
    calls: list[str] = field(default_factory=list)
    """Method and path of each call that was let in."""
    lock: Any = field(default_factory=threading.RLock)
    url: str = ""

    @contextlib.contextmanager
    def listening(self, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator["ApiServer"]:
        server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Object:
        """One call. Raises RefusedError."""
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise RefusedError(401, "Unauthorized")
        url = urlsplit(target)
        found = _PATH.fullmatch(url.path)
        if found is None or found["plural"] not in _SERVED.get((found["group"], found["version"]), ()):
            raise RefusedError(404, "the server could not find the requested resource")
        self.calls.append(f"{method} {url.path}")
        resource, name, sub = f"{found['plural']}.{found['group']}", found["name"], found["sub"]
        verb = {"GET": "get" if name else "list", "PATCH": "patch"}[method]
        self._check_permitted(verb, found)
        if name is None:
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            return self._list(resource, found["namespace"], selector)
        if sub is not None and (sub != "status" or (resource == ROLLOUTS and not self.has_status_resource)):
            raise RefusedError(404, "the server could not find the requested resource")
        key = (resource, found["namespace"], name)
        if key not in self.cluster.objects:
            raise RefusedError(404, f'{resource} "{name}" not found')
        if verb == "get":
            self.cluster.step(key)
            return self.cluster.objects[key]
        if self.before_patch is not None:
            before, self.before_patch = self.before_patch, None
            before(self.cluster)
        return self._patch(key, sub, headers.get("content-type", ""), body)

    def fault(self, verb: str, *, landed: bool) -> Fault | None:
        """The next one of this verb, taken off the list."""
        found = next((one for one in self.faults if one.verb == verb and one.landed is landed), None)
        if found is not None:
            self.faults.remove(found)
        return found

    def _check_permitted(self, verb: str, found: re.Match[str]) -> None:
        resource = found["plural"] + (f"/{found['sub']}" if found["sub"] else "")
        for rule in self.rules:
            if (
                {found["group"], "*"} & {*rule["apiGroups"]}
                and {resource, "*"} & {*rule["resources"]}
                and {verb, "*"} & {*rule["verbs"]}
            ):
                return
        name = f' "{found["name"]}"' if found["name"] else ""
        raise RefusedError(
            403,
            f'{found["plural"]}.{found["group"]}{name} is forbidden: User "{USER}" cannot {verb} resource "{resource}" '
            f'in API group "{found["group"]}" in the namespace "{found["namespace"]}"',
        )

    def _list(self, resource: str, namespace: str, selector: str) -> Object:
        items = [
            one
            for (of, there, _), one in self.cluster.objects.items()
            if (of, there) == (resource, namespace) and selects(selector, one["metadata"].get("labels", {}))
        ]
        return {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}

    def _patch(self, key: Key, sub: str | None, media_type: str, body: bytes) -> Object:
        old, patch = self.cluster.objects[key], json.loads(body)
        match media_type:
            case "application/json-patch+json":
                try:
                    new = apply_patch(old, patch)
                except PatchFailedError as error:
                    # The API does not say which step it was.
                    raise RefusedError(422, "the server rejected our request due to an error in our request") from error
            case "application/merge-patch+json":
                new = merge(old, patch)
            case _:
                raise RefusedError(415, f"the body of the request was in an unknown format: {media_type}")
        if new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
            raise RefusedError(409, "the object has been modified; please apply your changes to the latest version")
        if sub == "status":
            new = {**old, "status": new.get("status", {})}
        elif key[0] != ROLLOUTS or self.has_status_resource:
            new["status"] = old.get("status", {})
        _check(key, new)
        return self.cluster.touch(key, new)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve("get")

            def do_PATCH(self) -> None:
                self._serve("patch")

            def _serve(self, verb: str) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with stand_in.lock:
                    fault = stand_in.fault(verb, landed=False)
                    if fault is None:
                        try:
                            status, answer = 200, json.dumps(stand_in.answer(self.command, self.path, headers, body))
                        except RefusedError as error:
                            status, answer = error.status, _status(error.status, str(error), error.causes)
                        fault = stand_in.fault(verb, landed=True) if status == 200 else None
                more: Mapping[str, str] = {}
                if fault is not None and fault.status == 0:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    return
                if fault is not None:
                    status, more = fault.status, fault.headers
                    answer = _status(status, "it was told to answer so")
                data = answer.encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **more}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def selects(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether a label selector means these labels: `a=b,c!=d,e in (f,g),h notin (i),j,!k`."""
    for part in re.split(r",(?![^(]*\))", selector) if selector else []:
        if found := re.fullmatch(r"(\S+) (in|notin) \((.*)\)", part):
            if (labels.get(found[1]) in found[3].split(",")) is (found[2] == "notin"):
                return False
        elif "!=" in part:
            name, _, value = part.partition("!=")
            if labels.get(name) == value:
                return False
        elif "=" in part:
            name, _, value = part.replace("==", "=").partition("=")
            if labels.get(name) != value:
                return False
        elif (part.removeprefix("!") in labels) is part.startswith("!"):
            return False
    return True


def _check(key: Key, new: Object) -> None:
    """What the API server checks of a workload, as far as a patch of ours could get it wrong."""
    spec = new["spec"]
    if not isinstance(spec.get("replicas", 1), int) or spec.get("replicas", 1) < 0:
        raise _invalid(key, "spec.replicas", "must be greater than or equal to 0")
    if not isinstance(spec.get("paused", False), bool):
        raise _invalid(key, "spec.paused", "must be a boolean")
    if not all(isinstance(value, str) for value in new["metadata"].get("annotations", {}).values()):
        raise _invalid(key, "metadata.annotations", "must be text")
    if key[0] == DEPLOYMENTS:
        labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
        if any(labels.get(name) != value for name, value in spec["selector"]["matchLabels"].items()):
            raise _invalid(key, "spec.template.metadata.labels", "`selector` does not match template `labels`")


def _invalid(key: Key, where: str, what: str) -> RefusedError:
    return RefusedError(422, f'{key[0]} "{key[2]}" is invalid: {where}: {what}', [{"field": where, "message": what}])


def _status(status: int, message: str, causes: Sequence[Mapping[str, str]] = ()) -> str:
    details = {"details": {"causes": [*causes]}} if causes else {}
    return json.dumps(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status,
         "reason": _REASONS.get(status, "Unknown"), **details}
    )  # fmt: skip
