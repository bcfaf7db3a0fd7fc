"""Whatever other systems, or somebody in their name, send: a signal, nothing, or the rejection that is promised."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from properties.test_decode_fuzz import FRAGMENTS, VALUES
from support import foreign

from ingest.decode.alertmanager import AlertGroup, open_group
from ingest.decode.body import Rejected
from ingest.decode.cloudevents_binary import read_event
from ingest.decode.foreign import Unheard
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.message import decode_message, read_message
from ingest.decode.push import Pushed, read_push
from ingest.decode.tenants import Routing, Rule
from ingest.errors import BodyRejectedError, Reason, SignalRejectedError
from ingest.signals import Signal
from ingest.source import Delivery

ROUTING = Routing(
    [
        Rule(tenant_from="label.tenant", subject_from="label.service"),
        Rule(when={"attribute.team": "*"}, tenant_from="attribute.team"),
        Rule(when={"project": "shop-*"}, tenant="acme", subject_from="resource_label.service_name"),
        Rule(when={"format": "budget"}, tenant="acme"),
        Rule(tenant="rest"),
    ]
)
# What one signal may be kept as: the message as JSON inside JSON, and an envelope.
KEPT_BYTES_MAX = 8 * DEFAULT_LIMITS.signal_bytes_max + 65_536

ATTRIBUTE_NAMES = st.sampled_from(
    [
        *foreign.BUDGET_ATTRIBUTES,
        *foreign.ROLLOUT,
        *foreign.APPROVAL,
        *("content-type", "team", "ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "ce-data", "ce-"),
    ]
)
ATTRIBUTE_VALUES = st.sampled_from(
    ["1.0", "Start", "Succeed", "Rollout", "gov.queue.sample.v1", "//gov/acme", "2026-11-22T10:00:00Z", "", "\n", "é"]
) | st.text(max_size=8)
ATTRIBUTES = st.dictionaries(ATTRIBUTE_NAMES | st.text(max_size=5), ATTRIBUTE_VALUES, max_size=12)
KNOWN = st.sampled_from(
    [foreign.BUDGET_ATTRIBUTES, foreign.ROLLOUT, foreign.APPROVAL, {}, {"ce-specversion": "1.0", "ce-id": "1"}]
)
PAYLOADS = st.sampled_from(
    [foreign.BUDGET, foreign.incident().payload, foreign.incident("test").payload, b"", foreign.group(foreign.ALERT)]
)


@st.composite
def torn(draw: st.DrawFn, payloads: st.SearchStrategy[bytes] = PAYLOADS) -> bytes:
    """A good payload with a few bytes taken out or put in."""
    payload = draw(payloads)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(payload)))
        end = min(len(payload), start + draw(st.integers(0, 4)))
        payload = payload[:start] + draw(FRAGMENTS | st.binary(max_size=4)) + payload[end:]
    return payload


@st.composite
def misshapen(draw: st.DrawFn, documents: st.SearchStrategy[bytes]) -> bytes:
    """A good document with one value, anywhere in it, replaced or taken away."""
    document: Any = json.loads(draw(documents) or b"{}")
    holder = document
    while True:
        inner = [one for one in _values(holder) if isinstance(one, dict | list) and one]
        if not inner or draw(st.booleans()):
            break
        holder = draw(st.sampled_from(inner))
    if isinstance(holder, dict) and holder:
        name = draw(st.sampled_from(sorted(holder)))
        if draw(st.booleans()):
            holder[name] = draw(VALUES)
        else:
            del holder[name]
    return json.dumps(document).encode()


def _values(holder: Any) -> list[Any]:
    return list(holder.values()) if isinstance(holder, dict) else list(holder)


MESSAGES = st.builds(
    lambda payload, known, others, message_id, publish_us: Delivery(
        payload, known | others, message_id, publish_us, 1, "", "a"
    ),
    torn() | misshapen(PAYLOADS) | st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()),
    KNOWN,
    ATTRIBUTES,
    st.sampled_from(["8840", "", "x" * 300, "a\nb"]),
    st.sampled_from([foreign.NOON_US, 0, -1, 2**53, 2**70]) | st.integers(-(2**80), 2**80),
)


def _check(signal: Signal) -> None:
    """What a decoder lets in is bounded, and means the same without the rules and attributes that it came with."""
    assert len(signal.payload) <= KEPT_BYTES_MAX
    again = decode_message(signal.payload, {}, signal.received_us, KEEPING)
    assert again == signal


KEEPING = DecodeLimits(signal_bytes_max=1 << 31, extra_bytes_max=1 << 31, extra_depth_max=1 << 10)


R = TypeVar("R")


def attempt(read: Callable[[], R]) -> R | SignalRejectedError | BodyRejectedError:
    try:
        return read()
    except (SignalRejectedError, BodyRejectedError) as error:
        return error


@given(MESSAGES)
def test_a_message_is_a_signal_or_nothing_or_refused(message: Delivery) -> None:
    said = attempt(lambda: read_message(message, ROUTING, foreign.NOON_US))
    if isinstance(said, Signal):
        _check(said)
    elif isinstance(said, Unheard):
        assert len(said.why) <= 200
    else:
        assert isinstance(said, SignalRejectedError)
        assert said.reason in set(Reason)
        assert said.message
        assert len(said.field) <= 200


GROUPS = st.sampled_from([foreign.group(foreign.ALERT), foreign.group(foreign.ALERT, foreign.ALERT | {"status": "?"})])


@given(torn(GROUPS) | misshapen(GROUPS) | st.binary(max_size=40))
def test_a_group_of_alerts_has_an_entry_for_each_or_is_refused(body: bytes) -> None:
    group = attempt(lambda: open_group(body, DEFAULT_LIMITS))
    if not isinstance(group, AlertGroup):
        assert isinstance(group, BodyRejectedError)
        assert group.status in (400, 413)
        assert group.reason in set(Reason)
        return
    for index, entry in enumerate(group.entries(ROUTING, foreign.NOON_US, DEFAULT_LIMITS)):
        if isinstance(entry.outcome, Rejected):
            assert entry.outcome.index == index
            assert entry.outcome.reason in set(Reason)
        else:
            _check(entry.outcome)


@given(ATTRIBUTES, st.sampled_from(["application/json", "", "text/plain"]) | st.text(max_size=20), torn())
def test_an_event_in_headers_is_a_signal_or_refused(headers: dict[str, str], content_type: str, body: bytes) -> None:
    outcome = read_event(headers.items(), content_type, body, foreign.NOON_US)
    if isinstance(outcome, Rejected):
        assert outcome.reason in set(Reason)
    else:
        _check(outcome)


PUSHES = st.just(foreign.push(foreign.budget()))


@given(torn(PUSHES) | misshapen(PUSHES) | st.binary(max_size=40))
def test_a_push_is_a_message_or_refused(body: bytes) -> None:
    pushed = attempt(lambda: read_push(body, DEFAULT_LIMITS))
    if isinstance(pushed, Pushed):
        assert len(pushed.message.payload) <= len(body)
    else:
        assert isinstance(pushed, BodyRejectedError)
        assert pushed.status in (400, 413)
        assert pushed.reason in set(Reason)
