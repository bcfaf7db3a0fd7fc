"""The envelope in which Pub/Sub pushes a message.

Source: https://cloud.google.com/pubsub/docs/push#receive_push. Each name may come in either spelling (`messageId`,
`message_id`), and usually comes in both. What is inside is read like a message that was pulled.
"""

from base64 import b64decode
from typing import Any, Final

from msgspec import Struct, json

from ingest.decode.limits import DecodeLimits
from ingest.decode.rejection import DECODE_ERRORS, body_rejection
from ingest.errors import BodyRejectedError, Reason
from ingest.signals import parse_time
from ingest.source import Delivery

# An ordinary message is pushed without a counter of attempts: only a dead-letter policy makes Pub/Sub count.
_UNCOUNTED: Final = 0


class _Message(Struct, frozen=True):
    data: str | None = None
    attributes: dict[str, str] | None = None
    messageId: str | None = None  # noqa: N815 - Google's names
    message_id: str | None = None
    publishTime: str | None = None  # noqa: N815
    publish_time: str | None = None
    orderingKey: str | None = None  # noqa: N815


class _Envelope(Struct, frozen=True):
    message: _Message
    subscription: str | None = None
    deliveryAttempt: int | None = None  # noqa: N815


class Pushed(Struct, frozen=True):
    """A message and the full name of the subscription that it came by ("" where it is not said)."""

    message: Delivery
    subscription: str


_decode = json.Decoder(_Envelope).decode


def read_push(body: bytes, limits: DecodeLimits) -> Pushed:
    """Take a message out of its envelope. Raises BodyRejectedError, whatever the bytes.

    Where the envelope does not say when the message was published, its time is 0.
    """
    if len(body) > limits.body_bytes_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"{len(body)} bytes; a body may have {limits.body_bytes_max}")
    if not body.strip():
        raise BodyRejectedError(Reason.EMPTY_BODY, 400, "the body is empty")
    try:
        envelope = _decode(body)
    except DECODE_ERRORS as error:
        raise body_rejection(error, body, limits.signal_bytes_max) from error
    message = envelope.message
    publish_time = _either(message, "publishTime", "publish_time")
    delivery = Delivery(
        payload=_data(message.data or ""),
        attributes=message.attributes or {},
        message_id=_either(message, "messageId", "message_id") or "",
        publish_us=0 if publish_time is None else _time(publish_time),
        delivery_attempt=envelope.deliveryAttempt or _UNCOUNTED,
        ordering_key=message.orderingKey or "",
        ack_id="",
    )
    return Pushed(delivery, envelope.subscription or "")


def _either(message: _Message, name: str, other: str) -> str | None:
    one: Any = getattr(message, name)
    another: Any = getattr(message, other)
    if one is not None and another is not None and one != another:
        raise _unreadable(Reason.BAD_FIELD, f"message.{name}", f"differs from {other}")
    found: str | None = another if one is None else one
    return found


def _data(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise _unreadable(Reason.BAD_FIELD, "message.data", f"not base64: {error}") from error


def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise _unreadable(Reason.BAD_FIELD, "message.publishTime", str(error)) from error


def _unreadable(reason: str, field: str, message: str) -> BodyRejectedError:
    return BodyRejectedError(reason, 400, f"{field}: {message}")
