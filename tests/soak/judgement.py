"""Whether a long run was flat: what its samples come to, against limits. Pure.

Growth is a Theil-Sen slope, the median of the slopes between all pairs of samples: up to 29 % of the samples may be
anything (a collector's peak, a neighbour on the machine) without moving it. The first third is left out: caches fill.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

HOUR_S: Final = 3_600.0
SETTLED_FROM: Final = 1 / 3
"""Share of the run that is left out where growth is looked for."""
JUDGED_FROM_S: Final = 900.0
"""A shorter run says nothing about growth: the window of remembered ids alone fills for minutes."""
PAIRS_OF_MAX: Final = 400
"""Samples that are compared with each other; of more, so many spread evenly."""


class Point(NamedTuple):
    """A value at a time, in seconds since the run began."""

    at_s: float
    value: float


@dataclass(frozen=True, slots=True)
class GrowthLimit:
    """At most so much more: a share of what is usual, or so many units where that is more."""

    share: float
    units: float = 0.0

    def of(self, usual: float) -> float:
        """In units."""
        return max(self.share * usual, self.units)


class Verdict(NamedTuple):
    """A figure beside its limit. `ok` is None where the run was too short to tell."""

    what: str
    figure: float
    limit: float
    ok: bool | None


def slope_per_h(points: Sequence[Point]) -> float:
    """By Theil and Sen; 0 where there are not two points in time."""
    step = -(-len(points) // PAIRS_OF_MAX) or 1
    slopes = [
        (after.value - before.value) / (after.at_s - before.at_s)
        for before, after in combinations(points[::step], 2)
        if after.at_s > before.at_s
    ]
    return statistics.median(slopes) * HOUR_S if slopes else 0.0


def settled(points: Sequence[Point]) -> list[Point]:
    """Those of the last two thirds of the time that they span."""
    if not points:
        return []
    begin_s, end_s = points[0].at_s, points[-1].at_s
    return [one for one in points if one.at_s >= begin_s + (end_s - begin_s) * SETTLED_FROM]


def judge_growth(what: str, points: Sequence[Point], limit: GrowthLimit) -> Verdict:
    """How much it grows in an hour. Without any points it was not measured, and that is no success."""
    if not points:
        return Verdict(f"{what}: growth in an hour", float("nan"), 0.0, ok=False)
    rest = settled(points)
    usual = statistics.median(one.value for one in rest)
    allowed = limit.of(usual)
    grown = slope_per_h(rest)
    is_long = points[-1].at_s - points[0].at_s >= JUDGED_FROM_S
    return Verdict(
        f"{what}: growth in an hour", round(grown, 2), round(allowed, 2), grown <= allowed if is_long else None
    )


def judge_rest(what: str, before: float, after: float, limit: GrowthLimit, worked_s: float) -> Verdict:
    """What is held while nothing is to do, before and after work: so much more, and it was not let go of."""
    allowed, more = limit.of(before), after - before
    ok = more <= allowed if worked_s >= JUDGED_FROM_S else None
    return Verdict(f"{what} at rest: more after work", more, round(allowed, 2), ok)


def judge_most(what: str, values: Sequence[float], limit: float) -> Verdict:
    """The largest of them is under the limit. None at all is no success."""
    most = max(values, default=float("nan"))
    return Verdict(what, round(most, 2), limit, ok=most < limit)


def judge_least(what: str, figure: float, limit: float) -> Verdict:
    """It is not below the limit."""
    return Verdict(what, round(figure, 2), round(limit, 2), ok=figure >= limit)


def judge_none(what: str, count: int) -> Verdict:
    """There is nothing of it."""
    return Verdict(what, count, 0, ok=count == 0)


def is_good(verdicts: Sequence[Verdict]) -> bool:
    """Nothing failed. What could not be told does not count, but something must have been."""
    return any(one.ok for one in verdicts) and all(one.ok is not False for one in verdicts)
