"""What will be spent until some moment, and how sure that is: a level, a profile of the week, and past errors.

The level is an average of the rate with the week's profile taken out, fading with a half-life of three days. The
profile has a factor for each hour of the week, moved by each week's hour by a quarter of the way (by more while it is
young), and by an octave at most: what one wild week does to it is gone in a month, as from a median of four.

How sure: at the end of every day the day's spend is held against what was foreseen when it began, and the last 28 such
errors are kept. Where single days miss by e, a sum of n days misses by g(n) e with

    g(n)^2 = (1/n^2) sum over j < n of (1 + a j)^2,

as simple exponential smoothing with gain a has it (Hyndman et al., "Forecasting with Exponential Smoothing", 6.3): the
noise of days averages out, a drift of the level does not. A quantile of the errors, so scaled, is a quantile of the
spend: what a bootstrap of them would give, without chance.

The same errors tell of a slow drift, which no single day shows: the upper CUSUM (Page, 1954) of their modified z-scores
with k = 0.5.

Rates are micros an hour, times µs of UTC. Factors and errors are bytes of 1/32 octaves around 128, four octaves down
and up; 0 is a factor that is not known yet. Integers throughout, powers of two from a table.
"""

import math
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from governors.numerics.periods import DAY_US, HOUR_US

FULL_PPM: Final = 1_000_000
HOURS: Final = 168
ERRORS_MAX: Final = 28
ERRORS_MIN: Final = 7
LEVEL_HOURS: Final = 104
"""A gain of 1/104 an hour halves in three days."""
GAIN_PPM: Final = 206_000
"""The same over a day: 1 - 2^(-1/3)."""
PROFILE_WEEKS: Final = 4
_OUTLIER: Final = 3
"""An hour counts for the level as at most so many times of it: a burst is no level."""
_GAP_US: Final = HOURS * HOUR_US
_DAY_KNOWN_US: Final = 20 * HOUR_US
_RATE_MAX: Final = 2**53 - 1
_ONE: Final = 128
_MAD_LEAST: Final = 2
_SLACK_MILLI: Final = 500
_DRIFT_MAX_MILLI: Final = 20_000
"""Where the sum stops growing: days as they were foreseen must be able to end it again."""
_OCTAVE: Final = 32

# 2^(k/32) in ppm.
_ROOTS: Final = (
    1_000_000, 1_021_897, 1_044_274, 1_067_140, 1_090_508, 1_114_387, 1_138_789, 1_163_725,
    1_189_207, 1_215_247, 1_241_858, 1_269_051, 1_296_840, 1_325_237, 1_354_256, 1_383_910,
    1_414_214, 1_445_181, 1_476_826, 1_509_164, 1_542_211, 1_575_981, 1_610_490, 1_645_755,
    1_681_793, 1_718_619, 1_756_252, 1_794_709, 1_834_008, 1_874_168, 1_915_207, 1_957_144,
)  # fmt: skip


def _power(steps: int) -> int:
    """2^(steps/32) in ppm."""
    octaves, part = divmod(steps, _OCTAVE)
    return _ROOTS[part] << octaves if octaves >= 0 else _ROOTS[part] >> -octaves


# What a byte of the profile is worth; one that is not known yet counts as 1.
_FACTORS: Final = (FULL_PPM, *(_power(byte - _ONE) for byte in range(1, 256)))


class Outlook(Struct, frozen=True, gc=False, array_like=True):
    """`since_us` is when the first spend was seen, `hours` how many hours have gone into the level.

    `hour` is the hour (since the epoch) that is being filled, with `hour_micros` in `hour_us` of it so far; likewise
    `day_micros` in `day_us` of its day, for which `day_foreseen` was foreseen (0: nothing). `drift_milli` is the sum
    that tells of a drift, and `over_per_h` by how much the last day's rate was over what was foreseen.
    """

    since_us: int = 0
    hours: int = 0
    level_per_h: int = 0
    hour: int = 0
    hour_micros: int = 0
    hour_us: int = 0
    day_micros: int = 0
    day_us: int = 0
    day_foreseen: int = 0
    drift_milli: int = 0
    over_per_h: int = 0
    profile: bytes = b""
    errors: bytes = b""


def follow(outlook: Outlook, rate_per_h: int, from_us: int, to_us: int) -> Outlook:
    """The outlook after spend at one rate from one moment to a later one."""
    rate = max(0, min(rate_per_h, _RATE_MAX))
    at_us = max(from_us, to_us - _GAP_US)
    if not outlook.since_us:
        outlook = Outlook(since_us=at_us, hour=at_us // HOUR_US)
    while at_us < to_us:
        hour = at_us // HOUR_US
        if hour != outlook.hour:
            outlook = _next_hour(outlook, hour)
        until_us = min(to_us, (hour + 1) * HOUR_US)
        micros, over_us = rate * (until_us - at_us) // HOUR_US, until_us - at_us
        outlook = replace(
            outlook,
            hour_micros=min(_RATE_MAX, outlook.hour_micros + micros),
            hour_us=outlook.hour_us + over_us,
            day_micros=min(_RATE_MAX, outlook.day_micros + micros),
            day_us=outlook.day_us + over_us,
        )
        at_us = until_us
    return outlook


def is_known(outlook: Outlook, at_us: int, history_us: int) -> bool:
    """Whether enough was seen to speak of the future: so long a history, and errors made in it."""
    return bool(outlook.since_us) and at_us - outlook.since_us >= history_us and len(outlook.errors) >= ERRORS_MIN


def expected_rate(outlook: Outlook, at_us: int) -> int:
    """The rate that this hour of the week would have by level and profile."""
    return outlook.level_per_h * _FACTORS[_cell(outlook, at_us // HOUR_US)] // FULL_PPM


def foreseen(outlook: Outlook, from_us: int, to_us: int) -> int:
    """The middle of what will be spent from one moment to a later one, past errors aside."""
    if to_us <= from_us:
        return 0
    first, last = from_us // HOUR_US, (to_us - 1) // HOUR_US
    head_us = min(to_us, (first + 1) * HOUR_US) - from_us
    shares = _FACTORS[_cell(outlook, first)] * head_us // HOUR_US
    if last > first:
        tail_us = to_us - last * HOUR_US
        shares += _between(outlook, first + 1, last) + _FACTORS[_cell(outlook, last)] * tail_us // HOUR_US
    return outlook.level_per_h * shares // FULL_PPM


def quantiles(outlook: Outlook, from_us: int, to_us: int, shares_ppm: tuple[int, ...]) -> tuple[int, ...]:
    """What will be spent from one moment to a later one with each of these probabilities of not more."""
    middle = foreseen(outlook, from_us, to_us)
    if not outlook.errors or not middle:
        return (middle,) * len(shares_ppm)
    ordered = sorted(outlook.errors)
    spread_ppm = _spread_ppm(to_us - from_us)
    return tuple([middle * _factor(ordered, share_ppm, spread_ppm) // FULL_PPM for share_ppm in shares_ppm])


def _factor(ordered: list[int], share_ppm: int, spread_ppm: int) -> int:
    """By how much, in ppm, spend is more than foreseen with a probability, if single days are as `ordered` says."""
    # The k-th of m is the k/(m + 1) quantile, the outermost stand for what lies beyond them.
    place_ppm = share_ppm * (len(ordered) + 1) - FULL_PPM
    place_ppm = max(0, min(place_ppm, (len(ordered) - 1) * FULL_PPM))
    below, part_ppm = divmod(place_ppm, FULL_PPM)
    error_ppm = (ordered[below] - _ONE) * FULL_PPM
    if part_ppm:
        error_ppm += (ordered[below + 1] - ordered[below]) * part_ppm
    steps, part_ppm = divmod(error_ppm * spread_ppm // FULL_PPM, FULL_PPM)
    return _power(steps) + (_power(steps + 1) - _power(steps)) * part_ppm // FULL_PPM


def _next_hour(outlook: Outlook, hour: int) -> Outlook:
    """Close the hour that was being filled, and its day where the next hour is of another one."""
    level, hours, profile = outlook.level_per_h, outlook.hours, outlook.profile or bytes(HOURS)
    if outlook.hour_us:
        rate = outlook.hour_micros * HOUR_US // outlook.hour_us
        index = outlook.hour % HOURS
        plain = rate * FULL_PPM // _FACTORS[profile[index]]
        if level:
            plain = min(plain, _OUTLIER * level)
        hours += 1
        level += (plain - level) // min(hours, LEVEL_HOURS)
        if level:
            profile = _with_factor(profile, index, _steps(rate, level), 1 + hours // HOURS)
    day, before = hour * HOUR_US // DAY_US, outlook.hour * HOUR_US // DAY_US
    after = replace(outlook, level_per_h=level, hours=hours, hour=hour, hour_micros=0, hour_us=0, profile=profile)
    if day == before:
        return after
    errors, drift, over = outlook.errors, outlook.drift_milli, outlook.over_per_h
    if outlook.day_foreseen and outlook.day_us >= _DAY_KNOWN_US:
        spent = outlook.day_micros * DAY_US // outlook.day_us
        error = max(1, min(255, _steps(spent, outlook.day_foreseen) + _ONE))
        drift = max(0, min(_DRIFT_MAX_MILLI, drift + _z_milli(error, errors) - _SLACK_MILLI))
        over = (spent - outlook.day_foreseen) * HOUR_US // DAY_US
        errors = (errors + bytes((error,)))[-ERRORS_MAX:]
    begins_us = day * DAY_US
    return replace(
        after,
        day_micros=0,
        day_us=0,
        day_foreseen=foreseen(after, begins_us, begins_us + DAY_US),
        drift_milli=drift,
        over_per_h=max(0, over),
        errors=errors,
    )


def _z_milli(error: int, errors: bytes) -> int:
    """The modified z-score of a day's error among those before it; 0 while there are too few."""
    if len(errors) < ERRORS_MIN:
        return 0
    apart = sorted([abs(byte - _ONE) for byte in errors])
    return (error - _ONE) * 6_745 // (10 * max(_MAD_LEAST, apart[len(apart) // 2]))


def _with_factor(profile: bytes, index: int, steps: int, weeks: int) -> bytes:
    target = max(1, min(255, steps + _ONE))
    byte = profile[index]
    if byte:
        away = max(-_OCTAVE, min(_OCTAVE, target - byte))
        # To the nearest step: one that is always rounded down would sink.
        parts = min(weeks, PROFILE_WEEKS)
        target = max(1, byte + (2 * away + parts) // (2 * parts))
    return profile[:index] + bytes((target,)) + profile[index + 1 :]


def _cell(outlook: Outlook, hour: int) -> int:
    return outlook.profile[hour % HOURS] if outlook.profile else 0


def _between(outlook: Outlook, first: int, end: int) -> int:
    """The sum of the factors of whole hours, `end` not among them."""
    if not outlook.profile:
        return (end - first) * FULL_PPM
    weeks, rest = divmod(end - first, HOURS)
    at = first % HOURS
    some = (outlook.profile + outlook.profile)[at : at + rest]
    total = sum([_FACTORS[byte] for byte in some])
    return total + weeks * sum([_FACTORS[byte] for byte in outlook.profile]) if weeks else total


def _steps(value: int, reference: int) -> int:
    """log2(value / reference) in 1/32 octaves, within four octaves."""
    if value <= 0:
        return -4 * _OCTAVE
    ratio_ppm = value * FULL_PPM // reference
    low, high = -4 * _OCTAVE, 4 * _OCTAVE
    while low < high:
        middle = (low + high + 1) // 2
        if _power(middle) <= ratio_ppm:
            low = middle
        else:
            high = middle - 1
    return low


def _spread_ppm(span_us: int) -> int:
    """g(n) for so many days, at least one."""
    days = max(1, -(-span_us // DAY_US))
    linear, square = days * (days - 1), (days - 1) * days * (2 * days - 1) // 6
    total = days * FULL_PPM * FULL_PPM + GAIN_PPM * linear * FULL_PPM + GAIN_PPM * GAIN_PPM * square
    return math.isqrt(total) // days
