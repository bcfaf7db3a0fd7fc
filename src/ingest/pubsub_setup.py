"""Make the topics and the subscription that Governors needs: what is missing is created, what differs is updated.

Safe to run again at any time; each step says what it did or found.
"""

from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from google.protobuf import duration_pb2, field_mask_pb2
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
_UPDATABLE: Final = ("ack_deadline_seconds", "message_retention_duration", "retry_policy", "dead_letter_policy")
_FIXED: Final = ("topic", "filter", "enable_message_ordering")


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

    ack_deadline_s: int = 60
    """How long a delivery is ours. Commits take seconds, a takeover by another worker 15: one lease outlives both."""

    delivery_attempts_max: int = 100
    """After so many deliveries Pub/Sub gives up. As high as it goes: Governors judges single messages itself, so this
    is only passed in an outage of its own, where every message is good."""

    retry_min_s: int = 1
    retry_max_s: int = 60
    """How long Pub/Sub waits before it delivers again what was given back."""

    retention_s: int = 7 * 86_400
    """How long it keeps what nobody acknowledged; a week is the most."""


async def setup(channel: grpc.aio.Channel, plan: SetupPlan) -> list[str]:
    """Make it so, and return one line per step.

    Raises SourceRefusedError where a setting that cannot be changed differs, or a permission is missing;
    SourceUnavailableError where Pub/Sub cannot be reached. Half done is no harm: run it again.
    """
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
    steps = [await _have_topic(channel, topic)]
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
        steps.append(await _have_topic(channel, letters))
        steps.append(await _have_subscription(channel, keeper))
    steps.append(await _have_subscription(channel, subscription))
    if plan.dead_letter_topic is not None:
        steps.append(
            "for Pub/Sub to move dead letters, its service agent needs roles/pubsub.publisher on"
            f" {plan.dead_letter_topic} and roles/pubsub.subscriber on {plan.subscription}"
        )
    return steps


async def _have_topic(channel: grpc.aio.Channel, name: str) -> str:
    get = unary(channel, "Publisher/GetTopic", GetTopicRequest, Topic)
    try:
        await call(get, GetTopicRequest(topic=name), _TIMEOUT_S, routing("topic", name), name)
    except SourceRefusedError as error:
        if not error.vanished:
            raise
    else:
        return f"topic {name} is there"
    create = unary(channel, "Publisher/CreateTopic", Topic, Topic)
    await call(create, Topic(name=name), _TIMEOUT_S, routing("name", name), name)
    return f"created topic {name}"


async def _have_subscription(channel: grpc.aio.Channel, wanted: Any) -> str:
    name = wanted.name
    get = unary(channel, "Subscriber/GetSubscription", GetSubscriptionRequest, Subscription)
    request = GetSubscriptionRequest(subscription=name)
    try:
        found = await call(get, request, _TIMEOUT_S, routing("subscription", name), name)
    except SourceRefusedError as error:
        if not error.vanished:
            raise
        create = unary(channel, "Subscriber/CreateSubscription", Subscription, Subscription)
        await call(create, wanted, _TIMEOUT_S, routing("name", name), name)
        return f"created subscription {name}"
    return await _bring_into_line(channel, found, wanted)


async def _bring_into_line(channel: grpc.aio.Channel, found: Any, wanted: Any) -> str:
    name = wanted.name
    for key in _FIXED:
        if (has := getattr(found, key)) != (wants := getattr(wanted, key)):
            raise SourceRefusedError(
                f"{name} has {key} {has!r}, wanted is {wants!r}; that is fixed when it is created:"
                " delete it, or choose another name"
            )
    # What the plan leaves unsaid (no dead letters, say) is left as it is: somebody may have set it on purpose.
    differing = [key for key in _UPDATABLE if _is_said(wanted, key) and getattr(found, key) != getattr(wanted, key)]
    if not differing:
        return f"subscription {name} is there"
    update = unary(channel, "Subscriber/UpdateSubscription", UpdateSubscriptionRequest, Subscription)
    request = UpdateSubscriptionRequest(subscription=wanted, update_mask=field_mask_pb2.FieldMask(paths=differing))
    await call(update, request, _TIMEOUT_S, routing("subscription.name", name), name)
    return f"updated subscription {name}: {', '.join(differing)}"


def _is_said(wanted: Any, key: str) -> bool:
    field = wanted.DESCRIPTOR.fields_by_name[key]
    return bool(wanted.HasField(key) if field.has_presence else getattr(wanted, key))
