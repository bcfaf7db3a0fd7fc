"""What a running service holds in memory as its log grows, and after a restart over that log.

`governors serve` gets signals over HTTP until the log has each of the sizes; then it is stopped and started again. The
peer is uvicorn with FastAPI and one route that reads and forgets the same requests: what the web server alone holds
after them.

Ids of signals are remembered up to a fixed number, so memory grows until the log has as many. From the second size on
it should not: that ratio is the figure.
"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.report import machine, parser, print_report, scratch
from benchmarks.start import start_ours
from benchmarks.support_load import REQUEST, TENANTS, send_signals, settle
from benchmarks.support_process import Served, free_port

SIZES: Final = (100_000, 200_000, 1_000_000)
TARGET_GROWTH: Final = 1.1
"""RSS at the last size over that at the second."""
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


def grow(served: Served, sizes: tuple[int, ...]) -> list[float]:
    """RSS in MB at each size: so many signals were sent and answered."""
    held: list[float] = []
    for first, end in pairwise((0, *sizes)):
        send_signals(served, first, end)
        held.append(served.rss_mb_now())
    return held


def measure(sizes: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """The peer first, then ours, then ours again over what it wrote."""
    output = folder / "output"
    with start_peer(output) as peer:
        peer_start_mb, peer_mb = peer.rss_mb, grow(peer, sizes)
    with start_ours(folder / "data", output) as service:
        start_mb, ours_mb = service.rss_mb, grow(service, sizes)
        settle()
        service.stop()
    with start_ours(folder / "data", output) as again:
        ready_s, restarted_mb = again.ready_s, again.rss_mb
        again.stop()
    growth = ours_mb[-1] / ours_mb[min(1, len(ours_mb) - 1)]
    return {
        "tenants": TENANTS,
        "request": REQUEST,
        "peer": "uvicorn with FastAPI and one route that forgets",
        "start_mb": round(start_mb),
        "peer_start_mb": round(peer_start_mb),
        "sizes": [
            {"receipts": size, "ours_mb": round(ours, 1), "peer_mb": round(theirs, 1)}
            for size, ours, theirs in zip(sizes, ours_mb, peer_mb, strict=True)
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
        f"{one['receipts']:>10,} receipts: {one['ours_mb']:.0f} MB; {one['peer_mb']:.0f} MB" for one in report["sizes"]
    ]
    lines += [
        f"restarted over them: {report['restarted_mb']} MB, ready in {report['restarted_ready_s']} s",
        f"the last over the second: {report['growth']}, target at most {TARGET_GROWTH}",
    ]
    print_report({"benchmark": "memory", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
