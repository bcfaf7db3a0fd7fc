"""Hands a request on to the worker that has what it is about, and its answer back: one hop, never two.

The request goes as it came, with its caller's own token, so that worker decides for itself who may what. Nothing is
sent twice: what may have arrived is for the caller to repeat, under the same ids.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from starlette.types import Receive, Scope, Send

from governors.api.problem import ProblemError
from governors.cluster.client import let_go, worker_client
from governors.cluster.moves import RETRY_S

HOP: Final = b"governors-hop"
"""The header that tells a worker that another one asks."""
POOL_S: Final = 2.0
CONNECTIONS_MAX: Final = 256
# Of this connection and not of the message (RFC 9110, section 7.6.1), or said by our own server anyway; and what this
# worker was told as one that is asked, which is not what it tells the next.
_NOT_HANDED_ON: Final = frozenset({
    HOP,
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"date", b"server", b"x-content-type-options", b"strict-transport-security",
})  # fmt: skip


class UnreachedError(ProblemError):
    """A worker could not be reached, so nothing was sent: it can be sent to another."""


class Forwarder:
    """To the other workers. `on_failed` is called when one cannot be reached. Needs `close`."""

    def __init__(
        self,
        on_failed: Callable[[], None],
        *,
        ca: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`ca` as for `worker_client`."""
        self._on_failed = on_failed
        # A request's own limit is the edge's.
        self._client = worker_client(ca, transport, CONNECTIONS_MAX, pool_s=POOL_S)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def hand_on(self, url: str, hop: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the worker at `url` answer. `hop` is what it is told of who asks. Raises ProblemError before anything
        was sent.
        """
        answer = await self._ask(url, hop, scope, body_of(receive) if has_body(scope) else None)
        try:
            headers = [(name.lower(), value) for name, value in answer.headers.raw]
            headers = [(name, value) for name, value in headers if name not in _NOT_HANDED_ON]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await let_go(answer)

    async def ask(self, url: str, hop: bytes, scope: Scope, body: bytes) -> httpx.Response:
        """The whole answer of the worker at `url`, to the request with this body. Raises ProblemError."""
        answer = await self._ask(url, hop, scope, body or None)
        try:
            await answer.aread()
        except httpx.TransportError as error:
            self._on_failed()
            raise _unanswered(url) from error
        finally:
            await let_go(answer)
        return answer

    @asynccontextmanager
    async def listen(self, url: str, hop: bytes, scope: Scope) -> AsyncIterator[AsyncIterator[bytes]]:
        """What the worker at `url` answers for as long as it goes on. Raises ProblemError."""
        answer = await self._ask(url, hop, scope, None)
        try:
            if answer.status_code != httpx.codes.OK:
                raise _unanswered(url)
            yield answer.aiter_raw()
        except httpx.TransportError as error:
            self._on_failed()
            raise _unanswered(url) from error
        finally:
            await let_go(answer)

    async def _ask(
        self, url: str, hop: bytes, scope: Scope, body: AsyncIterator[bytes] | bytes | None
    ) -> httpx.Response:
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_HANDED_ON]
        if isinstance(body, bytes):
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        request = self._client.build_request(
            scope["method"],
            httpx.URL(url).copy_with(raw_path=target),
            headers=[*headers, (HOP, hop)],
            content=body,
        )
        try:
            return await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._on_failed()
            detail = f"the worker at {url} cannot be reached ({type(error).__name__})"
            raise UnreachedError("not-accepting", detail, retry_after_s=RETRY_S) from error
        except httpx.PoolTimeout as error:
            detail = f"too many requests wait for the worker at {url}"
            raise ProblemError("pushback", detail, retry_after_s=RETRY_S) from error
        except httpx.TransportError as error:
            self._on_failed()
            raise _unanswered(url) from error


def has_body(scope: Scope) -> bool:
    """Whether the request has one."""
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])


async def body_of(receive: Receive) -> AsyncIterator[bytes]:
    """A request's body as it arrives. Raises ProblemError."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("unreadable-body", "the connection ended before the body was complete")
        more = message.get("more_body", False)
        if body := message.get("body", b""):
            yield body


def _unanswered(url: str) -> ProblemError:
    detail = (
        f"the worker at {url} gave no answer; what was sent may have been decided all the same: send it again with the "
        "same ids, and what was decided is recognised"
    )
    return ProblemError("outcome-unknown", detail, retry_after_s=RETRY_S)
