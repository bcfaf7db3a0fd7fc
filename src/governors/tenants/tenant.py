"""One active tenant: a task that takes work from its mailbox and decides it, one event after the other.

A step that raises changes nothing. The task ends with the error, its supervisor starts it again, and the same event
is tried anew; after its third failure the event goes to the dead letters with a receipt, and the tenant goes on.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from governors.admission import Admission
from governors.fsm.table import Evidence
from governors.machines.catalog import BY_NAME, BY_SIGNAL, TENANT
from governors.machines.conflicts import precedence
from governors.machines.events import Event, Reconsider, Timeout
from governors.machines.governor import ADMIT_ALL
from governors.machines.overlays import OpenAction
from governors.machines.wanted import still_wanted
from governors.tenants.decide import (
    ENTITLEMENT_KEY,
    Decided,
    EmergencyStop,
    Moment,
    Quarantine,
    decide_event,
    decide_signal,
    emergency_stop,
    give_up,
    listens,
    machine_of,
    put_aside,
    quarantine,
    repeated,
    tenant_status,
    window_key,
)
from governors.tenants.dedup import DedupWindow, TenantWindow, signal_key
from governors.tenants.outcome import Outcome, Ticket
from governors.tenants.policy import InForce
from governors.tenants.records import (
    HEADER_KEY,
    SEPARATOR,
    Header,
    Machine,
    MachineRecord,
    machine_key,
    plain,
    state_key,
)
from governors.tenants.timers import Timers, retry_after_us
from governors.tenants.windows import NEVER_US
from ingest.dead_letter import DeadLetterSink
from ingest.signals import Signal
from ledger.appender import Ledger
from ledger.draft import Draft
from ledger.errors import PushbackError
from ledger.format.receipt import Fsm

# So that one tenant with a long mailbox does not keep the event loop from the others, and that of batches that came
# together the first ones are finished, and can be written, while the rest is decided. Fewer would find the caches cold:
# a turn for each batch took 5 % more of the processor.
EVENTS_PER_TURN: Final = 32
ERROR_CHARS_MAX: Final = 200
MOVED_ON: Final = "taken back: the machine has moved on"


@dataclass(frozen=True, slots=True)
class OpenWork:
    """An action of one machine, to be carried out once its receipt is committed. `again`: it was open before, and
    nobody here knows whether it went out.
    """

    tenant: str
    key: str
    governor: str
    subject: str
    action: OpenAction
    receipt: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Shared:
    """What all tenants of a partition share."""

    ledger: Ledger
    window: DedupWindow
    timers: Timers
    admission: Admission
    dead_letters: DeadLetterSink
    in_force: InForce
    clock_us: Callable[[], int]
    on_action: Callable[[OpenWork], None]
    on_decided: Callable[[str, Decided, int], None]
    on_settled: Callable[[int], None]
    machines_max: int
    attempts_max: int


class Group:
    """The signals of one ticket that are this tenant's, by position; `next` is the first one not yet settled."""

    __slots__ = ("attempts", "error", "last_receipt", "next", "positions", "ticket")

    def __init__(self, ticket: Ticket, positions: list[int]) -> None:
        self.ticket = ticket
        self.positions = positions
        self.next = 0
        self.last_receipt = -1
        self.attempts = 0
        self.error = ""

    def fail(self, error: Exception) -> None:
        """Nobody will decide the rest."""
        self.ticket.fail(error)


class Internal:
    """Something the runtime tells one machine; `done` gets what became of it and the receipt's index."""

    __slots__ = ("attempts", "done", "error", "event", "key")

    def __init__(self, key: str, event: Event, done: "asyncio.Future[tuple[Decided, int] | None] | None") -> None:
        self.key = key
        self.event = event
        self.done = done
        self.attempts = 0
        self.error = ""

    def settle(self, result: tuple[Decided, int] | None) -> None:
        """Tell whoever waits; None when the machine is not there, or could not decide."""
        if self.done is not None and not self.done.done():
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        """Nobody will tell the machine."""
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # seen: not everybody waits


class Tenant:
    """The live tenant. Everything but `run` is synchronous: between two awaits its state is whole."""

    def __init__(
        self, shared: Shared, header: Header, records: Mapping[str, MachineRecord[Any]], *, header_kept: bool
    ) -> None:
        """`header_kept` says that the ledger has the header; else the first receipt brings it there."""
        self.shared = shared
        self.header = header
        self._terms_us = shared.clock_us()
        self.terms = shared.in_force.terms(header, self._terms_us)
        self.machines = {
            key: Machine.of(header.tenant, record, self.terms.profile.policies[record.governor])
            for key, record in records.items()
        }
        self.pseudonym = shared.ledger.pseudonym(header.tenant)
        self._sequence = shared.ledger.next_tseq(header.tenant)
        self.window: TenantWindow = shared.window.tenant(self.pseudonym)
        self.mailbox: deque[Group | Internal] = deque()
        self.idle_since_us = shared.clock_us()
        self.retiring = False
        self.failed = ""
        self._wake: asyncio.Future[None] | None = None
        self._header_kept = header_kept
        self._failed_timeouts: dict[str, tuple[int, int]] = {}
        """By machine's key: how many of its timeouts in a row were given up, and when (µs) to ask it again."""

    def deliver(self, work: Group | Internal) -> None:
        """Put work into the mailbox and wake the task."""
        self.mailbox.append(work)
        self._rouse()

    def retire(self) -> None:
        """Let the task end when the mailbox is empty."""
        self.retiring = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        """Decide until told to retire. Raises what a machine raised; the event that did it stays at the head."""
        loop = asyncio.get_running_loop()
        mailbox = self.mailbox
        if self.failed:
            await self._enter_quarantine()
        while True:
            in_a_row = 0
            while mailbox:
                work = mailbox[0]
                if isinstance(work, Group):
                    await self._decide_group(work)
                    in_a_row += len(work.positions)
                else:
                    await self._decide_internal(work)
                    in_a_row += 1
                mailbox.popleft()
                if in_a_row >= EVENTS_PER_TURN and mailbox:
                    in_a_row = 0
                    await asyncio.sleep(0)
            self.idle_since_us = self.shared.clock_us()
            if self.retiring:
                return
            self._wake = loop.create_future()
            await self._wake

    async def _enter_quarantine(self) -> None:
        while self.failed:
            try:
                self.set_quarantine(quarantined=True, why=self.failed)
                self.failed = ""
            except PushbackError:
                await self._ledger_has_room()

    async def _decide_group(self, group: Group) -> None:
        """Decide what is left of a group, a bounded number of signals at a time."""
        while group.next < len(group.positions):
            begun = group.next
            try:
                self._decide_some(group)
            except PushbackError:
                await self._ledger_has_room()
            except Exception as error:
                group.attempts += 1
                group.error = _brief(error)
                raise
            finally:
                settled = group.next - begun
                if settled:
                    group.ticket.settle(settled, group.last_receipt)
                    self.shared.on_settled(settled)
            if self.header.quarantined or group.attempts >= self.shared.attempts_max:
                await self._put_aside(group)
            elif group.next < len(group.positions):
                await asyncio.sleep(0)

    def _decide_some(self, group: Group) -> None:
        """Decide the next signals of a group. The one that raises is the next one still."""
        signals, outcomes = group.ticket.signals, group.ticket.outcomes
        if self.header.quarantined or group.attempts >= self.shared.attempts_max:
            return
        moment = self._moment()
        for position in group.positions[group.next : group.next + EVENTS_PER_TURN]:
            if moment.terms is not self.terms:  # an entitlement among these signals has changed them
                moment = self._moment()
            outcome = outcomes[position] = self._decide(signals[position], moment)
            if outcome.receipt > group.last_receipt:
                group.last_receipt = outcome.receipt
            group.next += 1
            group.attempts = 0

    async def _put_aside(self, group: Group) -> None:
        """Dead-letter the next signal of a group."""
        position = group.positions[group.next]
        signal = group.ticket.signals[position]
        if self.header.quarantined:
            outcome = await self._dead_letter(signal, "tenant.quarantined", {}, "quarantined")
        else:
            evidence: Evidence = {"attempts": group.attempts, "error": group.error}
            outcome = await self._dead_letter(signal, "tenant.dead_lettered", evidence, group.error)
        group.ticket.outcomes[position] = outcome
        group.next += 1
        group.attempts = 0
        group.ticket.settle(1, outcome.receipt)
        self.shared.on_settled(1)

    async def _decide_internal(self, work: Internal) -> None:
        machine = self.machines.get(work.key)
        while True:
            # Anew after each wait: the terms may be others by then.
            moment = self._moment()
            if machine is None or not self._listens(machine, work.event, moment.now_us):
                work.settle(None)
                return
            try:
                if work.attempts >= self.shared.attempts_max:
                    work.settle(self._give_up(machine, work, moment))
                else:
                    work.settle(self._tell(machine, work.event, moment))
                return
            except PushbackError:
                await self._ledger_has_room()
            except Exception as error:
                work.attempts += 1
                work.error = _brief(error)
                raise

    async def _ledger_has_room(self) -> None:
        ledger = self.shared.ledger
        await ledger.wait_local(ledger.size - 1)

    def _decide(self, signal: Signal, moment: Moment) -> Outcome:
        """Decide one signal and append its receipt: all of it, or nothing."""
        window = self.window
        # `signal_key` and `machine_key`, spelled out: this runs for every signal.
        key = signal.source + SEPARATOR + signal.id
        original = window.seen.get(key)
        if original is not None:
            return self._duplicate(signal, original)
        governor = BY_SIGNAL.get(type(signal.data))
        machine_name = ENTITLEMENT_KEY if governor is None else governor.name + SEPARATOR + signal.subject
        machine = self.machines.get(machine_name)
        decided = decide_signal(
            self.header,
            governor,
            None if machine is None else machine.state,
            len(self.machines),
            window.horizons.get(machine_name, -1) if window.horizons else -1,
            signal,
            moment,
            self._sequence,
        )
        now_us = moment.now_us
        index = self._append(decided, signal.source, signal.observed_us, signal.payload, now_us)
        if decided.outcome != "refused":
            # A refused signal may come again once the tenant is active, and must be decided then.
            self.shared.window.remember(window, key, machine_name, signal.observed_us, index, now_us)
        self._apply(decided, machine_name, machine, index)
        return Outcome(signal, decided, index)

    def _tell(self, machine: Machine, event: Event, moment: Moment) -> tuple[Decided, int]:
        """Decide an event of the runtime's own and append its receipt."""
        governor, subject = machine.governor, machine.subject
        decided = decide_event(governor, subject, machine.state, event, moment, self._sequence)
        # Without a source it can be no sender's signal, whatever its id.
        index = self._append(decided, "", event.observed_us, _encode_event(event), moment.now_us)
        key = machine_key(governor.name, subject)
        self._apply(decided, key, machine, index)
        if isinstance(event.body, Timeout):
            self._failed_timeouts.pop(key, None)
        return decided, index

    def _give_up(self, machine: Machine, work: Internal, moment: Moment) -> tuple[Decided, int]:
        """Leave a receipt that the machine could not be told; its payload keeps what it should have been told."""
        event = work.event
        evidence: Evidence = {"attempts": work.attempts, "error": work.error}
        decided = give_up(machine.governor, machine.subject, machine.state.status, event, evidence)
        index = self._append(decided, "", event.observed_us, _encode_event(event), moment.now_us)
        self._apply(decided, work.key, machine, index)
        if isinstance(event.body, Timeout):
            # Its time is over all the same: it must be asked again, but each attempt costs the tenant restarts.
            failures = self._failed_timeouts.get(work.key, (0, 0))[0] + 1
            again_us = moment.now_us + retry_after_us(failures, self.pseudonym)
            self._failed_timeouts[work.key] = failures, again_us
            self._arm(work.key, again_us)
        return decided, index

    def _listens(self, machine: Machine, event: Event, now_us: int) -> bool:
        """Whether the machine may be told; a timeout that is early is set anew."""
        key = machine_key(machine.governor.name, machine.subject)
        if listens(self.header, machine.deadline_us, event, now_us):
            again_us = self._failed_timeouts.get(key, (0, 0))[1]
            if not isinstance(event.body, Timeout) or again_us <= now_us:
                return True
            self._arm(key, again_us)
        elif machine.deadline_us is not None and self.header.entitlement == "active" and not self.header.quarantined:
            self._arm(key, machine.deadline_us)
        return False

    def _moment(self) -> Moment:
        shared = self.shared
        now_us = shared.clock_us()
        if not self._terms_us <= now_us < self.terms.until_us:
            self.look_at_terms()
        return Moment(
            now_us, self.terms, shared.in_force.policy.profiles, self.pseudonym, shared.machines_max, self.machines
        )

    def _append(self, decided: Decided, source: str, observed_us: int, payload: bytes, now_us: int) -> int:
        action = decided.action
        index = self.shared.ledger.append(
            Draft(
                self.header.tenant,
                decided.event_id,
                source,
                observed_us,
                now_us,
                decided.outcome,
                decided.decision,
                decided.rule,
                decided.evidence,
                Fsm(
                    decided.event,
                    decided.from_status,
                    decided.governor,
                    decided.subject,
                    decided.to_status,
                    decided.version,
                ),
                self.terms.profile.digest,
                () if action is None else (action.id,),
                payload,
            )
        )
        self._sequence += 1
        return index

    def _let_fellows_look(self) -> None:
        """A machine ended an action or is in another status: whoever waits for that sees what there is to be done."""
        waiting = [one for one in self.machines.values() if one.state.restraint.waits]
        for machine in sorted(waiting, key=precedence):
            self._reconsider(machine)

    def _reconsider(self, machine: Machine) -> None:
        name, now_us = machine.governor.name, self.shared.clock_us()
        event = Event(f"reconsider-{name}-{machine.subject}-{now_us}", now_us, Reconsider())
        self.deliver(Internal(machine_key(name, machine.subject), event, None))

    def _apply(self, decided: Decided, key: str, machine: Machine | None, index: int) -> None:
        """Make a decision that has its receipt the tenant's present."""
        shared, tenant, state = self.shared, self.header.tenant, decided.state
        if state is not None:
            was_in_flight, moved = None, False
            if machine is None:
                governor = BY_NAME[decided.governor]
                policy = self.terms.profile.policies[decided.governor]
                machine = self.machines[key] = Machine(tenant, governor, decided.subject, policy, state)
                machine.because_rule, machine.because_evidence = decided.rule, decided.evidence
            else:
                was_in_flight, moved = machine.state.in_flight, decided.to_status != decided.from_status
                if moved:
                    machine.because_rule, machine.because_evidence = decided.rule, decided.evidence
            machine.state = state
            machine.deadline_us = decided.deadline_us
            machine.last_receipt = index
            shared.ledger.put_state(machine.state_key, machine)
            if decided.deadline_us is not None:
                shared.timers.arm(tenant, key, decided.deadline_us)
            self._admit_as(key, machine)
            if moved or (was_in_flight is not None and _has_ended(was_in_flight, state.in_flight)):
                self._let_fellows_look()
            if decided.action is not None:
                machine.asked_receipt = index
                shared.on_action(OpenWork(tenant, key, decided.governor, decided.subject, decided.action, index))
        if decided.header is not None:
            self._become(decided.header)
        elif not self._header_kept:
            self._become(self.header)
        shared.on_decided(tenant, decided, index)

    def _become(self, header: Header) -> None:
        """Take on a header: keep it in the ledger, let admission know, set the timers going again."""
        self.header = header
        self._header_kept = True
        self.shared.ledger.put_state(state_key(header.tenant), header)
        self.look_at_terms()
        self.restore()

    def look_at_terms(self) -> None:
        """Govern on the terms of now. Machines that were not to act and are now see what there is to be done."""
        now_us = self._terms_us = self.shared.clock_us()
        self.terms = self.shared.in_force.terms(self.header, now_us)
        for key, machine in self.machines.items():
            name = machine.governor.name
            machine.policy = self.terms.profile.policies[name]
            self._admit_as(key, machine)
            restraint = machine.state.restraint
            if restraint.withheld and restraint.again_us is None and not self.terms.conduct(name).observes:
                self._reconsider(machine)
        if self.terms.until_us < NEVER_US:
            self._arm(HEADER_KEY, self.terms.until_us)

    def restore(self) -> None:
        """Make timers and admission what the records say; actions still open are the outbox's to send again."""
        if self.terms.until_us < NEVER_US or any(one.state.restraint.withheld for one in self.machines.values()):
            self._arm(HEADER_KEY, self._terms_us)
        active = self.header.entitlement == "active"
        self.shared.admission.set_refused(self.header.tenant, None if active else self.header.entitlement)
        for key, machine in self.machines.items():
            self._admit_as(key, machine)
            if active and machine.deadline_us is not None:
                self._arm(key, machine.deadline_us)

    def open_work(self) -> Iterator[OpenWork]:
        """The actions that have not ended, as they were asked for: for whoever carries them out after a while of which
        nothing is known.
        """
        for key, machine in self.machines.items():
            action = machine.state.in_flight
            if action is not None:
                asked = machine.asked_receipt if machine.asked_receipt >= 0 else machine.last_receipt
                name, subject = machine.governor.name, machine.subject
                yield OpenWork(self.header.tenant, key, name, subject, action, asked, again=True)

    def why_not(self, work: OpenWork) -> str:
        """Why an action that was asked for shall not be done any more, on the terms of now; "" where it shall."""
        machine = self.machines.get(work.key)
        if machine is None or not still_wanted(machine.governor, machine.state, work.action, machine.policy):
            return MOVED_ON
        return self.terms.conduct(work.governor).observes

    def _arm(self, key: str, deadline_us: int) -> None:
        self.shared.timers.arm(self.header.tenant, key, deadline_us)

    def _admit_as(self, key: str, machine: Machine) -> None:
        state, governor = machine.state, machine.governor
        core = state.core
        # Mostly what is in force is what the core says; making the enum of a word costs more than comparing it.
        status = core.status if core.status == state.status else governor.status(state.status)
        is_observer = self.terms.conducts and self.terms.conduct(governor.name).observes
        rule = ADMIT_ALL if is_observer else governor.admit(core, status, machine.policy)
        if rule != machine.admit:
            machine.admit = rule
            self.shared.admission.update(self.header.tenant, key, rule)

    def _duplicate(self, signal: Signal, original: int) -> Outcome:
        machine = self.machines.get(machine_key(machine_of(signal), signal.subject))
        status = machine.state.status if machine is not None else tenant_status(self.header)
        return Outcome(signal, repeated(signal, status), original)

    async def _dead_letter(self, signal: Signal, rule: str, evidence: Evidence, error: str) -> Outcome:
        """Put a signal aside durably, then leave the receipt that says so."""
        shared = self.shared
        key = signal_key(signal.source, signal.id)
        if (original := self.window.seen.get(key)) is not None:
            return self._duplicate(signal, original)
        now_us = shared.clock_us()
        await shared.dead_letters.put(
            reason=rule, tenant=signal.tenant, payload=signal.payload, attributes={}, error=error, now_us=now_us
        )
        while True:
            try:
                # The receipt is of the moment before the wait, and so are its terms, under the policy of now.
                self.terms, self._terms_us = shared.in_force.terms(self.header, now_us), now_us
                decided = put_aside(self.header, signal, rule, evidence)
                index = self._append(decided, signal.source, signal.observed_us, signal.payload, now_us)
                break
            except PushbackError:
                await self._ledger_has_room()
        machine = window_key(decided.governor, signal.subject)
        shared.window.remember(self.window, key, machine, signal.observed_us, index, now_us)
        self._apply(decided, machine, None, index)
        return Outcome(signal, decided, index)

    def set_quarantine(self, *, quarantined: bool, why: str) -> int:
        """Quarantine the tenant or release it, with a receipt; returns the receipt's index. `why` is who or what."""
        now_us = self._moment().now_us
        change = Quarantine(quarantined=quarantined, why=why[:ERROR_CHARS_MAX])
        decided = quarantine(self.header, change, now_us)
        index = self._append(decided, "", now_us, _encode_event(change), now_us)
        self._apply(decided, TENANT, None, index)
        if not quarantined:
            # Results that came meanwhile were told to nobody: the actions are carried out again, under their ids.
            for work in self.open_work():
                self.shared.on_action(work)
        return index

    def set_emergency_stop(self, *, stopped: bool, why: str) -> int:
        """Stop the tenant's governors from acting, or let them act, with a receipt; returns the receipt's index."""
        now_us = self._moment().now_us
        change = EmergencyStop(stopped=stopped, why=why[:ERROR_CHARS_MAX])
        decided = emergency_stop(self.header, change, now_us)
        index = self._append(decided, "", now_us, _encode_event(change), now_us)
        self._apply(decided, TENANT, None, index)
        return index


def _has_ended(before: OpenAction, after: OpenAction | None) -> bool:
    return before is not after and (after is None or after.id != before.id)


_encode_event: Final = msgspec.json.Encoder(enc_hook=plain).encode


def _brief(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    # What an exception says may hold anything; a receipt is strict UTF-8.
    return text.encode("utf-8", "replace").decode()[:ERROR_CHARS_MAX]
