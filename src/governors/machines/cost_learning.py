"""What the Cost Guard learns from a bucket of spend: what is usual, what is to come, and whether this one is neither.

Unusual is a rate that is far over what was expected in this bucket and in the one before, where

- the modified z-score was high in two of the last three buckets, and higher than it has come by itself; or the detector
  raised an alarm in one of the last two;
- and, after a first time, by some more: who warns every day is not listened to.

What would go on is the lesser of the last two rates: one burst is money spent, and no habit. A slow drift is seen by
the sum of days instead, and goes on as the last day did.
"""

from typing import Final

from msgspec.structs import replace

from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_state import CostState, Learnt, within_receipt
from governors.numerics.anomaly import WARM_POINTS, observe
from governors.numerics.outlook import Outlook, expected_rate, follow, is_known, quantiles
from governors.numerics.spend import median

SECOND_US: Final = 1_000_000
FULL_PPM: Final = 1_000_000
# In buckets: records and the raised bar fade with half-lives of 6,900 and 2,700 of them.
_RECORD_BUCKETS: Final = 10_000
_BAR_BUCKETS: Final = 3_900
_BAR_MAX_PPM: Final = 100 * FULL_PPM
_NOTHING: Final = Learnt()


def learn(before: CostState, after: CostState, policy: CostPolicy, now_us: int) -> CostState:
    """`after`, which has a new mark, with what its newest rate teaches; as it is where the mark brought no rate."""
    from_us, rates = before.trend.mark_us, after.trend.rates_per_h
    if not from_us or rates is before.trend.rates_per_h or now_us <= from_us:
        return after
    rate, learnt = rates[-1], after.learnt or _NOTHING
    middle_us = (from_us + now_us) // 2
    # Before it learns from the bucket itself.
    expected = _expected(learnt.outlook, rates, middle_us, policy)
    habit, seen = observe(learnt.habit, rate, middle_us // SECOND_US)
    outlook = follow(learnt.outlook, rate, from_us, now_us)
    scores = (*learnt.z_milli[-2:], seen.z_ppm // 1_000)
    score = sorted(scores)[-2] if len(scores) == 3 else 0
    reach = seen.reach_ppm if seen.alarm and rate > expected else 0

    excess = 0
    unusual_us, bar = learnt.unusual_us, max(FULL_PPM, learnt.bar_ppm - learnt.bar_ppm // _BAR_BUCKETS)
    # What goes on is the same incident, for as long as its status takes to relax.
    same = bool(unusual_us) and now_us - unusual_us <= policy.clear_dwell_s * SECOND_US
    if habit.points > WARM_POINTS and _is_unusual(learnt, score, reach, FULL_PPM if same else bar, policy):
        lasting = min(rates[-2:])
        if lasting * FULL_PPM >= expected * (FULL_PPM + policy.anomaly_over_ppm):
            excess, unusual_us = lasting - expected, now_us
    if outlook.drift_milli >= policy.anomaly_drift_milli:
        excess = max(excess, outlook.over_per_h)
    if excess and not same:
        bar = min(_BAR_MAX_PPM, bar * policy.anomaly_raise_ppm // FULL_PPM)
    low, middle, top = _rest(outlook, after.end_us, policy, now_us)
    return replace(
        after,
        learnt=Learnt(
            habit=habit,
            outlook=outlook,
            z_milli=scores,
            record_milli=max(learnt.record_milli - learnt.record_milli // _RECORD_BUCKETS, score),
            reach_ppm=reach,
            bar_ppm=bar,
            unusual_us=unusual_us,
            at_us=now_us,
            end_us=after.end_us if middle else 0,
            rest_low_micros=low,
            rest_micros=middle,
            rest_high_micros=top,
            excess_per_h=within_receipt(excess),
            rate_per_h=rate,
            expected_per_h=within_receipt(expected),
        ),
    )


def _is_unusual(learnt: Learnt, score: int, reach: int, bar_ppm: int, policy: CostPolicy) -> bool:
    """Whether two of three z-scores, or an alarm, surpass what there was by as much as the bar says."""
    if max(reach, learnt.reach_ppm) >= bar_ppm:
        return True
    surpassed = learnt.record_milli * policy.anomaly_record_ppm // FULL_PPM * bar_ppm // FULL_PPM
    return score >= max(policy.anomaly_z_milli, surpassed)


def _expected(outlook: Outlook, rates: tuple[int, ...], at_us: int, policy: CostPolicy) -> int:
    """The usual rate of this hour of the week; the middle of the last few while weeks are not known."""
    if is_known(outlook, at_us, policy.forecast_history_s * SECOND_US):
        return expected_rate(outlook, at_us)
    return max(outlook.level_per_h, median(rates[:-1]))


def _rest(outlook: Outlook, end_us: int, policy: CostPolicy, now_us: int) -> tuple[int, int, int]:
    """The spend until the period's end: what it will exceed with the odds of a throttle, with those of a warning, and
    what it will not exceed with the odds of a throttle.
    """
    if now_us >= end_us or not is_known(outlook, now_us, policy.forecast_history_s * SECOND_US):
        return 0, 0, 0
    shares = (FULL_PPM - policy.overrun_throttle_ppm, FULL_PPM - policy.overrun_warn_ppm, policy.overrun_throttle_ppm)
    low, middle, top = quantiles(outlook, now_us, end_us, shares)
    return within_receipt(low), within_receipt(middle), within_receipt(top)
