"""Decide one event of one tenant: pure, so that a stranger can run it again from the receipt and the payload."""

from collections.abc import Mapping
from typing import Any, Final, get_args

from msgspec import Struct

from governors.fsm.table import Evidence
from governors.machines.catalog import BY_NAME, BY_SIGNAL, TENANT
from governors.machines.events import ActionResult, Event, OverrideEnded, OverrideGranted, RuntimeEvent, Timeout
from governors.machines.governor import Governor
from governors.machines.overlays import MachineState, OpenAction, Turn, advance, initial
from governors.machines.profiles import Profile
from governors.tenants.records import Header, MachineRecord, machine_key
from ingest.signals import Signal, TenantEntitlement

TENANT_VERSION: Final = 1
EVENT_NAMES: Final[Mapping[type, str]] = {
    Timeout: "timeout",
    ActionResult: "action.result",
    OverrideGranted: "override.granted",
    OverrideEnded: "override.ended",
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


class Moment(Struct, frozen=True, gc=False):
    """What a decision is taken under: the time, the tenant's profile, the limits, the id an action would get."""

    now_us: int
    profile: Profile
    profiles: Mapping[str, Profile]
    machines_max: int
    action_id: str


def decide_signal(
    header: Header, machines: Mapping[str, MachineRecord[Any]], signal: Signal, moment: Moment
) -> Decided:
    """Decide a signal that is known to be new."""
    data = signal.data
    if isinstance(data, TenantEntitlement):
        return decide_entitlement(header, signal, data, moment)
    governor = BY_SIGNAL[type(data)]
    if header.entitlement != "active":
        rule = "tenant.unknown" if header.entitlement == "unknown" else "tenant.not_active"
        return _refused(governor, signal, "refused", rule, {"status": header.entitlement})
    record = machines.get(machine_key(governor.name, signal.subject))
    if record is not None:
        state = record.state
    elif len(machines) < moment.machines_max:
        state = initial(governor, moment.now_us)
    else:
        evidence: Evidence = {"limit": moment.machines_max, "machines": len(machines)}
        return _refused(governor, signal, "refused", "tenant.too_many_machines", evidence)
    event = Event(signal.id, signal.observed_us, data)
    return _advance(governor, signal.subject, state, event, signal.kind, moment)


def decide_event(record: MachineRecord[Any], event: Event, moment: Moment) -> Decided:
    """Decide what the runtime itself has to tell a machine."""
    governor, name = BY_NAME[record.governor], EVENT_NAMES[type(event.body)]
    return _advance(governor, record.subject, record.state, event, name, moment)


def decide_entitlement(header: Header, signal: Signal, data: TenantEntitlement, moment: Moment) -> Decided:
    """Move the tenant itself. An unknown profile is refused: it must never come to mean "allow"."""
    profile = data.profile or header.profile
    evidence: Evidence = {"profile": profile, "source": signal.source, "status": data.status}
    stale = signal.observed_us < header.observed_us
    if stale:
        behind_ms = (header.observed_us - signal.observed_us) // 1000
        return _entitled(header, header, "stale", "overlay.stale", {"behind_ms": behind_ms})
    if profile not in moment.profiles:
        return _entitled(header, header, "rejected", "tenant.entitlement_unknown_profile", evidence)
    moved = Header(
        tenant=header.tenant,
        entitlement=data.status,
        profile=profile,
        since_us=header.since_us if data.status == header.entitlement else moment.now_us,
        observed_us=signal.observed_us,
        quarantined=header.quarantined,
    )
    return _entitled(header, moved, "decided", "tenant.entitlement", evidence)


def tenant_status(header: Header) -> str:
    """The tenant's own status as receipts name it."""
    return "QUARANTINED" if header.quarantined else header.entitlement.upper()


def _entitled(before: Header, after: Header, outcome: str, rule: str, evidence: Evidence) -> Decided:
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
    )


def _refused(governor: Governor, signal: Signal, outcome: str, rule: str, evidence: Evidence) -> Decided:
    return Decided(
        outcome, "none", rule, evidence, governor.name, governor.version, signal.subject, signal.kind, "", ""
    )


def _advance(
    governor: Governor, subject: str, before: MachineState[Any], event: Event, name: str, moment: Moment
) -> Decided:
    turn = Turn(governor, event, moment.profile.policies[governor.name], moment.now_us, moment.action_id)
    step = advance(turn, before)
    return Decided(
        step.outcome,
        step.decision,
        step.rule,
        step.evidence,
        governor.name,
        governor.version,
        subject,
        name,
        before.status,
        step.state.status,
        step.state,
        step.deadline_us,
        None,
        step.action,
    )
