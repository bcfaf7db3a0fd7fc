"""Whatever is asked for and whenever: no more than the burst and what came in since; a wait that is told is enough."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from governors.numerics.gcra import Rates

SECOND_US = 1_000_000
rates = st.integers(1, 1_000)
bursts = st.integers(1, 50)
# Moments that fall between two units as well as on them, bursts and long rests.
steps_us = st.one_of(st.integers(0, 3), st.integers(0, 5_000), st.integers(0, 3 * SECOND_US))
asked = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 60), steps_us), max_size=120)
STARTS_US = st.sampled_from([0, 1_795_341_600_000_000])


def takes(limits: Rates, sequence: list[tuple[str, int, int]], now_us: int) -> list[tuple[str, int, int]]:
    """What each took of what it asked for, with the moment."""
    taken = []
    for key, units, step_us in sequence:
        now_us += step_us
        left = limits.left(key, now_us)
        granted = limits.take(key, units, now_us)
        assert granted == min(units, left)
        taken.append((key, granted, now_us))
    return taken


def most_over(taken: list[tuple[int, int]], rate: int) -> int:
    """By how much (in millionths) the worst window of all exceeds what comes in during it."""
    worst, total = 0, 0
    lowest = 0
    for units, at_us in taken:
        lowest = min(lowest, total - rate * at_us)
        total += units * SECOND_US
        worst = max(worst, total - rate * at_us - lowest)
    return worst


@given(rates, bursts, asked, STARTS_US)
def test_no_window_of_any_length_has_more_than_a_burst_and_what_came_in(
    rate: int, burst: int, sequence: list[tuple[str, int, int]], start_us: int
) -> None:
    taken = takes(Rates(rate, burst, 100), sequence, start_us)
    for key in "abcd":
        assert most_over([(units, at_us) for one, units, at_us in taken if one == key], rate) <= burst * SECOND_US


@given(rates, bursts, asked, st.integers(1, 3))
def test_that_holds_also_for_keys_that_came_when_there_was_no_room(
    rate: int, burst: int, sequence: list[tuple[str, int, int]], keys_max: int
) -> None:
    limits = Rates(rate, burst, keys_max)
    now_us = 0
    taken = []
    for one in sequence:
        taken += takes(limits, [one], now_us)
        now_us = taken[-1][2]
        assert len(limits) <= keys_max
    for key in "abcd":
        assert most_over([(units, at_us) for one, units, at_us in taken if one == key], rate) <= burst * SECOND_US


@given(rates, bursts, asked, st.integers(1, 60), st.integers(1, 4))
def test_after_the_wait_it_succeeds_and_not_before(
    rate: int, burst: int, sequence: list[tuple[str, int, int]], units: int, keys_max: int
) -> None:
    limits = Rates(rate, burst, keys_max)
    now_us = sum(step_us for _, _, step_us in sequence)
    takes(limits, sequence, 0)
    fits = min(units, burst)
    wait_us = limits.wait_us("a", units, now_us)
    assert (wait_us == 0) == (limits.left("a", now_us) >= fits)
    if wait_us:
        assert limits.left("a", now_us + wait_us - 1) < fits
    assert limits.take("a", fits, now_us + wait_us) == fits


@given(rates, bursts, asked, st.integers(0, 10 * SECOND_US))
def test_nothing_that_came_in_is_lost(
    rate: int, burst: int, sequence: list[tuple[str, int, int]], rest_us: int
) -> None:
    limits = Rates(rate, burst, 100)
    now_us = sum(step_us for _, _, step_us in sequence)
    takes(limits, sequence, 0)
    before = limits.left("a", now_us)
    # A part of a unit may have been there before.
    assert limits.left("a", now_us + rest_us) >= min(burst, before + rate * rest_us // SECOND_US)


@given(rates, bursts, asked, st.lists(st.integers(-20 * SECOND_US, 20 * SECOND_US), min_size=1, max_size=60))
def test_a_clock_that_is_set_costs_a_burst_at_most_and_gives_nothing(
    rate: int, burst: int, sequence: list[tuple[str, int, int]], jumps_us: list[int]
) -> None:
    limits = Rates(rate, burst, 2)
    now_us = 1_795_341_600_000_000
    for (key, units, step_us), jump_us in zip(sequence, jumps_us, strict=False):
        now_us += step_us + jump_us
        left = limits.left(key, now_us)
        assert 0 <= left <= burst
        wait_us = limits.wait_us(key, units, now_us)
        assert wait_us <= -(-burst * SECOND_US // rate)
        assert limits.left(key, now_us + wait_us) >= min(units, burst)
        limits.take(key, units, now_us)


@given(rates, bursts, st.integers(1, 20), st.lists(st.integers(0, 400), min_size=1, max_size=300))
def test_keys_that_come_and_go_leave_nothing_behind(rate: int, burst: int, keys_max: int, names: list[int]) -> None:
    limits = Rates(rate, burst, keys_max)
    for at_us, name in zip(accumulate([1] * len(names)), names, strict=True):
        limits.take(str(name), 1, at_us)
        assert len(limits) <= keys_max
    whole_us = len(names) + -(-burst * SECOND_US // rate)
    # Each that comes later takes two along that are whole again, itself among them in the end.
    for number in range(2 * keys_max):
        limits.take(f"newcomer {number}", 1, whole_us + number * 100 * SECOND_US)
    assert len(limits) <= 2


def test_each_key_has_its_own() -> None:
    limits = Rates(10, 5, 10)
    assert limits.take("a", 3, 0) == 3
    assert limits.take("a", 3, 0) == 2
    assert limits.take("a", 3, 0) == 0
    assert limits.take("b", 6, 0) == 5
    assert limits.left("a", 100_000) == 1
