"""The Backlog Valve as the runtime asks it, under its overlays: what must never happen, whatever it is told."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.valve import SECOND_US, START_US

from governors.fsm.table import Verdict, step
from governors.machines.backlog_valve import BACKLOG_VALVE, TABLE
from governors.machines.events import ActionResult, Event, EventBody, OverrideEnded, OverrideGranted, Timeout
from governors.machines.governor import AdmitRule
from governors.machines.overlays import Advance, MachineState, Turn, advance, deadline, initial
from governors.machines.valve_policy import ValvePolicy
from governors.machines.valve_state import ValveState
from ingest.signals import QueueSample

SEVERITY = {str(status): severity for status, severity in BACKLOG_VALVE.severity.items()}
CALM = st.builds(QueueSample, st.integers(0, 3), st.floats(0, 0.005), st.floats(0, 60), st.floats(0, 60))
BUSY = st.builds(QueueSample, st.integers(2_000, 90_000), st.floats(10, 90), st.floats(50, 300), st.floats(80, 120))
SAMPLES = (
    CALM | BUSY | st.builds(QueueSample, st.integers(0, 5_000), st.floats(0, 60), st.floats(0, 300), st.floats(0, 200))
)
PROFILES = st.sampled_from(["queue", "rpc"])


class OverlaidValve(RuleBasedStateMachine):
    """A clock, a machine under its overlays, and the one action that may be open."""

    @initialize(profile=PROFILES)
    def begin(self, profile: Any) -> None:
        self.policy = ValvePolicy(profile=profile)
        self.now_us = START_US
        self.number = 0
        self.state: MachineState[Any] = initial(BACKLOG_VALVE, self.now_us)

    def tell(self, body: EventBody) -> Advance:
        self.number += 1
        before = self.state
        turn = Turn(
            BACKLOG_VALVE, Event(str(self.number), self.now_us, body), self.policy, self.now_us, "a", self.number
        )
        found = advance(turn, before)
        kept = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=MachineState[ValveState])
        assert advance(turn, kept) == found, "deterministic, also after a restart"
        if found.action is not None:
            ended = (
                isinstance(body, ActionResult)
                and before.in_flight is not None
                and body.action_id == before.in_flight.id
            )
            assert before.in_flight is None or ended, "one action at a time"
            assert found.state.in_flight == found.action
        elif not isinstance(body, ActionResult):
            assert found.state.in_flight == before.in_flight, "an action stays open until its result is in"
        if before.blind and isinstance(body, Timeout):
            assert found.state.core == before.core
            if before.override is None:
                assert SEVERITY[found.state.status] <= SEVERITY[before.status], "nothing escalates unseen"
        if before.override is not None and before.override.mode == "hold" and found.state.override is before.override:
            assert found.state.status == before.status
        self.state = found.state
        return found

    @rule(samples=st.lists(SAMPLES, min_size=1, max_size=12), after_s=st.sampled_from([0.25, 1.0, 10.0]))
    def sample(self, samples: list[QueueSample], after_s: float) -> None:
        for one in samples:
            self.now_us += int(after_s * SECOND_US)
            self.tell(one)
            assert not self.state.blind

    @rule(samples=st.lists(BUSY, min_size=4, max_size=12))
    def press(self, samples: list[QueueSample]) -> None:
        self.sample(samples, 10.0)

    @rule(samples=st.lists(CALM, min_size=4, max_size=30))
    def relax(self, samples: list[QueueSample]) -> None:
        self.sample(samples, 10.0)

    @rule()
    def come_due(self) -> None:
        due_us = deadline(BACKLOG_VALVE, self.state, self.policy)
        if due_us is not None:
            self.now_us = max(self.now_us, due_us)
            self.tell(Timeout())

    @rule(times=st.integers(1, 4))
    def fall_silent(self, times: int) -> None:
        for _ in range(times):
            self.come_due()

    @precondition(lambda self: self.state.in_flight is not None)
    @rule(ok=st.booleans())
    def end_the_action(self, ok: bool) -> None:
        assert self.state.in_flight is not None
        self.tell(ActionResult(self.state.in_flight.id, self.state.in_flight.kind, ok=ok))

    @rule()
    def hear_of_a_foreign_action(self) -> None:
        before = self.state
        assert self.tell(ActionResult("act-other", "shed", ok=True)).outcome == "stale"
        assert self.state == before

    @rule(mode=st.sampled_from(["hold", "release", "force"]), lasts_s=st.integers(1, 600))
    def override(self, mode: Any, lasts_s: int) -> None:
        until_us = self.now_us + lasts_s * SECOND_US
        self.tell(OverrideGranted(mode=mode, until_us=until_us, by="b", reason="r", status="SHEDDING"))

    @precondition(lambda self: self.state.override is not None)
    @rule()
    def end_the_override(self) -> None:
        self.tell(OverrideEnded(by="b"))


TestOverlaidValve = OverlaidValve.TestCase
TestOverlaidValve.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


def allowed(state: ValveState, policy: ValvePolicy) -> tuple[int, AdmitRule]:
    return BACKLOG_VALVE.severity[state.status], BACKLOG_VALVE.admit(state, state.status, policy)


@given(
    PROFILES,
    st.lists(st.sampled_from(["press", "relax", "hold"]), max_size=8),
    st.tuples(st.integers(0, 5_000), st.floats(0, 60), st.floats(0, 300), st.floats(0, 200)),
    st.integers(0, 5_000),
    st.floats(0, 60),
)
@settings(max_examples=200, deadline=None)
def test_a_deeper_queue_with_longer_waits_never_makes_it_milder(
    profile: Any, past: list[str], sample: tuple[int, float, float, float], deeper: int, older_s: float
) -> None:
    """From the same state, after the same rates: severity is no lower, and no more is let in."""
    policy = ValvePolicy(profile=profile)
    state: ValveState = BACKLOG_VALVE.initial()
    now_us, period_us = START_US, policy.interval_ms * 250

    def tell(depth: int, age_s: float, in_rate: float, done_rate: float) -> ValveState:
        body = QueueSample(depth, age_s, in_rate, done_rate)
        verdict: Verdict[ValveState] = step(TABLE, state, Event("e", now_us, body), policy, now_us)
        return verdict.state

    scenes = {"press": (3_000, 30.0, 200.0, 100.0), "relax": (0, 0.0, 60.0, 60.0), "hold": (20, 0.001, 100.0, 100.0)}
    for scene in past:
        for _ in range(6):
            now_us += period_us
            state = tell(*scenes[scene])
    now_us += period_us
    depth, age_s, in_rate, done_rate = sample
    milder, worse = tell(depth, age_s, in_rate, done_rate), tell(depth + deeper, age_s + older_s, in_rate, done_rate)
    mild_severity, mild_rule = allowed(milder, policy)
    bad_severity, bad_rule = allowed(worse, policy)
    assert bad_severity >= mild_severity
    # Once a backlog is drained, the limit aims at a shorter queue than while it was.
    if worse.status is milder.status and worse.control.due_us == milder.control.due_us:
        assert (bad_rule.rate_milli_per_s or 0) <= (mild_rule.rate_milli_per_s or 0)
    if worse.status is milder.status:
        assert bad_rule.fraction_ppm <= mild_rule.fraction_ppm
