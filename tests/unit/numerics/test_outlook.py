import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governors.numerics.outlook import (
    ERRORS_MAX,
    FULL_PPM,
    Outlook,
    _power,
    _spread_ppm,
    _steps,
    expected_rate,
    follow,
    foreseen,
    is_known,
    quantiles,
)
from governors.numerics.periods import DAY_US, HOUR_US

RATE = 10_000_000
BUCKET_US = HOUR_US // 4


def lived(days: int, rate: int = RATE) -> Outlook:
    outlook = Outlook()
    for hour in range(24 * days):
        outlook = follow(outlook, rate, hour * HOUR_US, (hour + 1) * HOUR_US)
    return outlook


def office(hour: int) -> int:
    """Ten times the night's rate in office hours, Monday to Friday (the epoch was a Thursday)."""
    return 10 * RATE if 8 <= hour % 24 < 18 and (hour // 24 + 3) % 7 < 5 else RATE


def test_a_constant_rate_is_foreseen_exactly_and_surely() -> None:
    outlook = lived(20)
    assert outlook.level_per_h == RATE
    assert foreseen(outlook, 20 * DAY_US, 30 * DAY_US) == 240 * RATE
    assert quantiles(outlook, 20 * DAY_US, 30 * DAY_US, (100_000, 900_000)) == (240 * RATE, 240 * RATE)


def test_parts_of_hours_count_as_parts() -> None:
    outlook = lived(20)
    assert foreseen(outlook, 20 * DAY_US + BUCKET_US, 20 * DAY_US + 3 * BUCKET_US) == RATE // 2
    assert foreseen(outlook, 20 * DAY_US + BUCKET_US, 20 * DAY_US + 9 * BUCKET_US) == 2 * RATE
    assert foreseen(outlook, 20 * DAY_US, 20 * DAY_US) == 0


def test_buckets_of_an_hour_are_one_hour() -> None:
    outlook = Outlook()
    for bucket in range(96 * 20):
        outlook = follow(outlook, RATE, bucket * BUCKET_US, (bucket + 1) * BUCKET_US)
    assert outlook.level_per_h == RATE
    assert outlook.hours == 24 * 20 - 1


def test_the_week_has_a_profile() -> None:
    outlook = Outlook()
    for hour in range(24 * 28):
        outlook = follow(outlook, office(hour), hour * HOUR_US, (hour + 1) * HOUR_US)
    now_us = 28 * DAY_US
    assert expected_rate(outlook, now_us + 12 * HOUR_US) == pytest.approx(10 * RATE, rel=0.2)
    assert expected_rate(outlook, now_us + 3 * HOUR_US) < expected_rate(outlook, now_us + 12 * HOUR_US) // 5
    week = sum(office(24 * 28 + hour) for hour in range(168))
    assert foreseen(outlook, now_us, now_us + 7 * DAY_US) == pytest.approx(week, rel=0.1)
    assert foreseen(outlook, now_us + 2 * DAY_US, now_us + 4 * DAY_US) < week // 7


def test_one_wild_hour_moves_neither_the_level_nor_its_cell_far() -> None:
    outlook = lived(21)
    wild = follow(outlook, 1_000 * RATE, 21 * DAY_US, 21 * DAY_US + HOUR_US)
    wild = follow(wild, RATE, 21 * DAY_US + HOUR_US, 21 * DAY_US + 3 * HOUR_US)
    assert wild.level_per_h == pytest.approx(RATE, rel=0.03)
    assert expected_rate(wild, 28 * DAY_US) < 1.3 * RATE


def test_an_interval_holds_what_it_says_it_holds() -> None:
    held = total = 0
    for seed in range(40):
        chance = random.Random(seed)
        rates = [round(RATE * chance.lognormvariate(0.0, 0.3)) for _ in range(60)]
        outlook = Outlook()
        for day, rate in enumerate(rates[:40]):
            outlook = follow(outlook, rate, day * DAY_US, (day + 1) * DAY_US)
        low, high = quantiles(outlook, 40 * DAY_US, 60 * DAY_US, (100_000, 900_000))
        total += 1
        held += low <= 24 * sum(rates[40:]) <= high
    assert 0.7 <= held / total <= 1.0


def test_quantiles_keep_their_order_and_follow_the_errors() -> None:
    chance = random.Random(3)
    outlook = Outlook()
    for day in range(40):
        outlook = follow(outlook, round(RATE * chance.lognormvariate(0.0, 0.5)), day * DAY_US, (day + 1) * DAY_US)
    shares = (10_000, 100_000, 500_000, 900_000, 990_000)
    found = quantiles(outlook, 40 * DAY_US, 50 * DAY_US, shares)
    assert sorted(found) == list(found)
    assert len(set(found)) == len(found)
    assert len(outlook.errors) == ERRORS_MAX


def test_a_drift_adds_up_and_days_as_foreseen_take_it_down_again() -> None:
    chance = random.Random(5)
    outlook = Outlook()
    level = float(RATE)
    drifts = []
    for day in range(60):
        level *= 1.06 if 30 <= day < 45 else 1.0
        rate = round(level * chance.lognormvariate(0.0, 0.03))
        outlook = follow(outlook, rate, day * DAY_US, (day + 1) * DAY_US)
        drifts.append(outlook.drift_milli)
    assert max(drifts[:31]) < 5_000
    assert max(drifts[31:46]) >= 5_000
    assert drifts[-1] < max(drifts)


def test_a_history_is_known_by_its_length_and_its_errors() -> None:
    assert not is_known(lived(8), 8 * DAY_US, 10 * DAY_US)
    assert is_known(lived(12), 12 * DAY_US, 10 * DAY_US)
    assert not is_known(Outlook(), 0, 10 * DAY_US)
    gaps = Outlook()
    for day in range(30):
        gaps = follow(gaps, RATE, day * DAY_US, day * DAY_US + 6 * HOUR_US)
    assert not is_known(gaps, 30 * DAY_US, 10 * DAY_US), "parts of days say nothing of days"


@given(st.integers(-128, 128))
def test_powers_of_two_are_those_of_the_library(steps: int) -> None:
    assert _power(steps) / FULL_PPM == pytest.approx(2.0 ** (steps / 32), rel=2e-5, abs=2e-6)
    assert _steps(_power(steps), FULL_PPM) == steps


@pytest.mark.parametrize(("days", "expected"), [(1, 1.0), (2, math.sqrt(1 + 1.206**2) / 2), (30, 0.798)])
def test_the_error_of_a_sum_of_days_is_that_of_exponential_smoothing(days: int, expected: float) -> None:
    assert _spread_ppm(days * DAY_US) / FULL_PPM == pytest.approx(expected, abs=2e-3)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**53), st.integers(1, 20 * 24).map(lambda hours: hours * HOUR_US // 2)), max_size=30
    )
)
def test_whatever_comes_it_stays_small_and_is_read_back_as_it_was(spans: list[tuple[int, int]]) -> None:
    outlook, at_us = Outlook(), 10**15
    for rate, over_us in spans:
        outlook = follow(outlook, rate, at_us, at_us + over_us)
        at_us += over_us
        packed = msgspec.msgpack.encode(outlook)
        assert len(packed) < 330
        assert msgspec.msgpack.decode(packed, type=Outlook) == outlook
        low, high = quantiles(outlook, at_us, at_us + 30 * DAY_US, (100_000, 900_000))
        assert 0 <= low <= high
