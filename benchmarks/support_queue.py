"""A queue before a few workers, for benchmarks: request by request, arriving as a trace has them.

Time is in seconds. A gate decides who is let in, and may drop at the head of the queue; the queue itself is first in,
first out. The trace gives the gaps between requests and what each of them costs; its slow swing is taken out, so that
the load is what the scenario says, with the trace's bursts on top.
"""

import csv
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from heapq import heappop, heappush
from itertools import accumulate, islice
from pathlib import Path
from typing import Final, NamedTuple, Protocol

CLASSES: Final = ("critical", "high", "normal", "low")
CLASS_WEIGHTS: Final = (10, 20, 40, 30)
USERS: Final = 200
SWING_S: Final = 120.0  # of the trace: what varies slower than this is its swing
WORK_COLUMNS: Final = ("work", "GeneratedTokens")


class Trace(NamedTuple):
    """Requests at a mean rate of one per unit, `works` with a mean of 1. Without columns of their own, classes and
    users are None and drawn by the seed.
    """

    at: list[float]
    works: list[float] | None
    classes: list[int] | None
    users: list[str] | None


def read_trace(path: Path, *, swings: bool = False) -> Trace:
    """A CSV whose first column is a time (ISO 8601 or seconds); with `work` or `GeneratedTokens`, `class`, `user`.

    `swings` keeps the slow swing of what requests cost, hours of which pass in seconds when a trace is sped up.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = next(iter(rows[0]))
    rows.sort(key=lambda row: _seconds(row[first]))
    times = [_seconds(row[first]) for row in rows]
    column = next((name for name in WORK_COLUMNS if name in rows[0]), None)
    works = [max(float(row[column]), 1e-9) for row in rows] if column else None
    if works:
        mean = sum(works) / len(works)
        works = [one / mean for one in works] if swings else _evened(times, works)
    classes = [CLASSES.index(row["class"]) for row in rows] if "class" in rows[0] else None
    users = [row["user"] for row in rows] if "user" in rows[0] else None
    return Trace(_without_swing(times), works, classes, users)


def made_up(number: int = 20_000) -> Trace:
    """Poisson arrivals of exponential work."""
    chance = random.Random(0)
    at = list(accumulate(chance.expovariate(1.0) for _ in range(number)))
    return Trace(at, [chance.expovariate(1.0) for _ in range(number)], None, None)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text[:26]).timestamp()


def _evened(times: list[float], works: list[float]) -> list[float]:
    """Works of which the mean over a while is always one."""
    whiles = [int((one - times[0]) / SWING_S) for one in times]
    sums: dict[int, list[float]] = {}
    for index, work in zip(whiles, works, strict=True):
        of = sums.setdefault(index, [0.0, 0])
        of[0] += work
        of[1] += 1
    return [work * sums[index][1] / sums[index][0] for index, work in zip(whiles, works, strict=True)]


def _without_swing(times: list[float]) -> list[float]:
    """Times in which the mean rate over a while is always one."""
    begin = times[0]
    counts: dict[int, int] = {}
    for one in times:
        counts[int((one - begin) / SWING_S)] = counts.get(int((one - begin) / SWING_S), 0) + 1
    last = int((times[-1] - begin) / SWING_S)
    before = [0, *accumulate(counts.get(index, 0) for index in range(last + 1))]
    at = []
    for one in times:
        index, within = divmod((one - begin) / SWING_S, 1.0)
        at.append(before[int(index)] + within * counts[int(index)])
    return at


class Course(NamedTuple):
    """How a run goes: rates a second, a list entry for each `slot_s`; the trouble is from `from_s` to `until_s`."""

    demand: list[float]
    capacity: list[float]
    slot_s: float
    from_s: float
    until_s: float
    workers: int

    @property
    def seconds(self) -> float:
        return len(self.demand) * self.slot_s


class Request:
    """One request, and what became of it: `served_at` is when it was done, None where it was refused or dropped."""

    __slots__ = ("at", "rank", "served_at", "user", "work")

    def __init__(self, at: float, rank: int, user: str, work: float) -> None:
        self.at = at
        self.rank = rank
        self.user = user
        self.work = work
        self.served_at: float | None = None


def arrivals(trace: Trace, course: Course, chance: random.Random) -> Iterator[Request]:
    """The trace's requests from a place drawn by the seed on, round and round, at the demanded rate."""
    whole, number = trace.at[-1], len(trace.at)
    index = chance.randrange(number)
    turns, start = 0, trace.at[index]
    due = [0.0, *accumulate(rate * course.slot_s for rate in course.demand)]
    weights = list(accumulate(CLASS_WEIGHTS))
    while True:
        passed = turns * whole + trace.at[index] - start
        if passed >= due[-1]:
            return
        slot = min(bisect_right(due, passed), len(course.demand)) - 1
        at = slot * course.slot_s + (passed - due[slot]) / course.demand[slot]
        rank = trace.classes[index] if trace.classes else bisect_right(weights, chance.randrange(weights[-1]))
        # A few users ask much, most ask little.
        user = trace.users[index] if trace.users else f"u{int(USERS * chance.random() ** 2)}"
        yield Request(at, rank, user, trace.works[index] if trace.works else chance.expovariate(1.0))
        index += 1
        if index == number:
            index, turns = 0, turns + 1


class Reading(NamedTuple):
    """What a monitor of the queue sees: messages that wait, the oldest one's age, rates since the last look."""

    depth: int
    age_s: float
    in_rate: float
    done_rate: float


class Gate(Protocol):
    """Decides who is let in. `look_s` is how often it wants a reading; 0 never."""

    look_s: float

    def admit(self, request: Request, inflight: int) -> bool: ...
    def start(self, at: float, waited_s: float, queued: int) -> bool:
        """Whether what heads the queue is served rather than dropped; `queued` stand behind it."""

    def done(self, at: float, sojourn_s: float, inflight: int) -> None: ...
    def look(self, at: float, reading: Reading) -> None: ...


class Run(NamedTuple):
    """Every request, and by the slot how deep the queue was at its deepest."""

    requests: list[Request]
    depths: list[int]


def play(trace: Trace, course: Course, gate: Gate, seed: int) -> Run:
    """Let the gate govern the queue."""
    queue: deque[Request] = deque()
    busy: list[tuple[float, int, Request]] = []
    depths = [0] * (len(course.demand) + 1)
    requests: list[Request] = []
    last_slot = len(course.capacity) - 1
    look_s = gate.look_s or math.inf
    next_look, came, done = look_s, 0, 0

    def serve(at: float) -> None:
        while queue and len(busy) < course.workers:
            request = queue.popleft()
            if gate.start(at, at - request.at, len(queue)):
                speed = course.capacity[min(int(at / course.slot_s), last_slot)] / course.workers
                heappush(busy, (at + request.work / max(speed, 1e-9), len(requests), request))

    def finish_until(now: float) -> None:
        nonlocal done, came, next_look
        while True:
            next_done = busy[0][0] if busy else math.inf
            if min(next_done, next_look) > now:
                return
            if next_look < next_done:
                oldest = next_look - queue[0].at if queue else 0.0
                gate.look(next_look, Reading(len(queue), oldest, came / look_s, done / look_s))
                next_look, came, done = next_look + look_s, 0, 0
                continue
            at, _, request = heappop(busy)
            request.served_at = at
            done += 1
            gate.done(at, at - request.at, len(queue) + len(busy) + 1)
            serve(at)

    for request in arrivals(trace, course, random.Random(seed)):
        finish_until(request.at)
        requests.append(request)
        if gate.admit(request, len(queue) + len(busy)):
            came += 1
            queue.append(request)
            serve(request.at)
            slot = int(request.at / course.slot_s)
            depths[slot] = max(depths[slot], len(queue))
    finish_until(course.seconds)
    return Run(requests, depths)


def noisy(rates: list[float], share: float, chance: random.Random) -> list[float]:
    """Each slot's rate times a normal variable of mean 1."""
    return [max(0.05, chance.gauss(1.0, share)) * rate if share else rate for rate in rates]


def sojourns(run: Run, from_s: float, until_s: float) -> list[float]:
    """In order of length, of what was done in that time."""
    return sorted(
        one.served_at - one.at
        for one in run.requests
        if one.served_at is not None and from_s <= one.served_at < until_s
    )


def jain(run: Run, from_s: float, until_s: float) -> float:
    """Jain's index over users, of the share of each one's requests that was served; 1 is perfectly even."""
    asked: dict[str, list[int]] = {}
    for one in run.requests:
        if from_s <= one.at < until_s:
            counts = asked.setdefault(one.user, [0, 0])
            counts[0] += 1
            counts[1] += one.served_at is not None
    shares = [served / number for number, served in asked.values()]
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def inversions(run: Run, moment_s: float, until_s: float) -> int:
    """Requests turned away within a moment in which one of a lower class was let in after them.

    After them: what came before may have used up what there was. What came later than `until_s` may only not be done.
    """
    found = 0
    let_in: deque[tuple[float, int]] = deque()
    for one in reversed(run.requests):
        while let_in and let_in[0][0] > one.at + moment_s:
            let_in.popleft()
        if one.served_at is not None:
            let_in.append((one.at, one.rank))
        elif one.at < until_s and any(rank > one.rank for _, rank in islice(let_in, 500)):
            found += 1
    return found
