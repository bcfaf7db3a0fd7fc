"""The envelope in which Pub/Sub pushes a message."""

import json
from typing import Any

import pytest
from support.foreign import BUDGET, budget, message, push, rollout

from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.push import read_push
from ingest.errors import BodyRejectedError
from ingest.source import Delivery


def read(body: bytes) -> Delivery:
    return read_push(body, DEFAULT_LIMITS).message


def test_what_is_pushed_is_what_would_be_pulled() -> None:
    pushed = read_push(push(budget()), DEFAULT_LIMITS)
    assert pushed.subscription == "projects/p/subscriptions/budgets"
    assert (pushed.message.payload, pushed.message.attributes) == (BUDGET, budget().attributes)
    assert (pushed.message.message_id, pushed.message.publish_us) == ("8840", budget().publish_us)


@pytest.mark.parametrize(
    "changes", [{"messageId": ..., "publishTime": ...}, {"message_id": ..., "publish_time": ...}, {}]
)
def test_either_spelling_will_do(changes: dict[str, Any]) -> None:
    assert read(push(budget(), **changes)) == read(push(budget()))


def test_two_spellings_that_differ_are_refused() -> None:
    with pytest.raises(BodyRejectedError, match="messageId: differs"):
        read(push(budget(), message_id="another"))


@pytest.mark.parametrize("data", ["", None, ...])
def test_a_message_of_attributes_alone_has_no_data(data: Any) -> None:
    assert read(push(rollout(), data=data)).payload == b""


def test_a_message_without_attributes_has_none() -> None:
    assert read(push(message(b"{}"), attributes=...)).attributes == {}
    assert read(push(message(b"{}"), attributes=None)).attributes == {}


def test_what_the_envelope_does_not_say_is_left_open() -> None:
    said = read(b'{"message": {"data": "e30="}}')
    assert (said.payload, said.message_id, said.publish_us, said.delivery_attempt) == (b"{}", "", 0, 0)
    document = json.loads(push(budget())) | {"deliveryAttempt": 5, "new": 1}
    assert read(json.dumps(document).encode()).delivery_attempt == 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        b'{"message": {"x": [' + b"{}," * 40_000,
        b'{"message": "e30="}',
        push(budget(), data="no base64!"),
        push(budget(), data="e30"),
        push(budget(), attributes={"a": 1}),
        push(budget(), publishTime="now", publish_time=...),
        push(budget(), attributes={"a": "\ud800"}),
    ],
)
def test_what_is_no_envelope_is_refused(body: bytes) -> None:
    with pytest.raises(BodyRejectedError) as caught:
        read(body)
    assert caught.value.status == 400


def test_a_body_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyRejectedError) as caught:
        read_push(push(budget()), DecodeLimits(body_bytes_max=10))
    assert caught.value.status == 413
