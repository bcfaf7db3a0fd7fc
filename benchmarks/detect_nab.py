"""The Cost Guard's detector on the Numenta Anomaly Benchmark, beside a windowed Gaussian and one like Twitter's ADVec.

Every detector sees each row once, in order, and knows nothing of the series, its labels or what is still to come.
`shipped` is the score at the one threshold that a detector comes with; `tuned` at the one that is best for all series
together, as the benchmark does it; `left out` at thresholds that each were tuned on all categories but the one they are
used for. With `--json` the report has every detection at the shipped threshold, for another scorer to look at.
"""

import gc
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any, Final

from benchmarks.report import machine, parser, print_report
from benchmarks.support_detectors import DETECTORS, Detector
from benchmarks.support_nab import PROFILES, STANDARD, Scores, Series, count, read_corpus, score_at, score_tuned

DATA: Final = Path("../shared/data/nab")
SCORE_MIN: Final = 60.0
SCORE_AIM: Final = 70.0
POINT_US_MAX: Final = 50.0


def measure(detector: Detector, corpus: Sequence[Series]) -> dict[str, Any]:
    """Run one detector over all series, and score it."""
    rows = sum(len(series.values) for series in corpus)
    gc.collect()
    begun = process_time()
    scores = {series.name: detector.score(series.times, series.values) for series in corpus}
    point_us = (process_time() - begun) * 1e6 / rows
    found = count(corpus, scores, detector.threshold)
    tuned = {profile.name: score_tuned(corpus, scores, profile) for profile in PROFILES}
    return {
        "detector": detector.name,
        "threshold": detector.threshold,
        "shipped": {one.name: round(score_at(corpus, scores, detector.threshold, one), 2) for one in PROFILES},
        "tuned": {name: round(score, 2) for name, (score, _) in tuned.items()},
        "tuned_threshold": {name: None if math.isinf(at) else at for name, (_, at) in tuned.items()},
        "left_out": round(left_out(corpus, scores), 2),
        "windows_found": found.found,
        "windows": found.windows,
        "false_alarms": found.false_alarms,
        "point_us": round(point_us, 2),
        "detections": {
            series.name: [row for row, score in enumerate(scores[series.name]) if score >= detector.threshold]
            for series in corpus
        },
    }


def left_out(corpus: Sequence[Series], scores: Scores) -> float:
    """The standard score where each category has the threshold that is best for all the others."""
    tuned: dict[str, list[float]] = {}
    for category in sorted({series.category for series in corpus}):
        threshold = score_tuned([one for one in corpus if one.category != category], scores, STANDARD)[1]
        for one in corpus:
            if one.category == category:
                tuned[one.name] = [float(score >= threshold) for score in scores[one.name]]
    return score_at(corpus, tuned, 1.0, STANDARD)


def line(measured: dict[str, Any]) -> str:
    shipped, tuned = measured["shipped"], measured["tuned"]
    return (
        f"{measured['detector']:18}"
        + "".join(f"  {shipped[one.name]:6.2f} {tuned[one.name]:6.2f}" for one in PROFILES)
        + f"  {measured['left_out']:8.2f}  {measured['windows_found']:3} of {measured['windows']}"
        + f"  {measured['false_alarms']:6}  {measured['point_us']:6.1f} us"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if something that is promised was missed, 2 without data."""
    options_of = parser(
        "The Cost Guard's anomaly detector on series of the Numenta Anomaly Benchmark, beside simpler ones."
    )
    options_of.add_argument("--data", type=Path, default=DATA, help="folder of the series, by category")
    options_of.add_argument(
        "--labels", type=Path, default=DATA / "labels.json", help="JSON: for each series its windows"
    )
    options = options_of.parse_args(arguments)
    corpus = read_corpus(options.data, options.labels) if options.labels.is_file() else []
    if not any(series.windows for series in corpus):
        print(f"no series in {options.data} with windows in {options.labels}", file=sys.stderr)
        return 2
    results = [measure(detector, corpus) for detector in DETECTORS]
    ours = results[0]
    ok = ours["shipped"][STANDARD.name] >= SCORE_MIN and ours["point_us"] <= POINT_US_MAX
    heading = f"{'shipped, tuned':18}" + "".join(f"  {one.name:>13}" for one in PROFILES)
    heading += "  left out  found      false  a point"
    target = (
        f"target: standard score of cost_guard as shipped at least {SCORE_MIN:g} (aim {SCORE_AIM:g}), "
        f"a point under {POINT_US_MAX:g} us: {'ok' if ok else 'MISSED'}"
    )
    report = {
        "benchmark": "detect_nab", "machine": machine(), "series": len(corpus),
        "targets": {"standard": SCORE_MIN, "aim": SCORE_AIM, "point_us": POINT_US_MAX}, "ok": ok, "detectors": results,
    }  # fmt: skip
    print_report(report, [heading, *map(line, results), target], as_json=options.json)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
