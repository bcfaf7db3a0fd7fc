"""Budget periods in pure integer arithmetic: when the period around a moment began, and when it ends.

Times are microseconds since the Unix epoch, UTC; a leap second does not exist. An interval is one integer: positive
is a fixed length in µs, negative is that many calendar months (they have no fixed length). Calendar dates follow the
proleptic Gregorian calendar by the day-counting of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
"""

from typing import Final

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
WEEK_US: Final = 7 * DAY_US
MONTH: Final = -1
QUARTER: Final = -3
YEAR: Final = -12

# Periods that nobody anchored begin on the first of the month, on Monday, at midnight UTC; 1970-01-05 was a Monday.
_MONDAY_US: Final = 4 * DAY_US
_NAMED: Final = (DAY_US, WEEK_US, MONTH, QUARTER, YEAR)
_LONGER: Final = {DAY_US: WEEK_US, WEEK_US: MONTH, MONTH: QUARTER, QUARTER: YEAR}


def utc_anchor_us(interval: int) -> int:
    """A moment at which periods of this interval begin when they follow the UTC calendar."""
    return _MONDAY_US if interval == WEEK_US else 0


def period_at(interval: int, anchor_us: int, now_us: int) -> tuple[int, int]:
    """Start and end (exclusive) of the period that holds `now_us`, where one period begins at `anchor_us`.

    Months keep the anchor's day and time of day, clamped to the month's length: anchored on the 31st, February's
    period begins on the 28th or 29th and March's on the 31st again. `interval` must not be 0.
    """
    if interval > 0:
        start_us = now_us - (now_us - anchor_us) % interval
        return start_us, start_us + interval
    months = -interval
    count = (_month_number(now_us) - _month_number(anchor_us)) // months
    if _months_after(anchor_us, count * months) > now_us:
        count -= 1
    return _months_after(anchor_us, count * months), _months_after(anchor_us, (count + 1) * months)


def interval_between(start_us: int, end_us: int) -> int:
    """The interval that leads from start to end: a day, week, month, quarter or year where it fits, else the length.

    `end_us` must be after `start_us`.
    """
    for interval in _NAMED:
        if period_at(interval, start_us, start_us)[1] == end_us:
            return interval
    return end_us - start_us


def next_longer(interval: int) -> int:
    """The next longer interval worth supposing when a period turns out not to have ended."""
    return _LONGER.get(interval, 2 * interval)


def _month_number(at_us: int) -> int:
    year, month, _ = _civil(at_us // DAY_US)
    return year * 12 + month - 1


def _months_after(at_us: int, months: int) -> int:
    days, time_of_day_us = divmod(at_us, DAY_US)
    _, _, day = _civil(days)
    year, month0 = divmod(_month_number(at_us) + months, 12)
    first = _days(year, month0 + 1)
    length = _days(year + (month0 == 11), (month0 + 1) % 12 + 1) - first
    return (first + min(day, length) - 1) * DAY_US + time_of_day_us


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a count of days since 1970-01-01. Years begin in March here: the leap day comes last."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def _days(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month."""
    era, year_of_era = divmod(year - (month <= 2), 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
