"""A recorded hour, taken again: every receipt must come out as the same bytes, ten times faster than it was lived.

Two hours. The demo's: five tenants of whom a story is told. And one at a given rate: signals of six kinds from many
tenants, second by second, through the runtime on a clock that is stepped, with every timer that falls due on the way;
the receipts, the files and the order are those of an hour. Both are replayed by the command as an auditor runs it.

The peer is whoever decided the second hour: the live pipeline, which did the same work with nothing to wait for but the
disk, in this process and on this machine.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.pipeline import Discard, payload_of
from benchmarks.report import machine, parser, print_report, scratch
from governors.demo.play import Play
from governors.runtime import Runtime
from governors.settings import Settings, TenantSettings
from ingest.decode.native import decode_native

HOUR_S: Final = 3_600
TIMES_FASTER: Final = 10
START_S: Final = 1_795_348_800  # 2026-11-22T12:00:00Z
SEED: Final = 7


async def _at_once(_second: int) -> None:
    """The demo's hour without waiting for it."""


def live_demo(folder: Path) -> int:
    """The demo's hour, into a folder; its receipts."""
    return asyncio.run(Play(SEED, lambda _event: None, _at_once).run(folder)).receipts


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_us = START_S * 1_000_000

    def __call__(self) -> int:
        return self.now_us


async def live_hour(folder: Path, seconds: int, rate: int, tenants: int) -> tuple[int, float]:
    """So many seconds of signals, a batch for each; the receipts, and the seconds that deciding them took."""
    clock, rng = Clock(), random.Random(SEED)
    edges = Discard().edges(clock)
    runtime = Runtime(Settings(tenants=TenantSettings(auto_create=True)), folder, edges)
    started = asyncio.Event()
    task = asyncio.create_task(runtime.tree("benchmark").run(started.set))
    await started.wait()
    spent_s = 0.0
    for second in range(seconds):
        clock.now_us = (START_S + second) * 1_000_000
        batch = [payload_of(rng, second * rate + number, clock.now_us / 1e6, tenants, SEED) for number in range(rate)]
        begun = time.perf_counter()
        while runtime.timers.fire_due() == 0.0:
            pass
        signals = [decode_native(payload, clock.now_us) for payload in batch]
        ticket = await runtime.registry.submit(signals)
        await ticket.decided()
        await runtime.ledger.wait_local(ticket.last_receipt)
        spent_s += time.perf_counter() - begun
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # Results of the last actions come in until the end.
    return runtime.ledger.local_size, spent_s


def replay(folder: Path, processes: int) -> dict[str, Any]:
    """The command's own report, with the seconds of the whole process."""
    command = [sys.executable, "-m", "governors", "replay", str(folder), "--json", "--processes", str(processes)]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    process_s = time.perf_counter() - begun
    if done.returncode not in (0, 1):
        raise AssertionError(done.stderr)
    return {**json.loads(done.stdout), "process_s": round(process_s, 3)}


def measure(name: str, folder: Path, lived_s: int, receipts: int, runs: int, processes: int) -> dict[str, Any]:
    """One recorded hour: the median of the replays."""
    found = [replay(folder, processes) for _ in range(runs)]
    whole_s = statistics.median(one["process_s"] for one in found)
    seconds = statistics.median(one["seconds"] for one in found)
    ok = all(one["ok"] and one["receipts"] == one["replayed"] for one in found)
    faster = lived_s / whole_s
    return {
        "hour": name, "receipts": found[0]["receipts"], "lived_s": lived_s, "replay_s": seconds, "process_s": whole_s,
        "times_faster": round(faster, 1), "replayed_per_s": round(found[0]["receipts"] / seconds),
        "byte_identical": ok, "as_written": found[0]["receipts"] == receipts,
        "ok": ok and found[0]["receipts"] == receipts and faster >= TIMES_FASTER,
    }  # fmt: skip


def line(one: dict[str, Any]) -> str:
    said = (
        f"{one['hour']:>28}: {one['receipts']:>9,} receipts of {one['lived_s']:,} s in {one['process_s']:.2f} s "
        f"({one['replayed_per_s']:,}/s), {one['times_faster']:,} times faster than lived, at least {TIMES_FASTER}: "
        f"{'ok' if one['ok'] else 'MISSED'}"
    )
    if "live_per_s" in one:
        said += f"\n{'':>30}the live pipeline {one['live_per_s']:,}/s, replay {one['ratio']} times that"
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if a receipt came out otherwise, or too slowly."""
    options = parser(__doc__ or "")
    options.add_argument("--rate", type=int, default=100, help="signals a second of the second hour")
    options.add_argument("--seconds", type=int, default=HOUR_S, help="how long it is")
    options.add_argument("--tenants", type=int, default=100)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--processes", type=int, default=1, help="how many share a replay")
    given = options.parse_args(arguments)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        demo, hour = Path(folder, "demo"), Path(folder, "hour")
        told = live_demo(demo)
        with runner:
            receipts, spent_s = runner.run(live_hour(hour, given.seconds, given.rate, given.tenants))
        results = [
            measure("the demo, 5 tenants", demo, HOUR_S, told, given.runs, given.processes),
            measure(
                f"{given.rate}/s of {given.tenants} tenants", hour, given.seconds, receipts, given.runs,
                given.processes,
            ),
        ]  # fmt: skip
    results[1]["live_per_s"] = round(receipts / spent_s)
    results[1]["ratio"] = round(results[1]["replayed_per_s"] / results[1]["live_per_s"], 2)
    report = {"benchmark": "replay", "machine": machine(), "processes": given.processes, "results": results}
    print_report(report, [line(one) for one in results], as_json=given.json)
    return 0 if all(one["ok"] for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
