import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from simulation.loop import run_simulated
from support.machine import TERMS, InlineExecutor, Machine, stored_head
from support.memory_store import LANDED, LATE, NOT_LANDED, MemoryStore

from ledger.authority import HeadTerms
from ledger.committer import Cadence
from ledger.errors import (
    LedgerClosedError,
    LedgerFailedError,
    LogForkedError,
    StoreLockedError,
    WriterFencedError,
)
from ledger.format import canonical
from ledger.format.checkpoint import open_checkpoint
from ledger.format.heads import HeadList, read_statement
from ledger.format.merkle import leaf_hash
from ledger.format.merkle import root_of as root_of_hashes
from ledger.format.note import Verifier
from ledger.format.tiles import TileId, bundles_between, decode_entries, root_of, tile_path, tiles_between
from ledger.fsck import verify_log
from ledger.orphans import GRACE_S, OrphanCollector
from ledger.publisher import PublishCadence, Publisher
from ledger.store.object_store import Object

CHECKPOINT = "0/checkpoint"


def publisher(machine: Machine, heads_every: int = 0, *, entries: bool = True) -> Publisher:
    return Publisher(
        machine.ledger, machine.store, machine.committer, machine.disk,
        clock_us=lambda: 1_700_000_000_000_000, rng=machine.rng,
        cadence=PublishCadence(30.0, heads_every), entries=entries, executor=InlineExecutor(),
    )  # fmt: skip


async def started(folder: Path, store: MemoryStore, name: str = "a", terms: HeadTerms = TERMS) -> Machine:
    return await Machine(name, folder, store, terms=terms, cadence=Cadence(interval_s=0.0)).start()


async def assert_published(machine: Machine, store: MemoryStore, size: int) -> None:
    """The store alone gives the checkpoint, each tile and each leaf."""
    head = await stored_head(store)
    checkpoint = open_checkpoint(store.objects[CHECKPOINT].data, Verifier.parse(head.vkey), machine.ledger.origin)
    assert checkpoint.size == size
    assert root_of(size, lambda tile: store.objects[f"0/{tile_path(tile)}"].data) == checkpoint.root
    for tile in tiles_between(0, size):
        assert len(store.objects[f"0/{tile_path(tile)}"].data) == 32 * tile.width
    leaves = [
        leaf
        for bundle in bundles_between(0, size)
        for leaf in decode_entries(store.objects[f"0/{tile_path(bundle)}"].data, bundle.width)
    ]
    assert leaves == [(await machine.ledger.read(index)).leaf for index in range(size)]
    assert root_of_hashes([leaf_hash(leaf) for leaf in leaves]) == checkpoint.root


def test_what_is_published_step_by_step_is_the_whole_tree(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        out = publisher(one)
        for step in (1, 254, 1, 1, 300, 256, 700):
            await one.commit(step)
            assert await out.publish()
            await assert_published(one, store, one.ledger.size)
        assert not await out.publish()
        assert not [key for key in store.objects if "000.p/" in key and "/1/" not in key]  # removed once full
        await one.stop()

    run_simulated(run())


def test_nothing_is_published_of_a_log_whose_beginning_is_not_here(tmp_path: Path) -> None:
    """Leaves in the wrong places would be signed for as if they were right."""

    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(3)
        await one.commit(4)
        gone = publisher(one)
        gone._log = SimpleNamespace(
            origin=one.ledger.origin, local_size=7, sealed_since=lambda first: one.ledger.sealed_since(max(first, 3))
        )
        with pytest.raises(LogForkedError, match="from 0 on are to be published, and the segments here begin at 3"):
            await gone.publish()
        assert not [key for key in store.objects if "tile" in key or key == CHECKPOINT]
        await one.stop()

    run_simulated(run())


@pytest.mark.parametrize("first", [0, 3, 256, 600])
def test_a_publisher_that_starts_anew_goes_on_where_the_last_one_was(tmp_path: Path, first: int) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        if first:
            await one.commit(first)
        await publisher(one).publish()
        await one.commit(300)
        await publisher(one).publish()
        await assert_published(one, store, first + 300)
        await one.stop()

    run_simulated(run())


@pytest.mark.parametrize("size", [255, 256, 700])
def test_a_log_can_begin_to_publish_bundles_and_cease_to(tmp_path: Path, size: int) -> None:
    """With the next start: what was not published until then is taken from the segments."""

    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(size)
        assert await publisher(one, entries=False).publish()
        assert not [key for key in store.objects if "/entries/" in key]
        await one.commit(300)
        assert await publisher(one).publish()
        bundles = {key for key in store.objects if "/entries/" in key}
        new = [bundle for bundle in bundles_between(size, size + 300) if bundle.width]
        assert bundles == {f"0/{tile_path(bundle)}" for bundle in new}
        first = decode_entries(store.objects[f"0/{tile_path(new[0])}"].data, new[0].width)
        assert first[0] == (await one.ledger.read(new[0].number * 256)).leaf
        await one.commit(600)
        assert await publisher(one, entries=False).publish()
        assert bundles == {key for key in store.objects if "/entries/" in key}
        await one.stop()

    run_simulated(run())


def test_a_publication_costs_no_list_and_no_write_that_is_not_needed(tmp_path: Path) -> None:
    """Each of them is paid for: a partial tile that is as it was stays, and those to remove are known."""

    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        out = publisher(one, entries=False)
        puts: list[str] = []
        store.before_put = lambda key: puts.append(key) if "/tile/" in key or "checkpoint" in key else None

        async def never(prefix: str, after: str = "") -> list[str]:
            raise AssertionError(prefix, after)

        for number in range(40):
            await one.commit(100)
            assert await out.publish()
            if number == 3:  # of a tile that had begun before this publisher did, another may have written parts
                store.list = never  # type: ignore[method-assign]
        assert len(puts) == len(set(puts) - {CHECKPOINT}) + 40
        left = {key.partition(".p/")[0] for key in store.objects if "/tile/0/" in key and ".p/" in key}
        assert left == {"0/tile/0/015"}, "those of the tile that is not full yet"
        await one.stop()

    run_simulated(run())


def test_nothing_is_published_before_it_is_committed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(3)
        out = publisher(one)
        await out.publish()
        store.fail("0/ctl/head", *[LATE] * 50)
        await one.append(700)
        await one.ledger.seal()
        assert not await out.publish()
        assert not [key for key in store.objects if key.startswith("0/tile/0/00") and ".p/" not in key]
        await one.kill()

    run_simulated(run())


@pytest.mark.parametrize("fate", [LANDED, NOT_LANDED])
@pytest.mark.parametrize("key", ["0/tile/0", "0/tile/entries", CHECKPOINT])
def test_faults_of_any_put_are_survived_whether_it_had_landed_or_not(tmp_path: Path, key: str, fate: str) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(300)
        out = publisher(one)
        store.fail(key, fate, fate)
        await out.publish()
        await assert_published(one, store, 300)
        await one.stop()

    run_simulated(run())


def test_a_late_checkpoint_of_a_fenced_writer_does_not_roll_back_the_public_one(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path / "a", store)
        await one.commit(2)
        zombie = publisher(one)
        await zombie.publish()
        await one.commit(2)
        store.fail(CHECKPOINT, LATE, LATE, LATE)
        publishing = asyncio.create_task(zombie.publish())
        await asyncio.sleep(0.2)
        one.link.cut = True
        store.faults.clear()
        two = await started(tmp_path / "b", store, "b")
        await two.commit(2)
        await publisher(two).publish()
        store.land_late_ones()
        await assert_published(two, store, 6)
        one.link.cut = False
        with pytest.raises(WriterFencedError, match="another writer has published 6"):
            await publishing
        await assert_published(two, store, 6)
        await one.kill()
        await two.stop()

    run_simulated(run())


def test_a_late_checkpoint_that_lands_before_the_next_owners_is_replaced_by_it(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path / "a", store)
        await one.commit(2)
        store.fail(CHECKPOINT, LATE)
        publishing = asyncio.create_task(publisher(one).publish())
        await asyncio.sleep(0.2)
        one.link.cut = True
        two = await started(tmp_path / "b", store, "b")
        out = publisher(two)
        await out.publish()
        store.objects.pop(CHECKPOINT)
        store.land_late_ones()
        await two.commit(2)
        await out.publish()
        await assert_published(two, store, 4)
        publishing.cancel()
        await asyncio.wait({publishing})
        await one.kill()
        await two.stop()

    run_simulated(run())


def test_a_tile_with_other_bytes_is_a_fork_and_is_not_written_over(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(256)
        key = f"0/{tile_path(TileId(0, 0, 256))}"
        store.land(key, b"another tree's", 0)
        with pytest.raises(LogForkedError, match="other bytes"):
            await publisher(one).publish()
        assert store.objects[key].data == b"another tree's"
        assert CHECKPOINT not in store.objects
        await one.stop()

    run_simulated(run())


def test_a_log_other_than_the_published_one_takes_and_answers_nothing_more(tmp_path: Path) -> None:
    """What runs above it must not go on while the publisher is started again in vain."""

    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(256)
        store.land(f"0/{tile_path(TileId(0, 0, 256))}", b"another tree's", 0)
        with pytest.raises(LogForkedError) as fork:
            await publisher(one).run()
        assert one.ledger.failed is fork.value
        with pytest.raises(LedgerClosedError, match="other bytes"):
            await one.append()
        with pytest.raises(LedgerFailedError):
            await one.tasks[0]
        await one.kill()

    run_simulated(run())


@pytest.mark.parametrize("spoil", ["changed", "missing"])
def test_a_publisher_does_not_go_on_from_tiles_that_are_not_this_logs(tmp_path: Path, spoil: str) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        await one.commit(5)
        await publisher(one).publish()
        key = f"0/{tile_path(TileId(0, 0, 5))}"
        tile = store.objects.pop(key)
        if spoil == "changed":
            store.land(key, bytes(32) + tile.data[32:], 0)
        await one.commit()
        with pytest.raises(LogForkedError, match="another root" if spoil == "changed" else "not in the store"):
            await publisher(one).publish()
        await one.stop()

    run_simulated(run())


def test_more_was_published_than_is_committed_only_in_another_log(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        earlier = one.committer.head
        await one.commit(5)
        await publisher(one).publish()
        out = publisher(one)
        out._commits = SimpleNamespace(head=earlier)
        with pytest.raises(LogForkedError, match="5 receipts were published, and 0 are committed"):
            await out.publish()
        await one.stop()

    run_simulated(run())


def test_a_fenced_writer_that_never_published_is_told_that_it_is_fenced(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path / "a", store)
        zombie = publisher(one)
        await one.commit()
        one.link.cut = True
        two = await started(tmp_path / "b", store, "b")
        await two.commit(2)
        await publisher(two).publish()
        one.link.cut = False
        with pytest.raises(WriterFencedError, match="another writer has published 3 receipts under epoch 2"):
            await zombie.publish()
        await one.kill()
        await two.stop()

    run_simulated(run())


def test_partial_tiles_that_the_last_owner_removed_late_are_not_missed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path / "a", store)
        zombie = publisher(one)
        await one.commit(250)
        await zombie.publish()
        await one.commit(50)
        store.fail(CHECKPOINT, LATE)
        publishing = asyncio.create_task(zombie.publish())
        await asyncio.sleep(0.2)
        publishing.cancel()
        await asyncio.wait({publishing})
        await one.kill()
        two = await started(tmp_path / "b", store, "b")
        out, read = publisher(two), two.store.get

        async def read_late(key: str) -> Object | None:
            if key != "checkpoint" and store.late:
                store.land_late_ones()
                for gone in [key for key in store.objects if "000.p/250" in key]:
                    del store.objects[gone]
            return await read(key)

        out._store.get = read_late  # type: ignore[method-assign]
        await out.publish()
        await assert_published(two, store, 300)
        await two.stop()

    run_simulated(run())


def test_a_heads_receipt_names_every_tenants_end_and_its_list_is_published(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store)
        for tenant in ("acme", "globex", "initech"):
            await one.append(4, tenant)
        await one.ledger.wait_committed(11)
        out = publisher(one, heads_every=1)
        publishing = asyncio.create_task(out.run())
        await asyncio.sleep(100.0)
        assert one.ledger.size == 13  # one receipt about heads, and none about itself
        receipt = canonical.decode((await one.ledger.read(12)).leaf)
        statement = read_statement(receipt)
        assert (statement.count, statement.size) == (3, 12)
        listed = HeadList(store.objects[f"0/heads/{12:020d}"].data)
        assert listed.root() == statement.root
        assert {head.next_tseq for head in listed} == {4}
        publishing.cancel()
        await asyncio.wait({publishing})
        await one.stop()

    run_simulated(run())
    assert verify_log(tmp_path).ok


def test_only_what_no_head_names_is_collected_and_not_before_a_day(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store, terms=HeadTerms())
        await one.commit(3)
        await one.stop()
        again = await started(tmp_path, store, terms=HeadTerms())
        await again.commit(3)
        orphan, copy, later, mine = (
            "0/seg/" + name
            for name in (
                f"{2:020d}-{1:010d}-00000000.seg",
                f"{0:020d}-{1:010d}-00000000.seg",
                f"{99:020d}-{1:010d}-00000000.seg",
                f"{2:020d}-{2:010d}-00000000.seg",
            )
        )
        for key in (orphan, copy, later, mine):
            store.land(key, b"x", 0)
        before = set(store.objects)
        collector = OrphanCollector(again.store, again.taken.authority.replace, again.ledger, executor=InlineExecutor())
        assert await collector.sweep() == []
        await asyncio.sleep(GRACE_S / 2)
        assert await collector.sweep() == []
        await asyncio.sleep(GRACE_S / 2)
        assert await collector.sweep() == [orphan.removeprefix("0/")]
        assert set(store.objects) == before - {orphan}
        await again.stop()

    run_simulated(run())


def test_who_has_just_taken_over_writes_no_head_for_orphans(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path, store, terms=HeadTerms())
        collector = OrphanCollector(one.store, one.taken.authority.replace, one.ledger, executor=InlineExecutor())
        before = len(store.puts)
        collecting = asyncio.create_task(collector.run())
        await asyncio.sleep(600.0)
        assert len(store.puts) == before
        await asyncio.sleep(GRACE_S)
        assert len(store.puts) > before
        collecting.cancel()
        await asyncio.wait({collecting})
        await one.stop()

    run_simulated(run())


def test_an_orphan_that_the_store_keeps_stays_until_it_lets_it_go(tmp_path: Path) -> None:
    class Locked(MemoryStore):
        is_locked = True

        async def delete(self, key: str) -> None:
            if self.is_locked:
                raise StoreLockedError("on demand")
            await super().delete(key)

    async def run() -> None:
        store, told = Locked(), list[str]()
        one = await started(tmp_path, store, terms=HeadTerms())
        await one.commit(3)
        await one.stop()
        again = await started(tmp_path, store, terms=HeadTerms())
        await again.commit(3)
        orphan = f"seg/{2:020d}-{1:010d}-00000000.seg"
        store.land(f"0/{orphan}", b"x", 0)
        collector = OrphanCollector(
            again.store, again.taken.authority.replace, again.ledger, executor=InlineExecutor(),
            on_locked=lambda error: told.append(str(error)),
        )  # fmt: skip
        await collector.sweep()
        await asyncio.sleep(GRACE_S)
        assert await collector.sweep() == []
        assert told == ["on demand"]
        store.is_locked = False
        assert await collector.sweep() == [orphan]
        await again.stop()

    run_simulated(run())


def test_a_fenced_writer_collects_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await started(tmp_path / "a", store, terms=HeadTerms())
        await one.commit(3)
        await one.stop()
        again = await started(tmp_path / "a", store, terms=HeadTerms())
        await again.commit(3)
        orphan = f"0/seg/{2:020d}-{1:010d}-00000000.seg"
        store.land(orphan, b"x", 0)
        collector = OrphanCollector(again.store, again.taken.authority.replace, again.ledger, executor=InlineExecutor())
        await collector.sweep()
        again.link.cut = True
        two = await started(tmp_path / "b", store, "b", HeadTerms())
        await asyncio.sleep(GRACE_S + 1.0)
        again.link.cut = False
        with pytest.raises(WriterFencedError):
            await collector.sweep()
        assert orphan in store.objects
        await two.stop()
        await again.kill()

    run_simulated(run())
