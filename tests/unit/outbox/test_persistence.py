"""How long an action is tried, and how a place that ails is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from governors.outbox.persistence import (
    AILING_AFTER,
    GIVE_UP_S,
    LEFT_ALONE_S,
    PAUSE_MAX_S,
    WELL,
    Breaker,
    failed,
    pause_s,
    tried,
)


@given(st.text(), st.integers(1, 10_000), st.none() | st.floats(0, 1e9))
def test_a_pause_grows_up_to_its_largest_and_is_never_shorter_than_asked(
    action_id: str, attempt: int, asked_s: float | None
) -> None:
    pause = pause_s(action_id, attempt, asked_s)
    whole = min(2.0 ** min(attempt - 1, 16), PAUSE_MAX_S)
    asked = min(asked_s or 0.0, GIVE_UP_S)
    assert max(whole / 2, asked) <= pause <= max(whole, asked)
    assert pause == pause_s(action_id, attempt, asked_s)


def test_pauses_of_many_actions_are_spread() -> None:
    pauses = [pause_s(f"act-{number}", 6, None) for number in range(1_000)]
    assert min(pauses) < 17
    assert max(pauses) > 31
    assert abs(sum(pauses) / len(pauses) - 24) < 1


def ailing(now_s: float) -> Breaker:
    breaker = WELL
    for _ in range(AILING_AFTER):
        breaker = failed(breaker, now_s)
    return breaker


def test_a_place_is_left_alone_once_enough_attempts_in_a_row_have_failed() -> None:
    breaker = WELL
    for _ in range(AILING_AFTER - 1):
        breaker = failed(breaker, 100.0)
        assert not breaker.wait_s(100.0)
    assert failed(breaker, 100.0).wait_s(100.0) == LEFT_ALONE_S


def test_one_attempt_tries_an_ailing_place_out_and_the_others_wait() -> None:
    breaker, later_s = ailing(100.0), 100.0 + LEFT_ALONE_S
    assert not breaker.wait_s(later_s)
    on_trial = tried(breaker, later_s)
    assert on_trial.wait_s(later_s) == LEFT_ALONE_S
    assert failed(on_trial, later_s + 1).wait_s(later_s + 1) == LEFT_ALONE_S


def test_an_attempt_at_a_place_that_is_well_makes_nobody_wait() -> None:
    assert tried(failed(WELL, 1.0), 1.0) == failed(WELL, 1.0)
