"""One Pub/Sub message to one signal: which of the known forms it has, and the decoder of that form.

A form is told by what only it has: its attributes, or the shape of its data. What no form claims is taken for a signal
of ours, and refused as such.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, json

from ingest.decode import budget, cloud_deploy, cloudevents, cloudevents_binary, monitoring
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.foreign import Translation, Unheard, finish
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.native import decode_native
from ingest.decode.tenants import Facts, Routing
from ingest.signals import Signal
from ingest.source import Delivery

Attributes = Mapping[str, str]
Decoder = Callable[[bytes, int, DecodeLimits], Signal]

NATIVE: Final = "native"
CLOUDEVENTS: Final = "cloudevents"
CLOUDEVENTS_BINARY: Final = "cloudevents_binary"
NO_FACTS: Final[Facts] = {}


class Foreign(Struct, frozen=True):
    """A form of another system: how it is told from the others, and what its messages mean in our words."""

    name: str
    recognises: Callable[[Delivery], bool]
    translate: Callable[[Delivery, DecodeLimits], Translation | Unheard]


# By their attributes first, which nothing of ours has. The first that recognises a message has it.
FOREIGN: Final[tuple[Foreign, ...]] = (
    Foreign(budget.FORM, budget.recognises, budget.translate),
    Foreign(cloud_deploy.FORM, cloud_deploy.recognises, cloud_deploy.translate),
    Foreign(monitoring.FORM, monitoring.recognises, monitoring.translate),
)


class _Versioned(Struct, frozen=True, gc=False):
    specversion: Raw | UnsetType = UNSET


_decode_versioned = json.Decoder(_Versioned).decode


def read_message(
    message: Delivery,
    routing: Routing,
    received_us: int,
    limits: DecodeLimits = DEFAULT_LIMITS,
    facts: Facts = NO_FACTS,
) -> Signal | Unheard:
    """Read what a message says: a signal, or that it says nothing that is governed.

    `received_us` is when this service got it, in microseconds since the epoch; `facts` are what is known of the message
    besides. Raises SignalRejectedError, whatever the bytes and attributes.
    """
    # Nearly every message is a signal of ours and has no attributes: then one look tells.
    if (message.attributes or monitoring.MARK in message.payload) and (form := _foreign(message)) is not None:
        said = form.translate(message, limits)
        return said if isinstance(said, Unheard) else finish(said, facts, routing, received_us, limits)
    return decode_message(message.payload, message.attributes, received_us, limits)


def form_of(message: Delivery) -> str:
    """The name of the form that a message is read in."""
    form = _foreign(message)
    if form is not None:
        return form.name
    if cloudevents_binary.is_binary(_content_type(message.attributes), message.attributes):
        return CLOUDEVENTS_BINARY
    return CLOUDEVENTS if _is_cloudevent(message.payload, message.attributes) else NATIVE


def decode_message(
    data: bytes, attributes: Attributes, received_us: int, limits: DecodeLimits = DEFAULT_LIMITS
) -> Signal:
    """Read the one signal of a message that says itself whose it is: native, or a CloudEvent.

    `received_us` is when this service got it, in microseconds since the epoch. Raises SignalRejectedError, whatever
    the bytes.
    """
    if attributes and cloudevents_binary.is_binary(content_type := _content_type(attributes), attributes):
        event = cloudevents_binary.assemble(attributes.items(), content_type, data, limits)
        return decode_cloudevent(event, received_us, limits)
    if _is_cloudevent(data, attributes):
        return decode_cloudevent(data, received_us, limits)
    return decode_native(data, received_us, limits)


def _foreign(message: Delivery) -> Foreign | None:
    for form in FOREIGN:
        if form.recognises(message):
            return form
    return None


def _content_type(attributes: Attributes) -> str:
    return attributes.get("content-type") or attributes.get("Content-Type") or ""


def _is_cloudevent(data: bytes, attributes: Attributes) -> bool:
    if attributes and _content_type(attributes).lower().startswith(cloudevents.MEDIA_TYPE):
        return True
    # The word may also stand in a native signal's extra: only at the top level does it make a CloudEvent.
    if data.find(b'"specversion"') < 0:
        return False
    try:
        return _decode_versioned(data).specversion is not UNSET
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False
