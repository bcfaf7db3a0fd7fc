import math
import random
from collections.abc import Callable

import pytest
from soak.judgement import (
    JUDGED_FROM_S,
    GrowthLimit,
    Point,
    Verdict,
    is_good,
    judge_growth,
    judge_least,
    judge_most,
    judge_none,
    judge_rest,
    slope_per_h,
)

THREE_PERCENT = GrowthLimit(0.03)
TWO_MORE = GrowthLimit(0.02, 2.0)


def course(value_at: Callable[[float], float], seconds: int = 3_600, every_s: int = 10) -> list[Point]:
    return [Point(float(at_s), value_at(at_s)) for at_s in range(0, seconds, every_s)]


def noisy(value_at: Callable[[float], float], spread: float) -> Callable[[float], float]:
    rng = random.Random(7)
    return lambda at_s: value_at(at_s) + rng.gauss(0.0, spread)


def is_flat(points: list[Point], limit: GrowthLimit = THREE_PERCENT) -> bool | None:
    return judge_growth("it", points, limit).ok


def test_a_slope_is_per_hour() -> None:
    assert slope_per_h(course(lambda at_s: 100 + at_s / 60)) == pytest.approx(60.0)


def test_a_leak_of_a_kilobyte_in_a_hundred_signals_is_found_under_noise() -> None:
    leak_mb_per_s = 1_000 / 100 * 1_024 / 1e6
    assert is_flat(course(noisy(lambda at_s: 150 + at_s * leak_mb_per_s, 5.0))) is False


def test_noise_and_peaks_alone_are_no_leak() -> None:
    assert is_flat(course(noisy(lambda _: 150.0, 5.0))) is True
    assert is_flat(course(lambda at_s: 400.0 if at_s % 100 == 0 else 150.0)) is True


def test_what_fills_at_the_beginning_is_no_leak() -> None:
    assert is_flat(course(lambda at_s: 100 + min(at_s, 1_000) * 0.05)) is True


def test_what_still_fills_in_the_middle_is_one() -> None:
    assert is_flat(course(lambda at_s: 100 + min(at_s, 3_000) * 0.05)) is False


def test_what_shrinks_does_not_grow() -> None:
    assert is_flat(course(lambda at_s: 200 - at_s * 0.02)) is True


@pytest.mark.parametrize(
    ("before", "after", "ok"), [(10, 12, True), (10, 13, False), (200, 204, True), (200, 205, False)]
)
def test_what_is_still_held_at_rest_was_not_let_go_of(before: int, after: int, *, ok: bool) -> None:
    assert judge_rest("files", before, after, TWO_MORE, JUDGED_FROM_S).ok is ok
    assert judge_rest("files", before, after, TWO_MORE, JUDGED_FROM_S / 2).ok is None


def test_a_short_run_tells_nothing_about_growth() -> None:
    leaking = course(lambda at_s: 100 + at_s, seconds=int(JUDGED_FROM_S / 2))
    assert is_flat(leaking) is None


def test_what_was_never_measured_is_no_success() -> None:
    assert is_flat([]) is False
    assert not judge_most("it", [], 600.0).ok
    assert not judge_least("it", math.nan, 1.0).ok


def test_one_sample_over_the_limit_is_too_much() -> None:
    assert judge_most("it", [100.0, 601.0, 100.0], 600.0) == Verdict("it", 601.0, 600.0, ok=False)
    assert judge_most("it", [100.0, 599.0], 600.0).ok


def test_the_rate_may_be_reached_and_not_less() -> None:
    assert judge_least("it", 980.0, 980.0).ok
    assert not judge_least("it", 979.0, 980.0).ok


def test_many_samples_are_judged_in_reasonable_time() -> None:
    points = course(lambda at_s: 100 + at_s / 36, seconds=360_000)
    assert slope_per_h(points) == pytest.approx(100.0)


def test_a_run_is_good_where_nothing_failed_and_something_was_told() -> None:
    good, bad, untold = judge_none("a", 0), judge_none("b", 1), Verdict("c", 1.0, 1.0, ok=None)
    assert is_good([good, untold])
    assert not is_good([good, bad, untold])
    assert not is_good([untold])
    assert not is_good([])
