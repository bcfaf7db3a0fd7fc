"""Whether an order is done, asked of whoever got it: not what they say when they get it, but what is there afterwards.

- A `native` receiver is asked at its own address with the signed headers of the order, and answers 200 once it is done.
- Anybody can be asked by `verify`: a GET whose answer has to name the action's id as one of its values.
- PagerDuty's REST API lists the incidents of a key. Where an incident has alerts, it has no key of its own; its alerts
  have, and are asked for (https://developer.pagerduty.com/api-reference/9d0b4b12e36f9-list-incidents).
- Slack gives back the metadata that messages were posted with
  (https://docs.slack.dev/reference/methods/conversations.history).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from msgspec import Struct

from governors.outbox.answers import DETAIL_CHARS_MAX, Heard, names, read_json, retry_after_s
from governors.outbox.asking import ask
from governors.outbox.executors import Order

READ_BYTES_MAX: Final = 1024 * 1024
"""Of what is read back. Longer, it is not understood."""
INCIDENTS_MAX: Final = 5
"""Incidents whose alerts are asked for: one key has one, unless somebody has merged or resolved them."""
SKEW_S: Final = 60
"""How far the other side's clock may be behind ours."""
_PAGERDUTY: Final = {"accept": "application/vnd.pagerduty+json;version=2"}


@dataclass(frozen=True, slots=True)
class Verify:
    """Where it is read back. `url` may have `{action_id}` in it, and `{since_s}`, a Unix time before which it cannot
    have been done.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    of_pagerduty: bool = False
    private: bool = False


class Reading(Struct, frozen=True):
    """What was read back: that it is done, or why that is not known. `after_s`: how long the other side wants to be
    left alone. `ails`: nobody was there to be asked.
    """

    is_done: bool
    detail: str
    after_s: float | None = None
    ails: bool = False


DONE: Final = Reading(is_done=True, detail="it is done when read back")
_NOT_THERE: Final = Reading(is_done=False, detail="it is not there when read back")


async def read_back(verify: Verify, order: Order, now_us: int) -> Reading:
    """Ask once."""
    action_id = order.work.action.id
    url = httpx.URL(address_of(verify.url, action_id, order.decided_us // 1_000_000))
    document = await _read(verify, url, now_us)
    if isinstance(document, Reading):
        return document
    if names(document, action_id):
        return DONE
    if not verify.of_pagerduty:
        return _NOT_THERE
    for incident in _incidents(document):
        alerts = await _read(verify, url.copy_with(path=f"{url.path}/{incident}/alerts", query=None), now_us)
        if isinstance(alerts, Reading):
            return alerts
        if names(alerts, action_id):
            return DONE
    return _NOT_THERE


def address_of(template: str, action_id: str, decided_s: int) -> str:
    """The address that is asked about an action."""
    return template.replace("{action_id}", action_id).replace("{since_s}", str(max(0, decided_s - SKEW_S)))


async def _read(verify: Verify, url: httpx.URL, now_us: int) -> Any:
    """A document, which is a dictionary or a list; a Reading where there is none."""
    headers = (_PAGERDUTY if verify.of_pagerduty else {}) | dict(verify.headers)
    heard = await ask("GET", url, headers, b"", private=verify.private, bytes_max=READ_BYTES_MAX)
    if not isinstance(heard, Heard):
        return Reading(is_done=False, detail=f"it cannot be read back: {heard.detail}", ails=True)
    if heard.status != 200:
        return not_told(heard, now_us)
    document = read_json(heard.body)
    if not isinstance(document, dict | list):
        return Reading(is_done=False, detail="what is read back is no JSON that can be read")
    if isinstance(document, dict) and document.get("ok") is False:  # Slack's, whose status is 200 all the same
        return Reading(is_done=False, detail=f"{document.get('error')} when read back"[:DETAIL_CHARS_MAX])
    return document


def not_told(heard: Heard, now_us: int) -> Reading:
    """What a status says that is not 200."""
    return Reading(
        is_done=False, detail=f"{heard.status} when read back", after_s=retry_after_s(heard.retry_after, now_us)
    )


def _incidents(document: Any) -> list[str]:
    found = document.get("incidents") if isinstance(document, dict) else None
    ids = [one.get("id") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [one for one in ids if isinstance(one, str) and one.isascii() and one.isalnum()][:INCIDENTS_MAX]
