"""Where harm is done: an object store, Google's Pub/Sub emulator, a fleet under load; and what must hold afterwards."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest
from support.buckets import serve_named_or_gcs
from support.clocks import find_library
from support.emulator import skip_or_fail
from support.fleet import BUCKET, PARTITIONS, Fleet
from support.heads import replaced
from support.kept import read_receipts
from support.network import Network, why_no_network
from support.pubsub import Bench
from support.steady import Books, Publisher

from benchmarks.support_emulator import EmulatorMissingError, PubSubEmulator, find_jar
from benchmarks.support_process import rss_mb
from governors.telemetry.scrape import series_of, total
from ingest.pubsub import open_channel
from ledger.fsck import verify_log

ALL: Final = os.environ.get("CHAOS") == "all"
RATE_PER_S: Final = int(os.environ.get("CHAOS_RATE") or (1_000 if ALL else 100))
TENANTS: Final = 100
PARTITIONS_FEW: Final = 3
"""Each has leases that are renewed and heads that are looked at, which takes a small machine's time."""
GOES_ON: Final = RATE_PER_S * 2
"""Receipts, after which something is taken to go on."""
SETTLE_S_MAX: Final = 180.0
LOST_SHOWN: Final = 40
RSS_GROWTH_MB_MAX: Final = 100.0
"""A worker may hold so much more after a fault than the one that held most did before. Some 30 MB of it are remembered
ids, of which there are more and more until there are 131,072."""
FENCED: Final = 1


@dataclass
class Stage:
    """A fleet under load."""

    fleet: Fleet
    publisher: Publisher
    folder: Path
    store: str
    prefix: str
    publishing: asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found when all was over; `books` have every receipt of the log in them."""

    books: Books
    rss_mb: dict[str, float]


def need(*, network: bool = False, clocks: bool = False) -> None:
    """Skip the test that calls this where the machine has not what it takes, and say what that is."""
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    if network and (why := why_no_network()):
        pytest.skip(f"no network namespaces: {why}")
    if clocks and find_library() is None:
        assert os.environ.get("CI") != "true", "CI must have libfaketime"
        pytest.skip("no libfaketime: apt-get install libfaketime")


@asynccontextmanager
async def staged(folder: Path, *, clocks: bool = False, workers: str = "abc") -> AsyncIterator[Stage]:
    """Workers of these names, the first of them the owner of a log at once, and signals that come in."""
    prefix = f"{folder.name[:40]}-{os.urandom(4).hex()}"
    async with AsyncExitStack() as stack:
        network = None if why_no_network() else stack.enter_context(Network())
        store = await stack.enter_async_context(serve_named_or_gcs(BUCKET))
        emulator = stack.enter_context(PubSubEmulator())
        channel = await open_channel(emulator.host)
        stack.push_async_callback(channel.close)
        bench = Bench(channel, "signals")
        await bench.set_up()
        publisher = Publisher(bench, RATE_PER_S, TENANTS)
        fleet = Fleet(
            folder, store, prefix, emulator.host, bench.name,
            network=network, clocks=clocks, partitions=PARTITIONS if ALL else PARTITIONS_FEW,
        )  # fmt: skip
        await stack.enter_async_context(fleet)
        await fleet.start(workers[0], "ready")
        await asyncio.gather(*map(fleet.start, workers[1:]))
        publishing = asyncio.create_task(publisher.run(), name="publisher")
        try:
            await fleet.commits(GOES_ON)
            yield Stage(fleet, publisher, folder, store, prefix, publishing)
        finally:
            publishing.cancel()
            await asyncio.wait([publishing])


async def rss_of(fleet: Fleet) -> dict[str, float]:
    """What each living worker holds now, in MB."""
    return {name: round(rss_mb(one.process.pid), 1) for name, one in fleet.living.items()}


async def held_by(fleet: Fleet) -> dict[str, float]:
    """Messages that each worker has pulled and not settled, of those that answer."""
    held = {}
    for name, worker in fleet.living.items():
        with suppress(httpx.HTTPError):
            metrics = series_of((await fleet.client.get(f"{worker.url}/metrics")).text)
            held[name] = total(metrics, "governors_pull_held_messages")
    return held


async def find(stage: Stage) -> Findings:
    """Stop publishing, wait until all is decided, stop everybody in order, and look at the log as the bucket has it.

    Asserts what holds after every fault: each signal has one receipt, what was committed once is still there, no epoch
    begins before another has ended, and the log verifies.
    """
    fleet, publisher = stage.fleet, stage.publisher
    publisher.stop()
    await stage.publishing
    restored = stage.folder / "restored"
    give_up_s = time.monotonic() + SETTLE_S_MAX
    while any((await held_by(fleet)).values()) and time.monotonic() < give_up_s:  # noqa: ASYNC110
        await asyncio.sleep(0.2)  # else what is restored meanwhile takes the time of what must settle
    while (books := await asyncio.to_thread(enter_into_books, stage, restored)).lost:
        if time.monotonic() > give_up_s or not fleet.living:
            fleet.keep_logs()
            said = f"{books.lost} signals are not decided, such as {books.lost_ids(LOST_SHOWN)}"
            raise AssertionError(f"{said}; held: {await held_by(fleet)}; logs in {stage.folder}\n{fleet.said()}")
    rss = await rss_of(fleet)
    for name, worker in fleet.workers.items():
        code = await asyncio.to_thread(worker.process.stop)
        assert code == 0 or (worker.was_harmed and code == FENCED), f"{name} ended with {code}\n{fleet.said()}"
    await fleet.heads.look()
    await fleet.stop_watching()
    books = await asyncio.to_thread(enter_into_books, stage, restored)
    assert books.lost == 0, "signals are lost"
    assert books.decided_twice == 0, "signals are decided twice"
    assert books.foreign == 0, "what was decided was never sent"
    assert books.out_of_epoch == 0, "a writer went on after its epoch had ended"
    assert replaced(restored, fleet.heads.seen) == [], "what was committed once is no longer in the log"
    report = verify_log(restored)
    assert report.ok, report.errors
    sizes = {one.partition: one.size for one in report.partitions}
    assert sizes == {partition: one.size for partition, one in fleet.heads.now.items()}
    return Findings(books, rss)


def enter_into_books(stage: Stage, folder: Path) -> Books:
    """Get the log from the bucket alone, as an operator does, and enter every receipt. It goes on where it was."""
    command = [sys.executable, "-m", "governors", "restore", f"gs://{BUCKET}/{stage.prefix}", str(folder)]
    env = {**os.environ, "STORAGE_EMULATOR_HOST": stage.store}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SETTLE_S_MAX, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    books = Books(stage.publisher.seconds, RATE_PER_S, window_s=1)
    read_receipts(folder, books.add)
    return books
