"""A standing queue shows in the *minimum* wait over an interval, never in its peaks (CoDel, RFC 8289 section 3).

A burst that drains within the interval leaves a small minimum behind; a queue that stands does not.
"""

from typing import Final

from msgspec import Struct

# Above every wait that can be observed, so that the minimum of nothing is larger than the minimum of anything.
NO_WAIT_MS: Final = 2**53 - 1


class Interval(Struct, frozen=True, array_like=True, gc=False):
    """What was seen since `start_us`: the smallest wait, the largest depth and how many messages came."""

    start_us: int = 0
    samples: int = 0
    wait_min_ms: int = NO_WAIT_MS
    depth_max: int = 0
    came: int = 0


def extend(interval: Interval, wait_ms: int, depth: int, came: int = 0) -> Interval:
    """The interval with one more sample in it."""
    return Interval(
        interval.start_us,
        interval.samples + 1,
        wait_ms if wait_ms < interval.wait_min_ms else interval.wait_min_ms,
        depth if depth > interval.depth_max else interval.depth_max,
        interval.came + came,
    )


def is_whole(interval: Interval, at_us: int, length_us: int, samples_min: int, enough: int = NO_WAIT_MS) -> bool:
    """Whether it has lasted long enough, or enough messages came, and was looked at often enough, to be judged."""
    lasted = at_us - interval.start_us >= length_us or interval.came >= enough
    return interval.samples >= samples_min and lasted
