"""Consumers that empty a subscription as fast as they can and do nothing else: what there is to be compared with.

Each runs in a process of its own (`concurrent.futures`), so that its processor time is its own.
"""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.cloud.pubsub_v1 import SubscriberClient
from google.cloud.pubsub_v1.types import FlowControl
from google.protobuf import empty_pb2
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from ingest.pubsub import AcknowledgeRequest, PullRequest, PullResponse, open_channel, unary

_MESSAGES_PER_PULL: Final = 1_000
_RPC_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Drained:
    """`messages` were acknowledged, `seconds` after the first request; `cpu_seconds` of the process meanwhile."""

    messages: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time for each message."""
        return self.cpu_seconds / max(self.messages, 1) * 1e6


def drain_bare(host: str, subscription: str, expected: int, pulls_in_flight: int) -> Drained:
    """Pull and acknowledge until `expected` messages are acknowledged, over raw protobuf types."""
    return asyncio.run(_drain_bare(host, subscription, expected, pulls_in_flight))


async def _drain_bare(host: str, subscription: str, expected: int, pulls_in_flight: int) -> Drained:
    channel = await open_channel(host)
    pull = unary(channel, "Subscriber/Pull", PullRequest, PullResponse)
    acknowledge = unary(channel, "Subscriber/Acknowledge", AcknowledgeRequest, empty_pb2.Empty)
    acked = 0

    async def consume() -> None:
        nonlocal acked
        request = PullRequest(subscription=subscription, max_messages=_MESSAGES_PER_PULL)
        while acked < expected:
            response = await pull(request, timeout=_RPC_TIMEOUT_S)
            if ack_ids := [received.ack_id for received in response.received_messages]:
                answer = AcknowledgeRequest(subscription=subscription, ack_ids=ack_ids)
                await acknowledge(answer, timeout=_RPC_TIMEOUT_S)
                acked += len(ack_ids)

    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    consumers = [asyncio.create_task(consume()) for _ in range(pulls_in_flight)]
    done, waiting = await asyncio.wait(consumers, return_when=asyncio.FIRST_COMPLETED)
    drained = Drained(acked, time.perf_counter() - started_s, time.process_time() - started_cpu_s)
    for consumer in waiting:  # they wait for messages that nobody will send
        consumer.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for consumer in done:
        consumer.result()
    await channel.close()
    return drained


def drain_streaming(host: str, subscription: str, expected: int, seconds_max: float) -> Drained:
    """The library's streaming pull, as its samples have it, with a callback that acknowledges and does nothing else:
    until `expected` messages came, or for `seconds_max`.
    """
    client = SubscriberClient(transport=SubscriberGrpcTransport(channel=grpc.insecure_channel(host)))
    done = threading.Event()
    acked = 0
    lock = threading.Lock()

    def on_message(message: Any) -> None:
        nonlocal acked
        message.ack()
        with lock:
            acked += 1
            if acked >= expected:
                done.set()

    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    future = client.subscribe(subscription, on_message, flow_control=FlowControl(max_messages=10_000))
    done.wait(seconds_max)
    drained = Drained(acked, time.perf_counter() - started_s, time.process_time() - started_cpu_s)
    future.cancel()
    future.result()
    client.close()
    return drained
