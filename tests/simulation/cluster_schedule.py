"""What shall happen to several workers that share a log's partitions. From a seed to a schedule."""

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

from simulation.faults import StoreFate, StoreFault

TENANTS: Final = 24


class Fate(Enum):
    """What happens to a worker at some time, or to all of them."""

    KILL = "its process is killed"
    POWER = "its power fails"
    LOSE = "it is gone, and comes back much later, if at all"
    FREEZE = "its process is frozen"
    STOP = "it is told to stop, and starts again later"
    DRAIN = "it is drained, and takes part again later"
    CUT_STORE = "it is cut off from the store"
    CUT_PEERS = "it is cut off from the other workers"
    SLOW = "the store is slow to it"
    CLOCK = "its wall clock is set"
    KILL_ALL = "all processes are killed"
    FREEZE_ALL = "all processes are frozen"
    CUT_ALL = "all workers are cut off from the store"
    SLOW_ALL = "the store is slow"


EVERYBODYS: Final = {Fate.KILL_ALL, Fate.FREEZE_ALL, Fate.CUT_ALL, Fate.SLOW_ALL}
AT_ONCE: Final = {Fate.KILL, Fate.POWER, Fate.CLOCK, Fate.KILL_ALL}
LONG_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    """At `at_s`; what can end ends after `for_s`. `by_s`: for `CLOCK`."""

    worker: int
    at_s: float
    fate: Fate
    for_s: float = 0.0
    by_s: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.for_s:.2f} s" if self.for_s else ""
        by = f" by {self.by_s:+.0f} s" if self.by_s else ""
        whose = "" if self.fate in EVERYBODYS else f"worker {self.worker}, "
        return f"{whose}at {self.at_s:.2f} s: {self.fate.value}{by}{lasting}"


@dataclass(frozen=True, slots=True)
class Signal:
    """At `at_s` a sender hands one signal of a tenant to some worker, and to others again until it is committed."""

    at_s: float
    number: int
    tenant: int

    def __str__(self) -> str:
        return f"at {self.at_s:.2f} s: signal {self.number} of tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class ClusterSchedule:
    """What shall happen. `seed` fixes everything else. `starts_s` is when each worker begins."""

    seed: int
    partitions: int
    starts_s: tuple[float, ...]
    until_s: float
    requests: tuple[Signal, ...]
    faults: tuple[Event | StoreFault, ...]

    def lines(self) -> list[str]:
        timed: list[tuple[float, str]] = [(one.at_s, str(one)) for one in self.requests]
        timed += [(one.at_s if isinstance(one, Event) else 0.0, str(one)) for one in self.faults]
        starts = ", ".join(f"{at_s:.1f}" for at_s in self.starts_s)
        return [
            f"{self.partitions} partitions; workers start at {starts} s; faults end at {self.until_s:.1f} s",
            *(line for _, line in sorted(timed)),
        ]


_LASTING_S: Final = (15.0, 60.0)
_STORE_CALLS: Final = 400
_ONES: Final = [Fate.KILL, Fate.POWER, Fate.LOSE, Fate.FREEZE, Fate.STOP, Fate.DRAIN, Fate.CUT_STORE]
_KINDS: Final = [
    [Fate.KILL, Fate.POWER],
    [Fate.LOSE],
    [Fate.FREEZE],
    [Fate.CUT_STORE],
    [Fate.CUT_STORE, Fate.CUT_PEERS, Fate.SLOW],
    [Fate.STOP, Fate.DRAIN],
    [Fate.CLOCK, Fate.FREEZE],
    [Fate.KILL_ALL, Fate.FREEZE_ALL, Fate.CUT_ALL, Fate.SLOW_ALL],
    [Fate.SLOW, Fate.SLOW_ALL],
    _ONES,
]


def make_schedule(seed: int, fates: tuple[Fate, ...] = ()) -> ClusterSchedule:
    """The schedule of a seed; `fates` are the only ones then."""
    rng = random.Random(seed)
    workers, partitions = rng.choice((3, 3, 4, 5)), rng.randint(3, 8)
    until_s = rng.uniform(*_LASTING_S) * rng.choice((0.5, 1.0))
    starts_s = tuple(
        rng.uniform(0.0, until_s) if number >= 2 and rng.random() < 0.2 else rng.uniform(0.0, 3.0)
        for number in range(workers)
    )
    signals = sorted(rng.uniform(0.0, until_s + 10.0) for _ in range(int(rng.uniform(0.3, 1.5) * until_s) + 5))
    requests = tuple(Signal(at_s, number, rng.randrange(TENANTS)) for number, at_s in enumerate(signals))
    # Most schedules have few kinds of faults: where everything fails, nothing gets far.
    kinds = [fates] if fates else rng.sample(_KINDS, k=rng.choice((1, 1, 2, 3)))
    faults: list[Event | StoreFault] = []
    for _ in range(rng.choice((1, 2, 3, 5, 8))):
        faults.append(_make_event(rng, rng.choice(rng.choice(kinds)), workers, until_s))
        if rng.random() < 0.3:  # the same again, elsewhere or soon after: what is being made good is broken
            again = faults[-1]
            assert isinstance(again, Event)
            faults.append(
                Event(rng.randrange(workers), again.at_s + rng.uniform(0.0, 8.0), again.fate, again.for_s, again.by_s)
            )
    if not fates and rng.random() < 0.4:
        for _ in range(rng.choice((1, 3, 10))):
            fate = rng.choice(list(StoreFate))
            late_s = rng.choice((0.5, 5.0, 20.0)) * rng.uniform(0.5, 1.5) if fate is StoreFate.LATE else 0.0
            faults.append(StoreFault(rng.randrange(workers), rng.randrange(1, _STORE_CALLS), fate, late_s))
    return ClusterSchedule(seed, partitions, starts_s, until_s, requests, tuple(faults))


def _make_event(rng: random.Random, fate: Fate, workers: int, until_s: float) -> Event:
    for_s = by_s = 0.0
    if fate is Fate.CLOCK:
        by_s = rng.choice((-3600.0, -1.0, 1.0, 3600.0))
    elif fate not in AT_ONCE:
        for_s = rng.choice((0.5, 4.0, 8.0, 20.0)) * rng.uniform(0.5, 1.5)
    if fate is Fate.LOSE:
        for_s += LONG_S
    return Event(rng.randrange(workers), rng.uniform(0.0, until_s), fate, for_s, by_s)
