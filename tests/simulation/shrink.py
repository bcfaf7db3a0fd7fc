"""From a schedule that violates something to the smallest that still does."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from simulation.cluster_schedule import ClusterSchedule
from simulation.ledger_world import Outcome
from simulation.schedule import Schedule

SHRINKS_MAX: Final = 600
Shrinkable = Schedule | ClusterSchedule
S = TypeVar("S", Schedule, ClusterSchedule)
T = TypeVar("T")


def shrink(schedule: S, run: Callable[[S], Outcome]) -> tuple[S, Outcome]:
    """A schedule from which nothing more can be left out without the violation going away."""
    best, outcome = schedule, run(schedule)
    kind = _kind_of(outcome)
    left = SHRINKS_MAX

    def attempt(smaller: S) -> bool:
        nonlocal best, outcome, left
        if left == 0 or smaller == best:
            return False
        left -= 1
        found = run(smaller)
        if _kind_of(found) != kind:
            return False
        best, outcome = smaller, found
        return True

    shrunk = True
    while shrunk and left:
        faults = _leave_out(best.faults, lambda kept: attempt(replace(best, faults=kept)))
        requests = _leave_out(best.requests, lambda kept: attempt(replace(best, requests=kept)))
        shrunk = faults or requests
    return best, outcome


def _kind_of(outcome: Outcome) -> str | None:
    """What was violated, without what differs from one time to the next."""
    return None if outcome.violation is None else re.sub(r"[0-9a-f]*[0-9][0-9a-f.]*", "", outcome.violation)[:60]


def _leave_out(items: tuple[T, ...], attempt: Callable[[tuple[T, ...]], bool]) -> bool:
    """Try without halves, quarters, …, single ones; says whether anything could go."""
    some = False
    size = max(1, len(items) // 2)
    while items:
        at = 0
        while at < len(items):
            fewer = items[:at] + items[at + size :]
            if attempt(fewer):
                items, some = fewer, True
            else:
                at += size
        if size == 1:
            break
        size = max(1, size // 2)
    return some
