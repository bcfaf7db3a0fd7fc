"""Orders to a Pub/Sub topic: the body that a native webhook gets, keyed by tenant, so that each tenant's come in order.

An order is done once it has come back as it was published, by a subscription of ours: then the topic has subscribers
that get what is published to it, and this one was among it. What becomes of it there is the subscriber's, who keeps the
ids that it has seen: what did not come back is published again under the same id. Without such a subscription an order
is done once the service has given it an id.

Importing this module imports the client, which takes a third of a second: only where a topic is configured.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

import grpc.aio

from governors.outbox.bodies import native
from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.outbox.persistence import ATTEMPT_S
from governors.outbox.selection import Selection
from governors.outbox.topic_echo import Echo, mark_of
from governors.supervision.child import Child
from governors.tenants.tenant import OpenWork
from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.pubsub import PubsubMessage, PubSubPublisher, open_channel

PUBLISH_S: Final = 10.0
"""What the service mostly answers within; the outbox tries again."""
FIRST_LOOK_S: Final = 5.0
"""How long the first orders wait for the subscription: what is published before it is there never comes back."""
COMES_S: Final = 8.0
"""How long an attempt waits until its order comes back; one comes within a second. Others want their turn too."""
MARGIN_S: Final = 1.0
"""By how much an attempt ends before the outbox would end it, and not know what was said."""


class TopicExecutor:
    """Publishes orders to one topic, `projects/P/topics/T`, and sees them come back by `echo`; without one it believes
    the service. The channel is opened with the first, and kept.
    """

    def __init__(
        self,
        name: str,
        selection: Selection,
        topic: str,
        echo: Echo | None,
        open_channel: Callable[[], Awaitable[grpc.aio.Channel]] = open_channel,
    ) -> None:
        self.name: Final = name
        self._selection = selection
        self._topic = topic
        self._echo = echo
        self._open_channel = open_channel
        self._channel: grpc.aio.Channel | None = None
        self._publisher: PubSubPublisher | None = None

    def takes(self, work: OpenWork) -> bool:
        return self._selection.takes(work)

    def children(self, rng: Random) -> Sequence[Child]:
        return [] if self._echo is None else [self._echo.child(rng)]

    def warnings(self) -> list[str]:
        return [] if self._echo is None else self._echo.warnings()

    async def execute(self, order: Order) -> Answer:
        """One attempt."""
        if self._echo is not None:
            return await self._see_through(order, self._echo)
        published = await self._publish(order, PUBLISH_S)
        return Done(published, "acknowledged") if isinstance(published, str) else published

    async def _see_through(self, order: Order, echo: Echo) -> Answer:
        """Publish it unless it has come back already, and wait until it does."""
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + ATTEMPT_S - MARGIN_S
        mark = mark_of(native(order))
        await echo.first_look(FIRST_LOOK_S)
        if echo.has(mark):
            return Done("it had come back, and was not published again", "read_back")
        if order.acknowledged and (why := echo.why_away):
            # To publish it once more would show nothing, for as long as nothing comes back.
            return TryAgain(f"it was published, and cannot be read back: {why}", ails=False, acknowledged=True)
        published = await self._publish(order, min(PUBLISH_S, until_s - now_s()))
        if not isinstance(published, str):
            return published
        if why := echo.why_away:
            return TryAgain(f"{published}, which cannot be read back: {why}", ails=False, acknowledged=True)
        if await echo.comes(mark, min(COMES_S, until_s - now_s())):
            return Done(f"{published}, which came back", "read_back")
        return TryAgain(f"{published}, which did not come back", ails=False, acknowledged=True)

    async def _publish(self, order: Order, within_s: float) -> str | TryAgain | Refused:
        """By which name the service has it."""
        try:
            publisher = self._publisher or await self._open()
        except SourceRefusedError as error:
            return TryAgain(str(error), maybe=False)
        try:
            (message_id,) = await publisher.publish([_message(order)], within_s)
        except SourceUnavailableError as error:
            return TryAgain(str(error))
        except SourceRefusedError as error:
            return Refused(str(error))
        return f"message {message_id}" if message_id else TryAgain("published, and the message got no id")

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
