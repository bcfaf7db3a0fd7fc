"""Where the governors of a tenant meet: what one of them may not ask for now because of another. Pure.

Each decides alone, and in admission the strictest holds, at once. What is asked of others outside goes by three rules,
which no policy changes:

1. One action is in flight for each tenant and target; what else is wanted there waits for its result, the Rollback
   Guard first, then the Cost Guard, then the Backlog Valve. So a stop does not cut into a rollback that is under way,
   and a rollback does not wait for a queue to drain.
2. Nobody gives back what a governor before it (in that order) still takes: nothing is restored or reopened on a target
   while the Rollback Guard rolls it back and looks whether that helped, and no queue is reopened while the Cost Guard
   has stopped the tenant. Restrictions never wait for this.
3. The actions of all machines of a tenant together are at most TENANT_RATE_MAX in a minute.

A machine's target is its subject and the object that its action names; the Cost Guard's is the whole tenant. Notices
have none: people can be told at any time.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from governors.machines.conduct import RATE, RATE_US, Asked, Hindrance
from governors.machines.governor import Effect, Governor

TENANT_RATE_MAX: Final = 30
NOTICES: Final = frozenset({"notify", "page", "ask"})
"""Actions that tell people something, and change nothing."""
ROLLBACK: Final = "rollback_guard"
COST: Final = "cost_guard"
ORDER: Final = (ROLLBACK, COST, "backlog_valve")
"""Who goes first."""
TAKING: Final[Mapping[str, frozenset[str]]] = {
    ROLLBACK: frozenset({"ROLLING_BACK", "VERIFYING"}),
    COST: frozenset({"STOP"}),
}
"""Statuses in which those who come later give nothing back."""
EVERYWHERE: Final = ("",)


class Fellow(Protocol):
    """Another machine of the same tenant."""

    @property
    def governor(self) -> Governor: ...
    @property
    def subject(self) -> str: ...
    @property
    def state(self) -> Any: ...


def hindrance(
    governor: str, subject: str, what: Effect, fellows: Iterable[Fellow], asked: Iterable[Asked], now_us: int, *,
    relaxes: bool,
) -> Hindrance | None:  # fmt: skip
    """What of the others stands in the way of an action, or None. `asked` is what the machine itself asked for lately;
    `relaxes`: the action gives back what was taken.
    """
    if what.kind in NOTICES:
        return None
    others = [one for one in fellows if one.governor.name != governor or one.subject != subject]
    mine = targets(governor, subject, what.params)
    for one in sorted(others, key=precedence):
        name, in_flight = one.governor.name, one.state.in_flight
        label = f"{name}/{one.subject}".rstrip("/")
        if in_flight is not None and in_flight.kind not in NOTICES:
            theirs = targets(name, one.subject, in_flight.params)
            if _meet(mine, theirs):
                return Hindrance(f"{label} has {in_flight.kind} in flight on the same target")
        takes = _rank(name) < _rank(governor) and one.state.status in TAKING.get(name, ())
        if relaxes and takes and _meet(mine, targets(name, one.subject, {})):
            return Hindrance(f"{label} is {one.state.status}")
    lately_us = sorted(
        one.at_us
        for some in (asked, *(other.state.restraint.asked for other in others))
        for one in some
        if one.at_us > now_us - RATE_US and one.what.kind not in NOTICES
    )
    if len(lately_us) >= TENANT_RATE_MAX:
        return Hindrance(RATE, lately_us[-TENANT_RATE_MAX] + RATE_US)
    return None


def precedence(one: Fellow) -> tuple[int, str]:
    """Sorts machines by who goes first."""
    return _rank(one.governor.name), one.subject


def targets(governor: str, subject: str, params: Mapping[str, int | str]) -> frozenset[tuple[object, ...]]:
    """What an action acts on."""
    if governor == COST:
        return frozenset({EVERYWHERE})
    found: set[tuple[object, ...]] = {("subject", subject)}
    if "name" in params:
        found.add(("object", params.get("kind"), params.get("namespace"), params["name"]))
    return frozenset(found)


def _meet(mine: frozenset[tuple[object, ...]], theirs: frozenset[tuple[object, ...]]) -> bool:
    return EVERYWHERE in mine or EVERYWHERE in theirs or not mine.isdisjoint(theirs)


def _rank(governor: str) -> int:
    return ORDER.index(governor) if governor in ORDER else len(ORDER)
