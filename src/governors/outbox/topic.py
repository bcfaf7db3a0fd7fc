"""Orders to a Pub/Sub topic: the body that a native webhook gets, keyed by tenant, so that each tenant's come in order.

Published is done: who subscribes carries it out, and keeps the ids that it has seen. That it was published the service
says with the id that it gives the message. To read it back would take a subscription of ours, and would show no more
than that the service delivers what it has acknowledged.

Importing this module imports the client, which takes a third of a second: only where a topic is configured.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import grpc.aio

from governors.outbox.bodies import native
from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.outbox.selection import Selection
from governors.tenants.tenant import OpenWork
from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.pubsub import PubsubMessage, PubSubPublisher, open_channel

PUBLISH_S: Final = 10.0
"""What the service mostly answers within; the outbox tries again."""


class TopicExecutor:
    """Publishes orders to one topic, `projects/P/topics/T`. The channel is opened with the first, and kept."""

    def __init__(
        self,
        name: str,
        selection: Selection,
        topic: str,
        open_channel: Callable[[], Awaitable[grpc.aio.Channel]] = open_channel,
    ) -> None:
        self.name: Final = name
        self._selection = selection
        self._topic = topic
        self._open_channel = open_channel
        self._channel: grpc.aio.Channel | None = None
        self._publisher: PubSubPublisher | None = None

    def takes(self, work: OpenWork) -> bool:
        return self._selection.takes(work)

    async def execute(self, order: Order) -> Answer:
        """One attempt."""
        try:
            publisher = self._publisher or await self._open()
        except SourceRefusedError as error:
            return TryAgain(str(error), maybe=False)
        try:
            (message_id,) = await publisher.publish([_message(order)], PUBLISH_S)
        except SourceUnavailableError as error:
            return TryAgain(str(error))
        except SourceRefusedError as error:
            return Refused(str(error))
        if not message_id:
            return TryAgain("published, and the message got no id")
        return Done(f"message {message_id}", "acknowledged")

    async def close(self) -> None:
        """Close the channel. Attempts under way fail."""
        channel, self._channel, self._publisher = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def _open(self) -> PubSubPublisher:
        channel = await self._open_channel()
        if self._publisher is None:
            self._channel, self._publisher = channel, PubSubPublisher(channel, self._topic)
        else:  # another attempt was faster
            await channel.close()
        return self._publisher


def _message(order: Order) -> PubsubMessage:
    work = order.work
    attributes = {
        "action_id": work.action.id,
        "governor": work.governor,
        "receipt_sha256": order.receipt_sha256,
        "tenant": work.tenant,
    }
    return PubsubMessage(data=native(order), ordering_key=work.tenant, attributes=attributes)
