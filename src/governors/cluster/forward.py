"""Hands a request on to the worker that has the log, and its answer back: one hop, never two.

The request goes as it came, with its caller's own token, so the owner decides for itself who may what. Nothing is sent
twice: what may have arrived is for the caller to repeat, under the same ids.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.types import Receive, Scope, Send

from governors.api.problem import ProblemError, render

HOP: Final = b"governors-hop"
CONNECT_S: Final = 2.0
CONNECTIONS_MAX: Final = 256
RETRY_S: Final = 1.0
# Of this connection and not of the message (RFC 9110, section 7.6.1), or said by our own server anyway.
_NOT_HANDED_ON: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"date", b"server", b"x-content-type-options", b"strict-transport-security",
})  # fmt: skip


class Forwarder:
    """An ASGI application. `owner` is the address of who has the log, None while that is not known; `on_failed` is
    called when it cannot be reached. Needs `close`.
    """

    def __init__(
        self,
        owner: Callable[[], str | None],
        on_failed: Callable[[], None],
        rng: random.Random,
        *,
        ca: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`ca` has the certificates of those who vouch for the other workers; None: those that this system trusts."""
        self._owner = owner
        self._on_failed = on_failed
        self._rng = rng
        self._under_way: set[asyncio.Task[Any]] = set()
        self._is_over = False
        self._client = httpx.AsyncClient(
            transport=transport,
            verify=True if ca is None else ssl.create_default_context(cafile=ca),
            timeout=httpx.Timeout(None, connect=CONNECT_S, pool=CONNECT_S),  # a request's own limit is the edge's
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            follow_redirects=False,
            trust_env=False,
        )

    def give_up(self) -> None:
        """End what is under way: this worker is going to answer itself, or nobody any more."""
        self._is_over = True
        for task in self._under_way:
            task.cancel()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always has its task
        self._under_way.add(task)
        try:
            await self._hand_on(scope, receive, send)
        except ProblemError as problem:
            await render(problem, self._rng)(scope, receive, send)
        finally:
            self._under_way.discard(task)

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ProblemError before anything was sent."""
        try:
            answer = await self._ask(scope, receive)
        except asyncio.CancelledError:
            if not self._is_over:
                raise  # the caller's time is up
            raise _unanswered("this worker takes another part now") from None
        try:
            headers = [(name.lower(), value) for name, value in answer.headers.raw]
            headers = [(name, value) for name, value in headers if name not in _NOT_HANDED_ON]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()

    async def _ask(self, scope: Scope, receive: Receive) -> httpx.Response:
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_HANDED_ON]
        if any(name == HOP for name, _ in headers):
            raise _nobody("this worker was asked for the one that has the log, and waits for it itself")
        owner = self._owner()
        if owner is None:
            raise _nobody("no worker has the log now")
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        has_body = any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])
        request = self._client.build_request(
            scope["method"],
            httpx.URL(owner).copy_with(raw_path=target),
            headers=[*headers, (HOP, b"1")],
            content=_body(receive) if has_body else None,
        )
        try:
            return await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._on_failed()
            raise _nobody(f"the worker that has the log cannot be reached ({type(error).__name__})") from error
        except httpx.PoolTimeout as error:
            detail = "too many requests wait for the worker that has the log"
            raise ProblemError("pushback", detail, retry_after_s=RETRY_S) from error
        except httpx.TransportError as error:
            self._on_failed()
            raise _unanswered("the worker that has the log gave no answer") from error


def _unanswered(why: str) -> ProblemError:
    detail = (
        f"{why}; what was sent may have been decided all the same: send it again with the same ids, and what was "
        "decided is recognised"
    )
    return ProblemError("outcome-unknown", detail, retry_after_s=RETRY_S)


def _nobody(detail: str) -> ProblemError:
    return ProblemError("not-accepting", detail, retry_after_s=RETRY_S)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("unreadable-body", "the connection ended before the body was complete")
        more = message.get("more_body", False)
        if body := message.get("body", b""):
            yield body
