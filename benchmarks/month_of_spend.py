"""The Cost Guard over months of spend made from public traces, beside fixed thresholds on the same months.

Each month has one fault or none (`support_spend`). Before it lie 25 days without any. What is held back is not spent.
A *false* warning, or throttle, is one that statistics gave (pace, forecast, anomaly) in a month that would end within
its budget, away from its fault and from what the trace's own labels call anomalous; crossing 50 or 90 % of the budget
is what those notices are for, and neither right nor false. Of a month that would end within 5 % of its budget nobody
can say early on which side it will; so there an anomaly may be false, a forecast is not. A *false* stop is one before
the budget was spent.

`right` are the quarter hours in which a status was right: NORMAL where the month would end within its budget, or its
fault has not begun; WARN where half the budget is spent, or something is or was wrong, or it would end over; THROTTLE
where it would end over or nine tenths are spent; STOP where the budget is spent.

A step to three times the spend is to be warned of in the second bucket on *steady* shapes: those that in their 25 days
never spent twice the usual of the hour in two buckets in a row. Where the like of a step comes every other day, nobody
can tell one in half an hour; how many are found there is a figure beside it.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks.report import machine, parser, print_report
from benchmarks.support_spend import (
    DAY,
    FAULTS,
    HISTORY,
    Fault,
    Guard,
    Month,
    Shape,
    Thresholds,
    Watcher,
    make,
    nab_shapes,
    token_shapes,
)
from governors.machines.cost_policy import CostPolicy

NAB: Final = Path("../shared/data/nab")
TOKENS: Final = Path("../shared/data/azure-llm/AzureLLMInferenceTrace_conv.csv")
STATISTICAL: Final = frozenset({"pace", "forecast", "forecast_throttle", "anomaly", "anomaly_overrun", "feed_forecast"})
ANOMALIES: Final = frozenset({"anomaly", "anomaly_overrun"})
CLOSE: Final = 0.95
WARNED_WITHIN: Final = 2
"""Buckets, the first with the step in it among them."""
STEPS: Final = frozenset({"step early", "step in the middle", "step late"})
GOVERNORS: Final = ("guard", "thresholds")
NEVER: Final = 10**9
OVERRUN_PPM: Final = 10_000
"""A month overran when it cost more than 1 % over its budget."""


class Course(NamedTuple):
    """What became of one month under one governor.

    `warned_after` counts buckets from the fault's first one, which is 1; `steady` is the shape.
    `forecasts` is how many days' forecasts were held against the month's end, `covered` how many of them had it in
    their interval of 80 %, `misses_ppm` by how much the middle of each missed it.
    """

    fault: str
    shape: str
    steady: bool
    overruns: bool
    warned_after: int | None
    false_warnings: int
    false_throttles: int
    false_stops: int
    right: dict[str, int]
    buckets: dict[str, int]
    overrun_ppm: int
    kept_ppm: int
    forecasts: int
    covered: int
    misses_ppm: list[int]


def run(shape: Shape) -> list[dict[str, Course]]:
    """A month with each fault, under each governor."""
    watchers: dict[str, Watcher] = {"guard": Guard(CostPolicy()), "thresholds": Thresholds()}
    months = [make(shape, fault) for fault in FAULTS]
    return [{name: judge(month, watcher) for name, watcher in watchers.items()} for month in months]


def judge(month: Month, watcher: Watcher) -> Course:
    """Hold what a governor says of a month against what it is."""
    fault = month.fault
    cost = false_warnings = false_throttles = false_stops = covered = forecasts = 0
    misses: list[int] = []
    warned_after: int | None = None
    right: Counter[str] = Counter()
    buckets: Counter[str] = Counter()
    doubtful = ANOMALIES if month.ungoverned_micros >= CLOSE * month.budget_micros else STATISTICAL
    before = "NORMAL"
    for seen in watcher.watch(month):
        at = seen.bucket - HISTORY
        cost += seen.spent_micros - (month.credit_micros if at == fault.begin else 0)
        near = fault.is_near(at)
        warnings = [rule for decision, rule in seen.said if decision in {"warn", "throttle", "stop"}]
        if warnings and near and warned_after is None:
            warned_after = at - fault.begin + 1
        guesses = [decision for decision, rule in seen.said if rule.removeprefix("cost.") in doubtful]
        if guesses and not (near or month.overruns or month.shape.is_odd(seen.bucket)):
            false_warnings += "warn" in guesses
            false_throttles += "throttle" in guesses
        false_stops += before != "STOP" == seen.status and cost < month.budget_micros
        buckets[seen.status] += 1
        right[seen.status] += is_right(month, seen.status, at, cost)
        if at % DAY == DAY // 2 and seen.forecast is not None:
            low, middle, high = seen.forecast
            forecasts += 1
            covered += low <= month.ungoverned_micros <= high
            misses.append(abs(middle - month.ungoverned_micros) * 1_000_000 // month.ungoverned_micros)
        before = seen.status
    budget = month.budget_micros
    return Course(
        fault.name, month.shape.name, month.shape.is_steady, month.overruns, warned_after, false_warnings,
        false_throttles, false_stops, dict(right), dict(buckets), max(0, cost - budget) * 1_000_000 // budget,
        min(cost, budget) * 1_000_000 // budget, forecasts, covered, misses,
    )  # fmt: skip


def is_right(month: Month, status: str, at: int, cost: int) -> bool:
    """Whether a status is what somebody who knows the whole month would have it be."""
    used = cost / month.budget_micros
    begun = month.overruns and at >= month.fault.begin + WARNED_WITHIN
    match status:
        case "NORMAL":
            return not begun and used < 1.0
        case "WARN":
            return used >= 0.5 or month.fault.is_near(at) or month.overruns
        case "THROTTLE" | "RECOVERING":
            return month.overruns or used >= 0.9
        case _:
            return used >= 1.0


def summary(name: str, courses: Sequence[Course]) -> dict[str, Any]:
    """One governor over many months."""
    buckets: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for one in courses:
        buckets.update(one.buckets)
        right.update(one.right)
    steps = [one for one in courses if one.fault in STEPS]
    steady = [one for one in steps if one.steady]
    clear = [one for one in courses if one.fault == "calm"]
    forecasts = sum(one.forecasts for one in clear)
    return {
        "governor": name,
        "months": len(courses),
        "right": {status: round(right[status] / number, 4) for status, number in sorted(buckets.items())},
        "buckets": dict(sorted(buckets.items())),
        "false_stops": sum(one.false_stops for one in courses),
        "false_throttles": sum(one.false_throttles for one in courses),
        "false_warnings_max": max(one.false_warnings for one in courses),
        "false_warnings_mean": round(sum(one.false_warnings for one in courses) / len(courses), 3),
        "steps": len(steps),
        "steps_warned": sum(map(in_time, steps)),
        "steady_steps": len(steady),
        "steady_steps_warned": sum(map(in_time, steady)),
        "coverage": round(sum(one.covered for one in clear) / forecasts, 4) if forecasts else None,
        "median_miss": round(median([miss for one in clear for miss in one.misses_ppm] or [0]) / 1e6, 4),
        "faults": [by_fault(fault, [one for one in courses if one.fault == fault.name]) for fault in FAULTS],
    }


def in_time(one: Course) -> bool:
    """Whether a fault was warned of as soon as is promised."""
    return one.warned_after is not None and one.warned_after <= WARNED_WITHIN


def by_fault(fault: Fault, courses: Sequence[Course]) -> dict[str, Any]:
    warned = sorted(NEVER if one.warned_after is None else one.warned_after for one in courses)
    middle = warned[(len(warned) - 1) // 2] if warned else NEVER
    return {
        "fault": fault.name,
        "months": len(courses),
        "median_warned_after": None if middle == NEVER else middle,
        "false_warnings": sum(one.false_warnings for one in courses),
        "overran": sum(one.overrun_ppm > OVERRUN_PPM for one in courses),
        "median_overrun": round(median([one.overrun_ppm for one in courses] or [0]) / 1e6, 4),
        "median_spent": round(median([one.kept_ppm for one in courses] or [0]) / 1e6, 4),
    }


def line(guard: dict[str, Any], peer: dict[str, Any]) -> str:
    said = f"{guard['fault']:20}"
    for one in (guard, peer):
        after = one["median_warned_after"]
        said += f"  {'-' if after is None else after:>8}  {one['false_warnings']:5}"
        said += f"  {one['overran']:3} of {one['months']:3}  {100 * one['median_overrun']:6.2f} %"
    return said


def verdicts(guard: dict[str, Any]) -> list[tuple[str, bool]]:
    """What is promised, and whether it held."""
    most, mean = guard["false_warnings_max"], guard["false_warnings_mean"]
    steps, warned = guard["steady_steps"], guard["steady_steps_warned"]
    return [
        (f"false stops: {guard['false_stops']}, none allowed", guard["false_stops"] == 0),
        (f"false warnings in a month: {most} at most, {mean} on average, 1 allowed", most <= 1),
        (
            f"steps warned of within {WARNED_WITHIN} buckets, steady shapes: {warned} of {steps}, all wanted",
            0 < steps == warned,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if something that is promised was missed."""
    options_of = parser("The Cost Guard over months of spend with faults, beside fixed thresholds.")
    options_of.add_argument("--nab", type=Path, default=NAB, help="folder of NAB: data/ and labels.json; may be absent")
    options_of.add_argument("--tokens", type=Path, default=TOKENS, help="CSV of requests to a model; may be absent")
    options_of.add_argument("--shapes", type=int, help="so many shapes of spend only")
    options_of.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = options_of.parse_args(arguments)
    shapes = [*token_shapes(options.tokens), *nab_shapes(options.nab, options.nab / "labels.json")][: options.shapes]
    with ProcessPoolExecutor(options.processes) as pool:
        courses = [one for found in (pool.map if options.processes > 1 else map)(run, shapes) for one in found]
    guard, peer = (summary(name, [one[name] for one in courses]) for name in GOVERNORS)
    held = verdicts(guard)
    heading = f"{len(shapes)} shapes, {len(courses)} months" + " " * 4
    heading += "".join(f"  {name + ': warned after':>15}  false  overran  by (median)" for name in GOVERNORS)
    lines = [heading, *map(line, guard["faults"], peer["faults"])]
    lines += [
        f"right, {one['governor']}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in one["right"].items())
        for one in (guard, peer)
    ]
    coverage = "none" if guard["coverage"] is None else f"{100 * guard['coverage']:.1f} %"
    lines.append(
        f"steps warned of within {WARNED_WITHIN} buckets, all shapes: {guard['steps_warned']} of {guard['steps']}"
    )
    lines.append(f"throttled wrongly by statistics: {guard['false_throttles']} of {guard['months']} months")
    lines.append(
        f"forecast of the month's end, each noon: 80 % interval holds it {coverage} (75 to 85 wanted), "
        f"median miss {100 * guard['median_miss']:.1f} %"
    )
    lines += [f"{said}: {'ok' if ok else 'MISSED'}" for said, ok in held]
    report = {
        "benchmark": "month_of_spend", "machine": machine(), "shapes": [shape.name for shape in shapes],
        "governors": [guard, peer], "promises": [{"what": said, "ok": ok} for said, ok in held],
    }  # fmt: skip
    print_report(report, lines, as_json=options.json)
    return 0 if all(ok for _, ok in held) else 1


if __name__ == "__main__":
    sys.exit(main())
