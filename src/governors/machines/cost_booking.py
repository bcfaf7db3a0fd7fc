"""How events enter the Cost Guard's books: sums, budgets and periods. What they mean is decided elsewhere.

Every function takes a state and gives the one with the event booked, its status untouched, together with the cause:
why we are looking at the numbers again.

A billing feed names the start of its period and often not its end. The end is then supposed (`feed_interval`), and
the timer rolls over there. If the feed, days later, still names the old start, the supposition was wrong: the period is
taken to be the next longer one (month, quarter, year) and goes on.
"""

from typing import Final, NamedTuple

from msgspec.structs import replace

from governors.machines.cost_learning import learn
from governors.machines.cost_policy import INTERVALS, CostPolicy
from governors.machines.cost_rules import SECOND_US
from governors.machines.cost_state import FULL_PPM, RECOVERING, STOP, THROTTLE, Budget, CostState, Trend, within_receipt
from governors.numerics.periods import interval_between, next_longer, period_at, utc_anchor_us
from governors.numerics.spend import demand_rate
from ingest.signals import MICROS_MAX, BudgetSet, CostDelta, CostSnapshot

RATES_MAX: Final = 8
_ADMITTING: Final = frozenset({THROTTLE, RECOVERING})


class Cause(NamedTuple):
    """Why the numbers are looked at. `decision` and `rule` are the words where no limit has a better one (an empty
    rule leaves it to the limits); `fresh` means that what was held against the tenant no longer counts: a new
    period, a raised budget, an operator. Only a fresh cause leads out of STOP.
    """

    decision: str
    rule: str
    fresh: bool = False


BOOKED: Final = Cause("none", "")
OLDER_PERIOD: Final = Cause("none", "cost.older_period")
LATE_USAGE: Final = Cause("none", "cost.late_usage")
EARLY_USAGE: Final = Cause("none", "cost.early_usage")
PERIOD_CONTINUES: Final = Cause("none", "cost.period_continues")
BUDGET_SET: Final = Cause("budget", "cost.budget_set")
BUDGET_RAISED: Final = Cause("budget", "cost.budget_raised", fresh=True)
INTERVAL_CHANGED: Final = Cause("budget", "cost.interval_changed", fresh=True)
ROLLOVER: Final = Cause("rollover", "cost.rollover", fresh=True)
EXTRA_BUDGET: Final = Cause("extend", "cost.extra_budget", fresh=True)
EXTRA_CHANGED: Final = Cause("extend", "cost.extra_budget")
EXTRA_ENDED: Final = Cause("budget", "cost.extra_ended")
RELEASED: Final = Cause("none", "cost.released", fresh=True)

Booked = tuple[CostState, Cause]


def catch_up(state: CostState, policy: CostPolicy, now_us: int) -> Booked:
    """What time alone has brought: the period's end, the end of extra budget. For a timer that was late, too."""
    cause = BOOKED
    budget = state.budget
    if budget.extra_until_us and budget.extra_until_us <= now_us:
        state, cause = end_extra(state), EXTRA_ENDED
    if state.end_us <= now_us:
        # The very first period ends none.
        cause = ROLLOVER if state.end_us else cause
        state = _roll(state, policy, now_us)
    return state, cause


def book_delta(state: CostState, delta: CostDelta, policy: CostPolicy, now_us: int) -> Booked:
    """Count metered spend to the period of its usage."""
    state, cause = _caught_up(state, policy, now_us)
    amount, usage_us = delta.amount, delta.usage_at
    if usage_us < state.start_us:
        return state, cause if cause.rule else LATE_USAGE
    if usage_us >= state.end_us:
        ahead = within_receipt(state.ahead_micros + amount)
        return replace(state, ahead_micros=ahead), cause if cause.rule else EARLY_USAGE
    metered = state.metered_micros + amount
    if not -MICROS_MAX <= metered <= MICROS_MAX:
        metered = within_receipt(metered)
    trend = state.trend
    if metered >= state.snapshot_micros:
        trend = follow(state, metered, policy, now_us)
    before = state
    if state.budget.currency:
        state = replace(state, metered_micros=metered, trend=trend)
    else:
        budget = replace(state.budget, currency=delta.currency)
        state = replace(state, budget=budget, metered_micros=metered, trend=trend)
    # Most signals come within a bucket, and pay one comparison.
    return (state if trend is before.trend else learn(before, state, policy, now_us)), cause


def book_snapshot(
    state: CostState, snapshot: CostSnapshot, observed_us: int, policy: CostPolicy, now_us: int
) -> Booked:
    """Take the feed's word for the period that it names, and its budget where that has changed."""
    starts_us, named_end_us = int(snapshot.interval_start), snapshot.interval_end
    cause = BOOKED
    if starts_us != state.start_us or now_us >= state.end_us or named_end_us not in (None, state.end_us):
        interval = _feed_interval(state, snapshot, observed_us, policy)
        ends_us = period_at(interval, starts_us, starts_us)[1]
        if ends_us <= now_us:
            state, cause = _caught_up(state, policy, now_us)
            return state, cause if cause.rule else OLDER_PERIOD
        state, cause = _enter_feed_period(state, (starts_us, ends_us, interval), policy)
    if state.budget.extra_until_us and state.budget.extra_until_us <= now_us:
        state, cause = end_extra(state), cause if cause.fresh else EXTRA_ENDED
    if snapshot.budget_amount != state.budget.feed_micros:
        state, changed = _take_feed_budget(state, snapshot)
        cause = cause if cause.fresh else changed
    cost = int(snapshot.cost_amount)
    trend = state.trend
    if cost > state.metered_micros:
        trend = follow(state, cost, policy, now_us)
    forecast = snapshot.forecast_amount
    before = state
    forecast_micros = 0 if forecast is None or forecast < 0 else int(forecast)
    state = replace(state, snapshot_micros=cost, forecast_micros=forecast_micros, trend=trend)
    return (state if trend is before.trend else learn(before, state, policy, now_us)), cause


def book_budget(state: CostState, new: BudgetSet, policy: CostPolicy, now_us: int) -> Booked:
    """Set the budget and its period. Sums go on where the period does; a period that begins later counts from now:
    what an older, longer one has cost must not stop a tenant on the day it gets a daily budget.
    """
    state, cause = _caught_up(state, policy, now_us)
    old = state.budget
    if new.currency != old.currency:
        state = replace(state, metered_micros=0, ahead_micros=0)
    interval = INTERVALS[new.interval]
    anchor_us = utc_anchor_us(interval) if interval != old.interval else old.anchor_us
    if new.interval_start is not None:
        anchor_us = int(new.interval_start)
    budget = Budget(
        amount_micros=int(new.budget_amount),
        currency=new.currency,
        feed_micros=old.feed_micros,
        interval=interval,
        anchor_us=anchor_us,
        extra_micros=old.extra_micros,
        extra_until_us=old.extra_until_us,
    )
    if not cause.fresh:
        cause = BUDGET_RAISED if 0 < old.amount_micros < new.budget_amount else BUDGET_SET
    start_us, end_us = period_at(interval, anchor_us, now_us)
    later = start_us - state.start_us > _skew_us(start_us, end_us, policy)
    state = replace(state, budget=budget, start_us=start_us, end_us=end_us)
    if not later:
        return state, cause
    trend = Trend(rates_per_h=state.trend.rates_per_h)
    state = replace(
        state, snapshot_micros=0, metered_micros=0, ahead_micros=0, forecast_micros=0, trend=trend, calm_since_us=0
    )
    return state, INTERVAL_CHANGED if old.amount_micros else cause


def grant_extra(state: CostState, extra_micros: int, until_us: int, policy: CostPolicy, now_us: int) -> Booked:
    """Add to the budget for a while, in place of what was added before."""
    state, cause = _caught_up(state, policy, now_us)
    more = extra_micros > state.budget.extra_micros
    budget = replace(state.budget, extra_micros=min(int(extra_micros), MICROS_MAX), extra_until_us=until_us)
    if not cause.fresh:
        cause = EXTRA_BUDGET if more else EXTRA_CHANGED
    return replace(state, budget=budget), cause


def end_extra(state: CostState) -> CostState:
    """The budget without what was added."""
    return replace(state, budget=replace(state.budget, extra_micros=0, extra_until_us=0))


def follow(state: CostState, cost_micros: int, policy: CostPolicy, now_us: int) -> Trend:
    """The trend with one more rate, once a bucket has passed. What was held back is added back in, so that a rate
    tells of demand; while stopped there is none to see.
    """
    trend = state.trend
    over_us = now_us - trend.mark_us
    if over_us < policy.bucket_s * SECOND_US:
        return trend
    if not trend.mark_us or state.status is STOP:
        return Trend(now_us, cost_micros, trend.rates_per_h)
    admitted_ppm = state.fraction_ppm if state.status in _ADMITTING else FULL_PPM
    rate = within_receipt(demand_rate(cost_micros - trend.mark_micros, over_us, admitted_ppm))
    return Trend(now_us, cost_micros, (*trend.rates_per_h[1 - RATES_MAX :], rate))


def _caught_up(state: CostState, policy: CostPolicy, now_us: int) -> Booked:
    # The usual case first: nothing has ended, and the signal pays one comparison.
    if now_us < state.end_us and not state.budget.extra_until_us:
        return state, BOOKED
    return catch_up(state, policy, now_us)


def _roll(state: CostState, policy: CostPolicy, now_us: int) -> CostState:
    budget = state.budget
    if not budget.amount_micros and not state.end_us:
        interval = INTERVALS[policy.feed_interval]
        budget = replace(budget, interval=interval, anchor_us=utc_anchor_us(interval))
        state = replace(state, budget=budget)
    start_us, end_us = period_at(budget.interval, budget.anchor_us, now_us)
    return _begin(state, start_us, end_us, policy)


def _begin(state: CostState, start_us: int, end_us: int, policy: CostPolicy) -> CostState:
    """Open a period with empty books. Early usage counts if this is the period that follows."""
    follows = start_us - state.end_us <= _skew_us(start_us, end_us, policy)
    metered = state.ahead_micros if follows else 0
    return replace(
        state,
        start_us=start_us,
        end_us=end_us,
        snapshot_micros=0,
        metered_micros=metered,
        ahead_micros=0,
        forecast_micros=0,
        # No mark yet: the cost that a new period opens with is no spend of its first moment.
        trend=Trend(rates_per_h=state.trend.rates_per_h),
        calm_since_us=0,
        notice=0,
    )


def _feed_interval(state: CostState, snapshot: CostSnapshot, observed_us: int, policy: CostPolicy) -> int:
    starts_us = snapshot.interval_start
    if snapshot.interval_end is not None:
        return interval_between(starts_us, snapshot.interval_end)
    budget = state.budget
    # A start before the known end says that the supposed interval was too long.
    supposed_right = starts_us <= state.start_us or starts_us >= state.end_us - _skew_us(
        state.start_us, state.end_us, policy
    )
    interval = budget.interval if budget.amount_micros and supposed_right else INTERVALS[policy.feed_interval]
    while period_at(interval, starts_us, starts_us)[1] + policy.feed_settle_s * SECOND_US <= observed_us:
        interval = next_longer(interval)
    return interval


def _enter_feed_period(state: CostState, period: tuple[int, int, int], policy: CostPolicy) -> Booked:
    """Move to the period that the feed names: the one that is open, one that is new, or an older one that goes on."""
    start_us, end_us, interval = period
    shift_us = start_us - state.start_us
    skew_us = _skew_us(start_us, end_us, policy)
    budget = replace(state.budget, interval=interval, anchor_us=start_us)
    if not state.end_us or shift_us > skew_us:
        cause = ROLLOVER if state.end_us else BOOKED
        return replace(_begin(state, start_us, end_us, policy), budget=budget), cause
    cause = BOOKED if shift_us >= -skew_us else PERIOD_CONTINUES
    return replace(state, budget=budget, start_us=start_us, end_us=end_us), cause


def _take_feed_budget(state: CostState, snapshot: CostSnapshot) -> Booked:
    old = state.budget
    amount = int(snapshot.budget_amount)
    budget = replace(old, amount_micros=amount, currency=snapshot.currency, feed_micros=amount)
    if snapshot.currency != old.currency:
        state = replace(state, metered_micros=0, ahead_micros=0)
    cause = BUDGET_RAISED if 0 < old.amount_micros < amount else BUDGET_SET
    return replace(state, budget=budget), cause


def _skew_us(start_us: int, end_us: int, policy: CostPolicy) -> int:
    return min(policy.period_skew_s * SECOND_US, (end_us - start_us) // 8)
