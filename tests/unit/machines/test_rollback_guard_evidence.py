"""How samples of two arms become intervals, and what their evidence may conclude."""

import math
import random
import statistics
from typing import Any

import pytest

from governors.fsm.table import step
from governors.machines.events import Event
from governors.machines.rollback_evidence import (
    CONVICTED,
    Finding,
    add_sample,
    faded,
    is_due,
    is_proven,
    numbers,
    read,
    weigh,
    within,
)
from governors.machines.rollback_guard import ROLLBACK_GUARD
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Evidence, Pending, Status
from ingest.signals import INTEGER_MAX, DeploySample, DeployStarted

S = 1_000_000
START_US = 1_790_000_000 * S
POLICY = RollbackPolicy()


def add(
    pending: Pending,
    arm: Any,
    requests: int,
    errors: int = 0,
    slow: int = 0,
    *,
    at_s: float,
    now_s: float | None = None,
    window_s: float = 15.0,
) -> Pending:
    sample = DeploySample("d", arm, requests, errors, slow, window_s)
    now_us = START_US + int((at_s if now_s is None else now_s) * S)
    return add_sample(pending, sample, START_US + int(at_s * S), now_us)


def due(pending: Pending, now_s: float) -> bool:
    return is_due(pending, Evidence(weighed_us=START_US), POLICY, START_US + int(now_s * S))


def both(canary: tuple[int, int, int], baseline: tuple[int, int, int], *, at_s: float, skew_s: float = 0.0) -> Pending:
    pending = add(Pending(), "canary", *canary, at_s=at_s)
    return add(pending, "baseline", *baseline, at_s=at_s + skew_s)


def weighed(pending: Pending, evidence: Evidence | None = None) -> Any:
    return weigh(evidence or Evidence(weighed_us=START_US), pending, POLICY, START_US)


# When an interval is weighed


def test_an_interval_waits_for_both_arms() -> None:
    canary_only = add(Pending(), "canary", 100, at_s=15)
    assert not due(canary_only, 15)
    assert due(add(canary_only, "baseline", 100, at_s=15), 15)


def test_an_interval_covers_at_least_fifteen_seconds_of_observation() -> None:
    assert not due(both((10, 0, 0), (10, 0, 0), at_s=14.9), 20)
    assert due(both((10, 0, 0), (10, 0, 0), at_s=15), 20)


def test_arms_are_weighed_when_they_have_reported_to_half_a_window_equally_far() -> None:
    assert due(both((10, 0, 0), (10, 0, 0), at_s=20, skew_s=7.5), 28)
    assert not due(both((10, 0, 0), (10, 0, 0), at_s=20, skew_s=8), 28)


def test_a_slow_reporter_is_awaited_for_its_whole_window_when_its_window_is_known() -> None:
    slow = add(Pending(), "baseline", 1000, at_s=5, window_s=300)
    pending = add(slow, "canary", 10, at_s=200)
    assert not due(pending, 200)
    assert due(pending, 305)


def test_the_other_arm_is_not_awaited_for_ever() -> None:
    pending = add(Pending(), "canary", 100, at_s=15)
    assert not due(pending, 74)
    assert due(pending, 75)


def test_late_and_disordered_samples_join_the_open_interval() -> None:
    pending = both((10, 1, 0), (100, 1, 0), at_s=30)
    late = add(pending, "canary", 5, 1, at_s=3, now_s=31)
    assert (late.canary_requests, late.canary_errors) == (15, 2)
    assert late.canary_through_us == START_US + 30 * S


def test_a_clock_that_runs_ahead_counts_as_now() -> None:
    pending = add(Pending(), "canary", 10, at_s=3_600, now_s=20)
    assert pending.canary_through_us == START_US + 20 * S


def test_whether_an_interval_is_due_never_depends_on_errors() -> None:
    for at_s in (3, 15, 20, 80):
        good, bad = both((10, 0, 0), (10, 0, 0), at_s=at_s), both((10, 10, 10), (10, 10, 10), at_s=at_s)
        assert due(good, at_s) == due(bad, at_s)


def test_weighing_opens_a_new_interval_that_counts_nothing_twice() -> None:
    evidence, pending, _ = weighed(both((100, 1, 2), (1000, 3, 4), at_s=15))
    assert (pending.canary_requests, pending.baseline_requests, pending.waiting_since_us) == (0, 0, 0)
    again, _, _ = weigh(evidence, add(pending, "canary", 1, 1, 1, at_s=30), POLICY, START_US)
    assert (again.canary.requests, again.canary.errors, again.canary.slow) == (101, 2, 3)
    assert (again.baseline.requests, again.baseline.errors, again.baseline.slow) == (1000, 3, 4)


def test_an_arm_without_a_pair_teaches_the_e_process_nothing() -> None:
    evidence, _, reading = weighed(add(Pending(), "canary", 1000, 500, at_s=15))
    assert (evidence.errors_sums, reading.log_e_errors) == ((), 0.0)
    assert evidence.canary.errors == 500


def test_counts_stay_below_what_a_receipt_can_hold() -> None:
    pending = Pending()
    for at_s in (15, 16):
        pending = add(pending, "canary", INTEGER_MAX, INTEGER_MAX, INTEGER_MAX, at_s=at_s)
        pending = add(pending, "baseline", INTEGER_MAX, INTEGER_MAX, INTEGER_MAX, at_s=at_s)
    evidence, _, reading = weighed(pending)
    evidence, _, reading = weighed(pending, evidence)
    assert all(isinstance(v, int) and abs(v) <= INTEGER_MAX for v in numbers(evidence, reading, POLICY).values())


# What is found


def test_a_common_fault_that_one_arm_reports_first_does_not_convict() -> None:
    """The outage begins after the baseline's window ends: for this interval it looks like the canary's alone."""
    pending = both((100, 60, 0), (1000, 5, 0), at_s=22, skew_s=-7)
    evidence, pending, reading = weighed(pending)
    assert reading.finding is Finding.UNCONFIRMED
    pending = add(pending, "baseline", 1000, 600, at_s=30)
    pending = add(pending, "canary", 100, 60, at_s=37)
    _, _, reading = weighed(pending, evidence)
    assert reading.finding is Finding.BOTH


def test_arms_out_of_step_convict_when_the_next_interval_agrees() -> None:
    evidence, pending, first = weighed(both((100, 60, 0), (1000, 5, 0), at_s=22, skew_s=-7))
    pending = add(pending, "baseline", 1000, 5, at_s=30)
    pending = add(pending, "canary", 100, 60, at_s=37)
    _, _, second = weighed(pending, evidence)
    assert (first.finding, second.finding) == (Finding.UNCONFIRMED, Finding.BY_ERRORS)


def test_a_baseline_that_burns_shields_the_deploy_from_every_verdict() -> None:
    for canary in ((100, 100, 0), (100, 30, 90)):
        _, _, reading = weighed(both(canary, (1000, 100, 10), at_s=15))
        assert reading.log_e_errors > math.log(200) or reading.log_e_slow > math.log(200)
        assert reading.finding is Finding.BOTH


def test_a_burst_of_five_minutes_ago_no_longer_burns() -> None:
    evidence, pending, reading = weighed(both((1000, 200, 0), (1000, 200, 0), at_s=15))
    assert reading.finding is Finding.BOTH
    for minute in range(1, 7):
        at_s = 15 + 60 * minute
        pending = add(pending, "canary", 1000, 1, at_s=at_s)
        pending = add(pending, "baseline", 1000, 1, at_s=at_s)
        evidence, pending, reading = weigh(evidence, pending, POLICY, START_US)
    assert reading.finding is Finding.CLEAR
    assert len(evidence.minutes) <= 6


def test_one_error_is_not_burning() -> None:
    _, _, reading = weighed(both((3, 1, 0), (3, 1, 0), at_s=15))
    assert reading.finding is Finding.CLEAR


def test_nothing_seen_is_clear_and_faded_and_proves_nothing() -> None:
    reading = read(Evidence(), POLICY)
    assert reading.finding is Finding.CLEAR
    assert faded(reading)
    assert not is_proven(Evidence(), POLICY)


def test_dispersion_asks_for_more() -> None:
    pending = both((100, 8, 0), (1000, 5, 0), at_s=15)
    _, _, plain = weigh(Evidence(weighed_us=START_US), pending, POLICY, START_US)
    _, _, bursty = weigh(Evidence(weighed_us=START_US), pending, RollbackPolicy(dispersion_milli=4_000), START_US)
    assert plain.finding in CONVICTED
    assert bursty.finding not in CONVICTED


@pytest.mark.parametrize(("requests", "events", "expected"), [(1000, 5, True), (1000, 14, False), (50, 1, True)])
def test_within_allows_chance_and_no_more(requests: int, events: int, expected: bool) -> None:
    assert within(requests, events, 5_000 if requests == 1000 else 1_000) is expected


# Calibration: the whole machine on seeded traffic of 5 and 45 requests a second


def poisson(rng: random.Random, mean: float) -> int:
    if mean > 60:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    threshold, count, product = math.exp(-mean), 0, rng.random()
    while product >= threshold:
        count += 1
        product *= rng.random()
    return count


def play(rng: random.Random, base: float, ratio: float, *, intervals: int) -> tuple[Status, int]:
    """Where the machine is after so many intervals, or when it first leaves watch and hold, and when that was."""
    state = ROLLBACK_GUARD.initial()
    started = Event("d", START_US, DeployStarted("d", "r2", "r1"))
    state = step(ROLLBACK_GUARD.table, state, started, POLICY, START_US).state
    for index in range(1, intervals + 1):
        now_us = START_US + 15 * index * S
        for arm, per_s, rate in (("canary", 5, base * ratio), ("baseline", 45, base)):
            requests = poisson(rng, per_s * 15)
            errors = min(requests, poisson(rng, requests * rate))
            body = DeploySample("d", arm, requests, errors, 0, 15.0)  # type: ignore[arg-type]
            state = step(ROLLBACK_GUARD.table, state, Event("s", now_us, body), POLICY, now_us).state
        if state.status not in {Status.WATCHING, Status.HOLD}:
            return state.status, 15 * index
    return state.status, 15 * intervals


@pytest.mark.parametrize("base", [0.001, 0.005, 0.01])
def test_good_deploys_are_left_alone(base: float) -> None:
    rng = random.Random(int(base * 1e6))
    ends = [play(rng, base, 1.0, intervals=60)[0] for _ in range(150)]
    assert ends.count(Status.ROLLING_BACK) <= 1


def test_ten_times_the_errors_are_rolled_back_within_two_intervals_at_the_median() -> None:
    rng = random.Random(10)
    played = [play(rng, 0.005, 10.0, intervals=40) for _ in range(100)]
    assert {status for status, _ in played} == {Status.ROLLING_BACK}
    assert statistics.median(after_s for _, after_s in played) <= 30


def test_five_times_the_errors_are_rolled_back_within_two_minutes_at_the_median() -> None:
    rng = random.Random(11)
    played = [play(rng, 0.005, 5.0, intervals=80) for _ in range(60)]
    assert {status for status, _ in played} == {Status.ROLLING_BACK}
    assert statistics.median(after_s for _, after_s in played) <= 120
