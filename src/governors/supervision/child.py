"""Child specifications: how a child is started, when it is started again, how it is told to end.

The words are those of OTP's supervisor (https://www.erlang.org/doc/apps/stdlib/supervisor.html, "Child
specification").
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from governors.supervision.errors import BadChildSpecError
from governors.supervision.report import TreeNode


class Restart(StrEnum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # when it raised or was cancelled by a stranger, not when it returned
    TEMPORARY = "temporary"  # never, not even when a sibling's restart was what ended it


class Strategy(StrEnum):
    """Which siblings a restart takes along."""

    ONE_FOR_ONE = "one_for_one"  # none
    ONE_FOR_ALL = "one_for_all"  # all
    REST_FOR_ONE = "rest_for_one"  # those started after it


class AutoShutdown(StrEnum):
    """Whether a supervisor ends by itself when significant children have ended by themselves."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


PERMANENT: Final = Restart.PERMANENT
TRANSIENT: Final = Restart.TRANSIENT
TEMPORARY: Final = Restart.TEMPORARY
ONE_FOR_ONE: Final = Strategy.ONE_FOR_ONE
ONE_FOR_ALL: Final = Strategy.ONE_FOR_ALL
REST_FOR_ONE: Final = Strategy.REST_FOR_ONE

Started = Callable[[], None]
Start = Callable[[Started], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Child:
    """A specification.

    - `start(started)` is the child's whole life, a coroutine function. It calls `started()` as soon as it can do its
      work; the next child is started only then. What it raises before that is a failure to start.
    - `shutdown_s`: how long it may take to end after it was cancelled; 0 cancels and does not wait. None waits without
      limit, and is for supervisors alone, whose own children have their deadlines.
    - `start_s`: how long it may take until it calls `started()`; None likewise for supervisors alone.
    - `significant`: its end may end the supervisor, see `AutoShutdown`.
    - `subtree`: reads a supervisor's own tree; what makes the child a supervisor (`Supervisor.as_child` fills it in).
    """

    name: str
    start: Start
    restart: Restart = PERMANENT
    shutdown_s: float | None = 5.0
    start_s: float | None = 30.0
    significant: bool = False
    subtree: Callable[[], TreeNode] | None = None


def check_specs(children: Sequence[Child], auto_shutdown: AutoShutdown = AutoShutdown.NEVER) -> None:
    """Raises BadChildSpecError for the first specification that cannot be meant."""
    names: set[str] = set()
    for child in children:
        if not child.name:
            raise BadChildSpecError("a child needs a name")
        if child.name in names:
            raise BadChildSpecError(f"child {child.name!r}: the name is taken by another child")
        names.add(child.name)
        _check_deadline(child, "shutdown_s", child.shutdown_s, zero=True)
        _check_deadline(child, "start_s", child.start_s, zero=False)
        if child.significant and auto_shutdown is AutoShutdown.NEVER:
            raise BadChildSpecError(f"child {child.name!r}: significant, but its supervisor's auto_shutdown is never")
        if child.significant and child.restart is PERMANENT:
            raise BadChildSpecError(
                f"child {child.name!r}: significant and permanent, so it would never count as ended"
            )


def _check_deadline(child: Child, field: str, seconds: float | None, *, zero: bool) -> None:
    if seconds is None:
        if child.subtree is None:
            raise BadChildSpecError(f"child {child.name!r}: {field} is None, which is for supervisors alone")
    elif child.subtree is not None:
        raise BadChildSpecError(f"child {child.name!r}: {field} of a supervisor must be None: its children have theirs")
    elif not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise BadChildSpecError(f"child {child.name!r}: {field} is {seconds}, expected seconds")


T = TypeVar("T")


def restart_group(strategy: Strategy, children: Sequence[T], failed: T) -> Sequence[T]:
    """Who is terminated (from the right) and started again (from the left) when `failed` is to be restarted."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (failed,)
        case Strategy.ONE_FOR_ALL:
            return children
        case Strategy.REST_FOR_ONE:
            return children[children.index(failed) :]
