"""CloudEvents 1.0 in its JSON format, structured mode (`application/cloudevents+json`).

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. How an event becomes a
signal: `type` is `gov.<kind>.v1`, `time` (optional in CloudEvents, required here) is when the fact was observed, `id`,
`source` and `subject` are themselves. The tenant is the extension attribute `tenant`, or the first segment of a source
`//gov/<tenant>/…`; an event that has both, and they differ, is refused. Other extension attributes are let pass.
The data must be JSON: in `data`, or in `data_base64`, whose content then has paths like `data_base64.depth`.
"""

import re
from base64 import b64decode
from typing import Final, TypeVar

from msgspec import Raw, Struct, json

from ingest.decode.data import READERS, check_past, check_texts, read_observed
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.rejection import DECODE_ERRORS, rejection, too_large, unknown_kind
from ingest.decode.strict import find_flaw
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import (
    DEFAULT_SUBJECT,
    NAME_RULE,
    TENANT_RULE,
    AwareTime,
    CheckedName,
    Signal,
    Text,
    is_name,
    is_tenant,
)

T = TypeVar("T")

MEDIA_TYPE: Final = "application/cloudevents+json"
BATCH_MEDIA_TYPE: Final = "application/cloudevents-batch+json"

_TYPE = re.compile(r"gov\.(.+)\.v1", re.DOTALL)
_SOURCE_OF_TENANT = re.compile(r"//gov/([^/?#]+)")
_JSON_CONTENT = re.compile(r"[^/;]+/(?:[^/;]+\+)?json", re.IGNORECASE)


class _CloudEvent(Struct, frozen=True, gc=False):
    """The attributes that we read, each null or absent where unset; unknown ones are extensions and are skipped."""

    specversion: str | None = None
    id: Text | None = None
    source: Text | None = None
    type: str | None = None
    time: AwareTime | None = None
    subject: CheckedName | None = None
    datacontenttype: str | None = None
    tenant: CheckedName | None = None
    data: Raw = Raw()
    data_base64: str | None = None


_decode_event = json.Decoder(_CloudEvent).decode


def decode_cloudevent(payload: bytes, received_us: int, limits: DecodeLimits = DEFAULT_LIMITS) -> Signal:
    """Read one signal from a CloudEvent in structured JSON; the signal's payload is the event's exact bytes.

    `received_us` is when this service got it, in microseconds since the epoch. Raises SignalRejectedError, whatever
    the bytes.
    """
    if len(payload) > limits.signal_bytes_max:
        raise too_large(len(payload), limits.signal_bytes_max)
    # Extension attributes are skipped unread, so only this look finds what is wrong in them.
    if (flaw := find_flaw(payload)) is not None:
        raise flaw
    try:
        event = _decode_event(payload)
    except DECODE_ERRORS as error:
        raise rejection(error, payload) from error

    version = _required(event.specversion, "specversion")
    if version != "1.0":
        raise SignalRejectedError(Reason.BAD_FIELD, "specversion", 'expected "1.0"')
    signal_id = _required(event.id, "id")
    source = _required(event.source, "source")
    kind = _read_kind(_required(event.type, "type"))
    tenant = _read_tenant(event.tenant, source)
    subject = event.subject or DEFAULT_SUBJECT
    if not is_name(subject):
        raise SignalRejectedError(Reason.BAD_FIELD, "subject", NAME_RULE)
    latest_us = received_us + limits.future_us_max
    observed_us = read_observed(_required(event.time, "time"), latest_us, received_us, "time")

    path, content = _read_content(event)
    reader = READERS[kind]
    try:
        data = reader.decode(content)
    except DECODE_ERRORS as error:
        raise rejection(error, content, path, kind) from error
    if reader.past_field is not None:
        check_past(data, reader.past_field, latest_us, received_us, path)
    check_texts({"id": signal_id, "source": source}, data, path)
    return Signal(signal_id, source, tenant, kind, subject, observed_us, received_us, data, payload)


def tenant_of_source(source: str) -> str | None:
    """The tenant that a source names: `//gov/acme/billing` -> "acme"."""
    match = _SOURCE_OF_TENANT.match(source)
    return match[1] if match else None


def _required(value: T | None, field: str) -> T:
    if value is None:
        raise SignalRejectedError(Reason.MISSING_FIELD, field, "required")
    return value


def _read_kind(event_type: str) -> str:
    match = _TYPE.fullmatch(event_type)
    if match is None or match[1] not in READERS:
        raise unknown_kind("type", event_type, [f"gov.{kind}.v1" for kind in READERS])
    return match[1]


def _read_tenant(attribute: str | None, source: str) -> str:
    named = tenant_of_source(source)
    tenant = attribute or named
    if tenant is None:
        message = "required: as an extension attribute, or in a source like //gov/acme"
        raise SignalRejectedError(Reason.MISSING_FIELD, "tenant", message)
    if named is not None and tenant != named:
        raise SignalRejectedError(Reason.BAD_FIELD, "tenant", "differs from the tenant that the source names")
    if not is_tenant(tenant):
        raise SignalRejectedError(Reason.BAD_FIELD, "source" if attribute is None else "tenant", TENANT_RULE)
    return tenant


def _read_content(event: _CloudEvent) -> tuple[str, bytes]:
    """The path and the bytes of the event's data, which are JSON."""
    if event.data and event.data_base64 is not None:
        raise SignalRejectedError(Reason.BAD_FIELD, "data_base64", "data and data_base64 exclude each other")
    content_type = event.datacontenttype
    if content_type is not None and not _JSON_CONTENT.fullmatch(content_type.partition(";")[0].strip()):
        message = "expected a JSON media type: the data of every kind is a JSON object"
        raise SignalRejectedError(Reason.BAD_FIELD, "datacontenttype", message)
    if event.data:
        return "data", bytes(event.data)
    if event.data_base64 is None:
        raise SignalRejectedError(Reason.MISSING_FIELD, "data", "required")
    try:
        content = b64decode(event.data_base64, validate=True)
    except ValueError as error:
        raise SignalRejectedError(Reason.BAD_FIELD, "data_base64", f"not base64: {error}") from error
    if (flaw := find_flaw(content)) is not None:
        field = f"data_base64.{flaw.field}" if flaw.field else "data_base64"
        raise SignalRejectedError(flaw.reason, field, flaw.message)
    return "data_base64", content
