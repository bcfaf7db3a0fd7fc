"""The Cost Guard on tenants with a history: forecasts and anomalies, each with what keeps it from crying wolf."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from governors.fsm.table import Verdict, step
from governors.machines.cost_guard import COST_GUARD, TABLE
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_state import CostState, CostStatus
from governors.machines.events import Event, Timeout
from governors.machines.explain import explain
from governors.machines.governor import Effect
from ingest.signals import BudgetSet, CostDelta, CostSnapshot, EpochMicros, Micros

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
BUCKET = HOUR // 4
NOVEMBER = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
UNIT = 1_000_000

UNBUDGETED, NORMAL, WARN, THROTTLE, STOP, RECOVERING = CostStatus


def usual(at_us: int) -> int:
    """Ten units an hour, give or take a tenth as if by chance."""
    number = at_us // BUCKET
    return 2_500_000 + (number * 7_919 % 101 - 50) * 5_000


def times(factor: int) -> Callable[[int], int]:
    return lambda at_us: factor * usual(at_us)


class Meter:
    """A machine whose tenant reports its spend every quarter of an hour."""

    def __init__(self, budget: int = 12_000, begin_us: int = NOVEMBER - 20 * DAY, **policy: Any) -> None:
        self.policy = CostPolicy(**policy)
        self.state: CostState = COST_GUARD.initial()
        self.now_us = begin_us
        self.tell(BudgetSet(Micros(budget * UNIT), "USD", "month"))

    @property
    def status(self) -> CostStatus:
        return self.state.status

    def tell(self, body: Any) -> Verdict[CostState]:
        verdict: Verdict[CostState] = step(TABLE, self.state, Event("e", self.now_us, body), self.policy, self.now_us)
        assert explain(COST_GUARD.rules, verdict.rule, verdict.evidence) != verdict.rule
        self.state = verdict.state
        return verdict

    def spend(self, until_us: int, amount: Callable[[int], int] = usual) -> list[Verdict[CostState]]:
        """What was decided, nothings left out."""
        decided = []
        while self.now_us < until_us:
            self.now_us += BUCKET
            decided.append(self.tell(CostDelta(Micros(amount(self.now_us)), "USD", EpochMicros(self.now_us))))
            while (due_us := COST_GUARD.deadline(self.state, self.policy)) is not None and due_us <= self.now_us:
                decided.append(self.tell(Timeout()))
        return [one for one in decided if one.decision != "none"]


def settled(day: int = 5, **more: Any) -> Meter:
    """A tenant with twenty-five days of history, some days into its month, half of the budget to be used by its end."""
    meter = Meter(**more)
    meter.spend(NOVEMBER + day * DAY + 10 * HOUR)
    assert meter.status is NORMAL
    return meter


def test_a_step_to_three_times_the_spend_is_warned_of_in_its_second_bucket() -> None:
    meter = settled()
    assert meter.spend(meter.now_us + BUCKET, times(3)) == []
    [verdict] = meter.spend(meter.now_us + BUCKET, times(3))
    assert (verdict.decision, verdict.rule, meter.status) == ("warn", "cost.anomaly", WARN)
    evidence = verdict.evidence
    assert evidence["rate_per_h"] >= 2 * evidence["expected_per_h"]  # type: ignore[operator]
    assert evidence["impact_micros"] * 20 >= evidence["budget_micros"]  # type: ignore[operator]
    assert evidence["z_milli"] >= 3_500  # type: ignore[operator]
    said = explain(COST_GUARD.rules, verdict.rule, evidence)
    assert "an hour where" in said
    assert "would cost" in said
    assert COST_GUARD.effect(meter.state, WARN, meter.policy) == Effect("notify", {"level": "anomaly"})


def test_a_burst_of_one_bucket_is_money_spent_and_no_anomaly() -> None:
    meter = settled()
    assert meter.spend(meter.now_us + BUCKET, times(30)) == []
    assert meter.spend(meter.now_us + 2 * HOUR) == []


def test_an_anomaly_that_costs_too_little_is_none() -> None:
    large_budget = settled(budget=200_000)
    assert large_budget.spend(large_budget.now_us + 2 * HOUR, times(2)) == []
    small_money = settled(anomaly_least_micros=100_000 * UNIT)
    assert small_money.spend(small_money.now_us + 2 * HOUR, times(2)) == []


def test_an_anomaly_ends_by_itself_once_it_was_calm_for_the_dwell() -> None:
    meter = settled()
    meter.spend(meter.now_us + HOUR, times(3))
    assert meter.status is WARN
    [verdict] = meter.spend(meter.now_us + 7 * HOUR)
    assert (verdict.decision, verdict.rule, meter.status) == ("clear", "cost.clear", NORMAL)


def test_the_next_anomaly_must_be_larger_before_it_is_told() -> None:
    meter = settled()
    meter.spend(meter.now_us + HOUR, times(3))
    meter.spend(meter.now_us + 12 * HOUR)
    assert meter.status is NORMAL
    assert meter.spend(meter.now_us + HOUR, times(3)) == []
    meter.spend(meter.now_us + 12 * HOUR)
    [verdict] = meter.spend(meter.now_us + HOUR, times(40))
    assert verdict.rule in {"cost.anomaly", "cost.anomaly_overrun"}


def test_an_anomaly_is_told_also_where_a_limit_already_warned() -> None:
    meter = settled(day=5)
    meter.spend(NOVEMBER + 26 * DAY)
    assert meter.status is WARN
    assert COST_GUARD.effect(meter.state, WARN, meter.policy) == Effect("notify", {"level": "limit"})
    [verdict] = meter.spend(meter.now_us + HOUR, times(4))
    assert verdict.rule == "cost.anomaly"
    assert COST_GUARD.effect(meter.state, WARN, meter.policy) == Effect("notify", {"level": "limit_anomaly"})


def test_an_anomaly_that_likely_ends_over_the_budget_throttles_and_never_stops() -> None:
    meter = settled()
    seen = meter.spend(meter.now_us + 4 * DAY, times(4))
    assert [one.rule for one in seen][:1] == ["cost.anomaly"]
    first = next(one for one in seen if one.decision == "throttle")
    assert first.rule in {"cost.anomaly_overrun", "cost.forecast_throttle"}
    assert first.evidence["forecast_micros"] >= first.evidence["budget_micros"]  # type: ignore[operator]
    assert meter.status is THROTTLE
    assert all(one.state.status is not STOP for one in seen)


def test_there_is_no_forecast_before_ten_days() -> None:
    meter = Meter(budget=4_000, begin_us=NOVEMBER)
    seen = meter.spend(NOVEMBER + 10 * DAY)
    assert {one.rule for one in seen} <= {"cost.pace", "cost.warn"}
    assert meter.state.learnt is not None
    assert meter.state.learnt.end_us == 0
    seen = meter.spend(NOVEMBER + 11 * DAY)
    assert meter.state.learnt.end_us == meter.state.end_us


def test_a_likely_overrun_warns_on_the_first_day_of_a_period() -> None:
    meter = Meter(budget=6_500)
    seen = meter.spend(NOVEMBER + DAY)
    assert [one.rule for one in seen if one.state.start_us == NOVEMBER][-1] == "cost.forecast"
    assert meter.status is WARN


def test_an_all_but_certain_overrun_throttles_once_half_the_budget_is_spent() -> None:
    meter = Meter(budget=5_000)
    seen = [one for one in meter.spend(NOVEMBER + 12 * DAY) if one.state.start_us == NOVEMBER]
    throttled = next(one for one in seen if one.decision == "throttle")
    assert throttled.rule == "cost.forecast_throttle"
    assert 500_000 <= throttled.evidence["utilisation_ppm"] < 510_000  # type: ignore[operator]
    assert throttled.evidence["forecast_low_micros"] >= throttled.evidence["budget_micros"]  # type: ignore[operator]


def test_a_throttle_by_forecast_relaxes_once_no_overrun_was_in_sight_for_the_dwell() -> None:
    meter = Meter(budget=5_000)
    meter.spend(NOVEMBER + 12 * DAY)
    assert meter.status is THROTTLE
    begun_us = meter.now_us
    seen = meter.spend(begun_us + 6 * DAY, lambda at_us: usual(at_us) // 20)
    relaxed = next(one for one in seen if one.decision == "relax")
    assert (relaxed.rule, relaxed.state.status) == ("cost.clear", WARN)
    assert relaxed.evidence["forecast_micros"] < relaxed.evidence["budget_micros"]  # type: ignore[operator]


def test_a_forecast_ends_with_its_period() -> None:
    meter = settled()
    assert meter.state.learnt is not None
    end_us = meter.state.end_us
    meter.now_us = end_us
    rolled = meter.tell(Timeout())
    assert rolled.rule == "cost.rollover"
    assert "forecast_low_micros" not in rolled.evidence


def test_a_feed_that_comes_in_lumps_is_no_anomaly() -> None:
    meter = Meter()
    cost = 0
    for report in range(60):
        meter.now_us += 8 * HOUR
        cost += 240 * UNIT if report % 3 == 2 else 0
        starts_us = meter.state.start_us
        cost = cost if starts_us <= meter.now_us - 8 * HOUR else 0
        snapshot = CostSnapshot(Micros(cost), Micros(12_000 * UNIT), "USD", EpochMicros(starts_us))
        assert meter.tell(snapshot).rule not in {"cost.anomaly", "cost.anomaly_overrun"}


@pytest.mark.parametrize("day", [2, 20])
def test_a_state_with_everything_learnt_is_small_and_comes_back_as_it_was(day: int) -> None:
    meter = settled(day=day, budget=40_000)
    packed = msgspec.msgpack.encode(meter.state)
    assert len(packed) < 1_000
    assert msgspec.msgpack.decode(packed, type=CostState) == meter.state


def test_a_state_of_the_version_before_is_read_as_one_that_has_learnt_nothing() -> None:
    meter = Meter()
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(meter.state))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields[:-1]), type=CostState) == meter.state
    assert meter.state.learnt is None
