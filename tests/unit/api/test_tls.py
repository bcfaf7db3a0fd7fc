"""Handshakes on real sockets: bounded as connections are, each with the newest certificate."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.broker import until
from support.certificates import Authority, Issued, serial_of

from governors.api.connections import ConnectionLimits, Connections, Reason
from governors.listener import HttpServer

AUTHORITY = Authority()
GET = b"GET / HTTP/1.1\r\nHost: governors\r\n\r\n"
CONNECTIONS_MAX = 3


@dataclass
class Place:
    """A server, what happened at it, and the certificate that it shows."""

    folder: Path
    dropped: Counter[Reason]
    connections: Connections
    context: ssl.SSLContext
    port: int = 0

    def show(self, issued: Issued) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*issued.put(self.folder))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=AUTHORITY.trust())

    async def hang(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and say nothing."""
        before = len(self.connections) + self.dropped.total()
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        await until(lambda: len(self.connections) + self.dropped.total() > before)
        return streams


async def application(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"well"})


@pytest.fixture
def head_s() -> float:
    return 60.0


@pytest.fixture
async def place(tmp_path: Path, head_s: float) -> AsyncIterator[Place]:
    dropped, started = Counter[Reason](), asyncio.Event()
    limits = ConnectionLimits(connections_max=CONNECTIONS_MAX, head_s=head_s)
    connections = Connections(limits, lambda reason: dropped.update([reason]), random.Random(1))
    place = Place(tmp_path, dropped, connections, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    place.show(AUTHORITY.issue())
    server = HttpServer(
        application,
        "127.0.0.1",
        0,
        connections,
        75,
        lambda: None,
        lambda: place.context,
    )
    running = asyncio.create_task(server.run(started.set))
    await started.wait()
    assert server.url.startswith("https://")
    place.port = int(server.url.rpartition(":")[2])
    yield place
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await until(lambda: len(connections) == 0)


async def ask(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    streams[1].write(GET)
    return await streams[0].readuntil(b"well")


async def test_a_request_is_answered(place: Place) -> None:
    streams = await place.connect()
    assert (await ask(streams)).startswith(b"HTTP/1.1 200")
    assert (await ask(streams)).startswith(b"HTTP/1.1 200")
    assert len(place.connections) == 1
    assert place.dropped == {}
    streams[1].close()


async def test_a_browser_that_was_here_never_asks_in_the_clear_again(place: Place) -> None:
    streams = await place.connect()
    answer = await ask(streams)
    assert b"\r\nstrict-transport-security: max-age=31536000\r\n" in answer
    assert b"\r\nx-content-type-options: nosniff\r\n" in answer
    assert b"\r\nserver:" not in answer.lower()
    streams[1].close()


async def test_each_connection_gets_the_newest_certificate_and_open_ones_stay(place: Place) -> None:
    first = await place.connect()
    await ask(first)
    renewed = AUTHORITY.issue()
    place.show(renewed)
    second = await place.connect()
    shown = second[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert serial_of(shown) == serial_of(renewed.certificate)
    assert (await ask(first)).startswith(b"HTTP/1.1 200")
    for _, writer in (first, second):
        writer.close()


async def test_handshakes_that_nobody_finishes_make_room(place: Place) -> None:
    hanging = [await place.hang() for _ in range(CONNECTIONS_MAX + 2)]
    assert place.dropped == {Reason.EVICTED: 2}
    streams = await place.connect()
    assert (await ask(streams)).startswith(b"HTTP/1.1 200")
    assert place.dropped == {Reason.EVICTED: 3}
    assert await hanging[0][0].read() == b""
    for _, writer in (*hanging, streams):
        writer.close()


async def test_who_is_dropped_is_hung_up_on_also_before_the_handshake_began(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", place.port))) for _ in range(5 * CONNECTIONS_MAX)
        ]
        await until(lambda: place.dropped[Reason.EVICTED] == 4 * CONNECTIONS_MAX)
        assert len(place.connections) == CONNECTIONS_MAX
        for one in crowd[: 4 * CONNECTIONS_MAX]:
            one.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(one, 1) == b""


@pytest.mark.parametrize("head_s", [0.2])
async def test_a_handshake_has_a_deadline(place: Place) -> None:
    reader, writer = await place.hang()
    assert await reader.read() == b""
    await until(lambda: bool(place.dropped))
    assert place.dropped == {Reason.HANDSHAKE: 1}
    writer.close()


@pytest.mark.parametrize("said", [GET, b"\x16\x03\x01\x00\x05nosns", b"\x00" * 100_000])
async def test_what_is_no_handshake_ends_the_connection(place: Place, said: bytes) -> None:
    reader, writer = await place.hang()
    writer.write(said)
    with contextlib.suppress(ConnectionError):
        await reader.read()
    await until(lambda: bool(place.dropped))
    assert place.dropped == {Reason.HANDSHAKE: 1}
    writer.close()
