import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governors.numerics.anomaly import (
    FULL_PPM,
    OCTAVE,
    SILENT_POINTS,
    VALUE_MAX,
    VIEWS,
    WARM_POINTS,
    Habit,
    Surprise,
    _scaled,
    observe,
)

BUCKET_S = 900
LEVEL, DRIFT, SEASON = range(3)


def watch(values: list[int], habit: Habit | None = None) -> tuple[Habit, list[Surprise]]:
    habit = habit or Habit()
    seen = []
    for value in values:
        habit, one = observe(habit, value, habit.points * BUCKET_S)
        seen.append(one)
    return habit, seen


def alarms(values: list[int]) -> list[int]:
    return [row for row, one in enumerate(watch(values)[1]) if one.alarm]


def tremble(row: int) -> int:
    """A level of 1,000,000 that moves by up to 5 %, as if by chance."""
    return 1_000_000 + (row * 7_919 % 101 - 50) * 1_000


QUIET = [tremble(row) for row in range(600)]


def daily(row: int, peak: int) -> int:
    """900,000 at night, `peak` from nine to six."""
    return peak + tremble(row) // 20 if 36 <= row % 96 < 72 else 900_000 + tremble(row) // 20


def test_a_quiet_stream_raises_no_alarm() -> None:
    assert alarms(QUIET) == []
    assert alarms([0] * 500) == []
    assert alarms([5] * 500) == []


@pytest.mark.parametrize("factor", [3, 10, 1_000])
def test_a_burst_is_an_alarm_at_its_first_point(factor: int) -> None:
    assert alarms([*QUIET, *[factor * value for value in QUIET[:20]]]) == [600]


def test_a_collapse_is_an_alarm_at_its_first_point() -> None:
    assert alarms([*QUIET, *[0] * 20]) == [600]


def test_a_lasting_step_that_no_single_point_shows_is_found_by_their_average() -> None:
    wild = [1_000_000 + (row * 7_919 % 101 - 50) * 12_000 for row in range(900)]
    _, seen = watch([*wild[:600], *[value + 500_000 for value in wild[600:]]])
    row, view = next((row, one.view) for row, one in enumerate(seen) if one.alarm and row >= 600)
    assert view != LEVEL
    assert 600 < row < 640


def test_a_daily_peak_that_does_not_come_is_found_by_the_season() -> None:
    usual = [daily(row, 1_500_000) for row in range(96 * 12)]
    missing = [daily(row, 900_000) for row in range(96)]
    _, seen = watch([*usual, *missing])
    [(row, view)] = [(row, one.view) for row, one in enumerate(seen) if one.alarm and row >= len(usual)]
    assert view == SEASON
    assert len(usual) + 36 <= row < len(usual) + 60


def test_a_stream_that_is_wild_by_habit_is_its_own_yardstick() -> None:
    spiky = [30_000_000 if row % 50 == 7 else tremble(row) for row in range(1_000)]
    assert len([row for row in alarms(spiky) if row >= 500]) <= 1
    assert alarms([*spiky, 300_000_000])[-1] == 1_000


def test_one_incident_is_told_once_until_it_is_twice_as_bad() -> None:
    habit, seen = watch([*QUIET, *[3_000_000 + value for value in QUIET[:40]]])
    assert [row for row, one in enumerate(seen) if one.alarm] == [600]
    assert habit.silent == SILENT_POINTS - 39
    assert [one.reach_ppm for one in seen[601:]] == [0] * 39
    _, worse = watch([400_000_000], habit)
    assert worse[0].alarm


def test_nothing_is_said_while_too_little_is_known() -> None:
    habit, seen = watch([1_000_000 * 10 ** (row % 7) for row in range(WARM_POINTS)])
    assert all(not one.alarm and not one.reach_ppm for one in seen)
    assert habit.points == WARM_POINTS


def test_median_and_mad_are_those_of_the_stream() -> None:
    habit, _ = watch([tremble(row) for row in range(4_000)])
    ordered = sorted(_scaled(tremble(row), habit.mean) for row in range(101))
    assert habit.median == pytest.approx(ordered[50], abs=OCTAVE // 100)
    mad = sorted(abs(value - ordered[50]) for value in ordered)[50]
    assert habit.mad == pytest.approx(mad, rel=0.2)


def test_the_z_score_is_the_modified_one() -> None:
    habit, _ = watch(QUIET[:200])
    after, one = observe(habit, 2_000_000, habit.points * BUCKET_S)
    u = _scaled(2_000_000, after.mean)
    usual = habit.median
    assert one.z_ppm / FULL_PPM == pytest.approx(0.6745 * (u - usual) / (habit.spread + OCTAVE * 3 // 100), rel=1e-4)
    assert observe(habit, 0, 0)[1].z_ppm < 0


def test_the_z_score_of_a_usual_peak_is_small_and_that_of_one_at_night_is_not() -> None:
    habit, _ = watch([daily(row, 2_700_000) for row in range(96 * 12)])
    noon, night = 96 * 12 + 48, 96 * 12 + 4
    assert abs(observe(habit, 2_700_000, noon * BUCKET_S)[1].z_ppm) < FULL_PPM
    assert observe(habit, 2_700_000, night * BUCKET_S)[1].z_ppm > 3_500_000


@given(st.integers(1, 2**53), st.integers(1, 2**53))
def test_the_scale_is_a_logarithm_to_within_a_tenth(size: int, mean: int) -> None:
    true = math.log2(1 + size / (3 * mean))
    assert _scaled(size, mean << 8) / OCTAVE == pytest.approx(true, abs=0.09)


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.integers(1, 2**53))
def test_the_scale_keeps_order(a: int, b: int, mean: int) -> None:
    assert (_scaled(a, mean << 8) <= _scaled(b, mean << 8)) or a > b


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(2**60), 2**60) | st.sampled_from([0, 1, 10**6]), st.integers(0, 2**33)), max_size=60
    )
)
def test_whatever_comes_the_state_stays_small_and_is_read_back_as_it_was(points: list[tuple[int, int]]) -> None:
    habit = Habit()
    for value, at_s in points:
        habit, one = observe(habit, value, at_s)
        packed = msgspec.msgpack.encode(habit)
        assert len(packed) < 220
        assert msgspec.msgpack.decode(packed, type=Habit) == habit
        assert one.view < len(VIEWS)
        for number in (one.reach_ppm, one.z_ppm, habit.median, habit.mad, habit.mean >> 8):
            assert abs(number) <= VALUE_MAX
