"""What a play tells, event by event, and how it adds up."""

from collections import Counter
from typing import Any, Final

import msgspec
from msgspec import Struct

from governors.demo.script import Ask, time_at

QUIET_DECISIONS: Final = frozenset({"none"})


class Told(Struct, frozen=True, kw_only=True, tag_field="event", tag="world"):
    """Something happens in the world. `second` of the hour, `at` in RFC 3339."""

    second: int
    at: str
    tenant: str
    text: str


class Decided(Struct, frozen=True, kw_only=True, tag_field="event", tag="decision"):
    """The service decided; `reason` is its own sentence."""

    second: int
    at: str
    tenant: str
    governor: str
    subject: str
    outcome: str
    decision: str
    previous_state: str
    state: str
    reason: str
    receipt: str


class Acted(Struct, frozen=True, kw_only=True, tag_field="event", tag="action"):
    """An action that a decision asked for was carried out."""

    second: int
    at: str
    tenant: str
    governor: str
    subject: str
    action: str
    text: str
    receipt: str


class Asked(Struct, frozen=True, kw_only=True, tag_field="event", tag="admission"):
    """Requests (`what` they are) ask whether they may pass: by class, how many asked and how many may."""

    second: int
    at: str
    tenant: str
    what: str
    asked: dict[str, int]
    passed: dict[str, int]
    why: str
    retry_after_s: int


Event = Told | Decided | Acted | Asked
EVENTS: Final = (Told, Decided, Acted, Asked)


def told(second: int, tenant: str, text: str) -> Told:
    """An event of the world, now."""
    return Told(second=second, at=time_at(second), tenant=tenant, text=text)


def decided(second: int, result: dict[str, Any]) -> Decided:
    """A decision as the service's stream tells it."""
    fields = {name: result[name] for name in Decided.__struct_fields__ if name in result}
    return Decided(second=second, at=time_at(second), **fields)


def asked(second: int, tenant: str, ask: Ask, passed: Counter[str], why: str, retry_after_s: int) -> Asked:
    """The answers to one question."""
    return Asked(
        second=second,
        at=time_at(second),
        tenant=tenant,
        what=ask.what,
        asked={name: count * ask.cost for name, count in ask.classes.items()},
        passed={name: passed[name] * ask.cost for name in ask.classes},
        why=why,
        retry_after_s=retry_after_s,
    )


class Tally:
    """Everything that was decided about one tenant, whether it was worth a line or not."""

    def __init__(self, tenant: str, about: str) -> None:
        self.tenant = tenant
        self.about = about
        self.signals = 0
        self.again = 0
        self.outcomes: Counter[str] = Counter()
        self.receipts = 0
        self.actions: list[str] = []
        self.asked: list[Asked] = []
        # Of each machine: the states it went through, and what was decided other than to let things be.
        self.states: dict[str, list[str]] = {}
        self.decisions: dict[str, list[str]] = {}

    def note(self, event: Event) -> bool:
        """Count it; returns whether it is news."""
        match event:
            case Decided():
                return self._note_decision(event)
            case Acted():
                self.actions.append(event.action)
            case Asked():
                self.asked.append(event)
            case Told():
                pass
        return True

    def _note_decision(self, event: Decided) -> bool:
        self.receipts += 1
        self.outcomes[event.outcome] += 1
        if event.outcome == "refused":
            # All refusals say the same; the first is news, the sum is told at the end.
            return self.outcomes["refused"] == 1
        machine = f"{event.governor}/{event.subject}" if event.subject else event.governor
        states = self.states.setdefault(machine, [event.previous_state])
        moved = event.state != states[-1]
        if moved:
            states.append(event.state)
        if event.decision not in QUIET_DECISIONS:
            self.decisions.setdefault(machine, []).append(event.decision)
        return moved or event.decision not in QUIET_DECISIONS


class Milestone(Struct, frozen=True):
    """One thing that the story must show."""

    tenant: str
    text: str
    seen: bool


class TenantSummary(Struct, frozen=True):
    """What became of one tenant."""

    tenant: str
    about: str
    state: str
    signals: int
    repeated: int
    refused: int
    receipts: int
    decisions: int
    actions: int


class Summary(Struct, frozen=True, kw_only=True, tag_field="event", tag="summary"):
    """The last line. `ok`: the story came out as it must and its ledger holds."""

    ok: bool
    seed: int
    seconds: float
    signals: int
    receipts: int
    tenants: list[TenantSummary]
    milestones: list[Milestone]
    ledger: dict[str, Any]
    folder: str | None


def as_json(event: Event | Summary) -> str:
    """One line."""
    return msgspec.json.encode(event).decode()
