"""How often the Rollback Guard takes back good deploys, and how soon bad ones, beside rules as others have them.

Every judge sees the same made-up reports of a canary and its baseline, every 15 s for half an hour (`support_deploys`).
`false` are good deploys that were taken back; `found` and the times are of bad ones. A hold that nobody vetoes acts
after five minutes, and what it does counts.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple

from benchmarks.report import machine, parser, print_report
from benchmarks.support_deploys import ArgoLike, Course, FlaggerLike, Guard, Judge, Verdict, play
from governors.machines.rollback_policy import RollbackPolicy

JUDGES: Final = ("guard", "flagger_like", "argo_like")
CHUNK: Final = 250
NEVER: Final = 10**9
HOUR_S: Final = 3_600


class Case(NamedTuple):
    """A course that many deploys take. `limit` is the largest share of false rollbacks, or the longest median in
    seconds, that is promised; `dispersion_milli` is what the guard was told of bursts.
    """

    name: str
    course: Course
    is_bad: bool
    limit: float | None = None
    dispersion_milli: int = 1_000


GOOD: Final = (
    Case("good, 0.1 % errors", Course(0.001), is_bad=False, limit=0.01),
    Case("good, 0.5 % errors", Course(0.005), is_bad=False, limit=0.01),
    Case("good, 1 % errors", Course(0.01), is_bad=False, limit=0.01),
    Case("good, errors in bursts", Course(0.005, burst_cv=1.0), is_bad=False, limit=0.02),
    Case("good, bursts expected", Course(0.005, burst_cv=1.0), is_bad=False, limit=0.02, dispersion_milli=3_000),
    Case("good, bursts seen before", Course(0.005, burst_cv=1.0, before_s=HOUR_S), is_bad=False, limit=0.02),
    Case("good, no baseline, 0.1 %", Course(0.001, before_s=HOUR_S, paired=False), is_bad=False, limit=0.01),
    Case("good, no baseline, 0.5 %", Course(0.005, before_s=HOUR_S, paired=False), is_bad=False, limit=0.01),
    Case("good, no baseline, 1 %", Course(0.01, before_s=HOUR_S, paired=False), is_bad=False, limit=0.01),
    Case(
        "good, no baseline, bursts",
        Course(0.005, burst_cv=1.0, before_s=HOUR_S, paired=False),
        is_bad=False,
        limit=0.02,
    ),
    Case("1.25 times as bad: tolerated", Course(0.005, 1.25), is_bad=False, limit=0.01),
    Case("no canary traffic", Course(0.005, 20.0, canary_rps=0.0), is_bad=False, limit=0.0),
    Case("little traffic", Course(0.005, canary_rps=0.02), is_bad=False, limit=0.01),
    Case("both arms fail at once", Course(0.005, shared=20.0), is_bad=False, limit=0.0),
    Case("both arms fail from 10 min on", Course(0.005, shared=20.0, shared_from_s=600), is_bad=False, limit=0.0),
)
BAD: Final = (
    Case("2 times as bad", Course(0.005, 2.0), is_bad=True),
    Case("3 times as bad", Course(0.005, 3.0), is_bad=True, limit=330),
    Case("5 times as bad", Course(0.005, 5.0), is_bad=True, limit=90),
    Case("10 times as bad", Course(0.005, 10.0), is_bad=True, limit=30),
    Case("2 times as bad, 20 requests/s", Course(0.005, 2.0, 20.0, 180.0), is_bad=True),
    Case("5 times as bad, 0.1 % errors", Course(0.001, 5.0), is_bad=True),
    Case("10 times as bad, 0.1 % errors", Course(0.001, 10.0), is_bad=True),
    Case("20 times as bad, 0.2 requests/s", Course(0.005, 20.0, 0.2), is_bad=True),
    Case("3 times, bursts seen before", Course(0.005, 3.0, burst_cv=1.0, before_s=HOUR_S), is_bad=True),
    Case("3 times as bad, no baseline", Course(0.005, 3.0, before_s=HOUR_S, paired=False), is_bad=True),
    Case("5 times as bad, no baseline", Course(0.005, 5.0, before_s=HOUR_S, paired=False), is_bad=True),
    Case("10 times as bad, no baseline", Course(0.005, 10.0, before_s=HOUR_S, paired=False), is_bad=True),
)


def judges(case: Case) -> dict[str, Judge]:
    policy = RollbackPolicy(dispersion_milli=case.dispersion_milli)
    return dict(zip(JUDGES, (Guard(policy), FlaggerLike(), ArgoLike()), strict=True))


def try_chunk(case: Case, seed: int, seeds: range) -> list[dict[str, Verdict]]:
    """What each judge says of some deploys."""
    all_of_them = judges(case)
    found = []
    for number in seeds:
        reports = list(play(case.course, seed + number))
        found.append({name: judge.judge(iter(reports)) for name, judge in all_of_them.items()})
    return found


def chunks(number: int) -> list[range]:
    return [range(first, min(first + CHUNK, number)) for first in range(0, number, CHUNK)]


def measure(case: Case, number: int, seed: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """One case: for each judge the share of rollbacks, and the median times to hold and rollback."""
    verdicts = [one for found in pool.map(partial(try_chunk, case, seed), chunks(number)) for one in found]
    measured: dict[str, Any] = {
        "case": case.name, "course": case.course._asdict(), "is_bad": case.is_bad, "deploys": number,
        "dispersion_milli": case.dispersion_milli, "limit": case.limit,
    }  # fmt: skip
    for name in JUDGES:
        # What was taken back before a shared fault began was not taken back for it.
        found = [one[name] for one in verdicts if (one[name].rollback_s or NEVER) > case.course.shared_from_s]
        measured[name] = {
            "rolled_back": sum(one.rollback_s is not None for one in found) / number,
            "held": sum(one.hold_s is not None for one in found) / number,
            "median_rollback_s": median(one.rollback_s for one in found),
            "median_hold_s": median(one.hold_s for one in found),
        }
    guard = measured["guard"]
    if case.limit is not None:
        figure = guard["median_rollback_s"] if case.is_bad else guard["rolled_back"]
        measured["ok"] = figure is not None and figure <= case.limit
    return measured


def median(times: Iterator[int | None]) -> int | None:
    """Over all deploys, those that were never found last; None if that is most of them."""
    ordered = sorted(NEVER if one is None else one for one in times)
    middle = ordered[(len(ordered) - 1) // 2]
    return None if middle == NEVER else middle


def line(measured: dict[str, Any]) -> str:
    said = f"{measured['case']:34}"
    for name in JUDGES:
        one = measured[name]
        if measured["is_bad"]:
            seconds = "never" if one["median_rollback_s"] is None else f"{one['median_rollback_s']} s"
            said += f"  {100 * one['rolled_back']:5.1f} % {seconds:>7}"
        else:
            said += f"  {100 * one['rolled_back']:8.2f} %     "
    if measured["limit"] is not None:
        limit = f"{measured['limit']:g} s" if measured["is_bad"] else f"{100 * measured['limit']:g} %"
        said += f"  at most {limit}: {'ok' if measured['ok'] else 'MISSED'}"
    return said


def own_case(options: argparse.Namespace) -> Case | None:
    """The case that the options describe, if they describe one."""
    given = {name: getattr(options, name) for name in Course._fields if getattr(options, name, None) is not None}
    if not given:
        return None
    course = Course(**given)
    return Case("as the options say", course, course.ratio > 1.0, dispersion_milli=options.dispersion_milli)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if something that is promised was missed."""
    options_of = parser("False rollbacks of good deploys and time to detect bad ones, beside simpler rules.")
    options_of.add_argument("--good", type=int, default=10_000, help="good deploys of each kind")
    options_of.add_argument("--bad", type=int, default=1_000, help="bad deploys of each kind")
    options_of.add_argument("--seed", type=int, default=0, help="seed of the first deploy; the next ones count on")
    options_of.add_argument("--only", default="", metavar="TEXT", help="only cases with this in their name")
    options_of.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options_of.add_argument("--base-error", type=float, help="a case of your own: share of the baseline's errors")
    options_of.add_argument("--ratio", type=float, help="how many times as often the canary fails")
    options_of.add_argument("--canary-rps", type=float, help="requests per second")
    options_of.add_argument("--baseline-rps", type=float, help="requests per second")
    options_of.add_argument("--burst-cv", type=float, help="coefficient of variation of an interval's share of errors")
    options_of.add_argument("--dispersion-milli", type=int, default=1_000, help="the guard's policy, for that case")
    options = options_of.parse_args(arguments)
    own = own_case(options)
    cases = [one for one in (*GOOD, *BAD) if options.only in one.name] if own is None else [own]
    if not cases:
        options_of.error(f"no case has {options.only!r} in its name")
    heading = f"{'rolled back, median after':34}" + "".join(f"  {name:>15}" for name in JUDGES)
    results = []
    with ProcessPoolExecutor(options.processes) as pool:
        for one in cases:
            results.append(measure(one, options.bad if one.is_bad else options.good, options.seed, pool))
            print(line(results[-1]), file=sys.stderr, flush=True)
    report = {"benchmark": "rollback_power", "machine": machine(), "cases": results}
    print_report(report, [heading, *map(line, results)], as_json=options.json)
    return 0 if all(one.get("ok", True) for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
