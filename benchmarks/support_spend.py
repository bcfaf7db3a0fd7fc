"""Months of spend for benchmarks: shapes from public traces, faults spliced into them, and who governs them.

A shape is demand in quarter hours, without a unit; a month of it costs what a budget is made for. It begins 25 days
before the month that counts, so that there is something to learn from.
"""

import csv
import math
import random
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, Protocol

from benchmarks.support_nab import Series, read_corpus
from governors.machines.cost_guard import COST_GUARD
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_state import FULL_PPM, CostState
from governors.machines.events import ActionResult, Event, EventBody, Timeout
from governors.machines.overlays import Turn, advance, initial
from ingest.signals import BudgetSet, CostDelta, CostSnapshot, EpochMicros, Micros

BUCKET_S: Final = 900
BUCKET_US: Final = BUCKET_S * 1_000_000
DAY: Final = 96
"""A day in buckets."""
HISTORY: Final = 25 * DAY
MONTH: Final = 30 * DAY
SPAN: Final = HISTORY + MONTH
MONTH_US: Final = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z, a month of thirty days
START_US: Final = MONTH_US - HISTORY * BUCKET_US
MONTH_MICROS: Final = 10_000_000_000
"""What a month without a fault costs: 10,000 units."""
CATEGORIES: Final = frozenset({"realAdExchange", "realTweets"})
"""Series of NAB that are long enough and never run backwards: prices paid for advertisements, mentions in messages."""
FEED_EVERY: Final = 32
FEED_LAG: Final = 96


class Shape(NamedTuple):
    """`demand` has SPAN buckets; `odd` are those of them that the trace's own labels call anomalous."""

    name: str
    demand: Sequence[float]
    odd: frozenset[int]

    @property
    def is_steady(self) -> bool:
        """Whether no two buckets in a row of the history were over twice the median of their time of day."""
        usual = [median(self.demand[time:HISTORY:DAY]) for time in range(DAY)]
        over = [self.demand[at] > 2.0 * usual[at % DAY] for at in range(HISTORY)]
        return not any(map(all, pairwise(over)))

    def is_odd(self, bucket: int) -> bool:
        """Whether a bucket is anomalous by the trace's labels, or lies in the day after one that is."""
        return not self.odd.isdisjoint(range(bucket - DAY, bucket + 1))


def nab_shapes(data: Path, labels: Path) -> list[Shape]:
    """Each long series twice, the second time from its middle on."""
    if not labels.is_file():
        return []
    corpus = [one for one in read_corpus(data, labels) if one.category in CATEGORIES]
    return [_shape(one, turned) for one in corpus for turned in (0, 1)]


def _shape(series: Series, turned: int) -> Shape:
    """A series brought to quarter hours, each row standing until the next."""
    first = series.times[0]
    buckets: list[list[float]] = [[] for _ in range((series.times[-1] - first) // BUCKET_S + 1)]
    odd = set()
    for row, (at_s, value) in enumerate(zip(series.times, series.values, strict=True)):
        buckets[(at_s - first) // BUCKET_S].append(max(0.0, value))
        if any(begin <= row <= end for begin, end in series.windows):
            odd.add((at_s - first) // BUCKET_S)
    demand: list[float] = []
    for values in buckets:
        demand.append(sum(values) / len(values) if values else demand[-1])
    # Turned by whole weeks, so that hours of the week stay what they are.
    weeks = len(demand) // (7 * DAY)
    begin = turned * weeks // 2 * 7 * DAY
    order = [(begin + at) % (weeks * 7 * DAY) for at in range(SPAN)]
    name = series.name.split("/")[1].removesuffix(".csv") + ("", ", turned")[turned]
    return Shape(name, [demand[at] for at in order], frozenset(at for at, of in enumerate(order) if of in odd))


def token_shapes(path: Path, number: int = 4) -> list[Shape]:
    """Tokens of a recorded hour of requests to a language model: ten seconds of it, any of them, for each quarter hour,
    on a day and a week as offices have them. Without the file the noise is made up.
    """
    if path.is_file():
        noise = _tokens(path)
        label = "azure-llm"
    else:
        chance = random.Random(7)
        noise = [chance.lognormvariate(0.0, 0.2) for _ in range(360)]
        label = "made-up"
    shapes = []
    for turn in range(number):
        chance = random.Random(turn)
        demand = [_office(at, turn) * noise[chance.randrange(len(noise))] for at in range(SPAN)]
        shapes.append(Shape(f"{label} {turn}", demand, frozenset()))
    return shapes


def _tokens(path: Path) -> list[float]:
    bins: dict[int, float] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at_s = int(datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp())
            spent = int(row["ContextTokens"]) + 3 * int(row["GeneratedTokens"])
            bins[at_s // 10] = bins.get(at_s // 10, 0.0) + spent
    mean = sum(bins.values()) / len(bins)
    return [spent / mean for _, spent in sorted(bins.items())]


def _office(at: int, turn: int) -> float:
    """Demand by hour and weekday: from flat (0) to nearly all of it in office hours (3)."""
    hour, weekday = at % DAY / 4, at // DAY % 7
    swing = (0.0, 0.4, 0.7, 0.9)[turn % 4]
    day = 1.0 + swing * math.cos((hour - 14.0) / 12.0 * math.pi)
    return day * (1.0 if weekday < 5 else 1.0 - swing / 2)


class Fault(NamedTuple):
    """What goes wrong, and when: in buckets of the month. `shape(bucket)` is what demand is multiplied with."""

    name: str
    begin: int
    end: int
    factor: Callable[[int, int], float]
    credit: float = 0.0
    """So much of a month's cost is given back at `begin`."""
    late_feed: bool = False
    """A billing feed, a day behind and three times a day, instead of a meter."""
    budget: float = 1.25
    """The budget in parts of what the month costs without a fault."""

    def is_near(self, at: int) -> bool:
        """Whether a bucket of the month lies in the fault or in the day after it."""
        return (self.begin < self.end or self.credit > 0.0) and self.begin <= at < self.end + DAY


def _step(_at: int, _length: int) -> float:
    return 3.0


def _drift(at: int, length: int) -> float:
    return 1.0 + 2.0 * at / length


def _spike(_at: int, _length: int) -> float:
    return 30.0


def _same(_at: int, _length: int) -> float:
    return 1.0


def _at(day: int, hour: int) -> int:
    return day * DAY + hour * 4


FAULTS: Final = (
    Fault("calm", 0, 0, _same),
    Fault("calm, tight budget", 0, 0, _same, budget=1.02),
    Fault("step early", _at(4, 10), MONTH, _step),
    Fault("step in the middle", _at(12, 14), MONTH, _step),
    Fault("step late", _at(20, 11), MONTH, _step),
    Fault("drift", _at(6, 0), _at(26, 0), _drift),
    Fault("spike", _at(10, 12), _at(10, 13), _spike),
    Fault("credit", _at(18, 12), _at(18, 12), _same, credit=0.1),
    Fault("late feed", 0, 0, _same, late_feed=True),
    Fault("late feed, step", _at(8, 10), MONTH, _step, late_feed=True),
    Fault("too small a budget", 0, 0, _same, budget=0.8),
)


class Month(NamedTuple):
    """A tenant's month: micros of demand for each bucket of SPAN, the budget, and where it would end ungoverned."""

    shape: Shape
    fault: Fault
    demand: Sequence[int]
    credit_micros: int
    budget_micros: int

    @property
    def ungoverned_micros(self) -> int:
        return sum(self.demand[HISTORY:]) - self.credit_micros

    @property
    def overruns(self) -> bool:
        return self.ungoverned_micros >= self.budget_micros


def make(shape: Shape, fault: Fault) -> Month:
    scale = MONTH_MICROS / (sum(shape.demand[HISTORY:]) or 1.0)
    demand = [round(value * scale) for value in shape.demand]
    for at in range(fault.begin, fault.end):
        demand[HISTORY + at] = round(demand[HISTORY + at] * fault.factor(at - fault.begin, fault.end - fault.begin))
    return Month(shape, fault, demand, round(MONTH_MICROS * fault.credit), round(MONTH_MICROS * fault.budget))


class Seen(NamedTuple):
    """What a governor said at the end of a bucket: the status, each decision of the bucket with its rule, and where it
    expects the month to end (at least, likely, at most; None while it does not say). `spent_micros` is what the bucket
    cost after what was held back.
    """

    bucket: int
    status: str
    said: Sequence[tuple[str, str]]
    spent_micros: int
    forecast: tuple[int, int, int] | None = None


class Watcher(Protocol):
    """Governs one month: what it says at the end of each bucket of it."""

    def watch(self, month: Month) -> Iterator[Seen]: ...


class Guard:
    """The Cost Guard itself, as the runtime asks it: every signal, every deadline. Actions succeed at once, and hold
    back as much of the demand as they say; a stop leaves nothing. What comes before the month is lived once for all
    months of a shape that have it in common.
    """

    def __init__(self, policy: CostPolicy) -> None:
        self._policy = policy
        self._lived: dict[tuple[str, bool, int], _Tenant] = {}

    def watch(self, month: Month) -> Iterator[Seen]:
        key = (month.shape.name, month.fault.late_feed, month.budget_micros)
        if key not in self._lived:
            tenant = _Tenant(self._policy)
            tenant.tell(BudgetSet(Micros(month.budget_micros), "USD", "month"), START_US)
            for _ in self._live(tenant, month, range(HISTORY)):
                pass
            self._lived[key] = tenant
        return self._live(copy(self._lived[key]), month, range(HISTORY, SPAN))

    def _live(self, tenant: "_Tenant", month: Month, buckets: range) -> Iterator[Seen]:
        costs = [0]
        for bucket in buckets:
            now_us = START_US + (bucket + 1) * BUCKET_US - 1
            tenant.said = []
            tenant.wait(now_us)
            spent = month.demand[bucket] * tenant.fraction_ppm // FULL_PPM
            credit = month.credit_micros if bucket == HISTORY + month.fault.begin else 0
            costs.append(costs[-1] + spent - credit)
            if not month.fault.late_feed:
                tenant.tell(CostDelta(Micros(spent - credit), "USD", EpochMicros(now_us)), now_us)
            elif bucket % FEED_EVERY == FEED_EVERY - 1:
                # The bill as of a day ago; there is none yet on the first day.
                known = costs[-1 - FEED_LAG] if len(costs) > FEED_LAG else 0
                starts_us = MONTH_US if bucket >= HISTORY else MONTH_US - 31 * DAY * BUCKET_US
                budget = Micros(month.budget_micros)
                tenant.tell(CostSnapshot(Micros(known), budget, "USD", EpochMicros(starts_us)), now_us)
            yield Seen(bucket, tenant.state.status, tuple(tenant.said), spent, _forecast(tenant.core))


def _forecast(core: CostState) -> tuple[int, int, int] | None:
    learnt = core.learnt
    if learnt is None or learnt.end_us != core.end_us:
        return None
    cost = core.cost_micros
    return cost + learnt.rest_low_micros, cost + learnt.rest_micros, cost + learnt.rest_high_micros


class _Tenant:
    def __init__(self, policy: CostPolicy) -> None:
        self.state = initial(COST_GUARD, START_US)
        self.said: list[tuple[str, str]] = []
        self._policy = policy
        self._deadline_us: int | None = None
        self._sequence = 0

    @property
    def core(self) -> CostState:
        core = self.state.core
        assert isinstance(core, CostState)
        return core

    @property
    def fraction_ppm(self) -> int:
        rule = COST_GUARD.admit(self.core, COST_GUARD.status(self.state.status), self._policy)
        return 0 if rule.critical_only else rule.fraction_ppm

    def wait(self, until_us: int) -> None:
        while self._deadline_us is not None and self._deadline_us <= until_us:
            self.tell(Timeout(), self._deadline_us)

    def tell(self, body: EventBody, now_us: int) -> None:
        self._sequence += 1
        turn = Turn(COST_GUARD, Event(str(self._sequence), now_us, body), self._policy, now_us, "a", self._sequence)
        found = advance(turn, self.state)
        self.state, self._deadline_us = found.state, found.deadline_us
        if found.decision != "none":
            self.said.append((found.decision, found.rule))
        if found.action is not None:
            self.tell(ActionResult(found.action.id, found.action.kind, ok=True), now_us)


class Thresholds:
    """As a budget with alerts at 50, 90 and 100 % and a function that stops at the last: knows the cost alone."""

    def watch(self, month: Month) -> Iterator[Seen]:
        reached = 0
        costs = [0]
        for bucket in range(HISTORY, SPAN):
            spent = 0 if reached == 3 else month.demand[bucket]
            costs.append(costs[-1] + spent - (month.credit_micros if bucket == HISTORY + month.fault.begin else 0))
            known = costs[-1]
            if month.fault.late_feed:
                behind = len(costs) - 1 - FEED_LAG - bucket % FEED_EVERY
                known = costs[behind] if behind >= 0 else 0
            now = sum(known * 100 >= month.budget_micros * percent for percent in (50, 90, 100))
            said = (("warn", "threshold"),) if now > reached else ()
            reached = max(reached, now)
            yield Seen(bucket, ("NORMAL", "WARN", "WARN", "STOP")[reached], said, spent)
