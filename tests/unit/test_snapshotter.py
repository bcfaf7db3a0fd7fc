"""Snapshots are made by a process of its own, when there is enough to put into one, and a start goes on from them."""

import asyncio
import contextlib
import math
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.runtime import LAPTOP, World, running, send, until

from governors import snapshotter
from governors.snapshotter import RECEIPTS_EVERY, RECEIPTS_MAX, Snapshotter, make_snapshot
from ledger.errors import NotALedgerError
from ledger.identity import PartitionLock, partition_folder


class Log:
    sealed_size = 0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "PAUSE_FACTOR", "PAUSE_MIN_S", "RETRY_S", "RETRY_MAX_S"):
        monkeypatch.setattr(snapshotter, name, 0.001)


@contextlib.asynccontextmanager
async def snapshots(
    monkeypatch: pytest.MonkeyPatch, log: Log, folder: Path, script: str, every_s: float = math.inf
) -> AsyncIterator[None]:
    """A snapshotter whose process is a shell script, run in the folder."""
    monkeypatch.setattr(snapshotter, "snapshot_command", lambda *_: ["/bin/sh", "-c", f"cd {folder}; {script}"])
    task = asyncio.create_task(Snapshotter(folder, 0, log, 100, random.Random(1), asyncio.Lock(), every_s).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def runs_in(folder: Path) -> Callable[[], int]:
    return lambda: (folder / "runs").read_text().count("run") if (folder / "runs").exists() else 0


async def test_a_snapshot_is_made_when_enough_was_sealed_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, runs = Log(), runs_in(tmp_path)
    async with snapshots(monkeypatch, log, tmp_path, "echo run >> runs"):
        log.sealed_size = 99 + RECEIPTS_EVERY
        await asyncio.sleep(0.05)
        assert runs() == 0
        log.sealed_size += 1
        await until(lambda: runs() == 1)
        log.sealed_size += RECEIPTS_EVERY - 1
        await asyncio.sleep(0.05)
        assert runs() == 1
        log.sealed_size += 1
        await until(lambda: runs() == 2)


async def test_a_snapshot_of_a_single_receipt_is_made_once_the_last_one_is_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, runs = Log(), runs_in(tmp_path)
    async with snapshots(monkeypatch, log, tmp_path, "echo run >> runs", every_s=0.02):
        await asyncio.sleep(0.05)
        assert runs() == 0
        log.sealed_size = 101
        await until(lambda: runs() == 1)
        await asyncio.sleep(0.05)
        assert runs() == 1


async def test_a_pause_is_cut_short_when_very_much_was_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshotter, "PAUSE_MIN_S", 3_600.0)
    log, runs = Log(), runs_in(tmp_path)
    async with snapshots(monkeypatch, log, tmp_path, "echo run >> runs"):
        log.sealed_size = 100 + RECEIPTS_EVERY
        await until(lambda: runs() == 1)
        log.sealed_size += RECEIPTS_MAX - 1
        await asyncio.sleep(0.05)
        assert runs() == 1
        log.sealed_size += 1
        await until(lambda: runs() == 2)


async def test_a_snapshot_that_fails_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, runs = Log(), runs_in(tmp_path)
    log.sealed_size = 10 * RECEIPTS_EVERY
    script = "echo run >> runs; echo no room >&2; test `wc -l < runs` -gt 2"
    with capture_logs() as said:
        async with snapshots(monkeypatch, log, tmp_path, script):
            await until(lambda: runs() == 3)
    assert [entry["reason"] for entry in said] == ["no room"] * 2


async def test_a_snapshot_that_cannot_be_begun_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.sealed_size = 10 * RECEIPTS_EVERY
    monkeypatch.setattr(snapshotter, "snapshot_command", lambda *_: [str(tmp_path / "nothing")])
    with capture_logs() as said:
        task = asyncio.create_task(Snapshotter(tmp_path, 0, log, 0, random.Random(1), asyncio.Lock()).run())
        await until(lambda: len(said) > 1)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_partitions_of_a_worker_have_theirs_made_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, runs, turn = Log(), runs_in(tmp_path), asyncio.Lock()
    log.sealed_size = RECEIPTS_EVERY
    script = f"cd {tmp_path}; echo begun >> course; sleep 0.05; echo ended >> course; echo run >> runs"
    monkeypatch.setattr(snapshotter, "snapshot_command", lambda *_: ["/bin/sh", "-c", script])
    rng = random.Random(1)
    tasks = [asyncio.create_task(Snapshotter(tmp_path, number, log, 0, rng, turn).run()) for number in range(3)]
    await until(lambda: runs() == 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (tmp_path / "course").read_text() == "begun\nended\n" * 3


@contextlib.asynccontextmanager
async def under_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """While a process makes a snapshot for ever: its number."""
    log, pid = Log(), folder / "pid"
    log.sealed_size = 10 * RECEIPTS_EVERY
    async with snapshots(monkeypatch, log, folder, "echo $$ > pid.new; mv pid.new pid; exec sleep 60"):
        await until(pid.exists)
        yield int(pid.read_text())


async def test_everything_else_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with under_way(tmp_path, monkeypatch) as pid:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        await until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + 10))


async def test_the_process_ends_with_whoever_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with under_way(tmp_path, monkeypatch) as pid:
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_service_goes_on_from_a_snapshot_as_from_its_whole_log(tmp_path: Path) -> None:
    world = World()
    settings = LAPTOP
    async with running(tmp_path, world, settings) as runtime:
        await send(runtime, *[world.queue(depth, signal_id=f"q{depth}") for depth in range(30)])
        await send(runtime, world.spend("990.00", tenant="globex", signal_id="c1"))
    made = make_snapshot(tmp_path, 0)
    assert made is not None
    assert make_snapshot(tmp_path, 0) is None, "there is nothing new"
    async with running(tmp_path, world, settings) as runtime:
        assert runtime.ledger.recovered.snapshot_size == runtime.ledger.size > 30
        after = await send(runtime, world.queue(1, signal_id="q30"), world.queue(29, signal_id="q29"))
        assert [outcome.outcome for outcome in after] == ["decided", "duplicate"]
        through_snapshot = (runtime.window.state(), [runtime.registry.view(name) for name in runtime.registry.names()])
    made.unlink()
    async with running(tmp_path, world, settings) as runtime:
        assert runtime.ledger.recovered.snapshot_size == 0
        from_log = (runtime.window.state(), [runtime.registry.view(name) for name in runtime.registry.names()])
    assert through_snapshot == from_log


async def test_one_process_at_a_time_makes_snapshots(tmp_path: Path) -> None:
    async with running(tmp_path, World()):
        pass
    lock = PartitionLock.acquire(partition_folder(tmp_path, 0), snapshotter.LOCK_FILE)
    assert make_snapshot(tmp_path, 0) is None
    lock.release()
    assert make_snapshot(tmp_path, 0) is not None


async def test_the_command_makes_a_snapshot_while_the_service_runs(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.queue(1))
        await runtime.ledger.seal()
        process = await asyncio.create_subprocess_exec(*snapshotter.snapshot_command(tmp_path, 0))
        assert await process.wait() == 0
        await send(runtime, world.queue(2))
    async with running(tmp_path, world) as runtime:
        assert 0 < runtime.ledger.recovered.snapshot_size < runtime.ledger.size
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "governors", "ledger", "snapshot", "--data-dir", str(tmp_path / "nothing")],
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert (process.returncode, b"holds no ledger" in said) == (2, True)


def test_a_folder_without_a_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotALedgerError):
        make_snapshot(tmp_path, 0)
