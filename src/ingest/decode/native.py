"""The native form: one JSON object, its `data` typed by its `kind`. Field by field: docs/formats/signals.md.

This is the hottest function of the package, so msgspec decodes envelope and data in one pass and checks all that it
can, and what it cannot check is behind a test that costs next to nothing. Only what was refused is taken apart.
"""

from collections.abc import Callable
from typing import Any, Final, Union, cast

from msgspec import Raw, Struct, defstruct, json
from msgspec.structs import astuple

from ingest.decode.data import (
    READER_OF,
    READERS,
    DataReader,
    check_past,
    check_texts,
    decoder,
    read_observed,
    strings_in_optional,
)
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.rejection import DECODE_ERRORS, rejection, too_large, unknown_kind
from ingest.decode.strict import BACKSLASH, DELETE, check_names, find_flaw
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import (
    DEFAULT_SUBJECT,
    EPOCH,
    KIND_OF,
    KINDS,
    NAME_RULE,
    TENANT_RULE,
    AwareTime,
    CheckedName,
    EpochMicros,
    Micros,
    Signal,
    SignalData,
    Text,
    format_micros,
    format_time,
    is_name,
    is_tenant,
)


class _Envelope(Struct, frozen=True, gc=False, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """All but `data`, in the order in which senders usually write it; each kind adds its own."""

    id: Text
    source: Text
    tenant: CheckedName
    subject: CheckedName | None = None
    observed_at: AwareTime
    data: Any
    extra: Raw = Raw()


class _Untyped(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    id: Text
    source: Text
    tenant: CheckedName
    kind: str
    observed_at: AwareTime
    data: Raw
    subject: CheckedName | None = None
    extra: Raw = Raw()


_ENVELOPES: Final = tuple(
    defstruct(f"_{data_type.__name__}Envelope", [("data", data_type)], bases=(_Envelope,), tag=kind, kw_only=True)
    for kind, data_type in KINDS.items()
)
_decode_envelope: Final = cast("Callable[[bytes], _Envelope]", decoder(Union[_ENVELOPES]))  # noqa: UP007 - of a tuple
_decode_untyped = json.Decoder(_Untyped).decode
_decode_extra = json.Decoder(dict[str, Any] | None).decode

# The names of the six required fields, and the values of all of these but data.
_ENVELOPE_STRINGS: Final = 11
_SUBJECT_STRINGS: Final = 2

# The quotes of each kind's strings with a subject and nothing optional: in JSON without a backslash, two for each.
_QUOTES_MIN: Final = {
    data_type: 2 * (_ENVELOPE_STRINGS + _SUBJECT_STRINGS + reader.strings) for data_type, reader in READER_OF.items()
}


def decode_native(payload: bytes, received_us: int, limits: DecodeLimits = DEFAULT_LIMITS) -> Signal:
    """Read one signal in the native form.

    `received_us` is when this service got it, in microseconds since the epoch. Raises SignalRejectedError, whatever
    the bytes.
    """
    if len(payload) > limits.signal_bytes_max:
        raise too_large(len(payload), limits.signal_bytes_max)
    try:
        envelope = _decode_envelope(payload)
    except DECODE_ERRORS as error:
        raise _explain(error, payload) from error

    # In one go: each kind has its own class, and the interpreter remembers where an attribute is for one class only.
    signal_id, source, tenant, subject, observed_at, data, _ = astuple(envelope)
    reader = READER_OF[type(data)]
    if not is_tenant(tenant):
        raise SignalRejectedError(Reason.BAD_FIELD, "tenant", TENANT_RULE)
    latest_us = received_us + limits.future_us_max
    since = observed_at - EPOCH  # as in to_epoch_micros, whose call would cost as much again
    observed_us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not 0 <= observed_us <= latest_us:
        observed_us = read_observed(observed_at, latest_us, received_us, "observed_at")
    if reader.past_field is not None:
        check_past(data, reader.past_field, latest_us, received_us, "data")
    if subject is not None and not is_name(subject):
        raise SignalRejectedError(Reason.BAD_FIELD, "subject", NAME_RULE)

    # No signal with a subject has fewer quotes than those of the strings it must have. With no more than these it can
    # hold neither a name twice nor anything optional, and in plain ASCII no character that its texts may not hold.
    quotes = payload.count(b'"')
    extra = None
    if (
        quotes != _QUOTES_MIN[type(data)]
        or subject is None
        or BACKSLASH in payload
        or DELETE in payload
        or not payload.isascii()
    ):
        extra = _look_closer(envelope, reader, quotes, payload, limits)
    return Signal(
        signal_id,
        source,
        tenant,
        reader.kind,
        subject or DEFAULT_SUBJECT,
        observed_us,
        received_us,
        data,
        payload,
        extra,
    )


def _look_closer(
    envelope: _Envelope, reader: DataReader, quotes: int, payload: bytes, limits: DecodeLimits
) -> dict[str, Any] | None:
    """Check the names and the texts of a signal that is not of the plainest sort; its `extra`."""
    # Names and values that were decoded, each of which stands in the payload as a string.
    strings = _ENVELOPE_STRINGS + reader.strings + strings_in_optional(envelope.data, reader.optional)
    if envelope.subject is not None:
        strings += _SUBJECT_STRINGS
    extra = None
    if envelope.extra:
        extra, extra_strings = _read_extra(envelope.extra, limits)
        strings += extra_strings

    escaped = BACKSLASH in payload
    if escaped or DELETE in payload or not payload.isascii():
        check_texts({"id": envelope.id, "source": envelope.source}, envelope.data, "data")
        quotes -= payload.count(b'\\"')
    # Of a name given twice msgspec takes the last, and readers would differ on what the signal says. A repeated name
    # adds a string to those known, which shows in the quotes, unless escaped backslashes hide what a quote is. Another
    # count need not mean harm (an optional field may be null), so then the slow reader looks.
    if quotes != 2 * strings or (escaped and b"\\\\" in payload):
        check_names(payload)
    return extra


def _explain(error: Exception, payload: bytes) -> SignalRejectedError:
    """Say what is wrong with a payload that could not be decoded: first of all the envelope, then its data."""
    try:
        envelope = _decode_untyped(payload)
    except DECODE_ERRORS as of_envelope:
        return rejection(of_envelope, payload)
    reader = READERS.get(envelope.kind)
    if reader is None:
        return unknown_kind("kind", envelope.kind, READERS)
    try:
        reader.decode(envelope.data)
    except DECODE_ERRORS as of_data:
        return rejection(of_data, payload, "data", envelope.kind)
    # The last of two equal names would do, and the first does not.
    return find_flaw(payload) or rejection(error, payload)


def _read_extra(raw: Raw, limits: DecodeLimits) -> tuple[dict[str, Any] | None, int]:
    """Read the sender's own fields, and count the strings that they take on the wire."""
    if memoryview(raw).nbytes > limits.extra_bytes_max:
        raise too_large(memoryview(raw).nbytes, limits.extra_bytes_max, "extra")
    try:
        extra = _decode_extra(raw)
    except DECODE_ERRORS as error:
        raise rejection(error, bytes(raw), "extra") from error
    return extra, 1 + _strings_in(extra, limits.extra_depth_max)


def _strings_in(value: Any, depth_left: int) -> int:
    match value:
        case str():
            return 1
        case dict() | list() if depth_left == 0:
            raise SignalRejectedError(Reason.TOO_DEEP, "extra", "nested too deeply")
        case dict():
            return len(value) + sum(_strings_in(inner, depth_left - 1) for inner in value.values())
        case list():
            return sum(_strings_in(inner, depth_left - 1) for inner in value)
        case _:
            return 0


def encode_native(
    data: SignalData,
    *,
    signal_id: str,
    source: str,
    tenant: str,
    observed_us: int,
    subject: str = DEFAULT_SUBJECT,
    extra: dict[str, Any] | None = None,
) -> bytes:
    """Write one signal in the native form: what decode_native reads back as the same data.

    Checks nothing; a value out of bounds is refused where it is decoded.
    """
    fields = {
        "id": signal_id,
        "source": source,
        "tenant": tenant,
        "kind": KIND_OF[type(data)],
        "subject": subject,
        "observed_at": format_time(observed_us),
        "data": {name: value for name in data.__struct_fields__ if (value := getattr(data, name)) is not None},
    }
    if extra is not None:
        fields["extra"] = extra
    return _encode(fields)


def _write_exactly(value: object) -> str:
    if isinstance(value, Micros):
        return format_micros(value)
    if isinstance(value, EpochMicros):
        return format_time(value)
    raise NotImplementedError


_encode = json.Encoder(enc_hook=_write_exactly).encode
