"""Google Pub/Sub: the channel, one subscription to pull from, one topic to publish to.

Speaks to the service's gRPC stubs with the library's raw protobuf types. The stock client wraps every message and every
field it reads in proto-plus objects: 22 us of CPU a message, pulled and acknowledged, against 6 to 7
(`benchmarks/support_pubsub.py`, `stock_pull` and `bare_pull`). That is more than all the rest of a signal's life.

Importing this module costs a third of a second and 30 MB: import it only where Pub/Sub is configured.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import google.auth
import grpc
import grpc.aio
from google.auth.exceptions import GoogleAuthError
from google.protobuf import empty_pb2
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from google.pubsub_v1.types import pubsub as types
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.source import TAKEN, AckResult, Delivery

SERVICE_HOST: Final = "pubsub.googleapis.com:443"
EMULATOR_ENVIRONMENT: Final = "PUBSUB_EMULATOR_HOST"

_CHANNEL_OPTIONS: Final = (
    # A pull of large messages passes gRPC's default of 4 MiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # With exactly-once delivery the answer to an acknowledgement names in its trailers every id that failed; gRPC's
    # default of 8 KiB holds a few dozen. As Google's own client has it.
    ("grpc.max_metadata_size", 4 * 1024 * 1024),
    # A peer that vanished without a word (a frozen node, a dropped NAT entry) is noticed within these two.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The default lets a channel sulk for up to 120 s after a server's restart; our own backoff spaces the attempts.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # This one is how long a single attempt may take as well: TLS, in a pod that has just started, takes its time.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

_PERMANENT: Final = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_HINTS: Final = {
    grpc.StatusCode.NOT_FOUND: "create it with `governors pubsub setup`",
    grpc.StatusCode.PERMISSION_DENIED: "grant roles/pubsub.{role} on it to this service's account",
    grpc.StatusCode.UNAUTHENTICATED: "check the credentials that this process runs with",
}

PullRequest: Final[Any] = types.PullRequest.pb()
PullResponse: Final[Any] = types.PullResponse.pb()
AcknowledgeRequest: Final[Any] = types.AcknowledgeRequest.pb()
ModifyAckDeadlineRequest: Final[Any] = types.ModifyAckDeadlineRequest.pb()
PublishRequest: Final[Any] = types.PublishRequest.pb()
PublishResponse: Final[Any] = types.PublishResponse.pb()
PubsubMessage: Final[Any] = types.PubsubMessage.pb()

_NO_ATTRIBUTES: Final[Mapping[str, str]] = {}
# Attribute values are bounded at 1,024 bytes (https://cloud.google.com/pubsub/quotas#resource_limits).
_ATTRIBUTE_BYTES_MAX: Final = 1_024
# Pub/Sub gives messages attributes of its own that begin so (`googclient_schemaencoding`), and lets nobody publish any.
_RESERVED: Final = "goog"


async def open_channel(emulator_host: str | None = None) -> grpc.aio.Channel:
    """A channel to the emulator at `emulator_host` ("host:port"; default `PUBSUB_EMULATOR_HOST`), else to the service.

    The service takes Application Default Credentials; SourceRefusedError where there are none. Close it when done.
    """
    if emulator := emulator_host or os.environ.get(EMULATOR_ENVIRONMENT):
        return grpc.aio.insecure_channel(emulator, options=_CHANNEL_OPTIONS)
    try:
        # Off the loop: it reads files and may ask the metadata server, which takes seconds where there is none.
        credentials, _ = await asyncio.to_thread(google.auth.default, SubscriberGrpcAsyncIOTransport.AUTH_SCOPES)
    except GoogleAuthError as error:
        raise SourceRefusedError(f"no credentials for Pub/Sub: {error}") from error
    return SubscriberGrpcAsyncIOTransport.create_channel(
        SERVICE_HOST, credentials=credentials, options=_CHANNEL_OPTIONS
    )


class PubSubSubscriber:
    """One subscription, `projects/P/subscriptions/S`: an `ingest.source.Subscriber`."""

    def __init__(self, channel: grpc.aio.Channel, subscription: str) -> None:
        self._name = subscription
        self._metadata = routing("subscription", subscription)
        self._pull = unary(channel, "Subscriber/Pull", PullRequest, PullResponse)
        self._acknowledge = unary(channel, "Subscriber/Acknowledge", AcknowledgeRequest, empty_pb2.Empty)
        self._modify = unary(channel, "Subscriber/ModifyAckDeadline", ModifyAckDeadlineRequest, empty_pb2.Empty)

    @property
    def name(self) -> str:
        return self._name

    async def pull(self, messages_max: int, timeout_s: float) -> list[Delivery]:
        """One pull of up to `messages_max` messages. A full wait without any is an empty list, not an error."""
        now_s = asyncio.get_running_loop().time
        request = PullRequest(subscription=self._name, max_messages=messages_max)
        asked_s = now_s()
        try:
            response = await self._pull(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            # Only a deadline of ours says that there was nothing; a server that answers so at once is in trouble.
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and now_s() - asked_s >= 0.9 * timeout_s:
                return []
            raise _translate(error, self._name) from error
        return _deliveries(response)

    async def acknowledge(self, ack_ids: Sequence[str], timeout_s: float) -> AckResult:
        request = AcknowledgeRequest(subscription=self._name, ack_ids=ack_ids)
        return await self._settle(self._acknowledge, request, timeout_s)

    async def modify_ack_deadline(self, ack_ids: Sequence[str], deadline_s: int, timeout_s: float) -> AckResult:
        request = ModifyAckDeadlineRequest(subscription=self._name, ack_ids=ack_ids, ack_deadline_seconds=deadline_s)
        return await self._settle(self._modify, request, timeout_s)

    async def _settle(self, stub: Any, request: Any, timeout_s: float) -> AckResult:
        try:
            await stub(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if result := _result_by_id(error):
                return result
            raise _translate(error, self._name) from error
        return TAKEN


def _result_by_id(error: grpc.aio.AioRpcError) -> AckResult | None:
    """What an error says of single ack ids; None where it is about the request as a whole.

    With exactly-once delivery a request fails where any of its ids does, and names those in an ErrorInfo; it is carried
    out for the others (https://cloud.google.com/pubsub/docs/exactly-once-delivery).
    """
    lost, failed = set(), set()
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in Status.FromString(value).details:
            info = ErrorInfo()
            if detail.Unpack(info):
                for ack_id, why in info.metadata.items():
                    if why.startswith("PERMANENT_FAILURE_"):
                        lost.add(ack_id)
                    elif why.startswith("TRANSIENT_FAILURE_"):
                        failed.add(ack_id)
    return AckResult(frozenset(lost), frozenset(failed)) if lost or failed else None


def _deliveries(response: Any) -> list[Delivery]:
    deliveries = []
    for received in response.received_messages:
        message = received.message
        published = message.publish_time
        attributes = message.attributes
        deliveries.append(
            Delivery(
                message.data,
                dict(attributes.items()) if attributes else _NO_ATTRIBUTES,
                message.message_id,
                published.seconds * 1_000_000 + published.nanos // 1_000,
                received.delivery_attempt,
                message.ordering_key,
                received.ack_id,
            )
        )
    return deliveries


class PubSubPublisher:
    """One topic, `projects/P/topics/T`. Batches are the caller's: one call, one request."""

    def __init__(self, channel: grpc.aio.Channel, topic: str) -> None:
        self._name = topic
        self._metadata = routing("topic", topic)
        self._publish = unary(channel, "Publisher/Publish", PublishRequest, PublishResponse)

    @property
    def name(self) -> str:
        return self._name

    async def publish(self, messages: Sequence[Any], timeout_s: float) -> list[str]:
        """Publish raw `PubsubMessage`s, at most 1,000 and 10 MB (the service's bounds); returns their message ids.

        Raises SourceUnavailableError (it may have landed nevertheless) or SourceRefusedError.
        """
        request = PublishRequest(topic=self._name, messages=messages)
        response = await call(self._publish, request, timeout_s, self._metadata, self._name)
        return list(response.message_ids)


class DeadLetterTopic:
    """Dead letters to a topic: the message as it came, with the reason in attributes of its own."""

    def __init__(self, publisher: PubSubPublisher, timeout_s: float = 10.0) -> None:
        self._publisher = publisher
        self._timeout_s = timeout_s

    async def put(
        self,
        *,
        reason: str,
        tenant: str | None,
        payload: bytes,
        attributes: Mapping[str, str],
        error: str,
        now_us: int,
    ) -> str:
        """Publish a letter; returns `<topic>:<message id>` once the service has it."""
        why = {
            "governors-dead-letter-reason": _cut(reason),
            "governors-dead-letter-error": _cut(error),
            "governors-dead-letter-at-us": str(now_us),
        }
        if tenant is not None:
            why["governors-dead-letter-tenant"] = _cut(tenant)
        kept = {f"original-{name}" if name.startswith(_RESERVED) else name: text for name, text in attributes.items()}
        message = PubsubMessage(data=payload, attributes={**kept, **why})
        ids = await self._publisher.publish([message], self._timeout_s)
        return f"{self._publisher.name}:{ids[0]}"


def _cut(text: str) -> str:
    return text.encode()[:_ATTRIBUTE_BYTES_MAX].decode(errors="ignore")


def unary(channel: grpc.aio.Channel, method: str, request_type: Any, response_type: Any) -> Any:
    """A stub for `method` ("Subscriber/Pull") over raw protobuf types."""
    return channel.unary_unary(
        f"/google.pubsub.v1.{method}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )


def routing(field: str, name: str) -> tuple[tuple[str, str], ...]:
    """The metadata by which the service finds the right region (https://google.aip.dev/client-libraries/4222)."""
    return (("x-goog-request-params", f"{field}={quote(name, safe='')}"),)


async def call(
    stub: Any,
    request: Any,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...],
    name: str,
    hints: Mapping[grpc.StatusCode, str] = _HINTS,
) -> Any:
    """One call under a deadline. Raises SourceUnavailableError or SourceRefusedError, naming the resource; `hints` say
    what to do about a refusal.
    """
    try:
        return await stub(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise _translate(error, name, hints) from error


def _translate(
    error: grpc.aio.AioRpcError, name: str, hints: Mapping[grpc.StatusCode, str] = _HINTS
) -> SourceUnavailableError | SourceRefusedError:
    code = error.code()
    text = f"{name}: {code.name}: {error.details()}"
    if code not in _PERMANENT:  # what we do not know may pass: waiting costs less than stopping
        return SourceUnavailableError(text)
    hint = hints.get(code, "").format(role="publisher" if "/topics/" in name else "subscriber")
    return SourceRefusedError(f"{text}; {hint}" if hint else text, vanished=code is grpc.StatusCode.NOT_FOUND)
