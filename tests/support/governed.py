"""The governors of one tenant with all that stands above them, told things by hand, and held to what always holds.

As the runtime asks them (`decide.py`), without a ledger: `tell` takes a decision twice and compares, and keeps what was
asked for, so that whatever may never happen is noticed when it does.
"""

from typing import Any, Final

import msgspec

from governors.fsm.table import Evidence, step
from governors.machines.catalog import BY_NAME, RULES
from governors.machines.conduct import RATE_MAX, RATE_US, STORM_REPEATS, STORM_US, Asking, Conduct
from governors.machines.conflicts import NOTICES, TENANT_RATE_MAX, targets
from governors.machines.events import (
    ActionAttempt,
    ActionResult,
    Event,
    OverrideEnded,
    OverrideGranted,
    Reconsider,
    Timeout,
)
from governors.machines.explain import explain
from governors.machines.governor import Effect, Governor
from governors.machines.overlays import Advance, MachineState, OpenAction, Turn, advance, deadline, initial

NOON_US: Final = 1_795_348_800_000_000
ALL_ACTIONS: Final = tuple(
    sorted({kind for one in BY_NAME.values() for kind in (*one.undo, *one.undo.values(), *one.lasting)})
)
ASKS: Final = Conduct(asks=dict.fromkeys(ALL_ACTIONS, Asking(900_000_000, "drop")))
ASKS_AND_ACTS: Final = Conduct(asks=dict.fromkeys(ALL_ACTIONS, Asking(300_000_000, "act")))
OBSERVES: Final = Conduct(observes="window night")


class Governed:
    """One machine. `conduct` and `policy` may be changed between two events."""

    def __init__(self, governor: Governor, subject: str, policy: Any, now_us: int) -> None:
        self.governor = governor
        self.subject = subject
        self.policy = policy
        self.conduct = Conduct()
        self.state: MachineState[Any] = initial(governor, now_us)
        self.asked: list[tuple[int, Effect]] = []

    @property
    def key(self) -> str:
        return f"{self.governor.name}/{self.subject}"


class House:
    """A tenant's machines and their clock. `seen` has, by rule, evidence as verdicts carried it."""

    def __init__(self, policies: dict[str, Any] | None = None, subjects: tuple[str, ...] = ("default",)) -> None:
        self.now_us = NOON_US
        self.machines = {
            one.key: one
            for governor in BY_NAME.values()
            for subject in subjects
            for one in [Governed(governor, subject, (policies or {}).get(governor.name) or governor.policy(), NOON_US)]
        }
        self.seen: dict[str, Evidence] = {}
        self._number = 0
        self._open: dict[str, Effect] = {}

    def tell(self, key: str, body: Any, *, behind_us: int = 0) -> Advance:
        """Decide one event, hold it to what always holds, and let those who waited look again."""
        machine = self.machines[key]
        before = machine.state
        self._number += 1
        event = Event(f"e{self._number}", self.now_us - behind_us, body)
        turn = Turn(
            machine.governor, event, machine.policy, self.now_us, "tenant", self._number, machine.conduct,
            machine.subject, self.machines,
        )  # fmt: skip
        found = advance(turn, before)
        assert advance(turn, before) == found, "deterministic"
        self._check(machine, before, found, body)
        if found.outcome == "decided" and isinstance(body, OverrideGranted | OverrideEnded | ActionResult):
            # What the machine itself says to these mostly stands behind what the overlays say.
            verdict = step(machine.governor.table, before.core, event, machine.policy, self.now_us)
            self._check_sentence(verdict.rule, verdict.evidence)
        machine.state = found.state
        self._check_blind(machine, before, body)
        after = found.state.in_flight
        ended = before.in_flight is not None and (after is None or after.id != before.in_flight.id)
        if ended or before.status != found.state.status:
            for one in list(self.machines.values()):
                if one.state.restraint.waits and not one.conduct.observes:
                    self.tell(one.key, Reconsider())
        return found

    def finish(self, key: str, *, ok: bool = True, ended: Any = "", maybe: bool = False) -> None:
        """The machine's open action, if there is one, has ended."""
        action = self.machines[key].state.in_flight
        if action is not None:
            self.tell(key, ActionResult(action.id, action.kind, ok, maybe=maybe, ended=ended))

    def attempt(self, key: str, outcome: Any) -> None:
        """An attempt at the machine's open action, if there is one, has not ended it."""
        action = self.machines[key].state.in_flight
        if action is not None:
            self.tell(key, ActionAttempt(action.id, action.kind, action.attempts + 1, "webhook", outcome, "said"))

    def finish_all(self, *, ok: bool = True) -> None:
        """All open actions, also those that are asked for meanwhile; a storm ends them at the latest."""
        while open_ := [one.key for one in self.machines.values() if one.state.in_flight is not None]:
            for key in open_:
                self.finish(key, ok=ok)

    def due_us(self, key: str) -> int | None:
        """When the machine wants a Timeout."""
        machine = self.machines[key]
        return deadline(machine.governor, machine.state, machine.policy)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with all that is due on the way."""
        until_us = self.now_us + int(seconds * 1_000_000)
        for _ in range(200):
            due = [(at_us, key) for key in self.machines if (at_us := self.due_us(key)) is not None]
            at_us, key = min(due, default=(until_us + 1, ""))
            if at_us > until_us:
                break
            self.now_us = max(self.now_us, at_us)
            self.tell(key, Timeout())
        self.now_us = max(self.now_us, until_us)

    def reconsider(self) -> None:
        """The terms may be others: as the runtime tells those whose actions were withheld."""
        for one in list(self.machines.values()):
            restraint = one.state.restraint
            if restraint.withheld and restraint.again_us is None and not one.conduct.observes:
                self.tell(one.key, Reconsider())

    # What always holds

    def _check(self, machine: Governed, before: MachineState[Any], found: Advance, body: Any) -> None:
        self._check_sentence(found.rule, found.evidence)
        if found.rule == "overlay.lifted":
            # A person has looked at it: what was asked for before counts no more.
            machine.asked.clear()
        encoded = msgspec.msgpack.encode(found.state, enc_hook=int)
        assert msgspec.msgpack.decode(encoded, type=MachineState[machine.governor.state]) == found.state  # type: ignore[name-defined]
        if found.outcome != "decided":
            assert found.state == before, "what is not decided changes nothing"
        if found.action is None:
            if found.state.restraint.withheld:
                assert machine.conduct.observes or found.state.restraint.why
            return
        assert before.in_flight is None or isinstance(body, ActionResult), "one at a time"
        self._check_action(machine, found, found.action)

    def _check_sentence(self, rule: str, evidence: Evidence) -> None:
        for name, value in evidence.items():
            assert name.isascii()
            assert type(value) is str or (type(value) is int and abs(value) < 2**53), (rule, name, value)
        self.seen.setdefault(rule, evidence)
        sentence = explain(RULES, rule, evidence)
        assert sentence != rule, f"{rule} has no sentence for {evidence}"
        assert "{" not in sentence

    def _check_action(self, machine: Governed, found: Advance, action: OpenAction) -> None:
        assert found.state.in_flight == action
        assert not machine.conduct.observes, "who observes acts on nothing"
        if action.kind in NOTICES:
            return
        what = Effect(action.kind, action.params)
        mine = targets(machine.governor.name, machine.subject, action.params)
        for one in self.machines.values():
            theirs = one.state.in_flight
            if one is not machine and theirs is not None and theirs.kind not in NOTICES:
                others = targets(one.governor.name, one.subject, theirs.params)
                assert mine.isdisjoint(others), "one action for each target"
                assert ("",) not in mine | others, "the Cost Guard's is the whole tenant"
        if action.kind in machine.conduct.asks:
            answered = found.state.restraint.answered
            assert answered is not None
            assert answered.approved
            assert answered.kind == action.kind
        lately = [(at_us, asked) for at_us, asked in machine.asked if at_us > self.now_us - STORM_US]
        assert sum(asked == what for _, asked in lately) < STORM_REPEATS - 1
        in_minute = [at_us for at_us, _ in machine.asked if at_us > self.now_us - RATE_US]
        assert len(in_minute) < RATE_MAX
        together = [at_us for one in self.machines.values() for at_us, _ in one.asked if at_us > self.now_us - RATE_US]
        assert len(together) < TENANT_RATE_MAX
        machine.asked.append((self.now_us, what))

    def _check_blind(self, machine: Governed, before: MachineState[Any], body: Any) -> None:
        if before.blind and isinstance(body, Timeout) and before.override is None:
            severity = machine.governor.severity
            status = machine.governor.status
            assert severity[status(machine.state.status)] <= severity[status(before.status)], "escalates nothing"
