import json
import math
from pathlib import Path

import pytest

from benchmarks.support_nab import (
    PROFILES,
    STANDARD,
    Series,
    count,
    read_corpus,
    score_at,
    score_tuned,
    sigmoid,
    worths,
)

LOW_FP, LOW_FN = PROFILES[1:]
ROWS = 100


def series(*windows: tuple[int, int], name: str = "made/up.csv", rows: int = ROWS) -> Series:
    return Series(name, [300 * row for row in range(rows)], [0.0] * rows, windows)


def fired(one: Series, *rows: int) -> dict[str, list[float]]:
    return {one.name: [float(row in rows) for row in range(len(one.values))]}


def test_silence_is_0_and_the_left_edge_alone_is_100() -> None:
    one = series((40, 49), (70, 89))
    for profile in PROFILES:
        assert score_at([one], fired(one), 1.0, profile) == 0.0
        assert score_at([one], fired(one, 40, 70), 1.0, profile) == pytest.approx(100.0)


def test_a_late_detection_is_worth_less_by_the_sigmoid() -> None:
    one = series((40, 49))
    # The sixth of ten rows: y = -(49 - 45 + 1) / 10 = -0.5.
    share = (2 / (1 + math.exp(-2.5)) - 1) / (2 / (1 + math.exp(-5)) - 1)
    assert score_at([one], fired(one, 45), 1.0, STANDARD) == pytest.approx(100 * (share + 1) / 2)
    # At the right edge y = -1 / 10: found, and worth next to nothing of itself.
    share = (2 / (1 + math.exp(-0.5)) - 1) / (2 / (1 + math.exp(-5)) - 1)
    assert score_at([one], fired(one, 49), 1.0, LOW_FN) == pytest.approx(100 * (share + 2) / 3)


def test_only_the_first_detection_in_a_window_counts() -> None:
    one = series((40, 49))
    assert score_at([one], fired(one, 43, 44, 48), 1.0, STANDARD) == score_at([one], fired(one, 43), 1.0, STANDARD)


def test_a_false_alarm_before_every_window_costs_its_whole_weight() -> None:
    one = series((40, 49))
    assert score_at([one], fired(one, 20, 40), 1.0, STANDARD) == pytest.approx(100 * (1 - 0.11 + 1) / 2)
    assert score_at([one], fired(one, 20, 40), 1.0, LOW_FP) == pytest.approx(100 * (1 - 0.22 + 1) / 2)


def test_a_false_alarm_behind_a_window_costs_more_the_further_it_is() -> None:
    one = series((40, 49))
    # Three rows past the right edge of a window of ten: y = 3 / 9.
    assert worths(one)[52].share == pytest.approx(2 / (1 + math.exp(5 / 3)) - 1)
    assert worths(one)[49 + 27].share == pytest.approx(sigmoid(3.0))
    assert worths(one)[49 + 28].share == -1.0
    shares = [worth.share for worth in worths(one)[50:]]
    assert shares == sorted(shares, reverse=True)


def test_the_beginning_does_not_count() -> None:
    one = series((40, 49))
    assert one.probation == 15
    assert score_at([one], fired(one, 0, 14, 40), 1.0, STANDARD) == pytest.approx(100.0)
    assert score_at([one], fired(one, 15, 40), 1.0, STANDARD) < 100.0
    assert series(rows=10_000).probation == 750


def test_a_series_without_windows_can_only_cost() -> None:
    calm, one = series(name="made/calm.csv"), series((40, 49))
    scores = {**fired(calm, 30, 60), **fired(one, 40)}
    assert score_at([calm, one], scores, 1.0, STANDARD) == pytest.approx(100 * (1 - 2 * 0.11 + 1) / 2)


def test_the_tuned_threshold_is_the_best_of_all() -> None:
    one = series((40, 49), (70, 89))
    scores = [0.0] * ROWS
    scores[20], scores[25], scores[41], scores[72] = 0.3, 0.3, 0.9, 0.5
    best, threshold = score_tuned([one], {one.name: scores}, STANDARD)
    assert threshold == 0.5
    assert best == score_at([one], {one.name: scores}, 0.5, STANDARD)
    assert best > score_at([one], {one.name: scores}, 0.3, STANDARD)
    assert best > score_at([one], {one.name: scores}, 0.9, STANDARD)


def test_rows_of_equal_score_are_detected_together() -> None:
    one = series((40, 49))
    scores = [0.0] * ROWS
    for row in (*range(15, 35), 40):
        scores[row] = 0.7
    assert score_tuned([one], {one.name: scores}, STANDARD) == (0.0, math.inf)


def test_what_was_found_is_counted() -> None:
    one = series((40, 49), (70, 89))
    assert count([one], fired(one, 3, 20, 40, 41, 60), 1.0) == (1, 2, 2)


def test_a_corpus_is_read_as_the_benchmark_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "data" / "made").mkdir(parents=True)
    rows = "".join(f"2014-04-01 00:{minute:02}:00,{minute}.5\n" for minute in range(0, 60, 5))
    (tmp_path / "data" / "made" / "up.csv").write_text("timestamp,value\n" + rows)
    windows = [["2014-04-01 00:10:00.000000", "2014-04-01 00:20:00.000000"]]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"made/up.csv": windows, "made/absent.csv": []}))
    for data in (tmp_path, tmp_path / "data"):
        [one] = read_corpus(data, labels)
        assert (one.name, one.category, one.windows, len(one.values)) == ("made/up.csv", "made", [(2, 4)], 12)
        assert one.times[1] - one.times[0] == 300
        assert one.values[1] == 5.5
