"""Where the governors of a tenant meet: who goes first, who waits, and that nobody waits for ever."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.catalog import GOVERNORS
from governors.machines.conduct import FREE, RATE, RATE_US, Asked, Hindrance, Restraint
from governors.machines.conflicts import ORDER, TAKING, TENANT_RATE_MAX, hindrance, precedence
from governors.machines.cost_guard import COST_GUARD
from governors.machines.governor import Effect, Governor
from governors.machines.rollback_guard import ROLLBACK_GUARD

S = 1_000_000
NOW_US = 1_000 * S
KINDS: dict[str, tuple[str, ...]] = {
    "cost_guard": ("throttle", "stop", "restore"),
    "rollback_guard": ("rollback", "hold_rollout", "resume_rollout"),
    "backlog_valve": ("close", "shed", "probe", "reopen"),
}


@dataclass
class State:
    status: str = "NORMAL"
    in_flight: Effect | None = None
    restraint: Restraint = FREE


@dataclass
class Other:
    governor: Governor
    subject: str = "web"
    state: State = field(default_factory=State)


def wants(governor: Governor, kind: str, *others: Other, subject: str = "web", **more: Any) -> Hindrance | None:
    what = Effect(kind, more.pop("params", {}))
    return hindrance(
        governor.name, subject, what, others, more.pop("asked", ()), NOW_US, relaxes=more.get("relaxes", False)
    )


def busy(governor: Governor, kind: str, subject: str = "web", **params: Any) -> Other:
    return Other(governor, subject, State(in_flight=Effect(kind, params)))


def test_every_governor_has_its_place_and_statuses_are_theirs() -> None:
    assert {one.name for one in GOVERNORS} == set(ORDER)
    for one in GOVERNORS:
        assert TAKING.get(one.name, frozenset()) <= {str(status) for status in one.status}


@pytest.mark.parametrize(
    ("governor", "kind", "other"),
    [
        (BACKLOG_VALVE, "close", busy(ROLLBACK_GUARD, "rollback")),
        (COST_GUARD, "stop", busy(ROLLBACK_GUARD, "rollback")),
        (ROLLBACK_GUARD, "rollback", busy(BACKLOG_VALVE, "close")),
        (ROLLBACK_GUARD, "rollback", busy(COST_GUARD, "stop", "budget")),
        (BACKLOG_VALVE, "shed", busy(COST_GUARD, "throttle", "budget", fraction_ppm=1)),
        (COST_GUARD, "stop", busy(BACKLOG_VALVE, "close", "orders")),
        (COST_GUARD, "stop", busy(COST_GUARD, "stop", "other-budget")),
    ],
)
def test_one_action_is_in_flight_for_each_target(governor: Governor, kind: str, other: Other) -> None:
    found = wants(governor, kind, other)
    assert found is not None
    assert found.again_us is None
    assert other.governor.name in found.why
    assert found.why.endswith("in flight on the same target")


def test_other_targets_and_other_peoples_pagers_are_not_waited_for() -> None:
    assert wants(BACKLOG_VALVE, "close", busy(ROLLBACK_GUARD, "rollback", "api")) is None
    assert wants(BACKLOG_VALVE, "close", busy(ROLLBACK_GUARD, "page"), busy(COST_GUARD, "ask")) is None
    assert wants(COST_GUARD, "notify", busy(ROLLBACK_GUARD, "rollback")) is None
    assert wants(ROLLBACK_GUARD, "rollback", busy(ROLLBACK_GUARD, "rollback")) is None, "itself"


def test_one_object_is_one_target_whatever_its_subjects_are_called() -> None:
    params: dict[str, int | str] = {"kind": "Deployment", "namespace": "shop", "name": "cart"}
    other = Other(ROLLBACK_GUARD, "canary", State(in_flight=Effect("rollback", params)))
    assert wants(ROLLBACK_GUARD, "rollback", other, params=params) is not None
    assert wants(ROLLBACK_GUARD, "rollback", other, params={**params, "namespace": "test"}) is None


@pytest.mark.parametrize("status", ["ROLLING_BACK", "VERIFYING"])
def test_nothing_is_given_back_on_a_target_that_is_rolled_back(status: str) -> None:
    other = Other(ROLLBACK_GUARD, "web", State(status))
    for governor, kind in ((BACKLOG_VALVE, "reopen"), (COST_GUARD, "restore")):
        assert wants(governor, kind, other, relaxes=True) == Hindrance(f"rollback_guard/web is {status}")
        assert wants(governor, kind, other, relaxes=False) is None, "restrictions do not wait"
    assert wants(BACKLOG_VALVE, "reopen", other, subject="api", relaxes=True) is None


def test_no_queue_is_reopened_while_the_tenant_is_stopped_for_its_cost() -> None:
    other = Other(COST_GUARD, "budget", State("STOP"))
    assert wants(BACKLOG_VALVE, "reopen", other, relaxes=True) == Hindrance("cost_guard/budget is STOP")
    assert wants(BACKLOG_VALVE, "close", other) is None
    assert wants(ROLLBACK_GUARD, "resume_rollout", other, relaxes=True) is None, "who goes first waits for nobody"


def test_the_rollback_guard_goes_first_and_the_valve_last() -> None:
    others = [Other(BACKLOG_VALVE), Other(COST_GUARD), Other(ROLLBACK_GUARD, "z"), Other(ROLLBACK_GUARD, "a")]
    assert [(one.governor.name, one.subject) for one in sorted(others, key=precedence)] == [
        ("rollback_guard", "a"), ("rollback_guard", "z"), ("cost_guard", "web"), ("backlog_valve", "web")
    ]  # fmt: skip


def test_a_tenants_machines_together_ask_for_so_much_in_a_minute() -> None:
    def asked(count: int, at_us: int, kind: str = "shed") -> Restraint:
        return Restraint(asked=tuple(Asked(Effect(kind, {"rate": at}), at_us + at) for at in range(count)))

    many = [Other(BACKLOG_VALVE, f"q{at}", State(restraint=asked(10, NOW_US - 50 * S))) for at in range(3)]
    assert wants(BACKLOG_VALVE, "close", *many[1:]) is None
    assert wants(BACKLOG_VALVE, "close", *many) == Hindrance(RATE, NOW_US - 50 * S + RATE_US)
    assert wants(BACKLOG_VALVE, "close", *many[1:], asked=asked(10, NOW_US - 50 * S).asked) is not None
    old = [Other(BACKLOG_VALVE, f"q{at}", State(restraint=asked(10, NOW_US - 61 * S))) for at in range(9)]
    assert wants(BACKLOG_VALVE, "close", *old) is None
    notices = [Other(BACKLOG_VALVE, f"q{at}", State(restraint=asked(10, NOW_US, "page"))) for at in range(9)]
    assert wants(BACKLOG_VALVE, "close", *notices) is None
    assert TENANT_RATE_MAX == 30


machines = st.builds(
    lambda governor, subject, kind, status, flies: Other(
        governor,
        subject,
        State(
            list(governor.status)[status % len(governor.status)],
            Effect(KINDS[governor.name][kind % len(KINDS[governor.name])]) if flies else None,
        ),
    ),
    st.sampled_from(GOVERNORS), st.sampled_from(["web", "api"]), st.integers(0, 9), st.integers(0, 9), st.booleans(),
)  # fmt: skip


@given(st.lists(machines, max_size=6, unique_by=lambda one: (one.governor.name, one.subject)))
def test_whoever_waits_waits_for_one_that_does_not_wait(others: list[Other]) -> None:
    """So there is no circle: with nothing in flight, the first in order of those who want something may have it."""
    for one in others:
        one.state.in_flight = None
    order = sorted(others, key=precedence)
    free = [
        one
        for one in order
        if hindrance(one.governor.name, one.subject, Effect("x"), others, (), NOW_US, relaxes=True) is None
    ]
    assert not order or order[0] in free
