"""A service that remembers what it was asked and answers what the test wants, behind the real API."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from governors.admission import Admitted, Refused, Viewed
from governors.api.app import Peering, build_api
from governors.api.guard import Authenticate
from governors.api.peer_signals import HandedOn
from governors.api.proof_views import ReceiptProof, VerifyAnswer
from governors.api.push import Pushes
from governors.api.service import (
    ActionAsked,
    ActionsPage,
    ClusterView,
    Health,
    NotFoundError,
    OperationsPage,
    OverrideGrant,
    OverrideResult,
    PartitionView,
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
    WorkerView,
)
from governors.auth.principal import Scope
from governors.settings import HttpSettings, Settings
from governors.supervision.report import State, TreeNode
from governors.telemetry.metrics import Metrics
from governors.tenants.operations import Operation
from ingest.signals import Signal
from ledger.verify.documents import Consistency, TenantBundle, Tree

NOW_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z


@dataclass
class FakeService:
    """Decides nothing: every signal is answered as decided, unless the test sets something else."""

    submitted: list[list[Signal]] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    answer: Admitted | Refused | Viewed = field(default_factory=lambda: Admitted("rules"))
    error: Exception | None = None
    scopes: list[Scope] = field(default_factory=list)
    rejects: SignalError | None = None
    known: dict[str, TenantView] = field(default_factory=dict)
    missing_parts: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    operated: list[Operation] = field(default_factory=list)
    unrecordable: Exception | None = None
    block: asyncio.Event | None = None

    async def submit(self, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        self.submitted.append(list(signals))
        self.waits.append(wait)
        if self.block is not None:
            await self.block.wait()
        self._maybe_raise()
        return [self._result(index, signal, wait) for index, signal in enumerate(signals)]

    def _result(self, index: int, signal: Signal, wait: Wait) -> SignalResult:
        return SignalResult(
            id=signal.id,
            tenant=signal.tenant,
            governor="backlog_valve",
            subject=signal.subject,
            outcome="rejected" if self.rejects else "decided",
            decision="none",
            state="OPEN",
            previous_state="OPEN",
            reason="the queue is short",
            receipt=f"0:{index}",
            durability=wait,
            error=self.rejects,
        )

    def admit(self, tenant: str, klass: str, user: str, cost: int) -> Admitted | Refused | Viewed:
        self.asked.append((tenant, klass, user, cost))
        self._maybe_raise()
        return self.answer

    def tenant(self, tenant: str) -> TenantView | None:
        return self.known.get(tenant)

    def tenants(self, after: str, limit: int, scope: Scope) -> TenantsPage:
        self.scopes.append(scope)
        names = [name for name in sorted(self.known) if name > after]
        more = names[limit - 1] if len(names) > limit else None
        return TenantsPage([self.known[name] for name in names[:limit]], more)

    async def put_tenant(self, tenant: str, change: TenantChange, by: str) -> TenantView:
        self.asked.append((tenant, change, by))
        self._maybe_raise()
        return TenantView(tenant, change.entitlement or "active", change.profile or "standard", "NORMAL", [])

    async def grant_override(self, tenant: str, grant: OverrideGrant) -> OverrideResult:
        self.asked.append((tenant, grant))
        self._maybe_raise()
        return OverrideResult(
            tenant,
            grant.governor,
            grant.subject,
            "override",
            "WARN",
            "STOP",
            grant.reason,
            "0:9",
            "2026-11-22T11:00:00Z",
        )

    async def withdraw_override(self, tenant: str, governor: str, subject: str, by: str) -> OverrideResult:
        self.asked.append((tenant, governor, subject, by))
        self._maybe_raise()
        return OverrideResult(tenant, governor, subject, "override", "STOP", "WARN", "withdrawn", "0:10", None)

    def actions(self, after: str, limit: int, scope: Scope) -> ActionsPage:
        self.asked.append((after, limit))
        self.scopes.append(scope)
        return ActionsPage([], None)

    def retry_action(self, tenant: str, action_id: str) -> ActionAsked:
        self.asked.append((tenant, action_id))
        self._maybe_raise()
        return ActionAsked(action_id, tenant, "retry")

    def abandon_action(self, tenant: str, action_id: str, by: str) -> ActionAsked:
        self.asked.append((tenant, action_id, by))
        self._maybe_raise()
        return ActionAsked(action_id, tenant, "abandon")

    def policies(self) -> PoliciesView:
        return PoliciesView("00" * 32, False, ["standard"], [], [])

    async def reload_policies(self) -> Reloaded:
        self._maybe_raise()
        return Reloaded(True, "00" * 32)

    async def emergency_stop(self, tenant: str | None, by: str, reason: str, *, stopped: bool) -> StopResult:
        self.asked.append((tenant, by, reason, stopped))
        self._maybe_raise()
        return StopResult(tenant, stopped, "0:11")

    async def record_operation(self, operation: Operation) -> None:
        self.operated.append(operation)
        if self.unrecordable is not None:
            raise self.unrecordable

    async def operations(self, after: str, limit: int) -> OperationsPage:
        return OperationsPage([], None)

    async def receipts(self, tenant: str, after: int, limit: int) -> ReceiptsPage:
        self.asked.append((tenant, after, limit))
        self._maybe_raise()
        views = [self._receipt(index) for index in range(after + 1, 3)][:limit]
        return ReceiptsPage(views, views[-1].index if views and views[-1].index < 2 else None, 0)

    async def receipt(self, partition: int, index: int, scope: Scope) -> ReceiptView:
        self.scopes.append(scope)
        if partition or index > 2:
            raise NotFoundError(f"receipt {partition}:{index} is not in the log")
        return self._receipt(index)

    def _receipt(self, index: int) -> ReceiptView:
        leaf = b'{"decision":"none","event_id":"e%d"}' % index
        return ReceiptView(f"0:{index}", index, msgspec.Raw(leaf), leaf, committed=True)

    async def watch(self, scope: Scope, *, every: bool) -> AsyncIterator[SignalResult]:
        self.asked.append((scope, every))
        self.scopes.append(scope)
        tenant = next(iter(sorted(scope or ())), "any")
        yield SignalResult(
            "e1", tenant, "cost_guard", "s", "decided", "warn", "WARN", "NORMAL", "why", "0:7", "committed"
        )

    def tree(self) -> TreeNode:
        return TreeNode(
            "governors", "supervisor", State.RUNNING, children=(TreeNode("ledger", "worker", State.RUNNING),)
        )

    def health(self) -> Health:
        return Health("0.1.0", self.down)

    def missing(self) -> list[str]:
        return self.missing_parts

    def cluster(self) -> ClusterView:
        return ClusterView("a", [WorkerView("a", "http://a", "owner")], [PartitionView(0, "a", 1)])

    def drain(self, *, leaving: bool) -> ClusterView:
        self.asked.append((leaving,))
        self._maybe_raise()
        return self.cluster()

    def _maybe_raise(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class FakeProofs:
    """Proves nothing, and remembers with the service what it was asked."""

    service: FakeService

    def checkpoint(self, partition: int) -> bytes:
        self._ask(partition)
        return b"log/0\n0\nroot\n\nsigned\n"

    async def tile(self, partition: int, path: str) -> bytes:
        self._ask(partition, path)
        return bytes(32)

    async def consistency(self, partition: int, old: int, new: int | None) -> Consistency:
        self._ask(partition, old, new)
        return Consistency("note", Tree(old, bytes(32)), Tree(new or 9, bytes(32)), [bytes(32)], [])

    async def proof(self, partition: int, index: int, scope: Scope) -> ReceiptProof:
        self.service.scopes.append(scope)
        return ReceiptProof(f"{partition}:{index}", index, b"{}", [bytes(32)], 9, "00" * 32, "note", "a proof file\n")

    async def bundle(self, tenant: str, after: int, limit: int) -> TenantBundle:
        self._ask(tenant, after, limit)
        return TenantBundle("note", "0" * 32, [], None, [])

    async def verify(self, document: bytes) -> VerifyAnswer:
        self._ask(document)
        return VerifyAnswer(ok=False, error="tampered")

    def _ask(self, *asked: Any) -> None:
        self.service.asked.append(asked)
        self.service._maybe_raise()


@dataclass
class FakePeers:
    """Remembers what other workers asked."""

    asked: list[list[tuple[int, str, int]]] = field(default_factory=list)
    answer: bytes = b'{"pages":[],"v":1}'

    def admission(self, haves: Sequence[tuple[int, str, int]]) -> bytes:
        self.asked.append(list(haves))
        return self.answer

    async def submit_here(self, signals: Sequence[Signal]) -> HandedOn:
        raise AssertionError(f"{len(signals)} signals are handed on")

    async def record_operation(self, operation: Operation) -> None:
        raise AssertionError(f"{operation.action} is handed on")


@dataclass
class Api:
    """The application with its fake service, spoken to without a socket."""

    service: FakeService
    metrics: Metrics
    client: httpx.AsyncClient
    app: Any
    proofs: FakeProofs
    peers: FakePeers

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def post(self, body: bytes, content_type: str = "application/json", **params: str) -> httpx.Response:
        headers = {"content-type": content_type}
        return await self.client.post("/v1/signals", content=body, headers=headers, params=params)


@pytest.fixture
def http_settings() -> HttpSettings:
    """A test module with limits of its own has a fixture of this name."""
    return HttpSettings()


@dataclass
class Doors:
    """Who is let in: everybody, where a test does not say otherwise."""

    authenticate: Authenticate | None = None
    peer_of: Authenticate | None = None
    pushes: Pushes | None = None


@pytest.fixture
def doors() -> Doors:
    return Doors()


@pytest_asyncio.fixture
async def api(http_settings: HttpSettings, doors: Doors) -> AsyncIterator[Api]:
    service, metrics, peers = FakeService(), Metrics("0.1.0"), FakePeers()
    settings, proofs = Settings(http=http_settings), FakeProofs(service)
    peering = Peering(doors.peer_of, peers, lambda app, _: app)
    app = build_api(
        service, settings, metrics, lambda: NOW_US, random.Random(1), doors.authenticate, proofs, doors.pushes, peering
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://governors") as client:
        yield Api(service, metrics, client, app, proofs, peers)


@pytest.fixture
def wire() -> Callable[..., dict[str, Any]]:
    """A good signal in its native form, with whatever the test changes."""

    def signal(**changes: Any) -> dict[str, Any]:
        good = {
            "id": "s-1",
            "source": "broker",
            "tenant": "acme",
            "kind": "queue.sample",
            "subject": "orders",
            "observed_at": "2026-11-22T09:59:58Z",
            "data": {"depth": 12, "oldest_age_s": 0.5, "in_rate_per_s": 3.0, "done_rate_per_s": 3.5},
        }
        return good | changes

    return signal
