"""Has a stream of numbers left what it has been seen to do? One point at a time, in bounded integer state.

A value is looked at on a scale that is linear around the stream's own mean and logarithmic far above it,

    u = sign(v) log2(1 + |v| / (3 mean |v|)),

so that a burst of a hundred times the usual does not hide the next of ten times. Three views of u are kept:

- level: how far u lies from its running median, in median absolute deviations;
- drift: the same for an average of u over some twenty points, which sees what no single point shows;
- season: how far the last ten or so points lie from what this half hour of the day has brought before, so that a peak
  that does not come is seen too, and one at the wrong time.

A distance alone says little: a spiky stream is far from its median all the time. So each view remembers the largest
distance that it has seen, fading slowly, and a point is an *alarm* where a distance reaches that record: nothing has
to be known of a stream's distribution, and a stream that is wild by habit becomes its own yardstick. An alarm raises
its record by a fifth, and is followed by a silence, so that one incident is told once; only what passes twice the
record breaks it.

Beside it stands a textbook figure that a person can check: the modified z-score of Iglewicz and Hoaglin,
0.6745 (u - usual) / MAD, where usual is the median, moved by what the half hour of the day brings once that is known,
and MAD that of what then remains.

Median and MAD are tracked by steps of their sign (each step moves them a little towards the point; a burst moves them
no more than any other point does), with steps that shrink as 1/n at first. Logarithms are piecewise linear between
powers of two, so that every machine gets the same bits. Sources: B. Iglewicz, D. Hoaglin, "How to Detect and Handle
Outliers" (1993); Ma, Muthukrishnan, Sandler, "Frugal Streaming for Estimating Quantiles" (arXiv 1407.1121).
"""

from typing import Final, NamedTuple

from msgspec import Struct

FULL_PPM: Final = 1_000_000
DAY_S: Final = 86_400
VALUE_MAX: Final = 2**53 - 1
FAR_PPM: Final = 2**53 - 1

OCTAVE: Final = 1 << 24
"""One power of two on the scale of u."""

# The one configuration. Half-lives in points; every other number is a share or a multiple of what stands beside it.
CELLS: Final = 48
SPREAD: Final = 3
"""The scale turns from linear to logarithmic at so many times the mean."""
LEAST: Final = OCTAVE * 3 // 100
"""What is added to every MAD: a stream that never moves must not make an event of its first tremble."""
MEAN_POINTS: Final = 2_885
"""The mean fades with a half-life of 2,000 points."""
MEDIAN_POINTS: Final = 2_500
DRIFT_POINTS: Final = 20
SEASON_POINTS: Final = 10
CELL_VISITS: Final = 10
CELL_KNOWN: Final = 6
"""A half hour of the day says what is usual once it had so many points."""
RECORD_POINTS: Final = 17_312
"""Records fade with a half-life of 12,000 points."""
LEAST_RECORDS: Final = (2 * FULL_PPM, FULL_PPM, FULL_PPM)
"""No record is less, in ppm of a MAD: closer than that nothing is worth a word."""
REACH_PPM: Final = 950_000
"""An alarm is a distance of at least so much of the record."""
BREAK_PPM: Final = 2_000_000
"""What breaks the silence after an alarm."""
RAISE_PPM: Final = 1_200_000
"""What an alarm makes of its own distance as the record to reach next time."""
WARM_POINTS: Final = 125
"""Before so many points there is no alarm."""
SILENT_POINTS: Final = 100

Z_SCALE_PPM: Final = 674_500
"""A MAD of a normal distribution is this much of its standard deviation."""

# A cell of the season is two bytes: twelve bits of 1/128 octaves around zero, and four bits that count its points.
_CELL_OCTAVE: Final = 128
_CELL_UNIT: Final = OCTAVE // _CELL_OCTAVE
_CELL_ZERO: Final = 2_048
_BLANK: Final = (_CELL_ZERO << 4).to_bytes(2, "little") * CELLS

VIEWS: Final = ("level", "drift", "season")


class Habit(Struct, frozen=True, gc=False, array_like=True):
    """What is remembered of a stream. `mean` counts 256ths of a value, `median`, `mad`, `drift`, `season` and `spread`
    (the MAD of what the season leaves) are on the scale of u, `records` in ppm of a MAD; `silent` points are left
    of a silence. `cells` is packed as said above, empty before the first point.
    """

    points: int = 0
    mean: int = 0
    median: int = 0
    mad: int = 0
    drift: int = 0
    season: int = 0
    records: tuple[int, int, int] = LEAST_RECORDS
    spread: int = 0
    silent: int = 0
    cells: bytes = b""


class Surprise(NamedTuple):
    """What one point was. `z_ppm` is its modified z-score; `reach_ppm` how far it came in parts of a record, in the
    view (an index of VIEWS) where that is most: 0 while it is too early to say, and in silence.
    """

    alarm: bool
    view: int
    reach_ppm: int
    z_ppm: int


def observe(habit: Habit, value: int, at_s: int) -> tuple[Habit, Surprise]:
    """The stream's next point, at a time of UTC in seconds, and what there was to be said of it."""
    points = habit.points + 1
    size = min(abs(value), VALUE_MAX)
    mean = habit.mean + ((size << 8) - habit.mean) // min(points, MEAN_POINTS)
    u = _scaled(size, mean)
    if value < 0:
        u = -u
    if points == 1:
        return Habit(1, mean, u, 0, u, 0, cells=_BLANK), Surprise(False, 0, 0, 0)

    unit = habit.mad + LEAST
    away = u - habit.median
    drift = habit.drift + (u - habit.drift) // DRIFT_POINTS
    cells, odd, known = _season(habit.cells, at_s % DAY_S * CELLS // DAY_S, away)
    season = habit.season + ((odd if known else 0) - habit.season) // SEASON_POINTS
    distances = (
        min(FAR_PPM, abs(away) * FULL_PPM // unit),
        min(FAR_PPM, abs(drift - habit.median) * FULL_PPM // unit),
        min(FAR_PPM, abs(season) * FULL_PPM // unit),
    )
    left = odd if known else away
    z_ppm = min(FAR_PPM, abs(left) * Z_SCALE_PPM // (habit.spread + LEAST))
    if left < 0:
        z_ppm = -z_ppm

    view, reach = _furthest(distances, habit.records)
    records = _faded(habit.records, distances)
    alarm = False
    silent = habit.silent - 1 if habit.silent else 0
    if points <= WARM_POINTS or (habit.silent and reach < BREAK_PPM):
        reach = 0
    elif reach >= REACH_PPM:
        alarm, silent = True, SILENT_POINTS
        raised = max(records[view], distances[view] * RAISE_PPM // FULL_PPM)
        records = (*records[:view], min(FAR_PPM, raised), *records[view + 1 :])  # type: ignore[assignment]
    step = (habit.mad * 3 // 2 + LEAST) // min(points, MEDIAN_POINTS)
    median = habit.median + (step if away > 0 else -step if away < 0 else 0)
    mad = max(0, habit.mad + (step if abs(away) > habit.mad else -step))
    step = (habit.spread * 3 // 2 + LEAST) // min(points, MEDIAN_POINTS)
    spread = max(0, habit.spread + (step if abs(left) > habit.spread else -step))
    after = Habit(points, mean, median, mad, drift, season, records, spread, silent, cells)
    return after, Surprise(alarm, view, reach, z_ppm)


def _scaled(size: int, mean: int) -> int:
    """log2(1 + size / (SPREAD mean)) in OCTAVEs, linear between powers of two."""
    if not mean:
        return 0
    share = OCTAVE + (size << 32) // (SPREAD * mean)
    octaves = share.bit_length() - 25
    return (octaves << 24) + (share >> octaves) - OCTAVE


def _season(cells: bytes, index: int, away: int) -> tuple[bytes, int, bool]:
    """The cells with one more distance from the median in one of them, how far that was from what it had, and whether
    that is known well enough to say.
    """
    at = 2 * index
    packed = cells[at] | cells[at + 1] << 8
    visits = packed & 15
    known = ((packed >> 4) - _CELL_ZERO) * _CELL_UNIT
    odd = away - known
    # To the nearest unit: a cell that only ever rounds down would sink.
    moved = known + odd // min(visits + 1, CELL_VISITS) + _CELL_UNIT // 2
    level = max(0, min(4_095, moved // _CELL_UNIT + _CELL_ZERO))
    packed = level << 4 | min(visits + 1, CELL_VISITS)
    cells = cells[:at] + packed.to_bytes(2, "little") + cells[at + 2 :]
    return cells, odd, visits >= CELL_KNOWN


def _furthest(distances: tuple[int, int, int], records: tuple[int, int, int]) -> tuple[int, int]:
    """The view that comes furthest in parts of its record, and how far in ppm."""
    best, view = -1, 0
    for index in range(3):
        reach = min(FAR_PPM, distances[index] * FULL_PPM // records[index])
        if reach > best:
            best, view = reach, index
    return view, best


def _faded(records: tuple[int, int, int], distances: tuple[int, int, int]) -> tuple[int, int, int]:
    level, drift, season = records
    return (
        max(level - level // RECORD_POINTS, distances[0], LEAST_RECORDS[0]),
        max(drift - drift // RECORD_POINTS, distances[1], LEAST_RECORDS[1]),
        max(season - season // RECORD_POINTS, distances[2], LEAST_RECORDS[2]),
    )
