from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.flow import (
    Lease,
    PullsInFlight,
    assess_lease,
    backoff_s,
    chunk_ack_ids,
    lease_check_period_s,
    lease_request_s,
    pull_size,
)

CAP_S = 10.0


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 2**32))
def test_a_wait_never_passes_the_cap(failures: int, seed: int) -> None:
    assert 0.0 <= backoff_s(failures, 0.1, CAP_S, Random(seed)) <= CAP_S


def test_waits_spread_over_a_span_that_doubles() -> None:
    rng = Random(7)
    for failures, bound_s in ((1, 0.1), (2, 0.2), (3, 0.4), (8, 10.0), (400, 10.0)):
        waits = [backoff_s(failures, 0.1, CAP_S, rng) for _ in range(2_000)]
        assert max(waits) <= bound_s
        assert max(waits) > 0.95 * bound_s
        assert min(waits) < 0.05 * bound_s


def sized(**changes: float) -> int:
    numbers = {
        "per_pull_max": 1_000,
        "messages_max": 5_000,
        "messages_held": 0,
        "backlog_max": 2_000,
        "backlog": 0,
        "bytes_max": 1_000_000,
        "bytes_held": 0,
        "message_bytes": 100.0,
    }
    return pull_size(**(numbers | changes))  # type: ignore[arg-type] # whole numbers where whole ones are wanted


def test_an_idle_loop_asks_for_a_full_pull() -> None:
    assert sized() == 1_000


def test_a_pull_asks_for_no_more_than_there_is_room_for() -> None:
    assert sized(messages_held=4_600) == 400


def test_a_nearly_full_loop_waits_rather_than_ask_for_a_handful() -> None:
    assert sized(messages_held=4_950) == 0
    assert sized(messages_held=5_000) == 0


def test_a_bound_below_one_pull_still_lets_messages_through() -> None:
    assert sized(messages_max=1) == 1
    assert sized(messages_max=1, messages_held=1) == 0


def test_a_backlog_shrinks_the_pull_and_then_stops_it() -> None:
    assert sized(backlog=1_000) == 1_000
    assert sized(backlog=1_400) == 600
    assert sized(backlog=1_950) == 0
    assert sized(backlog=9_000) == 0


def test_pulls_that_find_messages_waiting_call_for_more_of_them_up_to_the_bound() -> None:
    pulls = PullsInFlight(4)
    for _ in range(3):
        pulls.note(0, 2.0)
    assert pulls.wanted == 1
    for wanted in (2, 3, 4, 4):
        pulls.note(100, 0.003)
        assert pulls.wanted == wanted


def test_pulls_that_wait_for_messages_are_given_up_but_for_one() -> None:
    pulls = PullsInFlight(4)
    pulls.note(100, 0.003)
    for wanted in (3, 2, 1, 1):
        pulls.note(1, 0.9)
        assert pulls.wanted == wanted


def test_pulls_that_only_wait_for_their_turn_in_a_busy_process_are_given_up() -> None:
    pulls = PullsInFlight(16)
    pulls.note(100, 0.002)
    for _ in range(20):  # each of n takes n times as long
        pulls.note(100, 0.002 * pulls.wanted)
    assert pulls.wanted <= 8


def test_full_pulls_are_worth_a_few_at_once_however_long_a_busy_machine_takes() -> None:
    pulls = PullsInFlight(16)
    pulls.note(1, 0.001)
    for _ in range(20):
        pulls.note(1, 0.5)
    assert pulls.wanted == 1
    for _ in range(20):
        pulls.note(100, 0.5)
    assert pulls.wanted == 4
    pulls.note(99, 0.5)
    assert pulls.wanted == 3


def test_full_pulls_call_for_no_more_than_the_bound() -> None:
    pulls = PullsInFlight(2)
    for _ in range(5):
        pulls.note(1_000, 0.5)
    assert pulls.wanted == 2


def test_a_trickle_never_counts_as_prompt() -> None:
    pulls = PullsInFlight(4)
    for _ in range(1_000):
        pulls.note(1, 1.0)
    assert pulls.wanted == 1


def test_a_broker_that_became_slower_is_measured_by_what_it_is_now() -> None:
    pulls = PullsInFlight(4)
    for _ in range(10):
        pulls.note(100, 0.001)
    for _ in range(200):
        pulls.note(100, 0.02)
    assert pulls.wanted == 4


def test_large_messages_shrink_the_pull() -> None:
    assert sized(message_bytes=10_000.0) == 100
    assert sized(message_bytes=10_000.0, bytes_held=900_000) == 10


def test_one_message_larger_than_the_whole_bound_can_still_be_pulled() -> None:
    assert sized(message_bytes=9_000_000.0) == 1
    assert sized(message_bytes=9_000_000.0, bytes_held=9_000_000) == 0


@given(
    messages_max=st.integers(1, 50_000),
    held=st.integers(0, 60_000),
    backlog=st.integers(0, 5_000),
    bytes_held=st.integers(0, 2_000_000),
    message_bytes=st.floats(0, 1e7),
)
def test_what_is_held_and_asked_for_never_passes_the_bound(
    messages_max: int, held: int, backlog: int, bytes_held: int, message_bytes: float
) -> None:
    size = sized(
        messages_max=messages_max,
        messages_held=held,
        backlog=backlog,
        bytes_held=bytes_held,
        message_bytes=message_bytes,
    )
    assert 0 <= size <= 1_000
    if size:
        assert held + size <= messages_max
        assert backlog + size <= 2_000
        assert bytes_held < 1_000_000
        assert size == 1 or bytes_held + size * message_bytes <= 1_000_000


def assessed(now_s: float, leased_s: float = 0.0) -> Lease:
    return assess_lease(now_s, received_s=0.0, leased_s=leased_s, ack_deadline_s=60.0, held_s_max=600.0)


def test_a_lease_is_extended_from_its_half_on() -> None:
    assert assessed(29.9) is Lease.KEEP
    assert assessed(30.0) is Lease.EXTEND
    assert assessed(70.0, leased_s=45.0) is Lease.KEEP


def test_a_batch_that_is_held_for_too_long_is_given_up() -> None:
    assert assessed(599.9, leased_s=599.0) is Lease.KEEP
    assert assessed(600.0, leased_s=599.0) is Lease.GIVE_UP


def test_several_looks_fit_between_half_a_lease_and_its_end() -> None:
    assert lease_check_period_s(60.0) * 4 < 30.0


@pytest.mark.parametrize("ack_deadline_s", [10, 15, 60, 600])
def test_an_extension_that_hangs_leaves_time_for_another(ack_deadline_s: int) -> None:
    looked_s = ack_deadline_s / 2 + lease_check_period_s(ack_deadline_s)
    assert looked_s + 2 * lease_request_s(ack_deadline_s, 10.0) <= ack_deadline_s


@given(
    ids=st.lists(st.integers(1, 300).map(lambda length: "i" * length), max_size=60),
    ids_max=st.integers(1, 20),
    bytes_max=st.integers(303, 2_000),
)
def test_chunks_hold_every_id_once_in_order_and_within_both_bounds(
    ids: list[str], ids_max: int, bytes_max: int
) -> None:
    chunks = [list(chunk) for chunk in chunk_ack_ids(ids, ids_max, bytes_max)]
    assert [ack_id for chunk in chunks for ack_id in chunk] == ids
    for chunk in chunks:
        assert 1 <= len(chunk) <= ids_max
        assert sum(len(ack_id) + 3 for ack_id in chunk) <= bytes_max


def test_two_neighbouring_chunks_would_not_have_fitted_into_one() -> None:
    chunks = [list(chunk) for chunk in chunk_ack_ids([f"{number:0190d}" for number in range(10_000)])]
    for left, right in pairwise(chunks):
        assert len(left) + 1 > 2_500 or sum(len(ack_id) + 3 for ack_id in [*left, right[0]]) > 500 * 1024


def test_an_id_larger_than_a_request_goes_alone() -> None:
    assert [list(chunk) for chunk in chunk_ack_ids(["a", "b" * 50, "c"], 10, 20)] == [["a"], ["b" * 50], ["c"]]
