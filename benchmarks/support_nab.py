"""Series in the format of the Numenta Anomaly Benchmark, and its scoring.

A detector gives each row a score from 0 to 1; rows at or over a threshold are its detections. Of those,

- none counts in the first 15 % of a series (at most 750 rows);
- the first one inside a window of the labels counts s(y) / s(-1), where s(y) = 2 / (1 + exp(5 y)) - 1 and y goes from
  -1 at the window's left edge towards 0 at its right; a window that none is inside costs the profile's `missed`;
- each other costs the profile's `false_alarm` times -s(y) for y = rows past the nearest earlier window over its width
  less 1: little just behind it, 1 from three widths on and where there is no earlier one.

The sum over the whole corpus is put on a scale where a detector that never speaks has 0 and one that finds every window
at its left edge, and nothing else, has 100. Source: A. Lavin, S. Ahmad, "Evaluating Real-time Anomaly Detection
Algorithms" (arXiv 1510.03336), and `nab/sweeper.py` of github.com/numenta/NAB where the text leaves something open.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

PROBATION: Final = 0.15
PROBATION_ROWS_MAX: Final = 750


class Profile(NamedTuple):
    """What mistakes cost; a window that is found at once is worth 1."""

    name: str
    false_alarm: float
    missed: float


STANDARD: Final = Profile("standard", 0.11, 1.0)
PROFILES: Final = (STANDARD, Profile("reward_low_fp", 0.22, 1.0), Profile("reward_low_fn", 0.11, 2.0))


class Series(NamedTuple):
    """`times` are seconds of UTC. A window is its first and its last row."""

    name: str
    times: Sequence[int]
    values: Sequence[float]
    windows: Sequence[tuple[int, int]]

    @property
    def category(self) -> str:
        return self.name.split("/")[0]

    @property
    def probation(self) -> int:
        """How many rows at the beginning do not count."""
        return int(min(math.floor(PROBATION * len(self.values)), PROBATION_ROWS_MAX))


class Worth(NamedTuple):
    """What a detection at a row is worth: in a window from 0 to 1, in none (-1) from 0 to -1."""

    window: int
    share: float


def read_corpus(data: Path, labels: Path) -> list[Series]:
    """Every series that the labels name and the folder (or `data` in it) has.

    Raises ValueError where one cannot be read, or a label names no row of it.
    """
    named = json.loads(labels.read_text())
    paths = {name: data / name if (data / name).exists() else data / "data" / name for name in sorted(named)}
    return [read_series(path, name, named[name]) for name, path in paths.items() if path.exists()]


def read_series(path: Path, name: str, windows: Iterable[Sequence[str]]) -> Series:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = [_seconds(row["timestamp"]) for row in rows]
    edges = [(times.index(_seconds(first)), _last_index(times, _seconds(last))) for first, last in windows]
    return Series(name, times, [float(row["value"]) for row in rows], edges)


def worths(series: Series) -> list[Worth]:
    """For each row what a detection there is worth, before the profile's weights."""
    found: list[Worth] = []
    window = 0
    for row in range(len(series.values)):
        while window < len(series.windows) and row > series.windows[window][1]:
            window += 1
        if window < len(series.windows) and row >= series.windows[window][0]:
            first, last = series.windows[window]
            found.append(Worth(window, sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1.0)))
        elif window == 0:
            found.append(Worth(-1, -1.0))
        else:
            first, last = series.windows[window - 1]
            found.append(Worth(-1, sigmoid((row - last) / max(1, last - first))))
    return found


def sigmoid(y: float) -> float:
    """1 far before 0, 0 at 0, -1 after it; no less than that from 3 on."""
    return -1.0 if y > 3.0 else 2.0 / (1.0 + math.exp(5.0 * y)) - 1.0


Scores = Mapping[str, Sequence[float]]


def score_at(corpus: Sequence[Series], scores: Scores, threshold: float, profile: Profile) -> float:
    """The score of the rows at or over a threshold."""
    total = 0.0
    for series in corpus:
        best = [-profile.missed] * len(series.windows)
        for row, worth in enumerate(worths(series)):
            if row < series.probation or scores[series.name][row] < threshold:
                continue
            if worth.window < 0:
                total += profile.false_alarm * worth.share
            else:
                best[worth.window] = max(best[worth.window], worth.share)
        total += sum(best)
    return _normal(corpus, total, profile)


def score_tuned(corpus: Sequence[Series], scores: Scores, profile: Profile) -> tuple[float, float]:
    """The best score of any single threshold for all series, and that threshold: infinite if silence is best."""
    rows = sorted(
        (
            (-scores[series.name][row], number, worth)
            for number, series in enumerate(corpus)
            for row, worth in enumerate(worths(series))
            if row >= series.probation and scores[series.name][row] > 0.0
        ),
        key=lambda one: one[0],
    )
    total = -profile.missed * _windows(corpus)
    found: dict[tuple[int, int], float] = {}
    best, threshold = total, math.inf
    for index, (minus, number, worth) in enumerate(rows):
        if worth.window < 0:
            total += profile.false_alarm * worth.share
        else:
            before = found.get((number, worth.window), -profile.missed)
            found[number, worth.window] = max(before, worth.share)
            total += found[number, worth.window] - before
        ends_tie = index + 1 == len(rows) or rows[index + 1][0] != minus
        if ends_tie and total > best:
            best, threshold = total, -minus
    return _normal(corpus, best, profile), threshold


class Count(NamedTuple):
    """Windows that were found, windows that there are, and detections in none."""

    found: int
    windows: int
    false_alarms: int


def count(corpus: Sequence[Series], scores: Scores, threshold: float) -> Count:
    found = false_alarms = 0
    for series in corpus:
        hits = [
            worth.window
            for row, worth in enumerate(worths(series))
            if row >= series.probation and scores[series.name][row] >= threshold
        ]
        found += len(set(hits) - {-1})
        false_alarms += hits.count(-1)
    return Count(found, _windows(corpus), false_alarms)


def _windows(corpus: Sequence[Series]) -> int:
    return sum(len(series.windows) for series in corpus)


def _normal(corpus: Sequence[Series], total: float, profile: Profile) -> float:
    perfect, null = _windows(corpus), -profile.missed * _windows(corpus)
    return 100.0 * (total - null) / (perfect - null) if perfect else math.nan


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def _last_index(times: Sequence[int], at_s: int) -> int:
    return len(times) - 1 - list(reversed(times)).index(at_s)
