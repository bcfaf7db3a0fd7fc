import pytest

from governors.supervision.child import (
    ONE_FOR_ALL,
    ONE_FOR_ONE,
    PERMANENT,
    REST_FOR_ONE,
    TEMPORARY,
    TRANSIENT,
    AutoShutdown,
    Child,
    Started,
    check_specs,
    restart_group,
)
from governors.supervision.errors import BadChildSpecError
from governors.supervision.report import State, TreeNode
from governors.supervision.supervisor import Supervisor


async def live(started: Started) -> None:
    started()


def subtree() -> TreeNode:
    return TreeNode("sub", "supervisor", State.STOPPED)


def test_a_child_is_by_default_permanent_insignificant_and_has_five_seconds_to_end() -> None:
    child = Child("a", live)
    assert (child.restart, child.significant, child.shutdown_s) == (PERMANENT, False, 5.0)


def test_a_supervisor_makes_by_default_one_restart_within_five_seconds_one_for_one() -> None:
    """OTP: "intensity defaults to 1 and period defaults to 5"; one_for_one "is the default restart strategy"."""
    supervisor = Supervisor("root", children=[])
    assert supervisor._fresh_budget.intensity == 1
    assert supervisor._fresh_budget.period_s == 5.0
    assert supervisor._strategy is ONE_FOR_ONE


def test_two_children_of_one_name_are_refused() -> None:
    with pytest.raises(BadChildSpecError, match=r"'a'.*taken"):
        check_specs([Child("a", live), Child("b", live), Child("a", live)])


def test_a_child_without_a_name_is_refused() -> None:
    with pytest.raises(BadChildSpecError):
        check_specs([Child("", live)])


@pytest.mark.parametrize("shutdown_s", [-1.0, float("nan"), float("inf")])
def test_an_impossible_shutdown_deadline_is_refused(shutdown_s: float) -> None:
    with pytest.raises(BadChildSpecError, match="shutdown_s"):
        check_specs([Child("a", live, shutdown_s=shutdown_s)])


@pytest.mark.parametrize("start_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_start_deadline_is_refused(start_s: float) -> None:
    with pytest.raises(BadChildSpecError, match="start_s"):
        check_specs([Child("a", live, start_s=start_s)])


def test_a_worker_must_have_deadlines() -> None:
    with pytest.raises(BadChildSpecError, match="shutdown_s"):
        check_specs([Child("a", live, shutdown_s=None)])
    with pytest.raises(BadChildSpecError, match="start_s"):
        check_specs([Child("a", live, start_s=None)])


def test_a_supervisor_must_have_none() -> None:
    check_specs([Child("sub", live, shutdown_s=None, start_s=None, subtree=subtree)])
    with pytest.raises(BadChildSpecError, match="shutdown_s"):
        check_specs([Child("sub", live, shutdown_s=5.0, start_s=None, subtree=subtree)])
    with pytest.raises(BadChildSpecError, match="start_s"):
        check_specs([Child("sub", live, shutdown_s=None, start_s=5.0, subtree=subtree)])


def test_a_significant_child_is_refused_where_auto_shutdown_is_never() -> None:
    with pytest.raises(BadChildSpecError, match="never"):
        check_specs([Child("a", live, TRANSIENT, significant=True)])


@pytest.mark.parametrize("auto_shutdown", [AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT])
def test_a_significant_permanent_child_is_refused_always(auto_shutdown: AutoShutdown) -> None:
    check_specs([Child("a", live, TRANSIENT, significant=True), Child("b", live, TEMPORARY)], auto_shutdown)
    with pytest.raises(BadChildSpecError, match="permanent"):
        check_specs([Child("a", live, PERMANENT, significant=True)], auto_shutdown)


def test_a_supervisor_of_bad_specifications_cannot_be_made() -> None:
    with pytest.raises(BadChildSpecError):
        Supervisor("root", children=[Child("a", live), Child("a", live)])
    with pytest.raises(BadChildSpecError):
        Supervisor("root", children=[Child("a", live)], intensity=-1)


def test_each_strategy_names_the_siblings_that_a_restart_takes_along() -> None:
    children = ["a", "b", "c", "d"]
    assert list(restart_group(ONE_FOR_ONE, children, "b")) == ["b"]
    assert list(restart_group(ONE_FOR_ALL, children, "b")) == ["a", "b", "c", "d"]
    assert list(restart_group(REST_FOR_ONE, children, "b")) == ["b", "c", "d"]
