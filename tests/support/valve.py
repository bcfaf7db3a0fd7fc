"""A Backlog Valve with a clock, held to what every step must keep; and a queue for it to govern."""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from governors.fsm.table import Verdict, step
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.events import Event, EventBody, Timeout
from governors.machines.explain import explain
from governors.machines.valve_policy import ValvePolicy
from governors.machines.valve_state import ValveState, ValveStatus
from ingest.signals import QueueSample, WorkDone

START_US = 1_790_812_800_000_000  # 2026-10-01T00:00:00Z
SECOND_US = 1_000_000


class Valve:
    """One machine, its clock and everything it decided."""

    def __init__(self, **policy: Any) -> None:
        self.policy = ValvePolicy(**policy)
        self.state: ValveState = BACKLOG_VALVE.initial()
        self.now_us = START_US
        self.verdicts: list[Verdict[ValveState]] = []

    @property
    def status(self) -> ValveStatus:
        return self.state.status

    @property
    def rules(self) -> list[str]:
        return [verdict.rule.removeprefix("valve.") for verdict in self.verdicts]

    @property
    def decisions(self) -> list[str]:
        return [verdict.decision for verdict in self.verdicts if verdict.decision != "none"]

    def tell(self, body: EventBody, *, observed_us: int | None = None) -> Verdict[ValveState]:
        observed_us = self.now_us if observed_us is None else observed_us
        verdict = step(BACKLOG_VALVE.table, self.state, Event("e", observed_us, body), self.policy, self.now_us)
        check(verdict)
        self.state = verdict.state
        self.verdicts.append(verdict)
        return verdict

    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND_US)

    def sample(
        self, depth: int, age_s: float, in_rate: float = 0.0, done_rate: float = 0.0, *, after_s: float = 10.0
    ) -> Verdict[ValveState]:
        """Time passes, then the queue is sampled."""
        self.wait(after_s)
        return self.tell(QueueSample(depth, age_s, in_rate, done_rate))

    def samples(self, times: int, depth: int, age_s: float, in_rate: float = 0.0, done_rate: float = 0.0) -> None:
        for _ in range(times):
            self.sample(depth, age_s, in_rate, done_rate)

    def work(self, sojourn_min_ms: float, *, window_s: float = 1.0, count: int = 100) -> Verdict[ValveState]:
        self.wait(window_s)
        return self.tell(WorkDone(count, 0, sojourn_min_ms, sojourn_min_ms * 3, window_s))

    def timeout(self) -> Verdict[ValveState]:
        """The clock moves to the deadline, which there must be."""
        deadline_us = BACKLOG_VALVE.deadline(self.state, self.policy)
        assert deadline_us is not None
        self.now_us = max(self.now_us, deadline_us)
        return self.tell(Timeout())

    @property
    def effect(self) -> Any:
        return BACKLOG_VALVE.effect(self.state, self.status, self.policy)

    @property
    def admits(self) -> Any:
        return BACKLOG_VALVE.admit(self.state, self.status, self.policy)


def check(verdict: Verdict[ValveState]) -> None:
    """What holds of every verdict: canonical evidence, a sentence that it fills, a state that can be kept."""
    for key, value in verdict.evidence.items():
        assert key.isascii()
        assert isinstance(value, (int, str))
        assert not isinstance(value, int) or abs(value) < 2**53, (key, value)
    assert explain(BACKLOG_VALVE.rules, verdict.rule, verdict.evidence) != verdict.rule
    kept = msgspec.msgpack.encode(verdict.state)
    assert msgspec.msgpack.decode(kept, type=ValveState) == verdict.state
    assert len(kept) < 300


class Queue:
    """A FIFO queue, second by second: messages wait in slices of the second they came in."""

    def __init__(self) -> None:
        self.slices: deque[list[float]] = deque()
        self.second = 0
        self.came_in = self.done = 0.0
        self.served = self.offered = 0.0
        self.served_by: list[float] = []
        self.age_max_s = 0

    @property
    def depth(self) -> int:
        return round(sum(amount for _, amount in self.slices))

    @property
    def age_s(self) -> int:
        return self.second - int(self.slices[0][0]) if self.slices else 0

    def advance(self, admitted: float, capacity: float) -> None:
        self.second += 1
        if admitted:
            self.slices.append([self.second, admitted])
        self.came_in += admitted
        while capacity > 1e-9 and self.slices:
            taken = min(capacity, self.slices[0][1])
            self.slices[0][1] -= taken
            capacity -= taken
            self.done += taken
            self.served += taken
            if self.slices[0][1] <= 1e-9:
                self.slices.popleft()
        self.age_max_s = max(self.age_max_s, self.age_s)
        self.served_by.append(self.served)

    def rate(self, from_s: int, until_s: int) -> float:
        """Messages served a second between two seconds."""
        return (self.served_by[until_s - 1] - self.served_by[from_s - 1]) / (until_s - from_s)


def govern(
    valve: Valve,
    seconds: int,
    demand: Callable[[int], float],
    capacity: Callable[[int], float],
    *,
    period_s: int = 10,
    has_rates: bool = True,
    jitter: Callable[[], float] = lambda: 1.0,
    delay_s: int = 0,
) -> Queue:
    """Let the valve govern a queue: `demand` and `capacity` are messages a second, by the second.

    What comes in and what can be done vary by `jitter`; what the valve decides holds `delay_s` later.
    """
    queue = Queue()
    rules = deque([valve.admits] * (delay_s + 1), maxlen=delay_s + 1)
    for second in range(seconds):
        rules.append(valve.admits)
        rule = rules[0]
        admitted = 0.0 if rule.critical_only else demand(second) * rule.fraction_ppm / 1e6
        if rule.rate_milli_per_s is not None:
            admitted = min(admitted, rule.rate_milli_per_s / 1000)
        queue.offered += demand(second)
        queue.advance(admitted * jitter(), capacity(second) * jitter())
        valve.wait(1)
        if (second + 1) % period_s:
            continue
        deadline_us = BACKLOG_VALVE.deadline(valve.state, valve.policy)
        if deadline_us is not None and deadline_us <= valve.now_us:
            valve.tell(Timeout())
        rates = (queue.came_in / period_s, queue.done / period_s) if has_rates else (0.0, 0.0)
        queue.came_in = queue.done = 0.0
        valve.sample(queue.depth, float(queue.age_s), *rates, after_s=0)
    return queue


def transitions(valve: Valve) -> list[ValveStatus]:
    """The statuses in order, each as often as it was entered."""
    statuses = [ValveStatus.OPEN]
    for verdict in valve.verdicts:
        if verdict.state.status is not statuses[-1]:
            statuses.append(verdict.state.status)
    return statuses
