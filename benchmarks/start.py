"""From start to ready: an empty folder, and one whose log has to be read first.

The logs are written by the service itself, which gets signals over HTTP, has a moment of rest and is stopped.

Ready is the first 200 of `/readyz`, asked for every 5 ms from outside. The peer is uvicorn with an empty FastAPI app,
ready when it answers anything at all: what the web framework alone takes, with the same Python. Starts alternate, so
that all of them see the same machine; one round before them fills the caches of the disk and of the compiler.
"""

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.pipeline import make_batches, run_ours
from benchmarks.report import machine, parser, print_report, scratch
from benchmarks.support_load import TENANTS, send_signals, settle
from benchmarks.support_process import Served, free_port

TARGET_READY_S: Final = 2.0
_BATCH: Final = 1_000
_PIECE: Final = 100_000
_PEER: Final = """
import sys, uvicorn
from fastapi import FastAPI
uvicorn.run(FastAPI(), host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
"""


def write_log(folder: Path, receipts: int) -> None:
    """Decide so many signals for real, in this process: receipts, payloads and states as a service writes them."""
    for piece, begin in enumerate(range(0, receipts, _PIECE)):
        batches = make_batches(min(_PIECE, receipts - begin), TENANTS, _BATCH, seed=piece)
        asyncio.run(run_ours(batches, folder))


def serve_log(folder: Path, receipts: int, output: Path) -> None:
    """Have a service write so many receipts, with whatever else a service leaves behind."""
    with start_ours(folder, output) as service:
        send_signals(service, 0, receipts)
        settle()
        service.stop()


def start_ours(data_dir: Path, log: Path) -> Served:
    """`governors serve` over a folder."""
    port = free_port()
    command = [sys.executable, "-m", "governors", "serve", "--data-dir", str(data_dir), "--port", str(port)]
    return Served(command, port, "/readyz", log=log)


def start_peer(log: Path) -> Served:
    """Uvicorn and FastAPI, and nothing else. There is no route, so an answer is a 404."""
    port = free_port()
    return Served([sys.executable, "-c", _PEER, str(port)], port, "/", log=log, status=404)


def measure(runs: int, sizes: list[int], folder: Path) -> dict[str, Any]:
    """Medians over alternating starts, by number of receipts in the log."""
    for size in sizes:
        serve_log(folder / f"log-{size}", size, folder / "output")
    starts: dict[str, list[tuple[float, float]]] = {}
    for run in range(-1, runs):
        for name in ["peer", "0", *map(str, sizes)]:
            log = folder / "output"
            if name == "peer":
                served = start_peer(log)
            else:
                served = start_ours(folder / (f"log-{name}" if name != "0" else f"empty-{run}"), log)
            with served:
                if run >= 0:
                    starts.setdefault(name, []).append((served.ready_s, served.rss_mb))
                if name != "peer":  # uvicorn ends by the signal itself, which is no clean exit code
                    served.stop()
    peer_s, peer_mb = _medians(starts.pop("peer"))
    results = []
    for name, taken in starts.items():
        ready_s, mb = _medians(taken)
        results.append(
            {
                "receipts": int(name),
                "ready_s": round(ready_s, 3),
                "slowest_s": round(max(seconds for seconds, _ in taken), 3),
                "ratio_to_peer": round(ready_s / peer_s, 2),
                "rss_mb": round(mb),
                "target_s": TARGET_READY_S,
                "ok": ready_s < TARGET_READY_S,
            }
        )
    return {
        "runs": runs,
        "tenants": TENANTS,
        "peer": "uvicorn with an empty FastAPI app",
        "peer_ready_s": round(peer_s, 3),
        "peer_rss_mb": round(peer_mb),
        "results": results,
        "ok": all(one["ok"] for one in results),
    }


def _medians(taken: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(seconds for seconds, _ in taken), statistics.median(mb for _, mb in taken)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument(
        "--receipts", type=int, nargs="*", default=[100_000, 1_000_000], help="sizes of logs to start on"
    )
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        report = measure(given.runs, given.receipts, Path(folder))
    lines = [f"{report['peer']}: {report['peer_ready_s']:.2f} s, {report['peer_rss_mb']} MB"]
    lines += [
        f"{one['receipts']:>9,} receipts: ready in {one['ready_s']:.2f} s (slowest {one['slowest_s']:.2f}), "
        f"{one['ratio_to_peer']} times the peer, {one['rss_mb']} MB, target under {TARGET_READY_S:g} s"
        for one in report["results"]
    ]
    print_report({"benchmark": "start", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
