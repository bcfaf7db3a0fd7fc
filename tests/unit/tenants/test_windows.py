"""Windows of time: when they are open, and when that may change."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.tenants.windows import MINUTE_US, NEVER_US, WEEK_MIN, Window, read_weekly


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("span", "offset", "inside", "outside"),
    [
        ("Mon-Fri 09:00-18:00", "+00:00", ["23T09:00", "27T17:59"], ["23T08:59", "28T12:00", "27T18:00"]),
        ("Mon-Fri 09:00-18:00", "+01:00", ["23T08:00"], ["23T17:30"]),
        ("Sat 22:00-02:00", "+00:00", ["28T23:00", "29T01:59"], ["28T01:00", "29T02:00"]),
        ("Sun 22:00-02:00", "+00:00", ["29T22:00", "30T01:59"], ["30T02:00"]),
        ("03:00-04:00", "-02:30", ["25T05:30", "29T06:29"], ["25T03:30"]),
        ("Fri-Mon 00:00-24:00", "+00:00", ["27T00:00", "30T23:59"], ["24T00:00", "26T23:59"]),
    ],
)
def test_spans_of_a_week(span: str, offset: str, inside: list[str], outside: list[str]) -> None:
    """In a week that begins on Monday, 2026-11-23."""
    window = Window(name="w", weekly=read_weekly((span,), offset))
    assert all(window.is_open(at(f"2026-11-{text}Z")) for text in inside)
    assert not any(window.is_open(at(f"2026-11-{text}Z")) for text in outside)


@pytest.mark.parametrize(
    ("span", "offset", "said"),
    [
        ("Mon 9:00-10:00", "+00:00", "expected one like Mon-Fri 09:00-18:00"),
        ("Mon 09:00-25:00", "+00:00", "two times between 00:00 and 24:00"),
        ("09:00-09:00", "+00:00", "that differ"),
        ("Mon 09:00-10:00", "CET", "expected one like [+]01:00"),
    ],
)
def test_what_is_no_span_is_said(span: str, offset: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_weekly((span,), offset)


def test_dates_bound_it() -> None:
    window = Window(name="w", from_us=at("2026-11-27T00:00Z"), until_us=at("2026-11-30T00:00Z"))
    assert [window.is_open(at(f"2026-11-{day}T00:00Z")) for day in (26, 27, 29, 30)] == [False, True, True, False]
    assert window.changes_us(at("2026-12-01T00:00Z")) == NEVER_US


minutes = st.integers(0, WEEK_MIN)
spans = st.lists(st.tuples(minutes, minutes).map(sorted).map(tuple).filter(lambda span: span[0] < span[1]), max_size=4)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


@given(spans, st.none() | moments, st.none() | moments, moments)
def test_nothing_changes_before_it_is_said_to(
    weekly: list[tuple[int, int]], begin: datetime | None, end: datetime | None, now: datetime
) -> None:
    window = Window(
        name="w",
        weekly=tuple(weekly),
        from_us=None if begin is None else at(begin.isoformat()),
        until_us=None if end is None else at(end.isoformat()),
    )
    now_us = at(now.isoformat())
    changes_us = window.changes_us(now_us)
    assert changes_us > now_us
    until = min(changes_us, now_us + timedelta(days=8).days * 86_400_000_000)
    assert {window.is_open(moment) for moment in (*range(now_us, until, 173 * MINUTE_US), until - 1)} == {
        window.is_open(now_us)
    }
