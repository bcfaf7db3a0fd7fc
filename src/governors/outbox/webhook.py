"""Orders as webhooks: signed, to an address that was looked at, and read as the Standard Webhooks text reads answers.

Redirects are not followed: an order goes where the configuration says, and nowhere that an answer says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from governors.outbox.addresses import AddressRefusedError, AddressUnknownError, resolve
from governors.outbox.bodies import BODIES, Format, fits, pagerduty
from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.outbox.selection import Selection
from governors.outbox.standard_webhooks import sign
from governors.tenants.tenant import OpenWork

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of an answer nothing is needed but its status: what is longer is not read to its end."""
CONNECT_S: Final = 5.0
# Those that the text wants fewer requests after, and those that HTTP has for a server that cannot now.
_UNWELL: Final = frozenset({429, 500, 502, 503, 504})
_NOT_DONE: Final = frozenset({408, 425, 429, 502, 503})
"""Statuses that say that the order itself was not looked at."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where orders go, and how they are written. `keys` sign (newest first); `routing_key` is PagerDuty's. `read_back`:
    who says that it has an order is asked whether it is done.
    """

    name: str
    url: httpx.URL
    format: Format
    keys: tuple[bytes, ...]
    routing_key: str
    private: bool
    read_back: bool = False


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
        body = _body(receiver, order)
        if not fits(body):
            return Refused(f"the body has {len(body)} bytes, too many for a webhook")
        answer = await self._ask("POST", receiver, order, body)
        if not isinstance(answer, httpx.Response):
            return answer
        if answer.status_code == 410:
            self._gone = str(receiver.url)
        meant = read_answer(answer, self._clock_us())
        if isinstance(meant, Done) and receiver.read_back:
            return await self._read_back(receiver, order, meant)
        return meant

    async def _read_back(self, receiver: Receiver, order: Order, taken: Done) -> Done | TryAgain:
        """Whether it is done. What cannot be read, or is not so yet, is unknown: the order goes there again."""
        answer = await self._ask("GET", receiver, order, b"")
        if not isinstance(answer, httpx.Response):
            return TryAgain(f"{taken.detail}, but whether it is done cannot be read: {answer.detail}")
        if answer.status_code == 200:
            return Done(f"{taken.detail}, and it is done when read back", verified=True)
        after_s = retry_after_s(answer.headers.get("retry-after"), self._clock_us())
        return TryAgain(f"{taken.detail}, and {answer.status_code} when read back", after_s=after_s, ails=False)

    async def _ask(self, method: str, receiver: Receiver, order: Order, body: bytes) -> httpx.Response | Answer:
        headers = {"user-agent": "governors"} | ({"content-type": "application/json"} if body else {})
        if receiver.keys:
            headers |= sign(receiver.keys, order.work.action.id, self._clock_us() // 1_000_000, body)
        try:
            return await send(method, receiver.url, headers, body, private=receiver.private)
        except AddressRefusedError as error:
            return Refused(str(error))
        except AddressUnknownError as error:
            return TryAgain(str(error), maybe=False)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return TryAgain(f"cannot be reached: {_said(error)}", maybe=False)
        except httpx.HTTPError as error:
            return TryAgain(f"no answer: {_said(error)}")


def _body(receiver: Receiver, order: Order) -> bytes:
    if receiver.format == "pagerduty":
        return pagerduty(order, receiver.routing_key)
    return BODIES[receiver.format](order)


async def send(method: str, url: httpx.URL, headers: dict[str, str], body: bytes, *, private: bool) -> httpx.Response:
    """Ask an address that may be gone to. Raises AddressRefusedError, AddressUnknownError, httpx.HTTPError.

    A connection of its own for each: orders are few, and a name may mean another machine the next time.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    address = await resolve(url.host, port, private=private)
    there = url.copy_with(host=address)
    # The name, where the address stands in the URL: for the request's Host, and for the certificate.
    headers = {**headers, "host": url.netloc.decode()}
    timeout = httpx.Timeout(None, connect=CONNECT_S)  # the outbox ends the attempt
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False) as client:
        request = client.build_request(
            method, there, headers=headers, content=body, extensions={"sni_hostname": url.host}
        )
        answer = await client.send(request, stream=True)
        try:
            read = 0
            async for chunk in answer.aiter_raw():
                read += len(chunk)
                if read > ANSWER_BYTES_MAX:
                    break
        finally:
            await answer.aclose()
        return answer


def read_answer(answer: httpx.Response, now_us: int) -> Answer:
    """What an answer means. Unknown is not success: only 2xx is."""
    status = answer.status_code
    said = f"answered {status}"
    if 200 <= status < 300:
        return Done(said)
    if status in _UNWELL or status in _NOT_DONE:
        return TryAgain(
            said,
            maybe=status not in _NOT_DONE,
            after_s=retry_after_s(answer.headers.get("retry-after"), now_us),
            ails=status in _UNWELL,
        )
    if status >= 500:
        return TryAgain(said)
    return Refused(said if not 300 <= status < 400 else f"{said}: redirects are not followed")


def _said(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


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


def read_lines(text: str) -> Sequence[str]:
    """A secret file's lines, without blank ones and comments."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
