"""The service behind the HTTP edge: what a runtime does, in the shapes that the edge answers with."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol, cast

from msgspec import UNSET, Raw
from msgspec.structs import replace

from governors.admission import Admitted, Refused, refused_by
from governors.api.pages import write_cursor
from governors.api.service import (
    ActionAsked,
    ActionsPage,
    ActionView,
    InvalidFieldError,
    MachineView,
    NotAcceptingError,
    NotFoundError,
    OpenActionView,
    OperationsPage,
    OperationView,
    OverrideGrant,
    OverrideResult,
    OverrideView,
    PoliciesView,
    ReceiptsPage,
    ReceiptView,
    Reloaded,
    SignalError,
    SignalResult,
    StopResult,
    TenantChange,
    TenantsPage,
    TenantView,
    Wait,
    WindowView,
    WithheldView,
)
from governors.auth.principal import Scope
from governors.machines.catalog import BY_NAME, RULES
from governors.machines.conduct import Restraint
from governors.machines.events import Event, OverrideEnded, OverrideGranted
from governors.machines.explain import explain
from governors.machines.overlays import OpenAction
from governors.outbox.outbox import OpenOrder
from governors.policies import Policies
from governors.runtime import Runtime
from governors.telemetry.metrics import Metrics
from governors.tenants.decide import Decided
from governors.tenants.operations import OPERATORS_TENANT, Operation, OperationInvalidError, decode_operation
from governors.tenants.outcome import Outcome
from governors.tenants.policy import Stop
from governors.tenants.records import Header, MachineRecord, machine_key
from governors.tenants.windows import NEVER_US
from ingest.decode.native import decode_native, encode_native
from ingest.signals import Signal, TenantEntitlement, format_time
from ledger.appender import StoredReceipt
from ledger.errors import PushbackError, ReceiptNotFoundError, StoreUnavailableError
from ledger.format import canonical

HTTP: Final = "http"
OPERATOR: Final = "operator"
RETRY_S: Final = 1.0
WATCHERS_MAX: Final = 100
WATCH_QUEUE_MAX: Final = 1_000
_QUIET: Final = frozenset({"none"})
# What a rejection is for counters, where it was a machine that refused and not a decoder.
_REFUSED_BY_MACHINE: Final = "refused_by_machine"


class Watchers:
    """Those who watch decisions as they are taken. One that falls behind loses the oldest, never holds us up."""

    def __init__(self) -> None:
        self._watchers: list[_Watcher] = []

    def tell(self, partition: int, tenant: str, decided: Decided, index: int) -> None:
        """Pass a decision on to those who asked for its like."""
        for one in self._watchers:
            if (one.scope is None or tenant in one.scope) and (one.every or decided.decision not in _QUIET):
                one.queue.append(_result_of_decided(partition, tenant, decided, index))
                one.wake.set()

    async def watch(self, scope: Scope, *, every: bool) -> AsyncIterator[SignalResult]:
        """Decisions from now on, until dismissed."""
        if len(self._watchers) >= WATCHERS_MAX:
            raise NotAcceptingError(f"{WATCHERS_MAX} others are watching", RETRY_S)
        watcher = _Watcher(scope, every)
        self._watchers.append(watcher)
        try:
            while True:
                watcher.wake.clear()
                while watcher.queue:
                    yield watcher.queue.popleft()
                if watcher.dismissed:
                    return
                await watcher.wake.wait()
        finally:
            self._watchers.remove(watcher)

    def dismiss(self) -> None:
        """Let everybody who watches now see the end: a server that stops does not wait for those who only listen."""
        for one in self._watchers:
            one.dismissed = True
            one.wake.set()


class _Watcher:
    """One who watches: whom, whether also what changed nothing, and what was not fetched yet."""

    __slots__ = ("dismissed", "every", "queue", "scope", "wake")

    def __init__(self, scope: Scope, every: bool) -> None:  # noqa: FBT001 - as the query has it
        self.scope = scope
        self.every = every
        self.queue: deque[SignalResult] = deque(maxlen=WATCH_QUEUE_MAX)
        self.wake = asyncio.Event()
        self.dismissed = False


class ReceiptReader(Protocol):
    """Reads receipts, wherever they are kept."""

    async def read(self, index: int) -> StoredReceipt: ...


class GovernorService:
    """What the edge's `Service` does about one partition, on its runtime. `missing` is what keeps it from taking
    anything.
    """

    def __init__(
        self,
        runtime: Runtime,
        metrics: Metrics,
        *,
        missing: Callable[[], list[str]],
        receipts: ReceiptReader | None = None,
    ) -> None:
        """`receipts` reads those that are no more in the ledger's segments too."""
        self._runtime = runtime
        self._partition = runtime.partition
        self._receipts: ReceiptReader = receipts or runtime.ledger
        self._metrics = metrics
        self._missing = missing

    # Signals

    async def submit(self, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Decide signals; returns once their receipts are durable as far as `wait` says."""
        outcomes = await self.decide(signals, wait, source=HTTP)
        return [_result_of_outcome(self._partition, outcome, wait) for outcome in outcomes]

    async def decide(self, signals: Sequence[Signal], wait: Wait, *, source: str) -> list[Outcome]:
        """The same, without words for people: for sources that only need to know that it is done."""
        if self._missing():
            raise NotAcceptingError("not ready: " + ", ".join(self._missing()), RETRY_S)
        runtime = self._runtime
        ticket = await runtime.registry.submit(signals)
        outcomes = await ticket.decided()
        if ticket.last_receipt >= 0:
            if wait == "committed":
                if source == HTTP:
                    runtime.ledger.hurry(ticket.last_receipt)  # a caller waits for an answer, a broker for its due
                await runtime.ledger.wait_committed(ticket.last_receipt)
            else:
                await runtime.ledger.wait_local(ticket.last_receipt)
        if signals:
            received_us = min(signal.received_us for signal in signals)
            self._metrics.answered(source, (runtime.clock_us() - received_us) / 1e6, len(signals))
        for outcome in outcomes:
            if outcome.outcome == "duplicate":
                # A repetition has no receipt of its own, so nothing else has counted it.
                self._metrics.decided(outcome.tenant, outcome.governor, "duplicate", "none", "", "")
        return outcomes

    async def wait_committed(self, index: int) -> None:
        """Return once a receipt is committed. Raises LedgerError where that cannot be known."""
        await self._runtime.ledger.wait_committed(index)

    def is_away(self) -> bool:
        """Whether another worker may decide about these tenants by now."""
        return bool(self._missing()) or not self._runtime.ledger.may_answer()

    def admit(self, tenant: str, klass: str, user: str, cost: int) -> Admitted | Refused:
        """Whether a request may pass now; reads memory only."""
        # Requests that name nobody are not all one user's, who would have all of them pass or none.
        answer = self._runtime.admission.admit(tenant, klass, user or None, cost, self._runtime.clock_us())
        self._metrics.admission(refused_by(answer))
        return answer

    # Tenants

    def tenant(self, tenant: str) -> TenantView | None:
        """One tenant, without waking it."""
        found = self._runtime.registry.view(tenant)
        return None if found is None else self._tenant_view(*found)

    def tenants(self, after: str, limit: int, scope: Scope) -> TenantsPage:
        """A page of tenants in order of their names."""
        names = self._runtime.registry.names()
        names = [name for name in names if name > after and (scope is None or name in scope)]
        views = [view for name in names[:limit] if (view := self.tenant(name)) is not None]
        return TenantsPage(views, names[limit - 1] if len(names) > limit else None)

    async def put_tenant(self, tenant: str, change: TenantChange, by: str) -> TenantView:
        """Make a tenant known or change it; setting it active also releases it from quarantine."""
        runtime = self._runtime
        found = runtime.registry.view(tenant)
        header = None if found is None else found[0]
        profile = change.profile or (header.profile if header else runtime.settings.default_profile)
        if profile not in runtime.profiles:
            raise InvalidFieldError("profile", f"expected one of {', '.join(runtime.profiles)}")
        status: Any = change.entitlement or (header.entitlement if header else "active")
        if status == "unknown":
            raise InvalidFieldError("entitlement", f"tenant {tenant} is not entitled yet: say what it shall be")
        if header is not None and header.quarantined and change.entitlement == "active":
            index = runtime.registry.set_quarantine(tenant, quarantined=False, why=f"{OPERATOR}/{by}")
            await runtime.ledger.wait_local(cast("int", index))
        now_us = runtime.clock_us()
        data = TenantEntitlement(status=status, profile=profile)
        # In the form that senders use, so that whoever has the payload can run this decision again like any other.
        source = f"{OPERATOR}/{by}"
        payload = encode_native(data, signal_id=f"put-{now_us}", source=source, tenant=tenant, observed_us=now_us)
        (result,) = await self.submit([decode_native(payload, now_us)], "local")
        view = self.tenant(tenant)
        if view is None:
            raise NotFoundError(f"tenant {tenant} is not known")
        return replace(view, receipt=result.receipt or UNSET)

    async def grant_override(self, tenant: str, grant: OverrideGrant) -> OverrideResult:
        """Take a decision out of a machine's hands until the override's time is over."""
        governor = BY_NAME[grant.governor]
        if grant.mode == "force" and grant.status not in list(governor.status):
            raise InvalidFieldError("status", f"expected one of {', '.join(governor.status)}")
        until_us = self._runtime.clock_us() + int(grant.ttl_s * 1_000_000)
        body = OverrideGranted(
            mode=grant.mode,
            until_us=until_us,
            by=grant.by,
            reason=grant.reason,
            status=grant.status,
            extra_micros=grant.extra_micros,
        )
        return await self._tell(tenant, grant.governor, grant.subject, body, until_us)

    async def withdraw_override(self, tenant: str, governor: str, subject: str, by: str) -> OverrideResult:
        """End a machine's override before its time."""
        return await self._tell(tenant, governor, subject, OverrideEnded(by=by), None)

    async def _tell(
        self, tenant: str, governor: str, subject: str, body: OverrideGranted | OverrideEnded, until_us: int | None
    ) -> OverrideResult:
        self._accept()
        now_us = self._runtime.clock_us()
        event = Event(f"override-{now_us}", now_us, body)
        told = await self._runtime.registry.tell(tenant, machine_key(governor, subject), event)
        if told is None:
            raise NotFoundError(f"tenant {tenant} has no machine {governor}/{subject} that can be told")
        decided, index = told
        await self._runtime.ledger.wait_local(index)
        if decided.outcome == "dead_lettered":
            raise NotAcceptingError(explain(RULES, decided.rule, decided.evidence), RETRY_S)
        if decided.outcome != "decided":
            raise NotFoundError(explain(RULES, decided.rule, decided.evidence))
        return OverrideResult(
            tenant=tenant,
            governor=governor,
            subject=subject,
            decision=decided.decision,
            state=decided.to_status,
            previous_state=decided.from_status,
            reason=explain(RULES, decided.rule, decided.evidence),
            receipt=_receipt_id(self._partition, index),
            until=None if until_us is None else format_time(until_us),
        )

    # Actions

    def actions(self, after: str, limit: int, scope: Scope) -> ActionsPage:
        """A page of the actions that have not ended, in order of their ids."""
        orders = [one for one in self._runtime.outbox.orders() if scope is None or one.work.tenant in scope]
        views = sorted((_action_view(self._partition, one) for one in orders), key=lambda view: view.id)
        views = [view for view in views if view.id > after]
        return ActionsPage(views[:limit], views[limit - 1].id if len(views) > limit else None)

    def retry_action(self, tenant: str, action_id: str) -> ActionAsked:
        """Try an action again now."""
        self._require_action(tenant, action_id)
        self._runtime.outbox.hurry(action_id)
        return ActionAsked(action_id, tenant, "retry")

    def abandon_action(self, tenant: str, action_id: str, by: str) -> ActionAsked:
        """Try an action no more."""
        self._require_action(tenant, action_id)
        self._runtime.outbox.abandon(action_id, by)
        return ActionAsked(action_id, tenant, "abandon")

    def _require_action(self, tenant: str, action_id: str) -> None:
        self._accept()
        if not any(
            one.work.action.id == action_id and one.work.tenant == tenant for one in self._runtime.outbox.orders()
        ):
            raise NotFoundError(f"tenant {tenant} has no open action {action_id}")

    def _tenant_view(self, header: Header, machines: dict[str, MachineRecord[Any]]) -> TenantView:
        views = [self._machine_view(record) for _, record in sorted(machines.items())]
        worst = _worst(header, machines)
        return TenantView(header.tenant, header.entitlement, header.profile, worst, views, header.stopped)

    def _machine_view(self, record: MachineRecord[Any]) -> MachineView:
        state = record.state
        override, action = state.override, state.in_flight
        return MachineView(
            governor=record.governor,
            subject=record.subject,
            state=state.status,
            since=format_time(state.since_us),
            reason=explain(RULES, record.because_rule, record.because_evidence),
            deadline=None if record.deadline_us is None else format_time(record.deadline_us),
            last_receipt=_receipt_id(self._partition, record.last_receipt),
            open_actions=[] if action is None else [_open_action_view(action)],
            override=None
            if override is None
            else OverrideView(
                override.mode, format_time(override.until_us), override.by, override.reason, override.status
            ),
            blind=state.blind,
            withheld=_withheld(state.restraint),
        )

    # What all are governed by

    def policies(self) -> PoliciesView:
        """What decisions are taken under now."""
        in_force, now_us = self._runtime.in_force, self._runtime.clock_us()
        document = in_force.policy.document
        windows = [
            WindowView(one.name, one.is_open(now_us), None if at_us == NEVER_US else format_time(at_us))
            for one in document.windows
            for at_us in (one.changes_us(now_us),)
        ]
        return PoliciesView(
            in_force.policy.digest, in_force.stopped, sorted(document.profiles), sorted(document.tenants), windows
        )

    def check_policies(self, policies: Policies) -> None:
        """Raises SettingsError where they do not fit the tenants that are here."""
        self._accept()
        self._runtime.check(policies)

    async def reload_policies(self, policies: Policies) -> Reloaded:
        """Govern by these from now on. Raises SettingsError where they do not fit the tenants that are here."""
        self._accept()
        changed = await self._runtime.reload(policies)
        return Reloaded(changed, self._runtime.policy.digest)

    async def emergency_stop(self, tenant: str | None, by: str, reason: str, *, stopped: bool) -> StopResult:
        """Stop governors from acting, or let them act again."""
        self._accept()
        runtime = self._runtime
        if tenant is None:
            index = await runtime.stop_everybody(Stop(by=by, reason=reason, stopped=stopped))
            return StopResult(None, stopped, None if index is None else _receipt_id(self._partition, index))
        found = runtime.registry.view(tenant)
        if found is None:
            raise NotFoundError(f"tenant {tenant} is not known")
        if found[0].stopped == stopped:
            return StopResult(tenant, stopped, None)
        while True:
            try:
                index = runtime.registry.set_emergency_stop(tenant, stopped=stopped, why=f"{by}: {reason}")
                break
            except PushbackError:
                await runtime.ledger.wait_local(runtime.ledger.size - 1)
        await runtime.ledger.wait_local(cast("int", index))
        return StopResult(tenant, stopped, _receipt_id(self._partition, cast("int", index)))

    def _accept(self) -> None:
        if self._missing():
            raise NotAcceptingError("not ready: " + ", ".join(self._missing()), RETRY_S)

    # What operators asked for

    async def record_operation(self, operation: Operation) -> None:
        """Leave its receipt, in a chain of its own; returns once it is durable on this machine."""
        runtime = self._runtime
        draft = runtime.operation_draft(operation)
        while True:
            try:
                index = runtime.ledger.append(draft)
                break
            except PushbackError:
                await runtime.ledger.wait_local(runtime.ledger.size - 1)
        await runtime.ledger.wait_local(index)

    async def operations(self, after: int, limit: int) -> OperationsPage:
        """A page of what operators asked for, oldest first, from behind index `after` on (-1: from the beginning)."""
        ledger = self._runtime.ledger
        found = await ledger.tenant_receipts(OPERATORS_TENANT, after, limit + 1)
        page = [await self._operation_view(stored) for stored in found[:limit]]
        has_more = len(found) > limit
        return OperationsPage(page, write_cursor({self._partition: found[limit - 1].index}) if has_more else None)

    async def _operation_view(self, stored: StoredReceipt) -> OperationView:
        operation = None
        # The receipt stays where its payload was dropped.
        with contextlib.suppress(ReceiptNotFoundError, OperationInvalidError):
            _, payload = await self._runtime.ledger.payload(stored.index)
            operation = decode_operation(payload)
        at = format_time(canonical.decode(stored.leaf).ts_us)
        receipt_id = _receipt_id(self._partition, stored.index)
        return OperationView(receipt_id, at, operation, Raw(stored.leaf), stored.leaf, stored.committed)

    # Receipts

    async def receipts(self, tenant: str, after: int, limit: int) -> ReceiptsPage:
        """A page of a tenant's receipts, oldest first."""
        if self._runtime.registry.view(tenant) is None:
            raise NotFoundError(f"tenant {tenant} is not known")
        found = await self._runtime.ledger.tenant_receipts(tenant, after, limit + 1)
        page = [_receipt_view(self._partition, stored) for stored in found[:limit]]
        return ReceiptsPage(page, page[-1].index if len(found) > limit else None, self._runtime.ledger.kept_from)

    async def receipt(self, partition: int, index: int, scope: Scope) -> ReceiptView:
        """One receipt, if its tenant is in scope."""
        if partition != self._partition:
            raise NotFoundError(f"partition {partition} is not here")
        try:
            stored = await self._receipts.read(index)
        except StoreUnavailableError as error:
            raise NotAcceptingError(error.reason, error.retry_after_s) from error
        if scope is not None:
            # A receipt names its tenant by a pseudonym only.
            pseudonyms = map(self._runtime.ledger.pseudonym, scope)
            if canonical.decode(stored.leaf).tenant not in pseudonyms:
                raise NotFoundError(f"no receipt {index} of a tenant that this token is for")
        return _receipt_view(self._partition, stored)


def _result_of_outcome(partition: int, outcome: Outcome, wait: Wait) -> SignalResult:
    reason = explain(RULES, outcome.rule, outcome.evidence) if outcome.rule else "decided before"
    return SignalResult(
        id=outcome.id,
        tenant=outcome.tenant,
        governor=outcome.governor,
        subject=outcome.subject,
        outcome=outcome.outcome,
        decision=outcome.decision,
        state=outcome.state,
        previous_state=outcome.previous_state,
        reason=reason,
        receipt=_receipt_id(partition, outcome.receipt),
        durability=wait,
        error=SignalError(_REFUSED_BY_MACHINE, "data", reason) if outcome.outcome == "rejected" else None,
    )


def _result_of_decided(partition: int, tenant: str, decided: Decided, index: int) -> SignalResult:
    return SignalResult(
        id=decided.event_id,
        tenant=tenant,
        governor=decided.governor,
        subject=decided.subject,
        outcome=decided.outcome,
        decision=decided.decision,
        state=decided.to_status,
        previous_state=decided.from_status,
        reason=explain(RULES, decided.rule, decided.evidence),
        receipt=_receipt_id(partition, index),
        durability="local",
    )


def _action_view(partition: int, one: OpenOrder) -> ActionView:
    work = one.work
    return ActionView(
        id=work.action.id,
        tenant=work.tenant,
        governor=work.governor,
        subject=work.subject,
        action=work.action.kind,
        params=work.action.params,
        receipt=_receipt_id(partition, work.receipt),
        executor=one.executor,
        since=format_time(one.since_us),
        attempts=one.attempts,
        detail=one.detail,
        next_attempt_in_s=None if one.next_in_s is None else round(one.next_in_s, 1),
        doubtful=one.maybe,
        given_up_in_s=None if one.given_up_in_s is None else round(one.given_up_in_s, 1),
    )


def _open_action_view(one: OpenAction) -> OpenActionView:
    return OpenActionView(one.id, one.kind, one.params, one.attempts, one.doubtful)


def _withheld(restraint: Restraint) -> WithheldView | None:
    if not restraint.withheld:
        return None
    until_us = restraint.again_us if restraint.awaited is None else restraint.awaited.until_us
    until = None if until_us is None else format_time(until_us)
    return WithheldView(restraint.withheld, restraint.why, until, restraint.awaited is not None)


def _worst(header: Header, machines: dict[str, MachineRecord[Any]]) -> str:
    if header.quarantined:
        return "QUARANTINED"
    if header.entitlement != "active":
        return header.entitlement.upper()
    worst, worst_severity = "IDLE", -1
    for record in machines.values():
        governor = BY_NAME[record.governor]
        severity = governor.severity[governor.status(record.state.status)]
        if severity > worst_severity:
            worst, worst_severity = record.state.status, severity
    return worst


def _receipt_view(partition: int, stored: StoredReceipt) -> ReceiptView:
    return ReceiptView(
        _receipt_id(partition, stored.index), stored.index, Raw(stored.leaf), stored.leaf, stored.committed
    )


def _receipt_id(partition: int, index: int) -> str:
    return f"{partition}:{index}"
