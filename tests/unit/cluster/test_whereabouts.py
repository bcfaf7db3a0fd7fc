"""Where a worker takes a partition to be that others have, and how it finds out while one moves."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
import pytest
from support.memory_store import MemoryStore
from support.runtime import until

from governors.admission import Admission
from governors.api.service import NotAcceptingError, SignalResult
from governors.cluster import inquiry
from governors.cluster.admission_follow import PeerUnavailableError
from governors.cluster.admission_view import Source, tell
from governors.cluster.heartbeat import PREFIX, Heartbeat
from governors.cluster.inquiry import Inquiry
from governors.cluster.lines import Lines
from governors.cluster.moves import Moves, NobodyHasItError
from governors.cluster.whereabouts import Neighbours, Whereabouts
from governors.cluster.workers import Beat, encode_beat
from ingest.signals import QueueSample, Signal
from ledger.backoff import Backoff
from ledger.store.object_store import CREATE

SIGNAL = Signal("s-1", "test", "acme", "queue.sample", "s", 1, 1, QueueSample(1, 0.0, 1.0, 1.0), b"{}")


def url(name: str) -> str:
    return f"http://{name}:8080"


def beat(name: str, owns: Sequence[int] = (), stands_by: Sequence[int] = (), number: int = 1) -> Beat:
    return Beat(name, url(name), "run", number, dict.fromkeys(owns, number), list(stands_by))


@dataclass
class Others(httpx.AsyncBaseTransport):
    """Workers by name, each with the partitions that it has by now, whatever it said before."""

    have: dict[str, set[int]] = field(default_factory=dict)
    sent_to: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    """Those that do not answer whoever asks them."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """All signals are of partition 0."""
        self.sent_to.append(request.url.host)
        signals = msgspec.msgpack.decode(await request.aread(), type=list[bytes])
        result = SignalResult("s-1", "acme", "backlog_valve", "s", "decided", "none", "", "", "", "0:0", "local")
        data = msgspec.msgpack.encode([result if 0 in self.have[request.url.host] else None for _ in signals])
        return httpx.Response(200, stream=httpx.ByteStream(len(data).to_bytes(4, "big") + data))

    async def admission(self, address: str) -> bytes:
        at = urlsplit(address)
        assert at.hostname is not None
        self.asked.append(at.hostname)
        if at.hostname in self.hanging:
            await asyncio.Event().wait()
        if at.hostname not in self.have:
            raise PeerUnavailableError("connection refused")
        haves = [(int(value.partition(":")[0]), "", 0) for _, value in parse_qsl(at.query)]
        return tell(haves, {one: Source("ab", 1, Admission()) for one in self.have[at.hostname]})


@dataclass
class Worker:
    """One that shares two partitions with others, and has none."""

    others: Others
    store: MemoryStore
    heartbeat: Heartbeat
    where: Whereabouts
    neighbours: Neighbours
    moves: Moves

    async def hear(self, *beats: Beat) -> None:
        """Of exactly these."""
        self.store.objects.clear()
        for one in beats:
            self.store.land(f"{PREFIX}{one.worker}", encode_beat(one), CREATE)
        self.heartbeat.list_soon()
        self.heartbeat.changed.clear()
        await self.heartbeat.changed.wait()

    async def submit(self) -> list[SignalResult]:
        return await self.moves.carry_out(
            0, lambda: self.neighbours.submit(0, [SIGNAL], "local"), lambda: self.neighbours.knows(0),
            NotAcceptingError, Backoff(random.Random(1)), 5.0,
        )  # fmt: skip


@asynccontextmanager
async def working(others: Others, *beats: Beat) -> AsyncIterator[Worker]:
    store, moves = MemoryStore(), Moves()
    heartbeat = Heartbeat(store, "here", url("here"), 2, rng=random.Random(1), on_failed=pytest.fail)
    lines = Lines(lambda: "token", lambda: None, transport=others)
    where = Whereabouts((), heartbeat)
    neighbours = Neighbours(where, lines, {}, lambda: 0, lambda *_: None)
    asking = Inquiry(where, moves, others.admission, random.Random(1))
    tasks = [asyncio.create_task(run()) for run in (heartbeat.run, asking.run)]
    worker = Worker(others, store, heartbeat, where, neighbours, moves)
    await worker.hear(*beats)
    yield worker
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await lines.close()


async def test_signals_go_where_heartbeats_say_and_nobody_is_asked() -> None:
    others = Others({"a": {0}, "b": set()})
    async with working(others, beat("a", owns=[0]), beat("b", stands_by=[0])) as worker:
        (result,) = await worker.submit()
        assert result.receipt == "0:0"
        assert others.sent_to == ["a"]
        assert others.asked == []
        assert not worker.neighbours.knows(1)


async def test_a_partition_that_has_moved_is_found_before_heartbeats_tell() -> None:
    others = Others({"a": set(), "b": {0}})
    async with working(others, beat("a", owns=[0]), beat("b", stands_by=[0])) as worker:
        await worker.submit()
        assert others.sent_to == ["a", "b"]
        await worker.submit()
        assert others.sent_to == ["a", "b", "b"]
        assert worker.where.url_of(0) == url("b")


async def test_while_nobody_has_it_those_who_may_are_asked_and_sent_nothing() -> None:
    others = Others({"a": set(), "b": set()})
    async with working(others, beat("a", owns=[0]), beat("b", stands_by=[0]), beat("c", stands_by=[1])) as worker:
        waiting = [asyncio.create_task(worker.submit()) for _ in range(20)]
        await until(lambda: len(others.asked) >= 8)
        assert not any(one.done() for one in waiting)
        assert set(others.asked) == {"a", "b"}
        assert others.sent_to == ["a"]
        others.have["b"].add(0)
        await asyncio.gather(*waiting)
        assert set(others.sent_to) == {"a", "b"}
        asked = len(others.asked)
        await worker.submit()
        assert len(others.asked) == asked


async def test_one_that_cannot_be_asked_does_not_keep_it_from_being_found() -> None:
    others = Others({"a": {0}})
    async with working(others, beat("b", stands_by=[0]), beat("a", stands_by=[0])) as worker:
        await worker.submit()
        assert others.sent_to == ["a"]


async def test_one_that_hangs_does_not_keep_the_others_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "ASK_S", 600.0)
    others = Others({"a": set(), "b": set()}, hanging={"a"})
    async with working(others, beat("a", owns=[0]), beat("b", stands_by=[0])) as worker:
        waiting = asyncio.create_task(worker.submit())
        await until(lambda: others.asked.count("b") >= 2)
        others.have["b"].add(0)
        await waiting
        assert others.asked.count("a") == 1


async def test_what_was_found_out_holds_until_heartbeats_say_something_new() -> None:
    async with working(Others(), beat("a", owns=[0]), beat("b", stands_by=[0])) as worker:
        worker.where.see(0, None)
        await worker.hear(beat("a", owns=[0, 1]), beat("b", stands_by=[0], number=2))
        assert worker.where.url_of(0) is None
        worker.where.see(0, url("b"))
        await worker.hear(beat("a"), beat("b", stands_by=[0]))
        assert worker.where.url_of(0) is None
        await worker.hear(beat("a"), beat("b", owns=[0], number=3))
        assert worker.where.url_of(0) == url("b")


async def test_a_partition_that_is_nowhere_is_given_up() -> None:
    async with working(Others({"b": set()}), beat("b", stands_by=[0])) as worker:
        with pytest.raises(NobodyHasItError):
            await worker.moves.carry_out(
                0, worker.submit, lambda: worker.neighbours.knows(0), NotAcceptingError, Backoff(random.Random(1)), 0.1
            )
        assert worker.moves.waited_for == []
        assert not worker.moves.missed.is_set()
        with pytest.raises(NotAcceptingError, match="no worker has partition 0 now"):
            await worker.neighbours.submit(0, [SIGNAL], "local")
