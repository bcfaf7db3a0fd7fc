"""What is normal for a service: counts of the hours in which no deploy was judged, and what they bound.

Where no baseline runs beside a canary, its past takes the place of one: the hour before the deploy and the same hour
of last week, the worse of the two, and of each the upper bound that its counts allow. That is weaker than a baseline:
whatever else began with the deploy is blamed on it.

How far errors come in clumps is told from the same counts: by the variance of the samples' errors over what chance
would make it (Pearson's statistic), where it is more than chance.
"""

import math
from typing import Final

from governors.machines.governor import SECOND_US
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Before, Hour
from governors.numerics.e_process import upper_mean
from ingest.signals import INTEGER_MAX, DeploySample

HOUR_US: Final = 3_600 * SECOND_US
WEEK_H: Final = 168
# Both hours that lie in the hour before a deploy, the one that it begins in and the one before that.
RECENT_H: Final = 1
SAMPLES_MIN: Final = 30
SIGMAS: Final = 3.0
DISPERSION_MAX: Final = 1_000.0
SQUARES: Final = 1_000_000
PPM: Final = 1_000_000

Past = tuple[Hour, ...]


def add_past(past: Past, sample: DeploySample, observed_us: int, now_us: int) -> Past:
    """The past with one more sample, without what is older than a week and an hour."""
    hour = min(now_us, observed_us) // HOUR_US
    squares = min(INTEGER_MAX, sample.errors * sample.errors * SQUARES // max(1, sample.requests))
    counted = Hour(hour, sample.requests, sample.errors, sample.slow, 1, squares)
    if not past or hour > past[-1].hour:
        return (*(one for one in past if one.hour >= hour - WEEK_H - RECENT_H), counted)
    if hour == past[-1].hour:
        return (*past[:-1], _plus(past[-1], counted))
    # What comes late joins its hour, if that is remembered.
    return tuple(_plus(one, counted) if one.hour == hour else one for one in past)


def before_deploy(past: Past, started_us: int, policy: RollbackPolicy) -> Before | None:
    """What to expect of a deploy that begins now; None where the past is not known."""
    hour = started_us // HOUR_US
    found = [
        one for one in (_sum(past, hour - RECENT_H, hour), _sum(past, hour - WEEK_H, hour - WEEK_H)) if one.requests
    ]
    if not found:
        return None
    bounds = [_bound(one, policy) for one in found]
    return Before(
        sum(one.requests for one in found),
        sum(one.errors for one in found),
        sum(one.slow for one in found),
        max(one.errors_share for one in bounds),
        max(one.slow_share for one in bounds),
        max(one.dispersion for one in bounds),
    )


def _bound(hour: Hour, policy: RollbackPolicy) -> Before:
    dispersion = max(policy.dispersion_milli / 1000, _dispersion(hour))
    # Half of what may go wrong is spent on the bound, the other half on the evidence that is weighed with it.
    errors = upper_mean(hour.errors, policy.alpha_errors_ppm / PPM / 2, dispersion)
    slow = upper_mean(hour.slow, policy.alpha_slow_ppm / PPM / 2, dispersion)
    return Before(hour.requests, hour.errors, hour.slow, errors / hour.requests, slow / hour.requests, dispersion)


def _dispersion(hour: Hour) -> float:
    """Variance over mean of the samples' errors; 1 where that is within chance, or too little is known."""
    degrees = hour.samples - 1
    if hour.samples < SAMPLES_MIN or not hour.errors:
        return 1.0
    statistic = hour.squares / SQUARES * hour.requests / hour.errors - hour.errors
    if statistic <= degrees + SIGMAS * math.sqrt(2.0 * degrees):
        return 1.0
    return min(statistic / degrees, DISPERSION_MAX)


def _sum(past: Past, first: int, last: int) -> Hour:
    total = Hour(last, 0, 0, 0, 0, 0)
    for one in past:
        if first <= one.hour <= last:
            total = _plus(total, one)
    return total


def _plus(a: Hour, b: Hour) -> Hour:
    total = Hour(
        a.hour, a.requests + b.requests, a.errors + b.errors, a.slow + b.slow, a.samples + b.samples,
        a.squares + b.squares,
    )  # fmt: skip
    # Errors and slow ones are among the requests.
    if total.requests <= INTEGER_MAX and total.samples <= INTEGER_MAX and total.squares <= INTEGER_MAX:
        return total
    return Hour(
        a.hour,
        min(a.requests + b.requests, INTEGER_MAX),
        min(a.errors + b.errors, INTEGER_MAX),
        min(a.slow + b.slow, INTEGER_MAX),
        min(a.samples + b.samples, INTEGER_MAX),
        min(a.squares + b.squares, INTEGER_MAX),
    )
