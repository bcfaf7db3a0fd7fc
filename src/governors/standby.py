"""A worker that waits for a log which another one has: it answers probes itself, and hands on everything else.

So every worker behind a load balancer can be asked, and the one that takes over is up already. What it hands on is
judged by the owner alone: who asks, what they may, and what becomes of it.
"""

import asyncio
import random
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from importlib.metadata import version
from typing import Final

import orjson
import structlog
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from governors.api.access import AccessTable
from governors.api.app import answer_problems
from governors.api.edge import Edge
from governors.api.guard import Doorkeeper, Guard
from governors.api.health import health_router
from governors.api.rates import RateLimits
from governors.api.service import ClusterView, Health
from governors.cluster.forward import Forwarder
from governors.cluster.heartbeat import Heartbeat
from governors.cluster.view import cluster_view
from governors.gate import Gate
from governors.listener import SHUTDOWN_S, http_server, listen, url_of
from governors.runtime import PARTITION, ready_at_once
from governors.settings import Settings
from governors.supervision.child import ONE_FOR_ONE, Child
from governors.supervision.report import TreeNode
from governors.supervision.supervisor import Supervisor
from governors.telemetry.metrics import Metrics
from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.opening import open_store

OWN: Final = frozenset({"/healthz", "/readyz", "/metrics", "/v1/cluster", "/v1/tree"})
"""What is asked of this worker, and not of the service."""
GOODBYE_S: Final = 2.0
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9.-]")


class Standby:
    """`listener` is the worker's for as long as it lives: `end` leaves it to whoever serves on it next. From then on
    `heartbeat` runs in another's tree.
    """

    def __init__(self, heartbeat: Heartbeat, listener: socket.socket, supervisor: Supervisor) -> None:
        self.heartbeat = heartbeat
        self.listener = listener
        self._supervisor = supervisor
        self._tree: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Serve. Raises what the supervisor raises where a part cannot start; where it gives up later, the task that
        called this is cancelled, and `end` raises it.
        """
        ready, caller = asyncio.Event(), asyncio.current_task()
        assert caller is not None  # noqa: S101 - a coroutine always has its task
        self._tree = asyncio.create_task(self._supervisor.run(ready.set), name="standby")
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({self._tree, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._tree.done():
            self._tree.result()
        self._tree.add_done_callback(lambda tree: None if tree is not self._tree else caller.cancel())

    async def end(self) -> None:
        """Answer no more; whoever connects from now on waits. Raises IntensityExceededError."""
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.cancel()
            with suppress(asyncio.CancelledError):
                await tree


@asynccontextmanager
async def standing_by(
    settings: Settings, url: str, clock_us: Callable[[], int], rng: random.Random
) -> AsyncIterator[Standby]:
    """Be one of the workers over the store at `url`, from here on to the end of the process.

    Raises OSError where the address cannot be had, StoreRefusedError, TokenFileError, CertificateError.
    """
    log = structlog.get_logger("governors.cluster")
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(closing(listen(settings.http.host, settings.http.port)))
        store = await asyncio.to_thread(open_store, url)
        stack.push_async_callback(store.close)
        heartbeat = Heartbeat(
            store,
            _name(rng),
            settings.cluster.advertise or _own_url(settings, listener),
            rng=rng,
            on_failed=lambda reason: log.warning("the other workers are not heard", reason=reason),
        )
        stack.push_async_callback(_say_goodbye, heartbeat)
        app = await asyncio.to_thread(_Waiting, settings, heartbeat, listener, clock_us, rng)
        stack.push_async_callback(app.close)
        standby = Standby(heartbeat, listener, app.supervisor)
        stack.push_async_callback(standby.end)
        await standby.begin()
        app.say_so()
        yield standby


async def _say_goodbye(heartbeat: Heartbeat) -> None:
    with suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await heartbeat.stop()


class _Waiting:
    """The ASGI application, and the tree that serves it."""

    def __init__(
        self,
        settings: Settings,
        heartbeat: Heartbeat,
        listener: socket.socket,
        clock_us: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._heartbeat = heartbeat
        self._table = AccessTable()
        metrics = Metrics(version("governors"), settings.metrics.tenant_labels)
        gate = Gate(settings, metrics.connections, clock_us, rng)
        self._forward = Forwarder(self._owner, heartbeat.look_soon, rng, ca=settings.cluster.ca)
        rates = RateLimits(settings.limits, metrics, clock_us, rng)
        probes = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        probes.include_router(health_router(self, metrics))
        answer_problems(probes, rng)
        self._own = Guard(probes, Doorkeeper(self._table, gate.authenticate, rates), rng)
        edge = Edge(
            self._route,
            metrics,
            rng,
            timeout_s=settings.http.request_timeout_s,
            body_bytes_max=settings.http.body_bytes_max,
        )
        self._http = http_server(
            edge, settings.http, metrics.connections, rng, gate.certificates, self._forward.give_up, listener
        )
        self.supervisor = Supervisor(
            "standby",
            ONE_FOR_ONE,
            intensity=3,
            period_s=60.0,
            children=[
                Child("heartbeat", ready_at_once(heartbeat.run)),
                *gate.children(),
                Child("http", self._http.run, shutdown_s=SHUTDOWN_S + 2.0),
            ],
        )

    def say_so(self) -> None:
        """Write the line that scripts may wait for."""
        url = self._http.url
        line = {"event": "standby", "url": url, "severity": "INFO", "message": f"on {url}, until the log is free"}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()

    async def close(self) -> None:
        """Let go of the connections to the owner."""
        await self._forward.close()

    # What the probes ask for

    def tree(self) -> TreeNode:
        """The tree of what serves while it waits."""
        return self.supervisor.tree()

    def health(self) -> Health:
        """It answers, so it is well."""
        return Health(version("governors"), [])

    def missing(self) -> list[str]:
        """Nothing, where somebody has the log: then whatever is asked here is answered."""
        return [] if self._heartbeat.owner() is not None else ["a worker that has the log"]

    def cluster(self) -> ClusterView:
        """Who is there."""
        return cluster_view(PARTITION, self._heartbeat.worker, self._heartbeat.members())

    # The way of a request

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OWN:
            await self._own(scope, receive, send)
            return
        place = self._table.find(scope["path"])
        if place is not None:
            scope["state"]["route"] = place.route  # for the counters; whether it may be had, the owner says
        await self._forward(scope, receive, send)

    def _owner(self) -> str | None:
        owner = self._heartbeat.owner()
        return None if owner is None else owner.url


def _name(rng: random.Random) -> str:
    """Another one in each process: what the one before it said goes out of date by itself."""
    host = _NOT_IN_A_NAME.sub("-", socket.gethostname()).strip(".-")[:64] or "worker"
    return f"{host}-{rng.getrandbits(32):08x}"


def _own_url(settings: Settings, listener: socket.socket) -> str:
    host = settings.http.host
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared with, not listened on
    return url_of(
        socket.gethostname() if host in everywhere else host,
        listener.getsockname()[1],
        encrypted=settings.tls is not None,
    )
