from hypothesis import given
from hypothesis import strategies as st

from ingest.source import Delivery
from ingest.suspects import Suspects


def message(number: int) -> Delivery:
    return Delivery(b"", {}, f"m{number}", 0, 1, "", f"a{number}")


def messages(*numbers: int) -> list[Delivery]:
    return [message(number) for number in numbers]


def test_a_batch_that_failed_is_tried_again_in_parts_of_a_tenth_down_to_one() -> None:
    suspects = Suspects()
    batch = messages(*range(1_000))
    for size in (1_000, 100, 10, 1):
        parts = suspects.parts(batch)
        assert [len(part) for part in parts] == [size] * (1_000 // size)
        for part in parts:
            assert suspects.fail(part, 0) == 0


def test_what_fails_alone_counts_only_where_others_have_passed_since() -> None:
    suspects = Suspects()
    assert [suspects.fail(messages(1), passed) for passed in (5, 5, 6, 6, 9, 9)] == [0, 0, 1, 0, 2, 0]


def test_what_passed_is_suspect_no_more() -> None:
    suspects = Suspects()
    suspects.fail(messages(*range(20)), 0)
    suspects.clear(messages(*range(19)))
    assert len(suspects) == 1
    assert [len(part) for part in suspects.parts(messages(*range(18), 19, 18))] == [18, 1, 1]


def test_the_oldest_are_forgotten_first() -> None:
    suspects = Suspects(suspects_max=3)
    suspects.fail(messages(1, 2, 3, 4), 0)
    assert len(suspects) == 3
    assert suspects.parts(messages(1, 2)) == [messages(1), messages(2)]
    assert suspects.parts(messages(9, 1)) == [messages(9, 1)]


@given(
    failed=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=30, unique=True), max_size=5),
    batch=st.lists(st.integers(0, 40), max_size=40, unique=True),
)
def test_parts_hold_every_message_once_and_in_order(failed: list[list[int]], batch: list[int]) -> None:
    suspects = Suspects()
    for part in failed:
        suspects.fail(messages(*part), 0)
    parts = suspects.parts(messages(*batch))
    assert [one for part in parts for one in part] == messages(*batch)
    assert all(parts) or not batch
