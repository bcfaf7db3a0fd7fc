"""A subscription of one reader's own, to see what comes by: made where it is missing, gone by itself when not used."""

from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import duration_pb2, empty_pb2
from google.pubsub_v1.types import pubsub as types

from ingest.errors import SourceRefusedError
from ingest.pubsub import call, routing, unary
from ingest.pubsub_setup import GetSubscriptionRequest, Subscription

DeleteSubscriptionRequest: Final[Any] = types.DeleteSubscriptionRequest.pb()
ExpirationPolicy: Final[Any] = types.ExpirationPolicy.pb()

# The least of each that the service takes
# (https://cloud.google.com/pubsub/docs/reference/rest/v1/projects.subscriptions#Subscription).
ACK_DEADLINE_S: Final = 10
RETENTION_S: Final = 600
UNUSED_S: Final = 86_400

_HINTS: Final = {
    grpc.StatusCode.NOT_FOUND: "create that topic",
    grpc.StatusCode.PERMISSION_DENIED: (
        "this service's account needs pubsub.subscriptions.create, get, consume and delete in the project, and"
        " pubsub.topics.attachSubscription on the topic"
    ),
    grpc.StatusCode.UNAUTHENTICATED: "check the credentials that this process runs with",
}


async def have_own_subscription(channel: grpc.aio.Channel, name: str, topic: str, timeout_s: float) -> None:
    """See to it that `name` (`projects/P/subscriptions/S`) gets all that is published to the topic from now on.

    One of that name that is on another topic, on one that was deleted (and perhaps made again), or that leaves
    something out, is made anew; what it held is lost. Each request has `timeout_s`. Raises SourceRefusedError where the
    topic is not there, or a permission is missing; SourceUnavailableError where Pub/Sub cannot be reached.
    """
    work = _Own(channel, name, timeout_s)
    found = await work.get()
    if found is not None and (found.topic != topic or found.filter):
        await work.delete()
        found = None
    if found is None:
        await work.create(topic)


class _Own:
    def __init__(self, channel: grpc.aio.Channel, name: str, timeout_s: float) -> None:
        self._channel = channel
        self._name = name
        self._timeout_s = timeout_s

    async def get(self) -> Any:
        """None where it is not there."""
        try:
            return await self._call(
                "GetSubscription", GetSubscriptionRequest(subscription=self._name), Subscription, "subscription"
            )
        except SourceRefusedError as error:
            if not error.vanished:
                raise
            return None

    async def delete(self) -> None:
        request = DeleteSubscriptionRequest(subscription=self._name)
        await self._call("DeleteSubscription", request, empty_pb2.Empty, "subscription")

    async def create(self, topic: str) -> None:
        wanted = Subscription(
            name=self._name,
            topic=topic,
            ack_deadline_seconds=ACK_DEADLINE_S,
            message_retention_duration=duration_pb2.Duration(seconds=RETENTION_S),
            expiration_policy=ExpirationPolicy(ttl=duration_pb2.Duration(seconds=UNUSED_S)),
        )
        await self._call("CreateSubscription", wanted, Subscription, "name")

    async def _call(self, method: str, request: Any, response_type: Any, field: str) -> Any:
        stub = unary(self._channel, f"Subscriber/{method}", type(request), response_type)
        return await call(stub, request, self._timeout_s, routing(field, self._name), self._name, _HINTS)
