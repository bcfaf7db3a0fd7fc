"""What a running service holds in memory as its log grows, and after a restart over that log.

`governors serve` gets signals over HTTP until the log has each of the sizes. It is looked at right after that load, and
again after a rest in which it publishes what it has not published yet: the first shows what a load costs, the second
what a log does. Then it is stopped and started again. The peer is uvicorn with FastAPI and one route that reads and
forgets the same requests: what the web server alone holds after them.

Ids of signals are remembered up to a fixed number, so memory grows until the log has as many. The first size is beyond
that, and from there on a log that is larger should cost nothing: the ratio after the rest is the figure.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.report import machine, parser, print_report, scratch
from benchmarks.start import start_ours
from benchmarks.support_load import REQUEST, TENANTS, send_signals
from benchmarks.support_process import Served, free_port

SIZES: Final = (200_000, 1_000_000)
TARGET_GROWTH: Final = 1.1
"""RSS at the last size over that at the first, both after a rest."""
REST_S: Final = 40.0
"""More than the service lets pass between two publications, and what one of them takes."""
_PEER: Final = """
import sys, uvicorn
from fastapi import FastAPI, Request
app = FastAPI()
@app.post("/v1/signals")
async def forget(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
"""


def start_peer(log: Path) -> Served:
    """There is no route for GET, so an answer is a 404."""
    port = free_port()
    return Served([sys.executable, "-c", _PEER, str(port)], port, "/", log=log, status=404)


@dataclass(frozen=True, slots=True)
class Held:
    """RSS in MB, at each size."""

    loaded: list[float]
    rested: list[float]


def grow(served: Served, sizes: tuple[int, ...], rest_s: float) -> Held:
    """So many signals were sent and answered."""
    held = Held([], [])
    for first, end in pairwise((0, *sizes)):
        send_signals(served, first, end)
        held.loaded.append(served.rss_mb_now())
        time.sleep(rest_s)
        held.rested.append(served.rss_mb_now())
    return held


def measure(sizes: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """The peer first, then ours, then ours again over what it wrote."""
    output = folder / "output"
    with start_peer(output) as peer:
        peer_start_mb, theirs = peer.rss_mb, grow(peer, sizes, rest_s=0.0)
    with start_ours(folder / "data", output) as service:
        start_mb, ours = service.rss_mb, grow(service, sizes, REST_S)
        service.stop()
    with start_ours(folder / "data", output) as again:
        ready_s, restarted_mb = again.ready_s, again.rss_mb
        again.stop()
    growth = ours.rested[-1] / ours.rested[0]
    return {
        "tenants": TENANTS,
        "request": REQUEST,
        "peer": "uvicorn with FastAPI and one route that forgets",
        "start_mb": round(start_mb),
        "peer_start_mb": round(peer_start_mb),
        "sizes": [
            {
                "receipts": size,
                "loaded_mb": round(ours.loaded[at]),
                "rested_mb": round(ours.rested[at]),
                "peer_mb": round(theirs.rested[at]),
            }
            for at, size in enumerate(sizes)
        ],
        "restarted_mb": round(restarted_mb),
        "restarted_ready_s": round(ready_s, 2),
        "growth": round(growth, 3),
        "target_growth": TARGET_GROWTH,
        "ok": growth <= TARGET_GROWTH,
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="ascending")
    given = options.parse_args()
    sizes = tuple(given.sizes)
    if not sizes or sorted(set(sizes)) != list(sizes):
        options.error("--sizes: ascending")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        report = measure(sizes, Path(folder))
    lines = [f"at start: {report['start_mb']} MB; {report['peer']}: {report['peer_start_mb']} MB"]
    lines += [
        f"{one['receipts']:,} receipts: {one['loaded_mb']} MB, after a rest {one['rested_mb']} MB; {one['peer_mb']} MB"
        for one in report["sizes"]
    ]
    lines += [
        f"restarted over them: {report['restarted_mb']} MB, ready in {report['restarted_ready_s']} s",
        f"the last over the first, after a rest: {report['growth']}, target at most {TARGET_GROWTH}",
    ]
    print_report({"benchmark": "memory", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
