"""Held batches, and the keeper of their leases: extended while the handler and the acknowledgement take their time."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NoReturn

from ingest import flow
from ingest.errors import IngestError
from ingest.pull_metrics import PullMetrics
from ingest.pull_settings import PullSettings
from ingest.source import Batch, Subscriber


@dataclass(slots=True, eq=False)
class Held:
    """A batch from the pull until the broker has answered for all of it. Times are the event loop's.

    `leased` are the ids that its lease is extended for, since `leased_s`; `unsettled` counts deliveries.
    """

    batch: Batch
    received_s: float
    leased_s: float
    leased: Sequence[str]
    unsettled: int

    def let_go(self, ack_ids: Collection[str]) -> None:
        """Extend the lease of these no more."""
        self.leased = [ack_id for ack_id in self.leased if ack_id not in ack_ids]


class LeaseKeeper:
    """Extends the leases of `held`, in few requests for all of them. `give_up(held)` is called for what is held too
    long.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        settings: PullSettings,
        metrics: PullMetrics,
        held: Collection[Held],
        give_up: Callable[[Held], None],
    ) -> None:
        self._subscriber = subscriber
        self._settings = settings
        self._metrics = metrics
        self._held = held
        self._give_up = give_up

    async def run(self) -> NoReturn:
        """Look at regular times, until cancelled."""
        while True:
            await asyncio.sleep(flow.lease_check_period_s(self._settings.ack_deadline_s))
            due = [held for held in list(self._held) if self._is_due(held)]
            asked_s = asyncio.get_running_loop().time()
            failed = await self._extend(list(chain.from_iterable(held.leased for held in due)))
            for held in due:
                if failed.isdisjoint(held.leased):
                    held.leased_s = asked_s

    def _is_due(self, held: Held) -> bool:
        match flow.assess_lease(
            asyncio.get_running_loop().time(),
            received_s=held.received_s,
            leased_s=held.leased_s,
            ack_deadline_s=self._settings.ack_deadline_s,
            held_s_max=self._settings.held_s_max,
        ):
            case flow.Lease.EXTEND:
                return True
            case flow.Lease.KEEP:
                return False
            case flow.Lease.GIVE_UP:
                self._give_up(held)
                return False

    async def _extend(self, ack_ids: Sequence[str]) -> set[str]:
        """Returns the ids whose lease may still be what it was. Half of it is left: the next look tries again."""
        settings = self._settings
        timeout_s = flow.lease_request_s(settings.ack_deadline_s, settings.rpc_timeout_s)
        failed: set[str] = set()
        for chunk in flow.chunk_ack_ids(ack_ids):
            try:
                result = await self._subscriber.modify_ack_deadline(chunk, settings.ack_deadline_s, timeout_s)
            except IngestError as error:
                # Also where it is refused: the pulls judge what that means for the subscription.
                self._metrics.lease_errors += 1
                self._metrics.last_error = str(error)
                failed.update(chunk)
                continue
            if result.lost:
                self._metrics.leases_lost += len(result.lost)
                for held in list(self._held):
                    if not result.lost.isdisjoint(held.leased):
                        held.let_go(result.lost)
            failed |= result.failed
            self._metrics.lease_extensions += len(chunk) - len(result.lost) - len(result.failed)
        return failed
