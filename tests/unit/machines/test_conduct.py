"""What stands between wanting an action and asking for it."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from governors.machines.conduct import (
    ACTS,
    APPROVAL,
    EXPIRED,
    FREE,
    FREEZE_US,
    RATE,
    RATE_MAX,
    RATE_US,
    REFUSED,
    STORM,
    STORM_REPEATS,
    STORM_US,
    Asking,
    Conduct,
    Hindrance,
    Permit,
    Restraint,
    again,
    answer,
    calm,
    due_us,
    lift,
    permit,
    told,
)
from governors.machines.governor import Effect

S = 1_000_000
CLOSE, OPEN, PAGE = Effect("close"), Effect("open"), Effect("page")
ASKS = Conduct(asks={"close": Asking(900 * S, "drop")})
OBSERVES = Conduct(observes="window night")


@dataclass
class Machine:
    restraint: Restraint = FREE
    asked: list[tuple[int, Effect]] = field(default_factory=list)

    def want(self, what: Effect, now_us: int, conduct: Conduct = ACTS) -> Permit:
        found = permit(self.restraint, conduct, what, now_us)
        self.restraint = found.restraint
        if found.acts:
            self.asked.append((now_us, what))
        return found


def test_what_is_wanted_is_asked_for() -> None:
    machine = Machine()
    assert machine.want(CLOSE, 0).acts
    assert machine.restraint.withheld == ""


def test_who_observes_asks_for_nothing_and_says_so_to_nobody() -> None:
    machine = Machine()
    found = machine.want(CLOSE, 0, OBSERVES)
    assert (found.acts, found.notice) == (False, False)
    assert (machine.restraint.withheld, machine.restraint.why) == ("close", "window night")
    assert due_us(machine.restraint) is None
    assert machine.want(CLOSE, 1).acts, "once it acts again"


def test_the_same_action_over_and_over_is_a_storm_and_pages_once() -> None:
    machine = Machine()
    found = [machine.want(CLOSE, at * S) for at in (0, 60, 120, 121, 130)]
    assert [one.acts for one in found] == [True, True, False, False, False]
    assert [one.notice for one in found] == [False, False, True, False, False]
    assert (machine.restraint.withheld, machine.restraint.why) == ("close", STORM)
    assert due_us(machine.restraint) == 120 * S + FREEZE_US
    assert machine.want(CLOSE, 120 * S + FREEZE_US).acts


def test_a_storm_freezes_other_actions_too_and_outlasts_a_calm() -> None:
    machine = Machine()
    for at in (0, 1, 2):
        machine.want(CLOSE, at * S)
    machine.restraint = calm(machine.restraint, "", 3 * S)
    assert due_us(machine.restraint) is None, "nothing is wanted"
    assert not machine.want(OPEN, 4 * S).acts
    assert machine.restraint.why == STORM


def test_the_same_kind_with_other_numbers_is_no_storm() -> None:
    machine = Machine()
    assert all(machine.want(Effect("throttle", {"fraction_ppm": at}), at * S).acts for at in range(9))


def test_repeats_that_are_far_apart_are_no_storm() -> None:
    machine = Machine()
    assert all(machine.want(CLOSE, at * (STORM_US // 2)).acts for at in range(20))


def test_too_many_actions_wait_until_there_are_fewer() -> None:
    machine = Machine()
    for at in range(RATE_MAX):
        assert machine.want(Effect("throttle", {"fraction_ppm": at}), at * S).acts
    found = machine.want(CLOSE, RATE_MAX * S)
    assert (found.acts, found.notice, machine.restraint.why) == (False, False, RATE)
    again_us = due_us(machine.restraint)
    assert again_us == RATE_US
    assert not machine.want(CLOSE, RATE_US - 1).acts
    assert machine.want(CLOSE, RATE_US).acts


def test_a_person_is_asked_once_and_a_yes_holds_while_it_is_wanted() -> None:
    machine = Machine()
    found = machine.want(CLOSE, 0, ASKS)
    assert (found.acts, found.notice, machine.restraint.why) == (False, True, APPROVAL)
    assert due_us(machine.restraint) == 900 * S
    assert not machine.want(CLOSE, S, ASKS).notice
    machine.restraint = answer(machine.restraint, approved=True, why="")
    assert machine.want(CLOSE, 2 * S, ASKS).acts
    assert machine.want(CLOSE, 300 * S, ASKS).acts, "the same that failed"
    machine.restraint = calm(machine.restraint, "close", 301 * S)
    assert machine.want(CLOSE, 400 * S, ASKS).acts, "it stands, and is wanted anew"
    machine.restraint = calm(machine.restraint, "", 401 * S)
    assert machine.want(CLOSE, 900 * S, ASKS).notice, "another time is another question"


def test_a_yes_has_an_end_after_which_a_person_is_asked_anew() -> None:
    machine = Machine()
    machine.want(CLOSE, 0, ASKS)
    machine.restraint = answer(machine.restraint, approved=True, why="", until_us=600 * S)
    assert machine.want(CLOSE, 599 * S, ASKS).acts
    assert machine.want(CLOSE, 600 * S, ASKS).notice


def test_a_no_has_an_end_after_which_a_person_is_asked_anew() -> None:
    machine = Machine()
    machine.want(CLOSE, 0, ASKS)
    machine.restraint = answer(machine.restraint, approved=False, why=REFUSED, until_us=600 * S)
    assert not machine.want(CLOSE, S, ASKS).notice
    assert due_us(machine.restraint) == 600 * S
    machine.restraint = again(machine.restraint, 600 * S)
    assert machine.want(CLOSE, 600 * S, ASKS).notice


def test_people_who_could_not_be_told_are_told_again() -> None:
    asking, frozen = Machine(), Machine()
    asking.want(CLOSE, 0, ASKS)
    for at in (0, 1, 2):
        frozen.want(CLOSE, at * S)
    for machine, conduct in ((asking, ASKS), (frozen, ACTS)):
        machine.restraint = told(machine.restraint, ok=False)
        assert machine.want(CLOSE, 60 * S, conduct).notice
        machine.restraint = told(machine.restraint, ok=True)
        assert not machine.want(CLOSE, 61 * S, conduct).notice


def test_a_person_lifts_what_a_storm_has_frozen() -> None:
    machine = Machine()
    for at in (0, 1, 2):
        machine.want(CLOSE, at * S)
    machine.restraint = lift(machine.restraint)
    assert machine.want(CLOSE, 3 * S).acts


def test_who_is_frozen_can_still_call_people_but_not_over_and_over() -> None:
    machine = Machine()
    for at in (0, 1, 2):
        machine.want(CLOSE, at * S)
    found = [machine.want(PAGE, at * S) for at in (3, 4, 5)]
    assert [one.acts for one in found] == [True, True, False]
    assert not any(one.notice for one in found), "nobody is paged for too many pages"
    assert not machine.want(CLOSE, 6 * S).acts
    assert machine.want(CLOSE, 2 * S + FREEZE_US).acts


def test_another_machine_in_the_way_is_waited_for_and_named() -> None:
    machine = Machine()
    found = permit(machine.restraint, ACTS, CLOSE, 0, Hindrance("rollback_guard/web is VERIFYING"))
    assert (found.acts, found.notice) == (False, False)
    assert (found.restraint.why, found.restraint.waits) == ("rollback_guard/web is VERIFYING", True)
    assert due_us(found.restraint) is None
    assert permit(found.restraint, ACTS, CLOSE, 1).restraint.waits is False
    assert permit(FREE, ASKS, CLOSE, 0, Hindrance("busy")).notice, "a person is asked meanwhile"


def test_a_no_holds_until_something_else_is_wanted() -> None:
    machine = Machine()
    machine.want(CLOSE, 0, ASKS)
    machine.restraint = answer(machine.restraint, approved=False, why=REFUSED)
    for at in (1, 1_000, 1_000_000):
        found = machine.want(CLOSE, at * S, ASKS)
        assert (found.acts, found.notice, machine.restraint.why) == (False, False, REFUSED)
    assert due_us(machine.restraint) is None
    assert machine.want(OPEN, 2_000_000 * S, ASKS).acts
    assert machine.want(CLOSE, 2_000_001 * S, ASKS).notice


def test_no_answer_in_time_is_what_the_terms_say() -> None:
    machine = Machine()
    machine.want(CLOSE, 0, ASKS)
    machine.restraint = answer(machine.restraint, approved=False, why=EXPIRED)
    machine.want(CLOSE, 901 * S, ASKS)
    assert machine.restraint.why == EXPIRED


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    assert not permit(answer(FREE, approved=True, why=""), ASKS, CLOSE, 0).acts


wants = st.tuples(
    st.integers(0, 90),
    st.sampled_from(
        [CLOSE, OPEN, Effect("throttle", {"fraction_ppm": 1}), Effect("throttle", {"fraction_ppm": 2}), None]
    ),
    st.sampled_from([ACTS, ACTS, ASKS, OBSERVES]),
    st.sampled_from([None, None, True, False]),
)


@given(st.lists(wants, max_size=80))
def test_whatever_is_wanted_the_limits_hold(events: list[tuple[int, Effect | None, Conduct, bool | None]]) -> None:
    machine, now_us = Machine(), 0
    for after_s, what, conduct, answered in events:
        now_us += after_s * S
        if answered is not None:
            machine.restraint = answer(machine.restraint, approved=answered, why=REFUSED)
        if what is None:
            machine.restraint = calm(machine.restraint, "", now_us)
        else:
            acts = machine.want(what, now_us, conduct).acts
            assert not (acts and conduct.observes)
            assert acts == (machine.restraint.withheld == "")
        assert len(machine.restraint.asked) <= 3 * RATE_MAX + 1
    for at, (now_us, what) in enumerate(machine.asked):
        before = machine.asked[:at]
        assert sum(one == what and then_us > now_us - STORM_US for then_us, one in before) < STORM_REPEATS - 1
        assert sum(then_us > now_us - RATE_US for then_us, _ in before) < RATE_MAX
