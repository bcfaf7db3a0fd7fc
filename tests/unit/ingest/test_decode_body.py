import json
from typing import Any

import pytest

from ingest.decode.body import Rejected, read_body
from ingest.decode.limits import DecodeLimits
from ingest.errors import BodyRejectedError
from ingest.signals import Signal

RECEIVED_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
JSON = "application/json"
LINES = "application/x-ndjson"


def signal(number: int, **envelope: Any) -> bytes:
    fields = {
        "id": f"q-{number}",
        "source": "broker",
        "tenant": "acme",
        "kind": "queue.sample",
        "observed_at": "2026-11-22T10:00:00Z",
        "data": {"depth": number, "oldest_age_s": 0, "in_rate_per_s": 0, "done_rate_per_s": 0},
    }
    return json.dumps(fields | envelope, indent=None).encode()


def outcomes(content_type: str, body: bytes, limits: DecodeLimits | None = None) -> list[tuple[str | None, str]]:
    """Each entry's id, and why it was rejected or "" where it was not."""
    entries = read_body(content_type, body, RECEIVED_US, limits or DecodeLimits())
    for index, entry in enumerate(entries):
        assert isinstance(entry, Signal) or entry.index == index
    return [(entry.id, entry.reason if isinstance(entry, Rejected) else "") for entry in entries]


def refused(content_type: str, body: bytes, limits: DecodeLimits | None = None) -> tuple[str, int]:
    with pytest.raises(BodyRejectedError) as caught:
        read_body(content_type, body, RECEIVED_US, limits or DecodeLimits())
    assert caught.value.message
    return caught.value.reason, caught.value.status


def test_a_single_object_is_one_signal() -> None:
    (only,) = read_body(JSON, b"\n " + signal(1) + b"\n", RECEIVED_US)
    assert isinstance(only, Signal)
    assert only.payload == signal(1)


def test_a_pretty_printed_object_is_one_signal() -> None:
    assert outcomes(JSON, json.dumps(json.loads(signal(1)), indent=2).encode()) == [("q-1", "")]


def test_an_arrays_elements_come_in_order_with_their_own_bytes() -> None:
    entries = read_body(JSON, b"[" + signal(1) + b" ,\n\t" + signal(2) + b"]", RECEIVED_US)
    assert [entry.payload for entry in entries if isinstance(entry, Signal)] == [signal(1), signal(2)]


def test_an_empty_array_is_an_empty_batch() -> None:
    assert outcomes(JSON, b"[ ]") == []


@pytest.mark.parametrize("content_type", [LINES, "application/jsonl", JSON])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_are_signals_and_blank_ones_are_nothing(content_type: str, end: bytes) -> None:
    body = end.join([signal(1), b"", signal(2), b"", b""])
    assert outcomes(content_type, body) == [("q-1", ""), ("q-2", "")]
    entries = read_body(content_type, body, RECEIVED_US)
    assert [entry.payload for entry in entries if isinstance(entry, Signal)] == [signal(1), signal(2)]


def test_a_byte_order_mark_is_no_part_of_the_signal() -> None:
    (only,) = read_body(JSON, b"\xef\xbb\xbf" + signal(1), RECEIVED_US)
    assert isinstance(only, Signal)
    assert only.payload == signal(1)


# What can be wrong with one element, and its reason; its neighbours are handled all the same.
BAD_ELEMENTS = {
    "unknown kind": (signal(2, kind="queue.simple"), ("q-2", "unknown_kind")),
    "future": (signal(2, observed_at="2027-01-01T00:00:00Z"), ("q-2", "future_time")),
    "NaN": (signal(2, data={"depth": float("nan")}), ("q-2", "not_finite")),
    "not an object": (b"7", (None, "bad_field")),
    "null": (b"null", (None, "bad_field")),
    "a missing quote": (b'{"id": "q-2, "source": "x"}', (None, "bad_json")),
    "a bad literal": (b'{"id": tru}', (None, "bad_json")),
    "a control character": (signal(2, id="q_2").replace(b"_", b"\x01"), (None, "bad_json")),
    "bad UTF-8": (signal(2).replace(b"q-2", b"\xff\xfe"), (None, "bad_utf8")),
    "half a surrogate pair": (signal(2, source="+").replace(b"+", b"\\ud800"), ("q-2", "lone_surrogate")),
    "a name twice": (signal(2)[:-1] + b', "tenant": "evil"}', ("q-2", "duplicate_field")),
    "a depth bomb": (b"[" * 5000 + b"]" * 5000, (None, "bad_field")),
    "a depth bomb within": (signal(2, extra={"a": "_"}).replace(b'"_"', b"[" * 2000 + b"]" * 2000), (None, "too_deep")),
    "large": (signal(2, extra={"a": "b" * 70_000}), ("q-2", "too_large")),
}


@pytest.mark.parametrize(("element", "outcome"), BAD_ELEMENTS.values(), ids=BAD_ELEMENTS.keys())
def test_a_bad_line_is_rejected_alone(element: bytes, outcome: tuple[str | None, str]) -> None:
    body = b"\n".join([signal(1), element, signal(3)])
    assert outcomes(LINES, body) == [("q-1", ""), outcome, ("q-3", "")]


ARRAY_BREAKERS = {"a missing quote"}


@pytest.mark.parametrize(
    ("element", "outcome"),
    [pytest.param(*case, id=name) for name, case in BAD_ELEMENTS.items() if name not in ARRAY_BREAKERS],
)
def test_a_bad_element_is_rejected_alone(element: bytes, outcome: tuple[str | None, str]) -> None:
    body = b"[" + b", ".join([signal(1), element, signal(3)]) + b"]"
    assert outcomes(JSON, body) == [("q-1", ""), outcome, ("q-3", "")]


def test_an_element_that_is_nothing_is_rejected_alone() -> None:
    body = b"[" + signal(1) + b",," + signal(3) + b",]"
    assert outcomes(JSON, body) == [("q-1", ""), (None, "bad_json"), ("q-3", ""), (None, "bad_json")]


def test_a_rejected_entry_says_everything_that_is_known() -> None:
    (entry,) = read_body(JSON, signal(2, data={"depth": -1}), RECEIVED_US)
    assert entry == Rejected(0, "q-2", "acme", "bad_field", "data.depth", "Expected `int` >= 0")


@pytest.mark.parametrize(
    "body",
    [
        b"[" + signal(1),
        b"[" + signal(1) + b",",
        b"[" + signal(1) + b"] []",
        b"[" + signal(1) + b"]]",
        b"[" + signal(1) + b', "no end]',
        b"[" + BAD_ELEMENTS["a missing quote"][0] + b"]",
        b"{",
        signal(1)[:-1],
        signal(1) + signal(2),
        b"hello",
        b"id=1&source=2",
    ],
)
def test_a_body_that_cannot_be_split_is_refused_as_a_whole(body: bytes) -> None:
    assert refused(JSON, body) == ("bad_json", 400)


def test_a_single_object_in_another_encoding_is_refused_as_a_whole() -> None:
    assert refused(JSON, signal(1).replace(b"q-1", b"\xff")) == ("bad_utf8", 400)
    assert refused(JSON, signal(1).decode().encode("utf-16")) == ("bad_utf8", 400)


@pytest.mark.parametrize("content_type", [JSON, LINES, "application/cloudevents+json"])
@pytest.mark.parametrize("body", [b"", b" \r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_body_is_refused(content_type: str, body: bytes) -> None:
    assert refused(content_type, body) == ("empty_body", 400)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jso",
        "application/json; charset=iso-8859-1",
        'application/json; charset="utf-16"',
        "application/json, text/plain",
        "application/cloudevents",
    ],
)
def test_other_media_types_and_charsets_are_refused(content_type: str) -> None:
    assert refused(content_type, signal(1)) == ("unsupported_media_type", 415)


@pytest.mark.parametrize(
    "content_type",
    [
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json ; Charset="utf-8"',
        "application/json; q=1",
    ],
)
def test_media_types_are_read_as_rfc_9110_writes_them(content_type: str) -> None:
    assert outcomes(content_type, signal(1)) == [("q-1", "")]


def test_a_single_signal_that_is_too_large_is_rejected_unread() -> None:
    assert outcomes(JSON, b"{" * 100_000) == [(None, "too_large")]
    assert outcomes(JSON, signal(1, extra={"a": "b" * 200_000})) == [(None, "too_large")]


def test_a_body_may_be_as_large_as_the_limit_says() -> None:
    limits = DecodeLimits(body_bytes_max=len(signal(1)))
    assert outcomes(JSON, signal(1), limits) == [("q-1", "")]
    assert refused(JSON, signal(1) + b" ", limits) == ("too_large", 413)


@pytest.mark.parametrize("bad", [b"", b', {"a": NaN}'], ids=["whole", "broken"])
def test_an_array_may_be_as_long_as_the_limit_says(bad: bytes) -> None:
    limits = DecodeLimits(batch_max=3)
    three = b",".join([signal(1), signal(2)]) + (bad or b"," + signal(3))
    assert len(outcomes(JSON, b"[" + three + b"]", limits)) == 3
    assert refused(JSON, b"[" + three + b"," + signal(4) + b"]", limits) == ("batch_too_large", 413)


def test_blank_lines_have_a_largest_number() -> None:
    body = signal(1) + b"\n" * 101 + signal(2)
    assert refused(LINES, body, DecodeLimits(body_tokens_max=100)) == ("too_large", 413)
    assert len(outcomes(LINES, body, DecodeLimits(body_tokens_max=101))) == 2


def test_as_many_lines_are_taken_as_the_limit_says() -> None:
    limits = DecodeLimits(batch_max=2)
    assert len(outcomes(LINES, signal(1) + b"\n\n" + signal(2) + b"\n\n", limits)) == 2
    assert refused(LINES, b"\n".join([signal(1), signal(2), signal(3)]), limits) == ("batch_too_large", 413)


@pytest.mark.parametrize(
    "body", [b"[" + b"1," * 50_000 + b"1]", b"[[" + b"1," * 50_000 + b"1]]", b"[" + b"[]" * 50_000 + b"]"]
)
def test_a_body_of_countless_values_is_refused_before_it_costs_much(body: bytes) -> None:
    assert refused(JSON, body, DecodeLimits(body_tokens_max=10_000)) == ("too_large", 413)


def test_ten_thousand_signals_fit_into_one_body() -> None:
    body = b"[" + b",".join(signal(n) for n in range(10_000)) + b"]"
    assert len(body) < DecodeLimits().body_bytes_max
    assert outcomes(JSON, body) == [(f"q-{n}", "") for n in range(10_000)]


def test_ten_thousand_signals_fit_even_when_one_of_them_breaks_the_array() -> None:
    body = b"[" + b",".join(signal(n) for n in range(9_999)) + b', {"id": NaN}]'
    assert outcomes(JSON, body)[-2:] == [("q-9998", ""), (None, "not_finite")]
