import orjson
import pytest

from governors.cli.signal_input import BYTES_MAX, SIGNALS_MAX, Body, bodies

SIGNAL = b'{"id":"a", "n": 1.50}'
EVENT = b'{"specversion":"1.0","id":"e"}'


def only(given: bytes) -> Body:
    (body,) = bodies(given)
    return body


@pytest.mark.parametrize("given", [SIGNAL, b"\xef\xbb\xbf" + SIGNAL + b"\n", b'{\n "id":"a"\n}', b"[" + SIGNAL + b"]"])
def test_one_signal_is_sent_as_a_batch_of_one(given: bytes) -> None:
    body = only(given)
    assert body.media_type == "application/json"
    assert body.count == 1
    assert [element["id"] for element in orjson.loads(body.content)] == ["a"]


def test_every_signal_keeps_its_bytes() -> None:
    assert only(b"[ " + SIGNAL + b" , " + SIGNAL + b"]").content == b"[" + SIGNAL + b"," + SIGNAL + b"]"


def test_lines_are_sent_as_lines_so_that_a_broken_one_spoils_no_other() -> None:
    body = only(SIGNAL + b'\r\n\n{"id": oops\n' + SIGNAL)
    assert (body.media_type, body.count) == ("application/x-ndjson", 3)
    assert body.content == SIGNAL + b'\n{"id": oops\n' + SIGNAL


@pytest.mark.parametrize("given", [EVENT, b"[" + EVENT + b"]", EVENT + b"\n" + EVENT])
def test_cloudevents_are_told_from_signals(given: bytes) -> None:
    body = only(given)
    assert body.media_type == "application/cloudevents-batch+json"
    assert all(event["id"] == "e" for event in orjson.loads(body.content))


@pytest.mark.parametrize("given", [b"[" + SIGNAL, b'{"id":', b"hello", b"\xff"])
def test_what_is_no_json_is_left_to_the_service_to_refuse(given: bytes) -> None:
    assert only(given).content == given


@pytest.mark.parametrize("given", [b"", b" \n", b"\xef\xbb\xbf"])
def test_nothing_is_nothing(given: bytes) -> None:
    assert list(bodies(given)) == []


@pytest.mark.parametrize("form", ["lines", "array"])
def test_many_signals_go_in_batches_in_their_order(form: str) -> None:
    signals = [b'{"id":"%d"}' % number for number in range(2 * SIGNALS_MAX + 1)]
    given = b"\n".join(signals) if form == "lines" else b"[" + b",".join(signals) + b"]"
    found = list(bodies(given))
    assert [body.count for body in found] == [SIGNALS_MAX, SIGNALS_MAX, 1]
    parts = [body.content.split(b"\n") if form == "lines" else orjson.loads(body.content) for body in found]
    ids = [part["id"] if isinstance(part, dict) else orjson.loads(part)["id"] for batch in parts for part in batch]
    assert ids == [str(number) for number in range(2 * SIGNALS_MAX + 1)]


def test_large_signals_go_in_batches_that_the_service_takes() -> None:
    signal = b'{"id":"%s"}' % (b"x" * (BYTES_MAX // 3))
    found = list(bodies(b"\n".join([signal] * 5)))
    assert [body.count for body in found] == [2, 2, 1]
    assert all(len(body.content) <= BYTES_MAX for body in found)
