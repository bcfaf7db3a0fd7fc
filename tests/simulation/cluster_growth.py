"""A cluster that grows and shrinks again under a stream of signals, with nothing else the matter: only what must move
does, and once.
"""

import random
from functools import partial
from math import inf
from typing import Final, NamedTuple

from simulation.cluster_schedule import TENANTS, ClusterSchedule, Signal
from simulation.cluster_world import ClusterWorld, Machine
from simulation.ledger_world import Outcome, in_short
from simulation.observer import ViolationError
from simulation.signatures import signing

from governors.cluster.ownership import ranked

FEWEST: Final = 3
GROWN_S: Final = 120.0
"""For all workers that came or went at once."""
SIGNALS_EVERY_S: Final = 2.0
TOGETHER_S: Final = 3.0
"""Those that start together start within this."""


class Whereabouts(NamedTuple):
    """Of each partition: who has it, and since which epoch."""

    urls: list[str]
    epochs: list[int]


class Growth:
    """From three workers to `most` and back; one after the other, or all at once."""

    def __init__(self, seed: int, most: int, partitions: int, *, at_once: bool) -> None:
        self._rng = random.Random(seed)
        starts_s = tuple(self._rng.uniform(0.0, TOGETHER_S) if number < FEWEST else inf for number in range(most))
        self.world = ClusterWorld(ClusterSchedule(seed, partitions, starts_s, 0.0, (), ()))
        self._partitions = partitions
        self._signals = 0
        self._at_once = at_once
        self.moves = 0

    def run(self) -> Outcome:
        world = self.world
        for machine in world.machines[FEWEST:]:
            machine.may_run = False
        try:
            world.arrange()
            self._send()
            world.expect("partitions were not where they should be", GROWN_S, world.is_settled)
            for group in self._groups(world.machines[FEWEST:]):
                self._change(group, come=True)
            for group in self._groups(world.machines[: FEWEST - 1 : -1]):
                self._change(group, come=False)
            world.faults_are_over = True
            world.finish()
        except ViolationError as error:
            world.violated(str(error))
        finally:
            world.end()
        return world.outcome()

    def _groups(self, machines: list[Machine]) -> list[list[Machine]]:
        return [machines] if self._at_once else [[one] for one in machines]

    def _change(self, group: list[Machine], *, come: bool) -> None:
        world = self.world
        before = self._whereabouts()
        world.log(f"workers {[one.number for one in group]} {'come' if come else 'go'}")
        for one in group:
            act = world.start_again if come else world.stop
            world.cluster.after(self._rng.uniform(0.0, TOGETHER_S if come else 0.1), partial(act, one))
        world.cluster.run(world.cluster.now_s + TOGETHER_S)
        world.expect("partitions were not where they should be", GROWN_S, world.is_settled)
        world.stay_still()
        self._check(before, self._whereabouts(), {one.url for one in group}, come=come)

    def _check(self, before: Whereabouts, after: Whereabouts, changed: set[str], *, come: bool) -> None:
        urls = [one.url for one in self.world.machines if one.may_run]
        for number in range(self._partitions):
            first = ranked(number, urls)[0]
            must = first in changed if come else before.urls[number] in changed
            times = after.epochs[number] - before.epochs[number]
            self.moves += times
            if not must and times:
                raise ViolationError(f"partition {number} moved {times} times, and had no reason to")
            if must and not 1 <= times <= (len(changed) if self._at_once else 1):
                raise ViolationError(f"partition {number} moved {times} times instead of once")

    def _whereabouts(self) -> Whereabouts:
        owners = [self.world.owner(number) for number in range(self._partitions)]
        return Whereabouts(
            ["" if owner is None else owner.url for owner in owners], [one.epoch for one in self.world.observers]
        )

    def _send(self) -> None:
        world = self.world
        if not world.faults_are_over:
            world.send(Signal(world.cluster.now_s, self._signals, self._rng.randrange(TENANTS)))
            self._signals += 1
            world.cluster.after(SIGNALS_EVERY_S, self._send)


def run_growth(seed: int, most: int, partitions: int, *, at_once: bool) -> Outcome:
    """What becomes of it."""
    with signing(seed), in_short():
        return Growth(seed, most, partitions, at_once=at_once).run()
