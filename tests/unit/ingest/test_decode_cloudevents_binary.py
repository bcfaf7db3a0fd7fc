"""CloudEvents in binary mode, on the examples of both bindings."""

import json

import pytest
from support.foreign import EVERYTHING_TO_ACME, NOON_US, message

from ingest.decode.body import Rejected
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.cloudevents_binary import is_binary, read_event
from ingest.decode.limits import DecodeLimits
from ingest.decode.message import decode_message, form_of, read_message
from ingest.errors import SignalRejectedError
from ingest.signals import QueueSample, Signal

JSON = "application/json; charset=utf-8"
DATA = b'{"depth": 7, "oldest_age_s": 1.5, "in_rate_per_s": 2, "done_rate_per_s": 3}'
HEADERS = [
    ("host", "governors.example"),
    ("ce-specversion", "1.0"),
    ("ce-type", "gov.queue.sample.v1"),
    ("ce-time", "2026-11-22T11:59:00Z"),
    ("ce-id", "1234-1234-1234"),
    ("ce-source", "//gov/acme/orders"),
    ("ce-subject", "orders"),
    ("ce-partitionkey", "7"),
]


def changed(*without: str, **values: str) -> list[tuple[str, str]]:
    names = {name.replace("_", "-"): value for name, value in values.items()}
    kept = [(name, value) for name, value in HEADERS if name not in without and name not in names]
    return kept + list(names.items())


def read(headers: list[tuple[str, str]], data: bytes = DATA, content_type: str = JSON) -> Signal | Rejected:
    return read_event(headers, content_type, data, NOON_US)


def rejected(headers: list[tuple[str, str]], data: bytes = DATA, content_type: str = JSON) -> tuple[str, str]:
    outcome = read(headers, data, content_type)
    assert isinstance(outcome, Rejected)
    return outcome.reason, outcome.field


def test_an_event_in_headers_is_the_event_in_structured_mode() -> None:
    signal = read(HEADERS)
    assert isinstance(signal, Signal)
    assert signal.data == QueueSample(7, 1.5, 2.0, 3.0)
    assert (signal.id, signal.tenant, signal.subject) == ("1234-1234-1234", "acme", "orders")
    assert decode_cloudevent(signal.payload, NOON_US) == signal
    assert json.loads(signal.payload)["partitionkey"] == "7"


def test_an_event_in_attributes_of_pubsub_is_the_same() -> None:
    attributes = {name: value for name, value in HEADERS if name.startswith("ce-")} | {"content-type": JSON}
    said = message(DATA, attributes)
    assert form_of(said) == "cloudevents_binary"
    signal = read_message(said, EVERYTHING_TO_ACME, NOON_US)
    assert isinstance(signal, Signal)
    assert signal == decode_message(signal.payload, {}, NOON_US)
    assert signal.tenant == "acme", "an event says itself whose it is"


def test_the_content_type_of_the_bindings_example_is_taken_too() -> None:
    attributes = dict(HEADERS) | {"ce-datacontenttype": JSON}
    assert decode_message(DATA, attributes, NOON_US).kind == "queue.sample"
    xml = dict(HEADERS) | {"ce-datacontenttype": "application/xml"}
    with pytest.raises(SignalRejectedError, match="JSON"):
        decode_message(DATA, xml, NOON_US)


@pytest.mark.parametrize(
    ("content_type", "names", "expected"),
    [
        (JSON, ["ce-specversion"], True),
        ("", ["ce-specversion"], True),
        ("application/cloudevents+json", ["ce-specversion"], False),
        ("Application/CloudEvents+JSON; charset=utf-8", ["ce-specversion"], False),
        (JSON, ["ce-id"], False),
        (JSON, [], False),
    ],
)
def test_the_mode_is_told_by_media_type_and_version(content_type: str, names: list[str], expected: bool) -> None:
    assert is_binary(content_type, names) is expected


def test_header_values_are_unescaped_and_those_of_pubsub_are_not() -> None:
    escaped = changed(ce_id="Euro%20%E2%82%AC%20%F0%9F%98%80")
    signal = read(escaped)
    assert isinstance(signal, Signal)
    assert signal.id == "Euro € 😀"
    assert decode_message(DATA, dict(escaped), NOON_US).id == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert rejected(changed(ce_id="%FF")) == ("bad_utf8", "ce-id")


def test_data_is_data_and_nothing_more() -> None:
    assert rejected(HEADERS, b'{}, "tenant": "evil"') == ("bad_json", "data")
    assert rejected(HEADERS, b'{"depth": 1, "depth": 2}') == ("duplicate_field", "data.depth")
    assert rejected(HEADERS, b"\xff") == ("bad_utf8", "data")
    assert rejected(HEADERS, b"[" * 60_000)[0] == "too_deep"
    assert rejected(HEADERS, b"") == ("missing_field", "data")
    assert rejected(HEADERS, b"[]") == ("bad_field", "data")


@pytest.mark.parametrize("name", ["ce-data", "ce-data_base64", "ce-", "ce-a b", "ce-" + "x" * 65])
def test_what_is_no_attribute_is_refused(name: str) -> None:
    assert rejected([*HEADERS, (name, "{}")])[0] == "bad_field"


def test_an_attribute_given_twice_is_refused() -> None:
    assert rejected([*HEADERS, ("ce-id", "another")]) == ("duplicate_field", "ce-id")


@pytest.mark.parametrize("name", ["ce-type", "ce-id", "ce-source", "ce-time"])
def test_what_is_missing_is_named(name: str) -> None:
    assert rejected(changed(name)) == ("missing_field", name.removeprefix("ce-"))


def test_what_is_too_large_is_refused_unread() -> None:
    outcome = read_event(HEADERS, JSON, b" " * 101, NOON_US, DecodeLimits(signal_bytes_max=100))
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "too_large"
    assert rejected(changed(ce_id="x" * 70_000))[0] == "too_large"


def test_a_refused_event_is_glimpsed() -> None:
    outcome = read(changed(ce_type="nonsense"))
    assert isinstance(outcome, Rejected)
    assert (outcome.id, outcome.tenant) == ("1234-1234-1234", "acme")


def test_half_a_character_is_no_attribute() -> None:
    with pytest.raises(SignalRejectedError):
        decode_message(DATA, dict(HEADERS) | {"ce-id": "\ud800"}, NOON_US)
