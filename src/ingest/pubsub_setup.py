"""Make the topics and the subscription that Governors needs: what is missing is created, what differs is updated.

Safe to run again at any time; each step says what it found, and what it did about it.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import grpc.aio
from google.protobuf import duration_pb2, field_mask_pb2
from google.protobuf.message import Message
from google.pubsub_v1.types import pubsub as types

from ingest.errors import SourceRefusedError
from ingest.pubsub import call, routing, unary

Topic: Final[Any] = types.Topic.pb()
GetTopicRequest: Final[Any] = types.GetTopicRequest.pb()
Subscription: Final[Any] = types.Subscription.pb()
GetSubscriptionRequest: Final[Any] = types.GetSubscriptionRequest.pb()
UpdateSubscriptionRequest: Final[Any] = types.UpdateSubscriptionRequest.pb()
DeadLetterPolicy: Final[Any] = types.DeadLetterPolicy.pb()
RetryPolicy: Final[Any] = types.RetryPolicy.pb()

_TIMEOUT_S: Final = 30.0
_UPDATABLE: Final = (
    "ack_deadline_seconds",
    "dead_letter_policy",
    "enable_exactly_once_delivery",
    "message_retention_duration",
    "retry_policy",
)
_FIXED: Final = ("topic", "filter", "enable_message_ordering")


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that was not as it should be: its name in Pub/Sub's API, and both values in words."""

    key: str
    has: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Step:
    """What setup found of one thing, and did about it; `missing` and `differs` where it was not to change anything."""

    did: Literal["created", "differs", "found", "missing", "updated"]
    kind: Literal["subscription", "topic"]
    name: str
    differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        changes = ", ".join(f"{one.key} from {one.has} to {one.wanted}" for one in self.differences)
        match self.did:
            case "found":
                return f"{self.kind} {self.name} is there"
            case "missing":
                return f"{self.kind} {self.name} is missing"
            case "differs":
                return f"{self.kind} {self.name} differs: {changes}"
            case "created":
                return f"created {self.kind} {self.name}"
            case "updated":
                return f"updated {self.kind} {self.name}: {changes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupPlan:
    """What should exist. Short names (`signals`), inside one project."""

    project: str
    topic: str
    subscription: str

    dead_letter_topic: str | None = None
    """Where Pub/Sub itself puts what was delivered too often. It gets a subscription of the same name that keeps
    them: a topic without one forgets what is published to it."""

    filter: str = ""
    """Which messages the subscription gets, by attributes; fixed once it exists."""

    ordering: bool = True
    """Whether messages with one ordering key (a tenant) come in order; fixed once it exists."""

    exactly_once: bool | None = None
    """Whether Pub/Sub confirms acknowledgements one by one, and delivers nothing again before its lease is over: fewer
    redeliveries, for a slower pull from one region. Governors decides nothing twice either way. None leaves it as it
    is, which is off for a new one."""

    ack_deadline_s: int = 10
    """How long a delivery is ours. Commits take seconds, a takeover by another worker 15: one lease outlives both."""

    delivery_attempts_max: int = 100
    """After so many deliveries Pub/Sub gives up. As high as it goes: Governors judges single messages itself, so this
    is only passed in an outage of its own, where every message is good."""

    retry_min_s: int = 1
    retry_max_s: int = 60
    """How long Pub/Sub waits before it delivers again what was given back."""

    retention_s: int = 7 * 86_400
    """How long it keeps what nobody acknowledged; a week is the most."""


async def setup(channel: grpc.aio.Channel, plan: SetupPlan, *, change: bool = True) -> list[Step]:
    """Make it so, and return what was found and done, step by step; with `change` false only say what would be done.

    Raises SourceRefusedError where a setting that cannot be changed differs, or a permission is missing;
    SourceUnavailableError where Pub/Sub cannot be reached. Half done is no harm: run it again.
    """
    work = _Work(channel, change=change)
    topic = f"projects/{plan.project}/topics/{plan.topic}"
    subscription = Subscription(
        name=f"projects/{plan.project}/subscriptions/{plan.subscription}",
        topic=topic,
        ack_deadline_seconds=plan.ack_deadline_s,
        enable_message_ordering=plan.ordering,
        filter=plan.filter,
        message_retention_duration=duration_pb2.Duration(seconds=plan.retention_s),
        retry_policy=RetryPolicy(
            minimum_backoff=duration_pb2.Duration(seconds=plan.retry_min_s),
            maximum_backoff=duration_pb2.Duration(seconds=plan.retry_max_s),
        ),
    )
    unsaid = set() if plan.dead_letter_topic else {"dead_letter_policy"}
    if plan.exactly_once is None:
        unsaid.add("enable_exactly_once_delivery")
    else:
        subscription.enable_exactly_once_delivery = plan.exactly_once
    steps = [await work.have_topic(topic)]
    if plan.dead_letter_topic is not None:
        letters = f"projects/{plan.project}/topics/{plan.dead_letter_topic}"
        keeper = Subscription(
            name=f"projects/{plan.project}/subscriptions/{plan.dead_letter_topic}",
            topic=letters,
            ack_deadline_seconds=plan.ack_deadline_s,
            message_retention_duration=duration_pb2.Duration(seconds=plan.retention_s),
        )
        subscription.dead_letter_policy.CopyFrom(
            DeadLetterPolicy(dead_letter_topic=letters, max_delivery_attempts=plan.delivery_attempts_max)
        )
        steps.append(await work.have_topic(letters))
        steps.append(
            await work.have_subscription(keeper, {"dead_letter_policy", "enable_exactly_once_delivery", "retry_policy"})
        )
    steps.append(await work.have_subscription(subscription, unsaid))
    return steps


def permissions(plan: SetupPlan) -> list[str]:
    """What IAM has to grant, and to whom, a sentence each; setup itself cannot."""
    needed = [
        f"the service's account needs roles/pubsub.subscriber on subscription {plan.subscription}",
        f"whoever sends signals needs roles/pubsub.publisher on topic {plan.topic}",
    ]
    if plan.dead_letter_topic is not None:
        agent = "Pub/Sub's service agent (service-PROJECT_NUMBER@gcp-sa-pubsub.iam.gserviceaccount.com)"
        needed += [
            f"the service's account needs roles/pubsub.publisher on topic {plan.dead_letter_topic}",
            f"{agent} needs roles/pubsub.publisher on topic {plan.dead_letter_topic}",
            f"{agent} needs roles/pubsub.subscriber on subscription {plan.subscription}",
        ]
    return needed


class _Work:
    """Looks, and where it may, changes."""

    def __init__(self, channel: grpc.aio.Channel, *, change: bool) -> None:
        self._channel = channel
        self._change = change

    async def have_topic(self, name: str) -> Step:
        get = unary(self._channel, "Publisher/GetTopic", GetTopicRequest, Topic)
        try:
            await call(get, GetTopicRequest(topic=name), _TIMEOUT_S, routing("topic", name), name)
        except SourceRefusedError as error:
            if not error.vanished:
                raise
        else:
            return Step("found", "topic", name)
        if self._change:
            create = unary(self._channel, "Publisher/CreateTopic", Topic, Topic)
            await call(create, Topic(name=name), _TIMEOUT_S, routing("name", name), name)
        return Step("created" if self._change else "missing", "topic", name)

    async def have_subscription(self, wanted: Any, unsaid: set[str]) -> Step:
        """`unsaid` are the fields that are left as they are: somebody may have set them on purpose."""
        name = wanted.name
        get = unary(self._channel, "Subscriber/GetSubscription", GetSubscriptionRequest, Subscription)
        request = GetSubscriptionRequest(subscription=name)
        try:
            found = await call(get, request, _TIMEOUT_S, routing("subscription", name), name)
        except SourceRefusedError as error:
            if not error.vanished:
                raise
            if self._change:
                create = unary(self._channel, "Subscriber/CreateSubscription", Subscription, Subscription)
                await call(create, wanted, _TIMEOUT_S, routing("name", name), name)
            return Step("created" if self._change else "missing", "subscription", name)
        return await self._bring_into_line(found, wanted, unsaid)

    async def _bring_into_line(self, found: Any, wanted: Any, unsaid: set[str]) -> Step:
        name = wanted.name
        for key in _FIXED:
            if getattr(found, key) != getattr(wanted, key):
                difference = _difference(key, found, wanted)
                raise SourceRefusedError(
                    f"{name} has {difference.key} {difference.has}, wanted is {difference.wanted}; that is fixed when"
                    " it is created: delete it, or choose another name"
                )
        differences = [
            _difference(key, found, wanted)
            for key in _UPDATABLE
            if key not in unsaid and getattr(found, key) != getattr(wanted, key)
        ]
        if not differences:
            return Step("found", "subscription", name)
        if self._change:
            update = unary(self._channel, "Subscriber/UpdateSubscription", UpdateSubscriptionRequest, Subscription)
            mask = field_mask_pb2.FieldMask(paths=[difference.key for difference in differences])
            request = UpdateSubscriptionRequest(subscription=wanted, update_mask=mask)
            await call(update, request, _TIMEOUT_S, routing("subscription.name", name), name)
        return Step("updated" if self._change else "differs", "subscription", name, tuple(differences))


def _difference(key: str, found: Any, wanted: Any) -> Difference:
    return Difference(key, _said(getattr(found, key)), _said(getattr(wanted, key)))


def _said(value: Any) -> str:
    """A field's value in one line."""
    if not isinstance(value, Message):
        return repr(value) if isinstance(value, str) else str(value).lower()
    if isinstance(value, duration_pb2.Duration):
        return value.ToJsonString()
    parts = [f"{field.name} {_said(inner)}" for field, inner in value.ListFields()]
    return "{" + ", ".join(parts) + "}" if parts else "not set"
