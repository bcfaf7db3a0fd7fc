"""The overlays above a small machine of the test's own, so that only they are under test."""

from enum import StrEnum
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from governors.fsm.table import Row, Verdict
from governors.machines.events import ActionAttempt, ActionResult, Event, OverrideEnded, OverrideGranted, Timeout
from governors.machines.governor import ADMIT_ALL, Effect, Governor
from governors.machines.overlays import (
    FAILED_RETRY_US,
    Advance,
    MachineState,
    Turn,
    advance,
    initial,
)
from governors.machines.wanted import still_wanted
from ingest.signals import Alert, QueueSample

S = 1_000_000


class Level(StrEnum):
    LOW = "LOW"
    MID = "MID"
    HIGH = "HIGH"


class Core(Struct, frozen=True):
    status: Level = Level.LOW
    due_us: int | None = None


def follow(state: Core, event: Event, policy: None, now_us: int) -> Verdict[Core]:
    depth = event.body.depth if isinstance(event.body, QueueSample) else 0
    if depth == 13:
        return Verdict(state, "reject", "toy.unlucky", {"depth": depth}, refused=True)
    level = Level.HIGH if depth >= 100 else Level.MID if depth >= 10 else Level.LOW
    return Verdict(Core(level, now_us + 10 * S), "none" if level == state.status else "move", "toy", {"depth": depth})


def escalate(state: Core, event: Event, policy: None, now_us: int) -> Verdict[Core]:
    return Verdict(Core(Level.HIGH), "move", "toy.timeout", {})


def stay(state: Core, event: Event, policy: None, now_us: int) -> Verdict[Core]:
    return Verdict(state, "none", "toy.stay", {})


ANY = frozenset(Level)
EFFECTS = {Level.LOW: None, Level.MID: Effect("notify", {"level": "mid"}), Level.HIGH: Effect("close")}
TOY = Governor(
    name="toy",
    version=1,
    status=Level,
    state=Core,
    policy=Core,
    kinds=frozenset({QueueSample, Alert}),
    table={
        (level, kind): Row(follow if kind is QueueSample else escalate if kind is Timeout else stay, ANY)
        for level in Level
        for kind in (QueueSample, Alert, Timeout, ActionResult, OverrideGranted, OverrideEnded)
    },
    initial=Core,
    deadline=lambda state, policy: state.due_us,
    effect=lambda state, status, policy: EFFECTS[status],
    admit=lambda state, status, policy: ADMIT_ALL,
    expected_period_us=lambda state, policy: 5 * S if state.due_us else None,
    undo={"close": "open"},
    released={Level.HIGH: Level.LOW},
    severity={Level.LOW: 0, Level.MID: 1, Level.HIGH: 2},
    stale_tolerance_us={QueueSample: 0},
    rules={},
)


class Machine:
    """Drives the toy the way a tenant does."""

    def __init__(self) -> None:
        self.state: MachineState[Any] = initial(TOY, 0)
        self.actions = 0

    def tell(self, body: Any, now_us: int, observed_us: int | None = None) -> Advance:
        self.actions += 1
        event = Event(f"e{self.actions}", now_us if observed_us is None else observed_us, body)
        step = advance(Turn(TOY, event, None, now_us, "toy", self.actions), self.state)
        self.state = step.state
        return step

    def queue(self, depth: int, now_us: int, observed_us: int | None = None) -> Advance:
        return self.tell(QueueSample(depth, 0.0, 0.0, 0.0), now_us, observed_us)

    def finish(self, now_us: int, *, ok: bool = True) -> Advance:
        assert self.state.in_flight is not None
        return self.tell(ActionResult(self.state.in_flight.id, self.state.in_flight.kind, ok), now_us)

    def end(self, now_us: int, ended: Any, *, maybe: bool = False) -> Advance:
        """The action in flight ends without having been done, for all that is known."""
        assert self.state.in_flight is not None
        asked = self.state.in_flight
        return self.tell(ActionResult(asked.id, asked.kind, ok=False, maybe=maybe, ended=ended), now_us)

    def attempt(self, now_us: int, outcome: Any, number: int = 1) -> Advance:
        assert self.state.in_flight is not None
        asked = self.state.in_flight
        return self.tell(ActionAttempt(asked.id, asked.kind, number, "webhook", outcome, "said", 1_500), now_us)

    def wants(self) -> bool:
        """Whether the action in flight is wanted still."""
        assert self.state.in_flight is not None
        return still_wanted(TOY, self.state, self.state.in_flight, None)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def override(mode: Any, until_us: int, status: str = "") -> OverrideGranted:
    return OverrideGranted(mode=mode, until_us=until_us, by="ana", reason="drill", status=status)


def test_a_signal_older_than_the_newest_of_its_kind_is_stale_and_changes_nothing(machine: Machine) -> None:
    machine.queue(100, 10 * S)
    before = machine.state
    step = machine.queue(0, 11 * S, observed_us=9 * S)
    assert (step.outcome, step.rule, step.action) == ("stale", "overlay.stale", None)
    assert machine.state == before


def test_kinds_without_a_tolerance_come_in_any_order(machine: Machine) -> None:
    machine.tell(Alert("f", "firing", "critical", "n"), 10 * S)
    assert machine.tell(Alert("g", "firing", "critical", "n"), 11 * S, observed_us=1).outcome == "decided"


def test_a_refused_event_leaves_the_state_as_it_was(machine: Machine) -> None:
    machine.queue(5, S)
    before = machine.state
    assert machine.queue(13, 2 * S).outcome == "rejected"
    assert machine.state == before


def test_a_new_effect_is_asked_for_once(machine: Machine) -> None:
    step = machine.queue(100, S)
    assert step.action is not None
    assert (step.action.kind, step.action.establishes) == ("close", Effect("close"))
    assert machine.queue(101, 2 * S).action is None
    machine.finish(3 * S)
    assert machine.state.applied == Effect("close")
    assert machine.queue(102, 4 * S).action is None


def test_while_an_action_is_in_flight_no_other_is_asked_for(machine: Machine) -> None:
    machine.queue(100, S)
    assert machine.queue(0, 2 * S).action is None
    assert machine.state.status == "LOW"
    step = machine.finish(3 * S)
    assert step.action is not None, "what was wanted meanwhile is asked for when the result is in"
    assert step.action.kind == "open"


def test_what_is_in_force_is_undone_before_a_mere_notice(machine: Machine) -> None:
    machine.queue(100, S)
    machine.finish(2 * S)
    step = machine.queue(10, 3 * S)
    assert step.action is not None
    assert step.action.kind == "open"
    then = machine.finish(4 * S).action
    assert then is not None
    assert then.kind == "notify"


def test_a_notice_needs_no_undoing(machine: Machine) -> None:
    machine.queue(10, S)
    machine.finish(2 * S)
    assert machine.queue(0, 3 * S).action is None
    assert machine.state.applied is None


def test_a_failed_action_is_not_success_and_is_asked_for_again_later(machine: Machine) -> None:
    machine.queue(100, S)
    step = machine.finish(2 * S, ok=False)
    assert machine.state.applied is None
    assert step.action is None
    assert machine.queue(100, 3 * S).action is None
    again = machine.tell(Timeout(), 2 * S + FAILED_RETRY_US)
    assert again.rule == "overlay.retry"
    assert again.action is not None
    assert again.action.kind == "close"


def test_what_may_have_been_done_is_taken_back_where_it_is_not_wanted(machine: Machine) -> None:
    machine.queue(100, S)
    machine.queue(0, 2 * S)
    step = machine.end(3 * S, "given_up", maybe=True)
    assert step.evidence["result"] == "unknown"
    assert step.action is not None
    assert (step.action.kind, step.action.establishes) == ("open", None)
    machine.finish(4 * S)
    assert (machine.state.applied, machine.state.doubt) == (None, None)
    assert machine.queue(0, 5 * S).action is None


def test_an_unanswered_attempt_leaves_the_same_doubt_whatever_the_result_says_of_it(machine: Machine) -> None:
    machine.queue(100, S)
    machine.attempt(2 * S, "unanswered")
    machine.queue(0, 3 * S)
    step = machine.end(4 * S, "refused")
    assert step.action is not None
    assert step.action.kind == "open"


def test_what_is_known_not_to_have_been_done_needs_no_taking_back(machine: Machine) -> None:
    machine.queue(100, S)
    machine.attempt(2 * S, "failed")
    machine.queue(0, 3 * S)
    step = machine.end(4 * S, "given_up")
    assert step.evidence["result"] == "failed"
    assert step.action is None


def test_what_may_have_been_taken_back_is_asked_for_again_where_it_is_wanted_again(machine: Machine) -> None:
    machine.queue(100, S)
    machine.finish(2 * S)
    assert machine.queue(0, 3 * S).action is not None
    machine.queue(100, 4 * S)
    step = machine.end(5 * S, "withdrawn", maybe=True)
    assert step.action is not None, "although it is what was last known to stand"
    assert step.action.kind == "close"
    machine.finish(6 * S)
    assert machine.state.doubt is None
    assert machine.queue(101, 7 * S).action is None


def test_the_doubt_outlives_a_signal_a_notice_and_a_failed_attempt_to_end_it(machine: Machine) -> None:
    machine.queue(100, S)
    machine.end(2 * S, "given_up", maybe=True)
    machine.queue(101, 3 * S)
    assert machine.state.doubt == Effect("close")
    machine.tell(Timeout(), 3 * S + FAILED_RETRY_US)
    machine.end(4 * S + FAILED_RETRY_US, "refused")
    assert machine.state.doubt == Effect("close")
    machine.queue(0, 5 * S + FAILED_RETRY_US)
    assert machine.state.in_flight is not None
    assert machine.state.in_flight.kind == "open"


def test_an_undo_that_failed_is_not_forgotten_over_a_notice(machine: Machine) -> None:
    machine.queue(100, S)
    machine.finish(2 * S)
    assert machine.queue(10, 3 * S).action is not None
    assert machine.wants(), "the notice comes after it"
    machine.finish(4 * S, ok=False)
    again = machine.tell(Timeout(), 4 * S + FAILED_RETRY_US).action
    assert again is not None
    assert again.kind == "open"


def test_an_action_is_wanted_until_the_machine_would_ask_for_something_else(machine: Machine) -> None:
    machine.queue(100, S)
    assert machine.wants()
    machine.queue(0, 2 * S)
    assert not machine.wants()
    machine.queue(100, 3 * S)
    assert machine.wants()


def test_what_was_taken_back_has_not_failed_and_is_asked_for_at_once_when_it_is_wanted(machine: Machine) -> None:
    machine.queue(100, S)
    step = machine.end(2 * S, "withdrawn")
    assert step.evidence["result"] == "withdrawn"
    assert machine.state.retry_us is None
    assert step.action is not None
    assert step.action.kind == "close"


def test_attempts_are_counted_and_change_nothing_else(machine: Machine) -> None:
    machine.queue(100, S)
    before = machine.state
    step = machine.attempt(2 * S, "failed", 1)
    assert (step.outcome, step.decision, step.rule, step.action) == ("decided", "none", "overlay.action_attempt", None)
    assert step.evidence["next_ms"] == 1_500
    step = machine.attempt(3 * S, "unanswered", 2)
    assert machine.state.in_flight is not None
    assert (machine.state.in_flight.attempts, machine.state.in_flight.doubtful) == (2, True)
    assert replace(machine.state, in_flight=before.in_flight) == before
    machine.finish(4 * S)
    late = machine.tell(ActionAttempt("act-gone", "close", 3, "webhook", "failed"), 5 * S)
    assert (late.outcome, late.rule) == ("stale", "overlay.unknown_action")


def test_the_result_of_an_action_that_is_not_in_flight_changes_nothing(machine: Machine) -> None:
    machine.queue(100, S)
    before = machine.state
    step = machine.tell(ActionResult("somebody-elses", "close", ok=True), 2 * S)
    assert (step.outcome, step.rule) == ("stale", "overlay.unknown_action")
    assert machine.state == before


@pytest.mark.parametrize("proof", ["read_back", "acknowledged"])
def test_the_receipt_of_a_result_says_how_it_is_known(machine: Machine, proof: Any) -> None:
    machine.queue(100, S)
    assert machine.state.in_flight is not None
    asked = machine.state.in_flight
    step = machine.tell(ActionResult(asked.id, asked.kind, ok=True, ended="done", proof=proof), 2 * S)
    assert step.evidence["proof"] == proof


def test_what_was_recorded_before_there_were_proofs_says_nothing_of_them(machine: Machine) -> None:
    machine.queue(100, S)
    assert "proof" not in machine.finish(2 * S).evidence


def test_three_silent_periods_make_a_machine_blind_and_it_says_so_once(machine: Machine) -> None:
    machine.queue(5, S)
    assert machine.state.core.due_us == 11 * S
    machine.tell(Timeout(), 16 * S)
    assert machine.state.blind
    assert machine.state.in_flight is not None
    assert machine.state.in_flight.kind == "notify"


def test_a_blind_machine_escalates_nothing_and_keeps_what_is_in_force(machine: Machine) -> None:
    machine.queue(10, S)
    machine.finish(S)
    step = machine.tell(Timeout(), 16 * S)
    assert step.decision == "blind"
    machine.finish(17 * S)
    assert machine.state.applied == EFFECTS[Level.MID]
    assert machine.state.status == "MID"
    assert step.deadline_us is None, "its own timeouts are withheld"


def test_the_next_signal_ends_blindness(machine: Machine) -> None:
    machine.queue(5, S)
    machine.tell(Timeout(), 16 * S)
    machine.queue(5, 20 * S)
    assert not machine.state.blind


def test_a_machine_is_blind_no_more_once_no_signal_is_due(machine: Machine) -> None:
    machine.queue(5, S)
    machine.tell(Timeout(), 16 * S)
    assert machine.state.blind
    # As a core does that an operator has moved on.
    machine.state = replace(machine.state, core=replace(machine.state.core, due_us=None))
    machine.finish(17 * S)
    assert not machine.state.blind


def test_hold_keeps_the_status_in_force_until_it_ends(machine: Machine) -> None:
    machine.queue(10, S)
    machine.finish(S)
    machine.tell(override("hold", 100 * S), 2 * S)
    step = machine.queue(100, 3 * S)
    assert (step.state.status, step.state.core.status, step.action) == ("MID", Level.HIGH, None)
    assert step.evidence["natural"] == "HIGH"
    ended = machine.tell(Timeout(), 100 * S)
    assert ended.rule == "overlay.override_ended"
    assert ended.state.status == "HIGH"
    assert ended.action is not None


def test_release_lifts_what_is_in_force_and_force_puts_a_status_in_force(machine: Machine) -> None:
    machine.queue(100, S)
    machine.finish(S)
    released = machine.tell(override("release", 100 * S), 2 * S)
    assert released.state.status == "LOW"
    assert released.action is not None
    assert released.action.kind == "open"
    machine.finish(3 * S)
    forced = machine.tell(override("force", 100 * S, status="HIGH"), 4 * S)
    assert forced.state.status == "HIGH"
    assert forced.action is not None
    assert forced.action.kind == "close"


def test_an_override_always_has_a_deadline_that_wakes_the_machine(machine: Machine) -> None:
    step = machine.tell(override("hold", 50 * S), S)
    assert step.deadline_us == 50 * S


def test_an_override_can_be_withdrawn_and_there_must_be_one(machine: Machine) -> None:
    assert machine.tell(OverrideEnded(by="ana"), S).outcome == "rejected"
    machine.tell(override("force", 100 * S, status="HIGH"), 2 * S)
    assert machine.tell(OverrideEnded(by="ana"), 3 * S).state.status == "LOW"
