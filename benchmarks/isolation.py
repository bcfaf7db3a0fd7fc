"""What the other tenants notice of one whose machine raises on every signal.

One runtime in this process, with its real ledger and its real dead-letter folder. Phases take turns: in `without` the
sick tenant sends signals that its machine can decide, in `with` as many on which it raises, and in `same batch` the
same, but inside the batches of the others, whose answers then wait for it. Its restart intensity is as high as it goes,
so that it is not quarantined but keeps on failing: three restarts, one fsynced dead letter and one receipt a signal.

Latencies are those of the other tenants' signals, from when they were due until their receipts were durable.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import machine, parser, print_report, quantile, scratch
from governors.fsm.table import Row
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.memory import prepare_memory, settle_memory
from governors.outbox.executors import Done, Order
from governors.runtime import Edges, Runtime
from governors.settings import Settings, TenantSettings
from governors.tenants.decide import Decided
from governors.tenants.tenant import OpenWork
from ingest.dead_letter import DeadLetterFolder
from ingest.decode.native import decode_native, encode_native
from ingest.signals import QueueSample

WITHOUT: Final = "without"
WITH: Final = "with"
SAME_BATCH: Final = "same batch"
SICK: Final = "sick"
POISON_DEPTH: Final = 666
TICK_S: Final = 0.01
# The most that the settings allow, over the shortest time that makes sense.
NEVER_QUARANTINED: Final = TenantSettings(auto_create=True, restart_intensity=1_000, restart_period_s=1.0)


def now_us() -> int:
    return time.time_ns() // 1_000


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """A Backlog Valve with a defect: it raises on one depth."""
    table: Any = BACKLOG_VALVE.table

    def broken(row: Row) -> Row:
        def handler(state: Any, event: Any, policy: Any, at_us: int) -> Any:
            if event.body.depth == POISON_DEPTH:
                raise ZeroDivisionError("a defect of the machine")
            return row.handler(state, event, policy, at_us)

        return Row(handler, row.targets)

    spoilt = {key: broken(row) if key[1] is QueueSample else row for key, row in table.items()}
    object.__setattr__(BACKLOG_VALVE, "table", spoilt)
    try:
        yield
    finally:
        object.__setattr__(BACKLOG_VALVE, "table", table)


class _Nobody:
    """Those whom a benchmark has nothing to tell."""

    name = "nobody"

    def takes(self, _work: OpenWork) -> bool:
        return True

    async def execute(self, _order: Order) -> Done:
        return Done()

    def decided(self, _tenant: str, _decided: Decided, _index: int) -> None:
        pass

    def told(self, *_: object) -> None:
        pass


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Runtime]:
    """A runtime over the folder, stopped in order at the end."""
    prepare_memory()
    nobody = _Nobody()
    edges = Edges(
        clock_us=now_us,
        entropy=os.urandom,
        executors=[nobody],
        dead_letters=DeadLetterFolder(folder / "dead-letter"),
        on_decided=nobody.decided,
        on_supervision=nobody.told,
        on_commit=nobody.told,
        on_attempt=nobody.told,
        on_action_ended=nobody.told,
        writer="benchmark",
    )
    runtime = Runtime(Settings(tenants=NEVER_QUARANTINED), folder, edges)
    tree = runtime.tree("benchmark")
    started = asyncio.Event()
    task = asyncio.create_task(tree.run(started.set))
    await started.wait()
    settle_memory()
    try:
        yield runtime
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Senders:
    """Keeps a rate: a batch of the healthy tenants' signals every tick, and the sick tenant's share of signals."""

    def __init__(self, runtime: Runtime, tenants: int, rate_per_s: float, sick_rate_per_s: float) -> None:
        self._runtime = runtime
        self._tenants = tenants
        self._healthy_per_tick = rate_per_s * TICK_S
        self._sick_per_tick = sick_rate_per_s * TICK_S
        self._made = 0
        self.latencies_ms: dict[str, list[float]] = {WITHOUT: [], WITH: [], SAME_BATCH: []}
        self.healthy: Counter[str] = Counter()
        self.sick: Counter[str] = Counter()

    async def send(self, phase: str, seconds: float, *, measured: bool = True) -> None:
        """One phase. Open loop: what is slow delays nothing that is due later."""
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        healthy_due = sick_due = 0.0
        async with asyncio.TaskGroup() as requests:
            for tick in range(int(seconds / TICK_S)):
                due_s = begun_s + tick * TICK_S
                await asyncio.sleep(due_s - now_s())
                healthy_due += self._healthy_per_tick
                sick_due += self._sick_per_tick
                healthy = [self._healthy() for _ in range(int(healthy_due))]
                sick = [self._sick(phase) for _ in range(int(sick_due))]
                healthy_due -= len(healthy)
                sick_due -= len(sick)
                noted = self.latencies_ms[phase] if measured else []
                if phase == SAME_BATCH:
                    requests.create_task(self._request([*healthy, *sick], len(healthy), due_s, noted))
                    continue
                requests.create_task(self._request(healthy, len(healthy), due_s, noted))
                if sick:
                    requests.create_task(self._request(sick, 0, due_s, noted))

    async def _request(self, payloads: Sequence[bytes], healthy: int, due_s: float, noted: list[float]) -> None:
        received_us = now_us()
        ticket = await self._runtime.registry.submit([decode_native(payload, received_us) for payload in payloads])
        outcomes = await ticket.decided()
        await self._runtime.ledger.wait_local(ticket.last_receipt)
        noted.extend([(asyncio.get_running_loop().time() - due_s) * 1e3] * healthy)
        self.healthy.update(one.outcome for one in outcomes[:healthy])
        self.sick.update(one.outcome for one in outcomes[healthy:])

    def _healthy(self) -> bytes:
        return self._signal(f"tenant-{self._made % self._tenants:05d}", 5)

    def _sick(self, phase: str) -> bytes:
        return self._signal(SICK, 5 if phase == WITHOUT else POISON_DEPTH)

    def _signal(self, tenant: str, depth: int) -> bytes:
        self._made += 1
        data = QueueSample(depth=depth, oldest_age_s=0.5, in_rate_per_s=100.0, done_rate_per_s=100.0)
        return encode_native(
            data,
            signal_id=f"s-{self._made:08d}",
            source="benchmark",
            tenant=tenant,
            subject="orders",
            observed_us=now_us(),
        )


async def measure(folder: Path, options: Any) -> dict[str, Any]:
    """Phases in turn, `--rounds` of each."""
    async with running(folder) as runtime:
        senders = Senders(runtime, options.tenants, options.rate, options.sick_rate)
        await senders.send(WITHOUT, options.seconds, measured=False)
        for _ in range(options.rounds):
            for phase in senders.latencies_ms:
                await senders.send(phase, options.seconds)
        restarts = runtime.supervisor.tree().counts["restarts_total"]
    report: dict[str, Any] = {
        "tenants": options.tenants,
        "rate_per_s": options.rate,
        "sick_rate_per_s": options.sick_rate,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "phases": {phase: _percentiles(values) for phase, values in senders.latencies_ms.items()},
        "restarts": restarts,
        "dead_lettered": senders.sick["dead_lettered"],
        "healthy_outcomes": dict(senders.healthy),
    }
    without = report["phases"][WITHOUT]
    for phase in (WITH, SAME_BATCH):
        taken = report["phases"][phase]
        report[f"ratio_{phase.replace(' ', '_')}"] = {
            share: round(taken[share] / without[share], 2) for share in ("p50", "p99")
        }
    report["right"] = set(senders.healthy) == {"decided"} and senders.sick["dead_lettered"] > 0
    return report


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": round(quantile(ordered, 0.5), 2), "p99": round(quantile(ordered, 0.99), 2), "signals": len(values)}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--tenants", type=int, default=100, help="healthy tenants")
    options.add_argument("--rate", type=float, default=1_000.0, help="their signals a second, together")
    options.add_argument("--sick-rate", type=float, default=10.0, help="the sick tenant's signals a second")
    options.add_argument("--seconds", type=float, default=4.0, help="length of a phase")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with poisoned(), tempfile.TemporaryDirectory(dir=scratch()) as folder:
        report = asyncio.run(measure(Path(folder), given))
    sick = f"{report['restarts']:,} restarts, {report['dead_lettered']:,} dead letters"
    apart, together = report["ratio_with"], report["ratio_same_batch"]
    lines = [
        f"{given.tenants} healthy tenants, {given.rate:g}/s together; one sick, {given.sick_rate:g}/s: {sick}",
        *[
            f"{phase:<11} p50 {taken['p50']:>7.2f} ms  p99 {taken['p99']:>7.2f} ms  of {taken['signals']:,} signals"
            for phase, taken in report["phases"].items()
        ],
        f"with it, the others take {apart['p50']} (p50) and {apart['p99']} times (p99) as long",
        f"with it in their own batches, {together['p50']} and {together['p99']} times",
        f"what became of the others' signals: {report['healthy_outcomes']}",
    ]
    print_report({"benchmark": "isolation", "machine": machine(), **report}, lines, as_json=given.json)
    if not report["right"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
