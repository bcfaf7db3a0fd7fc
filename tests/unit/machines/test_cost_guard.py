"""The Cost Guard by its sentences: one for each rule and each way from status to status."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from governors.fsm.table import Verdict, step
from governors.machines.cost_guard import COST_GUARD, TABLE
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_rules import RULES
from governors.machines.cost_state import CostState, CostStatus
from governors.machines.events import ActionResult, Event, OverrideEnded, OverrideGranted, RuntimeEvent, Timeout
from governors.machines.explain import explain
from governors.machines.governor import ADMIT_ALL, AdmitRule, Effect
from ingest.signals import BudgetSet, CostDelta, CostSnapshot, EpochMicros, Micros, parse_micros

HOUR = 3_600_000_000
DAY = 24 * HOUR
OCTOBER = 1_790_812_800_000_000  # 2026-10-01T00:00:00Z
NOVEMBER = OCTOBER + 31 * DAY
DECEMBER = NOVEMBER + 30 * DAY
JANUARY = DECEMBER + 31 * DAY
MID = NOVEMBER + 21 * DAY + 10 * HOUR  # 2026-11-22T10:00:00Z

UNBUDGETED, NORMAL, WARN, THROTTLE, STOP, RECOVERING = CostStatus


class Guard:
    """One machine with a clock of its own."""

    def __init__(self, now_us: int = MID, **policy: Any) -> None:
        self.policy = CostPolicy(**policy)
        self.state: CostState = COST_GUARD.initial()
        self.now_us = now_us
        self.last: Verdict[CostState] | None = None

    @property
    def status(self) -> CostStatus:
        return self.state.status

    @property
    def deadline(self) -> int | None:
        return COST_GUARD.deadline(self.state, self.policy)

    @property
    def sentence(self) -> str:
        assert self.last is not None
        return explain(COST_GUARD.rules, self.last.rule, self.last.evidence)

    def tell(
        self,
        body: CostSnapshot | CostDelta | BudgetSet | RuntimeEvent,
        at_us: int | None = None,
        observed_us: int | None = None,
    ) -> Verdict[CostState]:
        self.now_us = self.now_us if at_us is None else at_us
        event = Event("e", self.now_us if observed_us is None else observed_us, body)
        self.last = step(TABLE, self.state, event, self.policy, self.now_us)
        assert explain(RULES, self.last.rule, self.last.evidence) != self.last.rule
        self.state = self.last.state
        return self.last

    def snapshot(self, cost: str, budget: str = "1000", at_us: int | None = None, **more: Any) -> Verdict[CostState]:
        observed_us = more.pop("observed_us", None)
        fields: dict[str, Any] = {"currency": "USD", "interval_start": EpochMicros(NOVEMBER)} | more
        return self.tell(CostSnapshot(parse_micros(cost), parse_micros(budget), **fields), at_us, observed_us)

    def delta(
        self, amount: str, at_us: int | None = None, usage_us: int | None = None, currency: str = "USD"
    ) -> Verdict[CostState]:
        usage_us = (self.now_us if at_us is None else at_us) if usage_us is None else usage_us
        return self.tell(CostDelta(parse_micros(amount), currency, EpochMicros(usage_us)), at_us)

    def budget(self, amount: str, interval: Any = "month", at_us: int | None = None, **more: Any) -> Verdict[CostState]:
        fields: dict[str, Any] = {"currency": "USD"} | more
        return self.tell(BudgetSet(parse_micros(amount), interval=interval, **fields), at_us)

    def extra(self, amount: str, until_us: int) -> Verdict[CostState]:
        return self.override("extra_budget", until_us, extra_micros=parse_micros(amount))

    def override(self, mode: Any, until_us: int | None = None, **more: Any) -> Verdict[CostState]:
        until_us = self.now_us + HOUR if until_us is None else until_us
        return self.tell(OverrideGranted(mode=mode, until_us=until_us, by="ann", reason="because", **more))

    def timeouts_until(self, at_us: int) -> list[Verdict[CostState]]:
        """Every timeout that falls due, each at its time."""
        seen = []
        while (due_us := self.deadline) is not None and due_us <= at_us:
            seen.append(self.tell(Timeout(), max(due_us, self.now_us)))
        self.now_us = at_us
        return seen


def stopped(**policy: Any) -> Guard:
    guard = Guard(**policy)
    guard.snapshot("1000")
    assert guard.status is STOP
    return guard


def recovering(**policy: Any) -> Guard:
    guard = stopped(**policy)
    guard.budget("5000")
    assert guard.status is RECOVERING
    return guard


# The table.


def test_every_status_answers_every_event() -> None:
    events = {CostSnapshot, CostDelta, BudgetSet, Timeout, OverrideGranted, OverrideEnded, ActionResult}
    assert {(status, event) for status in CostStatus for event in events} == TABLE.keys()


def test_the_table_permits_no_way_out_of_stop_but_recovering_and_none_into_unbudgeted() -> None:
    out_of_stop = set().union(*(row.targets for (status, _), row in TABLE.items() if status is STOP))
    into_unbudgeted = {status for (status, _), row in TABLE.items() if UNBUDGETED in row.targets}
    assert out_of_stop == {STOP, RECOVERING}
    assert into_unbudgeted == {UNBUDGETED}


def test_wire_names_are_upper_case() -> None:
    assert [str(status) for status in CostStatus] == [status.name for status in CostStatus]


# UNBUDGETED.


def test_without_a_budget_usage_is_counted_and_nothing_is_decided() -> None:
    guard = Guard()
    guard.delta("700")
    verdict = guard.delta("800")
    assert (guard.status, verdict.decision, verdict.rule) == (UNBUDGETED, "none", "cost.unbudgeted")
    assert guard.sentence == "no budget is set; metered so far: 1500.00 USD"
    assert guard.deadline is None


def test_usage_from_before_the_budget_counts_once_there_is_one() -> None:
    guard = Guard()
    guard.delta("1500")
    verdict = guard.budget("1000")
    assert (guard.status, verdict.decision) == (STOP, "stop")


def test_a_daily_budget_does_not_stop_a_tenant_for_what_it_spent_all_month() -> None:
    guard = Guard()
    guard.delta("1500", usage_us=MID - 5 * DAY)
    verdict = guard.budget("100", "day")
    assert (guard.status, verdict.evidence["cost_micros"]) == (NORMAL, 0)


def test_the_budget_decides_the_currency_not_an_earlier_delta() -> None:
    guard = Guard()
    guard.delta("900", currency="EUR")
    verdict = guard.budget("1000", currency="USD")
    assert (guard.status, verdict.evidence["cost_micros"], verdict.evidence["currency"]) == (NORMAL, 0, "USD")


# Limits.


@pytest.mark.parametrize(
    ("cost", "status", "decision", "sentence"),
    [
        ("499.999999", NORMAL, "budget", "the budget is set: cost 499.999999 of 1000.00 USD"),
        ("500", WARN, "warn", "cost 500.00 of 1000.00 USD is at or over 50 %"),
        ("899.999999", WARN, "warn", "cost 899.999999 of 1000.00 USD is at or over 50 %"),
        ("900", THROTTLE, "throttle", "cost 900.00 of 1000.00 USD is at or over 90 %"),
        ("910.25", THROTTLE, "throttle", "cost 910.25 of 1000.00 USD is at or over 90 %"),
        ("999.999999", THROTTLE, "throttle", "cost 999.999999 of 1000.00 USD is at or over 90 %"),
        ("1000", STOP, "stop", "cost 1000.00 of 1000.00 USD is at or over 100 %"),
    ],
)
def test_limits_are_reached_exactly_at_them(cost: str, status: CostStatus, decision: str, sentence: str) -> None:
    guard = Guard()
    verdict = guard.snapshot(cost)
    assert (guard.status, verdict.decision, guard.sentence) == (status, decision, sentence)


def test_from_warn_to_throttle_the_receipt_names_cost_budget_and_limit() -> None:
    guard = Guard()
    guard.snapshot("600")
    assert guard.status is WARN
    verdict = guard.snapshot("910.25")
    assert (guard.status, verdict.decision, verdict.rule) == (THROTTLE, "throttle", "cost.throttle")
    assert guard.sentence == "cost 910.25 of 1000.00 USD is at or over 90 %"
    assert verdict.evidence["utilisation_ppm"] == 910_250
    assert verdict.evidence["limit_ppm"] == 900_000


def test_a_signal_that_changes_nothing_decides_nothing() -> None:
    guard = Guard()
    guard.snapshot("100")
    verdict = guard.snapshot("101")
    assert (verdict.decision, verdict.rule) == ("none", "cost.within")
    assert guard.sentence == "cost 101.00 of 1000.00 USD is under 50 %"


def test_each_notice_level_in_warn_is_decided_once() -> None:
    guard = Guard(throttle_ppm=950_000)
    decisions = [guard.snapshot(cost).decision for cost in ("500", "501", "900", "901", "600", "905")]
    assert decisions == ["warn", "none", "warn", "none", "none", "none"]
    assert COST_GUARD.effect(guard.state, WARN, guard.policy) == Effect("notify", {"level": "high"})


def test_cost_is_the_more_of_feed_and_meter() -> None:
    guard = Guard()
    guard.snapshot("300")
    assert guard.delta("200").evidence["cost_micros"] == 300_000_000
    assert guard.delta("150").evidence["cost_micros"] == 350_000_000
    assert guard.snapshot("340").evidence["cost_micros"] == 350_000_000


def test_a_credit_lowers_the_cost() -> None:
    guard = Guard()
    guard.budget("1000")
    guard.delta("300")
    assert guard.delta("-100").evidence["cost_micros"] == 200_000_000


# Forecasts: WARN at most.


def test_a_pace_that_overruns_the_budget_warns() -> None:
    guard = Guard(now_us=NOVEMBER + 10 * DAY)
    verdict = guard.snapshot("334")
    assert (guard.status, verdict.rule) == (WARN, "cost.pace")
    assert guard.sentence == "cost 334.00 of 1000.00 USD; at this pace the period ends at 1002.00"
    assert COST_GUARD.effect(guard.state, WARN, guard.policy) == Effect("notify", {"level": "pace"})


def test_no_pace_is_read_from_the_first_quarter_of_a_period() -> None:
    guard = Guard(now_us=NOVEMBER + 7 * DAY)
    assert guard.snapshot("499").state.status is NORMAL


def test_the_feeds_own_forecast_warns_and_no_more() -> None:
    guard = Guard(now_us=NOVEMBER + DAY)
    verdict = guard.snapshot("10", forecast_amount=parse_micros("900000"))
    assert (guard.status, verdict.rule) == (WARN, "cost.feed_forecast")
    assert guard.sentence == "cost 10.00 of 1000.00 USD; the billing feed forecasts 900000.00"


# The lag of a feed.


def lagging(**policy: Any) -> Guard:
    """A feed that shows ten an hour for three days, at 650 of 1000."""
    guard = Guard(now_us=NOVEMBER + 5 * DAY, **policy)
    for report in range(10):
        guard.snapshot(str(20 + 70 * report), at_us=NOVEMBER + 5 * DAY + report * 8 * HOUR)
    return guard


def test_spend_that_the_feed_has_likely_not_seen_throttles_but_does_not_stop() -> None:
    guard = lagging()
    assert guard.status is WARN
    guard.snapshot("790", at_us=guard.now_us + 8 * HOUR)
    assert (guard.status, guard.last and guard.last.rule) == (THROTTLE, "cost.lag_margin")
    assert guard.sentence == (
        "cost 790.00 of 1000.00 USD, with 210.00 likely spent but not reported yet, reaches the budget"
    )


def test_a_policy_may_have_the_lag_margin_stop() -> None:
    guard = lagging(lag_margin_stops=True)
    guard.snapshot("790", at_us=guard.now_us + 8 * HOUR)
    assert (guard.status, guard.last and guard.last.rule) == (STOP, "cost.lag_margin")


def test_metered_cost_has_no_lag() -> None:
    guard = Guard(now_us=NOVEMBER + 5 * DAY)
    guard.budget("1000")
    for hour in range(80):
        guard.delta("10", at_us=NOVEMBER + 5 * DAY + hour * HOUR)
    assert (guard.status, guard.last and guard.last.rule) == (WARN, "cost.warn")


# THROTTLE.


def test_throttling_starts_with_one_bounded_step() -> None:
    guard = Guard()
    verdict = guard.snapshot("950")
    assert verdict.evidence["fraction_ppm"] == 800_000


def test_the_fraction_goes_down_step_by_step_to_what_the_budget_can_bear() -> None:
    guard = Guard()
    guard.snapshot("950")
    steps = guard.timeouts_until(MID + 3 * HOUR)
    fractions = [verdict.evidence["fraction_ppm"] for verdict in steps if verdict.decision == "throttle"]
    # 50 are left for 206 hours, at 1.85 an hour: 13 % of the demand, in quanta of 5.
    assert fractions == [600_000, 400_000, 200_000, 100_000]
    assert guard.tell(Timeout(), guard.deadline).rule == "cost.throttle"


def test_the_sentence_of_a_step_says_what_is_bearable_and_what_is_admitted() -> None:
    guard = Guard()
    guard.snapshot("950")
    guard.tell(Timeout(), guard.deadline)
    assert guard.sentence == (
        "cost 950.00 of 1000.00 USD; what is left lasts the period at 13.15 % of the demand: admitting 60 %"
    )


def test_the_fraction_does_not_move_within_a_bucket() -> None:
    guard = Guard()
    guard.snapshot("950")
    assert guard.snapshot("960", at_us=MID + 1).decision == "none"
    assert guard.state.fraction_ppm == 800_000


def test_throttle_relaxes_to_warn_only_after_six_calm_hours() -> None:
    guard = Guard(now_us=DECEMBER - 2 * DAY)
    guard.snapshot("900")
    calm_us = guard.now_us + HOUR
    guard.snapshot("840", at_us=calm_us)
    guard.snapshot("840", at_us=calm_us + 1)
    assert (guard.status, guard.last and guard.last.rule) == (THROTTLE, "cost.dwell")
    assert guard.sentence == "cost 840.00 of 1000.00 USD is clear, but not yet for 6 h"
    guard.timeouts_until(calm_us + 6 * HOUR - 1)
    assert guard.status is THROTTLE
    guard.timeouts_until(calm_us + 6 * HOUR)
    assert (guard.status, guard.last and guard.last.decision) == (WARN, "relax")
    assert guard.sentence == "cost 840.00 of 1000.00 USD was under 85 % with no overrun in sight for 6 h"


def test_a_cost_between_clearing_and_limit_starts_no_dwell() -> None:
    guard = Guard(now_us=DECEMBER - 2 * DAY)
    guard.snapshot("900")
    guard.snapshot("850", at_us=guard.now_us + HOUR)
    guard.snapshot("850")
    assert (guard.status, guard.last and guard.last.rule) == (THROTTLE, "cost.not_clear")
    assert guard.sentence == "cost 850.00 of 1000.00 USD is not yet under 85 % with no overrun in sight"


def test_a_calm_that_is_broken_starts_over() -> None:
    guard = Guard(now_us=DECEMBER - 2 * DAY)
    guard.snapshot("900")
    start_us = guard.now_us
    guard.snapshot("840", at_us=start_us + HOUR)
    guard.snapshot("880", at_us=start_us + 4 * HOUR)
    guard.snapshot("840", at_us=start_us + 5 * HOUR)
    guard.timeouts_until(start_us + 11 * HOUR - 1)
    assert guard.status is THROTTLE
    guard.timeouts_until(start_us + 11 * HOUR)
    assert guard.status is WARN


def test_throttle_does_not_relax_while_the_pace_overruns() -> None:
    guard = Guard()
    guard.snapshot("900")
    guard.snapshot("800", at_us=MID + HOUR)
    guard.timeouts_until(MID + 12 * HOUR)
    assert guard.status is THROTTLE


def test_throttle_stops_at_the_budget() -> None:
    guard = Guard()
    guard.snapshot("950")
    assert guard.snapshot("1000").decision == "stop"


def test_a_raise_leads_out_of_throttle_by_a_ramp_from_where_it_was() -> None:
    guard = Guard()
    guard.snapshot("950")
    guard.timeouts_until(MID + HOUR)
    before_ppm = guard.state.fraction_ppm
    verdict = guard.budget("2000")
    assert (guard.status, verdict.decision, verdict.rule) == (RECOVERING, "recover", "cost.budget_raised")
    assert guard.state.fraction_ppm == before_ppm


def test_a_new_period_leads_out_of_throttle_by_a_ramp() -> None:
    guard = Guard()
    guard.snapshot("950")
    guard.timeouts_until(MID + HOUR)
    guard.snapshot("999", at_us=DECEMBER - HOUR)
    guard.timeouts_until(DECEMBER)
    assert (guard.status, guard.last and guard.last.rule) == (RECOVERING, "cost.rollover")


def test_a_new_period_after_a_throttle_that_held_nothing_back_needs_no_ramp() -> None:
    guard = Guard()
    guard.snapshot("950")
    guard.timeouts_until(DECEMBER)
    assert guard.status is NORMAL


# WARN.


def test_warn_clears_only_after_six_calm_hours() -> None:
    guard = Guard()
    guard.snapshot("500")
    guard.snapshot("440", at_us=MID + HOUR)
    guard.timeouts_until(MID + 7 * HOUR - 1)
    assert guard.status is WARN
    guard.timeouts_until(MID + 7 * HOUR)
    assert (guard.status, guard.last and guard.last.decision) == (NORMAL, "clear")


def test_a_signal_ends_a_dwell_as_a_timeout_does() -> None:
    guard = Guard()
    guard.snapshot("500")
    guard.snapshot("440", at_us=MID + HOUR)
    assert guard.snapshot("440", at_us=MID + 7 * HOUR).decision == "clear"


def test_a_raise_clears_a_warning_at_once() -> None:
    guard = Guard()
    guard.snapshot("500")
    verdict = guard.budget("5000")
    assert (guard.status, verdict.rule) == (NORMAL, "cost.budget_raised")


def test_a_new_period_clears_a_warning() -> None:
    guard = Guard()
    guard.snapshot("500")
    guard.timeouts_until(DECEMBER)
    assert (guard.status, guard.last and guard.last.decision) == (NORMAL, "rollover")
    assert guard.sentence == "a new period began: cost 0.00 of 1000.00 USD"


# STOP: left by a new period, a raised budget or an operator.


def test_credits_and_time_do_not_lead_out_of_stop() -> None:
    guard = stopped()
    verdict = guard.snapshot("100", at_us=MID + DAY)
    assert (guard.status, verdict.rule) == (STOP, "cost.stopped")
    guard.timeouts_until(DECEMBER - 1)
    assert guard.status is STOP


def test_the_same_or_a_smaller_budget_does_not_lead_out_of_stop() -> None:
    guard = stopped()
    guard.snapshot("100")
    guard.budget("1000")
    verdict = guard.budget("900")
    assert (guard.status, verdict.decision, verdict.rule) == (STOP, "budget", "cost.budget_set")


def test_a_raise_that_is_not_enough_does_not_lead_out_of_stop() -> None:
    guard = stopped()
    guard.snapshot("1200")
    verdict = guard.budget("1200")
    assert (guard.status, verdict.decision) == (STOP, "budget")


def test_a_raise_leads_out_of_stop() -> None:
    guard = stopped()
    verdict = guard.budget("1001")
    assert (guard.status, verdict.decision, verdict.rule) == (RECOVERING, "recover", "cost.budget_raised")


def test_a_raise_by_the_feed_leads_out_of_stop() -> None:
    guard = stopped()
    assert guard.snapshot("1000", "2000").decision == "recover"


def test_a_new_period_leads_out_of_stop() -> None:
    guard = stopped()
    guard.timeouts_until(DECEMBER)
    assert (guard.status, guard.last and guard.last.decision) == (RECOVERING, "recover")
    assert guard.state.end_us == JANUARY


def test_a_new_period_that_begins_over_budget_stays_stopped() -> None:
    guard = stopped()
    guard.snapshot("1000", at_us=DECEMBER + HOUR, interval_start=EpochMicros(DECEMBER))
    assert guard.status is STOP


def test_extra_budget_leads_out_of_stop_until_it_ends() -> None:
    guard = stopped()
    verdict = guard.extra("500", MID + 5 * HOUR)
    assert (guard.status, verdict.rule) == (RECOVERING, "cost.extra_budget")
    assert guard.sentence == "an operator granted 500.00 more: cost 1000.00 of 1500.00 USD"
    guard.timeouts_until(MID + 5 * HOUR - 1)
    assert guard.status is WARN
    guard.timeouts_until(MID + 5 * HOUR)
    assert (guard.status, guard.last and guard.last.rule) == (STOP, "cost.stop")


def test_extra_budget_that_is_withdrawn_counts_no_more() -> None:
    guard = stopped()
    guard.extra("500", MID + 5 * HOUR)
    guard.tell(OverrideEnded(by="ann"))
    assert guard.status is STOP


def test_the_end_of_extra_budget_that_was_not_needed_changes_no_status() -> None:
    guard = Guard()
    guard.snapshot("100")
    guard.extra("500", MID + HOUR)
    verdict = guard.tell(OverrideEnded(by="ann"))
    assert (guard.status, verdict.rule) == (NORMAL, "cost.extra_ended")


def test_a_release_leads_out_of_stop_once_the_cost_is_under_the_budget() -> None:
    guard = stopped()
    assert guard.override("release").state.status is STOP
    guard.snapshot("700")
    verdict = guard.override("release")
    assert (guard.status, verdict.rule) == (RECOVERING, "cost.released")


def test_a_release_leads_out_of_throttle_only_under_its_limit() -> None:
    guard = Guard()
    guard.snapshot("950")
    assert guard.override("release").state.status is THROTTLE
    guard.snapshot("890")
    assert guard.override("release").state.status is RECOVERING


def test_a_release_clears_a_warning_that_the_numbers_no_longer_call_for() -> None:
    guard = Guard()
    guard.snapshot("500")
    guard.snapshot("440")
    verdict = guard.override("release")
    assert (guard.status, verdict.decision, verdict.rule) == (NORMAL, "clear", "cost.released")


@pytest.mark.parametrize("mode", ["hold", "force", "approve", "veto"])
def test_overrides_that_mask_leave_the_core_as_it_is(mode: str) -> None:
    guard = stopped()
    before = guard.state
    verdict = guard.override(mode, status="NORMAL")
    assert (verdict.decision, verdict.rule, guard.state) == ("none", "cost.no_change", before)


def test_results_of_actions_and_ends_of_other_overrides_change_nothing() -> None:
    guard = stopped()
    before = guard.state
    guard.tell(ActionResult(action_id="a", kind="stop", ok=False))
    guard.tell(OverrideEnded(by="ann"))
    assert guard.state == before


# RECOVERING.


def test_recovering_ramps_from_a_tenth_to_full_in_an_hour() -> None:
    guard = recovering()
    assert guard.state.fraction_ppm == 100_000
    ramp = guard.timeouts_until(MID + HOUR)
    assert len(ramp) == 12
    assert [verdict.evidence["fraction_ppm"] for verdict in ramp[:-1]] == list(range(175_000, 1_000_000, 75_000))
    assert (guard.status, ramp[-1].decision, ramp[-1].rule) == (NORMAL, "recovered", "cost.recovered")


def test_recovering_ends_in_warn_where_the_numbers_call_for_it() -> None:
    guard = stopped()
    guard.budget("1500")
    guard.timeouts_until(MID + HOUR)
    assert guard.status is WARN


def test_a_late_timer_still_ramps_one_step_at_a_time() -> None:
    guard = recovering()
    guard.tell(Timeout(), MID + 2 * HOUR)
    assert guard.state.fraction_ppm == 175_000
    guard.tell(Timeout(), guard.now_us)
    assert guard.last is not None
    assert guard.last.rule == "cost.nothing_due"


def test_recovering_stops_again_at_the_budget() -> None:
    guard = recovering()
    assert guard.snapshot("5000").decision == "stop"


def test_recovering_is_throttled_from_where_it_is() -> None:
    guard = recovering()
    guard.timeouts_until(MID + HOUR // 6)
    guard.snapshot("4600")
    assert guard.status is THROTTLE
    assert 50_000 <= guard.state.fraction_ppm <= 250_000


# Budgets.


def test_the_feed_does_not_take_back_what_was_set_since() -> None:
    guard = stopped()
    guard.budget("2000")
    verdict = guard.snapshot("1010", "1000")
    assert (guard.status, verdict.evidence["budget_micros"]) == (RECOVERING, 2_000_000_000)
    assert guard.snapshot("1010", "1100").evidence["budget_micros"] == 1_100_000_000


def test_lowering_the_budget_under_the_cost_stops() -> None:
    guard = Guard()
    guard.snapshot("300")
    assert guard.budget("300").decision == "stop"


def test_a_smaller_extra_budget_takes_the_place_of_a_larger_one() -> None:
    guard = Guard()
    guard.snapshot("1000", "5000")
    guard.extra("500", MID + HOUR)
    verdict = guard.extra("100", MID + HOUR)
    assert verdict.evidence["budget_micros"] == 5_100_000_000


# Refusals: the state stays as it was.


@pytest.mark.parametrize(
    ("tell", "rule", "sentence"),
    [
        (
            lambda guard: guard.snapshot("1", currency="EUR"),
            "cost.refused_currency",
            "the amount is in EUR, the budget in USD",
        ),
        (
            lambda guard: guard.delta("1", currency="EUR"),
            "cost.refused_currency",
            "the amount is in EUR, the budget in USD",
        ),
        (
            lambda guard: guard.budget("1", currency="EUR"),
            "cost.refused_currency",
            "the amount is in EUR, the budget in USD",
        ),
        (
            lambda guard: guard.snapshot("1", "0"),
            "cost.refused_budget",
            "a budget of 0.00 USD is no budget: it must be more than 0",
        ),
        (
            lambda guard: guard.budget("-5"),
            "cost.refused_budget",
            "a budget of -5.00 USD is no budget: it must be more than 0",
        ),
        (
            lambda guard: guard.snapshot("1", interval_end=EpochMicros(NOVEMBER)),
            "cost.refused_period",
            "the period ends before it begins",
        ),
        (
            lambda guard: guard.snapshot("1", interval_start=EpochMicros(MID + 2 * HOUR)),
            "cost.refused_future",
            "2 h ahead of our clock, more than 60 min is refused",
        ),
        (
            lambda guard: guard.delta("1", usage_us=MID + 2 * HOUR),
            "cost.refused_future",
            "2 h ahead of our clock, more than 60 min is refused",
        ),
        (lambda guard: guard.extra("0", MID + HOUR), "cost.refused_extra", None),
        (lambda guard: guard.extra("5", MID), "cost.refused_extra", None),
    ],
)
def test_what_cannot_count_is_refused_and_changes_nothing(tell: Any, rule: str, sentence: str | None) -> None:
    guard = stopped()
    before = guard.state
    verdict = tell(guard)
    assert (verdict.refused, verdict.decision, verdict.rule) == (True, "refuse", rule)
    assert guard.state == before
    assert sentence in (None, guard.sentence)


def test_extra_budget_needs_a_budget() -> None:
    guard = Guard()
    assert guard.extra("5", MID + HOUR).refused


# Periods.


def test_a_snapshot_of_an_older_period_is_ignored() -> None:
    guard = Guard()
    guard.snapshot("100")
    verdict = guard.snapshot("5000", interval_start=EpochMicros(OCTOBER), observed_us=NOVEMBER + HOUR)
    assert (guard.status, verdict.decision, verdict.rule) == (NORMAL, "none", "cost.older_period")
    assert verdict.evidence["cost_micros"] == 100_000_000


def test_a_snapshot_of_a_newer_period_rolls_over() -> None:
    guard = stopped()
    verdict = guard.snapshot("10", at_us=DECEMBER + HOUR, interval_start=EpochMicros(DECEMBER))
    assert (guard.status, verdict.decision, verdict.rule) == (RECOVERING, "recover", "cost.rollover")
    assert verdict.evidence["cost_micros"] == 10_000_000


def test_a_period_whose_timer_was_late_is_rolled_over_by_the_next_signal() -> None:
    guard = Guard()
    guard.budget("1000")
    guard.delta("600")
    verdict = guard.delta("5", at_us=DECEMBER + 40 * DAY)
    assert (verdict.decision, verdict.evidence["cost_micros"]) == ("rollover", 5_000_000)
    assert guard.state.start_us == JANUARY


def test_late_usage_of_the_old_period_does_not_count_for_the_new() -> None:
    guard = Guard()
    guard.budget("1000")
    guard.timeouts_until(DECEMBER + HOUR)
    verdict = guard.delta("600", usage_us=DECEMBER - HOUR)
    assert (verdict.rule, verdict.evidence["cost_micros"]) == ("cost.late_usage", 0)


def test_early_usage_of_the_next_period_counts_there() -> None:
    guard = Guard(now_us=DECEMBER - HOUR)
    guard.budget("1000")
    verdict = guard.delta("600", usage_us=DECEMBER)
    assert (verdict.rule, verdict.evidence["cost_micros"]) == ("cost.early_usage", 0)
    guard.timeouts_until(DECEMBER)
    assert (guard.status, guard.last and guard.last.evidence["cost_micros"]) == (WARN, 600_000_000)


def test_daily_budgets_roll_over_at_midnight_utc_and_weekly_ones_on_monday() -> None:
    daily, weekly = Guard(), Guard()
    daily.budget("10", "day")
    weekly.budget("10", "week")
    assert daily.deadline == NOVEMBER + 22 * DAY
    assert weekly.deadline == NOVEMBER + 22 * DAY  # 2026-11-23 is a Monday


def test_a_budget_may_name_where_its_periods_begin() -> None:
    guard = Guard()
    guard.budget("10", "month", interval_start=EpochMicros(OCTOBER + 14 * DAY))
    assert (guard.state.start_us, guard.state.end_us) == (NOVEMBER + 14 * DAY, DECEMBER + 14 * DAY)


def test_another_interval_counts_from_now() -> None:
    guard = stopped()
    verdict = guard.budget("100", "day")
    assert (guard.status, verdict.rule) == (RECOVERING, "cost.interval_changed")


def test_a_feed_whose_month_begins_in_its_own_time_zone_is_the_same_month() -> None:
    guard = Guard()
    guard.budget("1000")
    guard.delta("300")
    pacific = EpochMicros(NOVEMBER + 7 * HOUR)
    assert guard.snapshot("200", interval_start=pacific).evidence["cost_micros"] == 300_000_000
    assert guard.state.end_us == DECEMBER + 7 * HOUR


def test_a_feed_that_begins_an_hour_before_the_timer_is_not_taken_for_an_older_period() -> None:
    guard = Guard()
    guard.snapshot("900", interval_start=EpochMicros(NOVEMBER + 8 * HOUR))
    guard.timeouts_until(DECEMBER + 8 * HOUR)
    summer = EpochMicros(DECEMBER + 7 * HOUR)
    verdict = guard.snapshot("700", at_us=DECEMBER + 12 * HOUR, interval_start=summer)
    assert verdict.evidence["cost_micros"] == 700_000_000


def test_a_feed_that_names_its_end_is_believed() -> None:
    guard = Guard()
    guard.snapshot("100", interval_end=EpochMicros(JANUARY))
    assert guard.deadline == JANUARY
    guard.timeouts_until(JANUARY)
    assert guard.state.end_us == JANUARY + 61 * DAY


def test_a_feed_that_goes_on_past_the_supposed_end_has_a_longer_period() -> None:
    guard = Guard(now_us=OCTOBER + 20 * DAY)
    quarter = EpochMicros(OCTOBER)
    guard.snapshot("1000", interval_start=quarter)
    guard.timeouts_until(NOVEMBER + DAY)
    assert guard.status is NORMAL
    assert guard.snapshot("1001", at_us=NOVEMBER + DAY, interval_start=quarter).rule == "cost.older_period"
    guard.snapshot("1002", at_us=NOVEMBER + 4 * DAY, interval_start=quarter)
    assert (guard.status, guard.state.end_us) == (STOP, JANUARY)


def test_a_feed_known_to_be_quarterly_never_rolls_over_within_the_quarter() -> None:
    guard = Guard(now_us=OCTOBER + 20 * DAY, feed_interval="quarter")
    guard.snapshot("100", interval_start=EpochMicros(OCTOBER))
    assert guard.deadline == JANUARY


def test_a_longer_period_that_was_supposed_wrongly_is_shortened_by_the_feed() -> None:
    guard = Guard(now_us=OCTOBER + 40 * DAY)
    guard.snapshot("100", interval_start=EpochMicros(OCTOBER))
    assert guard.state.end_us == JANUARY
    guard.snapshot("10", interval_start=EpochMicros(NOVEMBER))
    assert (guard.state.start_us, guard.state.end_us) == (NOVEMBER, DECEMBER)


# What the runtime asks.


def test_effects_are_a_notice_a_fraction_or_a_stop() -> None:
    guard = Guard()
    assert COST_GUARD.effect(guard.state, UNBUDGETED, guard.policy) is None
    guard.snapshot("100")
    assert COST_GUARD.effect(guard.state, NORMAL, guard.policy) is None
    guard.snapshot("600")
    assert COST_GUARD.effect(guard.state, WARN, guard.policy) == Effect("notify", {"level": "limit"})
    guard.snapshot("950")
    assert COST_GUARD.effect(guard.state, THROTTLE, guard.policy) == Effect("throttle", {"fraction_ppm": 800_000})
    guard.snapshot("1000")
    assert COST_GUARD.effect(guard.state, STOP, guard.policy) == Effect("stop")
    guard.budget("2000")
    assert COST_GUARD.effect(guard.state, RECOVERING, guard.policy) == Effect("throttle", {"fraction_ppm": 100_000})


def test_a_throttled_tenant_makes_its_budget_last_with_few_changes() -> None:
    """Demand of 5 an hour, give or take a fifth, that does as the fraction says; 100 are left for 206 hours."""
    guard = Guard()
    guard.budget("1000")
    guard.delta("900")
    statuses, effects = set(), []
    for quarter in range(4 * 206 - 2):
        noise = (quarter * 7919 % 41 - 20) * 12_500
        spend = (1_250_000 + noise) * guard.state.fraction_ppm // 1_000_000
        guard.timeouts_until(MID + (quarter + 1) * HOUR // 4)
        guard.tell(CostDelta(Micros(spend), "USD", EpochMicros(guard.now_us)))
        statuses.add(guard.status)
        effects.append(COST_GUARD.effect(guard.state, guard.status, guard.policy))
    assert statuses == {THROTTLE}
    assert guard.state.cost_micros > 950_000_000
    assert sum(before != after for before, after in pairwise(effects)) < 15


def test_admission_follows_the_fraction_and_stop_lets_critical_requests_through() -> None:
    guard = Guard()
    guard.snapshot("950")
    assert COST_GUARD.admit(guard.state, NORMAL, guard.policy) == ADMIT_ALL
    assert COST_GUARD.admit(guard.state, WARN, guard.policy) == ADMIT_ALL
    assert COST_GUARD.admit(guard.state, THROTTLE, guard.policy) == AdmitRule(fraction_ppm=800_000)
    assert COST_GUARD.admit(guard.state, STOP, guard.policy).critical_only


def test_forced_statuses_have_fractions_of_their_own() -> None:
    guard = Guard()
    guard.snapshot("100")
    assert COST_GUARD.admit(guard.state, THROTTLE, guard.policy) == AdmitRule(fraction_ppm=500_000)
    assert COST_GUARD.admit(guard.state, RECOVERING, guard.policy) == AdmitRule(fraction_ppm=100_000)


def test_a_held_throttle_keeps_its_fraction_when_the_numbers_stop() -> None:
    guard = Guard()
    guard.snapshot("950")
    guard.snapshot("1000")
    assert COST_GUARD.admit(guard.state, THROTTLE, guard.policy) == AdmitRule(fraction_ppm=800_000)


def test_a_feed_is_due_regularly_and_a_meter_is_not() -> None:
    guard = Guard()
    assert COST_GUARD.expected_period_us(guard.state, guard.policy) is None
    guard.budget("1000")
    guard.delta("5")
    assert COST_GUARD.expected_period_us(guard.state, guard.policy) is None
    guard.snapshot("5")
    assert COST_GUARD.expected_period_us(guard.state, guard.policy) == 8 * HOUR


def test_severity_rises_with_what_is_held_back() -> None:
    ordered = sorted(CostStatus, key=lambda status: COST_GUARD.severity[status])
    assert ordered[2:] == [WARN, RECOVERING, THROTTLE, STOP]


def test_the_state_is_small_and_comes_back_as_it_was() -> None:
    guard = lagging()
    encoded = msgspec.msgpack.encode(guard.state)
    assert len(encoded) < 600
    assert msgspec.msgpack.decode(encoded, type=CostState) == guard.state


def test_evidence_holds_plain_integers_that_any_encoder_takes() -> None:
    guard = Guard()
    for verdict in (guard.snapshot("910.25"), guard.budget("-1"), guard.delta("5"), guard.extra("7", MID + HOUR)):
        assert all(type(value) in (int, str) for value in verdict.evidence.values())
        assert json.loads(msgspec.json.encode(verdict.evidence)) == verdict.evidence


@pytest.mark.parametrize(
    "wrong",
    [
        {"warn_ppm": 950_000},
        {"stop_ppm": 800_000},
        {"warn_clear_ppm": 600_000},
        {"throttle_clear_ppm": 950_000},
        {"pace_clear_ppm": 1_100_000},
        {"recover_start_ppm": 10_000},
        {"recover_steps": 2},
        {"throttle_quantum_ppm": 300_000},
        {"recover_ramp_s": 5},
        {"warn_ppm": 0},
        {"bucket_s": "900"},
        {"warn_at": 1},
    ],
)
def test_impossible_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, CostPolicy)


def test_amounts_at_the_edge_of_what_a_receipt_holds_do_not_pass_it() -> None:
    guard = Guard()
    largest = Micros(2**53 - 1)
    guard.budget("0.000001")
    for _ in range(3):
        verdict = guard.tell(CostDelta(largest, "USD", EpochMicros(MID)))
    assert all(abs(value) < 2**53 for value in verdict.evidence.values() if isinstance(value, int))
    assert guard.status is STOP
