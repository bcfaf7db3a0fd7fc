"""What is dropped, in which order, and what an interruption anywhere leaves."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from simulation.loop import run_simulated
from support.broker import until
from support.ledger_scenes import Events
from support.machine import stored_head
from support.memory_store import LANDED, NOT_LANDED, REFUSED, MemoryStore
from support.served import Served

from ledger import takeover
from ledger.errors import (
    ReceiptDroppedError,
    RetentionInvalidError,
    StoreLockedError,
    StoreRefusedError,
    StoreUnavailableError,
    TileInvalidError,
)
from ledger.format import canonical, retention
from ledger.format.retention import Retention
from ledger.format.snapshot import Snapshot
from ledger.fsck import verify_log
from ledger.layout import list_segments
from ledger.protocol.head import parse_segment_key
from ledger.pruner import PUBLIC_WAIT_S, Pruner, RetentionPolicy
from ledger.recovery import fold
from ledger.snapshots import list_snapshots, write_snapshot
from ledger.store.object_store import CREATE

SAID = "0/retention"
DROPPED = ("0/seg/", "0/snap/", "0/tile/entries/")


def said_in(store: MemoryStore) -> Retention:
    return retention.decode(store.objects[SAID].data) if SAID in store.objects else Retention()


def stored_from(store: MemoryStore) -> int:
    """Where the first segment in the store begins."""
    places = [parse_segment_key(key.removeprefix("0/")) for key in store.objects]
    return min(place[0] for place in places if place is not None)


async def served(
    folder: Path, store: MemoryStore, policy: RetentionPolicy, days: int = 0, *, entries: bool = True
) -> Served:
    one = await Served("a", folder, store, policy=policy, entries=entries).begin()
    for _ in range(days):
        await one.age()
    return one


async def assert_kept_is_whole(one: Served, store: MemoryStore) -> None:
    """Every receipt that is kept can be read and proven; those that are not are said to be dropped."""
    said = said_in(store)
    size = (await stored_head(store)).size
    for index in {0, said.entries_from - 1, said.entries_from, said.segments_from - 1, said.segments_from, size - 1}:
        if 0 <= index < said.entries_from:
            with pytest.raises(ReceiptDroppedError) as dropped:
                await one.prover.inclusion(index)
            assert dropped.value.kept_from == said.entries_from
        elif index >= 0:
            found, _ = await one.prover.inclusion(index)
            assert found.extra == (await one.prover.receipts.read(index)).leaf


@pytest.mark.parametrize("entries", [True, False])
def test_payloads_go_once_they_are_old_and_two_snapshots_stand_for_them(tmp_path: Path, entries: bool) -> None:
    store = MemoryStore()

    async def run() -> None:
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3, entries=entries)
        assert await one.prune(), "a first snapshot is put into the store"
        assert said_in(store) == Retention(0, 0, said_in(store).snapshots)
        assert stored_from(store) == one.ledger.kept_from == 0
        assert not await one.prune(), "with one snapshot nothing may go"
        bounds = [0]
        for _ in range(4):
            await one.age()
            await one.prune()
            await assert_kept_is_whole(one, store)
            bounds.append(said_in(store).segments_from)
            assert stored_from(store) == bounds[-1] >= one.ledger.kept_from
        assert bounds[2:] == sorted(set(bounds[2:])), "a day's worth a day"
        assert bounds[-1] > 400
        assert one.ledger.kept_from > 0
        assert said_in(store).entries_from == 0
        await one.stop()

    run_simulated(run())
    assert verify_log(tmp_path, store=store.write_to(tmp_path / "copy")).errors == []


@pytest.mark.parametrize("entries", [True, False])
def test_receipts_go_later_and_the_tree_stays(tmp_path: Path, entries: bool) -> None:
    store = MemoryStore()

    async def run() -> None:
        one = await served(tmp_path, store, RetentionPolicy(1.0, 3.0), entries=entries)
        for _ in range(8):
            await one.age()
            await one.prune()
            await assert_kept_is_whole(one, store)
        said = said_in(store)
        assert 256 < said.entries_from < said.segments_from
        bundles = [key for key in store.objects if key.startswith("0/tile/entries/")]
        assert min(bundles) == f"0/tile/entries/{said.entries_from // 256:03}"
        assert "0/tile/0/000" in store.objects
        await one.stop()

    run_simulated(run())
    report = verify_log(tmp_path, store=store.write_to(tmp_path / "copy"))
    assert report.errors == []
    assert f"receipts 0..{said_in(store).entries_from - 1} were dropped" in report.notes[0]


def bundles_in(store: MemoryStore) -> list[str]:
    return sorted(key for key in store.objects if key.startswith("0/tile/entries/"))


def test_where_bundles_are_not_published_only_receipts_whose_segments_go_are_put_into_them(tmp_path: Path) -> None:
    store = MemoryStore()

    async def run() -> None:
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3, entries=False)
        await one.prune()
        assert bundles_in(store) == []
        for _ in range(3):
            await one.age()
            await one.prune()
            end = -(-said_in(store).segments_from // 256)
            assert bundles_in(store) == [f"0/tile/entries/{number:03}" for number in range(end)]
        assert 2 < end < one.publisher.published_size // 256
        await one.stop()

    run_simulated(run())
    report = verify_log(tmp_path, store=store.write_to(tmp_path / "copy"))
    assert report.errors == []
    assert any("entry bundles are not published" in note for note in report.notes)


def test_a_bundle_that_holds_something_else_lets_its_segment_stay(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3, entries=False)
        await one.prune()
        await one.age()

        def before_put(key: str) -> None:
            if key.endswith("entries/000"):
                store.land(key, b"x", CREATE)

        store.before_put = before_put

        async def a_few_days() -> None:
            for _ in range(3):
                await one.age()
                await one.prune()

        with pytest.raises(TileInvalidError, match="entries/000"):
            await a_few_days()
        assert stored_from(store) == one.ledger.kept_from == 0
        await one.stop()

    run_simulated(run())


def test_what_the_store_keeps_goes_once_it_lets_it_and_is_no_failure(tmp_path: Path) -> None:
    """A bucket with a retention policy: the log says what it has dropped, and the objects follow."""

    class Locked(MemoryStore):
        is_locked = True
        refused = 0

        async def delete(self, key: str) -> None:
            if self.is_locked and key.startswith(DROPPED) and ".p/" not in key:
                self.refused += 1
                raise StoreLockedError("on demand")
            await super().delete(key)

    async def run() -> None:
        store, told, dropped = Locked(), list[str](), list[Retention]()
        one = await served(tmp_path, store, RetentionPolicy(1.0, 3.0), entries=False)
        one.pruner._on_locked = lambda error: told.append(str(error))
        one.pruner._on_dropped = dropped.append
        for _ in range(6):
            await one.age()
            await one.prune()
        said = said_in(store)
        assert said.segments_from > 400
        assert stored_from(store) == 0
        assert told
        assert all(before != after for before, after in pairwise(dropped)), "each is told of once"
        assert store.refused < 17 * len(told), "it is not asked for each object anew"
        store.is_locked = False
        await one.pruner.prune()
        assert stored_from(store) == said.segments_from
        await assert_kept_is_whole(one, store)
        await one.stop()

    run_simulated(run())


@pytest.mark.parametrize("policy", [RetentionPolicy(30.0), RetentionPolicy(1.0, receipts_min=10_000)])
def test_what_is_to_be_kept_is_kept(tmp_path: Path, policy: RetentionPolicy) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, policy)
        for _ in range(5):
            await one.age()
            assert not await one.prune()
        assert SAID not in store.objects
        assert not [key for key in store.objects if "snap" in key]
        await one.stop()

    run_simulated(run())


def test_what_goes_was_said_before_by_a_public_receipt(tmp_path: Path) -> None:
    """Looked at whenever something goes: the object stands, and the receipts that it names say the same in public."""

    class Watched(MemoryStore):
        removed = 0

        async def delete(self, key: str) -> None:
            if key.startswith(DROPPED) and ".p/" not in key:
                self.removed += 1
                said = said_in(self)
                newest = said.snapshots[-1]
                statement = retention.read_statement(canonical.decode(await one.read_leaf(newest.receipt)))
                assert statement.snapshot == newest.sha256
                assert (statement.entries_from, statement.segments_from) == (said.entries_from, said.segments_from)
                assert newest.receipt < one.publisher.published_size
                assert {f"0/{each.key()}" for each in said.snapshots} <= set(self.objects)
            await super().delete(key)

    store = Watched()
    one: Served

    async def run() -> None:
        nonlocal one
        one = await served(tmp_path, store, RetentionPolicy(1.0, 2.0))
        for _ in range(6):
            await one.age()
            await one.prune()
        await one.stop()

    run_simulated(run())
    assert store.removed > 10


@pytest.mark.parametrize("fate", [LANDED, NOT_LANDED])
@pytest.mark.parametrize("key", ["0/snap/", SAID])
def test_a_write_that_nobody_knows_of_is_asked_about(tmp_path: Path, key: str, fate: str) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3)
        for _ in range(3):
            store.fail(key, fate, fate)
            await one.prune()
            await one.age()
            await assert_kept_is_whole(one, store)
        assert said_in(store).segments_from > 0
        await one.stop()

    run_simulated(run())


def test_who_says_it_second_says_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3)
        other = retention.encode(Retention(0, 1))

        def meanwhile(key: str) -> None:
            if key == SAID and SAID not in store.objects:
                store.land(SAID, other, CREATE)

        store.before_put = meanwhile
        assert not await one.prune()
        assert store.objects[SAID].data == other
        assert stored_from(store) == 0
        await one.stop()

    run_simulated(run())


def test_a_round_that_was_interrupted_is_finished_by_the_next(tmp_path: Path) -> None:
    """By another process too, wherever it was: after each of its writes and removals."""

    class Stopping(MemoryStore):
        left: int | None = None

        async def delete(self, key: str) -> None:
            if key.startswith(DROPPED) and ".p/" not in key:
                self.step()
            await super().delete(key)

        def step_before(self, key: str) -> None:
            if key.startswith((SAID, "0/snap/")):
                self.step()

        def step(self) -> None:
            if self.left is not None:
                if self.left == 0:
                    raise StoreRefusedError("the process was killed here")
                self.left -= 1

    async def run(folder: Path, steps: int) -> bool:
        store = Stopping()
        one = await served(folder, store, RetentionPolicy(1.0, 1.0), days=3)
        await one.prune()
        await one.age(700)
        store.left, store.before_put = steps, store.step_before
        try:
            await one.prune()
            interrupted = False
        except StoreRefusedError:
            interrupted = True
        store.left = None
        await one.kill()
        again = await served(folder, store, RetentionPolicy(1.0, 1.0))
        again.now_us = one.now_us
        again.appended = one.appended
        await again.publisher.publish()
        await again.prune()
        await assert_kept_is_whole(again, store)
        said = said_in(store)
        assert said.entries_from > 0
        assert stored_from(store) == said.segments_from
        assert min(key for key in store.objects if "entries" in key) >= f"0/tile/entries/{said.entries_from // 256:03}"
        await again.stop()
        return interrupted

    outcomes = [run_simulated(run(tmp_path / str(steps), steps)) for steps in (0, 1, 2, 3, 4, 5, 8, 13, 500)]
    assert outcomes[:6] == [True] * 6
    assert not outcomes[-1]


def test_a_receipt_that_does_not_get_public_lets_nothing_go(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        with pytest.raises(StoreUnavailableError, match="is not published"):
            await one.pruner.prune()
        assert loop.time() - begun_s >= PUBLIC_WAIT_S
        assert SAID not in store.objects
        await one.stop()

    run_simulated(run())


def test_an_object_that_cannot_be_read_lets_nothing_go(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3)
        store.land(SAID, b"{}x", CREATE)
        with pytest.raises(RetentionInvalidError):
            await one.prune()
        assert stored_from(store) == 0
        await one.stop()

    run_simulated(run())


def test_rounds_go_on_after_one_that_failed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store, RetentionPolicy(1.0), days=3)
        failed, dropped = list[Exception](), list[Retention]()
        pruner = Pruner(
            one.ledger, one.store, one.committer, one.disk, one.folder, one.policy, read_leaf=one.read_leaf,
            published=lambda: one.publisher.published_size, clock_us=lambda: one.now_us, rng=one.rng,
            on_dropped=dropped.append, on_failed=failed.append,
        )  # fmt: skip
        store.fail("0/snap/", REFUSED)
        running = [asyncio.create_task(pruner.run()), asyncio.create_task(one.publisher.run())]
        await asyncio.sleep(7_500.0)
        assert [type(error) for error in failed] == [StoreRefusedError]
        assert dropped[-1] == said_in(store) != Retention()
        for task in running:
            task.cancel()
            await asyncio.wait({task})
        await one.stop()

    run_simulated(run())


def test_a_snapshot_of_a_tail_that_got_lost_stands_for_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path / "a", store, RetentionPolicy(1.0), days=3)
        one.link.cut = True
        await one.append(20)
        await one.take_snapshot()
        of_tail, good = list_snapshots(one.folder, one.disk)
        await one.kill()
        two = await served(tmp_path / "b", store, RetentionPolicy(1.0))
        await two.commit(50)
        await two.stop()
        three = await served(tmp_path / "a", store, RetentionPolicy(1.0))
        three.now_us = one.now_us
        assert three.taken.lost == 20
        assert of_tail in list_snapshots(three.folder, three.disk)
        await three.publisher.publish()
        await three.prune()
        assert [named.size for named in said_in(store).snapshots] == [good.size]
        await three.stop()

    run_simulated(run())


def test_who_stands_by_drops_what_the_owner_has_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "DROP_S", 60.0)
    store = MemoryStore()

    async def run() -> None:
        one = await served(tmp_path / "a", store, RetentionPolicy(1.0))
        two = Served("b", tmp_path / "b", store)
        coming = asyncio.create_task(two.start())
        for _ in range(6):
            await one.age()
            size = (await stored_head(store)).size
            await until(lambda size=size: two.followed[-1:] == [size])  # type: ignore[misc]
            write_snapshot(two.folder, made_of(two, one.ledger.origin), two.disk)
            await one.prune()
        segments_from = said_in(store).segments_from
        assert 0 < one.ledger.kept_from <= segments_from
        await asyncio.sleep(takeover.DROP_S)
        await one.commit()
        await until(lambda: kept_from(two) > 0)
        assert kept_from(two) <= segments_from
        await one.stop()
        await coming
        assert two.ledger.recovered.snapshot_size > 0
        for index in (segments_from, two.ledger.size - 1):
            assert (await two.ledger.read(index)).index == index
        await two.stop()

    run_simulated(run())
    assert verify_log(tmp_path / "b", store=store.write_to(tmp_path / "copy")).errors == []


def kept_from(one: Served) -> int:
    return list_segments(one.folder)[0].first_index


def made_of(one: Served, origin: str) -> Snapshot:
    made = fold(one.folder, origin, Events(), one.disk)
    assert made is not None
    return made
