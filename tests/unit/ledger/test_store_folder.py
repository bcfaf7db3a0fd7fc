"""What is particular to the folder: plain files, hard links, locks, and processes that die or hang."""

import asyncio
import errno
import fcntl
import itertools
import multiprocessing
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ledger import durable
from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.folder import FolderStore
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FolderStore]:
    store = FolderStore(tmp_path / "store", timeout_s=5.0)
    yield store
    await store.close()


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "0.seg"
    path.write_bytes(b"a segment")
    return path


# Files


async def test_an_object_is_a_plain_file_at_its_key(store: FolderStore) -> None:
    await store.put("0/tile/0/000", b"\x00tile", if_generation=CREATE)
    assert (store.root / "0/tile/0/000").read_bytes() == b"\x00tile"


async def test_a_file_is_linked_not_copied(store: FolderStore, segment: Path) -> None:
    await store.put_file("0/seg/0", segment)
    assert (store.root / "0/seg/0").samefile(segment)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
async def test_a_file_that_cannot_be_linked_is_copied(
    store: FolderStore, segment: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if source == segment:
            raise OSError(code, "no link")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    won = await store.put_file("0/seg/0", segment)
    assert isinstance(won, Won)
    assert not (store.root / "0/seg/0").samefile(segment)
    assert await store.get("0/seg/0") == Object(b"a segment", won.generation)


async def test_one_file_may_come_back_under_its_key_with_a_new_generation(store: FolderStore, segment: Path) -> None:
    first = _won(await store.put_file("0/seg/0", segment))
    await store.delete("0/seg/0")
    again = _won(await store.put_file("0/seg/0", segment))
    assert again > first
    assert await store.get("0/seg/0") == Object(b"a segment", again)


async def test_deleting_leaves_no_empty_folders(store: FolderStore) -> None:
    await store.put("0/tile/0/000.p/5", b"x", if_generation=CREATE)
    await store.put("0/checkpoint", b"x", if_generation=CREATE)
    await store.delete("0/tile/0/000.p/5")
    assert sorted(path.name for path in (store.root / "0").iterdir()) == ["checkpoint"]


async def test_a_key_cannot_be_a_folder_too(store: FolderStore) -> None:
    await store.put("a/b", b"x", if_generation=CREATE)
    assert await store.get("a") is None
    with pytest.raises(StoreRefusedError, match="folder of other objects"):
        await store.put("a", b"x", if_generation=CREATE)
    with pytest.raises(StoreRefusedError):
        await store.put("a/b/c", b"x", if_generation=CREATE)
    assert await store.get("a/b/c") is None
    assert await store.list("") == ["a/b"]


async def test_files_of_others_in_the_folder_are_no_objects(store: FolderStore) -> None:
    await store.put("0/a", b"x", if_generation=CREATE)
    (store.root / "0" / ".hidden").touch()
    (store.root / "0" / "a copy").touch()
    assert await store.list("") == ["0/a"]


async def test_whoever_touches_an_object_by_hand_makes_its_writer_lose(store: FolderStore) -> None:
    generation = _won(await store.put("0/a", b"x", if_generation=CREATE))
    os.utime(store.root / "0/a", ns=(1, (generation + 5) * 1000))
    assert await store.put("0/a", b"y", if_generation=generation) == Lost(generation + 5)


async def test_a_clock_that_went_back_does_not_turn_generations_back(store: FolderStore) -> None:
    _won(await store.put("0/a", b"x", if_generation=CREATE))
    ahead_us = 4_000_000_000_000_000
    os.utime(store.root / "0/a", ns=(1, ahead_us * 1000))
    assert await store.put("0/a", b"y", if_generation=ahead_us) == Won(ahead_us + 1)
    await store.delete("0/a")
    assert await store.put("0/a", b"z", if_generation=CREATE) == Won(ahead_us + 2)


async def test_a_file_of_the_year_1970_has_a_generation_too(store: FolderStore, segment: Path) -> None:
    os.utime(segment, ns=(0, 0))
    assert _won(await store.put_file("0/seg/0", segment)) > CREATE


def test_a_file_system_with_coarse_times_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda path, ns: utime(path, ns=tuple(t // 10**9 * 10**9 for t in ns)))
    with pytest.raises(StoreRefusedError, match="microsecond"):
        FolderStore(tmp_path)


def test_a_folder_that_cannot_be_is_refused(segment: Path) -> None:
    with pytest.raises(StoreRefusedError, match="cannot be used as an object store"):
        FolderStore(segment / "store")


# Durability


async def test_an_object_is_durable_before_it_is_won(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    trace: list[str] = []
    fsync, link, fsync_folder = os.fsync, os.link, durable.fsync_folder

    def note(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any) -> None:
            call(*args)
            trace.append(name)

        return noted

    await store.put("0/a", b"x", if_generation=CREATE)
    monkeypatch.setattr(os, "fsync", note("fsync", fsync))
    monkeypatch.setattr(os, "link", note("link", link))
    monkeypatch.setattr(durable, "fsync_folder", note("folder", fsync_folder))
    await store.put("0/b", b"x", if_generation=CREATE)
    assert trace == ["fsync", "link", "fsync", "folder"]


async def test_a_folder_that_cannot_be_synced_is_refused_and_its_object_never_shown(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there for everybody to see, and would be gone after a power cut."""
    await store.put("0/a", b"x", if_generation=CREATE)

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "broken", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "fsync_folder", fail)
        with pytest.raises(StoreRefusedError, match="broken"):
            await store.put("0/b", b"x", if_generation=CREATE)
    with pytest.raises(StoreRefusedError, match="could not be made durable"):
        await store.get("0/b")


async def test_what_lands_after_its_deadline_is_not_shown_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path, timeout_s=0.2)
    await store.put("0/a", b"x", if_generation=CREATE)
    go_on, synced, fsync_folder = threading.Event(), threading.Event(), durable.fsync_folder

    def slow(path: Path) -> None:
        go_on.wait(30.0)
        fsync_folder(path)
        synced.set()

    monkeypatch.setattr(durable, "fsync_folder", slow)
    assert isinstance(await store.put("0/b", b"y", if_generation=CREATE), Unknown)
    with pytest.raises(StoreUnavailableError):
        await store.get("0/b")
    assert await store.get("0/a") is not None
    go_on.set()
    assert await asyncio.to_thread(synced.wait, 10.0)
    found = await store.get("0/b")
    assert found is not None
    assert found.data == b"y"
    await store.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
async def test_a_full_disk_is_unknown_and_passes(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(fd: int) -> None:
        raise OSError(code, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert isinstance(await store.put("0/a", b"x", if_generation=CREATE), Unknown)
    assert await store.get("0/a") is None
    assert isinstance(await store.put("0/a", b"x", if_generation=CREATE), Won)


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
async def test_a_broken_disk_is_refused(store: FolderStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def broken(fd: int) -> None:
        raise OSError(code, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreRefusedError, match="broken"):
            await store.put("0/a", b"x", if_generation=CREATE)


async def test_a_failed_write_leaves_no_file_behind(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreRefusedError):
            await store.put("0/a", b"x", if_generation=CREATE)
    assert [path for path in (store.root / ".store/tmp").rglob("*") if path.is_file()] == []


# Processes


async def test_what_a_dead_process_left_is_swept_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    alive = FolderStore(tmp_path)
    dead = tmp_path / ".store/tmp/dead"
    dead.mkdir()
    (dead / "0").write_bytes(b"half an obj")
    other = FolderStore(tmp_path)
    assert not dead.exists()
    assert isinstance(await alive.put("0/a", b"x", if_generation=CREATE), Won)
    await other.close()
    await alive.close()
    assert list((tmp_path / ".store/tmp").iterdir()) == []


async def test_a_frozen_process_that_holds_the_lock_freezes_nobody(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, timeout_s=1.0)
    generation = _won(await store.put("0/a", b"x", if_generation=CREATE))
    # On a busy machine the whole call may be over before the thread has told why.
    why = "held by another process|no answer"
    with _held(tmp_path / ".store/0.lock"):
        outcome = await store.put("0/a", b"y", if_generation=generation)
        assert isinstance(outcome, Unknown)
        assert re.search(why, outcome.reason)
        with pytest.raises(StoreUnavailableError, match=why):
            await store.delete("0/a")
        assert await store.get("0/a") == Object(b"x", generation)
        assert await store.list("") == ["0/a"]
        assert isinstance(await store.put("1/a", b"x", if_generation=CREATE), Won), "another partition"
    # Under the same lock, and not the key that those who were not answered may still write and delete.
    assert isinstance(await store.put("0/b", b"y", if_generation=CREATE), Won)
    await store.close()


def test_processes_that_count_together_lose_no_step(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50.0)
        assert process.exitcode == 0

    async def read() -> Object | None:
        store = FolderStore(tmp_path)
        found = await store.get("0/n")
        await store.close()
        return found

    found = asyncio.run(read())
    assert found is not None
    assert found.data == b"60"


def test_a_process_killed_at_any_moment_leaves_whole_objects_and_no_rest(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_write_until_killed, args=(tmp_path, sender))
        process.start()
        sender.close()
        won = [receiver.recv() for _ in range(10)]
        process.kill()
        process.join(10.0)
        with suppress(EOFError):
            while True:
                won.append(receiver.recv())
        receiver.close()
        found, names = asyncio.run(_look(tmp_path))
        assert found is not None
        assert found.generation >= won[-1]
        assert len(set(found.data)) == 1
        assert len(found.data) == 50_000
        assert names == []


async def _look(folder: Path) -> tuple[Object | None, list[str]]:
    store = FolderStore(folder)
    found = await store.get("0/a")
    await store.close()
    return found, [entry.name for entry in os.scandir(folder / ".store/tmp")]


def _write_until_killed(folder: Path, sender: Connection) -> None:
    async def write() -> None:
        store = FolderStore(folder)
        found = await store.get("0/a") or Object(b"", CREATE)
        generation = found.generation
        for letter in itertools.cycle(range(256)):
            generation = _won(await store.put("0/a", bytes([letter]) * 50_000, if_generation=generation))
            sender.send(generation)

    asyncio.run(write())


def _count(folder: Path, steps: int) -> None:
    async def climb(steps: int) -> None:
        store = FolderStore(folder)
        while steps:
            found = await store.get("0/n") or Object(b"0", CREATE)
            outcome = await store.put("0/n", b"%d" % (int(found.data) + 1), if_generation=found.generation)
            steps -= isinstance(outcome, Won)
        await store.close()

    asyncio.run(climb(steps))


async def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.close()
    await store.close()


@contextmanager
def _held(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def _won(outcome: PutOutcome) -> int:
    assert isinstance(outcome, Won), outcome
    return outcome.generation
