"""Whom a worker asks about a partition that others have, and while nobody has it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from support.memory_store import MemoryStore

from governors.api.service import NotAcceptingError, SignalResult
from governors.cluster.heartbeat import PREFIX, Heartbeat
from governors.cluster.lines import Lines
from governors.cluster.ownership import ranked
from governors.cluster.whereabouts import Neighbours, Whereabouts
from governors.cluster.workers import Beat, encode_beat
from ingest.signals import QueueSample, Signal
from ledger.store.object_store import CREATE

SIGNAL = Signal("s-1", "test", "acme", "queue.sample", "s", 1, 1, QueueSample(1, 0.0, 1.0, 1.0), b"{}")
HERE = "http://here:8080"


def url(name: str) -> str:
    return f"http://{name}:8080"


def beat(name: str, owns: Sequence[int] = (), stands_by: Sequence[int] = ()) -> Beat:
    return Beat(name, url(name), "run", 1, dict.fromkeys(owns, 1), list(stands_by))


class Others(httpx.AsyncBaseTransport):
    """Workers, of which those with this name take what they are asked."""

    def __init__(self, *taking: str) -> None:
        self.taking = taking
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.host)
        signals = msgspec.msgpack.decode(await request.aread(), type=list[bytes])
        result = SignalResult("s-1", "acme", "backlog_valve", "s", "decided", "none", "", "", "", "0:0", "local")
        data = msgspec.msgpack.encode([result if request.url.host in self.taking else None for _ in signals])
        return httpx.Response(200, stream=httpx.ByteStream(len(data).to_bytes(4, "big") + data))


@asynccontextmanager
async def neighbours(others: Others, *beats: Beat, stands_by: int | None = None) -> AsyncIterator[Neighbours]:
    """As a worker knows them that has heard these."""
    store = MemoryStore()
    for one in beats:
        store.land(f"{PREFIX}{one.worker}", encode_beat(one), CREATE)
    heartbeat = Heartbeat(store, "here", HERE, 1, rng=random.Random(1), on_failed=pytest.fail)
    if stands_by is not None:
        heartbeat.stand_by(stands_by)
    running = asyncio.create_task(heartbeat.run())
    await heartbeat.changed.wait()
    while not heartbeat.has_looked:
        heartbeat.changed.clear()
        await heartbeat.changed.wait()
    running.cancel()
    lines = Lines(lambda: "token", lambda: None, transport=others)
    yield Neighbours(Whereabouts((), heartbeat), lines, {}, lambda: 0, lambda *_: None)
    await lines.close()


async def test_whoever_has_a_partition_is_asked_first() -> None:
    others = Others("a")
    async with neighbours(others, beat("a", owns=[0]), beat("b", stands_by=[0])) as found:
        assert found.knows(0)
        (result,) = await found.submit(0, [SIGNAL], "local")
        assert (result.receipt, others.asked) == ("0:0", ["a"])
        assert not found.knows(1)


async def test_where_it_is_gone_the_one_that_stands_by_is_asked() -> None:
    others = Others("b")
    async with neighbours(others, beat("a", owns=[0]), beat("b", stands_by=[0])) as found:
        await found.submit(0, [SIGNAL], "local")
        assert others.asked == ["a", "b"]


async def test_while_nobody_has_it_the_first_of_those_that_stand_by_is_asked() -> None:
    first, second = (urls.removeprefix("http://").partition(":")[0] for urls in ranked(0, [url("a"), url("b")]))
    others = Others(first)
    async with neighbours(others, beat("a", stands_by=[0]), beat("b", stands_by=[0])) as found:
        assert found.knows(0)
        await found.submit(0, [SIGNAL], "local")
        assert others.asked == [first]
        others.taking = (second,)
        with pytest.raises(NotAcceptingError):
            await found.submit(0, [SIGNAL], "local")


async def test_a_worker_that_will_have_it_itself_asks_nobody() -> None:
    others = Others()
    lower = next(name for name in map(str, range(99)) if ranked(0, [url(name), HERE])[0] == HERE)
    async with neighbours(others, beat(lower, stands_by=[0]), stands_by=0) as found:
        assert not found.knows(0)
        with pytest.raises(NotAcceptingError, match="no worker has partition 0 now"):
            await found.submit(0, [SIGNAL], "local")
    assert others.asked == []
