"""Appending receipts to one partition, and what one costs as the log grows.

Ours is the ledger alone, without a service around it: each receipt is checked, chained to its tenant's last, encoded,
hashed into the tree and framed with its payload; batches are written and fdatasynced while the next one gathers. As
many requests are under way as a few senders have, and each is answered when its receipts are durable.

The peer is SQLite (WAL, synchronous=FULL), which gets the same bytes as blobs: no chain, no tree, no index but its own
row numbers, in transactions as large as our group commits turn out. Both run once from empty to the largest size, in
processes of their own.

The cost at a size is that of the last steps before it. Each of these begins and ends with everything durable, so that
no step pays for another's receipts, and each has a partner: the same step into an empty log, right after it. Machines
change their speed by the minute; what grows with the log is the ratio of the two.

Last, into another log and at the target's rate: what a small request then takes, from when it was due.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import uvloop

from benchmarks.report import machine, parser, print_report, quantile, scratch
from benchmarks.stored import stored_receipts
from benchmarks.support_process import rss_mb
from governors.memory import prepare_memory, settle_memory
from ledger.appender import Ledger
from ledger.draft import Draft
from ledger.format.receipt import Fsm

TARGET_PER_S: Final = 50_000
TARGET_P99_MS: Final = 10.0
"""Of an answer at that rate."""
TARGET_GROWTH: Final = 1.2
"""The cost of a receipt at the largest size over that in an empty log."""
SIZES: Final = (10_000, 100_000, 1_000_000)
FULL_SIZE: Final = 10_000_000
STEP: Final = 10_000
"""Receipts that are timed together."""
STEPS_MAX: Final = 10
"""The cost at a size is the median of so many steps before it, where there are as many."""
TENANTS: Final = 100
REQUEST: Final = 1_000
REQUESTS_IN_FLIGHT: Final = 8
PACED_REQUEST: Final = 100
PACED_S: Final = 10.0
PACED_WARM_UP_S: Final = 1.0
_DRAFTS: Final = 20_000
_PAYLOAD_BYTES: Final = 100
_FSM: Final = Fsm(event="QueueSample", from_="OPEN", machine="backlog_valve", subject="orders", to="OPEN", version=1)


def make_drafts(count: int, tenants: int, seed: int = 7) -> list[Draft]:
    """Receipts to be, whose leaves take some 600 bytes, for tenants at random."""
    rng = random.Random(seed)
    now_us = time.time_ns() // 1_000
    return [
        Draft(
            tenant=f"tenant-{rng.randrange(tenants):05d}",
            event_id=f"{seed}-{number:07d}",
            source="benchmark",
            observed_us=now_us + number,
            ts_us=now_us + number + 1,
            outcome="decided",
            decision="none",
            rule="valve.hold",
            evidence={"depth": rng.randrange(200), "sojourn_us": rng.randrange(50_000)},
            fsm=_FSM,
            policy_digest="5c3f0a9b81d2e467",
            actions=(),
            payload=rng.randbytes(_PAYLOAD_BYTES),
        )
        for number in range(count)
    ]


class Store(Protocol):
    """What is measured: ours or the peer's."""

    syncs: int
    answer_ms: list[float]
    """Of each request, from its first receipt until all of it was durable."""

    async def send(self, receipts: int) -> None:
        """Hand over so many, in requests; some may be under way still."""

    async def drain(self) -> None:
        """Return when everything is durable."""

    async def close(self) -> None: ...


class Ours:
    """A ledger, its writer, and what is under way."""

    def __init__(self, data_dir: Path, drafts: list[Draft]) -> None:
        self.syncs = 0
        self.answer_ms: list[float] = []
        self._ledger = Ledger.open(
            data_dir, entropy=os.urandom, writer="benchmark", encode_state=lambda _: b"", on_commit=self._on_commit
        )
        self._task = asyncio.create_task(self._ledger.run())
        self._drafts = cycle(drafts)
        self._under_way: deque[asyncio.Task[None]] = deque()

    async def send(self, receipts: int) -> None:
        for _ in range(receipts // REQUEST):
            if len(self._under_way) >= REQUESTS_IN_FLIGHT:
                await self._under_way.popleft()
            self._under_way.append(asyncio.create_task(self._request(list(islice(self._drafts, REQUEST)))))

    async def drain(self) -> None:
        while self._under_way:
            await self._under_way.popleft()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _request(self, drafts: list[Draft]) -> None:
        begun_s = time.perf_counter()
        for draft in drafts:
            last = self._ledger.append(draft)
        await self._ledger.wait_local(last)
        self.answer_ms.append((time.perf_counter() - begun_s) * 1e3)

    def _on_commit(self, _seconds: float, _receipts: int) -> None:
        self.syncs += 1


class Sqlite:
    """A database of blobs, a transaction for as many of them as one of our group commits has."""

    def __init__(self, folder: Path, rows: list[bytes], transaction: int) -> None:
        self.syncs = 0
        self.answer_ms: list[float] = []
        self._transaction = transaction
        self._rows = cycle([(row,) for row in rows])
        self._database = sqlite3.connect(folder / "peer.db", isolation_level=None)
        self._database.execute("pragma journal_mode=wal")
        self._database.execute("pragma synchronous=full")
        self._database.execute("create table receipts (place integer primary key, receipt blob)")

    async def send(self, receipts: int) -> None:
        for sent in range(0, receipts, self._transaction):
            begun_s = time.perf_counter()
            rows = islice(self._rows, min(self._transaction, receipts - sent))
            self._database.execute("begin")
            self._database.executemany("insert into receipts (receipt) values (?)", rows)
            self._database.execute("commit")
            self.answer_ms.append((time.perf_counter() - begun_s) * 1e3)
            self.syncs += 1

    async def drain(self) -> None:
        """What was sent is durable."""

    async def close(self) -> None:
        self._database.close()


class Cost(NamedTuple):
    """Of a receipt, in microseconds."""

    wall_us: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class AtSize:
    """What receipts cost right before there were so many, and in empty logs at the same time."""

    cost: Cost
    fresh: Cost
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run from empty to the largest size."""

    per_s: float
    sizes: dict[int, AtSize]
    answer_ms: list[float]
    """In order of size."""
    receipts_per_sync: float


async def one_step(store: Store) -> Cost:
    """Send a step's receipts and wait until they are durable."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await store.send(STEP)
    await store.drain()
    return Cost((time.perf_counter() - wall_s) / STEP * 1e6, (time.process_time() - cpu_s) / STEP * 1e6)


async def one_step_afresh(open_store: Callable[[Path], Store]) -> Cost:
    """The same into an empty one, which is opened before and closed afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        store = open_store(Path(folder))
        cost = await one_step(store)
        await store.close()
    return cost


async def grow(open_store: Callable[[Path], Store], folder: Path, sizes: Sequence[int]) -> Outcome:
    """Fill a store up to the largest size; look closely at the steps before each of them."""
    prepare_memory()
    store = open_store(folder)
    settle_memory()
    await one_step_afresh(open_store)  # warms up
    at_sizes: dict[int, AtSize] = {}
    done, taken_s = 0, 0.0
    for size in sizes:
        watched_from = max(done, size - STEPS_MAX * STEP)
        begun_s = time.perf_counter()
        await store.send(watched_from - done)
        await store.drain()
        taken_s += time.perf_counter() - begun_s
        costs, fresh = [], []
        for _ in range(watched_from, size, STEP):
            costs.append(await one_step(store))
            fresh.append(await one_step_afresh(open_store))
        taken_s += sum(cost.wall_us for cost in costs) * STEP / 1e6
        at_sizes[size] = AtSize(_median(costs), _median(fresh), rss_mb(os.getpid()))
        done = size
    await store.close()
    return Outcome(done / taken_s, at_sizes, sorted(store.answer_ms), done / store.syncs)


def _median(costs: list[Cost]) -> Cost:
    return Cost(*map(statistics.median, zip(*costs, strict=True)))


async def append_paced(data_dir: Path, drafts: list[Draft]) -> list[float]:
    """Milliseconds until each request was durable, in order of size. Open loop: what is slow delays nothing."""
    ledger = Ledger.open(data_dir, entropy=os.urandom, writer="benchmark", encode_state=lambda _: b"")
    task = asyncio.create_task(ledger.run())
    now_s = asyncio.get_running_loop().time
    answer_ms: list[float] = []

    async def one_request(some: list[Draft], due_s: float, *, counts: bool) -> None:
        for draft in some:
            last = ledger.append(draft)
        await ledger.wait_local(last)
        if counts:
            answer_ms.append((now_s() - due_s) * 1e3)

    endless = cycle(drafts)
    begun_s = now_s()
    async with asyncio.TaskGroup() as requests:
        for number in range(int((PACED_WARM_UP_S + PACED_S) * TARGET_PER_S / PACED_REQUEST)):
            after_s = number * PACED_REQUEST / TARGET_PER_S
            await asyncio.sleep(max(0.0, begun_s + after_s - now_s()))
            some = list(islice(endless, PACED_REQUEST))
            requests.create_task(one_request(some, begun_s + after_s, counts=after_s >= PACED_WARM_UP_S))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return sorted(answer_ms)


def run_paced(folder: Path, tenants: int) -> list[float]:
    """As `run_ours`, at the target's rate."""
    prepare_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        settle_memory()
        return runner.run(append_paced(folder, make_drafts(_DRAFTS, tenants)))


def run_ours(folder: Path, sizes: Sequence[int], tenants: int) -> Outcome:
    """On the event loop that `governors serve` runs on."""
    drafts = make_drafts(_DRAFTS, tenants)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(grow(lambda each: Ours(each, drafts), folder, sizes))


def run_peer(folder: Path, rows: list[bytes], sizes: Sequence[int], transaction: int) -> Outcome:
    """As `run_ours`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(grow(lambda each: Sqlite(each, rows, transaction), folder, sizes))


def measure(sizes: Sequence[int], tenants: int) -> dict[str, Any]:
    """Ours and the peer's, one after the other, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=scratch()) as folder,
        ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as process,
    ):
        ours = process.submit(run_ours, Path(folder), sizes, tenants).result()
        rows = [leaf + payload for leaf, payload in islice(stored_receipts(Path(folder)), _DRAFTS)]
        peer = process.submit(run_peer, Path(folder), rows, sizes, round(ours.receipts_per_sync)).result()
        paced_ms = process.submit(run_paced, Path(folder) / "paced", tenants).result()
    growth = {size: at.cost.wall_us / at.fresh.wall_us for size, at in ours.sizes.items()}
    p99_ms = quantile(paced_ms, 0.99)
    return {
        "tenants": tenants,
        "stored_bytes": round(statistics.fmean(map(len, rows))),
        "request": REQUEST,
        "requests_in_flight": REQUESTS_IN_FLIGHT,
        "durability": "fdatasync",
        "peer": "SQLite WAL synchronous=FULL",
        "sizes": [
            {"receipts": size, **_of("ours", ours.sizes[size]), **_of("peer", peer.sizes[size])} for size in sizes
        ],
        "ours_per_s": round(ours.per_s),
        "peer_per_s": round(peer.per_s),
        "ratio": round(ours.per_s / peer.per_s, 2),
        "receipts_per_sync": round(ours.receipts_per_sync),
        "answer_ms_p50": round(quantile(ours.answer_ms, 0.5), 2),
        "answer_ms_p99": round(quantile(ours.answer_ms, 0.99), 2),
        "paced_per_s": TARGET_PER_S,
        "paced_request": PACED_REQUEST,
        "paced_ms_p50": round(quantile(paced_ms, 0.5), 2),
        "paced_ms_p99": round(p99_ms, 2),
        "target_paced_ms_p99": TARGET_P99_MS,
        "target_per_s": TARGET_PER_S,
        "target_growth": TARGET_GROWTH,
        "ok": ours.per_s >= TARGET_PER_S and growth[sizes[-1]] <= TARGET_GROWTH and p99_ms <= TARGET_P99_MS,
    }


def _of(whose: str, at: AtSize) -> dict[str, float]:
    return {
        f"{whose}_us": round(at.cost.wall_us, 2),
        f"{whose}_cpu_us": round(at.cost.cpu_us, 2),
        f"{whose}_fresh_us": round(at.fresh.wall_us, 2),
        f"{whose}_growth": round(at.cost.wall_us / at.fresh.wall_us, 2),
        f"{whose}_growth_cpu": round(at.cost.cpu_us / at.fresh.cpu_us, 2),
        f"{whose}_rss_mb": round(at.rss_mb),
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--full", action="store_true", help=f"go on to {FULL_SIZE:,} receipts (7 GB, some minutes)")
    options.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help=f"multiples of {STEP:,}, ascending")
    options.add_argument("--tenants", type=int, default=TENANTS)
    given = options.parse_args()
    sizes = (*given.sizes, FULL_SIZE) if given.full else tuple(given.sizes)
    if not sizes or sorted(set(sizes)) != list(sizes) or any(size <= 0 or size % STEP for size in sizes):
        options.error(f"--sizes: multiples of {STEP}, ascending")
    report = measure(sizes, given.tenants)
    lines = [
        f"{report['tenants']} tenants, {report['stored_bytes']} bytes stored a receipt",
        f"requests of {REQUEST}, {REQUESTS_IN_FLIGHT} under way, {report['receipts_per_sync']:,} receipts a fdatasync",
        f"{report['ours_per_s']:,}/s durable receipts, target {TARGET_PER_S:,}/s",
        f"SQLite with the same bytes: {report['peer_per_s']:,}/s, ratio {report['ratio']}",
        f"a request answered in {report['answer_ms_p50']} ms (p50), {report['answer_ms_p99']} ms (p99), at full load",
    ]
    for one in report["sizes"]:
        lines += [
            f"{one['receipts']:,} receipts, {one['ours_rss_mb']} MB: {one['ours_us']} µs each",
            f"    in an empty log {one['ours_fresh_us']} µs, ratio {one['ours_growth']} (CPU {one['ours_growth_cpu']})",
            f"    SQLite {one['peer_us']} µs, empty {one['peer_fresh_us']} µs, ratio {one['peer_growth']}",
        ]
    lines.append(f"target of the ratio: at most {TARGET_GROWTH}")
    lines.append(
        f"at {TARGET_PER_S:,}/s, a request of {PACED_REQUEST} is answered in {report['paced_ms_p50']} ms (p50), "
        f"{report['paced_ms_p99']} ms (p99), target p99 at most {TARGET_P99_MS:g} ms"
    )
    print_report({"benchmark": "append", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
