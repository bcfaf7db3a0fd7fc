"""Signals for another worker: in the order in which they came, in batches, and never in two minds about their fate."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Self

import httpx
import msgspec
import pytest

from governors.api.peer_signals import OPERATIONS_PATH, PATH
from governors.api.service import NotAcceptingError, OutcomeUnknownError, SignalResult, Wait
from governors.cluster import lines as lines_module
from governors.cluster.admission_follow import PeerUnavailableError
from governors.cluster.lines import BATCH_BYTES, BATCH_SIGNALS, WAITING_MAX, Lines
from governors.tenants.operations import Operation
from ingest.signals import QueueSample, Signal

OWNER = "http://owner:8080"
OPERATION = Operation(at_us=1, by="alice", action="PUT /v1/emergency-stop", path="/v1/emergency-stop", status=200)


def signal(name: str, size: int = 0) -> Signal:
    payload = name.encode().ljust(size)
    return Signal(name, "test", "acme", "queue.sample", "s", 1, 1, QueueSample(1, 0.0, 1.0, 1.0), payload)


def decided(names: list[str], elsewhere: str = "") -> bytes:
    """The first part of an answer: results, none for what is `elsewhere`."""
    results = [
        None
        if one in elsewhere
        else SignalResult(one, "acme", "backlog_valve", "s", "decided", "none", "OPEN", "OPEN", "", None, "local")
        for one in names
    ]
    data = msgspec.msgpack.encode(results)
    return len(data).to_bytes(4, "big") + data


class Batch(httpx.AsyncByteStream):
    """What the owner was asked, and the answer that it gives bit by bit."""

    def __init__(self, request: httpx.Request, body: bytes) -> None:
        self.request = request
        self.body = body
        self.wait = request.url.params.get("wait")
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    @property
    def names(self) -> list[str]:
        return [one.decode().rstrip() for one in msgspec.msgpack.decode(self.body, type=list[bytes])]

    def decide(self, *, lacks: int = 0, elsewhere: str = "") -> None:
        """Answer results, none for what is `elsewhere`, and leave the commit open."""
        self.say(200, decided(self.names[lacks:], elsewhere))

    def commit(self) -> None:
        self._parts.put_nowait(b"\x01")
        self._parts.put_nowait(None)

    def end(self, failure: Exception | None = None) -> None:
        self._parts.put_nowait(failure)

    def say(self, status: int, body: bytes) -> None:
        self._parts.put_nowait(body)
        self.status.set_result(status)

    def refuse(self, status: int, problem: str) -> None:
        self.say(status, msgspec.json.encode({"type": f"urn:governors:problem:{problem}"}))
        self.end()

    def fail(self, failure: Exception) -> None:
        self.status.set_exception(failure)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part


class Owner(httpx.AsyncBaseTransport):
    """Another worker; the test answers for it."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        batch = Batch(request, await request.aread())
        self.batches.put_nowait(batch)
        return httpx.Response(await batch.status, stream=batch)


class Sending:
    """Lines to one owner. `failures` are the times at which it could not be reached."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.failures = 0
        self.lines = Lines(lambda: "a-token", self._failed, transport=self.owner)

    def submit(self, *names: str, wait: Wait = "local", size: int = 0) -> "asyncio.Task[list[SignalResult]]":
        return asyncio.create_task(self.lines.submit(OWNER, [signal(one, size) for one in names], wait))

    async def asked(self) -> Batch:
        return await self.owner.batches.get()

    def _failed(self) -> None:
        self.failures += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.lines.close()


def told(results: list[SignalResult]) -> list[tuple[str, str]]:
    return [(one.id, one.durability) for one in results]


async def turns(count: int = 20) -> None:
    """Everybody else goes as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_while_a_batch_is_decided_goes_in_the_next_in_its_order() -> None:
    async with Sending() as sending:
        first = sending.submit("a", "b")
        one = await sending.asked()
        rest = [sending.submit(name) for name in ("c", "d", "e")]
        await turns()
        assert sending.owner.batches.empty()
        one.decide()
        two = await sending.asked()
        two.decide()
        one.end()
        two.end()
        assert (one.names, two.names) == (["a", "b"], ["c", "d", "e"])
        assert told(await first) == [("a", "local"), ("b", "local")]
        assert [told(await each) for each in rest] == [[("c", "local")], [("d", "local")], [("e", "local")]]


async def test_a_batch_says_who_asks_and_what_is_waited_for() -> None:
    async with Sending() as sending:
        task = sending.submit("a", wait="committed")
        batch = await sending.asked()
        assert (batch.request.method, batch.request.url.path, batch.wait) == ("POST", PATH, "committed")
        assert batch.request.headers["authorization"] == "Bearer a-token"
        batch.decide()
        batch.commit()
        await task


@pytest.mark.parametrize(
    ("counts", "size", "batches"),
    [
        ([BATCH_SIGNALS - 1, 1, 1], 0, [BATCH_SIGNALS, 1]),
        ([1, BATCH_SIGNALS], 0, [1, BATCH_SIGNALS]),
        ([BATCH_SIGNALS + 1, 1], 0, [BATCH_SIGNALS + 1, 1]),  # what came together is not taken apart
        ([1, 1, 1], BATCH_BYTES // 2, [2, 1]),
        ([1, 1], BATCH_BYTES + 1, [1, 1]),
    ],
)
async def test_a_batch_has_its_limits(counts: list[int], size: int, batches: list[int]) -> None:
    async with Sending() as sending:
        tasks = [sending.submit(*["s"] * count, size=size) for count in counts]
        for expected in batches:
            batch = await sending.asked()
            assert len(batch.names) == expected
            batch.decide()
            batch.end()
        assert [len(await one) for one in tasks] == counts


async def test_who_waits_for_the_commit_holds_up_nobody_else() -> None:
    async with Sending() as sending:
        local, committed = sending.submit("a"), sending.submit("b", wait="committed")
        one = await sending.asked()
        assert (one.names, one.wait) == (["a", "b"], "committed")
        one.decide()
        assert told(await local) == [("a", "local")]
        later = sending.submit("c")
        two = await sending.asked()
        two.decide()
        assert told(await later) == [("c", "local")]
        assert not committed.done()
        one.commit()
        assert told(await committed) == [("b", "committed")]
        two.end()


async def test_where_the_commit_is_not_heard_of_only_those_who_wait_for_it_do_not_know() -> None:
    async with Sending() as sending:
        local, committed = sending.submit("a"), sending.submit("b", wait="committed")
        batch = await sending.asked()
        batch.decide()
        batch.end()
        assert told(await local) == [("a", "local")]
        with pytest.raises(OutcomeUnknownError):
            await committed


@pytest.mark.parametrize(
    ("status", "problem", "expected"),
    [
        (503, "not-accepting", NotAcceptingError),
        (503, "not-ready", NotAcceptingError),
        (503, "pushback", NotAcceptingError),
        (401, "unauthenticated", NotAcceptingError),
        (503, "outcome-unknown", OutcomeUnknownError),
        (500, "internal", OutcomeUnknownError),
    ],
)
async def test_a_refusal_is_told_from_a_doubt(status: int, problem: str, expected: type[Exception]) -> None:
    async with Sending() as sending:
        task = sending.submit("a")
        (await sending.asked()).refuse(status, problem)
        with pytest.raises(expected):
            await task
        operation = asyncio.create_task(sending.lines.record_operation(OWNER, OPERATION))
        (await sending.asked()).refuse(status, problem)
        with pytest.raises(expected):
            await operation
        assert sending.failures == 0  # it can be reached


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (httpx.ConnectError("refused"), NotAcceptingError),
        (httpx.ConnectTimeout("late"), NotAcceptingError),
        (httpx.ReadError("reset"), OutcomeUnknownError),
        (httpx.RemoteProtocolError("gone"), OutcomeUnknownError),
    ],
)
async def test_what_may_have_arrived_is_told_from_what_cannot_have(
    failure: Exception, expected: type[Exception]
) -> None:
    async with Sending() as sending:
        task, next_one = sending.submit(*["a"] * BATCH_SIGNALS), sending.submit("b")
        (await sending.asked()).fail(failure)
        with pytest.raises(expected):
            await task
        operation = asyncio.create_task(sending.lines.record_operation(OWNER, OPERATION))
        batch = await sending.asked()
        batch.decide()
        batch.end()
        assert told(await next_one) == [("b", "local")]  # the line goes on
        (await sending.asked()).fail(failure)
        with pytest.raises(expected):
            await operation
        assert sending.failures == 2


@pytest.mark.parametrize("body", [b"", b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x01\x90", b"\x00\x00\x00\x09\x90"])
async def test_an_answer_that_cannot_be_read_leaves_a_doubt(body: bytes) -> None:
    async with Sending() as sending:
        task = sending.submit("a")
        batch = await sending.asked()
        batch.say(200, body)
        batch.end()
        with pytest.raises(OutcomeUnknownError):
            await task


async def test_an_answer_that_breaks_off_leaves_a_doubt() -> None:
    async with Sending() as sending:
        local, committed = sending.submit("a"), sending.submit("b", wait="committed")
        batch = await sending.asked()
        batch.decide()
        batch.end(httpx.ReadError("reset"))
        assert told(await local) == [("a", "local")]
        with pytest.raises(OutcomeUnknownError):
            await committed
        assert sending.failures == 1


async def test_results_for_other_signals_than_were_sent_are_nobodys() -> None:
    async with Sending() as sending:
        task = sending.submit("a", "b")
        batch = await sending.asked()
        batch.decide(lacks=1)
        batch.end()
        with pytest.raises(OutcomeUnknownError):
            await task


async def test_what_is_not_there_is_refused_and_what_came_with_it_is_decided() -> None:
    async with Sending() as sending:
        here, gone = sending.submit("a", "b", wait="committed"), sending.submit("c", "d", wait="committed")
        split, nothing = sending.submit("e", "f"), sending.submit()
        batch = await sending.asked()
        batch.decide(elsewhere="cdf")
        with pytest.raises(NotAcceptingError):  # before the rest is committed
            await gone
        with pytest.raises(OutcomeUnknownError):
            await split
        batch.commit()
        assert told(await here) == [("a", "committed"), ("b", "committed")]
        assert await nothing == []
        assert sending.failures == 0


async def test_an_answer_that_never_comes_leaves_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "ANSWER_S", 0.01)
    async with Sending() as sending:
        with pytest.raises(OutcomeUnknownError):
            await sending.submit("a")
        with pytest.raises(OutcomeUnknownError):
            await sending.lines.record_operation(OWNER, OPERATION)
        assert sending.failures == 2


async def test_no_more_wait_than_can_be_carried_and_each_worker_has_its_own_line() -> None:
    async with Sending() as sending:
        under_way = sending.submit("a")
        batch = await sending.asked()
        names = ["s"] * BATCH_SIGNALS
        waiting = [sending.submit(*names) for _ in range(WAITING_MAX // BATCH_SIGNALS)]
        await turns()
        with pytest.raises(NotAcceptingError):
            await sending.submit("one more")
        other = asyncio.create_task(sending.lines.submit("http://other:8080", [signal("o")], "local"))
        elsewhere = await sending.asked()
        assert (elsewhere.request.url.host, elsewhere.names) == ("other", ["o"])
        for one in (elsewhere, batch):
            one.decide()
            one.end()
        await asyncio.gather(other, under_way)
        for _ in waiting:
            batch = await sending.asked()
            batch.decide()
            batch.end()
        assert [len(await one) for one in waiting] == [BATCH_SIGNALS] * len(waiting)


async def test_a_caller_who_is_gone_harms_nobody() -> None:
    async with Sending() as sending:
        gone, stays = sending.submit("a"), sending.submit("b")
        batch = await sending.asked()
        waits, also_gone = sending.submit("c"), sending.submit("d")
        await turns()
        for one in (gone, also_gone):
            one.cancel()
        batch.decide()
        batch.end()
        assert told(await stays) == [("b", "local")]
        batch = await sending.asked()
        assert batch.names == ["c", "d"]  # it was asked for
        batch.decide()
        batch.end()
        assert told(await waits) == [("c", "local")]
        assert gone.cancelled()
        assert also_gone.cancelled()


async def test_at_the_end_everybody_hears_what_became_of_theirs() -> None:
    async with Sending() as sending:
        under_way = sending.submit("a")
        await sending.asked()
        waiting = sending.submit("b")
        await turns()
    with pytest.raises(OutcomeUnknownError):
        await under_way
    with pytest.raises(NotAcceptingError):
        await waiting


@pytest.mark.parametrize("passed", range(6))
async def test_the_end_leaves_nobody_waiting_whenever_it_comes(passed: int) -> None:
    async with Sending() as sending:
        task = sending.submit("a")
        await turns(passed)
    late = sending.submit("b")
    with pytest.raises((NotAcceptingError, OutcomeUnknownError)):
        await task
    with pytest.raises(NotAcceptingError):
        await late


async def test_an_operation_arrives_with_the_token_of_this_worker() -> None:
    async with Sending() as sending:
        task = asyncio.create_task(sending.lines.record_operation(OWNER, OPERATION))
        batch = await sending.asked()
        batch.say(204, b"")
        batch.end()
        await task
        assert batch.request.url.path == OPERATIONS_PATH
        assert batch.request.headers["authorization"] == "Bearer a-token"
        assert msgspec.msgpack.decode(batch.body, type=Operation) == OPERATION


async def test_what_another_worker_has_is_read_or_said_to_be_out_of_reach() -> None:
    async with Sending() as sending:
        for status, body in ((200, b"its view"), (503, b"")):
            task = asyncio.create_task(sending.lines.get(f"{OWNER}/v1/cluster/admission"))
            batch = await sending.asked()
            batch.say(status, body)
            batch.end()
            if status == httpx.codes.OK:
                assert await task == body
            else:
                with pytest.raises(PeerUnavailableError):
                    await task
        task = asyncio.create_task(sending.lines.get(f"{OWNER}/v1/cluster/admission"))
        (await sending.asked()).fail(httpx.ReadError("reset"))
        with pytest.raises(PeerUnavailableError):
            await task
        assert sending.failures == 1


class Door:
    """Another worker behind a real socket. It decides whatever comes, and commits when it is told to."""

    def __init__(self) -> None:
        self.connections: list[asyncio.Task[None]] = []
        self.decided = asyncio.Semaphore(0)
        self.commit = asyncio.Event()

    def open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                [name] = msgspec.msgpack.decode(await reader.readexactly(size), type=list[bytes])
                results = decided([name.decode()])
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                writer.write(b"%x\r\n%b\r\n" % (len(results), results))
                self.decided.release()
                await self.commit.wait()
                writer.write(b"1\r\n\x01\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()


async def test_connections_are_kept_however_many_batches_wait_for_their_commit() -> None:
    door = Door()
    server = await asyncio.start_server(door.open, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    lines = Lines(lambda: "a-token", lambda: None)
    try:
        for _ in range(3):
            door.commit.clear()
            sent = []
            for number in range(30):
                sent.append(asyncio.create_task(lines.submit(url, [signal(str(number))], "committed")))
                await door.decided.acquire()
            door.commit.set()
            for one in sent:
                await one
        assert len(door.connections) == 30
    finally:
        await lines.close()
        await asyncio.wait(door.connections)
        server.close()
        await server.wait_closed()


async def test_an_answer_leaves_nothing_for_the_collector() -> None:
    async with Sending() as sending:
        gc.collect()
        gc.disable()
        try:
            sent = sending.submit("a", wait="committed")
            batch = await sending.asked()
            batch.decide()
            batch.commit()
            await sent
            await sending.lines.close()
            # The test's own reference to the request is the last one to any of it.
            assert [type(one) for one in gc.get_referrers(batch.request) if isinstance(one, httpx.Response)] == []
        finally:
            gc.enable()
