"""What shall happen: callers, faults, and who keeps the log. From a seed to a schedule."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from simulation.faults import DiskFate, DiskFault, Fault, KillAtStep, MachineFate, MachineFault, StoreFate, StoreFault

Fate = DiskFate | StoreFate | MachineFate | type[KillAtStep]


class Mode(Enum):
    """Who keeps the log."""

    LOCAL = "one machine, and no store"
    EMBEDDED = "one machine that holds a lock, and a store for the record"
    SHARED = "several machines, one store, leases"


@dataclass(frozen=True, slots=True)
class Request:
    """At `at_s` a caller hands `count` receipts of one tenant to a machine, and waits."""

    at_s: float
    machine: int
    tenant: int
    count: int

    def __str__(self) -> str:
        return f"machine {self.machine}, at {self.at_s:.2f} s: {self.count} receipts of tenant {self.tenant}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What shall happen. `seed` fixes everything else: delays, and which parts of what was lost are lost.

    `forgets`: what is some seconds old may be dropped.
    """

    seed: int
    mode: Mode
    forgets: bool
    machines: int
    until_s: float
    requests: tuple[Request, ...]
    faults: tuple[Fault, ...]

    def lines(self) -> list[str]:
        timed: list[tuple[float, str]] = [(one.at_s, str(one)) for one in self.requests]
        timed += [(one.at_s if isinstance(one, MachineFault) else 0.0, str(one)) for one in self.faults]
        forgets = "; what is old is dropped" if self.forgets else ""
        return [f"{self.mode.value}{forgets}; faults end at {self.until_s:.1f} s", *(line for _, line in sorted(timed))]


# Where faults may hit, by count. Rough: what lies behind the last call of a short schedule never happens.
_DISK_CALLS: Final = {Mode.LOCAL: 150, Mode.EMBEDDED: 300, Mode.SHARED: 300}
_STEPS: Final = {Mode.LOCAL: 400, Mode.EMBEDDED: 1000, Mode.SHARED: 1500}
_STORE_CALLS: Final = 60
_LASTING_S: Final = {Mode.LOCAL: (3.0, 12.0), Mode.EMBEDDED: (5.0, 30.0), Mode.SHARED: (5.0, 30.0)}
_PARTS: Final = (0.4, 0.5, 0.6, 1.0)
"""Most schedules with a store last but a part of that. What needs time shows in the others; most of what goes wrong
goes wrong soon, and more short schedules find more of it in the same time.
"""
_MISSED_S: Final = 4.0
"""After so long another machine may have taken over."""
_AFTERWARDS_S: Final = 3.0
"""How long a schedule goes on after a machine comes back that was frozen or cut off, so that it finds out."""
_FORGETTING: Final = 0.03
"""How many of the schedules with a store drop what is old. They take several times as long as others."""
_FORGETTING_S: Final = 22.0
_CALLS_FORGETTING: Final = 5
_ALONE: Final = [fate for fate in MachineFate if fate not in {MachineFate.CUT_OFF, MachineFate.WIPE}]
_ZOMBIES: Final = [MachineFate.FREEZE, MachineFate.CUT_OFF]
"""After these a machine does not know yet that another one has the log."""
_KINDS: Final[dict[Mode, list[Sequence[Fate]]]] = {
    Mode.LOCAL: [list(DiskFate), [KillAtStep], _ALONE, _ALONE],
    Mode.EMBEDDED: [list(DiskFate), [KillAtStep], list(StoreFate), list(MachineFate), list(MachineFate)],
    Mode.SHARED: [list(DiskFate), [KillAtStep], list(StoreFate), *[list(MachineFate), _ZOMBIES] * 2],
}
_FEW: Final = (DiskFate.ROT, MachineFate.FLIP, MachineFate.WIPE)
"""These end a machine, so that nothing else can be seen there."""


def make_schedule(
    seed: int, mode: Mode | None = None, fates: Sequence[Fate] = (), *, forgets: bool | None = None
) -> Schedule:
    """The schedule of a seed; `fates` are the only ones then."""
    rng = random.Random(seed)
    mode = mode or rng.choice((Mode.LOCAL, Mode.EMBEDDED, Mode.SHARED, Mode.SHARED))
    machines = rng.choice((2, 2, 3)) if mode is Mode.SHARED else 1
    forgets = mode is not Mode.LOCAL and (rng.random() < _FORGETTING if forgets is None else forgets)
    shortest_s, longest_s = _LASTING_S[mode]
    is_long = forgets or mode is Mode.LOCAL
    until_s = rng.uniform(shortest_s, longest_s * (1.0 if is_long else rng.choice(_PARTS)))
    if forgets:
        until_s += _FORGETTING_S
    requests = [
        Request(rng.uniform(0.0, until_s), rng.randrange(machines), rng.randrange(3), rng.choice((1, 1, 2, 5)))
        for _ in range(rng.randrange(4, 30) if is_long else int(rng.uniform(0.4, 1.2) * until_s) + 3)
    ]
    if mode is Mode.SHARED and rng.random() < 0.05:  # enough to fill a tile
        requests += [Request(rng.uniform(0.0, until_s), rng.randrange(machines), 0, 40) for _ in range(10)]
    if forgets:  # bundles have to be full before anything goes
        requests += [Request(rng.uniform(0.0, 10.0), rng.randrange(machines), rng.randrange(3), 60) for _ in range(12)]
    # Most schedules have few kinds of faults: where everything fails, nothing gets far.
    kinds = [fates] if fates else rng.sample(_KINDS[mode], k=rng.choice((1, 1, 2, 2, 3)))
    faults: list[Fault] = []
    for _ in range(rng.choice((1, 2, 3, 4, 6, 8, 12))):
        fate = rng.choice(rng.choice(kinds))
        if fate in _FEW and not fates and rng.random() < 0.7:
            continue
        machine = rng.choice((0, *range(machines)))  # the first is the owner, mostly
        fault = _make_fault(rng, fate, mode, machine, until_s, _CALLS_FORGETTING if forgets else 1)
        faults.append(fault)
        if isinstance(fault, MachineFault) and rng.random() < 0.7:
            # Somebody asks just before, just then, or when others have noticed.
            after_s = rng.choice((-0.5, 0.1, 1.0, 10.0)) * rng.random()
            requests.append(
                Request(max(0.0, fault.at_s + after_s), fault.machine, rng.randrange(3), rng.choice((1, 2)))
            )
    lasting = [
        one.at_s + one.for_s
        for one in faults
        if isinstance(one, MachineFault) and one.fate in _ZOMBIES and one.for_s > _MISSED_S
    ]
    if lasting and rng.random() < 0.7:
        until_s = max(until_s, rng.choice(lasting) + _AFTERWARDS_S)
    return Schedule(seed, mode, forgets, machines, until_s, tuple(requests), tuple(faults))


def _make_fault(rng: random.Random, fate: Fate, mode: Mode, machine: int, until_s: float, calls: int) -> Fault:
    match fate:
        case DiskFate():
            return DiskFault(machine, int((_DISK_CALLS[mode] * calls) ** rng.random()), fate)
        case StoreFate():
            late_s = rng.choice((0.5, 5.0, 20.0)) * rng.uniform(0.5, 1.5) if fate is StoreFate.LATE else 0.0
            return StoreFault(machine, rng.randrange(1, _STORE_CALLS * calls), fate, late_s)
        case MachineFate():
            for_s = by_s = 0.0
            if fate is MachineFate.CLOCK:
                by_s = rng.choice((-3600.0, -1.0, 1.0, 3600.0))
            elif fate in {MachineFate.FREEZE, MachineFate.CUT_OFF, MachineFate.STOP}:
                for_s = rng.choice((0.3, 3.0, 12.0, 12.0)) * rng.uniform(0.5, 1.5)
            return MachineFault(machine, rng.uniform(0.0, until_s), fate, for_s, by_s)
        case _:
            return KillAtStep(machine, rng.randrange(1, _STEPS[mode] * calls))
