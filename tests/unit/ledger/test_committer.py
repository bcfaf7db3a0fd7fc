import asyncio
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from simulation.loop import run_simulated
from support.ledger_scenes import draft
from support.machine import Machine, stored_head
from support.memory_store import HELD, LANDED, LATE, NOT_LANDED, REFUSED, MemoryStore

from ledger.authority import HeadTerms
from ledger.committer import Cadence, _next_piece
from ledger.draft import Limits
from ledger.errors import LeaseLostError, LedgerFailedError, SegmentCorruptError, StoreRefusedError, WriterFencedError
from ledger.format.checkpoint import open_checkpoint
from ledger.format.merkle import EMPTY_ROOT
from ledger.format.note import Verifier
from ledger.index import SealedSegment, SegmentKey
from ledger.store.object_store import PutOutcome

HEAD = "0/ctl/head"
SEGMENTS = "0/seg/"


def segments(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if key.startswith(SEGMENTS)]


def test_a_receipt_is_committed_once_the_head_names_its_segment(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        assert (await stored_head(store)).root == EMPTY_ROOT.hex()
        index = await one.commit(3)
        head = await stored_head(store)
        assert head.size == index + 1 == one.ledger.committed_size
        assert head.root_bytes() == one.ledger.root
        assert head.segment is not None
        assert f"0/{head.segment.key}" in store.objects
        checkpoint = open_checkpoint(head.checkpoint.encode(), Verifier.parse(head.vkey), one.ledger.origin)
        assert (checkpoint.size, checkpoint.root) == (3, one.ledger.root)
        assert (await one.ledger.read(0)).committed
        await one.stop()

    run_simulated(run())


@pytest.mark.parametrize("key", [HEAD, SEGMENTS])
@pytest.mark.parametrize("fate", [LANDED, NOT_LANDED])
@pytest.mark.parametrize("times", [1, 3])
def test_every_fault_of_a_put_is_survived_whether_it_had_landed_or_not(
    tmp_path: Path, key: str, fate: str, times: int
) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        await one.commit(2)
        store.fail(key, *[fate] * times)
        await one.commit(2)
        assert (await stored_head(store)).size == 4
        assert len(segments(store)) == 2
        await one.stop()

    run_simulated(run())


def test_nothing_is_committed_before_the_head_is_known_to_be_there(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        store.fail(HEAD, HELD)
        index = await one.append()
        waiting = asyncio.create_task(one.ledger.wait_committed(index))
        await asyncio.sleep(3.0)
        assert not waiting.done()
        assert one.ledger.committed_size == 0
        store.let_go.set()
        await waiting
        await one.stop()

    run_simulated(run())


def test_what_was_committed_before_the_start_is_committed_after_it(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        index = await one.commit(3)
        await one.stop()
        again = await Machine("a", tmp_path, store).start()
        await again.ledger.wait_committed(index)
        assert again.ledger.committed_size == 3
        await again.stop()

    run_simulated(run())


def test_a_commit_that_waits_for_its_distance_spares_the_lease_a_write(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        terms = HeadTerms(lease_s=2.0, margin_s=0.4, spacing_s=1.1)
        one = await Machine("a", tmp_path, store, terms=terms, cadence=Cadence(interval_s=0.0)).start()
        for _ in range(20):
            begun_s = asyncio.get_running_loop().time()
            await one.commit()
            assert asyncio.get_running_loop().time() - begun_s < 1.3
        await one.stop()

    run_simulated(run())


def test_commits_keep_their_distance_and_happen_only_when_there_is_something(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store, cadence=Cadence(interval_s=2.0)).start()
        for _ in range(100):
            one.ledger.hurry(await one.append())
            await asyncio.sleep(0.1)
        await asyncio.sleep(100.0)
        assert len(segments(store)) == 6  # at 0, 2, 4, 6, 8 s, and at 10 s what came last
        assert one.ledger.committed_size == 100
        await one.stop()

    run_simulated(run())


@dataclass
class Writes:
    """When segments and heads were sent, in seconds from the first on."""

    segments: list[float]
    heads: list[float]


async def writes_of(
    folder: Path, terms: HeadTerms, seconds: float, *, upload_s: float = 0.0, call_s: float = 0.01
) -> Writes:
    """Of a log that gets ten receipts a second for which nobody is in a hurry, and that may be answered all the time.
    Each call of the store takes `call_s`, an upload as much more as `upload_s`.
    """
    store, loop = MemoryStore(takes_s=call_s), asyncio.get_running_loop()
    found = Writes([], [])
    one = await Machine("a", folder, store, terms=terms, cadence=Cadence(interval_s=2.0)).start()

    put_file = store.put_file

    async def slow(key: str, path: Path) -> PutOutcome:
        await asyncio.sleep(upload_s)
        return await put_file(key, path)

    store.put_file = slow  # type: ignore[method-assign]
    store.before_put = lambda key: (found.heads if key == HEAD else found.segments).append(loop.time())
    answered = 0
    for _ in range(int(seconds * 10)):
        await one.append()
        answered += one.authority_says
        await asyncio.sleep(0.1)
    assert answered == int(seconds * 10)
    await one.stop()
    return found


@pytest.mark.parametrize("upload_s", [0.0, 0.4, 1.0])
def test_a_log_with_something_to_commit_renews_its_lease_by_its_commits_alone(tmp_path: Path, upload_s: float) -> None:
    async def run() -> None:
        found = await writes_of(tmp_path, HeadTerms(6.0, 0.9, 1.1), 120.0, upload_s=upload_s)
        assert len(found.heads) - len(found.segments) <= 2  # at its start, and the one that hands it over
        gaps = [after - before for before, after in pairwise(found.heads[5:-2])]
        assert min(gaps) > 3.0
        assert max(gaps) < 3.9
        assert len(found.heads) < 120.0 / 3.3

    run_simulated(run())


def test_a_store_that_takes_a_second_for_a_call_costs_neither_the_lease_nor_a_write(tmp_path: Path) -> None:
    async def run() -> None:
        found = await writes_of(tmp_path, HeadTerms(6.0, 0.9, 1.1), 120.0, call_s=1.0)
        assert len(found.heads) - len(found.segments) <= 3
        assert len(found.heads) < 120.0 / 3.0

    run_simulated(run())


def test_a_commit_that_is_late_does_not_cost_the_lease(tmp_path: Path) -> None:
    """A renewal goes out at the last call, for what is being uploaded may take as long as it likes."""

    async def run() -> None:
        found = await writes_of(tmp_path, HeadTerms(6.0, 0.9, 1.1), 60.0, upload_s=9.0)
        assert len(found.heads) > 2 * len(found.segments)
        assert max(after - before for before, after in pairwise(found.heads)) < 4.5

    run_simulated(run())


def test_a_lease_that_is_long_holds_up_no_commit_for_more_than_twice_its_distance(tmp_path: Path) -> None:
    async def run() -> None:
        found = await writes_of(tmp_path, HeadTerms(60.0, 12.0, 1.1), 60.0)
        gaps = [after - before for before, after in pairwise(found.segments[:-1])]
        assert {round(gap) for gap in gaps} == {4}

    run_simulated(run())


def test_a_receipt_that_comes_after_a_pause_is_committed_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        one = await Machine("a", tmp_path, MemoryStore(), terms=HeadTerms(6.0, 0.9), cadence=Cadence(2.0)).start()
        await one.commit()
        await asyncio.sleep(5.0)
        begun_s = asyncio.get_running_loop().time()
        await one.commit()
        assert asyncio.get_running_loop().time() - begun_s < 0.5
        await one.stop()

    run_simulated(run())


def test_a_commit_that_is_asked_for_does_not_wait_for_its_turn(tmp_path: Path) -> None:
    async def run() -> None:
        one = await Machine("a", tmp_path, MemoryStore(), cadence=Cadence(interval_s=30.0)).start()
        await one.commit()
        await one.append(4)
        begun_s = asyncio.get_running_loop().time()
        head = await one.committer.commit_now()
        assert head.size == 5
        assert asyncio.get_running_loop().time() - begun_s < 0.5
        await one.stop()

    run_simulated(run())


def test_a_long_tail_is_committed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr("ledger.committer.BYTES_AT_ONCE", 40_000)
        store = MemoryStore()
        sizes: list[int] = []
        one = await Machine("a", tmp_path, store, limits=Limits(segment_bytes=16_384, batch_bytes=4_096)).start()
        one.committer._on_committed = lambda _, receipts: sizes.append(receipts)
        for _ in range(29):
            await one.append(10)
        begun_s = asyncio.get_running_loop().time()
        await one.commit(10)
        assert sum(sizes) == 300
        assert len(sizes) > 3
        assert asyncio.get_running_loop().time() - begun_s < 4.0
        assert (await stored_head(store)).root_bytes() == one.ledger.root
        await one.stop()

    run_simulated(run())


def sealed(first_index: int, count: int, length: int = 100) -> SealedSegment:
    return SealedSegment(Path(), SegmentKey(first_index, 1), bytes(32), count, length)


def test_a_commit_takes_whole_segments_up_to_the_seal_that_end_with_a_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.committer.BYTES_AT_ONCE", 150)
    first, states_only, second, third = sealed(0, 5), sealed(5, 0), sealed(5, 4), sealed(9, 1)
    assert _next_piece([first, states_only, second, third], 0, 5) == [first]
    assert _next_piece([first, second], 0, 5) == [first]
    assert _next_piece([states_only], 5, 5) == []
    assert _next_piece([states_only, second, third], 5, 9) == [states_only, second]
    assert _next_piece([states_only, second, third], 5, 10) == [states_only, second]
    assert _next_piece([first, second, third], 0, 10) == [first, second]


def test_a_fenced_writer_answers_nobody_and_ends(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit()
        one.link.cut = True
        two = await Machine("b", tmp_path / "b", store).start()
        assert two.waited == ["a lock-of-a"]
        index = one.ledger.append(draft(99))
        with pytest.raises(LeaseLostError):
            await one.ledger.wait_local(index)
        one.link.cut = False
        waiting = asyncio.create_task(one.ledger.wait_committed(index))
        assert isinstance(await one.ended(), WriterFencedError)
        with pytest.raises(LedgerFailedError, match="b lock-of-b has taken the log over"):
            await waiting
        assert isinstance(one.ledger.failed, WriterFencedError)
        await two.commit()
        assert (await stored_head(store)).size == 2
        await two.stop()

    run_simulated(run())


def test_a_zombies_head_that_lands_late_is_lost(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit()
        store.fail(HEAD, *[LATE] * 8)
        await one.append()
        await asyncio.sleep(4.0)
        store.faults.clear()
        one.link.cut = True
        two = await Machine("b", tmp_path / "b", store).start()
        before = await two.commit(2)
        store.land_late_ones()
        assert (await stored_head(store)).owner.startswith("b")
        await two.commit()
        assert two.ledger.committed_size == before + 2
        one.link.cut = False
        assert isinstance(await one.ended(), WriterFencedError)
        await two.stop()

    run_simulated(run())


def test_a_segment_that_the_disk_spoilt_on_its_way_to_the_store_is_not_committed(tmp_path: Path) -> None:
    """The head would name bytes that no store holds, and nobody could ever take the log over."""

    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        await one.commit()

        def spoil(key: str) -> None:
            if key.startswith(SEGMENTS):
                sealed = max(tmp_path.rglob("*.seg"))
                sealed.write_bytes(sealed.read_bytes()[:-1])

        store.before_put = spoil
        store.fail(SEGMENTS, NOT_LANDED)
        await one.append()
        assert isinstance(await one.ended(), SegmentCorruptError)
        assert (await stored_head(store)).size == 1

    run_simulated(run())


def test_what_no_retry_mends_ends_the_writer(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        store.fail(SEGMENTS, REFUSED)
        await one.append()
        assert isinstance(await one.ended(), StoreRefusedError)
        assert isinstance(one.ledger.failed, StoreRefusedError)

    run_simulated(run())


def test_a_writer_that_stops_commits_what_is_left_and_hands_over(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store, cadence=Cadence(interval_s=1_000.0)).start()
        await one.commit()
        await one.append(5)
        await one.stop()
        head = await stored_head(store)
        assert (head.size, head.lease_us) == (6, 0)
        two = await Machine("b", tmp_path / "b", store).start()
        assert two.waited == []
        assert two.ledger.size == 6
        await two.stop()

    run_simulated(run())


def test_a_writer_that_held_back_hands_over_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        terms = HeadTerms(lease_s=20.0, margin_s=4.0, spacing_s=1.1)
        one = await Machine("a", tmp_path, MemoryStore(), terms=terms, cadence=Cadence(interval_s=0.1)).start()
        await one.commit()
        await one.committer.hold_back()
        one.ledger.hurry(await one.append(5))
        await asyncio.sleep(2.0)
        assert one.ledger.committed_size == 1  # the rest goes along with the last
        begun_s = loop.time()
        await one.stop()
        assert loop.time() - begun_s < 0.1
        assert one.ledger.committed_size == 6

    run_simulated(run())


@pytest.mark.parametrize("call_s", [0.0, 0.2])
def test_holding_back_waits_for_a_commit_under_way_and_the_distance_to_the_next(tmp_path: Path, call_s: float) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        terms = HeadTerms(lease_s=20.0, margin_s=4.0, spacing_s=1.1)
        store = MemoryStore(takes_s=call_s)
        one = await Machine("a", tmp_path, store, terms=terms, cadence=Cadence(interval_s=0.1)).start()
        await one.commit()
        one.ledger.hurry(await one.append())
        await asyncio.sleep(0.2)  # it waits for its distance now
        await one.committer.hold_back()
        assert one.ledger.committed_size == 2
        await one.append()
        begun_s = loop.time()
        await one.stop()
        assert loop.time() - begun_s < 0.1 + 4 * call_s
        assert one.ledger.committed_size == 3

    run_simulated(run())


def test_a_store_that_is_silent_when_the_writer_stops_does_not_hold_it_up(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store, cadence=Cadence(hand_over_s=8.0)).start()
        await one.append(5)
        one.link.cut = True
        begun_s = asyncio.get_running_loop().time()
        await one.stop()
        assert asyncio.get_running_loop().time() - begun_s < 9.0

    run_simulated(run())


def test_receipts_that_wait_for_long_raise_an_alarm_and_no_error(tmp_path: Path) -> None:
    async def run() -> None:
        one = await Machine("a", tmp_path, MemoryStore(), cadence=Cadence(alarm_s=600.0)).start()
        await one.commit()
        await asyncio.sleep(10_000.0)
        assert not one.committer.is_late()
        one.link.cut = True
        one.ledger.append(draft(99))
        await asyncio.sleep(590.0)
        assert not one.committer.is_late()
        await asyncio.sleep(20.0)
        assert one.committer.is_late()
        one.link.cut = False
        await asyncio.sleep(20.0)
        assert not one.committer.is_late()
        assert one.ledger.committed_size == 2
        await one.stop()

    run_simulated(run())
