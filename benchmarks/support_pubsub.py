"""Two ends of a Pub/Sub for benchmarks: a publisher that keeps a rate, and a consumer that does nothing but consume.

Every message carries the attribute `sent-us`, the wall clock just before its publish request left, so that whoever
receives it on this machine can tell how long it took.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import empty_pb2
from google.pubsub_v1 import SubscriberAsyncClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from ingest.pubsub import (
    AcknowledgeRequest,
    PubsubMessage,
    PubSubPublisher,
    PullRequest,
    PullResponse,
    open_channel,
    unary,
)

SENT_US: Final = "sent-us"
_PUBLISH_MESSAGES_MAX: Final = 1_000
_RPC_TIMEOUT_S: Final = 60.0


def now_us() -> int:
    return time.time_ns() // 1_000


@dataclass(slots=True)
class Consumed:
    """What a consumer saw. Latencies in ms, one per message, from just before its publish request; only of messages
    sent since `since_us`, so that a warm-up can be left out.
    """

    since_us: int = 0
    messages: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of this whole process meanwhile."""
    received_ms: list[float] = field(default_factory=list)
    acked_ms: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0


async def publish_at_rate(
    host: str,
    topic: str,
    payloads: Sequence[bytes],
    rate_per_s: float,
    *,
    tick_s: float = 0.01,
    ordering_keys: Sequence[str] | None = None,
) -> float:
    """Publish payloads to `projects/P/topics/T` at an even rate, one request per tick; returns the rate reached.

    Open loop: a slow server delays no later message's send time, it only finds more of them in flight.
    `ordering_keys` holds one key per payload.
    """
    channel = await open_channel(host)
    publisher = PubSubPublisher(channel, topic)
    started_s = time.perf_counter()
    sent = 0
    async with asyncio.TaskGroup() as requests:
        while sent < len(payloads):
            due = min(len(payloads), int((time.perf_counter() - started_s) * rate_per_s) + 1)
            for start in range(sent, due, _PUBLISH_MESSAGES_MAX):
                part = slice(start, min(due, start + _PUBLISH_MESSAGES_MAX))
                messages = _stamped(payloads[part], ordering_keys[part] if ordering_keys is not None else None)
                requests.create_task(_publish(publisher, messages))
            sent = due
            await asyncio.sleep(tick_s)
    seconds = time.perf_counter() - started_s
    await channel.close()
    return len(payloads) / seconds


async def publish_all(
    host: str, topic: str, payloads: Sequence[bytes], *, ordering_keys: Sequence[str] | None = None, stamp: bool = True
) -> float:
    """Publish payloads one full request after the other; returns the rate reached. Without `stamp` the messages have
    no attribute, as most have none.
    """
    channel = await open_channel(host)
    publisher = PubSubPublisher(channel, topic)
    started_s = time.perf_counter()
    for start in range(0, len(payloads), _PUBLISH_MESSAGES_MAX):
        part = slice(start, start + _PUBLISH_MESSAGES_MAX)
        keys = ordering_keys[part] if ordering_keys is not None else None
        await _publish(publisher, _stamped(payloads[part], keys) if stamp else _plain(payloads[part], keys))
    seconds = time.perf_counter() - started_s
    await channel.close()
    return len(payloads) / seconds


async def _publish(publisher: PubSubPublisher, messages: list[Any]) -> None:
    await publisher.publish(messages, _RPC_TIMEOUT_S)


def _stamped(payloads: Sequence[bytes], keys: Sequence[str] | None) -> list[Any]:
    return _plain(payloads, keys, {SENT_US: str(now_us())})


def _plain(
    payloads: Sequence[bytes], keys: Sequence[str] | None, attributes: Mapping[str, str] | None = None
) -> list[Any]:
    return [
        PubsubMessage(data=payload, attributes=attributes, ordering_key=key)
        for payload, key in zip(payloads, keys if keys is not None else [""] * len(payloads), strict=True)
    ]


async def bare_pull(
    host: str, subscription: str, expected: int, pulls_in_flight: int = 4, *, since_us: int = 0
) -> Consumed:
    """Pull and acknowledge `expected` messages with raw protobuf types and no more: what any consumer has to pay."""
    channel = await open_channel(host)
    pull = unary(channel, "Subscriber/Pull", PullRequest, PullResponse)
    acknowledge = unary(channel, "Subscriber/Acknowledge", AcknowledgeRequest, empty_pb2.Empty)
    consumed = Consumed(since_us)

    async def consume() -> None:
        request = PullRequest(subscription=subscription, max_messages=1_000)
        while consumed.messages < expected:
            response = await pull(request, timeout=_RPC_TIMEOUT_S)
            if response.received_messages:
                sent_us = _note_received(consumed, response.received_messages)
                ack_ids = [received.ack_id for received in response.received_messages]
                await acknowledge(
                    AcknowledgeRequest(subscription=subscription, ack_ids=ack_ids), timeout=_RPC_TIMEOUT_S
                )
                _note_acked(consumed, sent_us)

    await _consume(consumed, consume, pulls_in_flight)
    await channel.close()
    return consumed


async def stock_pull(host: str, subscription: str, expected: int, pulls_in_flight: int = 4) -> Consumed:
    """The same with Google's SubscriberAsyncClient, as its samples do it."""
    channel = await open_channel(host)
    client = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
    consumed = Consumed()

    async def consume() -> None:
        while consumed.messages < expected:
            response = await client.pull(subscription=subscription, max_messages=1_000, timeout=_RPC_TIMEOUT_S)
            if response.received_messages:
                sent_us = _note_received(consumed, response.received_messages)
                ack_ids = [received.ack_id for received in response.received_messages]
                await client.acknowledge(subscription=subscription, ack_ids=ack_ids, timeout=_RPC_TIMEOUT_S)
                _note_acked(consumed, sent_us)

    await _consume(consumed, consume, pulls_in_flight)
    await channel.close()
    return consumed


async def _consume(consumed: Consumed, consume: Callable[[], Coroutine[Any, Any, None]], pulls_in_flight: int) -> None:
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    consumers = [asyncio.create_task(consume()) for _ in range(pulls_in_flight)]
    done, _ = await asyncio.wait(consumers, return_when=asyncio.FIRST_COMPLETED)
    consumed.seconds = time.perf_counter() - started_s
    consumed.cpu_seconds = time.process_time() - started_cpu_s
    for consumer in consumers:
        consumer.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    for consumer in done:
        consumer.result()


def _note_received(consumed: Consumed, messages: Sequence[Any]) -> list[int]:
    at_us = now_us()
    sent_us = [int(received.message.attributes[SENT_US]) for received in messages]
    consumed.received_ms.extend([(at_us - sent) / 1_000 for sent in sent_us if sent >= consumed.since_us])
    return sent_us


def _note_acked(consumed: Consumed, sent_us: list[int]) -> None:
    at_us = now_us()
    consumed.acked_ms.extend([(at_us - sent) / 1_000 for sent in sent_us if sent >= consumed.since_us])
    consumed.messages += len(sent_us)
