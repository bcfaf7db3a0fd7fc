"""How fast money goes, and how much of the demand a budget can still bear. Integers throughout.

Amounts are micros, rates micros an hour, times µs, fractions ppm.
"""

from typing import Final

from governors.numerics.periods import HOUR_US

FULL_PPM: Final = 1_000_000


def demand_rate(spent_micros: int, over_us: int, admitted_ppm: int) -> int:
    """What would have been spent in an hour with nothing held back. Credits count as no spend, not as negative.

    `over_us` and `admitted_ppm` must be positive.
    """
    return max(spent_micros, 0) * HOUR_US * FULL_PPM // (over_us * admitted_ppm)


def median(rates: tuple[int, ...]) -> int:
    """The middle rate, the lower of two: one burst or one late bill among several moves it little. 0 for none."""
    return sorted(rates)[(len(rates) - 1) // 2] if rates else 0


def linear_pace(cost_micros: int, elapsed_us: int, length_us: int) -> int:
    """The period's cost if it goes on as it did on average. `elapsed_us` must be positive."""
    return cost_micros * length_us // elapsed_us


def bearable_fraction(headroom_micros: int, rate_per_h: int, left_us: int) -> int:
    """The share of demand (ppm, 0 to 1,000,000) that spends exactly the headroom in the time left."""
    if headroom_micros <= 0:
        return 0
    demand = rate_per_h * left_us
    if demand <= 0:
        return FULL_PPM
    return min(FULL_PPM, headroom_micros * FULL_PPM * HOUR_US // demand)


def next_fraction(current_ppm: int, target_ppm: int, floor_ppm: int, step_ppm: int, quantum_ppm: int) -> int:
    """One bounded step from the current fraction towards the target.

    Never below `floor_ppm`, never more than `step_ppm` away. Fractions move in whole quanta, down at once and up only
    when two quanta (or all the rest) are to be had: otherwise a target that trembles would be a new action each time.
    """
    goal = max(floor_ppm, target_ppm // quantum_ppm * quantum_ppm)
    if goal < current_ppm:
        return max(goal, current_ppm - step_ppm)
    if goal >= current_ppm + 2 * quantum_ppm or goal == FULL_PPM:
        return min(goal, current_ppm + step_ppm)
    return current_ppm
