"""Whatever the bytes, a decoder answers with a signal or with the rejection it promises."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from properties.signal_strategies import RECEIVED_US, signals

from ingest.decode.body import MEDIA_TYPES, Rejected, read_body
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.limits import DEFAULT_LIMITS
from ingest.decode.message import Decoder, decode_message
from ingest.decode.native import decode_native
from ingest.decode.strict import JsonObject, parse_lenient
from ingest.errors import BodyRejectedError, Reason, SignalRejectedError
from ingest.signals import Signal


def _decode_message(payload: bytes, received_us: int, _limits: object) -> Signal:
    return decode_message(payload, {}, received_us)


DECODERS: list[Decoder] = [decode_native, decode_cloudevent, _decode_message]

FRAGMENTS = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'"\\{}[],: \n\x00\xff'),
        *(b"\\ud800", b"\\u0000", b"\xe2\x80\xa8", b"NaN", b"1e999", b"-0", b"null", b"[" * 2000),
        *(b'"tenant":"evil",', b'"specversion":"1.0",', b'"data":{},'),
    ]
)


def cloudevent(signal: Signal) -> bytes:
    native = json.loads(signal.payload)
    event = {name: native[name] for name in ("id", "source", "tenant", "subject", "data")}
    return json.dumps(
        event | {"specversion": "1.0", "type": f"gov.{signal.kind}.v1", "time": native["observed_at"]}
    ).encode()


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A signal of either form with a few bytes taken out or put in."""
    signal = draw(signals())
    payload = draw(st.sampled_from([signal.payload, cloudevent(signal)]))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(payload)))
        end = min(len(payload), start + draw(st.integers(0, 4)))
        payload = payload[:start] + draw(FRAGMENTS | st.binary(max_size=4)) + payload[end:]
    return payload


NAMES = st.sampled_from(
    [
        *("id", "source", "tenant", "kind", "subject", "observed_at", "data", "extra", "specversion", "type", "time"),
        *("cost_amount", "currency", "interval_start", "depth", "labels", "target", "name", "deploy_id", "data_base64"),
    ]
)
VALUES: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("2026-11-22T10:00:00Z"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=12,
)


def attempt(decode: Decoder, payload: bytes) -> Signal | SignalRejectedError:
    try:
        return decode(payload, RECEIVED_US, DEFAULT_LIMITS)
    except SignalRejectedError as error:
        return error


def attempt_body(content_type: str, body: bytes) -> list[Signal | Rejected] | BodyRejectedError:
    try:
        return read_body(content_type, body, RECEIVED_US)
    except BodyRejectedError as error:
        return error


@pytest.mark.parametrize("decode", DECODERS)
@given(payload=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()) | broken())
def test_a_decoder_gives_a_signal_or_a_rejection(decode: Decoder, payload: bytes) -> None:
    outcome = attempt(decode, payload)
    if isinstance(outcome, Signal):
        assert outcome.payload == payload
    else:
        assert outcome.reason in set(Reason)
        assert outcome.message


@given(content_type=st.sampled_from(list(MEDIA_TYPES)), parts=st.lists(broken() | st.binary(max_size=9), max_size=3))
def test_a_body_gives_an_entry_for_each_signal_or_is_refused(content_type: str, parts: list[bytes]) -> None:
    for body in (b"\n".join(parts), b"[" + b",".join(parts) + b"]"):
        outcome = attempt_body(content_type, body)
        if isinstance(outcome, BodyRejectedError):
            assert outcome.status in (400, 413, 415)
        else:
            assert all(entry.index == n for n, entry in enumerate(outcome) if isinstance(entry, Rejected))


@given(good=st.lists(signals(), min_size=1, max_size=3), bad=broken(), at=st.integers(0, 3))
def test_a_bad_line_never_takes_a_good_one_along(good: list[Signal], bad: bytes, at: int) -> None:
    lines = [signal.payload for signal in good]
    lines.insert(at, bad.replace(b"\n", b" "))
    entries = read_body("application/x-ndjson", b"\n".join(lines), RECEIVED_US)
    read = {entry.payload for entry in entries if isinstance(entry, Signal)}
    assert {signal.payload for signal in good} <= read


@given(broken())
def test_what_is_accepted_says_what_another_reader_reads(payload: bytes) -> None:
    signal = attempt(decode_native, payload)
    if isinstance(signal, SignalRejectedError):
        return
    document = parse_lenient(payload)
    assert _is_i_json(document)
    fields = dict(document)
    assert (signal.id, signal.source, signal.tenant) == (fields["id"], fields["source"], fields["tenant"])
    assert (signal.kind, signal.subject) == (fields["kind"], fields.get("subject") or "default")


@st.composite
def misshapen(draw: st.DrawFn) -> bytes:
    """A native signal with one value replaced, one name added or one taken away, anywhere."""
    document = json.loads(draw(signals()).payload)
    holder = draw(st.sampled_from([document, document["data"]]))
    name = draw(st.sampled_from(sorted(holder)))
    match draw(st.sampled_from(["replace", "add", "remove"])):
        case "replace":
            holder[name] = draw(VALUES)
        case "add":
            holder[draw(NAMES)] = draw(VALUES)
        case _:
            del holder[name]
    return json.dumps(document).encode()


@given(misshapen())
def test_a_rejection_names_a_field_of_the_input(payload: bytes) -> None:
    outcome = attempt(decode_native, payload)
    if isinstance(outcome, Signal):
        return
    assert outcome.field
    holder = outcome.field
    if outcome.reason == Reason.MISSING_FIELD:
        assert not _has_path(parse_lenient(payload), outcome.field)
        holder = outcome.field.rpartition(".")[0]
    assert not holder or _has_path(parse_lenient(payload), holder)


def _has_path(value: Any, path: str) -> bool:
    if isinstance(value, JsonObject):
        return any(
            path == name or (path.startswith(f"{name}.") and _has_path(inner, path[len(name) + 1 :]))
            for name, inner in value
        )
    return isinstance(value, list) and any(_has_path(inner, path) for inner in value)


def _is_i_json(value: Any) -> bool:
    match value:
        case JsonObject():
            names = [name for name, _ in value]
            return len(set(names)) == len(names) and all(_is_i_json(n) and _is_i_json(inner) for n, inner in value)
        case list():
            return all(map(_is_i_json, value))
        case str():
            return not any("\ud800" <= character <= "\udfff" for character in value)
        case float():
            return math.isfinite(value)
        case _:
            return True
