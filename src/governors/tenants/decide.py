"""Decide one event of one tenant: pure, so that a stranger can run it again from the receipt and the payload."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast, get_args

from msgspec import Struct
from msgspec.structs import replace

from governors.fsm.table import Evidence
from governors.machines.catalog import BY_SIGNAL, TENANT
from governors.machines.conduct import ACTS
from governors.machines.conflicts import Fellow
from governors.machines.events import (
    ActionAttempt,
    ActionResult,
    Event,
    OverrideEnded,
    OverrideGranted,
    Reconsider,
    RuntimeEvent,
    Timeout,
)
from governors.machines.governor import Governor
from governors.machines.overlays import Advance, MachineState, OpenAction, Turn, advance, initial, on_signal
from governors.machines.profiles import Profile
from governors.tenants.records import Header, machine_key
from governors.tenants.terms import Terms
from ingest.signals import Signal, TenantEntitlement

TENANT_VERSION: Final = 1
ENTITLEMENT_KEY: Final = machine_key(TENANT, "")
EVENT_NAMES: Final[Mapping[type, str]] = {
    Timeout: "timeout",
    ActionResult: "action.result",
    ActionAttempt: "action.attempt",
    OverrideGranted: "override.granted",
    OverrideEnded: "override.ended",
    Reconsider: "reconsider",
}
assert set(EVENT_NAMES) == set(get_args(RuntimeEvent))  # noqa: S101 - a new event must get its public name


class Decided(Struct, frozen=True, gc=False):
    """What became of an event, before it has a receipt.

    `state` is what the machine is from now on (None when there is none to speak of) and `deadline_us` when it next
    wants a Timeout; `header` the tenant's new header (None when it stays); `action` what is to be carried out once
    the receipt is committed.
    """

    outcome: str
    decision: str
    rule: str
    evidence: Evidence
    governor: str
    version: int
    subject: str
    event: str
    from_status: str
    to_status: str
    state: MachineState[Any] | None = None
    deadline_us: int | None = None
    header: Header | None = None
    action: OpenAction | None = None
    event_id: str = ""


class Quarantine(Struct, frozen=True, tag="quarantine"):
    """The runtime's word that a tenant failed too often (`why` says on what), or an operator's that it may go on."""

    quarantined: bool
    why: str


class EmergencyStop(Struct, frozen=True, tag="emergency_stop"):
    """An operator's word (`why` says whose) that a tenant's governors decide and act on nothing, or act again."""

    stopped: bool
    why: str


class Moment(Struct, frozen=True, gc=False):
    """What decisions are taken under: the time, the tenant's terms, all profiles that there are, who acts, how many
    machines a tenant may have, and those that it has, as they are.
    """

    now_us: int
    terms: Terms
    profiles: Mapping[str, Profile]
    actor: str
    machines_max: int
    fellows: Mapping[str, Fellow]


def decide_signal(
    header: Header,
    governor: Governor | None,
    state: MachineState[Any] | None,
    machines: int,
    horizon_us: int,
    signal: Signal,
    moment: Moment,
    sequence: int,
) -> Decided:
    """Decide a signal of which no repetition is remembered.

    `governor` is the one that takes it, None for the tenant itself; `state` its machine's, None where it would be the
    first; `machines` how many the tenant has. What was observed at or before `horizon_us` (-1: there is none) may have
    been decided and forgotten. `sequence` is that of the tenant's receipt to come.
    """
    if signal.observed_us <= horizon_us:
        return _before_horizon(governor, state, signal, horizon_us)
    if governor is None:
        return _decide_entitlement(header, signal, moment)
    if state is None and machines >= moment.machines_max:
        return _refuse(
            governor, signal, "tenant.too_many_machines", {"limit": moment.machines_max, "machines": machines}
        )
    if header.entitlement != "active":
        rule = "tenant.unknown" if header.entitlement == "unknown" else "tenant.not_active"
        return _refuse(governor, signal, rule, {"status": header.entitlement})
    before = initial(governor, moment.now_us) if state is None else state
    event = Event(signal.id, signal.observed_us, signal.data)
    step = on_signal(_turn(governor, signal.subject, event, moment, sequence), before)
    return _decided(governor, signal.subject, signal.kind, signal.id, before.status, step)


def decide_event(
    governor: Governor, subject: str, state: MachineState[Any], event: Event, moment: Moment, sequence: int
) -> Decided:
    """Decide what the runtime itself has to tell a machine."""
    step = advance(_turn(governor, subject, event, moment, sequence), state)
    return _decided(governor, subject, EVENT_NAMES[type(event.body)], event.id, state.status, step)


def listens(header: Header, deadline_us: int | None, event: Event, now_us: int) -> bool:
    """Whether the runtime may tell a machine this: timeouts wait while the tenant is not governed, or are not due."""
    if header.quarantined:
        return False
    if not isinstance(event.body, Timeout):
        return True
    return header.entitlement == "active" and deadline_us is not None and deadline_us <= now_us


def quarantine(header: Header, change: Quarantine, now_us: int) -> Decided:
    """Quarantine a tenant or release it."""
    after = replace(header, quarantined=change.quarantined, since_us=now_us)
    return Decided(
        outcome="decided",
        decision="quarantine" if change.quarantined else "release",
        rule="tenant.quarantine" if change.quarantined else "tenant.released",
        evidence={"error" if change.quarantined else "by": change.why},
        governor=TENANT,
        version=TENANT_VERSION,
        subject="",
        event="tenant.quarantine",
        from_status=tenant_status(header),
        to_status=tenant_status(after),
        header=after,
        event_id=f"quarantine-{now_us}",
    )


def emergency_stop(header: Header, change: EmergencyStop, now_us: int) -> Decided:
    """Stop a tenant's governors from acting, or let them act again."""
    status = tenant_status(header)
    return Decided(
        outcome="decided",
        decision="emergency_stop" if change.stopped else "resume",
        rule="tenant.emergency_stop" if change.stopped else "tenant.resumed",
        evidence={"by": change.why},
        governor=TENANT,
        version=TENANT_VERSION,
        subject="",
        event="tenant.emergency_stop",
        from_status=status,
        to_status=status,
        header=replace(header, stopped=change.stopped),
        event_id=f"emergency-stop-{now_us}",
    )


def put_aside(header: Header, signal: Signal, rule: str, evidence: Evidence) -> Decided:
    """A signal that is not decided, because its machine fails on it or the tenant is quarantined."""
    return _undecided(signal, "dead_lettered", tenant_status(header), rule, evidence)


def repeated(signal: Signal, status: str) -> Decided:
    """A signal that is decided already. It gets no receipt."""
    return _undecided(signal, "duplicate", status, "", {})


def give_up(governor: Governor, subject: str, status: str, event: Event, evidence: Evidence) -> Decided:
    """An event of the runtime's own on which a machine fails."""
    return Decided(
        outcome="dead_lettered",
        decision="none",
        rule="tenant.dead_lettered",
        evidence=evidence,
        governor=governor.name,
        version=governor.version,
        subject=subject,
        event=EVENT_NAMES[type(event.body)],
        from_status=status,
        to_status=status,
        event_id=event.id,
    )


def _undecided(signal: Signal, outcome: str, status: str, rule: str, evidence: Evidence) -> Decided:
    return Decided(
        outcome=outcome,
        decision="none",
        rule=rule,
        evidence=evidence,
        governor=machine_of(signal),
        version=TENANT_VERSION,
        subject=signal.subject,
        event=signal.kind,
        from_status=status,
        to_status=status,
        event_id=signal.id,
    )


def machine_of(signal: Signal) -> str:
    """The name of the governor that takes a signal, or `tenant`."""
    governor = BY_SIGNAL.get(type(signal.data))
    return TENANT if governor is None else governor.name


@lru_cache(maxsize=16_384)
def window_key(machine: str, subject: str) -> str:
    """What a horizon holds for: a machine. The tenant itself is one, whatever subject a sender gives it.

    Remembered, because a recovery asks for each receipt, and keeps what it gets for each.
    """
    return ENTITLEMENT_KEY if machine == TENANT else machine_key(machine, subject)


def _turn(governor: Governor, subject: str, event: Event, moment: Moment, sequence: int) -> Turn:
    terms, name = moment.terms, governor.name
    conduct = terms.conducts.get(name, ACTS) if terms.conducts else ACTS
    return Turn(
        governor, event, terms.profile.policies[name], moment.now_us, moment.actor, sequence, conduct, subject,
        moment.fellows,
    )  # fmt: skip


def _before_horizon(
    governor: Governor | None, state: MachineState[Any] | None, signal: Signal, horizon_us: int
) -> Decided:
    name, version = (TENANT, TENANT_VERSION) if governor is None else (governor.name, governor.version)
    status = "" if state is None else state.status
    return Decided(
        outcome="stale",
        decision="none",
        rule="tenant.before_horizon",
        evidence={"behind_ms": (horizon_us - signal.observed_us) // 1000},
        governor=name,
        version=version,
        subject=signal.subject,
        event=signal.kind,
        from_status=status,
        to_status=status,
        event_id=signal.id,
    )


def _refuse(governor: Governor, signal: Signal, rule: str, evidence: Evidence) -> Decided:
    """A signal that no machine sees. It may come again, and be decided then."""
    return Decided(
        outcome="refused",
        decision="none",
        rule=rule,
        evidence=evidence,
        governor=governor.name,
        version=governor.version,
        subject=signal.subject,
        event=signal.kind,
        from_status="",
        to_status="",
        event_id=signal.id,
    )


def _decide_entitlement(header: Header, signal: Signal, moment: Moment) -> Decided:
    """Move the tenant itself. An unknown profile is refused: it must never come to mean "allow"."""
    data = cast("TenantEntitlement", signal.data)
    profile = data.profile or header.profile
    evidence: Evidence = {"profile": profile, "source": signal.source, "status": data.status}
    stale = signal.observed_us < header.observed_us
    if stale:
        behind_ms = (header.observed_us - signal.observed_us) // 1000
        return _entitled(signal, header, header, "stale", "overlay.stale", {"behind_ms": behind_ms})
    if profile not in moment.profiles:
        return _entitled(signal, header, header, "rejected", "tenant.entitlement_unknown_profile", evidence)
    moved = Header(
        tenant=header.tenant,
        entitlement=data.status,
        profile=profile,
        since_us=header.since_us if data.status == header.entitlement else moment.now_us,
        observed_us=signal.observed_us,
        quarantined=header.quarantined,
        pseudonym=header.pseudonym,
        stopped=header.stopped,
    )
    return _entitled(signal, header, moved, "decided", "tenant.entitlement", evidence)


def tenant_status(header: Header) -> str:
    """The tenant's own status as receipts name it."""
    return "QUARANTINED" if header.quarantined else header.entitlement.upper()


def _entitled(signal: Signal, before: Header, after: Header, outcome: str, rule: str, evidence: Evidence) -> Decided:
    moved = tenant_status(after) != tenant_status(before) or after.profile != before.profile
    return Decided(
        outcome=outcome,
        decision="entitle" if moved else "none",
        rule=rule,
        evidence=evidence,
        governor=TENANT,
        version=TENANT_VERSION,
        subject="",
        event="tenant.entitlement",
        from_status=tenant_status(before),
        to_status=tenant_status(after),
        header=after if outcome == "decided" else None,
        event_id=signal.id,
    )


def _decided(governor: Governor, subject: str, event: str, event_id: str, from_status: str, step: Advance) -> Decided:
    return Decided(
        step.outcome,
        step.decision,
        step.rule,
        step.evidence,
        governor.name,
        governor.version,
        subject,
        event,
        from_status,
        step.state.status,
        step.state,
        step.deadline_us,
        None,
        step.action,
        event_id,
    )
