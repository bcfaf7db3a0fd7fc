"""CloudEvents 1.0.2, JSON event format: what its text demands of a reader, and its own example events.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import json
from base64 import b64encode
from typing import Any

import pytest
from properties.signal_strategies import RECEIVED_US

from ingest.decode.body import Rejected, read_body
from ingest.decode.cloudevents import decode_cloudevent
from ingest.decode.message import decode_message
from ingest.errors import SignalRejectedError
from ingest.signals import QueueSample, Signal

DEPTH = {"depth": 7, "oldest_age_s": 1.5, "in_rate_per_s": 2, "done_rate_per_s": 3}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "gov.queue.sample.v1",
    "source": "//gov/acme/orders",
    "id": "C234-1234-1234",
    "time": "2018-04-05T17:31:00Z",
    "data": DEPTH,
}


def event(**attributes: Any) -> bytes:
    return json.dumps({name: value for name, value in (EVENT | attributes).items() if value is not ...}).encode()


def decoded(**attributes: Any) -> Signal:
    return decode_cloudevent(event(**attributes), RECEIVED_US)


def rejected(payload: bytes) -> tuple[str, str]:
    with pytest.raises(SignalRejectedError) as caught:
        decode_cloudevent(payload, RECEIVED_US)
    return caught.value.reason, caught.value.field


def test_an_event_becomes_a_signal_with_the_events_own_bytes() -> None:
    payload = event(subject="orders")
    signal = decode_cloudevent(payload, RECEIVED_US)
    assert signal == Signal(
        "C234-1234-1234",
        "//gov/acme/orders",
        "acme",
        "queue.sample",
        "orders",
        1_522_949_460_000_000,
        RECEIVED_US,
        QueueSample(7, 1.5, 2.0, 3.0),
        payload,
    )


# Section 3.2 and 4.3: the specification's example events. They are no signals of ours; each must be read as far as its
# type, which is what is refused.
EXAMPLE = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "source": "/mycontext",
    "id": "A234-1234-1234",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "comexampleothervalue": 5,
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "binary": {
        "datacontenttype": "application/vnd.apache.thrift.binary",
        "data_base64": "... base64 encoded string ...",
    },
    "xml": {"unsetextension": None, "datacontenttype": "application/xml", "data": '<much wow="xml"/>'},
    "object": {
        "subject": None,
        "datacontenttype": "application/json",
        "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True},
    },
    "string": {"subject": None, "data": "I'm just a string"},
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_the_specifications_examples_are_read_as_far_as_their_type(example: dict[str, Any]) -> None:
    assert rejected(json.dumps(EXAMPLE | example).encode()) == ("unknown_kind", "type")


@pytest.mark.parametrize(
    ("name", "reason", "field"),
    [
        ("binary", "bad_field", "datacontenttype"),
        ("xml", "bad_field", "datacontenttype"),
        ("object", "unknown_field", "data.appinfoA"),
        ("string", "bad_field", "data"),
    ],
)
def test_the_examples_data_is_no_data_of_ours(name: str, reason: str, field: str) -> None:
    ours = EXAMPLE | EXAMPLES[name] | {"type": "gov.queue.sample.v1", "source": "//gov/acme"}
    assert rejected(json.dumps(ours).encode()) == (reason, field)


def test_the_example_attributes_beside_our_data_make_a_signal() -> None:
    payload = json.dumps(EXAMPLE | {"type": "gov.queue.sample.v1", "tenant": "acme", "data": DEPTH}).encode()
    signal = decode_cloudevent(payload, RECEIVED_US)
    assert (signal.source, signal.tenant, signal.id) == ("/mycontext", "acme", "A234-1234-1234")


# Section 2.2: a null attribute is unset.


@pytest.mark.parametrize("name", ["subject", "datacontenttype", "dataschema", "tenant", "comexampleextension1"])
def test_null_optional_attributes_are_unset(name: str) -> None:
    assert decoded(**{name: None}).subject == "default"


@pytest.mark.parametrize("value", [None, ...], ids=["null", "absent"])
@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "time"])
def test_attributes_that_are_required_are_missed_by_name(name: str, value: Any) -> None:
    assert rejected(event(**{name: value})) == ("missing_field", name)


@pytest.mark.parametrize("version", ["0.3", "1.1", "", "2.0"])
def test_other_versions_are_refused(version: str) -> None:
    assert rejected(event(specversion=version)) == ("bad_field", "specversion")


def test_the_version_is_a_string() -> None:
    assert rejected(event(specversion=1.0)) == ("bad_field", "specversion")


# Section 3.1: data and data_base64.


def test_base64_data_is_decoded_by_its_content_type() -> None:
    content = b64encode(json.dumps(DEPTH).encode()).decode()
    assert decoded(data=..., data_base64=content).data == QueueSample(7, 1.5, 2.0, 3.0)
    assert decoded(data=..., data_base64=content, datacontenttype="application/json").data == decoded().data


def test_data_and_base64_data_exclude_each_other() -> None:
    content = b64encode(json.dumps(DEPTH).encode()).decode()
    assert rejected(event(data_base64=content)) == ("bad_field", "data_base64")


def test_an_event_without_data_says_nothing() -> None:
    assert rejected(event(data=...)) == ("missing_field", "data")


def test_null_data_is_a_value_and_not_the_absence_of_one() -> None:
    assert rejected(event(data=None)) == ("bad_field", "data")


def test_a_string_of_json_is_a_string() -> None:
    assert rejected(event(data=json.dumps(DEPTH))) == ("bad_field", "data")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "text/json", "application/vnd.acme+json"]
)
def test_every_json_media_type_declares_json(content_type: str) -> None:
    assert decoded(datacontenttype=content_type).data == decoded().data


@pytest.mark.parametrize("content_type", ["application/xml", "text/plain", "json", "application/jsonl", ""])
def test_other_content_is_refused(content_type: str) -> None:
    assert rejected(event(datacontenttype=content_type)) == ("bad_field", "datacontenttype")


@pytest.mark.parametrize(
    ("content", "reason", "field"),
    [
        ("%%%", "bad_field", "data_base64"),
        ("e30", "bad_field", "data_base64"),
        ("é", "bad_field", "data_base64"),
        (b64encode(b"{").decode(), "bad_json", "data_base64"),
        (b64encode(b'{"depth": NaN}').decode(), "not_finite", "data_base64.depth"),
        (b64encode(b'{"depth": -1}').decode(), "bad_field", "data_base64.depth"),
        (b64encode(b'{"depth": 1, "depth": 1}').decode(), "duplicate_field", "data_base64.depth"),
        (b64encode(b'{"a": "\xff"}').decode(), "bad_utf8", "data_base64"),
        ("", "bad_json", "data_base64"),
    ],
)
def test_bad_base64_data_is_refused(content: str, reason: str, field: str) -> None:
    assert rejected(event(data=..., data_base64=content)) == (reason, field)


# What is ours: type, tenant, time, and the strictness of the native form.


@pytest.mark.parametrize(
    "name",
    [
        "queue.sample",
        "gov.queue.sample",
        "gov.queue.sample.v2",
        "gov.queue.simple.v1",
        "GOV.queue.sample.v1",
        "gov..v1",
        "gov.queue.sample.v1\n",
    ],
)
def test_other_types_are_unknown_kinds(name: str) -> None:
    assert rejected(event(type=name)) == ("unknown_kind", "type")


@pytest.mark.parametrize("source", ["//gov/acme", "//gov/acme/", "//gov/acme/a/b", "//gov/acme?x", "//gov/acme#x"])
def test_the_source_names_the_tenant(source: str) -> None:
    assert decoded(source=source).tenant == "acme"


def test_the_extension_attribute_names_the_tenant_where_the_source_does_not() -> None:
    assert decoded(source="https://meter.example/7", tenant="acme").tenant == "acme"
    assert decoded(tenant="acme").tenant == "acme"


def test_an_event_that_names_two_tenants_is_refused() -> None:
    assert rejected(event(tenant="evil")) == ("bad_field", "tenant")


def test_an_event_that_names_no_tenant_is_refused() -> None:
    for source in ("/mycontext", "//gov/", "//gov", "https://gov/acme"):
        assert rejected(event(source=source)) == ("missing_field", "tenant")


def test_a_tenant_that_is_no_name_is_refused_where_it_stands() -> None:
    assert rejected(event(source="//gov/%20")) == ("bad_field", "source")
    assert rejected(event(source="/mycontext", tenant="a/b")) == ("bad_field", "tenant")


def test_the_native_forms_strictness_holds_here_too() -> None:
    assert rejected(event(time="2026-11-22T11:00:01Z")) == ("future_time", "time")
    assert rejected(event(time="2026-11-22T10:00:00")) == ("bad_field", "time")
    assert rejected(event(time="1960-01-01T00:00:00Z")) == ("bad_field", "time")
    assert rejected(event(subject="a b")) == ("bad_field", "subject")
    assert rejected(event(subject="")) == ("bad_field", "subject")
    assert rejected(event(tenant="")) == ("bad_field", "tenant")
    assert rejected(event(id="a\x00")) == ("bad_field", "id")
    assert rejected(event(id="")) == ("bad_field", "id")
    assert rejected(event(data=DEPTH | {"depth": float("nan")})) == ("not_finite", "data.depth")
    assert rejected(event(ext="+").replace(b"+", b"\\ud800")) == ("lone_surrogate", "ext")
    assert rejected(event(ext="+").replace(b"+", b"\xff")) == ("bad_utf8", "")
    assert rejected(event()[:-1] + b', "id": "2"}') == ("duplicate_field", "id")
    assert rejected(event(ext=1)[:-1] + b', "ext": 2}') == ("duplicate_field", "ext")
    assert rejected(event(ext=1).replace(b'"ext": 1', b'"ext": ' + b"[" * 10_000))[0] == "too_deep"
    assert rejected(event(ext="x" * 70_000)) == ("too_large", "")
    assert rejected(b"[]") == ("bad_field", "")
    future = {"amount": "1.00", "currency": "EUR", "usage_at": "2026-11-23T00:00:00Z"}
    assert rejected(event(type="gov.cost.delta.v1", data=future)) == ("future_time", "data.usage_at")
    unsafe = {"amount": "1.00", "currency": "EUR", "usage_at": "2026-11-22T00:00:00Z", "request_id": "\n"}
    assert rejected(event(type="gov.cost.delta.v1", data=unsafe)) == ("bad_field", "data.request_id")


# Section 3: the media type; section 4: the batch format.


def test_a_body_of_the_structured_media_type_is_one_event() -> None:
    assert read_body("application/cloudevents+json; charset=UTF-8", event(), RECEIVED_US) == [decoded()]


def test_a_batch_is_an_array_of_events() -> None:
    body = b"[\n" + event() + b",\n" + json.dumps(EXAMPLE).encode() + b"]"
    first, second = read_body("application/cloudevents-batch+json", body, RECEIVED_US)
    assert first == decoded()
    assert isinstance(second, Rejected)
    assert (second.index, second.id, second.reason, second.field) == (1, "A234-1234-1234", "unknown_kind", "type")


def test_an_empty_batch_is_valid() -> None:
    assert read_body("application/cloudevents-batch+json", b"[]", RECEIVED_US) == []


def test_a_message_is_an_event_by_its_content_type_or_its_specversion() -> None:
    assert decode_message(event(), {}, RECEIVED_US) == decoded()
    assert decode_message(event(), {"content-type": "application/cloudevents+json"}, RECEIVED_US) == decoded()
    with pytest.raises(SignalRejectedError) as caught:
        decode_message(
            event(specversion=...), {"content-type": "Application/CloudEvents+JSON; charset=utf-8"}, RECEIVED_US
        )
    assert (caught.value.reason, caught.value.field) == ("missing_field", "specversion")
