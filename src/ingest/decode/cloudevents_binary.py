"""CloudEvents 1.0 in binary mode: the attributes beside the data, as HTTP headers or as attributes of Pub/Sub.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md (section 3.1) and
https://github.com/googleapis/google-cloudevents/blob/main/docs/spec/pubsub.md (section 3.1). The event is put together
as it would be in structured mode and read as such; those are also the bytes that its receipt commits to.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Raw, json

from ingest.decode.body import Rejected
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.glimpse import glimpse
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.rejection import too_large
from ingest.decode.strict import field_path, find_flaw
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import Signal

PREFIX: Final = "ce-"
VERSION_NAME: Final = "ce-specversion"
STRUCTURED: Final = "application/cloudevents"

# Section 3.1 of the specification itself; with `data` a sender could give the data twice.
_NAME = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
_NOT_ATTRIBUTES: Final = frozenset({"data", "data_base64"})
_encode = json.Encoder().encode


def is_binary(content_type: str, names: Iterable[str]) -> bool:
    """Whether a message with these headers, or attributes, is an event in binary mode."""
    return not content_type.lower().startswith(STRUCTURED) and VERSION_NAME in names


def read_event(
    headers: Iterable[tuple[str, str]],
    content_type: str,
    body: bytes,
    received_us: int,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Signal | Rejected:
    """Read the signal of an HTTP message from its headers (names in small letters) and its body. Never raises."""
    event = b""
    try:
        event = assemble([(name, _unescape(name, value)) for name, value in headers], content_type, body, limits)
        return decode_cloudevent(event, received_us, limits)
    except SignalRejectedError as error:
        seen = glimpse(event)
        return Rejected(0, seen.id, seen.tenant, error.reason, error.field, error.message)


def assemble(values: Iterable[tuple[str, str]], content_type: str, data: bytes, limits: DecodeLimits) -> bytes:
    """The event in structured mode. Values without the prefix are no attributes of the event and are left out.

    Raises SignalRejectedError.
    """
    if len(data) > limits.signal_bytes_max:
        raise too_large(len(data), limits.signal_bytes_max)
    event: dict[str, str | Raw] = {}
    for name, value in values:
        if not name.startswith(PREFIX):
            continue
        attribute = name.removeprefix(PREFIX)
        if not _NAME.fullmatch(attribute) or attribute in _NOT_ATTRIBUTES:
            message = "expected the name of an attribute: letters and digits"
            raise SignalRejectedError(Reason.BAD_FIELD, field_path(name), message)
        if attribute in event:
            raise SignalRejectedError(Reason.DUPLICATE_FIELD, field_path(name), "given twice")
        event[attribute] = value
    # The binding of Pub/Sub shows the attribute in its example and prescribes the header in its text.
    if content_type:
        event["datacontenttype"] = content_type
    if data:
        # Checked by itself: inside the event, `1, "tenant": "evil"` would be more than data.
        if (flaw := find_flaw(data)) is not None:
            raise SignalRejectedError(flaw.reason, f"data.{flaw.field}" if flaw.field else "data", flaw.message)
        event["data"] = Raw(data.strip(b" \t\r\n"))
    try:
        return _encode(event)
    except UnicodeEncodeError as error:
        raise SignalRejectedError(Reason.LONE_SURROGATE, "", "half of a surrogate pair is not a character") from error


def _unescape(name: str, value: str) -> str:
    """Section 3.1.3.2: what is not printable ASCII travels as the percent-encoding of its UTF-8."""
    try:
        return unquote_to_bytes(value).decode() if name.startswith(PREFIX) else value
    except UnicodeDecodeError as error:
        raise SignalRejectedError(Reason.BAD_UTF8, field_path(name), "not UTF-8") from error
