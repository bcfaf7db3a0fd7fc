"""What is normal for a service, and a deploy without a baseline that is compared with it."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.fsm.table import Verdict, step
from governors.machines.events import ActionResult, Event, EventBody, OverrideGranted, Timeout
from governors.machines.explain import explain
from governors.machines.rollback_guard import ROLLBACK_GUARD, TABLE
from governors.machines.rollback_past import HOUR_US, add_past, before_deploy
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Before, Cause, Hour, RollbackState, Status
from ingest.signals import DeploySample, DeployStarted

S = 1_000_000
NOON_US = 1_790_000_000 * S // HOUR_US * HOUR_US
POLICY = RollbackPolicy()


def sample(requests: int, errors: int = 0, slow: int = 0, arm: Any = "baseline") -> DeploySample:
    return DeploySample("d", arm, requests, errors, slow, 15.0)


def past_of(*samples: tuple[int, int, int], every_s: int = 60) -> tuple[Hour, ...]:
    """Samples of requests, errors and slow ones that end at noon."""
    past: tuple[Hour, ...] = ()
    for number, counts in enumerate(samples):
        at_us = NOON_US - (len(samples) - number) * every_s * S
        past = add_past(past, sample(*counts), at_us, at_us)
    return past


# What is remembered


def test_counts_are_kept_by_the_hour_for_a_week_and_an_hour() -> None:
    past: tuple[Hour, ...] = ()
    for hour in range(400):
        at_us = NOON_US + hour * HOUR_US
        for _ in range(2):
            past = add_past(past, sample(100, 3, 1), at_us, at_us)
    first = (NOON_US // HOUR_US) + 400 - 1 - 169
    assert [one.hour for one in past] == list(range(first, first + 170))
    assert past[0][1:] == (200, 6, 2, 2, 180_000)


def test_what_comes_late_joins_its_hour_and_no_other() -> None:
    past = add_past(add_past((), sample(10), NOON_US, NOON_US), sample(10), NOON_US + HOUR_US, NOON_US + HOUR_US)
    late = add_past(past, sample(5, 1), NOON_US + 7, NOON_US + HOUR_US)
    assert [one.requests for one in late] == [15, 10]
    assert add_past(late, sample(5, 1), NOON_US - HOUR_US, NOON_US + HOUR_US) == late


def test_a_clock_that_runs_ahead_counts_as_now() -> None:
    assert add_past((), sample(10), NOON_US + 9 * HOUR_US, NOON_US)[0].hour == NOON_US // HOUR_US


@given(st.lists(st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)), max_size=20))
def test_a_record_can_hold_it_whatever_is_counted(counts: list[tuple[int, int]]) -> None:
    past: tuple[Hour, ...] = ()
    for requests, errors in counts:
        past = add_past(past, sample(requests, min(requests, errors)), NOON_US, NOON_US)
    assert all(number < 2**53 for one in past for number in one)
    before_deploy(past, NOON_US, POLICY)


# What is expected


def expected(past: tuple[Hour, ...], **policy: Any) -> Before:
    before = before_deploy(past, NOON_US, RollbackPolicy(**policy))
    assert before is not None
    return before


def test_nothing_is_expected_where_nothing_is_known() -> None:
    assert before_deploy((), NOON_US, POLICY) is None
    assert before_deploy(past_of((0, 0, 0)), NOON_US, POLICY) is None
    old_us = NOON_US - 24 * HOUR_US
    assert before_deploy(add_past((), sample(1_000), old_us, old_us), NOON_US, POLICY) is None


def test_the_bound_comes_nearer_the_more_is_known() -> None:
    bounds = [expected(past_of((size, size // 200, 0))).errors_share for size in (400, 4_000, 400_000)]
    assert bounds[0] > bounds[1] > bounds[2] > 0.005
    assert bounds[2] < 0.0056


def test_the_worse_of_the_last_hour_and_of_last_weeks_counts() -> None:
    week_us = NOON_US - 168 * HOUR_US
    bad_week = add_past((), sample(100_000, 2_000), week_us, week_us)
    past = bad_week + past_of((100_000, 500, 0))
    before = expected(past)
    assert (before.requests, before.errors) == (200_000, 2_500)
    assert before.errors_share == expected(bad_week).errors_share > 0.02


def test_errors_that_come_in_clumps_are_told_from_those_that_do_not() -> None:
    chance = random.Random(5)
    calm = past_of(*((1_000, sum(chance.random() < 0.005 for _ in range(1_000)), 0) for _ in range(60)))
    clumps = past_of(*((1_000, 25 if number % 5 == 0 else 0, 0) for number in range(60)))
    assert expected(calm).dispersion == 1.0
    assert 15 < expected(clumps).dispersion < 25
    assert expected(clumps).errors_share > expected(calm).errors_share * 1.2
    assert expected(calm, dispersion_milli=3_000).dispersion == 3.0
    assert expected(past_of(*([(1_000, 25, 0), (1_000, 0, 0)] * 10))).dispersion == 1.0, "too few samples to say"


# A deploy without a baseline


class Guard:
    """One machine and its clock, in seconds since noon, with an hour of 0.5 % errors before it."""

    def __init__(self, *, errors: int = 5, **policy: Any) -> None:
        self.policy = RollbackPolicy(**policy)
        self.state: RollbackState = ROLLBACK_GUARD.initial()
        self.now_s = -3_600
        for _ in range(60):
            self.now_s += 60
            self.tell(sample(1_000, errors, 2))
        self.tell(DeployStarted("d", "r2", "r1"))

    def tell(self, body: EventBody) -> Verdict[RollbackState]:
        now_us = NOON_US + self.now_s * S
        verdict = step(TABLE, self.state, Event("e", now_us, body), self.policy, now_us)
        self.state = verdict.state
        assert explain(ROLLBACK_GUARD.rules, verdict.rule, verdict.evidence) != verdict.rule
        return verdict

    def canary(self, requests: int, errors: int, slow: int = 0, times: int = 1) -> Verdict[RollbackState]:
        for _ in range(times):
            self.now_s += 15
            verdict = self.tell(sample(requests, errors, slow, "canary"))
        return verdict

    def at_deadline(self) -> Verdict[RollbackState]:
        assert self.state.deadline_us is not None
        self.now_s = max(self.now_s, (self.state.deadline_us - NOON_US) // S)
        return self.tell(Timeout())


def test_a_canary_far_worse_than_what_was_before_is_rolled_back() -> None:
    guard = Guard()
    verdict = guard.canary(200, 12, times=5)
    assert (verdict.decision, verdict.rule) == ("rollback", "rollback.past")
    assert verdict.evidence["before_requests"] == 60_000
    assert verdict.evidence["limit_errors_milli_nats"] == 5_991, "half of alpha has gone into the bound"
    guard.tell(ActionResult("a", "rollback", ok=True))
    guard.now_s += 60
    guard.tell(sample(1_000, 5))
    assert guard.at_deadline().rule == "rollback.verified", "as few errors as before"


def test_slow_requests_are_compared_with_what_was_before_too() -> None:
    assert Guard().canary(200, 1, slow=9, times=8).rule in {"rollback.past", "rollback.unwatched_sample"}


def test_a_canary_like_what_was_before_is_left_alone_and_proves_nothing() -> None:
    guard = Guard()
    guard.canary(200, 1, times=110)
    assert guard.state.status is Status.WATCHING
    assert guard.at_deadline().rule == "rollback.unproven"


def test_a_service_that_failed_as_much_before_does_not_blame_the_deploy() -> None:
    guard = Guard(errors=60)
    guard.canary(200, 12, times=20)
    assert (guard.state.status, guard.state.cause) == (Status.HOLD, Cause.UNPAIRED)
    assert guard.at_deadline().rule == "rollback.hold_unheard"


def suspected(**policy: Any) -> Guard:
    """Over the odds of a hold, and not over those of a rollback."""
    guard = Guard(**policy)
    while guard.state.status is Status.WATCHING:
        guard.canary(200, 3)
    assert (guard.state.status, guard.state.cause) == (Status.HOLD, Cause.ALONE)
    return guard


def test_what_is_only_suspected_without_a_baseline_calls_a_person() -> None:
    guard = suspected()
    assert guard.at_deadline().rule == "rollback.hold_alone"
    assert guard.state.status is Status.ESCALATED


def test_the_policy_may_take_the_risk() -> None:
    guard = suspected(unpaired="rollback")
    guard.canary(200, 2)
    assert guard.at_deadline().rule == "rollback.hold_elapsed"


def test_a_baseline_that_reports_takes_the_place_of_the_past() -> None:
    guard = suspected()
    guard.now_s += 15
    guard.tell(sample(1_000, 40))
    guard.tell(sample(200, 8, 0, "canary"))
    assert guard.state.evidence.errors_alone == ()
    assert guard.state.evidence.errors_sums
    guard.canary(200, 100, times=6)
    assert guard.state.status is not Status.ROLLING_BACK, "and where it falls silent the past does not come back"


def test_a_veto_spends_what_was_seen_and_keeps_what_was_before() -> None:
    guard = suspected()
    before = guard.state.evidence.before
    guard.tell(OverrideGranted(mode="veto", until_us=0, by="ann", reason="known"))
    assert guard.state.evidence.errors_alone == ()
    assert guard.state.evidence.before == before is not None


def test_what_a_canary_or_a_rollback_serves_is_nobodys_past() -> None:
    guard = Guard()
    past = guard.state.past
    guard.canary(200, 12, times=5)
    assert guard.state.status is Status.ROLLING_BACK
    assert guard.tell(sample(1_000, 900)).rule == "rollback.unwatched_sample"
    guard.tell(ActionResult("a", "rollback", ok=True))
    guard.now_s += 60
    guard.tell(sample(1_000, 0))
    guard.at_deadline()
    assert str(guard.state.status) == "COOLDOWN"
    assert guard.state.past == past
    guard.tell(sample(1_000, 900, 0, "canary"))
    assert guard.state.past == past
    guard.tell(sample(1_000, 5))
    assert guard.state.past != past


@pytest.mark.parametrize("hours", [1, 200])
def test_the_state_stays_small(hours: int) -> None:
    state: RollbackState = ROLLBACK_GUARD.initial()
    for hour in range(hours):
        now_us = NOON_US + hour * HOUR_US
        state = step(TABLE, state, Event("e", now_us, sample(10**6, 10**4, 10**4)), POLICY, now_us).state
    assert len(msgspec.msgpack.encode(state)) < 5_000
