"""A Pub/Sub to test against, with names of its own for each test: our fake, or Google's emulator."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc.aio
from support.broker import until

from ingest.errors import SourceUnavailableError
from ingest.pubsub import PubsubMessage, PubSubPublisher, PubSubSubscriber, PullRequest, PullResponse, unary
from ingest.pubsub_setup import SetupPlan, Step, setup
from ingest.pull import PullLoop
from ingest.pull_settings import PullSettings
from ingest.source import ACK, Batch, Delivery, Disposition, Handle

PROJECT = "governors-test"


def clock_us() -> int:
    return time.time_ns() // 1_000


class NoLetters:
    """A sink for tests that have no dead letters."""

    async def put(self, *, reason: str, error: str, **_: object) -> str:
        raise AssertionError(f"nothing here should be put aside: {reason}: {error}")


@dataclass
class Bench:
    """One topic and one subscription of a test's own."""

    channel: grpc.aio.Channel
    name: str
    published: int = 0
    publisher: PubSubPublisher = field(init=False)
    subscriber: PubSubSubscriber = field(init=False)

    def __post_init__(self) -> None:
        self.publisher = PubSubPublisher(self.channel, f"projects/{PROJECT}/topics/{self.name}")
        self.subscriber = PubSubSubscriber(self.channel, f"projects/{PROJECT}/subscriptions/{self.name}")

    def plan(self, **changes: Any) -> SetupPlan:
        names = {"project": PROJECT, "topic": self.name, "subscription": self.name}
        return SetupPlan(**(names | {"ordering": False, "retry_min_s": 0} | changes))

    async def set_up(self, **changes: Any) -> list[Step]:
        return await setup(self.channel, self.plan(**changes))

    async def set_up_when_back(self, **changes: Any) -> list[Step]:
        """As `set_up`, for as long as it takes until the server answers."""
        async with asyncio.timeout(30.0):
            while True:
                try:
                    return await self.set_up(**changes)
                except SourceUnavailableError:
                    await asyncio.sleep(0.05)

    async def publish(self, count: int, *, keys: Sequence[str] = ("",)) -> list[bytes]:
        """Messages whose payloads number them through; returns the payloads."""
        payloads = [str(self.published + index).encode() for index in range(count)]
        for start in range(0, count, 1_000):
            await self.publisher.publish(
                [
                    PubsubMessage(data=payload, ordering_key=keys[(start + index) % len(keys)])
                    for index, payload in enumerate(payloads[start : start + 1_000])
                ],
                10.0,
            )
        self.published += count
        return payloads

    async def publish_when_back(self, count: int) -> list[bytes]:
        """As `publish`, for as long as it takes until the server answers."""
        async with asyncio.timeout(30.0):
            while True:
                try:
                    return await self.publish(count)
                except SourceUnavailableError:
                    await asyncio.sleep(0.05)

    async def pull(self, count: int) -> list[Delivery]:
        """At least so many, in as many pulls as it takes."""
        got: list[Delivery] = []
        async with asyncio.timeout(20.0):
            while len(got) < count:
                got.extend(await self.subscriber.pull(1_000, 10.0))
        return got

    async def pull_now(self) -> list[bytes]:
        """The payloads that are ready this instant."""
        stub = unary(self.channel, "Subscriber/Pull", PullRequest, PullResponse)
        response = await stub(
            PullRequest(subscription=self.subscriber.name, max_messages=1_000, return_immediately=True), timeout=10.0
        )
        return [received.message.data for received in response.received_messages]

    async def are_forgotten(self, ack_ids: Sequence[str]) -> bool:
        """Whether these deliveries were acknowledged: given back, a message that was not would be ready at once."""
        await self.subscriber.modify_ack_deadline(ack_ids, 0, 10.0)
        return await self.pull_now() == []

    def loop(self, handle: Handle, **settings: Any) -> PullLoop:
        return PullLoop(
            self.subscriber,
            handle,
            NoLetters(),
            PullSettings(**({"pull_timeout_s": 2.0, "backoff_cap_s": 0.5} | settings)),
            clock_us=clock_us,
            rng=Random(7),
        )


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, for real."""
    await until(condition, within_s=30.0)


@asynccontextmanager
async def running(loop: PullLoop) -> AsyncIterator["asyncio.Task[None]"]:
    """The loop runs inside the block and is stopped after it."""
    task = asyncio.create_task(loop.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


class Recorder:
    """A handler that acknowledges everything, `before` having been awaited, and remembers what it was given."""

    def __init__(self, before: Callable[[], Awaitable[object]] | None = None) -> None:
        self.batches: list[Batch] = []
        self._before = before

    async def __call__(self, batch: Batch) -> Sequence[Disposition]:
        self.batches.append(batch)
        if self._before is not None:
            await self._before()
        return [ACK] * len(batch.deliveries)

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for batch in self.batches for delivery in batch.deliveries]

    @property
    def ack_ids(self) -> list[str]:
        return [delivery.ack_id for batch in self.batches for delivery in batch.deliveries]
