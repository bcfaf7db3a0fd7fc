"""What came back lately, and how little of it is kept."""

from governors.outbox.arrivals import Arrivals


def test_what_came_is_known_for_a_while() -> None:
    arrivals = Arrivals(kept_s=600.0)
    arrivals.note(b"a", 100.0)
    assert arrivals.has(b"a", 699.9)
    assert not arrivals.has(b"a", 700.0)
    assert not arrivals.has(b"b", 100.0)


def test_what_came_again_is_as_new() -> None:
    arrivals = Arrivals(marks_max=2, kept_s=600.0)
    arrivals.note(b"a", 0.0)
    arrivals.note(b"b", 1.0)
    arrivals.note(b"a", 500.0)
    arrivals.note(b"c", 501.0)
    assert arrivals.has(b"a", 1_000.0)
    assert not arrivals.has(b"b", 501.0), "the oldest is the one that came last the longest ago"


def test_no_more_is_kept_than_there_is_room_for_and_nothing_that_is_too_old() -> None:
    arrivals = Arrivals(marks_max=100, kept_s=600.0)
    for number in range(10_000):
        arrivals.note(b"%d" % number, number * 0.001)
        assert len(arrivals) <= 100
    assert all(arrivals.has(b"%d" % number, 10.0) for number in range(9_900, 10_000))
    arrivals.note(b"late", 1_000.0)
    assert len(arrivals) == 1
