"""The fluid queue: rates in thousandths a second, times in µs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.numerics.fluid import (
    admissible_rate_milli,
    drain_time_us,
    error_ppm,
    integrate_ppm,
    moving_average,
    planned_depth,
    trim_ppm,
)

RATES = st.integers(0, 2**53 - 1)
TIMES_US = st.integers(1, 86_400_000_000)


def test_the_admissible_rate_is_capacity_less_the_backlog_over_the_time() -> None:
    assert admissible_rate_milli(100_000, 3_000, 300_000_000) == 90_000


def test_a_backlog_too_large_for_the_time_leaves_nothing_to_admit() -> None:
    assert admissible_rate_milli(100_000, 30_000, 300_000_000) == 0
    assert admissible_rate_milli(100_000, 30_001, 300_000_000) < 0


def test_what_is_admissible_at_nothing_takes_just_the_drain_time() -> None:
    assert drain_time_us(30_000, 100_000) == 300_000_000
    assert drain_time_us(1, 0) is None


@given(RATES, RATES, TIMES_US, TIMES_US)
def test_an_average_lies_between_what_it_was_and_what_came(old: int, new: int, elapsed_us: int, memory_us: int) -> None:
    assert min(old, new) <= moving_average(old, new, elapsed_us, memory_us) <= max(old, new)


def test_an_average_takes_half_of_the_new_after_its_memory() -> None:
    assert moving_average(100, 200, 5_000, 5_000) == 150
    assert moving_average(100, 200, 0, 5_000) == 100


@pytest.mark.parametrize(("left_us", "depth"), [(100, 1_000), (50, 550), (0, 100), (-5, 100)])
def test_a_plan_falls_in_a_straight_line_to_its_goal(left_us: int, depth: int) -> None:
    assert planned_depth(1_000, 100, left_us, 100) == depth


def test_a_plan_that_begins_under_its_goal_is_the_goal() -> None:
    assert planned_depth(50, 100, 50, 100) == 100


@given(RATES, RATES, st.integers(0, 2**53 - 1))
def test_an_error_is_at_most_the_whole_and_has_the_sign_of_being_ahead(planned: int, depth: int, scale: int) -> None:
    error = error_ppm(planned, depth, scale)
    assert -1_000_000 <= error <= 1_000_000
    assert error >= 0 or depth > planned
    assert error <= 0 or depth < planned


@given(st.lists(st.integers(-1_000_000, 1_000_000)))
def test_the_integral_never_winds_up_past_its_bound(errors: list[int]) -> None:
    integral = 0
    for error in errors:
        integral = integrate_ppm(integral, error, 20_000, 200_000)
        assert abs(integral) <= 200_000
    # One interval the other way shows at once.
    assert integrate_ppm(integral, -1_000_000, 20_000, 200_000) < integral or integral == -200_000


def test_the_trim_is_proportional_and_integral_within_one_bound() -> None:
    assert trim_ppm(10_000, -1_000_000, 50_000, 200_000) == -40_000
    assert trim_ppm(190_000, 1_000_000, 50_000, 200_000) == 200_000
