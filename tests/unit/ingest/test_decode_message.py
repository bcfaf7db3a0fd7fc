import json

import pytest

from ingest.decode.glimpse import Glimpse, glimpse
from ingest.decode.message import decode_message
from ingest.errors import SignalRejectedError

RECEIVED_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
NATIVE = {
    "id": "q-1",
    "source": "broker",
    "tenant": "acme",
    "kind": "deploy.finished",
    "observed_at": "2026-11-22T10:00:00Z",
    "data": {"deploy_id": "d-1", "result": "failed"},
}


def test_a_message_without_attributes_is_native() -> None:
    payload = json.dumps(NATIVE).encode()
    signal = decode_message(payload, {}, RECEIVED_US)
    assert (signal.id, signal.kind, signal.payload) == ("q-1", "deploy.finished", payload)


def test_a_native_signal_whose_extra_speaks_of_specversion_stays_native() -> None:
    payload = json.dumps(NATIVE | {"extra": {"specversion": "1.0"}}).encode()
    assert decode_message(payload, {"content-type": "application/json"}, RECEIVED_US).id == "q-1"


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b'"specversion"', b'{"specversion"', b'{"specversion":' + b"[" * 60_000]
)
def test_what_is_no_signal_of_any_form_is_rejected(payload: bytes) -> None:
    with pytest.raises(SignalRejectedError):
        decode_message(payload, {}, RECEIVED_US)


def test_a_refused_signal_is_glimpsed() -> None:
    assert glimpse(json.dumps(NATIVE | {"kind": "x"}).encode()) == Glimpse("q-1", "acme")
    assert glimpse(json.dumps(NATIVE | {"data": float("nan")}).encode()) == Glimpse("q-1", "acme")
    assert glimpse(b'{"specversion": "1.0", "id": "1", "source": "//gov/acme/x"}') == Glimpse("1", "acme")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b"{",
        b"[" * 60_000,
        b'{"id": "a\\n", "tenant": "a/b"}',
        b'{"id": 1, "tenant": {}, "source": 7}',
    ],
)
def test_a_glimpse_shows_nothing_that_is_unfit(payload: bytes) -> None:
    assert glimpse(payload) == Glimpse(None, None)


def test_what_is_far_too_large_is_not_read_for_a_glimpse() -> None:
    assert glimpse(b'{"id": "q-1"}' + b" " * 200_000) == Glimpse()
