"""Rates and fractions: what they say, and what they never do."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from governors.numerics.periods import HOUR_US
from governors.numerics.spend import FULL_PPM, bearable_fraction, demand_rate, linear_pace, median, next_fraction

FRACTIONS = st.integers(50_000, FULL_PPM)


def test_demand_adds_back_what_was_held_back() -> None:
    assert demand_rate(30, HOUR_US // 2, FULL_PPM) == 60
    assert demand_rate(30, HOUR_US // 2, 500_000) == 120


def test_a_credit_is_no_spend() -> None:
    assert demand_rate(-30, HOUR_US, FULL_PPM) == 0


def test_one_outlier_does_not_move_the_median() -> None:
    assert median((10, 10, 10_000, 11, 9)) == 10
    assert median(()) == 0
    assert median((1, 9)) == 1


def test_pace_goes_on_as_the_period_did_on_average() -> None:
    assert linear_pace(250, 25, 100) == 1_000


def test_the_bearable_fraction_spends_the_headroom_in_the_time_left() -> None:
    assert bearable_fraction(50, 10, 10 * HOUR_US) == 500_000
    assert bearable_fraction(100, 10, 10 * HOUR_US) == FULL_PPM
    assert bearable_fraction(500, 10, 10 * HOUR_US) == FULL_PPM


def test_without_headroom_nothing_is_bearable_and_without_demand_everything() -> None:
    assert bearable_fraction(0, 10, HOUR_US) == 0
    assert bearable_fraction(-5, 0, HOUR_US) == 0
    assert bearable_fraction(5, 0, HOUR_US) == FULL_PPM
    assert bearable_fraction(5, 10, 0) == FULL_PPM


@given(FRACTIONS, st.integers(0, FULL_PPM))
def test_a_fraction_moves_by_a_bounded_step_and_never_under_the_floor(current: int, target: int) -> None:
    after = next_fraction(current, target, 50_000, 200_000, 50_000)
    assert 50_000 <= after <= FULL_PPM
    assert abs(after - current) <= 200_000


@given(FRACTIONS, st.integers(0, FULL_PPM))
def test_a_fraction_settles_at_or_under_a_target_that_stays(current: int, target: int) -> None:
    for _ in range(30):
        current = next_fraction(current, target, 50_000, 200_000, 50_000)
    assert current == next_fraction(current, target, 50_000, 200_000, 50_000)
    assert current <= max(target, 50_000)


@given(st.integers(60_000, 940_000), st.lists(st.integers(-24_999, 24_999), max_size=20))
def test_a_target_that_trembles_by_less_than_a_quantum_moves_a_settled_fraction_once_at_most(
    target: int, trembles: list[int]
) -> None:
    current = FULL_PPM
    for _ in range(10):
        current = next_fraction(current, target, 50_000, 200_000, 50_000)
    seen = [current]
    for tremble in trembles:
        seen.append(next_fraction(seen[-1], target + tremble, 50_000, 200_000, 50_000))
    moves = [after - before for before, after in pairwise(seen) if after != before]
    assert moves in ([], [-50_000])


def test_full_admission_is_reached_in_the_end() -> None:
    assert next_fraction(950_000, FULL_PPM, 50_000, 200_000, 50_000) == FULL_PPM
