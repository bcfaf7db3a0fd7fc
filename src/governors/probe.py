"""`python -m governors.probe [URL]`: whether a service is well, for an image that has neither a shell nor curl.

Exit 0: it answers with 200. 1: it does not, with one line on standard error that says what it did. Nothing but the
standard library is imported: a probe that runs every few seconds must not cost half a second of processor time.
"""

import http.client
import os
import ssl
import sys
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 3.0


def default_url() -> str:
    """This container's own service, in the clear, on the port that the environment gives it."""
    return f"http://127.0.0.1:{os.environ.get('GOVERNORS_HTTP__PORT', '8080')}/healthz"


def problem_at(url: str) -> str:
    """What is wrong with the service at `url`; empty where it answers with 200."""
    try:
        address = urlsplit(url)
        host, port = address.hostname, address.port
    except ValueError as error:
        return f"{url}: {error}"
    if address.scheme not in ("http", "https") or not host:
        return f"{url}: expected http://host:port/path or https://…"
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    if address.scheme == "https":
        # Asked is oneself, by an address that no certificate names; a kubelet's probe looks at none either.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 - as said
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", address.path or "/")
        response = connection.getresponse()
        said = response.read(2_000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return "" if response.status == http.HTTPStatus.OK else f"{url}: {response.status}: {said}"


def main(arguments: list[str]) -> int:
    """The exit code."""
    problem = problem_at(arguments[0] if arguments else default_url())
    if problem:
        sys.stderr.write(problem + "\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
