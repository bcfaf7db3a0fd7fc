"""The HTTP client that a worker asks the others with."""

import ssl
from pathlib import Path
from typing import Final

import httpx

CONNECT_S: Final = 2.0


def worker_client(
    ca: Path | None, transport: httpx.AsyncBaseTransport | None, limits: httpx.Limits, *, pool_s: float | None = None
) -> httpx.AsyncClient:
    """How long an answer may take is for the caller to say.

    `ca` has the certificates of those who vouch for the other workers; None: those that this system trusts. `pool_s` is
    how long a request waits for one of the connections that `limits` allow.
    """
    return httpx.AsyncClient(
        transport=transport,
        verify=True if ca is None else ssl.create_default_context(cafile=ca),
        timeout=httpx.Timeout(None, connect=CONNECT_S, pool=pool_s),
        limits=limits,
        follow_redirects=False,
        trust_env=False,
    )
