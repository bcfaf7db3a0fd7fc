"""Dividing a whole among ranks: the first ranks first, and nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.numerics.fair_share import levels_ppm, waterfall_ppm

FULL = 1_000_000
FRACTIONS = st.integers(0, FULL)
MIXES = st.lists(st.integers(0, 10_000), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("fraction", "mix", "shares"),
    [
        (500_000, [0, 0, 0, 0], [500_000] * 4),  # nobody asked yet: each is taken to be alone
        (500_000, [0, 0, 10, 0], [FULL, FULL, 500_000, 0]),
        (500_000, [10, 10, 10, 10], [FULL, FULL, 0, 0]),
        (600_000, [10, 10, 10, 10], [FULL, FULL, 400_000, 0]),
        (100_000, [50, 0, 50, 0], [200_000, 0, 0, 0]),
        (FULL, [1, 2, 3, 4], [FULL] * 4),
        (0, [1, 2, 3, 4], [0] * 4),
    ],
)
def test_the_first_ranks_are_filled_first(fraction: int, mix: list[int], shares: list[int]) -> None:
    assert waterfall_ppm(fraction, mix) == shares


@given(FRACTIONS, MIXES)
def test_a_lower_rank_never_has_the_larger_share(fraction: int, mix: list[int]) -> None:
    shares = waterfall_ppm(fraction, mix)
    assert shares == sorted(shares, reverse=True)


@given(FRACTIONS, MIXES)
def test_the_shares_add_up_to_the_fraction(fraction: int, mix: list[int]) -> None:
    passed = sum(share * count for share, count in zip(waterfall_ppm(fraction, mix), mix, strict=True))
    assert fraction * sum(mix) - sum(mix) <= passed <= fraction * sum(mix)


@given(st.integers(0, FULL), st.integers(1, 8))
def test_levels_rise_from_nothing_and_leave_room_for_every_rank(reserve: int, ranks: int) -> None:
    levels = levels_ppm(reserve, ranks)
    assert len(levels) == ranks
    assert levels[0] == 0
    assert levels == sorted(levels)
    assert levels[-1] <= FULL
    assert ranks < 2 or levels[1] == reserve
