"""Orders in the words of chat and pager, held against what those services document of them."""

from datetime import datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from governors.machines.overlays import OpenAction
from governors.outbox.bodies import fits, native, pagerduty, slack, slack_api
from governors.outbox.executors import Order
from governors.tenants.tenant import OpenWork

KINDS = ("notify", "page", "ask", "stop", "throttle", "restore", "rollback", "hold_rollout", "close", "shed", "probe")
NAMES = st.text("abcXYZ019._:/@+-", min_size=1, max_size=128)
ROUTING_KEY = "R0123456789ABCDEF0123456789ABCDE"

# https://developer.pagerduty.com/docs/send-alert-event
PAGERDUTY_SEVERITIES = {"critical", "error", "warning", "info"}
PAGERDUTY_BYTES_MAX = 512 * 1024
# https://docs.slack.dev/changelog/2018-truncating-really-long-messages
SLACK_CHARS_MAX = 40_000


@st.composite
def orders(draw: st.DrawFn) -> Order:
    params = draw(st.dictionaries(NAMES, st.integers() | NAMES, max_size=7))
    action = OpenAction(
        f"act-0123456789abcdef-{draw(st.integers(0, 10**12))}", draw(st.sampled_from(KINDS)), params, None
    )
    work = OpenWork(draw(NAMES), "k", "rollback_guard", draw(NAMES), action, 12)
    reason = draw(st.text(max_size=30)) * draw(st.sampled_from([1, 500]))
    return Order(work, "0:12", "ab" * 32, draw(st.integers(10**15, 2 * 10**15)), reason)


@given(orders())
def test_an_event_for_a_pager_has_what_the_events_api_asks_for(order: Order) -> None:
    body = pagerduty(order, ROUTING_KEY)
    assert len(body) < PAGERDUTY_BYTES_MAX
    event: dict[str, Any] = msgspec.json.decode(body)
    assert set(event) == {"routing_key", "event_action", "dedup_key", "payload"}
    assert (event["routing_key"], event["event_action"]) == (ROUTING_KEY, "trigger")
    # The same for every attempt, and another for every action: one incident each.
    assert event["dedup_key"] == order.work.action.id
    assert len(event["dedup_key"]) <= 255
    payload = event["payload"]
    required, optional = (
        {"summary", "source", "severity"},
        {"timestamp", "component", "group", "class", "custom_details"},
    )
    assert required <= set(payload) <= required | optional
    assert 1 <= len(payload["summary"]) <= 1_024
    assert payload["severity"] in PAGERDUTY_SEVERITIES
    assert payload["source"]
    assert datetime.fromisoformat(payload["timestamp"]).tzinfo is not None
    assert isinstance(payload["custom_details"], dict)
    assert payload["custom_details"]["receipt"] == "0:12"


@given(orders())
def test_a_message_for_a_chat_is_one_text_without_markup_of_anybody_elses(order: Order) -> None:
    message: dict[str, Any] = msgspec.json.decode(slack(order))
    assert set(message) == {"text"}
    assert 1 <= len(message["text"]) <= SLACK_CHARS_MAX
    # Whoever can word a reason must not be able to call a channel (`<!channel>`), or to hide an address behind a word.
    assert "<" not in message["text"]
    assert ">" not in message["text"]
    assert message["text"].replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").count("&") == 0


@given(orders())
def test_every_attempt_has_the_same_body(order: Order) -> None:
    again = msgspec.structs.replace(order)
    assert (native(order), slack(order), pagerduty(order, "k")) == (native(again), slack(again), pagerduty(again, "k"))


@given(orders())
def test_what_governors_ask_for_fits_into_a_webhook(order: Order) -> None:
    assert fits(native(order))
    assert fits(pagerduty(order, ROUTING_KEY))


@given(orders())
def test_a_message_to_a_channel_is_a_webhooks_text_with_the_action_as_metadata(order: Order) -> None:
    body = slack_api(order, "C123ABC456")
    assert fits(body)
    assert msgspec.json.decode(body) == {
        **msgspec.json.decode(slack(order)),
        "channel": "C123ABC456",
        "metadata": {
            "event_type": "governors_action",
            "event_payload": {"action_id": order.work.action.id, "receipt": "0:12"},
        },
    }
