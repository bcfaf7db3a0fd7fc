"""Connections, before anybody knows who speaks: what one client can have us keep and wait for has an end.

uvicorn's parser takes heads of any length, for any time, and connections without number; whoever is let in only later
must not be able to use that. A connection may wait for a head, read on after its answer, and leave its answer unread
for some seconds; where there are too many, the one that has been idle for longest makes room, so that a newcomer (a
probe) is heard however many others hold connections open and say nothing.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol, cast

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from governors.api.edge import NO_STORE
from governors.api.heads import ASKED_FOR, NOTHING, HeadTooLargeError, check_head, read_target
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


class Clock(Protocol):
    """What tells connections the time: the event loop, unless somebody else keeps it."""

    def time(self) -> float:
        """Seconds from any beginning."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle: ...


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
        self, limits: ConnectionLimits, on_dropped: OnDropped, rng: random.Random, clock: Clock | None = None
    ) -> None:
        self.limits = limits
        self.on_dropped = on_dropped
        self.rng = rng
        self.clock = clock
        self._open: set[Member] = set()
        # In the order in which they became idle.
        self._idle: OrderedDict[Member, None] = OrderedDict()
        self._common: Sequence[tuple[bytes, bytes]] = ()
        self._common_head = b""

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
            self._idle.move_to_end(member)

    def common_head(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The headers of every answer, as they are sent. uvicorn makes a new list of them once a second."""
        if headers is not self._common:
            self._common, self._common_head = headers, b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._common_head


class _EndedError(Exception):
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
        self._clock = connections.clock or self.loop
        self._instead_of = instead_of
        self._at_once = at_once
        self._limits = connections.limits
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._resting_since_s = 0.0
        self._unsent_bytes = 0
        self._in_head = False
        # What has come of a request is all of it, and nothing waits before it: it can perhaps be answered at once.
        self._is_alone = False
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
        if self._rest is not None:
            self._rest.cancel()
        self._ending = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._pending_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here: the request is answered as any other, and what follows is not read.
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            self._refuse_unreadable(error)
            return
        if self._pending_bytes or self.pipeline:
            self._look_at_pending()

    def _look_at_pending(self) -> None:
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
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110, section 6.5.1: a trailer is no header, and nobody here has a use for one.
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._ending:
            # RFC 9112, section 9.6: nothing is read behind a request whose answer ends the connection.
            raise _EndedError
        # What has arrived is at least as long as the head in it, which mostly decides the matter.
        bytes_max = self._limits.head_bytes_max
        limit = bytes_max if self._pending_bytes > bytes_max else None
        behind = check_head(self.url, self.headers, self.parser.get_http_version(), limit)
        self.expect_100_continue = behind is ASKED_FOR
        self._is_alone = behind is NOTHING and self._is_idle() and not self.parser.should_upgrade()
        if not self._is_alone:
            self._begin_cycle()
            self._body_complete = False
        self._in_head, self._pending_bytes = False, 0
        if self._deadline is not None:
            self._stop_waiting()

    def on_body(self, body: bytes) -> None:
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_alone:
            self._is_alone = False
            if self._answer_at_once():
                return
            self._begin_cycle()
        self._pending_bytes, self._body_complete = 0, True
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait(self._limits.head_s, Reason.HEAD_TIMEOUT)

    # The answer

    def _begin_cycle(self) -> None:
        """What uvicorn makes of a head, and has the application answer when it is its turn."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers = self.scope["headers"] = headers
        super().on_headers_complete()
        self._connections.mark_busy(self)

    def _answer_at_once(self) -> bool:
        """Answer a request without the application, if that can be. To speak ASGI with it, and to keep what one needs
        for it, costs more than most of what is asked this way.
        """
        path, query = read_target(self.url)
        method = self.parser.get_method().decode("ascii")
        asked = {"method": method, "path": path, "query_string": query, "headers": self.headers}
        if (reply := self._reply_to(asked)) is None:
            return False
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._write(reply, method, keep_alive=keep_alive)
        self.server_state.total_requests += 1
        if keep_alive:
            self._begin_rest()
        else:
            self.end()
        return True

    def _answer_queued(self, cycle: RequestResponseCycle) -> bool:
        """The same for a request that has waited for the one before it."""
        if (
            cycle.more_body
            or cycle.body
            or cycle.waiting_for_100_continue
            or (reply := self._reply_to(cycle.scope)) is None
        ):
            return False
        self._write(reply, cycle.scope["method"], keep_alive=cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.server_state.total_requests += 1
        if not cycle.keep_alive:
            self.end()
        return True

    def _reply_to(self, asked: Any) -> Reply | None:
        # Who does not read their answers is waited for elsewhere.
        if self._at_once is None or self.flow.write_paused or self._wire.is_closing():
            return None
        try:
            return self._at_once(asked)
        except Exception:  # noqa: BLE001 - the application fails on it as well, and says so
            return None

    def _write(self, reply: Reply, method: str, *, keep_alive: bool) -> None:
        common = self._connections.common_head(self.server_state.default_headers)
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        body = reply.body if method != "HEAD" else b""
        self._wire.write(b"".join((STATUS_LINE[reply.status], common, reply.head, end, body)))

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        while self.pipeline and not self._ending:
            cycle, app = self.pipeline.pop()
            if not self._answer_queued(cycle):
                self._start_asgi_task(cycle, app)
                return
        if not self._ending:
            self._begin_rest()
            if not self._body_complete:
                self._wait(self._limits.linger_s, Reason.LINGERED)

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

    def _refuse_unreadable(self, error: httptools.HttpParserError) -> None:
        if self._ending:
            return  # it is about what comes behind the last request
        if isinstance(error.__context__, HeadTooLargeError):
            self._refuse_head()
        else:
            self._refuse(ProblemError("bad-request", "this is no HTTP request"), Reason.BAD_REQUEST)

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
        head = [STATUS_LINE[response.status_code], self._connections.common_head(self.server_state.default_headers)]
        for name, value in [*response.raw_headers, NO_STORE, (b"connection", b"close")]:
            head += [name, b": ", value, b"\r\n"]
        self._wire.write(b"".join([*head, b"\r\n", response.body]))

    # Its patience

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None until there is a first request
        return cycle is None or cycle.response_complete

    def _wait(self, seconds: float, reason: Reason) -> None:
        """From now on for so long, and no longer."""
        self._stop_waiting()
        self._deadline = self._clock.call_later(seconds, lambda: self.drop(reason))

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _begin_rest(self) -> None:
        """All that was asked is answered: the next request may take as long as the connection is kept alive."""
        self._connections.mark_idle(self)
        self._resting_since_s = self._clock.time()
        # One timer does for many requests: to set one and take it back for each costs more than to look at the time.
        if self._rest is None:
            self._rest = self._clock.call_later(self.timeout_keep_alive, self._look_at_rest)

    def _look_at_rest(self) -> None:
        self._rest = None
        if not self._is_idle() or self._deadline is not None:
            return  # its rest is over: the next one begins with the next answer
        left_s = self._resting_since_s + self.timeout_keep_alive - self._clock.time()
        if left_s > 0:
            self._rest = self._clock.call_later(left_s, self._look_at_rest)
        else:
            self.end()

    def _watch_writing(self) -> None:
        self._stop_stall()
        self._unsent_bytes = self._wire.get_write_buffer_size()
        self._stall = self._clock.call_later(self._limits.stall_s, self._look_at_writing)

    def _look_at_writing(self) -> None:
        if self._wire.get_write_buffer_size() < self._unsent_bytes:
            self._watch_writing()
        else:
            self.drop(Reason.STALLED)

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


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
