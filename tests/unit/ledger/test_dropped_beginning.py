"""A log whose beginning was dropped is brought back and gone on with by whoever takes it over, as any other."""

import hashlib
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulation.loop import run_simulated
from support.ledger_scenes import Events
from support.machine import InlineExecutor, stored_head
from support.memory_store import MemoryStore
from support.served import Served

from ledger.errors import LogForkedError, RestoreError
from ledger.format import retention
from ledger.format import snapshot as codec
from ledger.format.retention import NamedSnapshot, Retention, RetentionStatement
from ledger.fsck import verify_log
from ledger.identity import partition_folder
from ledger.own_receipts import own_draft
from ledger.recovery import recover
from ledger.restore import restore

SAID = "0/retention"


def said_in(store: MemoryStore) -> Retention:
    return retention.decode(store.objects[SAID].data)


async def pruned(folder: Path, store: MemoryStore, days: int = 6) -> Served:
    """A machine whose log was pruned each day."""
    one = await Served("a", folder, store).begin()
    for _ in range(days):
        await one.age(300)
        await one.prune()
    await one.commit(10)
    await one.publisher.publish()
    assert said_in(store).segments_from > 300
    return one


async def take_over(one: Served, name: str, folder: Path, store: MemoryStore) -> Served:
    two = await Served(name, folder, store).begin()
    two.now_us, two.appended = one.now_us, one.appended
    return two


async def assert_goes_on(two: Served, one: Served, store: MemoryStore) -> None:
    """With all that the first machine knew: what the application makes of each receipt, and each tenant's chain."""
    assert [index for index, _ in two.app.seen] == [*range(one.ledger.local_size)]
    assert two.ledger.next_tseq("acme") == one.ledger.next_tseq("acme")
    two.pass_days(1.0)
    await two.commit(300)
    await two.publisher.publish()
    await two.take_snapshot()
    before = said_in(store)
    assert await two.prune()
    assert said_in(store).segments_from > before.segments_from
    await two.stop()


def assert_sound(folder: Path, store: MemoryStore, copy: Path) -> None:
    report = verify_log(folder, store=store.write_to(copy))
    assert report.errors == []
    assert "payloads dropped by retention" in report.notes[0]


def test_a_start_on_the_same_disk_begins_with_a_snapshot(tmp_path: Path) -> None:
    store = MemoryStore()

    async def run() -> None:
        one = await pruned(tmp_path / "a", store)
        assert one.ledger.kept_from > 0
        await one.stop()
        two = await take_over(one, "a", tmp_path / "a", store)
        assert two.taken.fetched == 0
        await assert_goes_on(two, one, store)

    run_simulated(run())
    assert_sound(tmp_path / "a", store, tmp_path / "copy")


def test_an_empty_machine_takes_over(tmp_path: Path) -> None:
    store = MemoryStore()

    async def run() -> None:
        one = await pruned(tmp_path / "a", store)
        await one.kill()
        two = await take_over(one, "b", tmp_path / "b", store)
        assert two.ledger.kept_from == said_in(store).segments_from
        await assert_goes_on(two, one, store)

    run_simulated(run())
    assert_sound(tmp_path / "b", store, tmp_path / "copy")


def test_a_restored_folder_is_sound_by_what_was_restored_alone(tmp_path: Path) -> None:
    store, copy = MemoryStore(), MemoryStore()

    async def run() -> None:
        one = await pruned(tmp_path / "a", store)
        await one.stop()
        head = await stored_head(store)
        rng, inline = random.Random(1), InlineExecutor()
        (partition,) = await restore(store, tmp_path / "b", rng=rng, copy=copy, executor=inline)
        assert (partition.size, partition.root) == (head.size, head.root_bytes())
        app = Events()
        recover(partition_folder(tmp_path / "b", 0), one.ledger.origin, app=app)
        assert len(app.seen) == head.size

    run_simulated(run())
    assert_sound(tmp_path / "b", copy, tmp_path / "b" / "store")


@pytest.mark.parametrize("tail", [0, 5])
def test_a_disk_that_is_older_than_what_was_dropped_is_brought_up_to_date(tmp_path: Path, tail: int) -> None:
    """What it has was committed, though the store has it no more; only what it had beyond that is put aside."""
    store = MemoryStore()

    async def run() -> None:
        old = await Served("b", tmp_path / "b", store).begin()
        await old.age(100)
        old.link.cut = True
        if tail:
            await old.append(tail)
        await old.kill()
        one = await pruned(tmp_path / "a", store)
        await one.stop()
        two = await take_over(one, "b", tmp_path / "b", store)
        assert two.taken.lost == tail
        await assert_goes_on(two, one, store)

    run_simulated(run())
    assert_sound(tmp_path / "b", store, tmp_path / "copy")


def test_another_log_is_not_taken_for_an_old_copy(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        other = MemoryStore()
        stranger = await Served("b", tmp_path / "b", other).begin()
        await stranger.commit(100)
        await stranger.stop()
        shutil.copytree(tmp_path / "b/ledger", tmp_path / "c/ledger", ignore=lambda *_: ["0"])
        one = await Served("a", tmp_path / "c", store).begin()
        for _ in range(6):
            await one.age(300)
            await one.prune()
        await one.stop()
        with pytest.raises(LogForkedError):
            await Served("b", tmp_path / "b", store).begin()

    run_simulated(run())
    assert len(list(tmp_path.glob("b/ledger/0/*.seg"))) > 0


class Overtaken(MemoryStore):
    """`meanwhile` happens once, before somebody gets the list of the segments."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def list(self, prefix: str, after: str = "") -> list[str]:
        if prefix.endswith("seg/") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await super().list(prefix, after)


@pytest.mark.parametrize("by_hand", [False, True])
def test_who_holds_an_old_head_looks_again_once_what_it_leads_to_is_dropped(tmp_path: Path, by_hand: bool) -> None:
    async def run() -> None:
        store = Overtaken()
        one = await pruned(tmp_path / "a", store)
        old = await stored_head(store)

        async def go_on() -> None:
            for _ in range(4):
                await one.age(300)
                await one.prune()
            await one.kill()
            assert said_in(store).segments_from >= old.size

        store.meanwhile = go_on
        if by_hand:
            (restored,) = await restore(store, tmp_path / "b", rng=random.Random(1), executor=InlineExecutor())
            assert restored.size == (await stored_head(store)).size
        else:
            two = await take_over(one, "b", tmp_path / "b", store)
            assert [index for index, _ in two.app.seen] == [*range(one.ledger.local_size)]
            await two.stop()

    run_simulated(run())


@pytest.mark.parametrize("is_stale", [False, True])
def test_a_crash_while_it_is_put_in_place_leaves_what_the_next_start_can_go_on_from(
    tmp_path: Path, is_stale: bool
) -> None:
    async def run() -> None:
        store = MemoryStore()
        if is_stale:
            old = await Served("b", tmp_path / "b", store).begin()
            await old.age(100)
            await old.kill()
        one = await pruned(tmp_path / "a", store)
        await one.stop()
        for renames in range(30):
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
            if is_stale:
                shutil.copytree(tmp_path / "b", tmp_path / "c")
            broken = Served("c", tmp_path / "c", store)
            broken.disk.renames_left = renames
            try:
                await broken.start(run=False)
            except OSError:
                pass
            else:
                broken.ledger.close()
                break
            two = Served("c", tmp_path / "c", store)
            await two.start(run=False)
            assert len(two.app.seen) == (await stored_head(store)).size
            two.ledger.close()
        assert 3 < renames < 29

    run_simulated(run())


def say(store: MemoryStore, said: Retention) -> None:
    store.land(SAID, retention.encode(said), store.objects[SAID].generation)


def spoil(store: MemoryStore, key: str, data: bytes | None) -> None:
    held = store.objects.pop(key)
    if data is not None:
        store.land(key, data, 0)
        assert data != held.data


def forge(store: MemoryStore, named: NamedSnapshot, **change: Any) -> NamedSnapshot:
    """A snapshot that holds together and says something else, and the object's word for it."""
    made = codec.decode(store.objects[f"0/{named.key()}"].data)
    data = codec.encode(msgspec.structs.replace(made, **change))
    forged = msgspec.structs.replace(named, sha256=hashlib.sha256(data).hexdigest())
    store.land(f"0/{forged.key()}", data, 0)
    return forged


@pytest.mark.parametrize("how", ["missing", "changed", "another log's", "forged"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_snapshot_that_is_not_the_log_s_stands_for_nothing(tmp_path: Path, how: str, count: int) -> None:
    """One that is good is enough; with none, nothing is put in place."""

    async def run() -> None:
        store = MemoryStore()
        one = await pruned(tmp_path / "a", store)
        await one.stop()
        said = said_in(store)
        named = list(said.snapshots)
        for at, one_named in enumerate(said.snapshots[:count]):
            key = f"0/{one_named.key()}"
            whole = store.objects[key].data
            if how == "missing":
                spoil(store, key, None)
            elif how == "changed":
                spoil(store, key, whole[:-1] + bytes((whole[-1] ^ 1,)))
            else:
                change = {"app": b"[]"} if how == "forged" else {"log": "ledger.test/another/0"}
                named[at] = forge(store, one_named, **change)
        say(store, msgspec.structs.replace(said, snapshots=tuple(named)))
        two = Served("b", tmp_path / "b", store)
        if count < 2:
            await two.begin()
            assert len(two.app.seen) == (await stored_head(store)).size
            await two.stop()
            return
        with pytest.raises(RestoreError, match="no snapshot can stand for them") as refused:
            await two.begin()
        assert said.snapshots[0].key()[:32] in str(refused.value)

    run_simulated(run())
    found = [path.suffix for path in tmp_path.glob("b/ledger/0/*.s*")]
    assert (".seg" in found, ".snap" in found) == (count < 2, count < 2)


def test_a_snapshot_of_a_segment_that_the_log_has_otherwise_stands_for_nothing(tmp_path: Path) -> None:
    """Though a receipt names it: its writer may have had another last segment on its disk."""

    async def run() -> None:
        store = MemoryStore()
        one = await pruned(tmp_path / "a", store)
        said = said_in(store)
        made = codec.decode(store.objects[f"0/{said.snapshots[1].key()}"].data)
        made.segments[-1] = msgspec.structs.replace(made.segments[-1], sha256=bytes(32))
        forged = forge(store, said.snapshots[1], segments=made.segments)
        evidence = retention.evidence(RetentionStatement(0, said.segments_from, forged.sha256))
        index = one.ledger.append(own_draft("forged", retention.FSM, retention.RULE, evidence, one.now_us))
        await one.ledger.wait_committed(index)
        await one.stop()
        say(store, msgspec.structs.replace(said, snapshots=(msgspec.structs.replace(forged, receipt=index),)))
        with pytest.raises(RestoreError, match="its last segment is another one in the log"):
            await Served("b", tmp_path / "b", store).begin()

    run_simulated(run())


def test_segments_that_are_gone_unsaid_are_missing(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await pruned(tmp_path / "a", store)
        await one.stop()
        first = min(key for key in store.objects if key.startswith("0/seg/"))
        del store.objects[first]
        with pytest.raises(RestoreError, match=r"the segment that ends before receipt \d+ is missing"):
            await Served("b", tmp_path / "b", store).begin()

    run_simulated(run())
