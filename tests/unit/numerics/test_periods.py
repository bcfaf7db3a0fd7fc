"""Calendar arithmetic against the standard library's calendar, and the cases that calendars get wrong."""

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.numerics.periods import (
    DAY_US,
    HOUR_US,
    MONTH,
    QUARTER,
    WEEK_US,
    YEAR,
    interval_between,
    next_longer,
    period_at,
    utc_anchor_us,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2399, 12, 31)).map(  # noqa: DTZ001 - hypothesis wants naive bounds
    lambda moment: moment.replace(tzinfo=UTC)
)


def us(year: int, month: int, day: int, hour: int = 0) -> int:
    return moment_us(datetime(year, month, day, hour, tzinfo=UTC))


def moment_us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def utc(at_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=at_us)


@given(MOMENTS)
def test_calendar_months_begin_on_the_first_at_midnight_and_meet(moment: datetime) -> None:
    start_us, end_us = period_at(MONTH, utc_anchor_us(MONTH), moment_us(moment))
    first = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    days = calendar.monthrange(moment.year, moment.month)[1]
    assert (utc(start_us), utc(end_us)) == (first, first + timedelta(days=days))


@given(MOMENTS)
def test_calendar_weeks_begin_on_monday_and_days_at_midnight(moment: datetime) -> None:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    day = period_at(DAY_US, utc_anchor_us(DAY_US), moment_us(moment))
    week = period_at(WEEK_US, utc_anchor_us(WEEK_US), moment_us(moment))
    assert day == (moment_us(midnight), moment_us(midnight) + DAY_US)
    assert week[0] == moment_us(midnight - timedelta(days=moment.weekday()))
    assert week[1] == week[0] + WEEK_US


@given(st.sampled_from([DAY_US, WEEK_US, MONTH, QUARTER, YEAR, 10 * DAY_US]), MOMENTS, MOMENTS)
def test_a_period_holds_the_moment_and_the_next_begins_where_it_ends(
    interval: int, anchor: datetime, moment: datetime
) -> None:
    now_us = moment_us(moment)
    start_us, end_us = period_at(interval, moment_us(anchor), now_us)
    assert start_us <= now_us < end_us
    assert period_at(interval, moment_us(anchor), end_us)[0] == end_us
    assert period_at(interval, moment_us(anchor), start_us - 1)[1] == start_us


def test_an_anchor_on_the_31st_is_clamped_in_short_months_and_not_forgotten() -> None:
    anchor_us = us(2026, 1, 31, 8)
    starts = [period_at(MONTH, anchor_us, us(2026, month, 15))[1] for month in range(1, 7)]
    assert [utc(start).date().isoformat() for start in starts] == [
        "2026-01-31",
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
        "2026-05-31",
        "2026-06-30",
    ]
    assert utc(period_at(MONTH, anchor_us, us(2028, 2, 29, 7))[1]) == datetime(2028, 2, 29, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("interval", "end"),
    [(MONTH, (2026, 2, 1, 8)), (QUARTER, (2026, 4, 1, 8)), (YEAR, (2027, 1, 1, 8)), (DAY_US, (2026, 1, 2, 8))],
)
def test_named_intervals_are_recognised_by_their_ends(interval: int, end: tuple[int, ...]) -> None:
    assert interval_between(us(2026, 1, 1, 8), us(*end)) == interval


def test_any_other_interval_is_its_length() -> None:
    assert interval_between(us(2026, 1, 1), us(2026, 1, 11)) == 10 * DAY_US


def test_supposed_intervals_grow_until_any_period_fits() -> None:
    ladder = [HOUR_US]
    for _ in range(2):
        ladder.append(next_longer(ladder[-1]))
    assert ladder == [HOUR_US, 2 * HOUR_US, 4 * HOUR_US]
    assert [next_longer(x) for x in (DAY_US, WEEK_US, MONTH, QUARTER, YEAR)] == [WEEK_US, MONTH, QUARTER, YEAR, -24]
