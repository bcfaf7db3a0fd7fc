"""The Cost Guard under its overlays: what is in force and asked for outside."""

from governors.machines.cost_guard import COST_GUARD
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_state import CostStatus
from governors.machines.events import ActionResult, Event, EventBody, OverrideGranted, Timeout
from governors.machines.overlays import Advance, MachineState, OpenAction, Turn, advance, initial
from ingest.signals import BudgetSet, CostSnapshot, EpochMicros, Micros, parse_micros

HOUR = 3_600_000_000
NOVEMBER = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
MID = NOVEMBER + 21 * 24 * HOUR


class Governed:
    """A machine whose actions all succeed at once."""

    def __init__(self) -> None:
        self.state: MachineState[object] = initial(COST_GUARD, MID)
        self.now_us = MID
        self.asked: list[OpenAction] = []
        self.due_us: int | None = None

    def tell(self, body: EventBody) -> Advance:
        turn = Turn(COST_GUARD, Event("e", self.now_us, body), CostPolicy(), self.now_us, "cost", len(self.asked))
        moved = advance(turn, self.state)
        self.state, self.due_us = moved.state, moved.deadline_us
        if moved.action is not None:
            self.asked.append(moved.action)
            self.tell(ActionResult(action_id=moved.action.id, kind=moved.action.kind, ok=True))
        return moved

    def cost(self, amount: str) -> Advance:
        return self.tell(CostSnapshot(parse_micros(amount), parse_micros("1000"), "USD", EpochMicros(NOVEMBER)))

    def run_timers(self, until_us: int) -> None:
        while self.due_us is not None and self.due_us <= until_us:
            self.now_us = max(self.now_us, self.due_us)
            self.tell(Timeout())
        self.now_us = until_us

    @property
    def kinds(self) -> list[str]:
        return [action.kind for action in self.asked]


def test_each_limit_asks_for_its_action_once() -> None:
    governed = Governed()
    for cost in ("400", "500", "501", "900", "901", "1000", "1001"):
        governed.cost(cost)
    assert governed.kinds == ["notify", "throttle", "stop"]


def test_a_raised_budget_ramps_up_and_restores_at_the_end() -> None:
    governed = Governed()
    governed.cost("1000")
    governed.tell(BudgetSet(Micros(5_000_000_000), "USD", "month"))
    assert governed.state.status == CostStatus.RECOVERING
    governed.run_timers(MID + HOUR)
    assert governed.state.status == CostStatus.NORMAL
    assert governed.kinds == ["stop", *["throttle"] * 12, "restore"]


def test_a_release_lifts_a_stop_for_its_time_only() -> None:
    governed = Governed()
    governed.cost("1000")
    governed.tell(OverrideGranted(mode="release", until_us=MID + HOUR, by="ann", reason="launch day"))
    assert governed.state.status == CostStatus.WARN
    governed.run_timers(MID + HOUR)
    assert governed.state.status == CostStatus.STOP
    assert governed.kinds == ["stop", "restore", "notify", "stop"]


def test_extra_budget_ends_with_its_override() -> None:
    governed = Governed()
    governed.cost("1000")
    extra = parse_micros("1500")
    governed.tell(
        OverrideGranted(mode="extra_budget", until_us=MID + 3 * HOUR, by="ann", reason="sale", extra_micros=extra)
    )
    assert governed.state.status == CostStatus.RECOVERING
    governed.run_timers(MID + 3 * HOUR)
    assert governed.state.status == CostStatus.STOP


def test_a_feed_that_is_silent_for_a_day_leaves_the_machine_blind_and_as_it_was() -> None:
    governed = Governed()
    governed.cost("950")
    governed.run_timers(MID + 24 * HOUR)
    assert governed.state.blind
    before = governed.state.core
    governed.run_timers(MID + 30 * 24 * HOUR)
    assert governed.state.core == before


def test_a_snapshot_observed_before_the_newest_one_is_stale() -> None:
    governed = Governed()
    governed.cost("600")
    governed.now_us -= HOUR
    assert governed.cost("100").outcome == "stale"
