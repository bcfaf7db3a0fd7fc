"""Messages of other systems as signals: what all such formats have in common. Pure.

A format's decoder only translates: into a kind's data, and into facts by which rules tell whose it is. What comes of it
is written down in the native form, with the original beside it in `extra`. So the ledger keeps what the sender said,
word for word, while anybody can take the decision again without knowing the format, or the rules, of that day.

Other systems cannot be told to write shorter names. What is meant for people (an alert's name, its labels) is
therefore made to fit where need be, unlike in the native form; what is decided upon never is.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct, json

from ingest.decode.limits import DecodeLimits
from ingest.decode.native import decode_native
from ingest.decode.rejection import too_large
from ingest.decode.strict import find_flaw, has_unsafe_characters
from ingest.decode.tenants import NAME_LENGTH_MAX, Facts, Routing
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import DEFAULT_SUBJECT, INTEGER_MAX, LABELS_MAX, Signal, format_time, is_name
from ingest.source import Delivery

TEXT_LENGTH_MAX: Final = 256
LABEL_NAME_LENGTH_MAX: Final = 128
LABEL_VALUE_LENGTH_MAX: Final = 1024
NO_SEVERITY: Final = "none"
# The original as a JSON string inside JSON: at worst six bytes for one, and something for the rest.
_GROWTH: Final = 8
_ENVELOPE_BYTES_MAX: Final = 65_536

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._:/@+-]+")
_encode = json.Encoder().encode


class Unheard(Struct, frozen=True):
    """A message that was understood and tells of nothing that is governed: it is acknowledged, and that is all."""

    form: str
    why: str


class Translation(Struct, frozen=True):
    """A message in our words. `data` is the kind's, in its native wire form; `fields` maps paths of the native form to
    the sender's, for rejections; `original` is what the signal keeps of the message.
    """

    form: str
    kind: str
    id: str
    source: str
    subject: str
    observed_us: int
    data: Mapping[str, Any]
    facts: Facts
    fields: Mapping[str, str]
    original: Mapping[str, Any]


def finish(said: Translation, facts: Facts, routing: Routing, received_us: int, limits: DecodeLimits) -> Signal:
    """The signal that a translation makes, once a rule has said whose it is.

    `facts` are those that whoever received it knows. Raises SignalRejectedError, the field by the sender's own name.
    """
    route = routing.route({"format": said.form, **facts, **said.facts})
    payload = _encode(
        {
            "id": said.id,
            "source": said.source,
            "tenant": route.tenant,
            "kind": said.kind,
            "subject": route.subject or said.subject,
            "observed_at": format_time(said.observed_us),
            "data": said.data,
            "extra": {"format": said.form, "routing_rule": route.rule, **said.original},
        }
    )
    room = _GROWTH * limits.signal_bytes_max + _ENVELOPE_BYTES_MAX
    kept = DecodeLimits(signal_bytes_max=room, extra_bytes_max=room, future_us_max=limits.future_us_max)
    try:
        return decode_native(payload, received_us, kept)
    except SignalRejectedError as error:
        raise SignalRejectedError(error.reason, said.fields.get(error.field, error.field), error.message) from error


def take_message(message: Delivery, limits: DecodeLimits) -> dict[str, Any]:
    """What a signal keeps of the Pub/Sub message that it came in. Raises SignalRejectedError for what cannot be kept:
    too large, no I-JSON, or without what makes it a fact (its id and the time of its publication).
    """
    try:
        size = len(message.payload) + sum(len(f"{name}{value}".encode()) for name, value in message.attributes.items())
    except UnicodeEncodeError:
        flaw = "half of a surrogate pair is not a character"
        raise SignalRejectedError(Reason.LONE_SURROGATE, "attributes", flaw) from None
    if size > limits.signal_bytes_max:
        raise too_large(size, limits.signal_bytes_max)
    if message.payload and (found := find_flaw(message.payload)) is not None:
        raise found
    if not message.message_id:
        raise SignalRejectedError(Reason.MISSING_FIELD, "messageId", "required")
    if message.publish_us <= 0:
        raise SignalRejectedError(Reason.MISSING_FIELD, "publishTime", "required")
    if message.publish_us > INTEGER_MAX:
        raise SignalRejectedError(Reason.BAD_FIELD, "publishTime", "expected a time before 2255-06-05")
    return {
        "message": {
            "attributes": dict(message.attributes),
            "data": message.payload.decode(),
            "messageId": message.message_id,
        }
    }


def attribute_facts(attributes: Mapping[str, str]) -> dict[str, str]:
    """A message's attributes as facts."""
    return prefixed("attribute", attributes)


def prefixed(prefix: str, values: Mapping[str, str] | None) -> dict[str, str]:
    """Named values as facts: `label.team`."""
    return {f"{prefix}.{name}": value for name, value in (values or {}).items()}


def present(**facts: str | None) -> dict[str, str]:
    """The facts that there are."""
    return {name: value for name, value in facts.items() if value}


def subject_of(*candidates: str | None) -> str:
    """The first that can be a subject, else the default one."""
    for one in candidates:
        if one and len(one) <= NAME_LENGTH_MAX and is_name(one):
            return one
    return DEFAULT_SUBJECT


def name_of(text: str | None, default: str) -> str:
    """A word of the sender's as a name, what cannot stand in one replaced: "No severity" -> "No-severity"."""
    name = _NOT_IN_NAMES.sub("-", text or "").lstrip("._:/@+-").rstrip("-")[:NAME_LENGTH_MAX]
    return name or default


def fingerprint_of(text: str) -> str:
    """What tells one alert from others: the sender's own id, or a digest of one that cannot be a name."""
    if len(text) <= NAME_LENGTH_MAX and is_name(text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def text_of(*candidates: str | None) -> str:
    """The first that says anything, made fit to be shown."""
    found = next((one for one in candidates if one), "unnamed")
    return _shown(found, TEXT_LENGTH_MAX)


def labels_of(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Labels as an alert may have them: the first by name where there are too many."""
    return dict(_fitting(sorted((labels or {}).items())))


def _fitting(labels: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    fitting = [
        (name, _shown(value, LABEL_VALUE_LENGTH_MAX))
        for name, value in labels
        if 0 < len(name) <= LABEL_NAME_LENGTH_MAX and not has_unsafe_characters(name)
    ]
    return fitting[:LABELS_MAX]


def _shown(text: str, length_max: int) -> str:
    clean = "".join("?" if has_unsafe_characters(character) else character for character in text[:length_max])
    return clean if len(text) <= length_max else clean[: length_max - 1] + "…"
