"""From a seed to a schedule, and from a schedule that violates something to the smallest that still does."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from simulation.faults import DiskFate, DiskFault, Fault, KillAtStep, MachineFate, MachineFault, StoreFate, StoreFault
from simulation.ledger_world import Mode, Outcome, Request, Schedule

SHRINKS_MAX: Final = 600
T = TypeVar("T")

Fate = DiskFate | StoreFate | MachineFate | type[KillAtStep]

# Where faults may hit, by count. Rough: what lies behind the last call of a short schedule never happens.
_DISK_CALLS: Final = {Mode.LOCAL: 150, Mode.EMBEDDED: 300, Mode.SHARED: 300}
_STEPS: Final = {Mode.LOCAL: 400, Mode.EMBEDDED: 1000, Mode.SHARED: 1500}
_STORE_CALLS: Final = 60
_ALONE: Final = [fate for fate in MachineFate if fate not in {MachineFate.CUT_OFF, MachineFate.WIPE}]
_ZOMBIES: Final = [MachineFate.FREEZE, MachineFate.CUT_OFF]
"""After these a machine does not know yet that another one has the log."""
_KINDS: Final[dict[Mode, list[Sequence[Fate]]]] = {
    Mode.LOCAL: [list(DiskFate), [KillAtStep], _ALONE, _ALONE],
    Mode.EMBEDDED: [list(DiskFate), [KillAtStep], list(StoreFate), list(MachineFate), list(MachineFate)],
    Mode.SHARED: [
        list(DiskFate),
        [KillAtStep],
        list(StoreFate),
        list(MachineFate),
        list(MachineFate),
        _ZOMBIES,
        _ZOMBIES,
    ],
}
_FEW: Final = (DiskFate.ROT, MachineFate.FLIP, MachineFate.WIPE)
"""These end a machine, so that nothing else can be seen there."""


def make_schedule(seed: int, mode: Mode | None = None, fates: Sequence[Fate] = ()) -> Schedule:
    """The schedule of a seed; `fates` are the only ones then."""
    rng = random.Random(seed)
    mode = mode or rng.choice((Mode.LOCAL, Mode.EMBEDDED, Mode.SHARED, Mode.SHARED))
    machines = rng.choice((2, 2, 3)) if mode is Mode.SHARED else 1
    until_s = rng.uniform(3.0, 12.0) if mode is Mode.LOCAL else rng.uniform(8.0, 30.0)
    requests = [
        Request(rng.uniform(0.0, until_s), rng.randrange(machines), rng.randrange(3), rng.choice((1, 1, 2, 5)))
        for _ in range(rng.randrange(4, 30))
    ]
    if mode is Mode.SHARED and rng.random() < 0.05:  # enough to fill a tile
        requests += [Request(rng.uniform(0.0, until_s), rng.randrange(machines), 0, 40) for _ in range(10)]
    # Most schedules have few kinds of faults: where everything fails, nothing gets far.
    kinds = [fates] if fates else rng.sample(_KINDS[mode], k=rng.choice((1, 1, 2, 2, 3)))
    faults: list[Fault] = []
    for _ in range(rng.choice((1, 2, 3, 4, 6, 8, 12))):
        fate = rng.choice(rng.choice(kinds))
        if fate in _FEW and not fates and rng.random() < 0.7:
            continue
        fault = _make_fault(rng, fate, mode, rng.randrange(machines), until_s)
        faults.append(fault)
        if isinstance(fault, MachineFault) and rng.random() < 0.7:
            # Somebody asks just before, just then, or when others have noticed.
            after_s = rng.choice((-0.5, 0.1, 1.0, 10.0)) * rng.random()
            requests.append(
                Request(max(0.0, fault.at_s + after_s), fault.machine, rng.randrange(3), rng.choice((1, 2)))
            )
    return Schedule(seed, mode, machines, until_s, tuple(requests), tuple(faults))


def _make_fault(rng: random.Random, fate: Fate, mode: Mode, machine: int, until_s: float) -> Fault:
    match fate:
        case DiskFate():
            return DiskFault(machine, int(_DISK_CALLS[mode] ** rng.random()), fate)
        case StoreFate():
            late_s = rng.choice((0.5, 5.0, 20.0)) * rng.uniform(0.5, 1.5) if fate is StoreFate.LATE else 0.0
            return StoreFault(machine, rng.randrange(1, _STORE_CALLS), fate, late_s)
        case MachineFate():
            for_s = by_s = 0.0
            if fate is MachineFate.CLOCK:
                by_s = rng.choice((-3600.0, -1.0, 1.0, 3600.0))
            elif fate in {MachineFate.FREEZE, MachineFate.CUT_OFF, MachineFate.STOP}:
                for_s = rng.choice((0.3, 3.0, 8.0, 16.0)) * rng.uniform(0.5, 1.5)
            return MachineFault(machine, rng.uniform(0.0, until_s), fate, for_s, by_s)
        case _:
            return KillAtStep(machine, rng.randrange(1, _STEPS[mode]))


def shrink(schedule: Schedule, run: Callable[[Schedule], Outcome]) -> tuple[Schedule, Outcome]:
    """A schedule from which nothing more can be left out without the violation going away."""
    best, outcome = schedule, run(schedule)
    kind = _kind_of(outcome)
    left = SHRINKS_MAX

    def attempt(smaller: Schedule) -> bool:
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
