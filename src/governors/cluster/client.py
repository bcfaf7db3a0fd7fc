"""The HTTP client that a worker asks the others with."""

import ssl
from pathlib import Path
from typing import Final

import httpx

CONNECT_S: Final = 2.0
KEPT_ALIVE_S: Final = 30.0
"""An idle connection; less than the 75 s that a worker keeps one by default. A quiet second is not to close what the
next one needs."""
_NOTHING: Final = httpx.ByteStream(b"")


def worker_client(
    ca: Path | None, transport: httpx.AsyncBaseTransport | None, connections: int, *, pool_s: float | None = None
) -> httpx.AsyncClient:
    """How long an answer may take is for the caller to say, and to `let_go` of it.

    `ca` has the certificates of those who vouch for the other workers; None: those that this system trusts. `pool_s` is
    how long a request waits for one of so many `connections`. All of them are kept: of a pool that is to keep fewer,
    httpcore closes whichever comes free as long as there are more than that, used or not.
    """
    return httpx.AsyncClient(
        transport=transport,
        verify=True if ca is None else ssl.create_default_context(cafile=ca),
        timeout=httpx.Timeout(None, connect=CONNECT_S, pool=pool_s),
        limits=httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEPT_ALIVE_S
        ),
        follow_redirects=False,
        trust_env=False,
    )


async def let_go(answer: httpx.Response) -> None:
    """Close an answer, and part it from its stream. Each refers to the other, and both to the request and its headers:
    three dozen objects that would wait for the collector, those that outlive its first looks for a quarter of an hour.
    """
    await answer.aclose()
    answer.stream = _NOTHING
