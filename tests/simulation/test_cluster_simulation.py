"""A slice of the simulated schedules of several workers in every test run, and proof that they would show what is
wrong.

`make simulate` runs thousands.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from simulation.__main__ import CLUSTER_MARKS, marks_in
from simulation.cluster_growth import run_growth
from simulation.cluster_schedule import Fate, make_schedule
from simulation.cluster_world import run_cluster
from simulation.shrink import shrink

from governors.cluster import holder, ownership
from governors.cluster.holder import Assignment
from governors.cluster.ownership import Aim
from governors.cluster.workers import Member
from governors.tenants.fold import WindowFold
from ledger import takeover
from ledger.appender import Ledger
from ledger.authority import Authority

SLICE = 12
SEEDS_MAX = 60


@pytest.mark.parametrize("part", range(2))
def test_no_schedule_of_several_workers_violates_anything(part: int) -> None:
    for seed in range(part, SLICE, 2):
        outcome = run_cluster(make_schedule(seed))
        assert outcome.violation is None, f"make simulate SEED={seed} SCHEDULES=0 CLUSTERS=1: {outcome.violation}"


def test_schedules_of_several_workers_get_somewhere() -> None:
    """Else everything would hold."""
    fates = (Fate.KILL_ALL, Fate.CUT_STORE, Fate.KILL, Fate.CUT_ALL, Fate.STOP)
    outcomes = [run_cluster(make_schedule(seed, fates)) for seed in range(10, 15)]
    assert all(outcome.answered == outcome.committed > 5 for outcome in outcomes)
    seen = {mark for outcome in outcomes for mark in marks_in("\n".join(outcome.trace), CLUSTER_MARKS)}
    assert seen >= CLUSTER_MARKS.keys() - {"a partition that moved again and again"}


def test_one_seed_gives_one_course_of_events() -> None:
    for seed in range(2):
        assert run_cluster(make_schedule(seed)) == run_cluster(make_schedule(seed))


@pytest.mark.parametrize(("seed", "most", "partitions", "at_once"), [(8, 4, 13, False), (1, 10, 8, True)])
def test_a_cluster_that_grows_and_shrinks_moves_only_what_must_move(
    seed: int, most: int, partitions: int, at_once: bool
) -> None:
    outcome = run_growth(seed, most, partitions, at_once=at_once)
    assert outcome.violation is None
    assert outcome.answered > 30


def test_what_is_handed_over_before_all_have_heard_of_a_newcomer_moves_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SETTLE_S", 0.0)
    violations = (run_growth(seed, 4, 13, at_once=False).violation for seed in range(SEEDS_MAX))
    found = next((one for one in violations if one is not None), "")
    assert "instead of once" in found


# Bugs, each planted into the code under test. Who adds one here names what it breaks.

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, tuple[Plant, str, tuple[Fate, ...]]] = {}


def breaks(found: str, *fates: Fate) -> Callable[[Plant], Plant]:
    """Register a bug: what is found then (a regular expression), and the faults that it takes."""

    def register(plant: Plant) -> Plant:
        BUGS[plant.__name__] = (plant, found, fates)
        return plant

    return register


@breaks("had taken over", Fate.KILL, Fate.CUT_STORE)
def a_takeover_does_not_wait_for_the_lease(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(takeover, "wait_s", lambda *_, **__: 0.0)


@breaks("had taken over", Fate.CUT_STORE)
def answers_go_on_after_the_lease(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(Authority, "may_answer", lambda _: True)


@breaks("was decided twice", Fate.KILL, Fate.STOP)
def a_new_owner_does_not_know_what_was_decided_before(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(WindowFold, "on_receipt", lambda *_: None)


@breaks("committed, and it is not", Fate.POWER, Fate.CUT_STORE)
def what_is_on_the_disk_counts_as_committed(planting: pytest.MonkeyPatch) -> None:
    planting.setattr(Ledger, "wait_committed", Ledger.wait_local)


@breaks("not where they should be", Fate.KILL, Fate.STOP)
def workers_are_ranked_by_names_that_change_with_each_start(planting: pytest.MonkeyPatch) -> None:
    sound = ownership._order

    def order(partition: int, members: Any, me: str, *, is_leaving: bool) -> list[Member]:
        found = {one.beat.worker: one for one in sound(partition, members, me, is_leaving=is_leaving)}
        return [found[name] for name in ownership.ranked(partition, found)]

    planting.setattr(ownership, "_order", order)


@breaks("not where they should be", Fate.KILL, Fate.STOP)
def nothing_is_ever_handed_over(planting: pytest.MonkeyPatch) -> None:
    sound = ownership.aim_of

    def aim_of(*args: Any, **terms: Any) -> Aim:
        found = sound(*args, **terms)
        return Aim.KEEP if found is Aim.RELEASE else found

    planting.setattr(holder, "aim_of", aim_of)


@breaks("not where they should be|moved on|had no owner", Fate.KILL)
def everybody_wants_everything(planting: pytest.MonkeyPatch) -> None:
    def aim_of(*_: Any, has_it: bool, **__: Any) -> Aim:
        return Aim.KEEP if has_it else Aim.SEEK

    planting.setattr(holder, "aim_of", aim_of)


@breaks("had no owner|not where they should be", Fate.DRAIN)
def who_was_drained_never_takes_part_again(planting: pytest.MonkeyPatch) -> None:
    sound = Assignment.leave

    def leave(self: Assignment, *, leaving: bool) -> None:
        if leaving:
            sound(self, leaving=True)

    planting.setattr(Assignment, "leave", leave)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_of_several_workers_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, found, fates = BUGS[bug]
    plant(monkeypatch)
    for seed in range(SEEDS_MAX):
        outcome = run_cluster(make_schedule(seed, fates))
        if outcome.violation is not None:
            assert re.search(found, outcome.violation)
            return
    pytest.fail(f"{SEEDS_MAX} seeds did not find it")


def test_a_schedule_of_several_workers_shrinks_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_is_ever_handed_over(monkeypatch)
    schedule = next(
        schedule
        for schedule in (make_schedule(seed, (Fate.KILL, Fate.STOP)) for seed in range(SEEDS_MAX))
        if len(schedule.faults) <= 3 and run_cluster(schedule).violation is not None
    )
    small, outcome = shrink(schedule, run_cluster)
    assert outcome.violation is not None
    assert not small.requests
    assert len(small.faults) <= len(schedule.faults)
    assert run_cluster(small) == outcome
