"""Three real workers under load lose each other, the bucket, Pub/Sub and their lives, and no signal.

`make chaos` runs all of it at 1,000 signals a second; `make test` the first at a rate that leaves room for others. What
a takeover took is printed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from support.emulator import skip_or_fail
from support.fleet import BUCKET, Fleet, Worker
from support.load import Sender
from support.pubsub import Bench, clock_us
from support.service import decided_ids
from support.sim_gcs import SimGcs

from benchmarks.pubsub import count_receipts, make_load
from benchmarks.support_emulator import EmulatorMissingError, PubSubEmulator, find_jar
from ingest.pubsub import open_channel
from ledger.fsck import verify_log

ALL = os.environ.get("CHAOS") == "all"
RATE_PER_S = 1_000.0 if ALL else 200.0
SIGNALS_MAX = 200_000 if ALL else 60_000
GOES_ON = int(RATE_PER_S * 2)
"""Receipts, after which something is taken to go on."""

Fault = Callable[[Fleet], Awaitable[float]]
"""Does harm and repairs it; how long it took until receipts were committed again, in seconds."""


def freeze(worker: Worker) -> None:
    os.kill(worker.process.pid, signal.SIGSTOP)


def thaw(worker: Worker) -> None:
    os.kill(worker.process.pid, signal.SIGCONT)


def names_of(fleet: Fleet, *workers: Worker) -> list[str]:
    return [name for name, one in fleet.workers.items() if one in workers]


async def kill_the_owner(fleet: Fleet) -> float:
    owner, epoch = await fleet.owner(), fleet.committed().epoch
    owner.process.kill()
    took_s = await fleet.commits(after_epoch=epoch)
    await fleet.start(*names_of(fleet, owner))
    return took_s


async def kill_two(fleet: Fleet) -> float:
    owner, epoch = await fleet.owner(), fleet.committed().epoch
    other = next(one for one in fleet.workers.values() if one is not owner)
    killed = names_of(fleet, owner, other)
    owner.process.kill()
    other.process.kill()
    took_s = await fleet.commits(after_epoch=epoch)
    for name in killed:
        await fleet.start(name)
    return took_s


async def kill_all(fleet: Fleet) -> float:
    for worker in fleet.workers.values():
        worker.process.kill()
    begun_s, epoch = time.monotonic(), fleet.committed().epoch
    for name in list(fleet.workers):
        await fleet.start(name)
    await fleet.commits(after_epoch=epoch)
    return time.monotonic() - begun_s


async def add_one(fleet: Fleet) -> float:
    await fleet.start("d")
    return await fleet.commits()


async def stop_the_owner_in_order(fleet: Fleet) -> float:
    owner, epoch = await fleet.owner(), fleet.committed().epoch
    assert await asyncio.to_thread(owner.process.stop) == 0
    took_s = await fleet.commits(after_epoch=epoch)
    await fleet.start(*names_of(fleet, owner))
    return took_s


async def freeze_and_thaw_the_owner(fleet: Fleet) -> float:
    owner, epoch = await fleet.owner(), fleet.committed().epoch
    freeze(owner)
    took_s = await fleet.commits(after_epoch=epoch)
    await fleet.commits(GOES_ON)
    thaw(owner)
    assert await asyncio.to_thread(owner.process.wait, 60.0) == 1, "it is fenced"
    await fleet.start(*names_of(fleet, owner))
    return took_s


async def cut_the_owner_from_the_bucket(fleet: Fleet) -> float:
    owner, epoch = await fleet.owner(), fleet.committed().epoch
    await owner.store.cut()
    took_s = await fleet.commits(after_epoch=epoch)
    await owner.store.mend()
    assert await asyncio.to_thread(owner.process.wait, 60.0) == 1, "it is fenced"
    await fleet.start(*names_of(fleet, owner))
    return took_s


async def cut_everybody_from_the_bucket(fleet: Fleet) -> float:
    for worker in fleet.workers.values():
        await worker.store.cut()
    await asyncio.sleep(10.0)  # twice the lease: nobody may answer any more
    for worker in fleet.workers.values():
        await worker.store.mend()
    took_s = await fleet.commits()
    await start_those_that_ended(fleet)
    return took_s


async def cut_the_owner_from_pubsub(fleet: Fleet) -> float:
    owner = await fleet.owner()
    await owner.pubsub.cut()
    async with httpx.AsyncClient(base_url=owner.url, timeout=30.0) as client:
        while not (await client.get("/readyz")).json().get("warnings"):  # noqa: ASYNC110 - it cannot call us
            await asyncio.sleep(0.1)
    await owner.pubsub.mend()
    return await fleet.commits(GOES_ON)


async def slow_bucket(fleet: Fleet) -> float:
    """Each worker's cable is stopped for a second at a time, which requests survive and a lease does not notice."""
    for _ in range(8):
        for worker in fleet.workers.values():
            await worker.store.cut()
        await asyncio.sleep(0.5)
        for worker in fleet.workers.values():
            await worker.store.mend()
        await asyncio.sleep(0.5)
    took_s = await fleet.commits()
    await start_those_that_ended(fleet)
    return took_s


async def rolling_restart(fleet: Fleet) -> float:
    """One after the other, as a StatefulSet does it."""
    slowest_s = 0.0
    for name, worker in list(fleet.workers.items()):
        assert await asyncio.to_thread(worker.process.stop) == 0
        await fleet.start(name)
        slowest_s = max(slowest_s, await fleet.commits())
    return slowest_s


async def start_those_that_ended(fleet: Fleet) -> None:
    for name, worker in list(fleet.workers.items()):
        if worker.process.has_ended:
            await fleet.start(name)


async def decided(fleet: Fleet, sent: set[str]) -> None:
    """All of these have a receipt."""
    owner = await fleet.owner()
    async with asyncio.timeout(120.0), httpx.AsyncClient(base_url=owner.url, timeout=30.0) as client:
        while not sent <= await decided_ids(client):  # noqa: ASYNC110 - it cannot call us
            await asyncio.sleep(0.5)


def restore(gcs: SimGcs, folder: Path) -> None:
    """As an operator gets the log from the bucket alone."""
    command = [sys.executable, "-m", "governors", "restore", f"gs://{BUCKET}/ours", str(folder)]
    env = {**os.environ, "STORAGE_EMULATOR_HOST": gcs.url}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == 0, done.stderr


FAULTS: list[Fault] = [
    kill_the_owner,
    kill_two,
    kill_all,
    add_one,
    stop_the_owner_in_order,
    freeze_and_thaw_the_owner,
    cut_the_owner_from_the_bucket,
    cut_everybody_from_the_bucket,
    cut_the_owner_from_pubsub,
    slow_bucket,
    rolling_restart,
]


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS if ALL else FAULTS[:1], ids=lambda one: one.__name__)
async def test_every_signal_is_decided_once(tmp_path: Path, fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    load = make_load(fault.__name__, SIGNALS_MAX, 100, 0.0, RATE_PER_S, clock_us())
    with PubSubEmulator() as emulator, SimGcs(BUCKET) as gcs:
        channel = await open_channel(emulator.host)
        bench = Bench(channel, "signals")
        await bench.set_up()
        sender = Sender(bench, load.payloads, RATE_PER_S)
        async with Fleet(tmp_path, gcs, emulator.host, bench.name) as fleet:
            await fleet.start("a", "ready")
            await fleet.start("b")
            await fleet.start("c")
            publishing = asyncio.create_task(sender.run(), name="publisher")
            await fleet.commits(GOES_ON)

            took_s = await fault(fleet)
            with capsys.disabled():
                print(f"\n{fault.__name__}: committed again after {took_s:.1f} s", end="")  # noqa: T201 - asked for

            await fleet.commits(GOES_ON)
            publishing.cancel()
            await asyncio.wait([publishing])
            sent = {json.loads(payload)["id"] for payload in load.payloads[: sender.sent]}
            await decided(fleet, sent)
            for worker in fleet.workers.values():
                if not worker.process.has_ended:
                    assert await asyncio.to_thread(worker.process.stop) == 0
            newest = fleet.committed()
        await channel.close()
        restored = tmp_path / "restored"
        await asyncio.to_thread(restore, gcs, restored)

    kept = count_receipts(restored)
    assert sent - kept.keys() == set(), "nothing is lost"
    assert [one for one, count in kept.items() if count > 1] == [], "nothing is decided twice"
    report = verify_log(restored)
    assert report.ok
    assert report.partitions[0].size == newest.size
