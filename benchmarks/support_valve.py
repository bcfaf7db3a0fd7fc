"""The Backlog Valve before a made-up queue: the machine as the runtime asks it, and the admission arithmetic."""

from typing import Any, Final

from benchmarks.support_queue import CLASSES, Reading, Request
from governors.admission import Admission, Admitted
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.events import ActionResult, Event, EventBody, Timeout
from governors.machines.governor import SECOND_US, AdmitRule
from governors.machines.overlays import Advance, Turn, advance, initial
from governors.machines.valve_policy import ValvePolicy
from ingest.signals import QueueSample

_START_US: Final = 1_795_348_800_000_000
_TENANT: Final = "acme"
_KEY: Final = "backlog_valve\x1forders"


class Valve:
    """A gate that asks the machine at every reading. Actions succeed at once; the limit holds `delay_s` later."""

    def __init__(self, policy: ValvePolicy, look_s: float, delay_s: float = 0.0) -> None:
        self.look_s = look_s
        self.decided: list[tuple[float, Advance]] = []
        self._policy = policy
        self._delay_us = int(delay_s * SECOND_US)
        self._state = initial(BACKLOG_VALVE, _START_US)
        self._deadline_us: int | None = None
        self._admission = Admission()
        self._admission.update(_TENANT, _KEY, None)
        self._coming: list[tuple[int, AdmitRule]] = []

    def admit(self, request: Request, inflight: int) -> bool:  # noqa: ARG002 - a gate's shape
        now_us = _START_US + int(request.at * SECOND_US)
        while self._coming and self._coming[0][0] <= now_us:
            self._admission.update(_TENANT, _KEY, self._coming.pop(0)[1])
        return isinstance(self._admission.admit(_TENANT, CLASSES[request.rank], request.user, 1, now_us), Admitted)

    def start(self, at: float, waited_s: float, queued: int) -> bool:  # noqa: ARG002 - a gate's shape
        return True

    def done(self, at: float, sojourn_s: float, inflight: int) -> None: ...

    def look(self, at: float, reading: Reading) -> None:
        now_us = _START_US + int(at * SECOND_US)
        while self._deadline_us is not None and self._deadline_us <= now_us:
            self._tell(Timeout(), self._deadline_us)
        self._tell(QueueSample(reading.depth, reading.age_s, reading.in_rate, reading.done_rate), now_us)

    def _tell(self, body: EventBody, now_us: int) -> None:
        number = len(self.decided) + 1
        turn = Turn(BACKLOG_VALVE, Event(str(number), now_us, body), self._policy, now_us, "a", number)
        found = advance(turn, self._state)
        self.decided.append(((now_us - _START_US) / SECOND_US, found))
        self._state, self._deadline_us = found.state, found.deadline_us
        rule = BACKLOG_VALVE.admit(self._state.core, self._state.status, self._policy)
        self._coming.append((now_us + self._delay_us, rule))
        if found.action is not None:
            self._tell(ActionResult(found.action.id, found.action.kind, ok=True), now_us)


def changes(valve: Valve) -> list[tuple[float, str]]:
    """Every status that was entered, and when."""
    entered: list[tuple[float, str]] = []
    last: Any = "OPEN"
    for at, found in valve.decided:
        if found.state.status != last:
            last = found.state.status
            entered.append((at, last))
    return entered


def drains(valve: Valve) -> list[tuple[float, float]]:
    """Every promise that was kept: how long it took and how long it was promised to take, in seconds."""
    return [
        (int(found.evidence["drained_ms"]) / 1000, int(found.evidence["drain_ms"]) / 1000)
        for _, found in valve.decided
        if found.rule == "valve.drained"
    ]


def turns(valve: Valve) -> int:
    """The most changes of direction, tighter to looser or back, from leaving OPEN until it is OPEN again."""
    most = here = 0
    severity, direction = 0, 0
    for _, status in changes(valve):
        now = BACKLOG_VALVE.severity[BACKLOG_VALVE.status(status)]
        heading = 1 if now > severity else -1
        here += heading != direction
        most = max(most, here)
        severity, direction = now, heading
        if not severity:
            here, direction = 0, 0
    return most


def missed(valve: Valve) -> int:
    """Promises that were not kept."""
    return sum(found.rule == "valve.promise_missed" for _, found in valve.decided)
