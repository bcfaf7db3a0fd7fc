"""Anomaly detectors over a series, each row from what came before it: the Cost Guard's, and two simple peers.

A detector gives every row a score from 0 to 1 and has one threshold that it ships with.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from governors.numerics.anomaly import REACH_PPM, Habit, observe

MICROS: Final = 1_000_000
FULL_PPM: Final = 1_000_000
_ANOMALIES_MAX: Final = 0.002
_CORRECTION: Final = 1.4826  # a normal distribution's standard deviation in MADs


class Detector(NamedTuple):
    """`score(times, values)` gives each row's score; rows at or over `threshold` are detections."""

    name: str
    threshold: float
    score: Callable[[Sequence[int], Sequence[float]], list[float]]


def cost_guard(times: Sequence[int], values: Sequence[float]) -> list[float]:
    """How far each row came in parts of the record, r, as r / (1 + r). Values count in millionths, as money does."""
    habit = Habit()
    scores = []
    for at_s, value in zip(times, values, strict=True):
        habit, seen = observe(habit, round(value * MICROS), at_s)
        scores.append(seen.reach_ppm / (FULL_PPM + seen.reach_ppm))
    return scores


def windowed_gaussian(
    _times: Sequence[int], values: Sequence[float], window: int = 6_400, step: int = 100
) -> list[float]:
    """1 less the tail of a normal distribution with mean and deviation of the last `window` rows, moved on by `step`.

    The sizes are those with which the benchmark's authors found this detector to do best on it.
    """
    kept = deque[float]()
    waiting: list[float] = []
    scores = []
    total = squares = 0.0
    mean, deviation = 0.0, 1.0
    for value in values:
        scores.append(1.0 - 0.5 * math.erfc(abs(value - mean) / deviation / math.sqrt(2.0)) if kept else 0.0)
        waiting.append(value)
        if len(kept) < window or len(waiting) == step:
            for new in waiting:
                total, squares = total + new, squares + new * new
                kept.append(new)
                if len(kept) > window:
                    old = kept.popleft()
                    total, squares = total - old, squares - old * old
            waiting.clear()
            mean = total / len(kept)
            deviation = math.sqrt(max(0.0, squares / len(kept) - mean * mean)) or 1e-6
    return scores


def adv_like(times: Sequence[int], values: Sequence[float], window: int = 2_000, step: int = 100) -> list[float]:
    """As Twitter's AnomalyDetectionVec (S-H-ESD) judges the newest point of a window: without the median of its time of
    day and of the whole, far by more than the extreme of so many normal points at 5 %, and among the 0.2 % that are
    furthest (`max_anoms`). The score is the distance over that limit, x, as x / (1 + x). Medians are taken anew every
    `step` rows.
    """
    scores: list[float] = []
    between = statistics.median(later - earlier for earlier, later in pairwise(times))
    period = max(2, round(86_400 / max(1, between)))
    seasonal = [0.0] * period
    middle, spread, limit = 0.0, 1.0, math.inf
    furthest: list[float] = []
    for row, value in enumerate(values):
        if row % step == 0 and row >= step:
            past = range(max(0, row - window), row)
            middle = statistics.median(values[at] for at in past)
            slots: list[list[float]] = [[] for _ in range(period)]
            for at in past:
                slots[at % period].append(values[at] - middle)
            known = len(past) >= 2 * period
            seasonal = [statistics.median(slot) if known and slot else 0.0 for slot in slots]
            rest = sorted(abs(values[at] - middle - seasonal[at % period]) for at in past)
            spread = _CORRECTION * statistics.median(rest) or 1e-6
            limit = statistics.NormalDist().inv_cdf(1.0 - 0.05 / (2.0 * len(past)))
            furthest = rest[-max(1, round(_ANOMALIES_MAX * len(past))) :]
        away = abs(value - middle - seasonal[row % period])
        if row < step or away < furthest[0]:
            scores.append(0.0)
            continue
        furthest = sorted([*furthest[1:], away])
        scores.append(away / (away + limit * spread))
    return scores


SHIPPED: Final = REACH_PPM / (FULL_PPM + REACH_PPM)
DETECTORS: Final = (
    Detector("cost_guard", SHIPPED, cost_guard),
    # Three standard deviations, and a level of 5 %: what each would call found by itself.
    Detector("windowed_gaussian", 1.0 - 0.5 * math.erfc(3.0 / math.sqrt(2.0)), windowed_gaussian),
    Detector("adv_like", 0.5, adv_like),
)
