"""The standing-queue detector: an interval is judged by its smallest wait."""

from governors.numerics.codel import Interval, extend, is_whole


def test_an_interval_keeps_the_smallest_wait_and_the_largest_depth() -> None:
    interval = Interval(1_000)
    for wait_ms, depth in ((50, 3), (20, 9), (70, 1)):
        interval = extend(interval, wait_ms, depth)
    assert (interval.start_us, interval.samples, interval.wait_min_ms, interval.depth_max) == (1_000, 3, 20, 9)


def test_an_interval_without_samples_has_no_short_wait() -> None:
    assert Interval().wait_min_ms > 10**15


def test_an_interval_is_whole_when_it_is_both_long_and_full_enough() -> None:
    interval = extend(extend(Interval(1_000), 1, 1), 1, 1)
    assert is_whole(interval, 2_000, 1_000, 2)
    assert not is_whole(interval, 1_999, 1_000, 2)
    assert not is_whole(interval, 2_000, 1_000, 3)
