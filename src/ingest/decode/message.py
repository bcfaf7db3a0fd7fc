"""One Pub/Sub message to one signal: which of the known forms it has, and the decoder of that form."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, json

from ingest.decode import cloudevents
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.native import decode_native
from ingest.signals import Signal

Attributes = Mapping[str, str]
Decoder = Callable[[bytes, int, DecodeLimits], Signal]


class Form(Struct, frozen=True):
    """A wire form: how it is told from the others, and its decoder."""

    name: str
    recognises: Callable[[bytes, Attributes], bool]
    decode: Decoder


class _Versioned(Struct, frozen=True, gc=False):
    specversion: Raw | UnsetType = UNSET


_decode_versioned = json.Decoder(_Versioned).decode


def _is_cloudevent(data: bytes, attributes: Attributes) -> bool:
    content_type = attributes.get("content-type") or attributes.get("Content-Type")
    if content_type is not None and content_type.lower().startswith(cloudevents.MEDIA_TYPE):
        return True
    # The word may also stand in a native signal's extra: only at the top level does it make a CloudEvent.
    if data.find(b'"specversion"') < 0:
        return False
    try:
        return _decode_versioned(data).specversion is not UNSET
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _is_anything(_data: bytes, _attributes: Attributes) -> bool:
    return True


# The first form that recognises a message decodes it; native is what is left.
FORMS: Final[tuple[Form, ...]] = (
    Form("cloudevents", _is_cloudevent, decode_cloudevent),
    Form("native", _is_anything, decode_native),
)


def decode_message(
    data: bytes, attributes: Attributes, received_us: int, limits: DecodeLimits = DEFAULT_LIMITS
) -> Signal:
    """Read the one signal of a message from its data and its attributes.

    `received_us` is when this service got it, in microseconds since the epoch. Raises SignalRejectedError, whatever
    the bytes.
    """
    for form in FORMS:
        if form.recognises(data, attributes):
            return form.decode(data, received_us, limits)
    raise AssertionError("the last form recognises anything")
