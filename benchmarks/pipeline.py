"""The whole path in one process on one core: decode, dedup, decide, receipt, chain, tree, group commit, fdatasync.

The peer is SQLite (WAL, synchronous=FULL), which gets the same bytes, decodes them with the same decoder and makes
them durable in transactions of the same size, but decides nothing. Runs alternate, so that both see the same machine.
"""

import asyncio
import multiprocessing
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks.report import machine, parser, print_report, scratch
from governors.memory import prepare_memory, settle_memory
from governors.outbox.executors import Done, Order
from governors.runtime import Edges, Runtime
from governors.settings import Settings, TenantSettings
from governors.supervision.report import SupervisionEvent
from governors.tenants.decide import Decided
from governors.tenants.tenant import OpenWork
from ingest.decode.native import decode_native

TARGETS_PER_S = {100: 60_000, 10_000: 60_000}
# As many as a few pulls and a few HTTP senders have under way together.
BATCHES_IN_FLIGHT = 8


class Discard:
    """Executor and dead letters of a benchmark: there is nobody to act on."""

    name = "nobody"

    def takes(self, _work: OpenWork) -> bool:
        return True

    async def execute(self, _order: Order) -> Done:
        return Done()

    async def put(self, **letter: object) -> str:
        raise AssertionError(f"a benchmark signal was dead-lettered: {letter}")

    def decided(self, _tenant: str, _decided: Decided, _index: int) -> None:
        pass

    def committed(self, _seconds: float, _receipts: int) -> None:
        pass

    def action_ended(self, _kind: str, _outcome: str) -> None:
        pass

    def supervised(self, event: SupervisionEvent) -> None:
        if event.error is not None:
            raise AssertionError(event.error.traceback)

    def edges(self, clock_us: Callable[[], int]) -> Edges:
        """A runtime's edges on which nothing is done."""
        return Edges(
            clock_us=clock_us,
            entropy=os.urandom,
            executors=[self],
            dead_letters=self,
            on_decided=self.decided,
            on_supervision=self.supervised,
            on_commit=self.committed,
            on_attempt=self.action_ended,
            on_action_ended=self.action_ended,
            writer="benchmark",
        )


def make_batches(signals: int, tenants: int, batch: int, seed: int) -> list[list[bytes]]:
    """Signals of six kinds, about 300 bytes each, spread over the tenants at random."""
    rng = random.Random(seed)
    now_s = time.time()
    payloads = [payload_of(rng, number, now_s, tenants, seed) for number in range(signals)]
    return [payloads[start : start + batch] for start in range(0, signals, batch)]


def payload_of(rng: random.Random, number: int, now_s: float, tenants: int, seed: int) -> bytes:
    """The signal with this number, observed in the second `now_s`."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{number % 1_000_000:06d}Z"
    kind, subject, data = _DATA[number % len(_DATA)](rng, at)
    return orjson.dumps(
        {
            "id": f"bench-{seed}-{number:08d}",
            "source": "benchmark",
            "tenant": f"tenant-{rng.randrange(tenants):05d}",
            "kind": kind,
            "subject": subject,
            "observed_at": at,
            "data": data,
        }
    )


def _queue(rng: random.Random, _: str) -> tuple[str, str, dict[str, Any]]:
    data = {
        "depth": rng.randrange(200),
        "oldest_age_s": round(rng.random() * 2, 3),
        "in_rate_per_s": round(90 + rng.random() * 20, 1),
        "done_rate_per_s": round(90 + rng.random() * 20, 1),
    }
    return "queue.sample", "orders", data


def _work(rng: random.Random, _: str) -> tuple[str, str, dict[str, Any]]:
    data = {
        "count": 1000,
        "errors": rng.randrange(3),
        "sojourn_min_ms": round(rng.random() * 9, 2),
        "sojourn_p99_ms": round(40 + rng.random() * 9, 2),
        "window_s": 10,
    }
    return "work.done", "orders", data


def _snapshot(rng: random.Random, at: str) -> tuple[str, str, dict[str, Any]]:
    data = {
        "cost_amount": f"{rng.randrange(10_000, 40_000) / 100:.2f}",
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": at[:8] + "01T00:00:00Z",
    }
    return "cost.snapshot", "prod-budget", data


def _delta(rng: random.Random, at: str) -> tuple[str, str, dict[str, Any]]:
    amount = f"0.{rng.randrange(1000):06d}"
    return "cost.delta", "prod-budget", {"amount": amount, "currency": "USD", "usage_at": at}


def _sample(rng: random.Random, _: str) -> tuple[str, str, dict[str, Any]]:
    data = {
        "deploy_id": "d-2026-11-22",
        "arm": rng.choice(("canary", "baseline")),
        "requests": 500 + rng.randrange(50),
        "errors": rng.randrange(3),
        "slow": rng.randrange(5),
        "window_s": 15,
    }
    return "deploy.sample", "web", data


_DATA = (_queue, _delta, _sample, _work, _snapshot, _queue)


async def run_ours(batches: list[list[bytes]], folder: Path) -> float:
    """Seconds for all batches, each answered only when it is durable."""
    prepare_memory()
    edges = Discard().edges(lambda: time.time_ns() // 1000)
    runtime = Runtime(Settings(tenants=TenantSettings(auto_create=True)), folder, edges)
    tree = runtime.tree("benchmark")
    started = asyncio.Event()
    task = asyncio.create_task(tree.run(started.set))
    await started.wait()
    settle_memory()
    begun = time.perf_counter()
    under_way: deque[asyncio.Task[None]] = deque()
    for batch in batches:
        if len(under_way) >= BATCHES_IN_FLIGHT:
            await under_way.popleft()
        under_way.append(asyncio.create_task(_one_batch(runtime, batch)))
    for rest in under_way:
        await rest
    seconds = time.perf_counter() - begun
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    expected = sum(map(len, batches))
    if runtime.ledger.local_size < expected:
        raise AssertionError(f"{runtime.ledger.local_size} receipts for {expected} signals")
    return seconds


async def _one_batch(runtime: Runtime, batch: list[bytes]) -> None:
    received_us = time.time_ns() // 1000
    signals = [decode_native(payload, received_us) for payload in batch]
    ticket = await runtime.registry.submit(signals)
    await ticket.decided()
    await runtime.ledger.wait_local(ticket.last_receipt)


def run_sqlite(batches: list[list[bytes]], folder: Path) -> float:
    """Seconds for decoding the same batches and inserting them durably, a transaction for each."""
    database = sqlite3.connect(folder / "peer.db", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table signals (tenant text, source text, id text, payload blob)")
    begun = time.perf_counter()
    for batch in batches:
        received_us = time.time_ns() // 1000
        decoded = [decode_native(payload, received_us) for payload in batch]
        database.execute("begin")
        database.executemany(
            "insert into signals values (?, ?, ?, ?)",
            [(one.tenant, one.source, one.id, one.payload) for one in decoded],
        )
        database.execute("commit")
    seconds = time.perf_counter() - begun
    database.close()
    return seconds


def time_ours(signals: int, tenants: int, batch: int, seed: int) -> float:
    """Signals a second through the whole path."""
    batches = make_batches(signals, tenants, batch, seed)
    # The event loop that `governors serve` runs on.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner, tempfile.TemporaryDirectory(dir=scratch()) as folder:
        return signals / runner.run(run_ours(batches, Path(folder)))


def time_sqlite(signals: int, tenants: int, batch: int, seed: int) -> float:
    """Signals a second into the peer."""
    batches = make_batches(signals, tenants, batch, seed)
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        return signals / run_sqlite(batches, Path(folder))


def measure(tenants: int, signals: int, batch: int, runs: int) -> dict[str, Any]:
    """Signals a second of ours and of the peer, each the median over alternating runs."""
    ours, peer = [], []
    spawn = multiprocessing.get_context("spawn")
    # A process for each run: nobody measures in the heap that another one left.
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as process:
        for run in range(runs):
            peer.append(process.submit(time_sqlite, signals, tenants, batch, run).result())
            ours.append(process.submit(time_ours, signals, tenants, batch, run).result())
    return {
        "tenants": tenants,
        "signals": signals,
        "batch": batch,
        "runs": runs,
        "ours_per_s": round(statistics.median(ours)),
        "ours_best_per_s": round(max(ours)),
        "sqlite_per_s": round(statistics.median(peer)),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, peer, strict=True)), 2),
        "target_per_s": TARGETS_PER_S.get(tenants),
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--tenants", type=int, nargs="*", default=[100, 10_000])
    options.add_argument("--signals", type=int, default=200_000)
    options.add_argument("--batch", type=int, default=1_000)
    options.add_argument("--runs", type=int, default=3)
    given = options.parse_args()
    results = [measure(tenants, given.signals, given.batch, given.runs) for tenants in given.tenants]
    lines = [
        f"{one['tenants']:>6} tenants: {one['ours_per_s']:>8,}/s durable receipts (best {one['ours_best_per_s']:,}), "
        f"SQLite without deciding {one['sqlite_per_s']:>8,}/s, ratio {one['ratio']}, target {one['target_per_s']:,}"
        for one in results
    ]
    print_report({"benchmark": "pipeline", "machine": machine(), "results": results}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
