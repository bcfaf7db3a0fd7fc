from ingest.order import FENCE_S, Fences
from ingest.source import Delivery


def message(number: int, key: str) -> Delivery:
    return Delivery(b"", {}, f"m{number}", 0, 1, key, f"a{number}")


def test_without_a_failure_everything_is_admitted_as_it_is() -> None:
    deliveries = [message(1, "a"), message(2, "b")]
    admitted, early = Fences().admit(deliveries, 0.0)
    assert admitted is deliveries
    assert early == []


def test_what_follows_a_failure_waits_until_the_failed_one_has_come_again() -> None:
    fences = Fences()
    a1, a2, a3, b1, b2 = (message(n, k) for n, k in ((1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b")))
    fences.fail([a1, a2], 0.0)
    assert fences.admit([a3, b1], 1.0) == ([b1], [a3])
    assert fences.admit([a2, b2, a1, a2, a3], 1.0) == ([b2, a1, a2, a3], [a2])
    assert fences.admit([a3], 1.0) == ([a3], [])


def test_a_second_failure_of_a_key_waits_for_the_first_still() -> None:
    fences = Fences()
    fences.fail([message(1, "a")], 0.0)
    fences.fail([message(2, "a")], 1.0)
    assert fences.admit([message(2, "a"), message(1, "a")], 2.0) == ([message(1, "a")], [message(2, "a")])


def test_one_that_never_comes_again_is_not_waited_for_for_ever() -> None:
    fences = Fences()
    fences.fail([message(1, "a")], 0.0)
    assert fences.admit([message(2, "a")], FENCE_S - 0.1) == ([], [message(2, "a")])
    assert fences.admit([message(2, "a")], FENCE_S) == ([message(2, "a")], [])


def test_messages_without_a_key_wait_for_nobody() -> None:
    fences = Fences()
    fences.fail([message(1, "")], 0.0)
    assert fences.admit([message(2, "")], 0.0) == ([message(2, "")], [])
