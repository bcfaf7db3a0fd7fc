"""The fast decoder's errors, as rejections that name the field."""

import re
from collections.abc import Iterable
from typing import Any, Final, get_args

from msgspec import DecodeError, ValidationError, structs

from ingest.decode.strict import field_path, find_flaw, too_deep
from ingest.errors import BodyRejectedError, Reason, SignalRejectedError
from ingest.signals import CURRENCY_PATTERN, CURRENCY_RULE, KINDS, NAME_PATTERN, NAME_RULE, TIME_RULE

MESSAGE_LENGTH_MAX: Final = 300

_AT = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_OF_STRUCT = re.compile(r"([a-z_]+): (.*)", re.DOTALL)

DECODE_ERRORS: Final = (DecodeError, UnicodeDecodeError, RecursionError)


def rejection(error: Exception, payload: bytes, prefix: str = "", kind: str = "") -> SignalRejectedError:
    """Say what one of DECODE_ERRORS means to the sender of `payload`.

    `prefix` is the path of what was being decoded, `kind` the signal's kind when that was its data.
    """
    match error:
        case ValidationError():
            return _of_validation(str(error), prefix, kind)
        case RecursionError():
            return SignalRejectedError(Reason.TOO_DEEP, prefix, "nested too deeply") if prefix else too_deep(payload)
        case _:
            flaw = find_flaw(payload)
            return flaw or SignalRejectedError(Reason.BAD_JSON, prefix, f"not JSON: {error}")


def body_rejection(error: Exception, body: bytes, slow_bytes_max: int) -> BodyRejectedError:
    """The same for a body as a whole. One over `slow_bytes_max` is not looked at a second time for what is wrong."""
    if len(body) > slow_bytes_max and not isinstance(error, ValidationError | RecursionError):
        return BodyRejectedError(Reason.BAD_JSON, 400, f"not JSON: {error}"[:MESSAGE_LENGTH_MAX])
    found = rejection(error, body)
    message = f"{found.field}: {found.message}" if found.field else found.message
    return BodyRejectedError(found.reason, 400, message, found.field)


def too_large(size_bytes: int, bytes_max: int, field: str = "") -> SignalRejectedError:
    """The rejection of what takes too many bytes."""
    return SignalRejectedError(Reason.TOO_LARGE, field, f"{size_bytes} bytes; at most {bytes_max} are taken")


def unknown_kind(field: str, given: str, known: Iterable[str]) -> SignalRejectedError:
    """The rejection of a kind that no governor handles."""
    return _reject(Reason.UNKNOWN_KIND, field, f"expected one of {', '.join(known)}; got {given[:80]}")


def _of_validation(text: str, prefix: str, kind: str) -> SignalRejectedError:
    at = _AT.fullmatch(text)
    what, path = (at["what"], at["path"] or "") if at else (text, "")
    path = _join(prefix, path.replace("[...]", "").lstrip("."))
    if missing := _MISSING.fullmatch(what):
        return _reject(Reason.MISSING_FIELD, _join(path, missing[1]), "required")
    if unknown := _UNKNOWN.fullmatch(what):
        return _reject(Reason.UNKNOWN_FIELD, _join(path, unknown[1]), "unknown; a sender's own fields go into extra")
    if what == "Number out of range":
        return _reject(Reason.NOT_FINITE, path, "expected a finite number")
    if of_struct := _OF_STRUCT.fullmatch(what):
        return _reject(Reason.BAD_FIELD, _join(path, of_struct[1]), of_struct[2])
    return _reject(Reason.BAD_FIELD, path, _readable(what, path, kind))


def _readable(what: str, path: str, kind: str) -> str:
    if NAME_PATTERN in _unescaped(what):
        return NAME_RULE
    if CURRENCY_PATTERN in _unescaped(what):
        return CURRENCY_RULE
    if "datetime" in what:
        return TIME_RULE
    if what.startswith("Invalid enum value") and (values := _literal_values(kind, path.rpartition(".")[2])):
        return f"expected one of {', '.join(values)}"
    return what


def _unescaped(what: str) -> str:
    return what.replace("\\\\", "\\")


def _literal_values(kind: str, name: str) -> tuple[Any, ...]:
    data_type = KINDS.get(kind)
    types = {field.name: field.type for field in structs.fields(data_type)} if data_type else {}
    return get_args(types.get(name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _reject(reason: Reason, field: str, message: str) -> SignalRejectedError:
    return SignalRejectedError(reason, field_path(field), field_path(message[:MESSAGE_LENGTH_MAX]))
