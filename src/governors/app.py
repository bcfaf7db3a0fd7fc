"""The composition root: everything is made here, and read from top to bottom it is the supervision tree.

Only here (and on the command line) are the clock and the entropy of the machine named; everything below gets them as
arguments.
"""

import asyncio
import contextlib
import functools
import hashlib
import importlib.metadata
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from governors.api.app import Peering, build_api
from governors.api.push import PUBSUB, PubSubDoor, Pushes
from governors.api.service import ClusterView, Health, NotFoundError, ServiceError
from governors.auth.issuer import Issuer
from governors.cluster.holder import Assignment, Holder
from governors.cluster.moves import Moves
from governors.cluster.router import Router
from governors.cluster.view import alone, cluster_view
from governors.custody import Custodian
from governors.gate import Gate
from governors.intake import PULLED_WAIT_S, Intake
from governors.listener import SHUTDOWN_S, http_server
from governors.memory import prepare_memory, return_memory, settle_memory
from governors.outbox.configured import Watching, close, executors_of
from governors.outbox.executors import Executor
from governors.partition import Partition, Surroundings
from governors.policies import Policies, read_policies
from governors.runtime import Runtime, ready_at_once
from governors.service import Watchers
from governors.settings import Effective, PubSubSettings, Settings
from governors.supervision.child import REST_FOR_ONE, TEMPORARY, AutoShutdown, Child
from governors.supervision.report import EventKind, State, SupervisionEvent, TreeNode
from governors.supervision.supervisor import Supervisor
from governors.switchboard import Switchboard
from governors.telemetry.logs import configure_logging
from governors.telemetry.metrics import Metrics
from ingest.dead_letter import DeadLetterFolder
from ingest.decode.limits import DecodeLimits
from ingest.decode.tenants import Routing
from ingest.source import Batch, Disposition
from ledger.errors import LedgerError, LedgerFailedError

if TYPE_CHECKING:
    from governors.membership import Membership
    from governors.pubsub import PullSource

DEAD_LETTER_FOLDER: Final = "dead-letter"


def wall_clock_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class App:
    """One worker: its edges, and the partitions that it has. `run` serves until cancelled.

    `clock_us` is the time that everything in it goes by, `executors` carry its actions out. Without a `custodian` the
    log is kept on this disk alone and nothing is published; with one whose store others may write too, its partitions
    are shared with them. Who sets `policies_asked` wants the policy files read again. On a `shared` listener it serves
    together with other workers on this machine.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock_us: Callable[[], int],
        executors: Sequence[Executor],
        custodian: Custodian | None = None,
        policies_asked: asyncio.Event | None = None,
        shared: socket.socket | None = None,
    ) -> None:
        self._settings = settings
        self._clock_us = clock_us
        self._stopping = False
        self._running = False
        self._partitions: dict[int, Partition] = {}
        self._moves = Moves(self._look_soon)
        self._all_here = asyncio.Event()
        self.log = structlog.get_logger("governors")
        self.rng = random.Random(os.urandom(16))
        self.metrics = Metrics(importlib.metadata.version("governors"), settings.metrics.tenant_labels)
        self.limits = DecodeLimits()
        self.routing = Routing(settings.ingest.routing)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.dead_letters = DeadLetterFolder(settings.data_dir / DEAD_LETTER_FOLDER)
        self._count = count = 1 if custodian is None else custodian.identity.partitions
        self._membership = membership = self._join(custodian, is_one_of_several=shared is not None)
        watchers = Watchers()
        self.service = Switchboard(
            count,
            self,
            watchers,
            self.metrics,
            self.rng,
            here=self._partitions,
            moves=self._moves,
            elsewhere=None if membership is None else membership.neighbours,
            policies=self._read_policies,
            on_missed=self._on_missed,
        )
        around = Surroundings(
            settings,
            clock_us,
            os.urandom,
            self.rng,
            executors,
            self.dead_letters,
            self.metrics,
            watchers,
            self._read_policies,
            self._on_supervision,
        )
        heartbeat = None if membership is None else membership.heartbeat
        self._holders = [
            Holder(
                number,
                functools.partial(Partition.take, number, around, custodian),
                functools.partial(self._have, number),
                heartbeat,
                self.rng,
                self._on_lost,
            )
            for number in range(count)
        ]
        self._assignment = (
            None if heartbeat is None else Assignment(heartbeat, self._holders, self._on_moved, self._until_taken)
        )
        self._policies_asked = policies_asked or asyncio.Event()
        gate = self._gate = Gate(settings, self.metrics.connections, clock_us, self.rng)
        self._pull = None if settings.pubsub is None else self._pull_source(settings.pubsub)
        self._watching = [one for one in executors if isinstance(one, Watching)]
        letters = self.dead_letters if self._pull is None else self._pull.dead_letters
        pushes = Pushes(self.routing, letters, None if gate.pusher is None else self._pubsub_door(gate.pusher))
        self.api = build_api(
            self.service,
            settings,
            self.metrics,
            clock_us,
            self.rng,
            gate.authenticate,
            self.service,
            pushes,
            None if membership is None else self._peering(membership),
        )
        self.http = http_server(
            self.api,
            settings.http,
            self.metrics.connections,
            self.rng,
            # Those on this machine speak to each other in the clear.
            None if shared is not None else gate.certificates,
            watchers.dismiss,
            None if membership is None else membership.listener,
            self.api.turnstile.at_once,
        )
        certificates = gate.certificates
        self._public = (
            None
            if shared is None
            else self.http.beside(shared, None if certificates is None else lambda: certificates.context)
        )
        self._supervisor = Supervisor(
            "governors",
            REST_FOR_ONE,
            intensity=3,
            period_s=60.0,
            auto_shutdown=AutoShutdown.ANY_SIGNIFICANT,
            on_event=self._on_supervision,
            children=[
                *map(self._child_of, self._holders),
                Child("loop-probe", ready_at_once(self.metrics.watch_event_loop)),
                Child("memory", ready_at_once(return_memory)),
                *([] if heartbeat is None else [Child("heartbeat", ready_at_once(heartbeat.run))]),
                *([] if self._assignment is None else [Child("assignment", ready_at_once(self._assignment.run))]),
                *([] if membership is None else [Child("admission", ready_at_once(membership.follower.run))]),
                *([] if membership is None else [Child("inquiry", ready_at_once(membership.inquiry.run))]),
                *gate.children(),
                Child("http", self.http.run, shutdown_s=SHUTDOWN_S + 2.0),
                *(
                    []
                    if self._public is None
                    else [Child("public-http", self._public.run, shutdown_s=SHUTDOWN_S + 2.0)]
                ),
                *(child for one in self._watching for child in one.children(self.rng)),
                *([self._pull.child()] if self._pull is not None else []),
                Child("policies", ready_at_once(self._reload_policies)),
            ],
        )
        self._publish_gauges()

    async def run(self, on_ready: Callable[[], None], on_standby: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled, then stop in order. `on_ready` is called once decisions are taken here, `on_standby`
        when everything else runs and other workers may have all there is.

        Raises LedgerError when a log failed, SettingsError where the configuration does not fit it, and what the
        supervisor raises when it gives up.
        """
        started = asyncio.Event()
        tree = asyncio.create_task(self._supervisor.run(started.set), name="governors")
        starting = asyncio.create_task(self._start(started, on_ready, on_standby), name="starting")
        try:
            await asyncio.wait({tree, starting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            await asyncio.shield(tree)
            raise self._why_it_ended()
        finally:
            self._stopping = True
            starting.cancel()
            if self._assignment is not None:
                await self._assignment.end()  # while this one still answers
            tree.cancel()
            await asyncio.wait({tree})
            if self._membership is not None:
                await self._membership.close()

    async def _start(
        self, started: asyncio.Event, on_ready: Callable[[], None], on_standby: Callable[[], None]
    ) -> None:
        await started.wait()
        if self._membership is None:
            await self._all_here.wait()
        # Where there are others, partitions come and go, and what is settled is never collected.
        settle_memory()
        if self._membership is not None:
            self._running = True
            on_standby()
            await self._all_here.wait()
        self._running = True
        on_ready()

    @property
    def runtimes(self) -> dict[int, Runtime]:
        """Of the partitions that are here."""
        return {number: one.runtime for number, one in self._partitions.items()}

    # What the probes ask for

    def tree(self) -> TreeNode:
        """The supervision tree."""
        return self._supervisor.tree()

    def health(self) -> Health:
        """Which permanent children are gone for good, and what somebody should look at."""
        gone = {State.GIVEN_UP, State.ABANDONED}
        down = [node.name for node in self.tree().children if node.state in gone]
        return Health(importlib.metadata.version("governors"), down, self.warnings())

    def missing(self) -> list[str]:
        """What keeps the worker from being ready; empty when nothing does."""
        missing = []
        if self._stopping:
            missing.append("stopping")
        elif not self._running:
            missing.append("starting")
        elif not self._partitions and (self._membership is None or not self._membership.where.others()):
            missing.append("a worker that has the log")
        for one in self._partitions.values():
            missing += one.missing()
        return missing

    def warnings(self) -> list[str]:
        """What somebody should look at although the service goes on."""
        found = [] if self._pull is None else self._pull.warnings()
        for executor in self._watching:
            found += executor.warnings()
        if self._gate.certificates is not None and self._gate.certificates.is_expired:
            found.append("the certificate has expired (tls.certificate)")
        for one in self._partitions.values():
            found += [warning for warning in one.warnings() if warning not in found]
        return found

    def cluster(self) -> ClusterView:
        """Who is there, and who has what."""
        epochs = {number: one.epoch for number, one in self._partitions.items()}
        if self._membership is None:
            return alone(self._count, socket.gethostname(), self.http.url, epochs)
        heartbeat = self._membership.heartbeat
        return cluster_view(self._count, heartbeat.worker, heartbeat.members(), epochs)

    def drain(self, *, leaving: bool) -> ClusterView:
        """Hand over everything and take nothing more, or take part again."""
        if self._assignment is None:
            raise NotFoundError("there is no other worker that this one could hand anything over to")
        self._assignment.leave(leaving=leaving)
        return self.cluster()

    # Partitions

    def _join(self, custodian: Custodian | None, *, is_one_of_several: bool) -> "Membership | None":
        if custodian is None or not custodian.is_elsewhere:
            return None
        # Slow to import, so only where others may be there.
        from governors.membership import Membership  # noqa: PLC0415

        return Membership(
            self._settings,
            custodian.store,
            self._count,
            self._partitions,
            self._moves,
            self.metrics,
            clock_us=self._clock_us,
            entropy=os.urandom,
            rng=self.rng,
            is_one_of_several=is_one_of_several,
        )

    def _peering(self, membership: "Membership") -> Peering:
        return Peering(
            None if self._gate.authenticate is None else membership.credentials.principal_of,
            self.service,
            lambda app, access: Router(
                app, access, self._count, membership.where, self._moves, membership.forward, self.rng
            ),
        )

    def _child_of(self, holder: Holder[Partition]) -> Child:
        """Its end is the worker's: whoever cannot go on with a log must not go on at all."""
        name = f"partition-{holder.number}"

        def tree() -> TreeNode:
            here = self._partitions.get(holder.number)
            return TreeNode(name, "supervisor", State.STARTING) if here is None else here.tree()

        return Child(name, holder.run, TEMPORARY, shutdown_s=None, start_s=None, significant=True, subtree=tree)

    def _have(self, number: int, partition: Partition | None) -> None:
        """A partition is here from now on, or no more."""
        if partition is None:
            self._partitions.pop(number, None)
        else:
            self._partitions[number] = partition
            partition.say_what_was_found()
            if self._membership is not None or len(self._partitions) == self._count:
                self._all_here.set()
        self._on_moved()

    def _on_moved(self) -> None:
        """There may be more workers now, or fewer, and partitions elsewhere."""
        if self._membership is not None:
            workers = self._membership.where.workers()
            for one in self._partitions.values():
                one.runtime.admission.share_among(workers)
        self._moves.tell()

    async def _until_taken(self, partition: int, limit_s: float) -> None:
        """Another worker has what was handed over, or nobody is there who could."""
        where = None if self._membership is None else self._membership.where
        if where is not None and where.candidates(partition):
            await self._moves.wait_for(partition, lambda: where.url_of(partition) is not None, limit_s)

    def _on_missed(self, partition: int) -> None:
        """Another worker waits for it: it may be free by now."""
        self._holders[partition].hurry.set()

    def _look_soon(self) -> None:
        """Somebody waits for a partition."""
        if self._membership is not None:
            self._membership.heartbeat.look_soon()

    def _on_lost(self, number: int, error: Exception) -> None:
        self.log.warning("a partition is not here any more", partition=number, reason=str(error))

    def _why_it_ended(self) -> Exception:
        failed = next((one.failed for one in self._holders if one.failed is not None), None)
        return failed or LedgerFailedError("it ended")

    # Policies

    def _read_policies(self) -> Policies:
        return read_policies(self._settings.policies, self._settings.profiles)

    async def _reload_policies(self) -> None:
        """Whenever it is asked for from outside (SIGHUP)."""
        while True:
            await self._policies_asked.wait()
            self._policies_asked.clear()
            if not self._partitions:
                continue  # they are read when there is one
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

        intake = Intake(self.service, self.metrics, self.limits, "pubsub", self._clock_us, self.routing, PULLED_WAIT_S)
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
            backlog=lambda: sum(one.registry.queued for one in self.runtimes.values()),
        )

    def _on_supervision(self, event: SupervisionEvent) -> None:
        if event.kind is EventKind.RESTARTED:
            self.metrics.restarted(event.child)
        if event.error is not None:
            self.log.error("a child failed", child=event.child, what=event.kind, error=event.error.message)

    def _publish_gauges(self) -> None:
        metrics = self.metrics

        def sum_of(figure: Callable[[Runtime], float]) -> Callable[[], float]:
            return lambda: sum(map(figure, self.runtimes.values()))

        metrics.active_tenants.set_function(sum_of(lambda one: one.registry.active_count))
        metrics.known_tenants.set_function(sum_of(lambda one: one.registry.known_count))
        metrics.queued_signals.set_function(sum_of(lambda one: one.registry.queued))
        metrics.actions.depth.set_function(sum_of(lambda one: one.outbox.depth))
        metrics.actions.ailing.set_function(sum_of(lambda one: len(one.outbox.ailing())))
        metrics.actions.oldest_seconds.set_function(
            lambda: max((one.outbox.oldest_age_s for one in self.runtimes.values()), default=0.0)
        )

    def say_standby(self) -> None:
        """Write the line that scripts may wait for."""
        _say("standby", f"on {self.http.url}, until a partition of the log is free", url=self.http.url)

    def say_ready(self) -> None:
        """Write the line that scripts wait for, and what an operator should know."""
        settings = self._settings
        if settings.tenants.auto_create:
            self.log.warning("unknown tenants are created on their first signal")
        if settings.auth.tokens_file is None and settings.oidc is None:
            self.log.warning("there is no authentication: only this machine can reach the service")
        if self._gate.certificates is not None and self._gate.certificates.is_expired:
            self.log.warning("the certificate has expired: clients that look will not connect")
        _say(
            "ready",
            f"ready on {self.http.url}, data in {settings.data_dir}",
            url=self.http.url,
            data_dir=str(settings.data_dir),
            receipts=sum(one.ledger.size for one in self.runtimes.values()),
        )


def _say(event: str, message: str, **facts: str | int) -> None:
    line = {"event": event, **facts, "severity": "INFO", "message": message}
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()


def _end_with_parent(loop: asyncio.AbstractEventLoop, main: "asyncio.Task[None]") -> None:
    """Whoever started this worker says nothing more: nobody would start it again, or stop it."""
    stdin = sys.stdin.fileno()

    def end() -> None:
        loop.remove_reader(stdin)
        main.cancel()

    loop.add_reader(stdin, end)


def worker_name(settings: Settings) -> str:
    """The same in each life of this worker, and no other's: a folder has one worker at a time, and another log's worker
    may have a machine and a folder of the same names.
    """
    place = "\0".join(map(str, (settings.data_dir.absolute(), settings.store.url, settings.ledger.origin)))
    return f"{socket.gethostname()}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


async def serve_several(effective: Effective, workers: int, config: Path | None) -> None:
    """Run so many workers on this machine until SIGTERM or SIGINT. Raises as `serve` does."""
    # Slow to import, so only where several are wanted.
    from governors import pool  # noqa: PLC0415

    await pool.serve(effective, workers, config, clock_us=wall_clock_us, entropy=os.urandom)


async def serve(effective: Effective, shared: socket.socket | None = None) -> None:
    """Run one worker until SIGTERM or SIGINT; with others on this machine, on a listener that they share.

    Raises LedgerError where its log cannot be used, SettingsError where what the configuration names cannot be.
    """
    prepare_memory()
    settings = effective.settings
    configure_logging(settings.log.level, settings.log.format)
    main = asyncio.current_task()
    assert main is not None  # noqa: S101 - a coroutine always has its task
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main.cancel)
    executors = executors_of(settings.actions, wall_clock_us, worker_name(settings))
    policies_asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, policies_asked.set)
    if shared is not None:
        _end_with_parent(loop, main)
    with contextlib.suppress(asyncio.CancelledError):
        custodian = await Custodian.open(
            settings,
            clock_us=wall_clock_us,
            entropy=os.urandom,
            rng=random.Random(os.urandom(16)),
            owner=socket.gethostname(),
        )
        try:
            app = App(
                settings,
                clock_us=wall_clock_us,
                executors=executors,
                custodian=custodian,
                policies_asked=policies_asked,
                shared=shared,
            )
            await app.run(app.say_ready, app.say_standby)
        finally:
            await custodian.close()
            await close(executors)
