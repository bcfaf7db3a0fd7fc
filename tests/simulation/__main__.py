"""Runs schedules on all cores until one violates something: `make simulate SEED=7 SCHEDULES=1000000 CLUSTERS=20000`.

Schedule number n of a run has the seed SEED + n; so `SEED=<that> SCHEDULES=1` plays the same one again, and a long run
can be made in slices: the next one begins at SEED + SCHEDULES.
"""

import argparse
import gc
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from simulation import cluster_schedule, cluster_world, ledger_world, schedule
from simulation.ledger_world import Outcome
from simulation.shrink import Shrinkable, shrink

CHUNK: Final = 50
TOLD: Final = 20
_REPORT_S: Final = 10.0
Marks = dict[str, str | re.Pattern[str]]
MARKS: Final[Marks] = {
    "a process killed or a power failure": " ended: killed",
    "a takeover by another": "took over: epoch 2",
    "a writer fenced": "WriterFencedError",
    "a lease lost": "LeaseLostError",
    "a tail adopted": re.compile(r" [1-9]\d* adopted"),
    "a tail put into quarantine": re.compile(r" [1-9]\d* lost"),
    "a start from a snapshot": "began at a snapshot",
    "segments dropped by retention": re.compile(r"segments below [1-9]"),
    "receipts dropped by retention": re.compile(r"drops receipts below [1-9]"),
}
"""What must have happened in many schedules, or they show nothing, and how the trace says it."""
CLUSTER_MARKS: Final[Marks] = {
    "a process killed or a power failure": " ended: killed",
    "a process that ended in order": " ended: stopped",
    "a partition taken over by another": "epoch 2",
    "a partition that moved again and again": re.compile(r"took \d over: epoch ([5-9]|\d\d)"),
    "a writer fenced": "WriterFencedError",
    "a tail adopted": re.compile(r" [1-9]\d* adopted"),
    "a tail put into quarantine": re.compile(r" [1-9]\d* lost"),
    "a worker that hears nobody": "hears nobody",
    "a signal sent again": re.compile(r"acknowledged after ([2-9]|\d\d)"),
}


class World(NamedTuple):
    """What `make` makes of a seed, what `run` makes of that, and what must have happened in many."""

    make: Callable[[int], Any]
    run: Callable[[Any], Outcome]
    marks: Marks
    option: str
    """How the Makefile calls the number of schedules."""


WORLDS: Final = {
    "ledger": World(schedule.make_schedule, ledger_world.run_schedule, MARKS, "SCHEDULES=1 CLUSTERS=0"),
    "cluster": World(
        cluster_schedule.make_schedule, cluster_world.run_cluster, CLUSTER_MARKS, "SCHEDULES=0 CLUSTERS=1"
    ),
}


class Chunk(NamedTuple):
    """What became of some schedules: how many were run, and the seed of the first that violated something."""

    schedules: int
    steps: int
    answered: int
    committed: int
    seen: Counter[str]
    violated: int | None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--world", choices=list(WORLDS), default="ledger")
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule")
    parser.add_argument("--schedules", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    begun_s = told_s = time.monotonic()
    done = steps = answered = committed = 0
    seen = Counter[str]()
    if not given.schedules:
        return 0
    world = WORLDS[given.world]
    chunks = [
        (given.world, seed, min(CHUNK, given.seed + given.schedules - seed))
        for seed in range(given.seed, given.seed + given.schedules, CHUNK)
    ]
    with multiprocessing.Pool(given.processes, prepare) as pool:
        for chunk in _each(pool.imap_unordered(run_chunk, chunks)):
            done += chunk.schedules
            steps += chunk.steps
            answered += chunk.answered
            committed += chunk.committed
            seen += chunk.seen
            now_s = time.monotonic()
            if chunk.violated is not None:
                pool.terminate()
                tell(world, chunk.violated)
                return 1
            if now_s - told_s > _REPORT_S:
                told_s = now_s
                per_s = done / (now_s - begun_s)
                left_min = (given.schedules - done) / per_s / 60
                say(f"{done} of {given.schedules} schedules, {per_s:.0f}/s, {left_min:.0f} min left")
    took_s = time.monotonic() - begun_s
    say(
        f"{done} schedules from seed {given.seed} on without a violation: {steps} steps, {answered} callers answered, "
        f"{committed} receipts told committed; {done / took_s:.0f} schedules/s in {given.processes} processes"
    )
    say("of these had " + ", ".join(f"{mark}: {seen[mark]}" for mark in world.marks))
    return 0


def prepare() -> None:
    """In each process: the interruption is for the one that prints."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    gc.collect()
    gc.freeze()  # what is there by now stays, and need not be looked at after each chunk


def run_chunk(seeds: tuple[str, int, int]) -> Chunk:
    """Run some schedules of a world in a row, up to the first violation."""
    name, first, count = seeds
    world = WORLDS[name]
    steps = answered = committed = 0
    seen = Counter[str]()
    for seed in range(first, first + count):
        outcome = world.run(world.make(seed))
        steps += outcome.steps
        answered += outcome.answered
        committed += outcome.committed
        seen.update(marks_in("\n".join(outcome.trace), world.marks))
        if outcome.violation is not None:
            return Chunk(seed - first + 1, steps, answered, committed, seen, seed)
    gc.collect()  # worlds are full of cycles; automatic collections would take a third of the time
    return Chunk(count, steps, answered, committed, seen, None)


def marks_in(trace: str, marks: Marks) -> list[str]:
    """What a trace tells of."""
    return [mark for mark, said in marks.items() if (said in trace if isinstance(said, str) else said.search(trace))]


def tell(world: World, seed: int) -> None:
    """Say what was violated, by how little, and how it came to it."""
    made = world.make(seed)
    before = len(made.faults) + len(made.requests)
    say(f"seed {seed}: {world.run(made).violation}\nshrinking …")
    small, outcome = shrink(made, world.run)
    say(report(world, seed, before, small, outcome))


def report(world: World, seed: int, before: int, small: Shrinkable, outcome: Outcome) -> str:
    """A violation for people to read."""
    left = len(small.faults) + len(small.requests)
    lines = [
        f"\nmake simulate SEED={seed} {world.option}\n",
        f"the schedule, shrunk from {before} events to {left}:",
        *(f"  {line}" for line in small.lines()),
        f"\nthe last {TOLD} events:",
        *(f"  {line}" for line in outcome.trace[-TOLD:]),
    ]
    return "\n".join(lines)


def _each(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """As they come; an interruption ends them quietly."""
    try:
        yield from chunks
    except KeyboardInterrupt:
        say("interrupted")


def say(text: str) -> None:
    """To whoever waits in front of the screen."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
