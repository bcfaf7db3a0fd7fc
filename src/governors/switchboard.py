"""The service behind the HTTP edge: all partitions as one, those that are here and those that other workers have.

What names one tenant goes to the partition that has it; what concerns several is asked of each partition that is here
(the edge asks the other workers for theirs, see `cluster/router.py`). Signals for a partition of another worker take
one hop to it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from governors.admission import Admitted, Refused, Viewed
from governors.api.pages import join_actions, join_operations, join_tenants, read_cursor
from governors.api.peer_signals import HandedOn
from governors.api.proof_views import ReceiptProof, VerifyAnswer
from governors.api.proofs import Proofs
from governors.api.service import (
    ActionAsked,
    ActionsPage,
    ClusterView,
    Health,
    InvalidFieldError,
    NotAcceptingError,
    NotFoundError,
    OperationsPage,
    OutcomeUnknownError,
    OverrideGrant,
    OverrideResult,
    PoliciesView,
    Probed,
    ReceiptsPage,
    ReceiptView,
    Reloaded,
    ServiceError,
    SignalResult,
    StopResult,
    TenantChange,
    TenantsPage,
    TenantView,
    Wait,
)
from governors.auth.principal import Scope
from governors.cluster.admission_view import Source, tell
from governors.cluster.moves import OWNER_WAIT_S, RETRY_S, Moves, NobodyHasItError
from governors.cluster.ownership import partition_of, read_partition
from governors.policies import NO_POLICIES, Policies
from governors.service import GovernorService, Watchers
from governors.settings import SettingsError
from governors.supervision.report import TreeNode
from governors.telemetry.metrics import Metrics
from governors.tenants.operations import Operation
from ingest.signals import Signal
from ledger.backoff import Backoff
from ledger.errors import LedgerError, ProofInvalidError
from ledger.verify.documents import Consistency, TenantBundle, read_document
from ledger.verify.judge import claimed_origin

T = TypeVar("T")
Part = tuple[int, Sequence[int]]
"""A partition, and the places of its signals among all."""
NOT_DONE: Final = (NotAcceptingError, OutcomeUnknownError, LedgerError)
"""Nobody knows that it was done: whoever can ask again under the same ids does so."""


class Here(Protocol):
    """A partition that this worker has."""

    @property
    def service(self) -> GovernorService: ...
    @property
    def proofs(self) -> Proofs: ...
    @property
    def admission(self) -> Source: ...


class Elsewhere(Protocol):
    """The partitions that other workers have."""

    def knows(self, partition: int) -> bool:
        """Whether a worker is known to have it."""
        ...

    async def submit(self, partition: int, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Have signals decided there. Raises NotAcceptingError, OutcomeUnknownError."""
        ...

    async def record_operation(self, operation: Operation) -> None:
        """Have a receipt left there. Raises NotAcceptingError, OutcomeUnknownError."""
        ...

    def admit(self, partition: int, tenant: str, klass: str, user: str, cost: int) -> Viewed:
        """Answer by what was heard last."""
        ...


class Switchboard:
    """Implements the edge's `Service` and `Proofs`. `here` are the partitions of this worker at any moment; `moves`
    tells when that, or what others have, has changed. Without `elsewhere` there is no other worker.

    `policies` reads the policy files, which blocks. `on_missed` is told of partitions that other workers ask for and
    that are not here.
    """

    def __init__(
        self,
        partitions: int,
        probed: Probed,
        watchers: Watchers,
        metrics: Metrics,
        rng: random.Random,
        *,
        here: Mapping[int, Here],
        moves: Moves,
        elsewhere: Elsewhere | None = None,
        policies: Callable[[], Policies] = lambda: NO_POLICIES,
        on_missed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.here = here
        self._partitions = partitions
        self._probed = probed
        self._watchers = watchers
        self._metrics = metrics
        self._rng = rng
        self._elsewhere = elsewhere
        self._policies = policies
        self._on_missed = on_missed
        self._moves = moves

    # Signals

    async def submit(self, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        """Decide signals, wherever their tenants are."""
        parts = self._parted(signals)
        decided = await _all([self._submit(number, [signals[at] for at in places], wait) for number, places in parts])
        return _in_order(parts, decided)

    async def submit_here(self, signals: Sequence[Signal]) -> HandedOn:
        """Decide signals that another worker handed on, where their partitions are here: nothing is handed on twice.
        Raises NotAcceptingError where none of them is.
        """
        parts = self._parted(signals)
        decided = await _all([self._submit_here(number, [signals[at] for at in places]) for number, places in parts])
        if signals and all(done is None for done in decided):
            raise self._nowhere(parts[0][0])

        async def committed() -> None:
            waiting = [(service, _last_receipt(found)) for service, found in filter(None, decided)]
            await _all([service.wait_committed(index) for service, index in waiting if index is not None])

        results: list[list[SignalResult | None]] = [
            [None] * len(places) if done is None else [*done[1]]
            for (_, places), done in zip(parts, decided, strict=True)
        ]
        return HandedOn(_in_order(parts, results), committed)

    async def _submit_here(
        self, partition: int, signals: Sequence[Signal]
    ) -> tuple[GovernorService, list[SignalResult]] | None:
        """None where nothing was decided, because it is not here or is about to go."""
        there = self.here.get(partition)
        if there is None:
            return None
        try:
            return there.service, await there.service.submit(signals, "local")
        except NotAcceptingError:
            return None

    async def decide(
        self, signals: Sequence[Signal], wait: Wait, *, source: str, patience_s: float = OWNER_WAIT_S
    ) -> Collection[int]:
        """The same for sources that bring what was not done once more, under the same ids, and need no words for
        people. Each partition is tried for `patience_s`; returns the places of the signals that it took too long for.
        Raises NotAcceptingError, OutcomeUnknownError, LedgerError where those are all of them.
        """
        parts = self._parted(signals)
        ended = await _each(
            [self._decide(number, [signals[at] for at in places], wait, source, patience_s) for number, places in parts]
        )
        failed = [(places, one) for (_, places), one in zip(parts, ended, strict=True) if one is not None]
        for _, error in failed:
            if len(failed) == len(parts) or not isinstance(error, NOT_DONE):
                raise error
        return [at for places, _ in failed for at in places]

    async def _submit(self, partition: int, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        async def submit(there: GovernorService | None) -> list[SignalResult]:
            if there is not None:
                return await there.submit(signals, wait)
            assert self._elsewhere is not None  # noqa: S101 - or it could not be there
            return await self._elsewhere.submit(partition, signals, wait)

        return await self._where_it_is(partition, submit, NotAcceptingError, OWNER_WAIT_S)

    async def _decide(
        self, partition: int, signals: Sequence[Signal], wait: Wait, source: str, patience_s: float
    ) -> None:
        async def decide(there: GovernorService | None) -> None:
            if there is not None:
                await there.decide(signals, wait, source=source)
                return
            assert self._elsewhere is not None  # noqa: S101 - or it could not be there
            results = await self._elsewhere.submit(partition, signals, wait)
            if any(one.receipt is None for one in results):
                # It was read here: the versions of the two differ, or their clocks do. It must not be lost by that.
                raise NotAcceptingError("a signal cannot be read by the worker that has its partition", RETRY_S)

        # What may have been done is recognised by its ids.
        await self._where_it_is(partition, decide, NOT_DONE, patience_s)

    def _parted(self, signals: Sequence[Signal]) -> list[Part]:
        """The partitions of signals, each with the places of its own."""
        if self._partitions == 1:
            return [(0, range(len(signals)))]
        parts: dict[int, list[int]] = {}
        for place, signal in enumerate(signals):
            parts.setdefault(partition_of(signal.tenant, self._partitions), []).append(place)
        return list(parts.items())

    async def _where_it_is(
        self,
        partition: int,
        do: Callable[[GovernorService | None], Awaitable[T]],
        undone: type[Exception] | tuple[type[Exception], ...],
        limit_s: float,
    ) -> T:
        """Have it done by the partition's service, or, where that is elsewhere, by whoever `do` asks for it. While it
        moves this is tried again after each `undone`, for so long. Raises that, NotAcceptingError.
        """
        elsewhere = self._elsewhere
        if elsewhere is None:
            return await do(self._at(partition))

        async def done() -> T:
            there = self.here.get(partition)
            return await do(None if there is None else there.service)

        def is_somewhere() -> bool:
            return partition in self.here or elsewhere.knows(partition)

        try:
            return await self._moves.carry_out(partition, done, is_somewhere, undone, Backoff(self._rng), limit_s)
        except NobodyHasItError:
            raise NotAcceptingError(f"no worker has partition {partition} now", RETRY_S) from None

    def admit(self, tenant: str, klass: str, user: str, cost: int) -> Admitted | Refused | Viewed:
        """Whether a request may pass now; reads memory only."""
        partition = partition_of(tenant, self._partitions)
        there = self.here.get(partition)
        if there is not None:
            return there.service.admit(tenant, klass, user, cost)
        if self._elsewhere is None:
            raise self._nowhere(partition)
        return self._elsewhere.admit(partition, tenant, klass, user, cost)

    def admission(self, haves: Sequence[tuple[int, str, int]]) -> bytes:
        """What changed in the admission of the partitions that are here, for workers that answer from a view of it."""
        for number, _, _ in haves:
            if number not in self.here and number < self._partitions:
                self._on_missed(number)
        sources = {number: there.admission for number, there in self.here.items() if not there.service.is_away()}
        return tell(haves, sources)

    # What names one tenant

    def tenant(self, tenant: str) -> TenantView | None:
        """One tenant."""
        return self._of(tenant).tenant(tenant)

    async def put_tenant(self, tenant: str, change: TenantChange, by: str) -> TenantView:
        """Make a tenant known, or change it."""
        return await self._of(tenant).put_tenant(tenant, change, by)

    async def grant_override(self, tenant: str, grant: OverrideGrant) -> OverrideResult:
        """Take a decision out of a machine's hands."""
        return await self._of(tenant).grant_override(tenant, grant)

    async def withdraw_override(self, tenant: str, governor: str, subject: str, by: str) -> OverrideResult:
        """End that before its time."""
        return await self._of(tenant).withdraw_override(tenant, governor, subject, by)

    def retry_action(self, tenant: str, action_id: str) -> ActionAsked:
        """Try an action again now."""
        return self._of(tenant).retry_action(tenant, action_id)

    def abandon_action(self, tenant: str, action_id: str, by: str) -> ActionAsked:
        """Try an action no more."""
        return self._of(tenant).abandon_action(tenant, action_id, by)

    async def receipts(self, tenant: str, after: int, limit: int) -> ReceiptsPage:
        """A page of a tenant's receipts."""
        return await self._of(tenant).receipts(tenant, after, limit)

    async def bundle(self, tenant: str, after: int, limit: int) -> TenantBundle:
        """A tenant's receipts with their proof."""
        return await self._proofs(partition_of(tenant, self._partitions)).bundle(tenant, after, limit)

    # What names a partition

    async def receipt(self, partition: int, index: int, scope: Scope) -> ReceiptView:
        """One receipt."""
        return await self._at(partition).receipt(partition, index, scope)

    def checkpoint(self, partition: int) -> bytes:
        """The newest signed note."""
        return self._proofs(partition).checkpoint(partition)

    async def tile(self, partition: int, path: str) -> bytes:
        """A tile or entry bundle."""
        return await self._proofs(partition).tile(partition, path)

    async def consistency(self, partition: int, old: int, new: int | None) -> Consistency:
        """That a partition's log has only grown."""
        return await self._proofs(partition).consistency(partition, old, new)

    async def proof(self, partition: int, index: int, scope: Scope) -> ReceiptProof:
        """Of one receipt."""
        return await self._proofs(partition).proof(partition, index, scope)

    async def verify(self, document: bytes) -> VerifyAnswer:
        """The verdict on whatever somebody hands in, by the log that it says it is of."""
        partition = min(self.here, default=0)
        if self._partitions > 1:
            try:
                origin = claimed_origin(await asyncio.to_thread(read_document, document))
            except ProofInvalidError as error:
                return VerifyAnswer(ok=False, error=str(error))
            named = read_partition(origin.rpartition("/")[2], self._partitions)
            partition = partition if named is None else named
        return await self._proofs(partition).verify(document)

    # What concerns several tenants, of those that are here

    def tenants(self, after: str, limit: int, scope: Scope) -> TenantsPage:
        """A page of tenants."""
        return join_tenants([one.tenants(after, limit, scope) for one in self._services()], limit)

    def actions(self, after: str, limit: int, scope: Scope) -> ActionsPage:
        """A page of the actions that have not ended."""
        return join_actions([one.actions(after, limit, scope) for one in self._services()], limit)

    async def operations(self, after: str, limit: int) -> OperationsPage:
        """A page of what operators asked for."""
        seen = read_cursor(after)
        pages = [
            await there.service.operations(seen.get(number, -1), limit) for number, there in sorted(self.here.items())
        ]
        return join_operations(pages, after, limit)

    async def record_operation(self, operation: Operation) -> None:
        """Leave a receipt of what an operator asked for: beside the tenant's own, where it was about one."""
        named = partition_of(operation.tenant, self._partitions) if operation.tenant else -1
        if self._elsewhere is not None and not self.here:
            await self._elsewhere.record_operation(operation)
        else:
            await self._at(named if named in self.here else min(self.here, default=0)).record_operation(operation)

    def policies(self) -> PoliciesView:
        """What decisions are taken under now."""
        return self._at(min(self.here, default=0)).policies()

    async def reload_policies(self) -> Reloaded:
        """Read the policy files again; all of them hold from now on, or none."""
        services = self._services()
        if not services:
            raise self._nowhere(0)
        try:
            policies = await asyncio.to_thread(self._policies)
            for one in services:
                one.check_policies(policies)
            reloaded = [await one.reload_policies(policies) for one in services]
        except SettingsError as error:
            self._metrics.policies_read("refused")
            raise InvalidFieldError(error.problems[0].key, str(error)) from error
        changed = any(one.changed for one in reloaded)
        self._metrics.policies_read("changed" if changed else "same")
        return Reloaded(changed, reloaded[0].digest)

    async def emergency_stop(self, tenant: str | None, by: str, reason: str, *, stopped: bool) -> StopResult:
        """Stop governors from acting, or let them act again."""
        if tenant is not None:
            return await self._of(tenant).emergency_stop(tenant, by, reason, stopped=stopped)
        services = self._services()
        if not services:
            raise self._nowhere(0)
        results = [await one.emergency_stop(None, by, reason, stopped=stopped) for one in services]
        return StopResult(None, stopped, next((one.receipt for one in results if one.receipt is not None), None))

    def watch(self, scope: Scope, *, every: bool) -> AsyncIterator[SignalResult]:
        """Decisions as they are taken here."""
        return self._watchers.watch(scope, every=every)

    # The worker itself

    def tree(self) -> TreeNode:
        """The supervision tree."""
        return self._probed.tree()

    def health(self) -> Health:
        """Which permanent children are gone for good."""
        return self._probed.health()

    def missing(self) -> list[str]:
        """What keeps the worker from being ready."""
        return self._probed.missing()

    def cluster(self) -> ClusterView:
        """Who is there, and who has what."""
        return self._probed.cluster()

    def drain(self, *, leaving: bool) -> ClusterView:
        """Hand over everything and take nothing more, or take part again."""
        return self._probed.drain(leaving=leaving)

    def _services(self) -> list[GovernorService]:
        return [there.service for _, there in sorted(self.here.items())]

    def _of(self, tenant: str) -> GovernorService:
        return self._at(partition_of(tenant, self._partitions))

    def _at(self, partition: int) -> GovernorService:
        there = self.here.get(partition)
        if there is None:
            raise self._nowhere(partition)
        return there.service

    def _proofs(self, partition: int) -> Proofs:
        there = self.here.get(partition)
        if there is None:
            raise self._nowhere(partition)
        return there.proofs

    def _nowhere(self, partition: int) -> ServiceError:
        if partition >= self._partitions:
            return NotFoundError(f"there is no partition {partition}: this log has {self._partitions}")
        if missing := self._probed.missing():
            return NotAcceptingError("not ready: " + ", ".join(missing), RETRY_S)
        return NotAcceptingError(f"partition {partition} is not here", RETRY_S)


def _in_order(parts: Sequence[Part], decided: Sequence[list[T]]) -> list[T]:
    """The results of parts as the signals came."""
    if len(parts) == 1:
        return decided[0]
    by_place = {
        at: result
        for (_, places), part in zip(parts, decided, strict=True)
        for at, result in zip(places, part, strict=True)
    }
    return [by_place[at] for at in range(len(by_place))]


def _last_receipt(results: Sequence[SignalResult]) -> int | None:
    """The index of the last receipt of one partition's results."""
    return max((int(one.receipt.partition(":")[2]) for one in results if one.receipt is not None), default=None)


async def _all(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What comes of all of them, once every one has come to its end. Raises the first error."""
    if len(parts) == 1:
        return [await parts[0]]
    ended = await _each(parts)
    for one in ended:
        if isinstance(one, Exception):
            raise one
    return [one for one in ended if not isinstance(one, Exception)]


async def _each(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T | Exception]:
    """What comes of each of them, or what it raised, once every one has come to its end."""
    ended: list[T | Exception] = []
    for one in await asyncio.gather(*parts, return_exceptions=True):
        if isinstance(one, BaseException) and not isinstance(one, Exception):
            raise one
        ended.append(one)
    return ended
