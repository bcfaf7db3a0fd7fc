"""Whatever is sampled, however it comes: what the Backlog Valve never does."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.valve import SECOND_US, Valve

from governors.fsm.table import step
from governors.machines.backlog_valve import BACKLOG_VALVE, TABLE
from governors.machines.events import ActionResult, Event, EventBody, OverrideEnded, OverrideGranted, Timeout
from governors.machines.valve_control import LOOSER, TIGHTER
from governors.machines.valve_policy import interval_us
from governors.machines.valve_state import ValveState, ValveStatus
from ingest.signals import QueueSample, WorkDone

OPEN, SHEDDING, DRAINING, PROBING = ValveStatus
DEPTHS = st.sampled_from([0, 1, 3, 50, 200, 1_000, 20_000, 10**9, 2**53 - 1]) | st.integers(0, 5_000)
AGES_S = st.sampled_from([0.0, 0.5, 2.9, 3.0, 5.999, 6.0, 40.0, 1e6, 1e15]) | st.floats(0, 100)
RATES = st.sampled_from([0.0, 0.001, 20.0, 100.0, 1e6, 1e15]) | st.floats(0, 500)
CALM = st.builds(QueueSample, st.integers(0, 3), st.floats(0, 0.5), st.floats(0, 40), st.floats(0, 40))
BUSY = st.builds(QueueSample, st.integers(2_000, 90_000), st.floats(10, 90), st.floats(50, 300), st.floats(80, 120))
WILD = st.builds(QueueSample, DEPTHS, AGES_S, RATES, RATES)
WORK = st.builds(WorkDone, st.integers(0, 500), st.just(0), AGES_S, AGES_S, st.floats(0.1, 600))
SILENT = st.sampled_from(
    [
        Timeout(),
        OverrideEnded(),
        ActionResult(action_id="a", kind="close", ok=False),
        OverrideGranted(mode="release", until_us=1, by="b", reason="r"),
    ]
)


def limits(state: ValveState) -> tuple[int, int]:
    return state.control.limit_milli, state.control.share_ppm


class ValveMachine(RuleBasedStateMachine):
    """Samples good, bad and mad, early and late. `Valve.tell` checks targets, evidence, sentences and encoding."""

    @initialize(
        profile=st.sampled_from(["queue", "rpc"]),
        turn=st.integers(1, 3),
        dwell=st.integers(1, 4),
        calm=st.integers(1, 3),
    )
    def begin(self, profile: str, turn: int, dwell: int, calm: int) -> None:
        self.valve = Valve(profile=profile, turn_intervals=turn, dwell_intervals=dwell, calm_intervals=calm)
        self.turned_us = 0
        self.since_us = 0
        self.calm = 0

    def tell(self, body: QueueSample | WorkDone, late_s: float = 0.0) -> None:
        valve = self.valve
        before, at_us = valve.state, valve.now_us
        verdict = valve.tell(body, observed_us=at_us - int(late_s * SECOND_US))
        after = verdict.state
        interval = interval_us(valve.policy)

        if after.control.direction != before.control.direction:
            assert at_us - self.turned_us >= valve.policy.turn_intervals * interval
            self.turned_us = at_us
        tighter = after.control.direction == TIGHTER
        if after.status is not before.status:
            assert tighter or at_us - self.since_us >= valve.policy.dwell_intervals * interval
            assert before.status is not OPEN or at_us - self.since_us >= valve.policy.dwell_intervals * interval
            self.since_us = at_us
            self.opened_right(before.control.probe_ppm, after.status)
            if after.status is PROBING:
                assert before.control.calm_intervals >= valve.policy.calm_intervals - 1
        elif after.status is SHEDDING and limits(after) != limits(before):
            grew = limits(after) > limits(before)
            assert after.control.direction == (LOOSER if grew else TIGHTER)
            assert verdict.decision == "adjust"
        if after.control.climb_ppm > before.control.climb_ppm:
            assert after.sensor.depth - after.sensor.stuck_depth <= self.most_at_rest() / 8
            step_ppm = max(valve.policy.climb_max_ppm, valve.policy.limit_step_ppm)
            most = max(before.sensor.done_milli, int(getattr(body, "done_rate_per_s", 0.0) * 1000) + 1)
            assert after.sensor.done_milli <= most * (1_000_000 + step_ppm) // 1_000_000 + 1
        if verdict.rule == "valve.drained":
            assert after.control.due_us == 0 < before.control.due_us
        assert after.control.due_us == before.control.due_us or verdict.decision != "none" or not after.control.due_us

    def most_at_rest(self) -> float:
        """What may stand where work is held back or let in again: two fifths of what the target allows."""
        sensor = self.valve.state.sensor
        return 0.4 * max(sensor.done_milli, sensor.good_milli) / 1e6 * self.valve.policy.target_ms

    def opened_right(self, probe_ppm: int, status: ValveStatus) -> None:
        """It opens only after everything was let through, onto a queue under low water with short waits."""
        sensor, control = self.valve.state.sensor, self.valve.state.control
        if status is OPEN:
            assert probe_ppm == 1_000_000
        if status in (OPEN, PROBING):
            low = max(control.high_depth * self.valve.policy.low_water_ppm // 1_000_000, self.most_at_rest(), 1)
            assert sensor.depth - sensor.stuck_depth < low

    @rule(body=WILD | WORK, after_s=st.floats(0, 120), late_s=st.sampled_from([0.0, 0.0, 5.0, 4000.0, -4000.0]))
    def sample(self, body: QueueSample | WorkDone, after_s: float, late_s: float) -> None:
        self.valve.wait(after_s)
        self.tell(body, late_s)

    @rule(bodies=st.lists(BUSY, min_size=4, max_size=12), after_s=st.sampled_from([1.0, 10.0, 30.0]))
    def press(self, bodies: list[QueueSample], after_s: float) -> None:
        for body in bodies:
            self.valve.wait(after_s)
            self.tell(body)

    @rule(bodies=st.lists(CALM, min_size=4, max_size=40), after_s=st.sampled_from([1.0, 10.0, 30.0]))
    def relax(self, bodies: list[QueueSample], after_s: float) -> None:
        for body in bodies:
            self.valve.wait(after_s)
            self.tell(body)

    @rule(body=SILENT, after_s=st.floats(0, 400))
    def interrupt(self, body: Timeout, after_s: float) -> None:
        self.valve.wait(after_s)
        status, limit = self.valve.status, self.valve.effect
        self.valve.tell(body)
        assert (self.valve.status, self.valve.effect) == (status, limit)

    @precondition(lambda self: BACKLOG_VALVE.deadline(self.valve.state, self.valve.policy) is not None)
    @rule()
    def come_due(self) -> None:
        before = BACKLOG_VALVE.deadline(self.valve.state, self.valve.policy)
        self.valve.timeout()
        after = BACKLOG_VALVE.deadline(self.valve.state, self.valve.policy)
        # Or the same timeout would be due again at once, for ever.
        assert after is None or (before is not None and after > max(before, self.valve.now_us))

    @invariant()
    def effects_follow_the_status(self) -> None:
        if not hasattr(self, "valve"):
            return
        kinds = {OPEN: None, SHEDDING: "shed", DRAINING: "close", PROBING: "probe"}
        for status in ValveStatus:
            effect = BACKLOG_VALVE.effect(self.valve.state, status, self.valve.policy)
            assert (effect.kind if effect else None) == kinds[status]
            rule_in_force = BACKLOG_VALVE.admit(self.valve.state, status, self.valve.policy)
            assert 0 < rule_in_force.fraction_ppm <= 1_000_000
            assert rule_in_force.rate_milli_per_s is None or rule_in_force.rate_milli_per_s > 0
            assert rule_in_force.burst is None or rule_in_force.burst > 0


TestValveMachine = ValveMachine.TestCase
TestValveMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(st.lists(WILD | CALM | BUSY | WORK, max_size=60), st.sampled_from(["queue", "rpc"]))
@settings(max_examples=60, deadline=None)
def test_the_same_signals_lead_to_the_same_verdicts(bodies: list[QueueSample | WorkDone], profile: str) -> None:
    first, second = Valve(profile=profile), Valve(profile=profile)
    for body in bodies:
        for valve in (first, second):
            valve.wait(10)
            valve.tell(body)
    assert first.verdicts == second.verdicts


@given(st.sampled_from(list(TABLE)), WILD, WORK)
@settings(max_examples=60, deadline=None)
def test_every_row_answers_from_a_state_that_nothing_prepared(
    key: tuple[ValveStatus, type], sample: QueueSample, work: WorkDone
) -> None:
    status, kind = key
    bodies: dict[type, EventBody] = {
        QueueSample: sample,
        WorkDone: work,
        Timeout: Timeout(),
        OverrideEnded: OverrideEnded(),
        OverrideGranted: OverrideGranted(mode="hold", until_us=1, by="b", reason="r"),
        ActionResult: ActionResult(action_id="a", kind="shed", ok=True),
    }
    valve = Valve()
    bare = type(valve.state)(status=status)
    step(TABLE, bare, Event("e", valve.now_us, bodies[kind]), valve.policy, valve.now_us)
