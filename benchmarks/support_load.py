"""Sends signals to a service over HTTP until its log has as many receipts as asked for."""

import http.client
import time
from typing import Final

from benchmarks.pipeline import make_batches
from benchmarks.support_process import Served

TENANTS: Final = 100
REQUEST: Final = 2_000
SETTLE_S: Final = 15.0
"""What a service needs after a load to bring its snapshot up to date: its pauses between two are shorter."""
_PIECE: Final = 50_000


def send_signals(served: Served, first: int, end: int) -> None:
    """Send signals number `first` to `end`, each answered. The same numbers make the same signals."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60.0)
    for begin in range(first, end, _PIECE):
        for batch in make_batches(min(_PIECE, end - begin), TENANTS, REQUEST, seed=begin):
            connection.request("POST", "/v1/signals", b"\n".join(batch), {"content-type": "application/x-ndjson"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"signals were answered with {response.status}: {body[:500]!r}")
    connection.close()


def settle() -> None:
    """Let a service that was loaded come to rest, as it does between loads."""
    time.sleep(SETTLE_S)
