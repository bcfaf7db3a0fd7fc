"""A queue as a fluid: what may flow in so that what stands in it is gone by a given time.

Integers throughout (rates in thousandths a second, times in µs, shares in ppm): the same inputs give the same limit on
every machine, which floats through a maths library do not promise.
"""

from typing import Final

FULL_PPM: Final = 1_000_000
_MILLI_PER_US: Final = 1_000_000_000  # one item in one microsecond, in thousandths of an item a second


def moving_average(average: int, value: int, elapsed_us: int, memory_us: int) -> int:
    """An average that forgets: the new value weighs elapsed / (elapsed + memory), however unevenly samples come."""
    return average + (value - average) * elapsed_us // (elapsed_us + memory_us)


def admissible_rate_milli(capacity_milli: int, excess: int, drain_us: int) -> int:
    """The inflow at which `excess` items beyond the goal are gone in `drain_us`. Negative: not even without inflow."""
    return capacity_milli - excess * _MILLI_PER_US // drain_us


def drain_time_us(excess: int, capacity_milli: int) -> int | None:
    """How long `excess` items take without inflow; None where nothing is served."""
    return excess * _MILLI_PER_US // capacity_milli if capacity_milli > 0 else None


def planned_depth(start: int, goal: int, left_us: int, whole_us: int) -> int:
    """Where a straight line from `start` to `goal` stands when `left_us` of `whole_us` are left."""
    if left_us <= 0 or whole_us <= 0 or start <= goal:
        return goal
    return goal + (start - goal) * left_us // whole_us


def error_ppm(planned: int, depth: int, scale: int) -> int:
    """How far the queue is ahead of its plan (positive) or behind it, in parts of the plan, within +-100 %.

    Plans under `scale` are taken for that deep: few items more or less are no error where few were planned.
    """
    return clamp((planned - depth) * FULL_PPM // max(planned, scale, 1), FULL_PPM)


def trim_ppm(integral: int, error: int, gain_ppm: int, bound: int) -> int:
    """Proportional and integral correction together, within +-`bound`."""
    return clamp(integral + error * gain_ppm // FULL_PPM, bound)


def integrate_ppm(integral: int, error: int, gain_ppm: int, bound: int) -> int:
    """The integral part after one more interval. It stops at the bound: what cannot act must not wind up."""
    return clamp(integral + error * gain_ppm // FULL_PPM, bound)


def clamp(value: int, bound: int) -> int:
    """`value` within +-`bound`."""
    return max(-bound, min(bound, value))
