"""Appending receipts to one partition, and what one costs as the log grows.

Ours is the ledger alone, without a service around it: each receipt is checked, chained to its tenant's last, encoded,
hashed into the tree and framed with its payload; batches are written and fdatasynced while the next one gathers. As
many requests are under way as a few senders have, and each is answered when its receipts are durable.

The peer is SQLite (WAL, synchronous=FULL), which gets the same bytes as blobs: no chain, no tree, no index but its own
row numbers, in transactions as large as our group commits turn out. Both run once from empty to the largest size, in
processes of their own.

The cost at a size is that of the last steps before it. Each of these begins and ends with everything durable, so that
no step pays for another's receipts; between sizes nothing waits. The smallest size has a single step, so some more
logs of that size are written first.

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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, Final, Self

import uvloop

from benchmarks.report import machine, parser, print_report, quantile, scratch
from benchmarks.stored import stored_receipts
from benchmarks.support_process import rss_mb
from governors.memory import settle_memory
from ledger.appender import Draft, Ledger
from ledger.format.receipt import Fsm

TARGET_PER_S: Final = 50_000
TARGET_P99_MS: Final = 10.0
"""Of an answer at that rate."""
TARGET_FLATNESS: Final = 1.2
"""The cost of a receipt at the largest size over that at the smallest."""
SIZES: Final = (10_000, 100_000, 1_000_000)
FULL_SIZE: Final = 10_000_000
STEP: Final = 10_000
"""Receipts between two looks at the clocks."""
STEPS_MAX: Final = 10
"""The cost at a size is the median of so many steps before it, where there are as many."""
LOGS_BEFORE: Final = 6
"""Logs of the smallest size, the first of which only warms up."""
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


@dataclass(slots=True)
class Clocks:
    """Times taken after each step, from the first receipt on."""

    wall_s: list[float] = field(default_factory=lambda: [time.perf_counter()])
    cpu_s: list[float] = field(default_factory=lambda: [time.process_time()])
    rss_mb: dict[int, float] = field(default_factory=dict)
    """By size."""

    def note(self, size: int, sizes: tuple[int, ...]) -> None:
        self.wall_s.append(time.perf_counter())
        self.cpu_s.append(time.process_time())
        if size in sizes:
            self.rss_mb[size] = rss_mb(os.getpid())

    def cost_us(self, taken_s: list[float], size: int) -> float:
        """What a receipt took, right before there were `size` of them."""
        last = size // STEP
        first = max(0, last - STEPS_MAX)
        steps = [after - before for before, after in pairwise(taken_s[first : last + 1])]
        return statistics.median(steps) / STEP * 1e6


def is_measured(done: int, sizes: tuple[int, ...]) -> bool:
    """Does a step that counts begin or end after so many receipts?"""
    return any(size - STEPS_MAX * STEP <= done <= size for size in sizes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: microseconds a receipt by size, and the rate over the whole run."""

    per_s: float
    cost_us: dict[int, float]
    cpu_us: dict[int, float]
    rss_mb: dict[int, float]
    answer_ms: list[float]
    """From a request's first append until its last receipt was durable, in order of size."""
    receipts_per_sync: float

    @classmethod
    def of(cls, clocks: Clocks, sizes: tuple[int, ...], answer_ms: list[float], syncs: int) -> Self:
        return cls(
            per_s=sizes[-1] / (clocks.wall_s[-1] - clocks.wall_s[0]),
            cost_us={size: clocks.cost_us(clocks.wall_s, size) for size in sizes},
            cpu_us={size: clocks.cost_us(clocks.cpu_s, size) for size in sizes},
            rss_mb=clocks.rss_mb,
            answer_ms=sorted(answer_ms),
            receipts_per_sync=sizes[-1] / max(1, syncs),
        )

    def with_smallest(self, others: list[Self]) -> Self:
        """With the cost at the smallest size as the median over these outcomes too. The first of them warmed up."""
        size = min(self.cost_us)
        cost_us = statistics.median([self.cost_us[size], *(one.cost_us[size] for one in others[1:])])
        cpu_us = statistics.median([self.cpu_us[size], *(one.cpu_us[size] for one in others[1:])])
        return replace(self, cost_us={**self.cost_us, size: cost_us}, cpu_us={**self.cpu_us, size: cpu_us})


async def append_all(data_dir: Path, drafts: list[Draft], sizes: tuple[int, ...]) -> Outcome:
    """Append from empty to the largest size, each receipt awaited until it is durable."""
    syncs = 0

    def on_commit(_seconds: float, _receipts: int) -> None:
        nonlocal syncs
        syncs += 1

    ledger = Ledger.open(
        data_dir, entropy=os.urandom, writer="benchmark", encode_state=lambda _: b"", on_commit=on_commit
    )
    task = asyncio.create_task(ledger.run())
    settle_memory()
    answer_ms: list[float] = []

    async def one_request(some: list[Draft]) -> None:
        begun_s = time.perf_counter()
        for draft in some:
            last = ledger.append(draft)
        await ledger.wait_local(last)
        answer_ms.append((time.perf_counter() - begun_s) * 1e3)

    endless = cycle(drafts)
    under_way: deque[asyncio.Task[None]] = deque()
    clocks = Clocks()
    for sent in range(REQUEST, sizes[-1] + REQUEST, REQUEST):
        if len(under_way) >= REQUESTS_IN_FLIGHT:
            await under_way.popleft()
        under_way.append(asyncio.create_task(one_request(list(islice(endless, REQUEST)))))
        if sent % STEP == 0:
            if is_measured(sent, sizes):
                await asyncio.gather(*under_way)
                under_way.clear()
            clocks.note(sent, sizes)
    outcome = Outcome.of(clocks, sizes, answer_ms, syncs)
    if ledger.local_size != sizes[-1]:
        raise AssertionError(f"{ledger.local_size} receipts are durable, not {sizes[-1]}")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return outcome


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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        settle_memory()
        return runner.run(append_paced(folder, make_drafts(_DRAFTS, tenants)))


def run_ours(data_dir: Path, sizes: tuple[int, ...], tenants: int) -> Outcome:
    """On the event loop that `governors serve` runs on, after a few small logs."""
    drafts = make_drafts(_DRAFTS, tenants)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        before = []
        for _ in range(LOGS_BEFORE):
            with tempfile.TemporaryDirectory(dir=scratch()) as folder:
                before.append(runner.run(append_all(Path(folder), drafts, sizes[:1])))
        return runner.run(append_all(data_dir, drafts, sizes)).with_smallest(before)


def run_peer(folder: Path, rows: list[bytes], sizes: tuple[int, ...], transaction: int) -> Outcome:
    """As `run_ours`."""
    before = []
    for _ in range(LOGS_BEFORE):
        with tempfile.TemporaryDirectory(dir=scratch()) as small:
            before.append(insert_all(Path(small), rows, sizes[:1], transaction))
    return insert_all(folder, rows, sizes, transaction).with_smallest(before)


def insert_all(folder: Path, rows: list[bytes], sizes: tuple[int, ...], transaction: int) -> Outcome:
    """Insert so many rows, going round the given ones."""
    database = sqlite3.connect(folder / "peer.db", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table receipts (place integer primary key, receipt blob)")
    endless = cycle([(row,) for row in rows])
    settle_memory()
    answer_ms: list[float] = []
    clocks = Clocks()
    done, syncs = 0, 0
    while done < sizes[-1]:
        begun_s = time.perf_counter()
        count = min(transaction, STEP - done % STEP)
        database.execute("begin")
        database.executemany("insert into receipts (receipt) values (?)", islice(endless, count))
        database.execute("commit")
        answer_ms.append((time.perf_counter() - begun_s) * 1e3)
        done += count
        syncs += 1
        if done % STEP == 0:
            clocks.note(done, sizes)
    database.close()
    return Outcome.of(clocks, sizes, answer_ms, syncs)


def measure(sizes: tuple[int, ...], tenants: int) -> dict[str, Any]:
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
    flatness = ours.cost_us[sizes[-1]] / ours.cost_us[sizes[0]]
    return {
        "tenants": tenants,
        "stored_bytes": round(statistics.fmean(map(len, rows))),
        "request": REQUEST,
        "requests_in_flight": REQUESTS_IN_FLIGHT,
        "durability": "fdatasync",
        "peer": "SQLite WAL synchronous=FULL",
        "sizes": [
            {
                "receipts": size,
                "ours_us": round(ours.cost_us[size], 2),
                "ours_cpu_us": round(ours.cpu_us[size], 2),
                "ours_rss_mb": round(ours.rss_mb[size]),
                "peer_us": round(peer.cost_us[size], 2),
                "peer_cpu_us": round(peer.cpu_us[size], 2),
                "peer_rss_mb": round(peer.rss_mb[size]),
            }
            for size in sizes
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
        "paced_ms_p99": round(quantile(paced_ms, 0.99), 2),
        "target_paced_ms_p99": TARGET_P99_MS,
        "flatness": round(flatness, 2),
        "flatness_cpu": round(ours.cpu_us[sizes[-1]] / ours.cpu_us[sizes[0]], 2),
        "peer_flatness": round(peer.cost_us[sizes[-1]] / peer.cost_us[sizes[0]], 2),
        "target_per_s": TARGET_PER_S,
        "target_flatness": TARGET_FLATNESS,
        "ok": ours.per_s >= TARGET_PER_S and flatness <= TARGET_FLATNESS and quantile(paced_ms, 0.99) <= TARGET_P99_MS,
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
    lines += [
        f"{one['receipts']:>10,} receipts: {one['ours_us']:6.2f} µs each ({one['ours_cpu_us']:.2f} of CPU), "
        f"{one['ours_rss_mb']} MB; SQLite {one['peer_us']:6.2f} µs ({one['peer_cpu_us']:.2f}), {one['peer_rss_mb']} MB"
        for one in report["sizes"]
    ]
    lines.append(
        f"the last over the first: {report['flatness']} (CPU {report['flatness_cpu']}), target at most "
        f"{TARGET_FLATNESS}; SQLite {report['peer_flatness']}"
    )
    lines.append(
        f"at {TARGET_PER_S:,}/s, a request of {PACED_REQUEST} is answered in {report['paced_ms_p50']} ms (p50), "
        f"{report['paced_ms_p99']} ms (p99), target p99 at most {TARGET_P99_MS:g} ms"
    )
    print_report({"benchmark": "append", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
