"""What `ingest explain` was given, taken apart into messages, and how each would be read. Pure: bytes in, words out.

People have messages in many wrappings: as Pub/Sub pushes them, as `gcloud pubsub subscriptions pull --format=json` and
`topics publish` have them, as dead letters, or as the bare data.
"""

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from ingest.decode.alertmanager import FORM as ALERTMANAGER
from ingest.decode.alertmanager import is_group, open_group
from ingest.decode.body import Rejected
from ingest.decode.foreign import Unheard
from ingest.decode.limits import DEFAULT_LIMITS
from ingest.decode.message import form_of, read_message
from ingest.decode.native import encode_native
from ingest.decode.push import read_push
from ingest.decode.tenants import Facts, Routing
from ingest.errors import BodyRejectedError, SignalRejectedError
from ingest.signals import Signal
from ingest.source import Delivery

MESSAGE_ID: Final = "explained"
_MESSAGE_KEYS: Final = frozenset({"messageId", "message_id", "publishTime", "publish_time"})
_LETTER_KEYS: Final = frozenset({"at_us", "attributes", "error", "payload", "reason", "tenant"})
_JSON_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Explained(Struct, frozen=True, omit_defaults=True):
    """How one message would be read: `outcome` is `signal`, `nothing` (understood, and nothing that is governed) or
    `rejected`. `rule` counts the rules of `ingest.routing` from 1; it is None where the message says itself whose it
    is. `assumed` is what the message lacked, and which would come with it from Pub/Sub.
    """

    form: str
    outcome: str
    tenant: str | None = None
    rule: int | None = None
    signal: dict[str, Any] | None = None
    why: str = ""
    reason: str = ""
    field: str = ""
    assumed: tuple[str, ...] = ()


class _Found(Struct, frozen=True):
    message: Delivery
    facts: Facts
    assumed: tuple[str, ...]


def explain(given: bytes, attributes: Mapping[str, str], routing: Routing, now_us: int) -> list[Explained]:
    """Each message in `given`; with `attributes` it is the data of one. Nothing for nothing but white space."""
    if attributes:
        return [_explain(_bare(given, attributes, now_us), routing, now_us)]
    return [one for document in _documents(given) for one in _explain_document(document, routing, now_us)]


def _documents(given: bytes) -> Iterator[bytes]:
    text = given.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        return
    try:
        if text.startswith(b"["):
            yield from (bytes(element) for element in msgspec.json.decode(text, type=list[Raw]))
        else:
            yield bytes(msgspec.json.decode(text, type=Raw))
    except _JSON_ERRORS:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # What is no JSON even in its first line is one document, whatever is wrong with it.
        yield from lines if _is_json(lines[0]) else [text]


def _explain_document(document: bytes, routing: Routing, now_us: int) -> Iterator[Explained]:
    if is_group(document):
        yield from _explain_group(document, routing, now_us)
        return
    try:
        found = _unwrap(document, now_us)
    except BodyRejectedError as error:
        yield Explained("pubsub", "rejected", why=error.message, reason=error.reason)
        return
    yield _explain(found, routing, now_us)


def _unwrap(document: bytes, now_us: int) -> _Found:
    try:
        fields = msgspec.json.decode(document, type=dict[str, Any])
    except _JSON_ERRORS:
        return _bare(document, {}, now_us)
    if isinstance(fields.get("message"), dict):
        return _pushed(document, now_us)
    is_message = isinstance(fields.get("attributes", {}), dict) and isinstance(fields.get("data", ""), str)
    if is_message and (fields.keys() & _MESSAGE_KEYS or (fields and fields.keys() <= {"data", "attributes"})):
        return _pushed(msgspec.json.encode({"message": fields}), now_us)
    if fields.keys() == _LETTER_KEYS:
        try:
            return _bare(b64decode(fields["payload"], validate=True), fields["attributes"], now_us)
        except (ValueError, TypeError):
            return _bare(document, {}, now_us)
    return _bare(document, {}, now_us)


def _pushed(envelope: bytes, now_us: int) -> _Found:
    pushed = read_push(envelope, DEFAULT_LIMITS)
    facts = {"subscription": pushed.subscription} if pushed.subscription else {}
    return _completed(pushed.message, facts, now_us)


def _bare(data: bytes, attributes: Mapping[str, str], now_us: int) -> _Found:
    return _completed(Delivery(data, attributes, "", 0, 0, "", ""), {}, now_us)


def _completed(message: Delivery, facts: Facts, now_us: int) -> _Found:
    assumed = []
    if not message.message_id:
        assumed.append("messageId")
        message = msgspec.structs.replace(message, message_id=MESSAGE_ID)
    if message.publish_us <= 0:
        assumed.append("publishTime")
        message = msgspec.structs.replace(message, publish_us=now_us)
    return _Found(message, facts, tuple(assumed))


def _explain(found: _Found, routing: Routing, now_us: int) -> Explained:
    form = form_of(found.message)
    try:
        said = read_message(found.message, routing, now_us, facts=found.facts)
    except SignalRejectedError as error:
        return Explained(form, "rejected", why=error.message, reason=error.reason, field=error.field)
    if isinstance(said, Unheard):
        return Explained(form, "nothing", why=said.why)
    # A message that says itself what it is needs nothing that was assumed.
    return _of_signal(form, said, found.assumed if _rule(said) is not None else ())


def _explain_group(body: bytes, routing: Routing, now_us: int) -> Iterator[Explained]:
    try:
        group = open_group(body, DEFAULT_LIMITS)
    except BodyRejectedError as error:
        yield Explained(ALERTMANAGER, "rejected", why=error.message, reason=error.reason)
        return
    for entry in group.entries(routing, now_us, DEFAULT_LIMITS):
        outcome = entry.outcome
        if isinstance(outcome, Rejected):
            yield Explained(ALERTMANAGER, "rejected", why=outcome.message, reason=outcome.reason, field=outcome.field)
        else:
            yield _of_signal(ALERTMANAGER, outcome, ())
    if group.truncated:
        yield Explained(ALERTMANAGER, "nothing", why=f"Alertmanager left out {group.truncated} alerts")


def _of_signal(form: str, signal: Signal, assumed: tuple[str, ...]) -> Explained:
    native = encode_native(
        signal.data,
        signal_id=signal.id,
        source=signal.source,
        tenant=signal.tenant,
        observed_us=signal.observed_us,
        subject=signal.subject,
    )
    return Explained(form, "signal", signal.tenant, _rule(signal), msgspec.json.decode(native), assumed=assumed)


def _rule(signal: Signal) -> int | None:
    rule = (signal.extra or {}).get("routing_rule")
    return rule if isinstance(rule, int) and "format" in (signal.extra or {}) else None


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=Raw)
    except _JSON_ERRORS:
        return False
    return True
