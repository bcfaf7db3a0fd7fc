"""What the HTTP edge needs of the service behind it, and the shapes that it answers with.

All views become JSON as they are: their field names are public. Times in them are RFC 3339, receipt ids
`partition:index`.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

from msgspec import UNSET, Raw, Struct, UnsetType

from governors.admission import Admitted, Refused, Viewed
from governors.auth.principal import Scope
from governors.supervision.report import TreeNode
from governors.tenants.operations import Operation
from ingest.signals import Signal

Wait = Literal["local", "committed"]
EntitlementStatus = Literal["active", "suspended", "cancelled"]
OverrideMode = Literal["hold", "release", "force", "approve", "veto", "extra_budget"]


class ServiceError(Exception):
    """Root of what the service may raise at its edge; each becomes one HTTP status (`problem.py`)."""


class NotAcceptingError(ServiceError):
    """Nothing is taken now: starting, stopping, or more is waiting than can be carried. Come back later."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutcomeUnknownError(ServiceError):
    """What was asked for may have been done, or not: nobody answered. Ask again under the same ids."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotFoundError(ServiceError):
    """There is no such tenant, machine, override or receipt."""


class InvalidFieldError(ServiceError):
    """A request that was well-formed asks for what cannot be: an unknown profile, a status that a governor lacks."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class SignalError(Struct, frozen=True, omit_defaults=True):
    """Why a signal was rejected. `field` is its path in the sender's wire form, "" where no single one is to blame;
    `retry_after_s` is there for one that came too soon alone.
    """

    reason: str
    field: str
    detail: str
    retry_after_s: int | None = None


class SignalResult(Struct, frozen=True, omit_defaults=True):
    """One signal's fate. `outcome` is `decided`, `duplicate`, `stale`, `refused`, `rejected` or `dead_lettered`;
    `durability` says how far its receipt has come. `error` is there for `rejected` alone.
    """

    id: str
    tenant: str
    governor: str
    subject: str
    outcome: str
    decision: str
    state: str
    previous_state: str
    reason: str
    receipt: str | None
    durability: Wait
    error: SignalError | None = None


class UnreadableResult(Struct, frozen=True, tag_field="outcome", tag="rejected"):
    """A signal that could not be read, and so has no receipt. `id` and `tenant` are null where not even those could."""

    id: str | None
    tenant: str | None
    error: SignalError


class Health(Struct, frozen=True):
    """`down` names permanent children that are gone for good; `warnings` says what else somebody should look at."""

    version: str
    down: list[str]
    warnings: list[str] = []


class OpenActionView(Struct, frozen=True):
    """An action that was asked for and has not ended. Of its `attempts` so far none is known to have done it; where it
    is `doubtful`, one of them may have.
    """

    id: str
    kind: str
    params: dict[str, int | str]
    attempts: int
    doubtful: bool


class OverrideView(Struct, frozen=True, omit_defaults=True):
    """An operator's override that is in force."""

    mode: str
    until: str
    by: str
    reason: str
    status: str = ""


class WithheldView(Struct, frozen=True):
    """An action that a machine wants and may not ask for. `until` is null where its end is not known; `awaits` says
    that a person can answer until then.
    """

    kind: str
    why: str
    until: str | None
    awaits: bool


class MachineView(Struct, frozen=True):
    """One machine. `state` is in force since `since`, for the `reason` that its receipt gives; `deadline` is when it
    next acts by itself. `blind` says that its signals have stopped coming.
    """

    governor: str
    subject: str
    state: str
    since: str
    reason: str
    deadline: str | None
    last_receipt: str | None
    open_actions: list[OpenActionView]
    override: OverrideView | None
    blind: bool
    withheld: WithheldView | None


class ActionView(Struct, frozen=True):
    """An action that has not ended. `executor` carries it out; `detail` is what came of the last of its `attempts`.
    The next is made in `next_attempt_in_s`, null while none is planned: it waits for its receipt or its turn, or is
    being tried right now. `doubtful`: it may have been done, for an attempt got no answer, or is under way.
    `given_up_in_s` is how long it is tried yet, null until its receipt is committed.
    """

    id: str
    tenant: str
    governor: str
    subject: str
    action: str
    params: dict[str, int | str]
    receipt: str
    executor: str
    since: str
    attempts: int
    detail: str
    next_attempt_in_s: float | None
    doubtful: bool
    given_up_in_s: float | None


class ActionsPage(Struct, frozen=True):
    """Actions in order of their ids. `next` is null at the end."""

    actions: list[ActionView]
    next: str | None


class ActionAsked(Struct, frozen=True):
    """What an operator wants of an action; it is heard, and not done yet."""

    id: str
    tenant: str
    asked: Literal["retry", "abandon"]


class TenantView(Struct, frozen=True):
    """A tenant; its `state` is its worst machine's. `stopped`: an emergency stop of its own keeps its governors from
    acting. The answer to a change has that change's `receipt`.
    """

    tenant: str
    entitlement: str
    profile: str
    state: str
    machines: list[MachineView]
    stopped: bool = False
    receipt: str | UnsetType = UNSET


class TenantsPage(Struct, frozen=True):
    """Tenants in order of their names. `next` is the next page's `after`, null at the end."""

    tenants: list[TenantView]
    next: str | None


class ReceiptView(Struct, frozen=True):
    """A receipt: decoded, and as `leaf` its exact bytes in base64, over which every hash and proof is made."""

    id: str
    index: int
    receipt: Raw
    leaf: bytes
    committed: bool


class ReceiptsPage(Struct, frozen=True):
    """Receipts of one tenant, oldest first. `next` is the next page's `after`, null at the end. Receipts with an index
    below `dropped_before` are listed no more, for retention has dropped their payloads; 0 if nothing was dropped.
    """

    receipts: list[ReceiptView]
    next: int | None
    dropped_before: int


class OperationView(Struct, frozen=True):
    """What an operator asked for. `operation` is null where its payload is gone; `receipt` stays."""

    id: str
    at: str
    operation: Operation | None
    receipt: Raw
    leaf: bytes
    committed: bool


class OperationsPage(Struct, frozen=True):
    """What operators asked for, oldest first. `next` is the next page's `after`, null at the end: of each partition the
    last receipt that was shown.
    """

    operations: list[OperationView]
    next: str | None


class TenantChange(Struct, frozen=True):
    """What an operator sets; None leaves it as it is."""

    entitlement: EntitlementStatus | None
    profile: str | None


class OverrideGrant(Struct, frozen=True):
    """What an operator decides for one machine. `status` belongs to `force`, `extra_micros` to `extra_budget`."""

    governor: str
    subject: str
    mode: OverrideMode
    ttl_s: float
    by: str
    reason: str
    status: str = ""
    extra_micros: int = 0


class OverrideResult(Struct, frozen=True):
    """What became of an override that was granted or withdrawn; `until` is null for a withdrawn one."""

    tenant: str
    governor: str
    subject: str
    decision: str
    state: str
    previous_state: str
    reason: str
    receipt: str
    until: str | None


class StopResult(Struct, frozen=True):
    """An emergency stop that holds, or one that is over. `tenant` is null where it is everybody's, `receipt` where
    nothing had to change.
    """

    tenant: str | None
    stopped: bool
    receipt: str | None


class WindowView(Struct, frozen=True):
    """A window of time in the policies, and whether it is open now. `changes` is when that may be otherwise."""

    name: str
    open: bool
    changes: str | None


class PoliciesView(Struct, frozen=True):
    """What decisions are taken under: the policy document with this SHA-256. `tenants` are those with policies of their
    own.
    """

    digest: str
    stopped: bool
    profiles: list[str]
    tenants: list[str]
    windows: list[WindowView]


class Reloaded(Struct, frozen=True):
    """The policy files were read again; `changed` says whether anything in them is other than before."""

    changed: bool
    digest: str


class AdmitAnswer(Struct, frozen=True, omit_defaults=True):
    """The request may pass, and by what. `view_age_ms` is there where whoever answers does not have the tenant's log:
    how long ago another worker said what holds, null if none ever did. `view_stale`: too long ago, and so it may pass.
    """

    basis: Literal["rules", "unrestricted", "unknown_tenant", "view_stale"]
    view_age_ms: int | UnsetType | None = UNSET


class WorkerView(Struct, frozen=True):
    """A worker. `state` is `owner` of some partition, `waiting`, `leaving`, or `gone` for one that was not heard of for
    long; `heard_s_ago` is by the clock of who was asked, null where there is nobody else to hear it. It `stands_by` for
    partitions that it could take at once.
    """

    worker: str
    url: str
    state: Literal["owner", "waiting", "leaving", "gone"]
    heard_s_ago: float | None = None
    stands_by: list[int] = []


class PartitionView(Struct, frozen=True):
    """A partition, the worker that has its log, and since which epoch; both null while nobody is known to have it."""

    partition: int
    owner: str | None
    epoch: int | None


class ClusterView(Struct, frozen=True):
    """Who is there, as `worker` sees it."""

    worker: str
    workers: list[WorkerView]
    partitions: list[PartitionView]


class Probed(Protocol):
    """A worker as its probes see it, whether it has the log or not."""

    def tree(self) -> TreeNode: ...

    def health(self) -> Health: ...

    def missing(self) -> list[str]:
        """What keeps it from being ready, in words; empty when it is."""
        ...

    def cluster(self) -> ClusterView:
        """Who is there, and who has which partition."""
        ...

    def drain(self, *, leaving: bool) -> ClusterView:
        """Begin to hand over everything to the other workers, and take nothing more; or take part again. Raises
        NotFoundError where there can be no other.
        """
        ...


class Service(Probed, Protocol):
    """The service as its edge sees it. Every method may raise ServiceError and the ledger's errors.

    A request that runs into its time limit cancels what it waits for: `submit` must then still finish what it began.
    """

    async def submit(self, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Decide signals; returns, in their order, once their receipts are durable as far as `wait` says."""
        ...

    def admit(self, tenant: str, klass: str, user: str, cost: int) -> Admitted | Refused | Viewed:
        """Whether a request may pass now. Called for every request of a gateway: no I/O, no waiting."""
        ...

    def tenant(self, tenant: str) -> TenantView | None: ...

    def tenants(self, after: str, limit: int, scope: Scope) -> TenantsPage:
        """Those in scope whose names come after `after` ("" for the first page)."""
        ...

    async def put_tenant(self, tenant: str, change: TenantChange, by: str) -> TenantView:
        """Make a tenant known, or change it, in the name of `by`. Raises InvalidFieldError for an unknown profile."""
        ...

    async def grant_override(self, tenant: str, grant: OverrideGrant) -> OverrideResult:
        """Raises NotFoundError for an unknown tenant or machine, InvalidFieldError for a status it cannot have."""
        ...

    async def withdraw_override(self, tenant: str, governor: str, subject: str, by: str) -> OverrideResult:
        """Raises NotFoundError where no override is in force."""
        ...

    def actions(self, after: str, limit: int, scope: Scope) -> ActionsPage:
        """A page of the actions that have not ended."""

    def retry_action(self, tenant: str, action_id: str) -> ActionAsked:
        """Try an action again now. Raises NotFoundError."""

    def abandon_action(self, tenant: str, action_id: str, by: str) -> ActionAsked:
        """Try an action no more. Raises NotFoundError."""

    def policies(self) -> PoliciesView: ...

    async def reload_policies(self) -> Reloaded:
        """Raises InvalidFieldError with everything that is wrong; then nothing has changed."""
        ...

    async def emergency_stop(self, tenant: str | None, by: str, reason: str, *, stopped: bool) -> StopResult:
        """Stop a tenant's governors, or everybody's, from acting, or let them. Raises NotFoundError."""
        ...

    async def record_operation(self, operation: Operation) -> None:
        """Leave a receipt of what an operator asked for; returns once it is durable on this machine."""
        ...

    async def operations(self, after: str, limit: int) -> OperationsPage:
        """Those that come after the page whose `next` was `after` ("" for the first page)."""
        ...

    async def receipts(self, tenant: str, after: int, limit: int) -> ReceiptsPage:
        """Those with an index above `after` (-1 for the first page). Raises NotFoundError for an unknown tenant."""
        ...

    async def receipt(self, partition: int, index: int, scope: Scope) -> ReceiptView:
        """Raises NotFoundError, for a receipt of a tenant that is out of scope as for one that is not there."""
        ...

    def watch(self, scope: Scope, *, every: bool) -> AsyncIterator[SignalResult]:
        """Decisions as they are taken, about tenants in scope; without `every` only those that changed something."""
        ...
