"""What the fast decoder lets pass or cannot name: a second, slower look at a payload.

Signals are I-JSON (RFC 7493): UTF-8, no lone surrogates, finite numbers, each name once in its object. The fast decoder
takes the last of two equal names, and where it refuses the other flaws it gives a byte offset instead of a field. So a
payload comes here when it was refused, or when a name may stand in it twice; not in the usual course of things.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from ingest.errors import Reason, SignalRejectedError

FIELD_LENGTH_MAX: Final = 200

# Strings of JSON that is ASCII without these bytes hold no unsafe character: lower ones must be escaped. As integers,
# because `in` finds an integer in bytes four times as fast as bytes in bytes.
BACKSLASH: Final = 0x5C
DELETE: Final = 0x7F

# Control characters forge lines in logs, and the bidirectional ones reorder what a reader sees of them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class _RepeatedNameError(ValueError):
    pass


def _require_unique_names(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise _RepeatedNameError


class JsonObject(list[tuple[str, Any]]):
    """An object as its pairs, in order, repeated names and all."""


_lenient = json.JSONDecoder(object_pairs_hook=JsonObject, parse_int=lambda _digits: 0)
# How deep a value lies for which the parsers gave up, at the least: they have some 1,000 calls, less those before them.
_DEEP: Final = 256
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}:]', re.DOTALL)

_attentive = json.JSONDecoder(object_pairs_hook=_require_unique_names)


def parse_lenient(payload: bytes) -> Any:
    """Read JSON as the standard library does: repeated names, NaN and lone surrogates are let in.

    Objects come as JsonObject, and every integer as 0: none is looked at here, and one may have thousands of digits.
    Raises ValueError (which includes UnicodeDecodeError) and RecursionError.
    """
    return _lenient.decode(payload.decode())


def check_names(payload: bytes) -> None:
    """Refuse a payload in which an object has a name twice. Raises SignalRejectedError."""
    try:
        _attentive.decode(payload.decode())
    except (ValueError, RecursionError):
        if (flaw := find_flaw(payload)) is not None:
            raise flaw from None


def find_flaw(payload: bytes) -> SignalRejectedError | None:
    """The first thing in which a payload is not I-JSON, or None. Never raises."""
    try:
        document = parse_lenient(payload)
    except UnicodeDecodeError as error:
        return SignalRejectedError(Reason.BAD_UTF8, "", f"not UTF-8 at byte {error.start}")
    except ValueError as error:
        return SignalRejectedError(Reason.BAD_JSON, "", f"not JSON: {error}")
    except RecursionError:
        return too_deep(payload)
    return next(_flaws(document), None)


def too_deep(payload: bytes) -> SignalRejectedError:
    """The rejection of a payload that a parser gave up on. It names the outermost field in which the depth is."""
    field, text, depth = b"", b"", 0
    for token in _TOKEN.finditer(payload):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth > _DEEP:
                    break
            case b"]" | b"}":
                depth -= 1
            case b":" if depth == 1:
                field = text[1:-1]
            case found:
                text = found
    else:
        field = b""
    return SignalRejectedError(Reason.TOO_DEEP, field_path(field.decode(errors="replace")), "nested too deeply")


def _flaws(document: Any) -> Iterator[SignalRejectedError]:
    open_values: list[tuple[str, Any]] = [("", document)]
    while open_values:
        path, value = open_values.pop()
        if isinstance(value, JsonObject):
            names: set[str] = set()
            for name, inner in value:
                inner_path = f"{path}.{name}" if path else name
                if name in names:
                    yield SignalRejectedError(Reason.DUPLICATE_FIELD, field_path(inner_path), "given twice")
                if _has_lone_surrogate(name):
                    yield _lone_surrogate(path)
                names.add(name)
                open_values.append((inner_path, inner))
        elif isinstance(value, list):
            open_values.extend((path, inner) for inner in value)
        elif isinstance(value, str):
            if _has_lone_surrogate(value):
                yield _lone_surrogate(path)
        elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
            yield SignalRejectedError(Reason.NOT_FINITE, field_path(path), "expected a finite number")


def _lone_surrogate(path: str) -> SignalRejectedError:
    return SignalRejectedError(Reason.LONE_SURROGATE, field_path(path), "half of a surrogate pair is not a character")


def _has_lone_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def has_unsafe_characters(text: str) -> bool:
    """Whether a text holds control characters, line separators or overrides of its direction."""
    return _UNSAFE.search(text) is not None


def field_path(path: str) -> str:
    """A path as it may stand in logs and answers: bounded, printable. Senders choose the names of unknown fields."""
    return _UNSAFE.sub("?", path.encode(errors="replace").decode())[:FIELD_LENGTH_MAX]
