"""What a cost means against its budget: the rules of the Cost Guard, each with the sentence that explains it.

Utilisation is cost over budget in ppm, rounded down; `floor(x) >= n` is `x >= n` for whole n, so every comparison of
it with a limit is exact.

Statistics never stop a tenant on their own. The lag margin is one: cost that the feed has not reported yet, estimated
from the spend rate. A tenant that ends its month at 99 % of its budget would be stopped on its last day by it, and the
floor of THROTTLE keeps 95 % of what stopping would save without taking the tenant down. So the margin throttles,
unless the policy says that the budget is a hard cap (`lag_margin_stops`); and either only once the cost that was
really reported has reached the WARN limit.
"""

from typing import Final

from msgspec import Struct

from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_state import FULL_PPM, NORMAL, STOP, THROTTLE, WARN, CostState, CostStatus, within_receipt
from governors.numerics.periods import HOUR_US
from governors.numerics.spend import bearable_fraction, linear_pace, median, next_fraction
from ingest.signals import MICROS_MAX

SECOND_US: Final = 1_000_000
# Fewer rates than this have no middle that one outlier could not be.
LAG_RATES_MIN: Final = 3

NOTICE_PACE: Final = 1
NOTICE_LIMIT: Final = 2
NOTICE_HIGH: Final = 3
NOTICE_UNUSUAL: Final = 4
"""A bit beside the level: something is unusual."""

_OF_BUDGET: Final = "cost {cost_micros:money} of {budget_micros:money} {currency}"
_UNUSUAL: Final = "{rate_per_h:estimate} an hour where {expected_per_h:estimate} is usual"

RULES: Final = {
    "cost.within": f"{_OF_BUDGET} is under {{limit_ppm:percent}}",
    "cost.warn": f"{_OF_BUDGET} is at or over {{limit_ppm:percent}}",
    "cost.throttle": f"{_OF_BUDGET} is at or over {{limit_ppm:percent}}",
    "cost.stop": f"{_OF_BUDGET} is at or over {{limit_ppm:percent}}",
    "cost.pace": f"{_OF_BUDGET}; at this pace the period ends at {{forecast_micros:estimate}}",
    "cost.forecast": f"{_OF_BUDGET}; by the last weeks the period likely ends at {{forecast_micros:estimate}}",
    "cost.forecast_throttle": f"{_OF_BUDGET}; by the last weeks the period ends at {{forecast_low_micros:estimate}} "
    "or more, all but certainly",
    "cost.anomaly": f"{_OF_BUDGET}; {_UNUSUAL} would cost {{impact_micros:estimate}} more by the end of the period",
    "cost.anomaly_overrun": f"{_OF_BUDGET}; {_UNUSUAL}, and the period likely ends at {{forecast_micros:estimate}}",
    "cost.feed_forecast": f"{_OF_BUDGET}; the billing feed forecasts {{forecast_micros:money}}",
    "cost.lag_margin": f"{_OF_BUDGET}, with {{lag_micros:estimate}} likely spent but not reported yet, "
    "reaches the budget",
    "cost.throttle_step": f"{_OF_BUDGET}; what is left lasts the period at {{target_ppm:percent}} of the demand: "
    "admitting {fraction_ppm:percent}",
    "cost.not_clear": f"{_OF_BUDGET} is not yet under {{clear_ppm:percent}} with no overrun in sight",
    "cost.dwell": f"{_OF_BUDGET} is clear, but not yet for {{dwell_ms:duration}}",
    "cost.clear": f"{_OF_BUDGET} was under {{clear_ppm:percent}} with no overrun in sight for {{dwell_ms:duration}}",
    "cost.stopped": f"{_OF_BUDGET}: stopped until a new period, a raised budget or an operator",
    "cost.ramp": f"{_OF_BUDGET}; recovering: admitting {{fraction_ppm:percent}}",
    "cost.recovered": f"{_OF_BUDGET}; recovered: admitting everything",
    "cost.rollover": f"a new period began: {_OF_BUDGET}",
    "cost.budget_set": f"the budget is set: {_OF_BUDGET}",
    "cost.budget_raised": f"the budget is raised: {_OF_BUDGET}",
    "cost.interval_changed": f"the budget has another period, counted from now: {_OF_BUDGET}",
    "cost.extra_budget": f"an operator granted {{extra_micros:money}} more: {_OF_BUDGET}",
    "cost.extra_ended": f"the extra budget has ended: {_OF_BUDGET}",
    "cost.released": f"an operator released: {_OF_BUDGET}",
    "cost.older_period": f"the snapshot tells of a period that is over and does not count: {_OF_BUDGET}",
    "cost.period_continues": f"the feed's period goes on where a new one was supposed: {_OF_BUDGET}",
    "cost.late_usage": f"the usage is of a period that is over and does not count: {_OF_BUDGET}",
    "cost.early_usage": f"the usage is of the next period and counts there: {_OF_BUDGET}",
    "cost.unbudgeted": "no budget is set; metered so far: {cost_micros:money} {currency}",
    "cost.nothing_due": "nothing was due",
    "cost.no_change": "{event} does not change what the spend calls for",
    "cost.refused_currency": "the amount is in {currency}, the budget in {budget_currency}",
    "cost.refused_budget": "a budget of {budget_micros:money} {currency} is no budget: it must be more than 0",
    "cost.refused_period": "the period ends before it begins",
    "cost.refused_future": "{ahead_ms:duration} ahead of our clock, more than {limit_ms:duration} is refused",
    "cost.refused_extra": "extra budget must be positive, not over yet, and added to a budget",
}


class Reading(Struct, frozen=True, gc=False):
    """The numbers of one moment, and the status that they call for by themselves: without hysteresis or history."""

    natural: CostStatus
    rule: str
    limit_ppm: int
    cost_micros: int
    budget_micros: int
    used_ppm: int
    forecast_micros: int
    lag_micros: int
    forecast_low_micros: int = 0
    forecast_high_micros: int = 0
    impact_micros: int = 0


def budget_now(state: CostState, now_us: int) -> int:
    """The budget with what an operator has added for now."""
    budget = state.budget
    if budget.extra_until_us > now_us:
        return min(MICROS_MAX, budget.amount_micros + budget.extra_micros)
    return budget.amount_micros


def read(state: CostState, policy: CostPolicy, now_us: int) -> Reading:
    """Hold the cost against every limit, the severest first. The state must have a budget."""
    cost = state.cost_micros
    budget = budget_now(state, now_us)
    used_ppm = cost * FULL_PPM // budget
    if not -MICROS_MAX <= used_ppm <= MICROS_MAX:
        used_ppm = within_receipt(used_ppm)
    learnt = state.learnt
    forecast_low = forecast_high = impact = 0
    if learnt is not None and learnt.end_us == state.end_us and now_us < state.end_us:
        # What was left to spend shrinks with the time that is left to spend it in.
        left_us, of_us = state.end_us - now_us, learnt.end_us - learnt.at_us
        own = min(MICROS_MAX, cost + learnt.rest_micros * left_us // of_us)
        forecast_low = min(MICROS_MAX, cost + learnt.rest_low_micros * left_us // of_us)
        forecast_high = min(MICROS_MAX, cost + learnt.rest_high_micros * left_us // of_us)
        own_rule = "cost.forecast"
    else:
        own, own_rule = _pace(state, policy, cost, now_us), "cost.pace"
    forecast = own if own >= state.forecast_micros else state.forecast_micros
    if learnt is not None and learnt.excess_per_h:
        impact = _impact(learnt.excess_per_h, state.end_us - now_us, budget, policy)
    lag = 0
    if used_ppm >= policy.warn_ppm and state.snapshot_micros > state.metered_micros:
        lag = _unreported(state, policy, now_us)

    natural, rule, limit_ppm = NORMAL, "cost.within", policy.warn_ppm
    if used_ppm >= policy.stop_ppm:
        natural, rule, limit_ppm = STOP, "cost.stop", policy.stop_ppm
    elif lag and cost + lag >= budget and policy.lag_margin_stops:
        natural, rule, limit_ppm = STOP, "cost.lag_margin", policy.stop_ppm
    elif used_ppm >= policy.throttle_ppm:
        natural, rule, limit_ppm = THROTTLE, "cost.throttle", policy.throttle_ppm
    elif lag and cost + lag >= budget:
        natural, rule, limit_ppm = THROTTLE, "cost.lag_margin", policy.stop_ppm
    elif forecast_low >= budget and used_ppm >= policy.overrun_used_ppm:
        natural, rule, limit_ppm = THROTTLE, "cost.forecast_throttle", policy.stop_ppm
    elif impact and forecast_low and own >= budget:
        natural, rule, limit_ppm = THROTTLE, "cost.anomaly_overrun", policy.stop_ppm
    elif impact:
        natural, rule = WARN, "cost.anomaly"
    elif used_ppm >= policy.warn_ppm:
        natural, rule = WARN, "cost.warn"
        if used_ppm >= policy.warn_high_ppm:
            limit_ppm = policy.warn_high_ppm
    elif forecast * FULL_PPM >= budget * policy.pace_overrun_ppm:
        natural, limit_ppm = WARN, policy.pace_overrun_ppm
        rule = own_rule if forecast == own else "cost.feed_forecast"
    return Reading(natural, rule, limit_ppm, cost, budget, used_ppm, forecast, lag, forecast_low, forecast_high, impact)


def notice_level(reading: Reading, policy: CostPolicy) -> int:
    """How loud WARN is: for a forecast only, for the limit, for the high limit; and whether something is unusual."""
    unusual = NOTICE_UNUSUAL if reading.impact_micros else 0
    if reading.used_ppm < policy.warn_ppm:
        return NOTICE_PACE | unusual
    return (NOTICE_HIGH if reading.used_ppm >= policy.warn_high_ppm else NOTICE_LIMIT) | unusual


def louder(notice: int, level: int) -> int:
    """A notice with all that another one says."""
    return max(notice & 3, level & 3) | (notice | level) & NOTICE_UNUSUAL


def is_calm(reading: Reading, policy: CostPolicy, clear_ppm: int) -> bool:
    """Under the clearing limit, with no overrun in sight by a margin."""
    return (
        reading.used_ppm < clear_ppm
        and reading.natural not in (THROTTLE, STOP)
        and reading.forecast_micros * FULL_PPM < reading.budget_micros * policy.pace_clear_ppm
    )


def target_fraction(state: CostState, reading: Reading, now_us: int) -> int:
    """The share of demand, in ppm, that spends what is left of the budget by the end of the period."""
    rate_per_h = median(state.trend.rates_per_h)
    if not state.trend.rates_per_h and now_us > state.start_us:
        rate_per_h = linear_pace(max(reading.cost_micros, 0), now_us - state.start_us, HOUR_US)
    # What is not reported yet was spent under the fraction that is in force, not at full demand.
    unreported = reading.lag_micros * state.fraction_ppm // FULL_PPM
    headroom = reading.budget_micros - reading.cost_micros - unreported
    return bearable_fraction(headroom, rate_per_h, state.end_us - now_us)


def step_fraction(current_ppm: int, target_ppm: int, policy: CostPolicy) -> int:
    """The fraction that THROTTLE admits next."""
    return next_fraction(
        current_ppm, target_ppm, policy.throttle_floor_ppm, policy.throttle_step_ppm, policy.throttle_quantum_ppm
    )


def _pace(state: CostState, policy: CostPolicy, cost: int, now_us: int) -> int:
    """Where the period ends by linear pace; 0 while too little of it has passed to say."""
    elapsed_us = now_us - state.start_us
    length_us = state.end_us - state.start_us
    if cost <= 0 or elapsed_us * FULL_PPM < length_us * policy.pace_min_elapsed_ppm:
        return 0
    pace = linear_pace(cost, elapsed_us, length_us)
    return pace if pace < MICROS_MAX else MICROS_MAX


def _impact(excess_per_h: int, left_us: int, budget: int, policy: CostPolicy) -> int:
    """What is unusual would cost so much more by the end of the period; 0 where that is too little to speak of."""
    impact = min(MICROS_MAX, excess_per_h * max(0, left_us) // HOUR_US)
    matters = impact >= policy.anomaly_least_micros and impact * FULL_PPM >= budget * policy.anomaly_share_ppm
    return impact if matters else 0


def _unreported(state: CostState, policy: CostPolicy, now_us: int) -> int:
    """What the feed has likely not seen yet: the robust rate over its lag, or over the period so far if less."""
    rates = state.trend.rates_per_h
    if len(rates) < LAG_RATES_MIN:
        return 0
    lag_us = max(0, min(policy.feed_lag_s * SECOND_US, now_us - state.start_us))
    return min(MICROS_MAX, median(rates) * lag_us // HOUR_US)
