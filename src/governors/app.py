"""The composition root: everything is made here, and read from top to bottom it is the supervision tree.

Only here (and on the command line) are the clock and the entropy of the machine named; everything below gets them as
arguments.
"""

import asyncio
import contextlib
import importlib.metadata
import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from governors.api.app import build_api
from governors.api.push import PUBSUB, PubSubDoor, Pushes
from governors.api.service import ClusterView, ServiceError
from governors.auth.issuer import Issuer
from governors.cluster.view import alone, cluster_view
from governors.custody import Custody
from governors.gate import Gate
from governors.intake import Intake
from governors.listener import SHUTDOWN_S, http_server
from governors.memory import settle_memory, share_one_heap
from governors.outbox.configured import close, executors_of
from governors.outbox.executors import Executor
from governors.policies import Policies, read_policies
from governors.proofs import LedgerProofs
from governors.runtime import PARTITION, Edges, Runtime, ready_at_once
from governors.service import GovernorService, Watchers
from governors.settings import Effective, PubSubSettings, Settings
from governors.snapshotter import RETENTION_EVERY_S, Snapshotter
from governors.supervision.child import Child
from governors.supervision.report import EventKind, SupervisionEvent, TreeNode
from governors.telemetry.logs import configure_logging
from governors.telemetry.metrics import Metrics
from governors.tenants.decide import Decided
from ingest.dead_letter import DeadLetterFolder
from ingest.decode.limits import DecodeLimits
from ingest.decode.tenants import Routing
from ingest.source import Batch, Disposition
from ledger.errors import LedgerError, LedgerFailedError, WriterFencedError

if TYPE_CHECKING:
    from governors.pubsub import PullSource
    from governors.standby import Standby

DEAD_LETTER_FOLDER: Final = "dead-letter"


def wall_clock_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class App:
    """One worker. Making it recovers the log, which blocks; `run` serves until cancelled.

    `clock_us` is the time that everything in it goes by, `executors` carry its actions out. Without `custody` the log
    is kept on this disk alone and nothing is published. Who sets `policies_asked` wants the policy files read again.
    With a `standby`, which has ended, HTTP is served on its listener, and its heartbeat goes on.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock_us: Callable[[], int],
        executors: Sequence[Executor],
        custody: Custody | None = None,
        policies_asked: asyncio.Event | None = None,
        standby: "Standby | None" = None,
    ) -> None:
        self._settings = settings
        self._custody = custody
        self._heartbeat = None if standby is None else standby.heartbeat
        self._clock_us = clock_us
        self._stopping = False
        self._running = False
        self.log = structlog.get_logger("governors")
        self.rng = random.Random(os.urandom(16))
        self.metrics = Metrics(importlib.metadata.version("governors"), settings.metrics.tenant_labels)
        self.watchers = Watchers()
        self.limits = DecodeLimits()
        self.routing = Routing(settings.ingest.routing)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.dead_letters = DeadLetterFolder(settings.data_dir / DEAD_LETTER_FOLDER)
        self.runtime = Runtime(
            settings,
            settings.data_dir,
            Edges(
                clock_us=clock_us,
                entropy=os.urandom,
                executors=executors,
                dead_letters=self.dead_letters,
                on_decided=self._on_decided,
                on_supervision=self._on_supervision,
                on_commit=self.metrics.committed,
                on_attempt=self.metrics.actions.attempted,
                on_action_ended=self.metrics.actions.ended,
                writer=socket.gethostname(),
            ),
            custody.tenure if custody is not None else None,
            self._read_policies(),
        )
        keepers = (
            custody.entrust(self.runtime.ledger, self.metrics.committed_elsewhere, self.metrics.published)
            if custody is not None
            else []
        )
        self.service = GovernorService(
            self.runtime,
            self.metrics,
            self.watchers,
            tree=self._read_tree,
            missing=self.missing,
            cluster=self._read_cluster,
            warnings=self.warnings,
            receipts=custody.prover.receipts if custody is not None and custody.prover is not None else None,
            policies=self._read_policies,
        )
        self._policies_asked = policies_asked or asyncio.Event()
        gate = self._gate = Gate(settings, self.metrics.connections, clock_us, self.rng)
        proofs = LedgerProofs(
            self.runtime.ledger, custody.prover if custody else None, custody.signer.verifier if custody else None
        )
        self._pull = None if settings.pubsub is None else self._pull_source(settings.pubsub)
        letters = self.dead_letters if self._pull is None else self._pull.dead_letters
        pushes = Pushes(self.routing, letters, None if gate.pusher is None else self._pubsub_door(gate.pusher))
        self.api = build_api(
            self.service, settings, self.metrics, clock_us, self.rng, gate.authenticate, proofs, pushes
        )
        self.http = http_server(
            self.api,
            settings.http,
            self.metrics.connections,
            self.rng,
            gate.certificates,
            self.watchers.dismiss,
            None if standby is None else standby.listener,
            self.api.turnstile.at_once,
        )
        self.tree = self.runtime.tree(
            "governors",
            Child("loop-probe", ready_at_once(self.metrics.watch_event_loop)),
            *([Child("heartbeat", ready_at_once(standby.heartbeat.run))] if standby is not None else []),
            *gate.children(),
            Child("http", self.http.run, shutdown_s=SHUTDOWN_S + 2.0),
            *([self._pull.child()] if self._pull is not None else []),
            Child("policies", ready_at_once(self._reload_policies)),
            Child("snapshots", ready_at_once(self._snapshotter().run)),
            keepers=keepers,
            on_event=self._on_supervision,
        )
        self._publish_gauges()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until cancelled, then stop in order. `on_ready` is called once everything runs.

        Raises LedgerFailedError when the ledger failed, and what the supervisor raises when it gives up.
        """
        ready = asyncio.Event()
        tree = asyncio.create_task(self.tree.run(ready.set), name="governors")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({tree, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if ready.is_set():
                self._running = True
                settle_memory()
                on_ready()
            await tree
            raise self._why_it_ended()
        finally:
            self._stopping = True
            waiting.cancel()
            tree.cancel()
            await asyncio.wait({tree})

    def missing(self) -> list[str]:
        """What keeps the service from being ready; empty when it is."""
        missing = []
        if self._stopping:
            missing.append("stopping")
        elif not self._running:
            missing.append("starting")
        if self.runtime.ledger.failed is not None:
            missing.append(f"ledger: {self.runtime.ledger.failed}")
        return missing

    def warnings(self) -> list[str]:
        """What somebody should look at although the service goes on."""
        found = [] if self._pull is None else self._pull.warnings()
        if self._gate.certificates is not None and self._gate.certificates.is_expired:
            found.append("the certificate has expired (tls.certificate)")
        if ailing := self.runtime.outbox.ailing():
            found.append(f"attempts at actions fail: {', '.join(ailing)}")
        committer = self._custody.committer if self._custody is not None else None
        if committer is not None and committer.is_late():
            waited_s = committer.waited_s()
            found.append(f"receipts have waited {waited_s:.0f} s for the object store: losing this disk loses them")
        return found

    def _why_it_ended(self) -> LedgerError:
        failed = self.runtime.ledger.failed
        return failed if isinstance(failed, LedgerError) else LedgerFailedError(str(failed or "it ended"))

    def _read_tree(self) -> TreeNode:
        return self.tree.tree()

    def _read_cluster(self) -> ClusterView:
        epoch = None if self._custody is None else self._custody.taken.epoch
        if self._heartbeat is None:
            return alone(PARTITION, socket.gethostname(), self.http.url, epoch)
        return cluster_view(PARTITION, self._heartbeat.worker, self._heartbeat.members())

    # Policies

    def _read_policies(self) -> Policies:
        return read_policies(self._settings.policies, self._settings.profiles)

    async def _reload_policies(self) -> None:
        """Whenever it is asked for from outside (SIGHUP)."""
        while True:
            await self._policies_asked.wait()
            self._policies_asked.clear()
            try:
                reloaded = await self.service.reload_policies()
            except (ServiceError, LedgerError) as error:
                self._on_policies(str(error), changed=False)
            else:
                self._on_policies("", changed=reloaded.changed)

    def _on_policies(self, problem: str, *, changed: bool) -> None:
        if problem:
            self.log.error("the policies cannot be used: those of before still hold", problem=problem)
        else:
            self.log.info("the policies were read again", changed=changed)

    # Edges

    def _pubsub_door(self, pusher: Issuer) -> PubSubDoor:
        intake = Intake(self.service, self.metrics, self.limits, PUBSUB, self._clock_us, self.routing)
        return PubSubDoor(pusher.principal_of, intake.handle)

    def _pull_source(self, settings: PubSubSettings) -> "PullSource":
        # Slow to import, so only where configured.
        from governors.pubsub import PullSource, subscription_path  # noqa: PLC0415

        intake = Intake(self.service, self.metrics, self.limits, "pubsub", self._clock_us, self.routing)
        facts = {"subscription": subscription_path(settings)}

        async def handle(batch: Batch) -> Sequence[Disposition]:
            return await intake.handle(batch, facts)

        return PullSource(
            settings,
            self._settings.tenants.dead_letter_after,
            handle,
            self.dead_letters,
            self.metrics,
            self._clock_us,
            self.rng,
            backlog=lambda: self.runtime.registry.queued,
        )

    def _snapshotter(self) -> Snapshotter:
        ledger = self.runtime.ledger
        every_s = math.inf if self._settings.retention is None else RETENTION_EVERY_S
        size = ledger.recovered.snapshot_size
        return Snapshotter(self._settings.data_dir, PARTITION, ledger, size, self.rng, every_s)

    def _on_decided(self, tenant: str, decided: Decided, index: int) -> None:
        self.metrics.decided(
            tenant, decided.governor, decided.outcome, decided.decision, decided.from_status, decided.to_status
        )
        if decided.outcome == "dead_lettered":
            self.metrics.dead_lettered(decided.rule)
        self.watchers.tell(tenant, decided, index)

    def _on_supervision(self, event: SupervisionEvent) -> None:
        if event.kind is EventKind.RESTARTED:
            self.metrics.restarted(event.child)
        if event.error is not None:
            self.log.error("a child failed", child=event.child, what=event.kind, error=event.error.message)

    def _publish_gauges(self) -> None:
        runtime, metrics = self.runtime, self.metrics
        partition = str(PARTITION)
        metrics.ledger_size.labels(partition).set_function(lambda: runtime.ledger.size)
        metrics.ledger_durable_size.labels(partition).set_function(lambda: runtime.ledger.local_size)
        metrics.ledger_pending_bytes.labels(partition).set_function(lambda: runtime.ledger.pending_bytes)
        if self._custody is not None:
            self._publish_custody_gauges(self._custody, partition)
        metrics.active_tenants.set_function(lambda: runtime.registry.active_count)
        metrics.known_tenants.set_function(lambda: runtime.registry.known_count)
        metrics.queued_signals.set_function(lambda: runtime.registry.queued)
        metrics.actions.depth.set_function(lambda: runtime.outbox.depth)
        metrics.actions.oldest_seconds.set_function(lambda: runtime.outbox.oldest_age_s)
        metrics.actions.ailing.set_function(lambda: len(runtime.outbox.ailing()))

    def _publish_custody_gauges(self, custody: Custody, partition: str) -> None:
        metrics, committer, publisher = self.metrics, custody.committer, custody.publisher
        assert committer is not None  # noqa: S101 - the ledger was entrusted
        assert publisher is not None  # noqa: S101 - as above
        metrics.ledger_epoch.labels(partition).set(custody.taken.epoch)
        metrics.ledger_lost_receipts.labels(partition).set(custody.taken.lost)
        metrics.ledger_committed_size.labels(partition).set_function(lambda: committer.head.size)
        metrics.ledger_uncommitted_seconds.labels(partition).set_function(committer.waited_s)
        metrics.ledger_published_size.labels(partition).set_function(lambda: publisher.published_size)
        metrics.ledger_checkpoint_age_seconds.labels(partition).set_function(publisher.waited_s)
        metrics.ledger_payloads_from.labels(partition).set_function(lambda: custody.dropped.segments_from)
        metrics.ledger_receipts_from.labels(partition).set_function(lambda: custody.dropped.entries_from)
        metrics.ledger_fenced.labels(partition).set_function(
            lambda: isinstance(self.runtime.ledger.failed, WriterFencedError)
        )

    def say_ready(self) -> None:
        """Write the line that scripts wait for, and what an operator should know."""
        settings = self._settings
        torn = self.runtime.ledger.torn
        if torn is not None:
            self.log.warning("an unfinished batch was cut off the log", path=str(torn.copy), reason=torn.reason)
        for note in self.runtime.ledger.recovered.notes:
            self.log.warning("a file of the ledger could not be used", reason=note)
        if settings.tenants.auto_create:
            self.log.warning("unknown tenants are created on their first signal")
        if settings.auth.tokens_file is None and settings.oidc is None:
            self.log.warning("there is no authentication: only this machine can reach the service")
        if self._gate.certificates is not None and self._gate.certificates.is_expired:
            self.log.warning("the certificate has expired: clients that look will not connect")
        line = {
            "event": "ready",
            "url": self.http.url,
            "data_dir": str(settings.data_dir),
            "receipts": self.runtime.ledger.size,
            "severity": "INFO",
            "message": f"ready on {self.http.url}, data in {settings.data_dir}",
        }
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()


async def serve(effective: Effective) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Raises LedgerError where its log cannot be used, SettingsError where what the configuration names cannot be.
    """
    share_one_heap()
    settings = effective.settings
    configure_logging(settings.log.level, settings.log.format)
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - a coroutine always has its task
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main.cancel)
    executors = executors_of(settings.actions, wall_clock_us)
    policies_asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, policies_asked.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(contextlib.suppress(asyncio.CancelledError))
        standby = None
        if settings.store.url is not None:
            # Slow to import, so only where others may be there.
            from governors.standby import standing_by  # noqa: PLC0415

            waiting = standing_by(settings, settings.store.url, wall_clock_us, random.Random(os.urandom(16)))
            standby = await stack.enter_async_context(waiting)
        custody = await Custody.take(
            settings,
            clock_us=wall_clock_us,
            entropy=os.urandom,
            rng=random.Random(os.urandom(16)),
            owner=socket.gethostname(),
        )
        try:
            async with custody.kept():
                app = await asyncio.to_thread(
                    App,
                    settings,
                    clock_us=wall_clock_us,
                    executors=executors,
                    custody=custody,
                    policies_asked=policies_asked,
                    standby=standby,
                )
                if standby is not None:
                    standby.heartbeat.own(custody.taken.epoch)
                    await standby.end()
            await app.run(app.say_ready)
        finally:
            await custody.close()
            await close(executors)
