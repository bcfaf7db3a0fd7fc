"""A Pub/Sub of our own, in this process: for `governors demo`, for tests, and for faults that no real one will show.

    async with FakePubSub(clock_us=...) as fake:    # listens on 127.0.0.1, any free port
        channel = await open_channel(fake.host)

Serves gRPC, so the stock clients work against it too. What it keeps: leases and redelivery after their deadline, order
by key, the retry policy, delivery attempts and dead-letter topics, and what exactly-once delivery says of each ack id.
Like the service with ordering, it has one batch of a key out at a time; what comes back is delivered again before
anything later of that key. What it leaves out: filters, push, streaming pull, snapshots, retention. Messages live in
memory, at most `messages_max` for each subscription.
"""

import asyncio
import contextlib
import re
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc
import grpc.aio
from google.protobuf import empty_pb2
from google.pubsub_v1.types import pubsub as types
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ingest.fake_backlog import Backlog

_RAW: Final[dict[str, Any]] = {
    name: getattr(types, name).pb()
    for name in (
        "AcknowledgeRequest",
        "DeleteSubscriptionRequest",
        "DeleteTopicRequest",
        "GetSubscriptionRequest",
        "GetTopicRequest",
        "ModifyAckDeadlineRequest",
        "PublishRequest",
        "PublishResponse",
        "PubsubMessage",
        "PullRequest",
        "PullResponse",
        "Subscription",
        "Topic",
        "UpdateSubscriptionRequest",
    )
}
_NAME = re.compile(r"projects/[^/]+/(topics|subscriptions)/[A-Za-z][A-Za-z0-9._~+%-]{2,254}", re.ASCII)
_PULL_MESSAGES_MAX: Final = 1_000
_PULL_WAIT_S: Final = 2.0
_ACK_BYTES_MAX: Final = 512 * 1024


class _RefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailers = trailers


class Faults:
    """What goes wrong next. Methods go by their gRPC names: `Pull`, `Acknowledge`, `Publish`, …"""

    def __init__(self) -> None:
        self._failures: dict[str, deque[tuple[grpc.StatusCode, bool]]] = {}
        self._delays: dict[str, float] = {}
        self._duplicates = 0
        self._dropped_acks = 0
        self._untaken = 0
        self._losses = 0

    def fail(self, method: str, code: grpc.StatusCode, times: int = 1, *, landed: bool = False) -> None:
        """Answer the next calls with `code`; `landed` says that they take effect nevertheless."""
        self._failures.setdefault(method, deque()).extend([(code, landed)] * times)

    def forgive(self, method: str) -> None:
        """Let none of the failures that were asked for come any more."""
        self._failures.pop(method, None)

    def delay(self, method: str, seconds: float) -> None:
        """Let every call wait before it takes effect; 0 ends it."""
        self._delays[method] = seconds

    def duplicate(self, messages: int) -> None:
        """Deliver the next messages twice, each delivery with an ack id of its own."""
        self._duplicates += messages

    def drop_acks(self, requests: int) -> None:
        """Answer the next acknowledgements as if they had been taken, and forget them."""
        self._dropped_acks += requests

    def take_no_ids(self, requests: int) -> None:
        """Where delivery is exactly once, take none of the ids of the next acknowledgements, and say so of each."""
        self._untaken += requests

    def lose(self, messages: int) -> None:
        """Publish the next messages to nobody: they get their ids, and no subscription gets them."""
        self._losses += messages

    def pending(self, method: str) -> int:
        """How many of the failures asked for are still to come."""
        return len(self._failures.get(method, ()))

    def next_failure(self, method: str) -> tuple[grpc.StatusCode, bool] | None:
        failures = self._failures.get(method)
        return failures.popleft() if failures else None

    def next_delay_s(self, method: str) -> float:
        return self._delays.get(method, 0.0)

    def takes_ack_drop(self) -> bool:
        if not self._dropped_acks:
            return False
        self._dropped_acks -= 1
        return True

    def takes_no_ids(self) -> bool:
        if not self._untaken:
            return False
        self._untaken -= 1
        return True

    def takes_loss(self) -> bool:
        if not self._losses:
            return False
        self._losses -= 1
        return True

    def takes_duplicate(self) -> bool:
        if not self._duplicates:
            return False
        self._duplicates -= 1
        return True


class FakePubSub:
    """The server. State outlives `stop` and `start`, as it would in the service; `forget` is the emulator's restart.

    `clock_us` gives publish times; deadlines run on the event loop's clock.
    """

    def __init__(
        self,
        *,
        clock_us: Callable[[], int],
        port: int = 0,
        messages_max: int = 100_000,
        pull_wait_s: float = _PULL_WAIT_S,
    ) -> None:
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        """Requests so far by method, those that failed included."""
        self._clock_us = clock_us
        self._port = port
        self._messages_max = messages_max
        self._pull_wait_s = pull_wait_s
        self._server: grpc.aio.Server | None = None
        self._topics: dict[str, Any] = {}
        self._backlogs: dict[str, Backlog] = {}
        self._message_number = 0

    @property
    def host(self) -> str:
        """Where it listens, as `PUBSUB_EMULATOR_HOST` has it: `127.0.0.1:<port>`."""
        return f"127.0.0.1:{self._port}"

    def unacknowledged(self, subscription: str) -> int:
        """How many messages `projects/P/subscriptions/S` still holds, leased ones included."""
        return self._backlogs[subscription].size

    def forget(self) -> None:
        """Lose every topic, subscription and message."""
        self._topics.clear()
        for backlog in self._backlogs.values():
            backlog.changed.set()
        self._backlogs.clear()

    async def start(self) -> None:
        """Listen; again on the same port after a `stop`."""
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        server.add_generic_rpc_handlers(self._handlers())
        self._port = server.add_insecure_port(self.host)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Cut every connection, as a crash would."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        publisher = {
            "CreateTopic": self._method("CreateTopic", "Topic", self._create_topic),
            "GetTopic": self._method("GetTopic", "GetTopicRequest", self._get_topic),
            "DeleteTopic": self._method("DeleteTopic", "DeleteTopicRequest", self._delete_topic),
            "Publish": self._method("Publish", "PublishRequest", self._publish),
        }
        subscriber = {
            "CreateSubscription": self._method("CreateSubscription", "Subscription", self._create_subscription),
            "GetSubscription": self._method("GetSubscription", "GetSubscriptionRequest", self._get_subscription),
            "UpdateSubscription": self._method(
                "UpdateSubscription", "UpdateSubscriptionRequest", self._update_subscription
            ),
            "DeleteSubscription": self._method(
                "DeleteSubscription", "DeleteSubscriptionRequest", self._delete_subscription
            ),
            "Pull": self._method("Pull", "PullRequest", self._pull),
            "Acknowledge": self._method("Acknowledge", "AcknowledgeRequest", self._acknowledge),
            "ModifyAckDeadline": self._method(
                "ModifyAckDeadline", "ModifyAckDeadlineRequest", self._modify_ack_deadline
            ),
        }
        return (
            grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", publisher),
            grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", subscriber),
        )

    def _method(
        self, name: str, request_type: str, behaviour: Callable[[Any], Awaitable[Any]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        async def serve(request: Any, context: Any) -> Any:
            self.calls[name] += 1
            failure = self.faults.next_failure(name)
            if delay_s := self.faults.next_delay_s(name):
                await asyncio.sleep(delay_s)
            if failure is not None and not failure[1]:
                await context.abort(failure[0], "a fault that was asked for")
            try:
                response = await behaviour(request)
            except _RefusedError as error:
                await context.abort(error.code, error.details, error.trailers)
            if failure is not None:
                await context.abort(failure[0], "a fault that was asked for, after the call had its effect")
            return response

        return grpc.unary_unary_rpc_method_handler(
            serve,
            request_deserializer=_RAW[request_type].FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    # Topics

    async def _create_topic(self, request: Any) -> Any:
        _check_name(request.name, "topics")
        if request.name in self._topics:
            raise _RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"Topic already exists: {request.name}")
        self._topics[request.name] = request
        return request

    async def _get_topic(self, request: Any) -> Any:
        return self._topic(request.topic)

    async def _delete_topic(self, request: Any) -> Any:
        self._topic(request.topic)
        del self._topics[request.topic]
        for backlog in self._backlogs.values():
            if backlog.config.topic == request.topic:
                backlog.config.topic = "_deleted-topic_"
        return empty_pb2.Empty()

    async def _publish(self, request: Any) -> Any:
        self._topic(request.topic)
        if not request.messages:
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "There are no messages to publish")
        for message in request.messages:
            if not message.data and not message.attributes:
                raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "A message needs data or an attribute")
        return _RAW["PublishResponse"](message_ids=self._fan_out(request.topic, request.messages, self.faults))

    def _fan_out(self, topic: str, messages: Iterable[Any], faults: Faults | None = None) -> list[str]:
        """Give every subscription of the topic its own copy, or none any: half a batch would be published twice."""
        messages = list(messages)
        backlogs = [backlog for backlog in self._backlogs.values() if backlog.config.topic == topic]
        if not all(backlog.has_room(len(messages)) for backlog in backlogs):
            raise _RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._messages_max} messages are waiting")
        now_us = self._clock_us()
        for message in messages:
            self._message_number += 1
            message.message_id = str(self._message_number)
            message.publish_time.FromMicroseconds(now_us)
            for backlog in [] if faults is not None and faults.takes_loss() else backlogs:
                backlog.add(message)
        return [message.message_id for message in messages]

    def _topic(self, name: str) -> Any:
        if name not in self._topics:
            raise _RefusedError(grpc.StatusCode.NOT_FOUND, f"Topic not found (resource={name}).")
        return self._topics[name]

    # Subscriptions

    async def _create_subscription(self, request: Any) -> Any:
        _check_name(request.name, "subscriptions")
        if request.name in self._backlogs:
            raise _RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"Subscription already exists: {request.name}")
        self._topic(request.topic)
        request.ack_deadline_seconds = request.ack_deadline_seconds or 10
        _check_subscription(request)
        self._backlogs[request.name] = Backlog(request, self._messages_max, self._dead_letter(request))
        return request

    async def _get_subscription(self, request: Any) -> Any:
        return self._backlog(request.subscription).config

    async def _update_subscription(self, request: Any) -> Any:
        config = self._backlog(request.subscription.name).config
        changed = _RAW["Subscription"]()
        changed.CopyFrom(config)
        request.update_mask.MergeMessage(request.subscription, changed, replace_message_field=True)
        if any(getattr(changed, key) != getattr(config, key) for key in ("topic", "filter", "enable_message_ordering")):
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "This field cannot be updated")
        _check_subscription(changed)
        config.CopyFrom(changed)
        return config

    async def _delete_subscription(self, request: Any) -> Any:
        self._backlog(request.subscription).changed.set()
        del self._backlogs[request.subscription]
        return empty_pb2.Empty()

    async def _pull(self, request: Any) -> Any:
        if request.max_messages <= 0:
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "max_messages must be positive")
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + (0.0 if request.return_immediately else self._pull_wait_s)
        while True:
            backlog = self._backlog(request.subscription)
            backlog.changed.clear()
            taken = backlog.take(min(request.max_messages, _PULL_MESSAGES_MAX), now_s(), self.faults.takes_duplicate)
            if taken or now_s() >= until_s:
                return _RAW["PullResponse"](received_messages=taken)
            change_s = backlog.next_change_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until_s if change_s is None else min(until_s, change_s)):
                    await backlog.changed.wait()

    async def _acknowledge(self, request: Any) -> Any:
        backlog = self._backlog(request.subscription)
        _check_ack_ids(request)
        is_exact = backlog.config.enable_exactly_once_delivery
        if is_exact and self.faults.takes_no_ids():
            _refuse_ids(request.ack_ids, "TRANSIENT_FAILURE_OTHER")
        if not self.faults.takes_ack_drop():
            now_s = asyncio.get_running_loop().time()
            lost = [ack_id for ack_id in request.ack_ids if not backlog.acknowledge(ack_id, now_s)]
            if is_exact and lost:
                _refuse_ids(lost, "PERMANENT_FAILURE_INVALID_ACK_ID")
        return empty_pb2.Empty()

    async def _modify_ack_deadline(self, request: Any) -> Any:
        backlog = self._backlog(request.subscription)
        _check_ack_ids(request)
        if not 0 <= request.ack_deadline_seconds <= 600:
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds: expected 0 to 600")
        now_s, deadline_s = asyncio.get_running_loop().time(), request.ack_deadline_seconds
        lost = [ack_id for ack_id in request.ack_ids if not backlog.modify_deadline(ack_id, deadline_s, now_s)]
        if backlog.config.enable_exactly_once_delivery and lost:
            _refuse_ids(lost, "PERMANENT_FAILURE_INVALID_ACK_ID")
        return empty_pb2.Empty()

    def _backlog(self, name: str) -> Backlog:
        if name not in self._backlogs:
            raise _RefusedError(grpc.StatusCode.NOT_FOUND, f"Subscription does not exist (resource={name}).")
        return self._backlogs[name]

    def _dead_letter(self, config: Any) -> Callable[[Any, int], bool]:
        """Moves a message that was delivered too often, in the service's way; says whether it did."""

        def move(message: Any, attempts: int) -> bool:
            policy = config.dead_letter_policy
            if not config.HasField("dead_letter_policy") or attempts < policy.max_delivery_attempts:
                return False
            letter = _RAW["PubsubMessage"]()
            letter.CopyFrom(message)
            _, project, _, subscription = config.name.split("/")
            letter.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(attempts)
            letter.attributes["CloudPubSubDeadLetterSourceSubscription"] = subscription
            letter.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = project
            letter.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"] = message.publish_time.ToJsonString()
            try:
                self._topic(policy.dead_letter_topic)
                self._fan_out(policy.dead_letter_topic, [letter])
            except _RefusedError:
                return False
            return True

        return move


def _refuse_ids(ack_ids: Iterable[str], why: str) -> NoReturn:
    """In the service's form: the request fails, and says of which ids; the others were taken."""
    info = ErrorInfo(reason="EXACTLY_ONCE_ACKID_FAILURE", domain="pubsub.googleapis.com")
    for ack_id in ack_ids:
        info.metadata[ack_id] = why
    status = Status(code=code_pb2.INVALID_ARGUMENT)
    status.details.add().Pack(info)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "Some acknowledgement ids failed.", trailers)


def _check_name(name: str, collection: str) -> None:
    match = _NAME.fullmatch(name)
    if match is None or match[1] != collection:
        raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid [{collection}] name: (name={name})")


def _check_subscription(config: Any) -> None:
    if not 10 <= config.ack_deadline_seconds <= 600:
        raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds: expected 10 to 600")
    if config.HasField("dead_letter_policy") and not 5 <= config.dead_letter_policy.max_delivery_attempts <= 100:
        raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "max_delivery_attempts: expected 5 to 100")


def _check_ack_ids(request: Any) -> None:
    if not request.ack_ids:
        raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "No ack ids specified.")
    if request.ByteSize() > _ACK_BYTES_MAX:
        raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "Request payload size exceeds the limit: 524288 bytes.")
