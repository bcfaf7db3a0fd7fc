"""What an answer to an order means, and whether it proves that the order is there. Pure. Unknown is not success.

Who says 2xx has taken a request; that it has taken the order, services say in the body of the answer:

- PagerDuty's Events API v2 answers 202 with `status` `success` and the event's `dedup_key`
  (https://developer.pagerduty.com/docs/send-alert-event).
- Slack's incoming webhooks answer 200 with the text `ok`
  (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
- Slack's Web API answers 200 also where it fails; `ok` says which (https://docs.slack.dev/apis/web-api).
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, assert_never

import orjson
from msgspec import Struct
from msgspec.structs import replace

from governors.outbox.bodies import Format
from governors.outbox.executors import Answer, Done, Refused, TryAgain

DETAIL_CHARS_MAX: Final = 200
"""Of what others say, what goes on into a receipt."""
DEPTH_MAX: Final = 32
# Those that the Standard Webhooks text wants fewer requests after, and those that HTTP has for a server that cannot
# now.
_UNWELL: Final = frozenset({429, 500, 502, 503, 504})
_NOT_DONE: Final = frozenset({408, 425, 429, 502, 503})
"""Statuses that say that the order itself was not looked at."""
# Of Slack's errors those that pass; after some of them a part of what was asked for may have been done
# (https://docs.slack.dev/reference/methods/chat.postMessage).
_SLACK_PASSES: Final[Mapping[str, bool]] = {
    "fatal_error": True, "internal_error": True, "request_timeout": True, "service_unavailable": True,
    "ratelimited": False, "rate_limited": False, "team_added_to_org": False,
}  # fmt: skip


class Heard(Struct, frozen=True):
    """An answer: its status, as much of its body as was read, and its Retry-After."""

    status: int
    body: bytes = b""
    retry_after: str | None = None


def read_answer(wire: Format, heard: Heard, action_id: str, now_us: int) -> Answer:
    """What an answer to the order `action_id`, in the words of `wire`, means."""
    meant = read_status(heard, now_us)
    if not isinstance(meant, Done):
        return meant
    match wire:
        case "native":
            return replace(meant, proof="acknowledged")
        case "slack":
            return _acknowledged(meant, is_proven=heard.status == 200 and heard.body.strip() == b"ok", want="ok")
        case "pagerduty":
            said = read_json(heard.body)
            is_proven = isinstance(said, dict) and (said.get("status"), said.get("dedup_key")) == ("success", action_id)
            return _acknowledged(meant, is_proven=is_proven, want="success for this event")
        case "slack_api":
            said = read_json(heard.body)
            if isinstance(said, dict) and said.get("ok") is False:
                return _slack_error(str(said.get("error", "an error without a name"))[:DETAIL_CHARS_MAX])
            return _acknowledged(meant, is_proven=isinstance(said, dict) and said.get("ok") is True, want="ok")
        case _:
            assert_never(wire)


def read_status(heard: Heard, now_us: int) -> Answer:
    """What an answer's status means: only 2xx is success."""
    status = heard.status
    said = f"answered {status}"
    if 200 <= status < 300:
        return Done(said)
    if status in _UNWELL or status in _NOT_DONE:
        return TryAgain(
            said,
            maybe=status not in _NOT_DONE,
            after_s=retry_after_s(heard.retry_after, now_us),
            ails=status in _UNWELL,
        )
    if status >= 500:
        return TryAgain(said)
    return Refused(said if not 300 <= status < 400 else f"{said}: redirects are not followed")


def _acknowledged(meant: Done, *, is_proven: bool, want: str) -> Done | TryAgain:
    if is_proven:
        return Done(f"{meant.detail}, {want}", "acknowledged")
    return TryAgain(f"{meant.detail}, and not {want}", ails=False)


def _slack_error(error: str) -> Refused | TryAgain:
    said = f"answered {error}"
    return TryAgain(said, maybe=_SLACK_PASSES[error]) if error in _SLACK_PASSES else Refused(said)


def read_json(body: bytes) -> Any:
    """A document; None for what is none, or was too long to be read to its end."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def names(document: Any, action_id: str, depth: int = DEPTH_MAX) -> bool:
    """Whether one of the document's values is the action's id. As a part of a text it may be anything: a search that
    found nothing, repeated in its answer.
    """
    if isinstance(document, str):
        return document == action_id
    if not depth or not isinstance(document, dict | list):
        return False
    values = document.values() if isinstance(document, dict) else document
    return any(names(value, action_id, depth - 1) for value in values)


def retry_after_s(text: str | None, now_us: int) -> float | None:
    """What a Retry-After asks for: RFC 9110, section 10.2.3: seconds, or a date."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_us / 1e6)
    except ValueError:
        return None
