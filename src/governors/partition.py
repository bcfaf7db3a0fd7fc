"""One partition brought to life: its log, what is decided from it, and those who keep it safe."""

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from governors.cluster.admission_view import Source
from governors.custody import Custodian, Custody
from governors.outbox.executors import Executor
from governors.partition_gauges import PartitionGauges
from governors.policies import Policies
from governors.proofs import LedgerProofs
from governors.runtime import Edges, Runtime, ready_at_once
from governors.service import GovernorService, Watchers
from governors.settings import Settings
from governors.snapshotter import Snapshotter, every_s
from governors.supervision.child import Child
from governors.supervision.report import SupervisionEvent, TreeNode
from governors.supervision.tasks import see_out
from governors.telemetry.metrics import Metrics
from governors.tenants.decide import Decided
from ingest.dead_letter import DeadLetterSink
from ledger.errors import LedgerError, LedgerFailedError

QUIET_S: Final = 2.0
"""How long what was taken in may take to be decided, before a partition is handed over."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the partitions of a worker share. `policies` reads the policy files, which blocks."""

    settings: Settings
    clock_us: Callable[[], int]
    entropy: Callable[[int], bytes]
    rng: random.Random
    executors: Sequence[Executor]
    dead_letters: DeadLetterSink
    metrics: Metrics
    watchers: Watchers
    policies: Callable[[], Policies]
    on_supervision: Callable[[SupervisionEvent], None]
    snapshotting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the partition that has a snapshot made."""


class Partition:
    """`take` it, `open` it, `serve` it, `close` it. Without a custodian the log is kept on this disk alone."""

    def __init__(self, number: int, around: Surroundings, custody: Custody | None) -> None:
        self.number = number
        self.epoch = 0 if custody is None else custody.taken.epoch
        self.custody = custody
        self._around = around
        self._runtime: Runtime | None = None
        self._is_closing = False
        self._run = around.entropy(8).hex()

    @classmethod
    async def take(
        cls,
        number: int,
        around: Surroundings,
        custodian: Custodian | None,
        on_standing_by: Callable[[], None],
        hurry: asyncio.Event,
    ) -> "Partition":
        """Wait until it is free and take it. Raises LedgerError, OSError."""
        custody = (
            None if custodian is None else await custodian.take(number, around.snapshotting, on_standing_by, hurry)
        )
        return cls(number, around, custody)

    async def open(self) -> None:
        """Recover it. Raises LedgerError where its log cannot be used, SettingsError where the configuration does not
        fit the tenants in it.
        """
        if self.custody is None:
            await asyncio.to_thread(self._recover)
        else:
            async with self.custody.kept():
                await asyncio.to_thread(self._recover)

    async def serve(self, on_ready: Callable[[], None]) -> None:
        """Decide until cancelled, then stop in order and hand the log over. `on_ready` is called once everything runs.

        Raises LedgerError when the log failed or another writer has it, and what the supervisor raises when it gives
        up.
        """
        gauges = PartitionGauges(self._around.metrics, self.number, self.runtime, self.custody)
        ready = asyncio.Event()
        tree = asyncio.create_task(self._tree.run(ready.set), name=f"partition-{self.number}")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({tree, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if ready.is_set():
                on_ready()
            await asyncio.shield(tree)
            raise self._why_it_ended()
        finally:
            self._is_closing = True
            waiting.cancel()
            try:
                await self._become_quiet()
            finally:  # told to end once more meanwhile: at once, then, but in order all the same
                tree.cancel()
                interrupted = await see_out([tree], None)
                self.runtime.registry.close(f"partition {self.number} is not here any more")
                gauges.remove()
            if interrupted is not None:
                raise interrupted

    async def until_it_can_go(self) -> None:
        """While it decides: return when its last commit can be made at once."""
        committer = None if self.custody is None else self.custody.committer
        if committer is not None:
            await committer.hold_back()

    async def close(self) -> None:
        """Let go of the log."""
        if self._runtime is not None:
            self._runtime.ledger.close()
        if self.custody is not None:
            await self.custody.close()

    @property
    def runtime(self) -> Runtime:
        """Once it is open."""
        assert self._runtime is not None  # noqa: S101 - open() has set it
        return self._runtime

    @property
    def admission(self) -> Source:
        """What is told of it to workers that answer for it too."""
        return Source(self._run, self.epoch, self.runtime.admission)

    def missing(self) -> list[str]:
        """What keeps it from taking anything; empty when nothing does."""
        missing = ["stopping"] if self._is_closing else []
        if self.runtime.ledger.failed is not None:
            missing.append(f"ledger: {self.runtime.ledger.failed}")
        return missing

    def warnings(self) -> list[str]:
        """What somebody should look at although it goes on."""
        found = []
        if ailing := self.runtime.outbox.ailing():
            found.append(f"attempts at actions fail: {', '.join(ailing)}")
        committer = None if self.custody is None else self.custody.committer
        if committer is not None and committer.is_late():
            waited_s = committer.waited_s()
            found.append(f"receipts have waited {waited_s:.0f} s for the object store: losing this disk loses them")
        return found

    def tree(self) -> TreeNode:
        """Its supervision tree."""
        return self._tree.tree()

    def say_what_was_found(self) -> None:
        """Log what an operator should know of the start."""
        log = structlog.get_logger("governors")
        ledger = self.runtime.ledger
        if ledger.torn is not None:
            log.warning(
                "an unfinished batch was cut off the log", path=str(ledger.torn.copy), reason=ledger.torn.reason
            )
        for note in ledger.recovered.notes:
            log.warning("a file of the ledger could not be used", reason=note)

    def _recover(self) -> None:
        around, custody, metrics = self._around, self.custody, self._around.metrics
        settings = around.settings
        runtime = self._runtime = Runtime(
            settings,
            settings.data_dir,
            Edges(
                clock_us=around.clock_us,
                entropy=around.entropy,
                executors=around.executors,
                dead_letters=around.dead_letters,
                on_decided=self._on_decided,
                on_supervision=around.on_supervision,
                on_commit=metrics.committed,
                on_attempt=metrics.actions.attempted,
                on_action_ended=metrics.actions.ended,
                writer=socket.gethostname(),
            ),
            None if custody is None else custody.tenure,
            around.policies(),
            self.number,
        )
        keepers = (
            custody.entrust(runtime.ledger, metrics.committed_elsewhere, metrics.published)
            if custody is not None
            else []
        )
        prover = None if custody is None else custody.prover
        self.service = GovernorService(
            runtime,
            metrics,
            missing=self.missing,
            receipts=None if prover is None else prover.receipts,
        )
        self.proofs = LedgerProofs(
            self.number, runtime.ledger, prover, None if custody is None else custody.signer.verifier
        )
        self._tree = runtime.tree(
            f"partition-{self.number}",
            Child("snapshots", ready_at_once(self._snapshotter(runtime).run)),
            keepers=keepers,
            on_event=around.on_supervision,
        )

    def _snapshotter(self, runtime: Runtime) -> Snapshotter:
        settings, ledger = self._around.settings, runtime.ledger
        size = ledger.recovered.snapshot_size
        return Snapshotter(
            settings.data_dir, self.number, ledger, size, self._around.rng, self._around.snapshotting, every_s(settings)
        )

    async def _become_quiet(self) -> None:
        """Nothing new is taken any more: let what waits be decided, which its senders wait for too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                await self.runtime.registry.empty()

    def _why_it_ended(self) -> LedgerError:
        failed = self.runtime.ledger.failed
        return failed if isinstance(failed, LedgerError) else LedgerFailedError(str(failed or "it ended"))

    def _on_decided(self, tenant: str, decided: Decided, index: int) -> None:
        self._around.metrics.decided(
            tenant, decided.governor, decided.outcome, decided.decision, decided.from_status, decided.to_status
        )
        if decided.outcome == "dead_lettered":
            self._around.metrics.dead_lettered(decided.rule)
        self._around.watchers.tell(self.number, tenant, decided, index)
