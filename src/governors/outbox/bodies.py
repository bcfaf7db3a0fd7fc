"""What is sent for an order, in the words of whoever receives it. Pure: the same order gives the same bytes, so that
every attempt at it carries the same body.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from governors.outbox.executors import Order
from governors.outbox.standard_webhooks import BODY_BYTES_MAX
from ingest.signals import format_time

Format = Literal["native", "slack", "slack_api", "pagerduty"]

_encode: Final = msgspec.json.encode
# Of what senders and operators wrote: it may not make a body too long to be sent.
_REASON_CHARS_MAX: Final = 2_000
# https://developer.pagerduty.com/docs/events-api-v2: a summary has 1,024 characters, a dedup_key 255.
_SUMMARY_CHARS_MAX: Final = 1_024
# What Slack's messages of ours are known by: https://docs.slack.dev/messaging/message-metadata.
_EVENT_TYPE: Final = "governors_action"
_SEVERITIES: Final[Mapping[str, str]] = {
    "stop": "critical",
    "page": "critical",
    "close": "error",
    "rollback": "error",
    "throttle": "warning",
    "shed": "warning",
}


def native(order: Order) -> bytes:
    """A Standard Webhooks payload: `type`, `timestamp` (of the decision) and `data`."""
    work = order.work
    return _encode(
        {
            "type": f"governors.action.{work.action.kind}",
            "timestamp": format_time(order.decided_us),
            "data": {
                "action_id": work.action.id,
                "action": work.action.kind,
                "params": work.action.params,
                "tenant": work.tenant,
                "governor": work.governor,
                "subject": work.subject,
                "reason": order.reason[:_REASON_CHARS_MAX],
                "receipt": order.receipt,
                "receipt_sha256": order.receipt_sha256,
            },
        }
    )


def slack(order: Order) -> bytes:
    """An incoming webhook's message. Its markup is escaped: https://docs.slack.dev/messaging/formatting-message-text."""
    return _encode({"text": _escape(_headline(order))})


def slack_api(order: Order, channel: str) -> bytes:
    """What `chat.postMessage` takes; the metadata says which action it is about, and comes back with the history."""
    said = {"action_id": order.work.action.id, "receipt": order.receipt}
    return _encode(
        {
            "channel": channel,
            "text": _escape(_headline(order)),
            "metadata": {"event_type": _EVENT_TYPE, "event_payload": said},
        }
    )


def pagerduty(order: Order, routing_key: str) -> bytes:
    """An event of the Events API v2. The action's id keeps a repetition from becoming a second incident."""
    work = order.work
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": work.action.id,
        "payload": {
            "summary": _headline(order)[:_SUMMARY_CHARS_MAX],
            "source": f"governors/{work.tenant}",
            "severity": _SEVERITIES.get(work.action.kind, "info"),
            "timestamp": format_time(order.decided_us),
            "component": work.subject,
            "group": work.tenant,
            "class": f"{work.governor}.{work.action.kind}",
            "custom_details": {"params": work.action.params, "receipt": order.receipt},
        },
    }
    return _encode(event)


BODIES: Final[Mapping[Format, Callable[[Order], bytes]]] = {"native": native, "slack": slack}
"""Those that need nothing but the order."""


def fits(body: bytes) -> bool:
    """Whether receivers can be expected to take it."""
    return len(body) < BODY_BYTES_MAX


def _headline(order: Order) -> str:
    work = order.work
    params = ", ".join(f"{name} {value}" for name, value in work.action.params.items())
    action = f"{work.action.kind} ({params})" if params else work.action.kind
    return f"{work.tenant}/{work.subject}: {action}: {order.reason[:_REASON_CHARS_MAX]} [receipt {order.receipt}]"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
