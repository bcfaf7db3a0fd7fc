"""Clients that never finish, never read or never stop, on a wire in memory and by a clock that the test turns."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from governors.api.connections import PIPELINED_MAX, Connection, ConnectionLimits, Connections, Reason
from governors.api.turnstile import Reply

LIMITS = ConnectionLimits(connections_max=4, head_s=10.0, head_bytes_max=4_096, linger_s=5.0, stall_s=20.0)
KEEP_ALIVE_S = 75
GET = b"GET / HTTP/1.1\r\nHost: governors\r\n\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nHost: governors\r\nTransfer-Encoding: chunked\r\n\r\n"
YES = Reply(429, [(b"content-length", b"2"), (b"retry-after", b"7")], b"no")


def asking(path: str, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    lines = [method + b" " + path.encode() + b" HTTP/" + version, b"Host: governors", *headers]
    return b"\r\n".join([*lines, b"", b""])


@dataclass
class Clock:
    """Time passes when it is told to."""

    now_s: float = 0.0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def time(self) -> float:
        return self.now_s

    def call_later(self, seconds: float, callback: Any) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self.now_s + seconds, callback, (), asyncio.get_running_loop())
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while due := [timer for timer in self.timers if not timer.cancelled() and timer.when() <= end_s]:
            first = min(due, key=asyncio.TimerHandle.when)
            self.timers.remove(first)
            self.now_s = first.when()
            first._run()
        self.now_s = end_s


class Wire(asyncio.Transport):
    """A connection's other end, which takes as much as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = b""
        self.unsent_bytes = 0
        self.closed = self.aborted = self.half_closed = False
        self.connection: Connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.half_closed
        self.answered += data

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.unsent_bytes:
                asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = self.closed = True
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.data_received(part)

    @property
    def statuses(self) -> list[int]:
        return [int(answer.split(b" ", 1)[0]) for answer in self.answered.split(b"HTTP/1.1 ")[1:]]


@dataclass
class Place:
    """Connections to an application: it answers `/body` once it has the body, `/wait` when told to, others at once."""

    limits: ConnectionLimits = LIMITS
    clock: Clock = field(default_factory=Clock)
    dropped: Counter[Reason] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    replies: dict[str, Reply] = field(default_factory=dict)
    """What is answered at once, by its path."""

    def __post_init__(self) -> None:
        self.connections = Connections(
            self.limits, lambda reason: self.dropped.update([reason]), random.Random(1), self.clock
        )
        self._config = uvicorn.Config(
            self._application,
            interface="asgi3",
            log_config=None,
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._state = ServerState()

    def connect(self) -> Wire:
        wire = Wire()
        wire.connection = Connection(self._config, self._state, {}, connections=self.connections, at_once=self._at_once)
        wire.connection.connection_made(wire)
        return wire

    async def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(20):
            await asyncio.sleep(0)

    def _at_once(self, scope: Any) -> Reply | None:
        if scope["path"] == "/broken":
            raise ZeroDivisionError
        return self.replies.get(scope["path"])

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        self.headers.append(scope["headers"])
        if scope["path"] == "/wait":
            await self.go_on.wait()
        if scope["path"] == "/body":
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.disconnect":
                return
        headers = [(b"content-length", b"4")]
        if scope["path"] == "/close":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"well"})


@pytest.fixture
async def place() -> Place:
    return Place()


@pytest.mark.parametrize(
    "said",
    [b"", b"\r\n", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: y", b"GET / HTTP/1.1\r\nHost: governors\r\n"],
)
async def test_who_does_not_finish_a_head_is_let_go(place: Place, said: bytes) -> None:
    wire = place.connect()
    wire.say(said)
    place.clock.advance(LIMITS.head_s - 0.1)
    assert not wire.closed
    place.clock.advance(0.2)
    assert wire.aborted
    assert place.dropped == {Reason.HEAD_TIMEOUT: 1}
    await place.settle()
    assert len(place.connections) == 0
    assert place.asked == []


@pytest.mark.parametrize("said", [b"x", b"\r\n"])
async def test_a_byte_now_and_then_does_not_prolong_the_time_for_a_head(place: Place, said: bytes) -> None:
    wire = place.connect()
    if said == b"x":
        wire.say(b"GET / HTTP/1.1\r\nHost: ")
    for _ in range(10):
        wire.say(said)
        place.clock.advance(LIMITS.head_s / 10 + 0.01)
    assert wire.aborted
    assert place.dropped == {Reason.HEAD_TIMEOUT: 1}


async def test_the_time_for_a_head_begins_anew_with_each_request(place: Place) -> None:
    wire = place.connect()
    for _ in range(3):
        wire.say(GET[:10])
        place.clock.advance(LIMITS.head_s * 0.9)
        wire.say(GET[10:])
        await place.settle()
    assert wire.statuses == [200] * 3
    wire.say(GET[:10])
    place.clock.advance(LIMITS.head_s * 1.1)
    assert wire.aborted
    assert place.dropped == {Reason.HEAD_TIMEOUT: 1}


async def test_blank_lines_between_requests_do_not_keep_a_connection_open(place: Place) -> None:
    wire = place.connect()
    wire.say(GET)
    await place.settle()
    for _ in range(10):
        wire.say(b"\r\n")
        place.clock.advance(LIMITS.head_s / 10 + 0.01)
    assert wire.aborted
    assert place.dropped == {Reason.HEAD_TIMEOUT: 1}


@pytest.mark.parametrize("path", ["/", "/now"])
async def test_an_idle_connection_ends_well(path: str) -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking(path))
    await place.settle()
    place.clock.advance(KEEP_ALIVE_S - 0.1)
    assert not wire.closed
    place.clock.advance(0.2)
    assert (wire.closed, wire.aborted) == (True, False)
    assert place.dropped == {}


@pytest.mark.parametrize("path", ["/", "/now"])
async def test_a_connection_may_be_idle_for_as_long_again_after_each_answer(path: str) -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    for _ in range(5):
        wire.say(asking(path))
        await place.settle()
        place.clock.advance(KEEP_ALIVE_S - 0.1)
        assert not wire.closed
    place.clock.advance(0.2)
    assert (wire.closed, wire.aborted) == (True, False)


async def test_a_connection_is_not_idle_while_it_is_answered_or_asks(place: Place) -> None:
    wire = place.connect()
    wire.say(GET)
    await place.settle()
    place.clock.advance(KEEP_ALIVE_S - 1.0)
    wire.say(b"GET /wait HTTP/1.1\r\n")
    place.clock.advance(LIMITS.head_s / 2)  # it would have been idle for too long by now
    wire.say(b"Host: governors\r\n\r\n")
    place.clock.advance(10 * KEEP_ALIVE_S)
    place.go_on.set()
    await place.settle()
    assert wire.statuses == [200, 200]
    place.clock.advance(KEEP_ALIVE_S - 0.1)
    assert not wire.closed
    place.clock.advance(0.2)
    assert (wire.closed, wire.aborted) == (True, False)


async def test_a_connection_that_is_gone_has_no_timer_left() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now"))
    wire.connection.connection_lost(None)
    assert all(timer.cancelled() for timer in place.clock.timers)


async def test_a_request_under_way_may_take_its_time(place: Place) -> None:
    wire = place.connect()
    wire.say(b"GET /wait HTTP/1.1\r\nHost: governors\r\n\r\n")
    place.clock.advance(1_000)
    place.go_on.set()
    await place.settle()
    assert wire.statuses == [200]
    assert place.dropped == {}


@pytest.mark.parametrize(
    "said",
    [
        b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: governors\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: governors\r\nA: " + b"x" * 5_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: governors\r\n" + b"A: b\r\n" * 1_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 5_000,
        b"GET /" + b"x" * 5_000,
        b"\r\n" * 5_000,
    ],
    ids=["a long path", "a long header", "many headers", "an endless header", "an endless path", "blank lines"],
)
@pytest.mark.parametrize("at_once", [1_000_000, 700, 1])
async def test_a_head_has_a_largest_size(place: Place, said: bytes, at_once: int) -> None:
    wire = place.connect()
    for start in range(0, len(said), at_once):
        wire.say(said[start : start + at_once])
    assert wire.statuses == [431]
    assert b"urn:governors:problem:headers-too-large" in wire.answered
    assert b"connection: close" in wire.answered
    assert place.dropped == {Reason.HEAD_TOO_LARGE: 1}
    await place.settle()
    assert place.asked == []


async def test_a_head_just_below_the_largest_size_is_read(place: Place) -> None:
    wire = place.connect()
    wire.say(GET[:-2] + b"A: " + b"x" * 4_000 + b"\r\n\r\n")
    await place.settle()
    assert wire.statuses == [200]


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"5;", b"x"), (b"0\r\n", b"A: b\r\n"), (b"0\r\nA: ", b"x"), (b"0", b"0")],
    ids=["a chunk's extension", "many trailers", "a long trailer", "a size of many digits"],
)
async def test_what_frames_a_body_has_a_largest_size(place: Place, begin: bytes, more: bytes) -> None:
    wire = place.connect()
    wire.say(CHUNKED + b"1\r\nx\r\n" + begin)
    await place.settle()
    for _ in range(100):
        wire.say(more * 100)
    assert wire.statuses in ([400], [431])
    assert place.dropped.total() == 1
    await place.settle()
    assert wire.statuses in ([400], [431]), "the application's own answer came behind it"


async def test_a_trailer_does_not_become_a_header(place: Place) -> None:
    wire = place.connect()
    wire.say(CHUNKED + b"1\r\nx\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
    await place.settle()
    assert wire.statuses == [200]
    assert b"authorization" not in dict(place.headers[0])


@pytest.mark.parametrize("hosts", [[], [b"a", b"b"]])
async def test_a_request_has_one_host(place: Place, hosts: list[bytes]) -> None:
    wire = place.connect()
    wire.say(b"GET / HTTP/1.1\r\n" + b"".join(b"Host: %s\r\n" % host for host in hosts) + b"\r\n")
    assert wire.statuses == [400]
    assert place.dropped == {Reason.BAD_REQUEST: 1}


async def test_http_1_0_needs_no_host(place: Place) -> None:
    wire = place.connect()
    wire.say(b"GET / HTTP/1.0\r\n\r\n")
    await place.settle()
    assert wire.statuses == [200]
    assert wire.closed


async def test_who_goes_on_sending_after_the_answer_is_let_go(place: Place) -> None:
    wire = place.connect()
    wire.say(b"POST / HTTP/1.1\r\nHost: governors\r\nContent-Length: 1000000\r\n\r\n")
    await place.settle()
    assert wire.statuses == [200]
    for _ in range(10):
        wire.say(b"x")
        place.clock.advance(LIMITS.linger_s / 10 + 0.01)
    assert wire.aborted
    assert place.dropped == {Reason.LINGERED: 1}


async def test_who_has_sent_the_rest_after_the_answer_can_go_on(place: Place) -> None:
    wire = place.connect()
    wire.say(b"POST / HTTP/1.1\r\nHost: governors\r\nContent-Length: 10\r\n\r\n")
    await place.settle()
    place.clock.advance(LIMITS.linger_s * 0.9)
    wire.say(b"x" * 10 + GET)
    await place.settle()
    assert wire.statuses == [200, 200]
    place.clock.advance(LIMITS.linger_s)
    assert not wire.closed


async def test_an_answer_that_ends_the_connection_is_not_lost_to_what_is_still_on_its_way(place: Place) -> None:
    wire = place.connect()
    wire.say(b"POST /close HTTP/1.1\r\nHost: governors\r\nContent-Length: 1000000\r\n\r\n")
    await place.settle()
    assert wire.statuses == [200]
    assert (wire.half_closed, wire.closed) == (True, False)
    wire.say(b"x" * 100_000)
    place.clock.advance(LIMITS.linger_s + 0.1)
    assert wire.aborted
    await place.settle()
    assert len(place.connections) == 0


async def test_who_lingers_makes_room_for_others(place: Place) -> None:
    wires = [place.connect() for _ in range(LIMITS.connections_max)]
    for wire in wires:
        wire.say(b"POST /close HTTP/1.1\r\nHost: governors\r\nContent-Length: 1000000\r\n\r\n")
    await place.settle()
    newcomer = place.connect()
    newcomer.say(GET)
    await place.settle()
    assert newcomer.statuses == [200]


async def test_an_answer_to_a_finished_request_closes_at_once(place: Place) -> None:
    wire = place.connect()
    wire.say(b"GET /close HTTP/1.1\r\nHost: governors\r\n\r\n")
    await place.settle()
    assert (wire.half_closed, wire.closed) == (False, True)


@pytest.mark.parametrize("path", [b"/", b"/close"])
async def test_who_does_not_read_the_answer_is_let_go(place: Place, path: bytes) -> None:
    wire = place.connect()
    wire.unsent_bytes = 100_000
    wire.connection.pause_writing()
    if path == b"/close":
        wire.connection.resume_writing()  # all but the last of it has gone out by the time that it is closed
    wire.say(b"GET " + path + b" HTTP/1.1\r\nHost: governors\r\n\r\n")
    await place.settle()
    for _ in range(5):  # however slowly: it is being read
        place.clock.advance(LIMITS.stall_s - 0.1)
        wire.unsent_bytes -= 1_000
        if path == b"/close":
            wire.connection.resume_writing()
    assert place.dropped == {}
    place.clock.advance(2 * LIMITS.stall_s)
    assert wire.aborted
    assert place.dropped == {Reason.STALLED: 1}


async def test_who_has_read_the_answer_may_take_its_time_for_the_next_request(place: Place) -> None:
    wire = place.connect()
    wire.say(GET)
    wire.connection.pause_writing()
    await place.settle()
    wire.connection.resume_writing()
    await place.settle()
    place.clock.advance(LIMITS.stall_s * 2)
    assert not wire.closed


async def test_a_newcomer_takes_the_place_of_who_has_been_idle_for_longest(place: Place) -> None:
    wires = [place.connect() for _ in range(LIMITS.connections_max)]
    # The first speaks, so that the second is the one that has waited longest.
    wires[0].say(GET)
    await place.settle()

    newcomer = place.connect()
    newcomer.say(GET)
    await place.settle()

    assert newcomer.statuses == [200]
    assert place.dropped == {Reason.EVICTED: 1}
    assert [wire.aborted for wire in wires] == [False, True, False, False]


async def test_where_everybody_is_busy_a_newcomer_is_told_to_come_back(place: Place) -> None:
    wires = [place.connect() for _ in range(LIMITS.connections_max)]
    for wire in wires:
        wire.say(b"GET /wait HTTP/1.1\r\nHost: governors\r\n\r\n")
    await place.settle()

    newcomer = place.connect()
    newcomer.say(GET)

    assert newcomer.statuses == [503]
    assert b"urn:governors:problem:too-many-connections" in newcomer.answered
    assert b"retry-after: " in newcomer.answered
    assert newcomer.closed
    assert place.dropped == {Reason.FULL: 1}
    place.go_on.set()
    await place.settle()
    assert [wire.statuses for wire in wires] == [[200]] * len(wires)
    assert len(place.connections) == len(wires)


async def test_requests_in_one_go_are_answered_in_their_order_and_have_a_largest_number(place: Place) -> None:
    wire = place.connect()
    wire.say(GET * PIPELINED_MAX)
    for _ in range(PIPELINED_MAX):
        await place.settle()
    assert wire.statuses == [200] * PIPELINED_MAX
    wire.say(b"GET /wait HTTP/1.1\r\nHost: governors\r\n\r\n" + GET * (PIPELINED_MAX + 1))
    assert wire.aborted
    assert place.dropped == {Reason.PIPELINED: 1}


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_no_other_protocol_is_spoken(place: Place, protocol: bytes) -> None:
    wire = place.connect()
    wire.say(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n" + b"\x00\xff" * 100)
    await place.settle()
    assert wire.statuses == [200]
    assert b"connection: close" in wire.answered
    assert wire.closed


@pytest.mark.parametrize(
    "said",
    [
        b"POST\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: governors\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: governors\r\n\r\n",
        b"CONNECT governors:80 HTTP/1.1\r\nHost: governors\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told_so(place: Place, said: bytes) -> None:
    wire = place.connect()
    wire.say(said)
    assert wire.statuses == [400]
    assert b"urn:governors:problem:bad-request" in wire.answered
    assert place.dropped == {Reason.BAD_REQUEST: 1}
    await place.settle()
    assert place.asked == []


# Two who read one connection must see the same requests in it (RFC 9112, section 11.2).
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5, 6",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: 99999999999999999999999",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"X: y\r\n Transfer-Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"X\x00: y",
    ],
)
async def test_a_request_whose_end_can_be_read_in_two_ways_is_not_read(place: Place, framing: bytes) -> None:
    wire = place.connect()
    wire.say(b"POST /body HTTP/1.1\r\nHost: governors\r\n" + framing + b"\r\n\r\n0\r\n\r\n" + GET)
    await place.settle()
    assert wire.statuses == [400]
    assert place.asked == []
    assert place.dropped == {Reason.BAD_REQUEST: 1}


@pytest.mark.parametrize("path", [b"/body", b"/wait"])
async def test_a_body_that_goes_wrong_ends_its_request(
    place: Place, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    wire = place.connect()
    wire.say(CHUNKED.replace(b"/body", path))
    await place.settle()
    wire.say(b"zz\r\n")
    place.go_on.set()
    await place.settle()
    assert wire.statuses == [400]
    assert place.dropped == {Reason.BAD_REQUEST: 1}
    assert caplog.records == [], "the application wrote behind the answer"


@pytest.mark.parametrize("nonsense", [b"nonsense\r\n\r\n", b"GET http:// HTTP/1.1\r\nHost: governors\r\n\r\n"])
async def test_nonsense_behind_a_good_request_does_not_get_into_its_answer(place: Place, nonsense: bytes) -> None:
    wire = place.connect()
    wire.say(b"GET /wait HTTP/1.1\r\nHost: governors\r\n\r\n", nonsense)
    assert wire.answered == b""
    assert wire.aborted
    assert place.dropped == {Reason.BAD_REQUEST: 1}


async def test_a_bad_body_behind_another_request_does_not_get_into_its_answer(place: Place) -> None:
    wire = place.connect()
    wire.say(b"GET /wait HTTP/1.1\r\nHost: governors\r\n\r\n" + CHUNKED, b"zz\r\n")
    assert wire.answered == b""
    assert wire.aborted


async def test_a_server_that_stops_waits_for_nobody_who_only_lingers(place: Place) -> None:
    lingering, idle, busy = place.connect(), place.connect(), place.connect()
    lingering.say(b"POST /close HTTP/1.1\r\nHost: governors\r\nContent-Length: 1000000\r\n\r\n")
    busy.say(b"GET /wait HTTP/1.1\r\nHost: governors\r\n\r\n")
    await place.settle()
    for wire in (lingering, idle, busy):
        wire.connection.shutdown()
    assert (lingering.closed, idle.closed, busy.closed) == (True, True, False)
    place.go_on.set()
    await place.settle()
    assert busy.statuses == [200]
    assert busy.closed


async def test_a_connection_leaves_only_once() -> None:
    connections = Connections(msgspec.structs.replace(LIMITS, connections_max=1), lambda _: None, random.Random(1))
    one: Any = object()
    assert connections.admit(one)
    connections.remove(one)
    connections.remove(one)
    connections.mark_idle(one)
    assert len(connections) == 0
    assert connections.admit(one)


# Answered at once


async def test_what_has_its_answer_already_does_not_come_to_the_application() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now"))
    assert wire.answered == (
        b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\nretry-after: 7\r\ncache-control: no-store\r\n\r\nno"
    )
    wire.say(asking("/later"))
    await place.settle()
    assert wire.statuses == [429, 200]
    assert place.asked == ["/later"]


async def test_answers_come_in_the_order_of_their_requests_whoever_gives_them() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/wait") + asking("/now") + asking("/now") + asking("/other") + asking("/now"))
    await place.settle()
    assert wire.answered == b""
    place.go_on.set()
    await place.settle()
    assert wire.statuses == [200, 429, 429, 200, 429]


async def test_a_full_pipeline_of_them_is_answered() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/wait") + asking("/now") * PIPELINED_MAX)
    place.go_on.set()
    await place.settle()
    assert wire.statuses == [200] + [429] * PIPELINED_MAX


async def test_a_head_that_comes_in_pieces_is_answered_when_it_is_whole() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    request = asking("/now")
    for at in range(len(request)):
        assert wire.answered == b""
        wire.say(request[at : at + 1])
    assert wire.statuses == [429]


async def test_a_connection_that_was_answered_at_once_may_rest_as_long_as_any_other() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now"))
    place.clock.advance(KEEP_ALIVE_S - 1.0)
    wire.say(asking("/now"))
    assert wire.statuses == [429, 429]
    assert not place.dropped
    # And a head that is begun has no more time than elsewhere.
    wire.say(asking("/now")[:-3])
    place.clock.advance(LIMITS.head_s)
    assert place.dropped == {Reason.HEAD_TIMEOUT: 1}


@pytest.mark.parametrize(
    "request_", [asking("/now", b"Connection: close"), asking("/now", version=b"1.0")], ids=["close", "1.0"]
)
async def test_who_wants_no_further_answer_is_told_goodbye(request_: bytes) -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(request_)
    await place.settle()
    assert wire.answered.endswith(b"connection: close\r\n\r\nno")
    assert wire.closed


@pytest.mark.parametrize(
    "behind",
    [asking("/now"), asking("/later"), asking("/body", b"Content-Length: 1") + b"x", b"nonsense\r\n\r\n"],
    ids=["at once", "later", "a body", "nonsense"],
)
async def test_nothing_is_read_behind_a_request_that_ends_its_connection(behind: bytes) -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now") + asking("/now", b"Connection: close") + behind)
    wire.say(behind)
    await place.settle()
    assert wire.statuses == [429, 429]
    assert wire.closed
    assert place.asked == []
    assert not place.dropped


async def test_a_head_request_gets_no_body() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now", method=b"HEAD"))
    assert wire.answered.endswith(b"cache-control: no-store\r\n\r\n")


@pytest.mark.parametrize(
    "request_",
    [
        asking("/now", b"Content-Length: 3") + b"abc",
        asking("/now", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        asking("/now", b"Content-Length: 0", b"Expect: 100-continue"),
    ],
    ids=["length", "chunked", "expect"],
)
async def test_what_has_a_body_comes_to_the_application(request_: bytes) -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(request_)
    await place.settle()
    assert place.asked == ["/now"]
    assert wire.statuses == [200]


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_who_asks_for_another_protocol_is_answered_by_the_application(protocol: bytes) -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now", b"Connection: Upgrade", b"Upgrade: " + protocol) + b"\x00\xff" * 100)
    await place.settle()
    assert place.asked == ["/now"]
    assert wire.statuses == [200]
    assert wire.closed


async def test_an_empty_body_is_none() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.say(asking("/now", b"Content-Length: 0", method=b"POST"))
    assert wire.statuses == [429]


async def test_where_the_answer_cannot_be_given_at_once_the_application_gives_it() -> None:
    place = Place()
    wire = place.connect()
    wire.say(asking("/broken"))
    await place.settle()
    assert place.asked == ["/broken"]
    assert wire.statuses == [200]


async def test_those_whose_answers_wait_to_be_read_wait_in_the_application() -> None:
    place = Place(replies={"/now": YES})
    wire = place.connect()
    wire.connection.pause_writing()
    wire.say(asking("/now"))
    await place.settle()
    assert wire.answered == b""
    wire.connection.resume_writing()
    await place.settle()
    assert wire.statuses == [200]


def test_a_reply_has_no_line_break_in_a_header() -> None:
    with pytest.raises(ValueError, match="line break"):
        Reply(200, [(b"x-governor-reason", b"a\r\nset-cookie: b")])
