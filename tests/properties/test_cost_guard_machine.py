"""The Cost Guard against anything that feeds, meters, timers and operators can say, in any order."""

from functools import cache
from typing import Any, Final

import msgspec
import orjson
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from governors.fsm.table import Verdict, step
from governors.machines.cost_guard import COST_GUARD, TABLE, deadline
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_rules import RULES, budget_now, read
from governors.machines.cost_state import Budget, CostState, CostStatus, Learnt, Trend
from governors.machines.events import ActionResult, Event, OverrideEnded, OverrideGranted, Timeout
from governors.machines.explain import explain
from ingest.signals import BudgetSet, CostDelta, CostSnapshot, EpochMicros, Micros

UNBUDGETED, NORMAL, WARN, THROTTLE, STOP, RECOVERING = CostStatus

SECOND: Final = 1_000_000
HOUR: Final = 3_600 * SECOND
DAY: Final = 24 * HOUR
NOVEMBER: Final = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
FULL: Final = 1_000_000

AMOUNTS = st.one_of(st.integers(-20, 1_200).map(lambda units: units * 1_000_000), st.integers(-(2**53) + 1, 2**53 - 1))
BUDGETS = st.one_of(st.sampled_from([0, 1, 500, 900, 1_000, 1_001, 2_000]).map(lambda x: x * 1_000_000), AMOUNTS)
CURRENCIES = st.sampled_from(["USD", "USD", "USD", "USD", "EUR"])
WAITS = st.one_of(st.integers(0, 20 * 60), st.integers(0, 9 * 3_600), st.integers(0, 40 * 86_400)).map(
    lambda seconds: seconds * SECOND
)
POLICIES = st.sampled_from(
    [
        CostPolicy(),
        CostPolicy(lag_margin_stops=True, bucket_s=60),
        CostPolicy(warn_ppm=300_000, warn_clear_ppm=300_000, throttle_ppm=1_000_000, throttle_clear_ppm=1_000_000),
        CostPolicy(throttle_floor_ppm=70_000, throttle_step_ppm=130_000, recover_steps=7, clear_dwell_s=60),
        CostPolicy(stop_ppm=1_200_000, feed_interval="week", pace_min_elapsed_ppm=1),
    ]
)
ADMITTING: Final = frozenset({THROTTLE, RECOVERING})
MEASURED: Final = frozenset({"cost.stop", "cost.lag_margin"})


@cache
def settled() -> tuple[CostState, int]:
    """A machine that has metered a unit every half hour for 16 days, most of them of October, and the time."""
    state: CostState = COST_GUARD.initial()
    now_us = NOVEMBER - 13 * DAY
    bodies: list[Any] = [BudgetSet(Micros(1_000_000_000), "USD", "month")]
    while bodies:
        state = step(TABLE, state, Event("e", now_us, bodies.pop()), CostPolicy(), now_us).state
        if now_us < NOVEMBER + 3 * DAY:
            now_us += HOUR // 2
            bodies.append(CostDelta(Micros(1_000_000), "USD", EpochMicros(now_us)))
    return state, now_us


class CostGuardMachine(RuleBasedStateMachine):
    @initialize(
        policy=POLICIES,
        day=st.sampled_from([0, 1, 10, 28]),
        share=st.none() | st.integers(0, 1_100_000),
    )
    def begin(self, policy: CostPolicy, day: int, share: int | None) -> None:
        self.policy = policy
        self.state: CostState = COST_GUARD.initial()
        self.now_us = NOVEMBER + day * DAY
        if not day:
            self.state, self.now_us = settled()
        if share is not None and day:
            self.report_share(share)

    def tell(self, body: Any, observed_us: int | None = None) -> Verdict[CostState]:
        before = self.state
        event = Event("e", self.now_us if observed_us is None else observed_us, body)
        verdict: Verdict[CostState] = step(TABLE, before, event, self.policy, self.now_us)
        self.check_purity(event, verdict)
        self.check_receipt(verdict)
        self.check_move(before, body, verdict)
        self.state = verdict.state
        return verdict

    def check_purity(self, event: Event, verdict: Verdict[CostState]) -> None:
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(self.state), type=CostState)
        assert again == self.state
        assert step(TABLE, again, event, self.policy, self.now_us) == verdict

    def check_receipt(self, verdict: Verdict[CostState]) -> None:
        for value in verdict.evidence.values():
            assert type(value) in (int, str)
            assert not isinstance(value, int) or abs(value) < 2**53
        assert orjson.dumps(verdict.evidence, option=orjson.OPT_SORT_KEYS) == rfc8785.dumps(dict(verdict.evidence))
        assert verdict.rule in RULES
        assert explain(RULES, verdict.rule, verdict.evidence) != verdict.rule

    def check_move(self, before: CostState, body: Any, verdict: Verdict[CostState]) -> None:
        after = verdict.state
        if verdict.refused:
            assert after == before
            return
        if after.status is not before.status:
            assert verdict.decision != "none"
        if verdict.decision == "stop":
            assert verdict.rule in MEASURED, "no statistic stops a tenant"
            assert verdict.rule == "cost.stop" or self.policy.lag_margin_stops
        if before.status is STOP and after.status is not STOP:
            self.check_way_out_of_stop(before, body, after)
        if before.status in (WARN, THROTTLE) and verdict.rule == "cost.clear":
            self.check_dwell(before, after)
        if before.status in ADMITTING and after.status in ADMITTING:
            assert abs(after.fraction_ppm - before.fraction_ppm) <= self.policy.throttle_step_ppm
        if before.status in (NORMAL, WARN, UNBUDGETED) and after.status is THROTTLE:
            assert after.fraction_ppm >= FULL - self.policy.throttle_step_ppm

    def check_way_out_of_stop(self, before: CostState, body: Any, after: CostState) -> None:
        rolled = after.start_us != before.start_us
        raised = after.budget.amount_micros > before.budget.amount_micros
        operator = isinstance(body, OverrideGranted) and body.mode in ("release", "extra_budget")
        assert after.status is RECOVERING
        assert after.fraction_ppm == self.policy.recover_start_ppm
        assert rolled or raised or operator

    def check_dwell(self, before: CostState, after: CostState) -> None:
        assert before.calm_since_us
        assert self.now_us - before.calm_since_us >= self.policy.clear_dwell_s * SECOND
        assert after.status is (WARN if before.status is THROTTLE else NORMAL)

    @rule(wait_us=WAITS)
    def time_passes(self, wait_us: int) -> None:
        self.now_us += wait_us

    @rule(wait_us=WAITS)
    def time_passes_and_timers_fire(self, wait_us: int) -> None:
        until_us = self.now_us + wait_us
        for _ in range(30):
            due_us = deadline(self.state, self.policy)
            if due_us is None or due_us > until_us:
                break
            self.now_us = max(self.now_us, due_us)
            self.tell(Timeout())
        self.now_us = max(self.now_us, until_us)

    @rule(
        cost=AMOUNTS,
        budget=BUDGETS,
        currency=CURRENCIES,
        start_us=st.integers(-62, 3).map(lambda days: days * DAY),
        monthly=st.booleans(),
        length_us=st.none() | st.integers(-1, 100).map(lambda days: days * DAY),
        forecast=st.none() | AMOUNTS,
        late_us=st.integers(0, 5).map(lambda days: days * DAY),
    )
    def the_feed_reports(
        self,
        cost: int,
        budget: int,
        currency: str,
        start_us: int,
        monthly: bool,
        length_us: int | None,
        forecast: int | None,
        late_us: int,
    ) -> None:
        starts_us = self.state.start_us if monthly and self.state.start_us else self.now_us + start_us
        self.tell(
            CostSnapshot(
                Micros(cost),
                Micros(budget),
                currency,
                EpochMicros(starts_us),
                None if forecast is None else Micros(forecast),
                None if length_us is None else EpochMicros(starts_us + length_us),
            ),
            self.now_us - late_us,
        )

    @rule(shares=st.lists(st.integers(0, 1_050_000), min_size=1, max_size=4))
    def the_feed_reports_shares_of_the_budget(self, shares: list[int]) -> None:
        for share in shares:
            self.now_us += 8 * HOUR
            self.report_share(share)

    @rule(gain=st.integers(-100_000, 200_000), wait_us=st.sampled_from([0, HOUR // 12, HOUR // 2, 5 * HOUR]))
    def the_feed_reports_a_little_more(self, gain: int, wait_us: int) -> None:
        budget = self.state.budget.amount_micros or 1
        self.now_us += wait_us
        self.report_share(max(0, self.state.cost_micros * FULL // budget + gain))

    def report_share(self, share: int) -> None:
        budget = self.state.budget
        amount = budget.amount_micros or 1_000_000_000
        start_us = self.state.start_us or NOVEMBER
        cost = max(-(2**53) + 1, min(amount * share // FULL, 2**53 - 1))
        feed = budget.feed_micros or amount
        self.tell(CostSnapshot(Micros(cost), Micros(feed), budget.currency or "USD", EpochMicros(start_us)))

    @rule(shares=st.lists(st.integers(-20_000, 60_000), min_size=1, max_size=6), shift_us=st.sampled_from([0, HOUR]))
    def the_meter_runs(self, shares: list[int], shift_us: int) -> None:
        budget = self.state.budget
        for share in shares:
            amount = (budget.amount_micros or 1_000_000_000) * share // FULL
            amount = max(-(2**53) + 1, min(amount, 2**53 - 1))
            self.now_us += HOUR // 3
            self.tell(CostDelta(Micros(amount), budget.currency or "USD", EpochMicros(self.now_us + shift_us)))

    @rule(units=st.integers(0, 60), hours=st.integers(1, 48))
    def the_meter_runs_for_a_while(self, units: int, hours: int) -> None:
        for _ in range(hours):
            self.now_us += HOUR // 2
            self.tell(
                CostDelta(Micros(units * 1_000_000), self.state.budget.currency or "USD", EpochMicros(self.now_us))
            )

    @rule(amount=AMOUNTS, currency=CURRENCIES, shift_us=st.sampled_from([0, 0, 0, -40 * DAY, -HOUR, HOUR, 2 * HOUR]))
    def the_meter_reports(self, amount: int, currency: str, shift_us: int) -> None:
        self.tell(CostDelta(Micros(amount), currency, EpochMicros(self.now_us + shift_us)))

    @rule(
        amount=BUDGETS,
        currency=CURRENCIES,
        interval=st.sampled_from(["day", "week", "month"]),
        start_us=st.none() | st.integers(-40, 40).map(lambda days: days * DAY),
    )
    def somebody_sets_the_budget(self, amount: int, currency: str, interval: Any, start_us: int | None) -> None:
        anchor = None if start_us is None else EpochMicros(self.now_us + start_us)
        self.tell(BudgetSet(Micros(amount), currency, interval, anchor))

    @rule(
        mode=st.sampled_from(["hold", "release", "force", "approve", "veto", "extra_budget", "extra_budget"]),
        extra=AMOUNTS,
        until_us=st.integers(0, 2 * 86_400).map(lambda seconds: seconds * SECOND),
    )
    def an_operator_speaks(self, mode: Any, extra: int, until_us: int) -> None:
        body = OverrideGranted(
            mode=mode, until_us=self.now_us + until_us, by="ann", reason="because", status="STOP", extra_micros=extra
        )
        self.tell(body)

    @rule(body=st.sampled_from([OverrideEnded(by="ann"), ActionResult(action_id="a", kind="throttle", ok=False)]))
    def something_ends(self, body: OverrideEnded | ActionResult) -> None:
        before = self.state
        self.tell(body)
        assert self.state == before or isinstance(body, OverrideEnded)

    @rule()
    def the_timer_fires(self) -> None:
        due_us = deadline(self.state, self.policy)
        before = self.state
        verdict = self.tell(Timeout())
        if due_us is None or self.now_us < due_us:
            assert self.state == before
            assert verdict.decision == "none"

    @precondition(lambda self: deadline(self.state, self.policy) is not None)
    @rule()
    def timers_that_are_due_run_dry(self) -> None:
        for _ in range(4):
            due_us = deadline(self.state, self.policy)
            if due_us is None or due_us > self.now_us:
                return
            self.tell(Timeout())
        due_us = deadline(self.state, self.policy)
        assert due_us is not None
        assert due_us > self.now_us

    @invariant()
    def cost_at_or_over_the_budget_is_stopped_and_nothing_below_is_without_history(self) -> None:
        state = self.state
        if state.status is UNBUDGETED or state.end_us <= self.now_us or state.budget.extra_until_us:
            return
        over = state.cost_micros * FULL >= budget_now(state, self.now_us) * self.policy.stop_ppm
        assert not over or state.status is STOP

    @invariant()
    def fractions_stay_within_their_bounds(self) -> None:
        assert self.policy.throttle_floor_ppm <= self.state.fraction_ppm <= FULL
        for status in CostStatus:
            admitted = COST_GUARD.admit(self.state, status, self.policy)
            assert self.policy.throttle_floor_ppm <= admitted.fraction_ppm <= FULL
            COST_GUARD.effect(self.state, status, self.policy)

    @invariant()
    def the_state_stays_small(self) -> None:
        assert len(msgspec.msgpack.encode(self.state)) < 1_100

    @invariant()
    def a_budget_that_is_set_is_governed_and_its_period_is_one(self) -> None:
        state = self.state
        assert (state.status is UNBUDGETED) == (state.budget.amount_micros == 0)
        assert state.start_us <= state.end_us
        if state.status is not UNBUDGETED:
            assert state.start_us < state.end_us


TestCostGuardMachine = CostGuardMachine.TestCase
TestCostGuardMachine.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

MID: Final = NOVEMBER + 15 * DAY


@st.composite
def lessons(draw: st.DrawFn) -> Learnt:
    low, middle = sorted(draw(st.lists(st.integers(0, 10**10), min_size=2, max_size=2)))
    return Learnt(
        at_us=MID - draw(st.integers(0, 10)) * HOUR,
        end_us=NOVEMBER + 30 * DAY,
        rest_low_micros=low,
        rest_micros=middle,
        excess_per_h=draw(st.sampled_from([0, 0, 10**5, 10**7, 10**9])),
        z_milli=(0, 0, 0),
    )


@st.composite
def books(draw: st.DrawFn) -> CostState:
    return CostState(
        learnt=draw(st.none() | lessons()),
        status=NORMAL,
        budget=Budget(draw(st.integers(1, 10**10)), "USD", 1),
        start_us=NOVEMBER,
        end_us=NOVEMBER + 30 * DAY,
        snapshot_micros=draw(st.integers(-(10**10), 2 * 10**10)),
        metered_micros=draw(st.integers(-(10**10), 2 * 10**10)),
        forecast_micros=draw(st.integers(0, 2 * 10**10)),
        trend=Trend(MID, 0, tuple(draw(st.lists(st.integers(0, 10**8), max_size=8)))),
    )


@given(books(), st.integers(0, 10**10), POLICIES)
def test_a_higher_cost_never_calls_for_less(state: CostState, more: int, policy: CostPolicy) -> None:
    higher = msgspec.structs.replace(state, snapshot_micros=state.snapshot_micros + more)
    severity = COST_GUARD.severity
    assert severity[read(higher, policy, MID).natural] >= severity[read(state, policy, MID).natural]


@given(books(), st.integers(0, 10**10), POLICIES)
def test_a_higher_budget_never_calls_for_more(state: CostState, more: int, policy: CostPolicy) -> None:
    budget = msgspec.structs.replace(state.budget, amount_micros=state.budget.amount_micros + more)
    severity = COST_GUARD.severity
    richer = msgspec.structs.replace(state, budget=budget)
    assert severity[read(richer, policy, MID).natural] <= severity[read(state, policy, MID).natural]


@given(books())
def test_no_statistic_alone_stops_a_tenant(state: CostState) -> None:
    reading = read(state, CostPolicy(), MID)
    assert (reading.natural is STOP) == (state.cost_micros >= state.budget.amount_micros)
