"""What can still be told of a signal that was refused, so that its sender finds it again."""

from typing import Any, Final

from msgspec import Struct

from ingest.decode.cloudevents import tenant_of_source
from ingest.decode.strict import JsonObject, has_unsafe_characters, parse_lenient
from ingest.signals import is_tenant

GLIMPSE_BYTES_MAX: Final = 131_072  # what is far too large was refused unread, and is not read now


class Glimpse(Struct, frozen=True):
    """The id and the tenant as the sender gave them, each None where unreadable or not fit to be shown."""

    id: str | None = None
    tenant: str | None = None


def glimpse(payload: bytes) -> Glimpse:
    """Look at the top level of a refused signal, native or CloudEvent. Never raises."""
    if len(payload) > GLIMPSE_BYTES_MAX:
        return Glimpse()
    try:
        document = parse_lenient(payload)
    except (ValueError, RecursionError):
        return Glimpse()
    if not isinstance(document, JsonObject):
        return Glimpse()
    fields = dict(document)
    source = fields.get("source")
    named = tenant_of_source(source) if isinstance(source, str) else None
    return Glimpse(_presentable_id(fields.get("id")), _tenant(fields.get("tenant", named)))


def _presentable_id(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 256 and not has_unsafe_characters(value) else None


def _tenant(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= 128 and is_tenant(value) else None
