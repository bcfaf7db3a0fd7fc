"""A slice of the simulated schedules in every test run, and proof that the simulation finds what it is there to find.

`make simulate` runs a million of them.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from simulation.faults import DiskFate, MachineFate, StoreFate
from simulation.ledger_world import run_schedule
from simulation.schedule import Fate, Mode, make_schedule
from simulation.shrink import shrink
from simulation.sim_disk import SimFile, SimFiles

from ledger import committer, pruner, recovery, snapshots, takeover
from ledger.appender import Ledger, StoredReceipt
from ledger.authority import HEAD_KEY, Authority
from ledger.errors import ReceiptDroppedError
from ledger.format import retention, segment
from ledger.format.retention import RETENTION_KEY, Retention
from ledger.format.segment import Corrupt, Scan, Torn
from ledger.kept import KeptReceipts
from ledger.orphans import OrphanCollector
from ledger.protocol import pruning
from ledger.protocol.commit import Committed, Fenced, HeadWrite, LookAgain, PutAgain
from ledger.protocol.head import Head, decode_head
from ledger.protocol.takeover import Adopt
from ledger.pruner import Pruner
from ledger.store import settled
from ledger.store.object_store import CREATE, Object, ObjectStore, PutOutcome

SLICE = 200
SEEDS_MAX = 400


@pytest.mark.parametrize("part", range(5))
def test_no_schedule_violates_anything(part: int) -> None:
    for seed in range(part, SLICE, 5):
        outcome = run_schedule(make_schedule(seed))
        assert outcome.violation is None, f"make simulate SEED={seed} SCHEDULES=1: {outcome.violation}"


@pytest.mark.parametrize("mode", Mode)
def test_one_seed_gives_one_course_of_events(mode: Mode) -> None:
    for seed in range(8):
        schedule = make_schedule(seed, mode)
        assert run_schedule(schedule) == run_schedule(schedule)


def test_what_is_old_is_dropped() -> None:
    """Else nothing would be shown of it."""
    schedules = [make_schedule(seed, Mode.EMBEDDED, [MachineFate.KILL], forgets=True) for seed in range(12)]
    traces = "\n".join(line for schedule in schedules for line in run_schedule(schedule).trace)
    assert re.search(r"drops receipts below [1-9]\d+ and segments below [1-9]", traces)
    assert re.search(r"seg/\S+ is removed", traces)
    assert re.search(r"tile/entries/\S+ is removed", traces)
    assert "dropped: " in traces


def test_schedules_get_somewhere() -> None:
    """Else everything would hold."""
    fates = (MachineFate.CUT_OFF, MachineFate.CUT_OFF, MachineFate.POWER)
    outcomes = [run_schedule(make_schedule(seed, Mode.SHARED, fates)) for seed in range(40)]
    assert sum(outcome.answered for outcome in outcomes) > 150
    assert sum(outcome.committed for outcome in outcomes) > 200
    traces = "\n".join(line for outcome in outcomes for line in outcome.trace)
    for happened in (
        "adopted",
        "checkpoint of",
        "WriterFencedError",
        "its power fails",
        "LeaseLostError",
        "began at a snapshot",
    ):
        assert happened in traces


# Bugs, each planted into the code under test. Who adds one here names what it breaks.

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, tuple[Plant, Mode, str, tuple[Fate, ...], bool]] = {}


def breaks(mode: Mode, found: str, *fates: Fate, forgets: bool = False) -> Callable[[Plant], Plant]:
    """Register a bug: where it shows, what is found then (a regular expression), and the faults that it takes.
    `forgets`: it shows where what is old is dropped.
    """

    def register(plant: Plant) -> Plant:
        BUGS[plant.__name__] = (plant, mode, found, fates, forgets)
        return plant

    return register


@breaks(Mode.SHARED, "committed, and it is not|receipts were published", *StoreFate)
def an_unknown_outcome_counts_as_a_win(planting: pytest.MonkeyPatch) -> None:
    sound = HeadWrite.after_put

    def after_put(self: HeadWrite, outcome: PutOutcome) -> Committed | LookAgain:
        found = sound(self, outcome)
        return Committed(self.if_generation + 1) if isinstance(found, LookAgain) and found.after_s else found

    planting.setattr(HeadWrite, "after_put", after_put)


@breaks(Mode.SHARED, "the head went from|wrote a head of epoch")
def a_lost_head_is_written_again_under_whatever_generation_is_there(planting: pytest.MonkeyPatch) -> None:
    sound = Authority._swap

    async def swap(self: Authority, write: HeadWrite) -> tuple[int, float]:
        found = await self._store.get(HEAD_KEY)
        return await sound(self, HeadWrite(write.data, CREATE if found is None else found.generation))

    planting.setattr(Authority, "_swap", swap)


@breaks(Mode.SHARED, "is out|never in the store")
def a_head_is_published_before_it_is_in_the_store(planting: pytest.MonkeyPatch) -> None:
    sound = Authority._swap

    async def swap(self: Authority, write: HeadWrite) -> tuple[int, float]:
        self._head = decode_head(write.data)
        return await sound(self, write)

    planting.setattr(Authority, "_swap", swap)


@breaks(Mode.SHARED, "had taken over")
def a_takeover_does_not_wait_for_the_lease(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(takeover, "wait_s", lambda *_, **__: 0.0)


@breaks(Mode.SHARED, "had taken over", MachineFate.CUT_OFF)
def local_answers_go_on_after_the_lease(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(Authority, "may_answer", lambda _: True)


@breaks(Mode.SHARED, "not the committed one|does not continue|is damaged")
def a_tail_is_adopted_without_a_look_at_what_is_committed(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(takeover, "judge_log", lambda local, *_, **__: Adopt(0))


@breaks(Mode.SHARED, "no progress|did not end")
def a_put_that_was_lost_to_another_writer_is_tried_again(planting: pytest.MonkeyPatch) -> None:
    """Forever: whoever is fenced never learns of it."""

    def after_get(self: HeadWrite, found: Object | None) -> Committed | PutAgain | Fenced:
        return Committed(found.generation) if found is not None and found.data == self.data else PutAgain()

    planting.setattr(HeadWrite, "after_get", after_get)


@breaks(Mode.SHARED, "a segment that the store does not have", DiskFate.ROT)
def a_segment_is_committed_as_it_was_sealed_whatever_was_sent(planting: pytest.MonkeyPatch) -> None:
    def ends_of(disk: Any, one: Any) -> tuple[segment.SegmentHeader, bytes]:
        data = disk.read(one.path)
        return segment.decode_header(data), data[-32:]

    planting.setattr(committer, "_ends_of", ends_of)


@breaks(Mode.LOCAL, "SegmentCorruptError|is gone|was .* and is")
def a_batch_is_not_synced(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(SimFile, "append", lambda self, data: self._files.write(self._path, self._inode, data))


@breaks(Mode.LOCAL, "SegmentCorruptError|is gone|a batch from")
def what_was_found_in_the_page_cache_is_taken_for_durable(planting: pytest.MonkeyPatch) -> None:
    sound = SimFiles.replace

    def replace(self: SimFiles, path: Any, data: bytes, mode: int = 0o644) -> None:
        if path.suffix == ".open":
            del self.disk.inode(path).data[len(data) :]
        else:
            sound(self, path, data, mode)

    planting.setattr(SimFiles, "replace", replace)


@breaks(Mode.LOCAL, "is gone|was .* and is|a batch|was not told", DiskFate.ROT, MachineFate.FLIP, MachineFate.KILL)
def damage_is_cut_off_as_if_it_were_torn(planting: pytest.MonkeyPatch) -> None:
    sound = segment.scan

    def scan(data: bytes, *, sealed: bool = False) -> Scan:
        found = sound(data, sealed=sealed)
        verdict = found.verdict
        return found._replace(verdict=Torn(*verdict)) if isinstance(verdict, Corrupt) else found

    planting.setattr(segment, "scan", scan)
    planting.setattr(recovery._Replay, "_refuse_damage", lambda *_: None)


@breaks(Mode.LOCAL, "SegmentCorruptError")
def a_torn_tail_is_taken_for_damage(planting: pytest.MonkeyPatch) -> None:
    sound = segment.scan
    planting.setattr(segment, "scan", lambda data, *, sealed=False: sound(data, sealed=True))


@breaks(Mode.SHARED, "committed, and it is not")
def receipts_are_marked_committed_before_the_head_is_written(planting: pytest.MonkeyPatch) -> None:
    sound = committer.Committer._upload

    async def upload(self: Any, one: Any) -> Any:
        self._log.mark_committed(one.end)
        return await sound(self, one)

    planting.setattr(committer.Committer, "_upload", upload)


@breaks(Mode.SHARED, "which is committed|the store does not have")
def copies_are_collected_without_a_look_at_which_one_is_used(planting: pytest.MonkeyPatch) -> None:
    def orphans(self: OrphanCollector, head: Head, listed: Iterable[str]) -> list[str]:
        return [key for key in listed if head.segment is not None and key != head.segment.key]

    planting.setattr(OrphanCollector, "_orphans", orphans)


@breaks(Mode.SHARED, "a snapshot was made when it was there", MachineFate.KILL, MachineFate.CUT_OFF)
def a_snapshot_of_another_history_is_taken_for_a_loss(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(snapshots, "QUARANTINE", "nothing is called so")


@breaks(Mode.EMBEDDED, "drops what no public receipt says", forgets=True)
def what_goes_is_said_before_it_is_public(planting: pytest.MonkeyPatch) -> None:
    async def wait_public(self: Pruner, index: int) -> None:
        pass

    planting.setattr(Pruner, "_wait_public", wait_public)


@breaks(Mode.EMBEDDED, "which is committed, and there is no other copy", forgets=True)
def segments_go_before_that_is_said(planting: pytest.MonkeyPatch) -> None:
    sound = settled.put_settled

    async def put_settled(store: ObjectStore, key: str, data: bytes, **terms: Any) -> bool:
        if key == RETENTION_KEY and retention.decode(data).segments_from:
            return True
        return await sound(store, key, data, **terms)

    planting.setattr(pruner, "put_settled", put_settled)


@breaks(Mode.EMBEDDED, "drops receipts below|drops the last segment", forgets=True)
def segments_go_that_a_snapshot_needs(planting: pytest.MonkeyPatch) -> None:
    sound = pruning.plan

    def plan(said: Retention, wanted: pruning.Wanted, **known: Any) -> pruning.Plan | None:
        found = sound(said, wanted, **known)
        if found is None or not said.snapshots:
            return found
        return found._replace(segments_from=max(found.segments_from, known["segments"][-1]))

    planting.setattr(pruner, "plan", plan)


@breaks(Mode.EMBEDDED, "drops receipts below|ended with|is gone", forgets=True)
def the_disk_forgets_what_a_start_needs(planting: pytest.MonkeyPatch) -> None:
    sound = Ledger.drop_below

    async def drop_below(self: Ledger, first_index: int) -> int:
        return await sound(self, first_index + 40)

    planting.setattr(Ledger, "drop_below", drop_below)


@breaks(Mode.SHARED, "said that receipt", forgets=True)
def what_is_only_dropped_here_counts_as_dropped(planting: pytest.MonkeyPatch) -> None:
    async def read(self: KeptReceipts, index: int) -> StoredReceipt:
        if index < self._log.kept_from:
            raise ReceiptDroppedError(index, self._log.kept_from)
        return await self._log.read(index)

    planting.setattr(KeptReceipts, "read", read)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, mode, found, fates, forgets = BUGS[bug]
    plant(monkeypatch)
    for seed in range(SEEDS_MAX):
        outcome = run_schedule(make_schedule(seed, mode, fates, forgets=forgets))
        if outcome.violation is not None:
            assert re.search(found, outcome.violation)
            return
    pytest.fail(f"{SEEDS_MAX} seeds did not find it")


def test_a_schedule_shrinks_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    a_takeover_does_not_wait_for_the_lease(monkeypatch)
    schedule = next(
        schedule
        for schedule in (make_schedule(seed, Mode.SHARED) for seed in range(SEEDS_MAX))
        if run_schedule(schedule).violation is not None and len(schedule.faults) + len(schedule.requests) > 10
    )
    small, outcome = shrink(schedule, run_schedule)
    assert outcome.violation is not None
    assert run_schedule(small) == outcome
    assert len(small.faults) + len(small.requests) <= 3
