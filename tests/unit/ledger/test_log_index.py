"""Receipts are found by index and by tenant, whether their places are in memory, in the archive or nowhere yet."""

import asyncio
import errno
import gc
import random
import sqlite3
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledger_scenes import NAME, draft, running, segments, write_log

from ledger.appender import Ledger
from ledger.archive import INDEX_FILE, Archive
from ledger.draft import Limits
from ledger.durable import POSIX, PosixDisk
from ledger.errors import ReceiptNotFoundError, SegmentCorruptError
from ledger.format.canonical import decode
from ledger.identity import partition_folder
from ledger.index import SealedSegment, SealedSegments, SegmentKey

SMALL = Limits(segment_bytes=4_000)
TENANTS = 3
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


async def expect_all(ledger: Ledger, receipts: int) -> None:
    """Every receipt is found by index, and each tenant's in pages from any point."""
    leaves = [decode((await ledger.read(index)).leaf) for index in range(receipts)]
    assert [leaf.event_id for leaf in leaves] == [f"e-{number}" for number in range(receipts)]
    rng = random.Random(receipts)
    for number in range(TENANTS):
        mine = [index for index, leaf in enumerate(leaves) if leaf.tenant == ledger.pseudonym(f"t{number}")]
        for after, limit in [(-1, 1_000), *((rng.randrange(-1, receipts), rng.randrange(1, 9)) for _ in range(5))]:
            page = await ledger.tenant_receipts(f"t{number}", after, limit)
            assert [one.index for one in page] == [index for index in mine if index > after][:limit]


async def archived(ledger: Ledger) -> None:
    """Wait until the archive has all sealed segments."""
    async with asyncio.timeout(30):
        while ledger._index._waiting or ledger._index._busy:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


async def held_at_rest(ledger: Ledger) -> int:
    """Bytes that are traced once everything is archived."""
    await archived(ledger)
    ledger.take_hashes()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def on_disk(data_dir: Path) -> Path:
    return partition_folder(data_dir, 0) / INDEX_FILE


def archive_of(data_dir: Path) -> Archive:
    return Archive(on_disk(data_dir), partition_folder(data_dir, 0), POSIX)


async def test_receipts_are_found_while_the_log_grows_and_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SMALL) as ledger:
        for number in range(60):
            await ledger.wait_local(ledger.append(draft(number, tenant=f"t{number % TENANTS}")))
            if number % 20 == 7:
                await expect_all(ledger, number + 1)
        assert len(segments(tmp_path)) > 5
        await archived(ledger)
        await expect_all(ledger, 60)
    for _ in range(2):
        ledger = Ledger.open(
            tmp_path, entropy=random.randbytes, writer="w", encode_state=bytes, name=NAME, limits=SMALL
        )  # fmt: skip
        run = asyncio.create_task(ledger.run())
        await expect_all(ledger, 60)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        assert on_disk(tmp_path).exists()


async def test_memory_keeps_no_places_of_archived_segments(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(segment_bytes=400_000)) as ledger:

        async def append(count: int) -> int:
            for number in range(count):
                ledger.append(draft(number, tenant=f"t{number % TENANTS}"))
                if number % 100 == 99:
                    await ledger.wait_local(ledger.size - 1)
            await ledger.seal()
            held = await held_at_rest(ledger)
            assert ledger._index._live == []
            return held

        await append(500)
        tracemalloc.start()
        try:
            before = await append(500)
            after = await append(3_000)
        finally:
            tracemalloc.stop()
        assert after - before < 3_000 * 8, "less than a number for each receipt"


async def test_memory_grows_by_no_more_than_columns_with_the_segments(tmp_path: Path) -> None:
    async with running(tmp_path, archive=archive_of_new(tmp_path)) as ledger:

        async def seal(segments: int) -> int:
            for number in range(segments):
                ledger.append(draft(number, tenant=f"t{number % TENANTS}"))
                await ledger.seal()
            return await held_at_rest(ledger)

        tracemalloc.start()
        try:
            before = await seal(300)
            after = await seal(200)
        finally:
            tracemalloc.stop()
        assert after - before < 200 * 120


@given(st.lists(st.tuples(U64, U64, U32, st.binary(min_size=32, max_size=32), U64), max_size=8), st.data())
def test_columns_are_the_segments_that_were_put_in(
    rows: list[tuple[int, int, int, bytes, int]], data: st.DataObject
) -> None:
    folder = Path("ledger")
    put_in = [
        SealedSegment(folder, SegmentKey(first_index, epoch), sha256, count, size)
        for first_index, epoch, count, sha256, size in rows
    ]
    columns = SealedSegments(folder, put_in)
    assert list(columns) == put_in
    part = data.draw(st.slices(len(put_in)))
    assert columns[part] == put_in[part]
    for count in range(len(put_in) + 1):
        assert list(columns.without_first(count)) == put_in[count:]
    for at in range(-len(put_in), len(put_in)):
        assert columns[at] == put_in[at]
    with pytest.raises(IndexError):
        columns[len(put_in)]


@pytest.mark.parametrize("spoil", ["remove", "rubbish", "cut", "flip", "version", "folder"])
async def test_a_lost_or_spoiled_archive_costs_time_and_no_answer(tmp_path: Path, spoil: str) -> None:
    path = on_disk(tmp_path)
    async with running(tmp_path, limits=SMALL, archive=archive_of_new(tmp_path)) as ledger:
        for number in range(40):
            await ledger.wait_local(ledger.append(draft(number, tenant=f"t{number % TENANTS}")))
        await archived(ledger)
    data = path.read_bytes()
    match spoil:
        case "remove":
            path.unlink()
        case "rubbish":
            path.write_bytes(random.Random(1).randbytes(len(data)))
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            spoiled = bytearray(data)
            for at in range(150, len(data), 997):
                spoiled[at] ^= 0x40
            path.write_bytes(spoiled)
        case "version":
            with sqlite3.connect(path) as db:
                db.execute("PRAGMA user_version = 99")
            db.close()
        case _:
            path.unlink()
            path.mkdir()
    async with running(tmp_path, limits=SMALL, archive=archive_of(tmp_path)) as ledger:
        await expect_all(ledger, 40)
        ledger.append(draft(40, tenant="t1"))
        await ledger.seal()
        await archived(ledger)
        await expect_all(ledger, 41)


async def test_wrong_rows_are_noticed_and_made_anew(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SMALL, archive=archive_of_new(tmp_path)) as ledger:
        for number in range(40):
            await ledger.wait_local(ledger.append(draft(number, tenant=f"t{number % TENANTS}")))
        await archived(ledger)
    for wrong in (
        "UPDATE owners SET tags = substr(tags, 9) || substr(tags, 1, 8)",
        "UPDATE places SET offsets = zeroblob(length(offsets))",
        "UPDATE owners SET first_index = -first_index",
        "UPDATE segments SET sha256 = zeroblob(32)",
        "DELETE FROM owners",
        "DELETE FROM places",
    ):
        with sqlite3.connect(on_disk(tmp_path)) as db:
            db.execute(wrong)
        db.close()
        async with running(tmp_path, limits=SMALL, archive=archive_of(tmp_path)) as ledger:
            await expect_all(ledger, 40)


async def test_an_archive_of_another_log_is_not_believed(tmp_path: Path) -> None:
    for name, tenants in (("a", 2), ("b", TENANTS)):
        archive = archive_of_new(tmp_path / name)
        await write_log(tmp_path / name, [1] * 30, tenants=tenants, limits=SMALL, archive=archive)
    on_disk(tmp_path / "a").rename(on_disk(tmp_path / "b"))
    async with running(tmp_path / "b", archive=archive_of(tmp_path / "b")) as ledger:
        await expect_all(ledger, 30)


async def test_a_rotten_segment_is_reported_by_whoever_needs_it_and_by_nobody_else(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    async with running(tmp_path) as ledger:
        await archived(ledger)
        rotten = ledger.sealed_since(0)[1]
        data = bytearray(rotten.path.read_bytes())
        data[200] ^= 1
        rotten.path.write_bytes(data)
        ledger._index._archive._forget(rotten.first_index)
        await ledger.read(0)
        await ledger.read(19)
        with pytest.raises(SegmentCorruptError) as caught:
            await ledger.read(rotten.first_index)
        assert caught.value.path == rotten.path
        with pytest.raises(SegmentCorruptError):
            await ledger.tenant_receipts("t0", -1, 100)


async def test_a_removal_that_failed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were they left, and those behind them removed, the log would have a hole."""
    await write_log(tmp_path, [1] * 40, limits=SMALL)
    async with running(tmp_path, limits=SMALL) as ledger:
        gone = ledger._index.sealed[:3]

        def fail(self: PosixDisk, folder: Path) -> None:
            raise OSError(errno.EIO, "fails", folder)

        with monkeypatch.context() as failing:
            failing.setattr(PosixDisk, "sync_names", fail)
            with pytest.raises(OSError, match="fails"):
                await ledger.drop_below(gone[1].end)
        assert any(one.path.exists() for one in gone[:2])
        await ledger.drop_below(gone[2].end)
        assert not any(one.path.exists() for one in gone)


@pytest.mark.parametrize("is_archived", [True, False])
async def test_what_was_dropped_is_not_found_and_the_rest_is(tmp_path: Path, is_archived: bool) -> None:
    await write_log(tmp_path, [1] * 40, limits=SMALL)
    async with running(tmp_path, limits=SMALL, archive=archive_of(tmp_path)) as ledger:
        if is_archived:
            await archived(ledger)
        gone = ledger._index.sealed[:2]
        kept = gone[-1].end
        assert await ledger.drop_below(kept) == 2
        assert await ledger.drop_below(kept) == 0
        assert ledger.kept_from == kept
        assert not any(one.path.exists() for one in gone)
        with pytest.raises(ReceiptNotFoundError):
            await ledger.read(kept - 1)
        assert (await ledger.read(kept)).index == kept
        assert (await ledger.tenant_receipts("t0", -1, 100))[0].index in {kept, kept + 1}
        await ledger.wait_local(ledger.append(draft(40, tenant="t0")))
        await archived(ledger)
        found = [one.index for one in await ledger.tenant_receipts("t0", -1, 100)]
        assert found == [*range(kept + kept % 2, 40, 2), 40]
    rows = sqlite3.connect(on_disk(tmp_path)).execute("SELECT min(first_index) FROM segments").fetchone()
    assert rows == (kept,)


async def test_a_reader_who_has_its_places_already_is_overtaken_by_a_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that was found may be gone before it is read."""
    await write_log(tmp_path, [1] * 40, limits=SMALL)
    async with running(tmp_path, limits=SMALL) as ledger:
        index = ledger._index
        kept = index.sealed[1].end
        pseudonym = ledger.pseudonym("t0")
        dropping = threading.Event()
        find = index._archive.places_of

        def drop_after(*args: Any) -> Any:
            found = find(*args)
            if not dropping.is_set():
                dropping.set()
                loop.call_soon_threadsafe(asyncio.ensure_future, ledger.drop_below(kept))
                while index.sealed[0].path.parent.joinpath(first).exists():
                    time.sleep(0.001)
            return found

        loop, first = asyncio.get_running_loop(), index.sealed[0].path.name
        monkeypatch.setattr(index._archive, "places_of", drop_after)
        found = await asyncio.to_thread(index.read_chain, pseudonym, -1, 100, 40)
        assert dropping.is_set()
        assert found[0].index >= kept


def archive_of_new(data_dir: Path) -> Archive:
    partition_folder(data_dir, 0).mkdir(parents=True)
    return archive_of(data_dir)
