"""Orders as webhooks: signed, to an address that was looked at, and read as the Standard Webhooks text reads answers.

Done is what the answer proves, or what is read back. What the other side has said that it has is not sent there again:
from then on it is only read back. What may have been sent, and nobody knows, is read back before it is sent once more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from governors.outbox.answers import Heard, read_answer
from governors.outbox.asking import ask
from governors.outbox.bodies import BODIES, Format, fits, pagerduty, slack_api
from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.outbox.read_back import DONE, Reading, Verify, not_told, read_back
from governors.outbox.selection import Selection
from governors.outbox.standard_webhooks import Key, sign
from governors.tenants.tenant import OpenWork

ANSWER_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where orders go, and how they are written. `keys` sign (newest first); `routing_key` is PagerDuty's, `token` and
    `channel` are Slack's. `verify` says where it is read back whether an order is done; with `read_back` it is asked
    for where it went.
    """

    name: str
    url: httpx.URL
    format: Format
    keys: tuple[Key, ...]
    routing_key: str
    private: bool
    read_back: bool = False
    token: str = ""
    channel: str = ""
    verify: Verify | None = None


class WebhookExecutor:
    """Sends orders to one receiver. `receiver()` is asked for each attempt, so that secrets can change meanwhile; it
    raises OSError or ValueError where they cannot be read.
    """

    def __init__(
        self, name: str, selection: Selection, receiver: Callable[[], Receiver], clock_us: Callable[[], int]
    ) -> None:
        self.name: Final = name
        self._selection = selection
        self._receiver = receiver
        self._clock_us = clock_us
        self._gone = ""
        """The address that answered 410: nothing more is sent there until the configuration has another."""

    def takes(self, work: OpenWork) -> bool:
        return self._selection.takes(work)

    async def execute(self, order: Order) -> Answer:
        """One attempt."""
        try:
            receiver = self._receiver()
        except (OSError, ValueError) as error:
            return TryAgain(f"its secrets cannot be read: {error}", maybe=False)
        if self._gone == str(receiver.url):
            return Refused("the receiver is gone (410)")
        before = await self._read_back(receiver, order) if order.maybe or order.acknowledged else None
        if before is not None:
            if before.is_done:
                return Done(f"{before.detail}, and was not sent again", "read_back")
            if order.acknowledged:
                said = f"it was taken, and {before.detail}"
                return TryAgain(said, after_s=before.after_s, ails=before.ails, acknowledged=True)
        return await self._send(receiver, order)

    async def _send(self, receiver: Receiver, order: Order) -> Answer:
        body = _body(receiver, order)
        if not fits(body):
            return Refused(f"the body has {len(body)} bytes, too many for a webhook")
        answer = await self._ask("POST", receiver, order, body)
        if not isinstance(answer, Heard):
            return answer
        if answer.status == 410:
            self._gone = str(receiver.url)
        meant = read_answer(receiver.format, answer, order.work.action.id, self._clock_us())
        reading = await self._read_back(receiver, order) if isinstance(meant, Done) else None
        if reading is None:
            return meant
        said = f"{meant.detail}, and {reading.detail}"
        if reading.is_done:
            return Done(said, "read_back")
        return TryAgain(said, after_s=reading.after_s, ails=reading.ails, acknowledged=True)

    async def _read_back(self, receiver: Receiver, order: Order) -> Reading | None:
        """Whether it is done; None where nobody can be asked."""
        if receiver.verify is not None:
            return await read_back(receiver.verify, order, self._clock_us())
        if not receiver.read_back:
            return None
        heard = await self._ask("GET", receiver, order, b"")
        if not isinstance(heard, Heard):
            return Reading(is_done=False, detail=f"it cannot be read back: {heard.detail}", ails=True)
        return DONE if heard.status == 200 else not_told(heard, self._clock_us())

    async def _ask(self, method: str, receiver: Receiver, order: Order, body: bytes) -> Heard | Refused | TryAgain:
        headers = {"content-type": "application/json"} if body else {}
        if receiver.keys:
            headers |= sign(receiver.keys, order.work.action.id, self._clock_us() // 1_000_000, body)
        if receiver.token:
            headers["authorization"] = f"Bearer {receiver.token}"
        return await ask(method, receiver.url, headers, body, private=receiver.private, bytes_max=ANSWER_BYTES_MAX)


def _body(receiver: Receiver, order: Order) -> bytes:
    match receiver.format:
        case "pagerduty":
            return pagerduty(order, receiver.routing_key)
        case "slack_api":
            return slack_api(order, receiver.channel)
        case plain:
            return BODIES[plain](order)


def read_lines(text: str) -> Sequence[str]:
    """A secret file's lines, without blank ones and comments."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
