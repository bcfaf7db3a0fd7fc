"""Kills a service amid its actions until something is wrong: `make crash-actions CRASHES=10000 SEED=1`.

The first script is swept: run once for each step of it, killed before that step, and for each system call on a file,
killed before it and after it. More crashes follow each time, as in all other scripts, at random places.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Final, NamedTuple

from simulation.action_world import KILLED, Crash, Outcome, random_crashes, run_world

A_RUN: Final = 8
"""Crashes of one run."""
CHUNK: Final = 20
TOLD: Final = 30
_REPORT_S: Final = 10.0


class Job(NamedTuple):
    """One script, and where it is killed."""

    seed: int
    crashes: tuple[Crash, ...]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make crash-actions", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    begun_s = told_s = time.monotonic()
    crashes = actions = scripts = 0
    seen = Counter[str]()
    with multiprocessing.Pool(given.processes) as pool:
        for job, outcome in pool.imap(_run, jobs(given.seed), chunksize=CHUNK):
            crashes += outcome.crashes
            actions += outcome.actions
            scripts += 1
            seen += outcome.seen
            if outcome.violation is not None:
                pool.terminate()
                _say(report(job, outcome))
                return 1
            if crashes >= given.crashes:
                pool.terminate()
                break
            if time.monotonic() - told_s > _REPORT_S:
                told_s = time.monotonic()
                _say(f"{crashes} of {given.crashes} crashes, {crashes / (told_s - begun_s):.0f}/s")
    took_s = time.monotonic() - begun_s
    _say(f"{crashes} crashes in {scripts} scripts with {actions} actions, and nothing was wrong; {took_s:.0f} s")
    _say("seen: " + ", ".join(f"{what}: {number}" for what, number in seen.most_common()))
    return 0


def jobs(seed: int) -> Iterator[Job]:
    """Endless."""
    for number, job in enumerate(sweep(seed)):
        yield job._replace(crashes=job.crashes + tuple(random_crashes(number, A_RUN - len(job.crashes))))
    for number in count(seed + 1):
        yield Job(number, tuple(random_crashes(number, A_RUN)))


def sweep(seed: int, every: int = 1) -> Iterator[Job]:
    """One crash for each place of a script, or for each so many-th."""
    whole = run_world(seed, [])
    yield Job(seed, ())
    for step in range(1, whole.steps + 1, every):
        yield Job(seed, (Crash(step=step),))
    for call in range(0, whole.calls, every):
        for fate in KILLED:
            yield Job(seed, (Crash(call=call, fate=fate),))


def report(job: Job, outcome: Outcome) -> str:
    """A violation for people to read."""
    lines = [f"seed {job.seed}, {list(job.crashes)}: {outcome.violation}", f"the last {TOLD} events:"]
    return "\n".join([*lines, *(f"  {line}" for line in outcome.trace[-TOLD:])])


def _run(job: Job) -> tuple[Job, Outcome]:
    outcome = run_world(job.seed, list(job.crashes))
    gc.collect(1)
    return job, outcome


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
