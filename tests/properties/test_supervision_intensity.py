from hypothesis import given
from hypothesis import strategies as st

from governors.supervision.intensity import Exhausted, RestartBudget, record


@given(
    intensity=st.integers(0, 5),
    period_s=st.integers(1, 10),
    gaps_s=st.lists(st.integers(0, 6), max_size=40),
    start_s=st.integers(0, 10_000),
)
def test_a_restart_is_allowed_exactly_when_no_more_than_intensity_lie_within_the_period(
    intensity: int, period_s: int, gaps_s: list[int], start_s: int
) -> None:
    """Against the whole history, which the budget does not keep; a refused restart ends it."""
    budget = RestartBudget(intensity, period_s)
    history_s: list[int] = []
    now_s = start_s
    for gap_s in gaps_s:
        now_s += gap_s
        within = sum(now_s - period_s <= at_s for at_s in history_s) + 1
        outcome = record(budget, now_s)
        if within > intensity:
            assert outcome == Exhausted(within, period_s)
            return
        assert isinstance(outcome, RestartBudget)
        assert len(outcome.restarts_s) <= intensity, "the budget keeps no more than it needs"
        budget = outcome
        history_s.append(now_s)
