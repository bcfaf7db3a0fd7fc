"""The HTTP server: a socket, and uvicorn behind it as a supervised child."""

import asyncio
import contextlib
import functools
import random
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final, cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from governors.api.connections import AtOnce, Connection, ConnectionLimits, Connections, Member
from governors.api.tls import accept_encrypted
from governors.certificates import Certificates
from governors.settings import HttpSettings
from governors.supervision.child import Started
from governors.telemetry.connection_metrics import ConnectionMetrics

SHUTDOWN_S: Final = 5
# Files that the rest of the process may need: segments, sources, the object store.
FILES_OF_OURS: Final = 256
# On every answer, also on those that are given before a request is read.
NOSNIFF: Final = [("x-content-type-options", "nosniff")]
# A browser that was here once never asks in the clear again (RFC 6797).
HSTS: Final = [("strict-transport-security", "max-age=31536000")]


class HttpServer:
    """uvicorn as a supervised child: it says when it listens, and ends when it is told to.

    `on_stop` ends the answers that would otherwise go on for ever. With `context`, which is asked for each connection,
    nothing is spoken but TLS. A `listener` that the caller holds stays open when this ends, and whoever connects
    meanwhile waits for the next server on it; without one this opens its own. `at_once` answers what the application
    need not be asked for.
    """

    def __init__(
        self,
        api: ASGIApp,
        host: str,
        port: int,
        connections: Connections,
        keep_alive_s: int,
        on_stop: Callable[[], None],
        context: Callable[[], ssl.SSLContext] | None = None,
        listener: socket.socket | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        self._at_once = at_once
        self._keep_alive_s = keep_alive_s
        self._api = api
        self._connections = connections
        self._on_stop = on_stop
        self._context = context
        self._host = host
        self._port = port
        self._listener = listener
        self.url = ""

    def beside(self, listener: socket.socket, context: Callable[[], ssl.SSLContext] | None) -> "HttpServer":
        """The same application on another socket, with the same limit of connections over both."""
        host, port = listener.getsockname()[:2]
        return HttpServer(
            self._api,
            host,
            port,
            self._connections,
            self._keep_alive_s,
            self._on_stop,
            context,
            listener,
            self._at_once,
        )

    async def run(self, started: Started) -> None:
        """Serve until cancelled; requests under way may finish. Raises OSError where the address cannot be had."""
        listener = listen(self._host, self._port) if self._listener is None else self._listener.dup()
        with contextlib.closing(listener):
            await self._run_on(listener, started)

    async def _run_on(self, listener: socket.socket, started: Started) -> None:
        # A restart must come back where it was, also on a port that the system chose.
        self._port = listener.getsockname()[1]
        self.url = url_of(self._host, self._port, encrypted=self._context is not None)
        connection = functools.partial(Connection, connections=self._connections, at_once=self._at_once)
        config = uvicorn.Config(
            self._api,
            http=cast("type[asyncio.Protocol]", connection),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            headers=[*NOSNIFF, *(HSTS if self._context is not None else [])],
            proxy_headers=False,  # receipts of operators name who is connected: nobody's word is taken for it
            timeout_keep_alive=self._keep_alive_s,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        server = _Server(config, started)
        context = self._context
        serving = asyncio.create_task(server.serve(sockets=[listener] if context is None else []), name="uvicorn")
        tasks: set[asyncio.Task[None]] = {serving}
        if context is not None:

            def connect(handshake: Member) -> Connection:
                return connection(config, server.server_state, {}, instead_of=handshake)

            accepting = accept_encrypted(listener, self._connections, context, connect)
            tasks.add(asyncio.create_task(accepting, name="tls"))
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks - {serving}:
                task.cancel()
            server.should_exit = True
            self._on_stop()
            await asyncio.wait(tasks)


class _Server(uvicorn.Server):
    """Leaves signals to the process, and tells when it listens."""

    def __init__(self, config: uvicorn.Config, started: Started) -> None:
        super().__init__(config)
        self._say_started = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say_started()


def http_server(
    api: ASGIApp,
    settings: HttpSettings,
    metrics: ConnectionMetrics,
    rng: random.Random,
    certificates: Certificates | None,
    on_stop: Callable[[], None],
    listener: socket.socket | None = None,
    at_once: AtOnce | None = None,
) -> HttpServer:
    """A server as the configuration has it."""
    limits = ConnectionLimits(
        connections_max=room_for_connections(settings.connections_max), head_s=settings.head_timeout_s
    )
    if limits.connections_max < settings.connections_max:
        structlog.get_logger("governors").warning(
            "fewer connections than http.connections_max: the limit of open files is too low",
            connections_max=limits.connections_max,
        )
    connections = Connections(limits, metrics.dropped, rng)
    metrics.open.set_function(lambda: len(connections))
    return HttpServer(
        api,
        settings.host,
        settings.port,
        connections,
        settings.keep_alive_s,
        on_stop,
        None if certificates is None else lambda: certificates.context,
        listener,
        at_once,
    )


def url_of(host: str, port: int, *, encrypted: bool) -> str:
    """The address of a server."""
    return f"{'https' if encrypted else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; 0 for any free port. Raises OSError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by its number: asyncio turns Nagle's algorithm off for such sockets only, and with it on a keep-alive
    # connection waits 40 ms for the body of every answer, until the delayed acknowledgement of its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def room_for_connections(wanted: int) -> int:
    """How many of them this process can have open, its limit of open files raised if need be. Without files left the
    ledger could not go on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Twice: what is being closed has its file for a moment longer, while its successor has one already.
    needed = 2 * wanted + FILES_OF_OURS
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, (soft - FILES_OF_OURS) // 2))
