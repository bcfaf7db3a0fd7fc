"""An HTTP body to its signals: one outcome for each, in order, so that good ones never suffer for their neighbours.

JSON arrays and lines (https://jsonlines.org, https://github.com/ndjson/ndjson-spec) are split into elements, and each
is decoded by itself, from its own exact bytes. A body is refused as a whole only where it cannot be split: then
nothing in it was handled.
"""

import re
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from typing import Final

from msgspec import DecodeError, Raw, Struct, json

from ingest.decode import cloudevents
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.glimpse import glimpse
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.native import decode_native
from ingest.decode.strict import find_flaw
from ingest.errors import BodyRejectedError, Reason, SignalRejectedError
from ingest.signals import Signal

Decoder = Callable[[bytes, int, DecodeLimits], Signal]

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_WHITESPACE: Final = b" \t\r\n"
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},"]', re.DOTALL)  # a lone quote begins a string without an end
_decode_list = json.Decoder(list[Raw]).decode
_decode_value = json.Decoder(Raw).decode


class Rejected(Struct, frozen=True):
    """What takes a signal's place in the results when it cannot be read.

    `index` counts the body's signals from 0; `id` and `tenant` are None where they could not be read either.
    """

    index: int
    id: str | None
    tenant: str | None
    reason: str
    field: str
    message: str


class MediaType(Struct, frozen=True):
    """How a body of one media type is split, and how each part is decoded."""

    split: Callable[[bytes, DecodeLimits], list[bytes]]
    decode: Decoder


def read_body(
    content_type: str, body: bytes, received_us: int, limits: DecodeLimits = DEFAULT_LIMITS
) -> list[Signal | Rejected]:
    """Read the signals of a body: one entry for each, in order.

    `content_type` is the header's value, `received_us` when this service got the body, in microseconds since the
    epoch. Raises BodyRejectedError where the body as a whole cannot be read, and nothing else.
    """
    media_type = _media_type(content_type)
    if len(body) > limits.body_bytes_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"{len(body)} bytes; a body may have {limits.body_bytes_max}")
    text = body.removeprefix(_BYTE_ORDER_MARK).strip(_WHITESPACE)
    if not text:
        raise BodyRejectedError(Reason.EMPTY_BODY, 400, "the body is empty")
    parts = media_type.split(text, limits)
    decode = media_type.decode
    entries: list[Signal | Rejected] = []
    for part in parts:
        try:
            entries.append(decode(part, received_us, limits))
        except SignalRejectedError as error:
            seen = glimpse(part)
            entries.append(Rejected(len(entries), seen.id, seen.tenant, error.reason, error.field, error.message))
    return entries


def _media_type(content_type: str) -> MediaType:
    name, *parameters = (part.strip() for part in content_type.split(";"))
    media_type = MEDIA_TYPES.get(name.lower())
    if media_type is None:
        message = f"expected one of {', '.join(MEDIA_TYPES)}"
        raise BodyRejectedError(Reason.UNSUPPORTED_MEDIA_TYPE, 415, message)
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise BodyRejectedError(Reason.UNSUPPORTED_MEDIA_TYPE, 415, "expected charset utf-8: JSON has no other")
    return media_type


def _split_json(text: bytes, limits: DecodeLimits) -> list[bytes]:
    """An array's elements, the lines that some clients send under this name, or one value."""
    if text.startswith(b"["):
        return _split_array(text, limits)
    first_line, newline, _ = text.partition(b"\n")
    if newline and _is_json(first_line):
        return _split_lines(text, limits)
    return _take_whole(text, limits)


def _take_whole(text: bytes, limits: DecodeLimits) -> list[bytes]:
    """One value. What makes it no JSON at all is the body's fault; what has a field is left to the decoder."""
    if len(text) > limits.signal_bytes_max:
        return [text]  # the decoder refuses it unread
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise BodyRejectedError(Reason.BAD_UTF8, 400, f"not UTF-8 at byte {error.start}") from error
    if not _is_json(text):
        flaw = find_flaw(text)
        if flaw is None or flaw.reason == Reason.BAD_JSON:
            raise _bad_json(flaw.message if flaw else "not JSON")
    return [text]


def _split_lines(text: bytes, limits: DecodeLimits) -> list[bytes]:
    """One value a line; blank lines are skipped, and CRLF ends a line as LF does."""
    if text.count(b"\n") > limits.body_tokens_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"at most {limits.body_tokens_max} lines in one body")
    stripped = (line.strip(_WHITESPACE) for line in BytesIO(text))
    lines = list(islice(filter(None, stripped), limits.batch_max + 1))
    if len(lines) > limits.batch_max:
        raise _batch_too_large(limits)
    return lines


def _split_array(text: bytes, limits: DecodeLimits) -> list[bytes]:
    """The elements of a JSON array, each as the bytes that it has there."""
    if not text.startswith(b"["):
        raise _bad_json("expected a JSON array")
    if text.count(b",") > limits.body_tokens_max:
        raise _too_many_tokens(limits)
    try:
        elements = [bytes(element) for element in _decode_list(text)]
    except (DecodeError, RecursionError):
        elements = _split_broken_array(text, limits)
    if len(elements) > limits.batch_max:
        raise _batch_too_large(limits)
    return elements


def _split_broken_array(text: bytes, limits: DecodeLimits) -> list[bytes]:
    """Split an array of which some element is no JSON (a NaN, a missing quote) or is nested out of all bounds.

    Strings and brackets are enough to see where elements end, so the others can still be read.
    """
    elements: list[bytes] = []
    start, depth = 1, 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        if count > limits.body_tokens_max:
            raise _too_many_tokens(limits)
        at = token.start()
        match text[at : token.end()]:
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
            case b'"':
                raise _bad_json("not JSON: a string has no end")
            case b"," if depth == 1:
                elements.append(text[start:at].strip(_WHITESPACE))
                start = at + 1
        if depth == 0:
            if at + 1 < len(text):
                raise _bad_json(f"not JSON: more after the array's end at byte {at}")
            return [*elements, text[start:at].strip(_WHITESPACE)]
        if len(elements) > limits.batch_max:
            raise _batch_too_large(limits)
    raise _bad_json("not JSON: the array has no end")


def _is_json(text: bytes) -> bool:
    try:
        _decode_value(text)
    except (DecodeError, RecursionError):
        return False
    return True


def _bad_json(message: str) -> BodyRejectedError:
    return BodyRejectedError(Reason.BAD_JSON, 400, message)


def _batch_too_large(limits: DecodeLimits) -> BodyRejectedError:
    return BodyRejectedError(Reason.BATCH_TOO_LARGE, 413, f"at most {limits.batch_max} signals in one body")


def _too_many_tokens(limits: DecodeLimits) -> BodyRejectedError:
    return BodyRejectedError(Reason.TOO_LARGE, 413, f"at most {limits.body_tokens_max} JSON values in one body")


# A further wire form is a row here: how its bodies are split, and what reads each part.
MEDIA_TYPES: Final[dict[str, MediaType]] = {
    "application/json": MediaType(_split_json, decode_native),
    "application/x-ndjson": MediaType(_split_lines, decode_native),
    "application/jsonl": MediaType(_split_lines, decode_native),
    cloudevents.MEDIA_TYPE: MediaType(_take_whole, decode_cloudevent),
    cloudevents.BATCH_MEDIA_TYPE: MediaType(_split_array, decode_cloudevent),
}
