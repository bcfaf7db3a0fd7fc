import pytest

from governors.supervision.errors import BadChildSpecError
from governors.supervision.intensity import Exhausted, RestartBudget, record


def restarts_until_exhausted(budget: RestartBudget, *moments_s: float) -> int | None:
    for made, at_s in enumerate(moments_s):
        outcome = record(budget, at_s)
        if isinstance(outcome, Exhausted):
            return made
        budget = outcome
    return None


def test_as_many_restarts_as_the_intensity_says_are_made_within_the_period() -> None:
    assert restarts_until_exhausted(RestartBudget(3, 5.0), 0.0, 1.0, 2.0) is None


def test_more_than_the_intensity_within_the_period_is_too_many() -> None:
    assert restarts_until_exhausted(RestartBudget(3, 5.0), 0.0, 1.0, 2.0, 3.0) == 3


def test_intensity_zero_allows_no_restart_at_all() -> None:
    assert restarts_until_exhausted(RestartBudget(0, 5.0), 100.0) == 0


def test_a_restart_exactly_one_period_ago_still_counts() -> None:
    assert restarts_until_exhausted(RestartBudget(1, 5.0), 0.0, 5.0) == 1


def test_a_restart_longer_than_a_period_ago_counts_no_more() -> None:
    assert restarts_until_exhausted(RestartBudget(1, 5.0), 0.0, 5.001, 10.002, 15.003) is None


def test_the_window_slides_and_does_not_begin_anew() -> None:
    """Two at the end of one period and one at the start of the next are three within one."""
    assert restarts_until_exhausted(RestartBudget(2, 10.0), 0.0, 9.0, 11.0, 12.0) == 3


def test_what_exhausted_it_is_told() -> None:
    first = record(RestartBudget(1, 5.0), 0.0)
    assert isinstance(first, RestartBudget)
    assert record(first, 1.0) == Exhausted(restarts=2, period_s=5.0)


@pytest.mark.parametrize(
    ("intensity", "period_s"), [(-1, 5.0), (1, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf"))]
)
def test_an_impossible_intensity_or_period_is_refused(intensity: int, period_s: float) -> None:
    with pytest.raises(BadChildSpecError):
        RestartBudget(intensity, period_s)
