"""A machine as a table: one row for each status and event type, naming the handler and where it may lead.

The table is the machine: its diagram, its totality test and its documentation are made from it. A handler is a pure
function; what it may not do (leave the permitted targets) is checked at every step.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

S = TypeVar("S")
E = TypeVar("E")
P = TypeVar("P")

Evidence = dict[str, int | str]


class Verdict(Struct, Generic[S], frozen=True, gc=False):
    """What a handler decided.

    `decision` is the public word (`none` when nothing changes), `rule` the stable name of the rule that said so,
    `evidence` the numbers it compared and their limits: integers (micros, ppm, ms, milli-nats) and short strings only,
    because it goes into a receipt. `refused` marks an event that must not count (a foreign currency, say): the state
    is then the one that came in.
    """

    state: S
    decision: str
    rule: str
    evidence: Evidence
    refused: bool = False


class Row(NamedTuple):
    """`handler(state, event, policy, now_us) -> Verdict`, and every status that it may lead to."""

    handler: Callable[[Any, Any, Any, int], Verdict[Any]]
    targets: frozenset[Any]


Table = Mapping[tuple[Any, type], Row]


class IllegalTransitionError(Exception):
    """A handler led where its row does not permit: a defect of the machine, never of its input."""


def step(table: Table, state: Any, event: Any, policy: Any, now_us: int) -> Verdict[Any]:
    """Look up the row, run its handler, hold it to its targets.

    Raises KeyError for an event type the machine has no row for, IllegalTransitionError for a handler out of bounds.
    """
    handler, targets = table[state.status, type(event.body)]
    verdict = handler(state, event, policy, now_us)
    if verdict.state.status not in targets:
        raise IllegalTransitionError(f"{state.status} -> {verdict.state.status} on {type(event.body).__name__}")
    return verdict


def permitted(table: Table, state: Any, event: Any, verdict: Verdict[Any]) -> Verdict[Any]:
    """A verdict that another handler than the row's gave, held to the row's targets. Raises as `step` does."""
    if verdict.state.status not in table[state.status, type(event.body)].targets:
        raise IllegalTransitionError(f"{state.status} -> {verdict.state.status} on {type(event.body).__name__}")
    return verdict
