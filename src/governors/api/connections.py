"""Connections, before anybody knows who speaks: what one client can have us keep and wait for has an end.

uvicorn's parser takes heads of any length, for any time, and connections without number; whoever is let in only later
must not be able to use that. A connection may wait for a head, read on after its answer, and leave its answer unread
for some seconds; where there are too many, the one that has been idle for longest makes room, so that a newcomer (a
probe) is heard however many others hold connections open and say nothing.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol, cast

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from governors.api.edge import NO_STORE
from governors.api.problem import ProblemError, render
from governors.api.turnstile import Reply

# Requests of one connection that may wait behind the one that is being answered.
PIPELINED_MAX: Final = 64
RETRY_S: Final = 1.0


class Reason(StrEnum):
    """Why a connection was dropped."""

    FULL = "full"
    EVICTED = "evicted"
    HANDSHAKE = "handshake"
    HEAD_TIMEOUT = "head_timeout"
    HEAD_TOO_LARGE = "head_too_large"
    BAD_REQUEST = "bad_request"
    PIPELINED = "pipelined"
    LINGERED = "lingered"
    STALLED = "stalled"


OnDropped = Callable[[Reason], None]
"""`on_dropped(reason)`: this side ended a connection before its time."""
AtOnce = Callable[[Any], Reply | None]
"""`at_once(scope)`: the answer to a request without a body, if there is one already; None where the application has to
be asked.
"""
CallLater = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """What connections may take. Seconds are those of the event loop's clock."""

    connections_max: int
    head_s: float
    """For a request's head, from its first byte or from the connection's beginning."""
    head_bytes_max: int = 32 * 1024
    """For a request's line and headers, and for what frames its body between two pieces of it."""
    linger_s: float = 5.0
    """For the rest of a body that nobody waits for any more. At once would reset the connection, answer and all."""
    stall_s: float = 20.0
    """For a client to take any part of an answer that waits for it."""


class Member(Protocol):
    """Something that holds a connection."""

    def drop(self, reason: Reason) -> None:
        """End it without another word."""


class Connections:
    """All that are open, and which of them are idle."""

    def __init__(
        self, limits: ConnectionLimits, on_dropped: OnDropped, rng: random.Random, call_later: CallLater | None = None
    ) -> None:
        self.limits = limits
        self.on_dropped = on_dropped
        self.rng = rng
        self._call_later = call_later
        self._open: set[Member] = set()
        # In the order in which they became idle.
        self._idle: dict[Member, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, member: Member) -> bool:
        """Let one more in, if there is room or an idle one can make some."""
        if len(self._open) >= self.limits.connections_max:
            longest = next(iter(self._idle), None)
            if longest is None:
                return False
            self.remove(longest)
            longest.drop(Reason.EVICTED)
        self._open.add(member)
        self._idle[member] = None
        return True

    def remove(self, member: Member) -> None:
        """Idempotent."""
        self._open.discard(member)
        self._idle.pop(member, None)

    def mark_busy(self, member: Member) -> None:
        """A request of its has been read: it is not dropped for the sake of others."""
        self._idle.pop(member, None)

    def mark_idle(self, member: Member) -> None:
        """All its requests have been answered."""
        if member in self._open:
            self._idle[member] = None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """As the event loop has it, unless somebody else keeps the time."""
        later = self._call_later or asyncio.get_running_loop().call_later
        return later(seconds, callback)


class _HeadTooLargeError(Exception):
    pass


class _AmbiguousError(Exception):
    pass


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with an end to its patience."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        instead_of: Member | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._instead_of = instead_of
        self._at_once = at_once
        self._held: RequestResponseCycle | None = None
        """One whose head alone is in; what it asks can perhaps be answered at once."""
        self._limits = connections.limits
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._in_head = False
        # Bytes since the parser last made something of them: of a head or a frame that does not end.
        self._pending_bytes = 0
        self._body_complete = True
        self._ending = False

    # From the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._wire = transport
        super().connection_made(_Outgoing(transport, self.end))
        if self._instead_of is not None:
            self._connections.remove(self._instead_of)
        if self._connections.admit(self):
            self._wait(self._limits.head_s, Reason.HEAD_TIMEOUT)
        else:
            # Not for a moment longer: these are the ones that are too many.
            self._ending = True
            self._answer(ProblemError("too-many-connections", "all connections are in use", retry_after_s=RETRY_S))
            self._connections.on_dropped(Reason.FULL)
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        self._stop_waiting()
        self._stop_stall()
        self._ending = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._unset_keepalive_if_required()
        self._pending_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here: the request is answered as any other, and what follows is not read.
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLargeError):
                self._refuse_head()
            else:
                self._refuse(ProblemError("bad-request", "this is no HTTP request"), Reason.BAD_REQUEST)
            return
        if self._pending_bytes > self._limits.head_bytes_max:
            self._refuse_head()
        elif len(self.pipeline) > PIPELINED_MAX:
            self.drop(Reason.PIPELINED)
        elif self._deadline is None and (self._in_head or (self._pending_bytes and self._is_idle())):
            self._wait(self._limits.head_s, Reason.HEAD_TIMEOUT)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        if not self._ending:  # then it is watched until the last byte is out
            self._stop_stall()
        super().resume_writing()

    # From the parser

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110, section 6.5.1: a trailer is no header, and nobody here has a use for one.
        if self._in_head:
            self._keep_header(name, value)

    _keep_header = HttpToolsProtocol.on_header

    def on_headers_complete(self) -> None:
        _check_head(self.url, self.headers, self.parser.get_http_version(), self._limits.head_bytes_max)
        super().on_headers_complete()
        self._in_head, self._pending_bytes, self._body_complete = False, 0, False
        if self._deadline is not None:
            self._stop_waiting()
        self._connections.mark_busy(self)

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending_bytes, self._body_complete = 0, True
        super().on_message_complete()
        held, self._held = self._held, None
        if held is not None:
            self._answer_at_once(held)
        elif self.cycle.response_complete:
            self._wait(self._limits.head_s, Reason.HEAD_TIMEOUT)

    # To the application

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """uvicorn's, for a request whose turn it is: its head is in, and perhaps more."""
        if self._at_once is None or _has_body(cycle):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._held = cycle  # without a body it ends where its head does
        else:
            self._answer_at_once(cycle)

    def _answer_at_once(self, cycle: RequestResponseCycle) -> None:
        """Without a task: to make one, and to speak ASGI with it, costs more than most of what is asked this way."""
        assert self._at_once is not None  # noqa: S101 - asked before
        # Who does not read their answers is waited for elsewhere.
        can_write = not (self.flow.write_paused or cycle.disconnected or self._wire.is_closing())
        try:
            reply = self._at_once(cycle.scope) if can_write else None
        except Exception:  # noqa: BLE001 - the application fails on it as well, and says so
            reply = None
        if reply is None:
            super()._start_asgi_task(cycle, self.app)
            return
        parts = [STATUS_LINE[reply.status]]
        for name, value in cycle.default_headers:
            parts += [name, b": ", value, b"\r\n"]
        parts += [reply.head, b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"]
        if cycle.scope["method"] != "HEAD":
            parts.append(reply.body)
        self._wire.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    # From the answer

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle() and not self._ending:
            self._connections.mark_idle(self)
            if not self._body_complete:
                self._wait(self._limits.linger_s, Reason.LINGERED)

    def timeout_keep_alive_handler(self) -> None:
        self.end()

    def shutdown(self) -> None:
        """No request after those under way."""
        if self._ending:
            self._wire.abort()
        else:
            super().shutdown()

    # Its end

    def end(self) -> None:
        """Close it once what was written has gone out, and what is still on its way has come in: to close with bytes
        unread resets the connection, which can cost the client the answer.
        """
        if self._ending:
            return
        self._ending = True
        self._stop_waiting()
        self._connections.mark_idle(self)
        if self._body_complete and not self._in_head:
            self._close()
            return
        if self._wire.can_write_eof():
            self._wire.write_eof()
        self.flow.resume_reading()
        self._wait(self._limits.linger_s, Reason.LINGERED)

    def drop(self, reason: Reason) -> None:
        """End it without another word."""
        self._connections.on_dropped(reason)
        self._wire.abort()

    def _close(self) -> None:
        self._wire.close()
        if self._wire.get_write_buffer_size():
            self._watch_writing()

    def _refuse_head(self) -> None:
        detail = f"a request's line and headers may have {self._limits.head_bytes_max} bytes"
        self._refuse(ProblemError("headers-too-large", detail), Reason.HEAD_TOO_LARGE)

    def _refuse(self, problem: ProblemError, reason: Reason) -> None:
        """Answer and end it. In the middle of another answer, or before an earlier one's, nothing can be said."""
        if not self._is_idle():
            if self._in_head or self.pipeline or self.cycle.response_started:
                self.drop(reason)
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._connections.on_dropped(reason)
        self._answer(problem)
        self._body_complete = False  # whatever follows, it will not be understood
        self.end()

    def _answer(self, problem: ProblemError) -> None:
        response = render(problem, self._connections.rng)
        head = [STATUS_LINE[response.status_code]]
        own = [*response.raw_headers, NO_STORE, (b"connection", b"close")]
        for name, value in [*self.server_state.default_headers, *own]:
            head += [name, b": ", value, b"\r\n"]
        self._wire.write(b"".join([*head, b"\r\n", response.body]))

    # Its patience

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None until there is a first request
        return cycle is None or cycle.response_complete

    def _wait(self, seconds: float, reason: Reason) -> None:
        """From now on for so long, and no longer."""
        self._stop_waiting()
        self._deadline = self._connections.call_later(seconds, lambda: self.drop(reason))

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch_writing(self) -> None:
        self._stop_stall()
        self._unsent_bytes = self._wire.get_write_buffer_size()
        self._stall = self._connections.call_later(self._limits.stall_s, self._look_at_writing)

    def _look_at_writing(self) -> None:
        if self._wire.get_write_buffer_size() < self._unsent_bytes:
            self._watch_writing()
        else:
            self.drop(Reason.STALLED)

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def _check_head(url: bytes, headers: Sequence[tuple[bytes, bytes]], version: str, bytes_max: int) -> None:
    """Raise where a head is too long, or where a proxy in front may have read something else in it: whose it is (RFC
    9112, section 3.2), where it ends (section 6.1; the parser has refused the rest of what can be said there).
    """
    size, hosts, encodings = len(url), 0, 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            encodings += 1 if value.lower() == b"chunked" else 2
    if size > bytes_max:
        raise _HeadTooLargeError
    if hosts > 1 or encodings > 1 or (hosts == 0 and version != "1.0"):
        raise _AmbiguousError


def _has_body(cycle: RequestResponseCycle) -> bool:
    """Whether there is something behind the head, or the client waits for a word before it sends it."""
    if cycle.waiting_for_100_continue:
        return True
    for name, value in cycle.scope["headers"]:
        if name == b"content-length":
            return bool(value != b"0")
        if name == b"transfer-encoding":
            return True
    return False


class _Outgoing(asyncio.Transport):
    """What uvicorn sees of the transport: to close it is left to the connection."""

    def __init__(self, wire: asyncio.Transport, end: Callable[[], None]) -> None:
        super().__init__()
        self._wire = wire
        self._end = end
        self._closing = False
        self.write = wire.write  # type: ignore[method-assign]  # it comes here for every answer
        self.pause_reading = wire.pause_reading  # type: ignore[method-assign]
        self.resume_reading = wire.resume_reading  # type: ignore[method-assign]
        self.get_extra_info = wire.get_extra_info  # type: ignore[method-assign]

    def close(self) -> None:
        self._closing = True
        self._end()

    def is_closing(self) -> bool:
        return self._closing or self._wire.is_closing()
