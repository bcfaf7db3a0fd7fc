"""Around every request: how long it may take, what its body may be, and what the metrics say of it."""

import asyncio
import random
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from governors.api.guard import UNKNOWN_ROUTE
from governors.api.problem import ProblemError, render
from governors.telemetry.metrics import Metrics
from ingest.errors import Reason

# Answers that go on for as long as somebody listens.
ENDLESS: Final = frozenset({"/v1/stream"})
RETRY_S: Final = 1.0
# Full bodies of which the bytes may be in memory at once, over all connections.
FULL_BODIES_MAX: Final = 16
# What is said here is true for a moment, and often of one tenant: what may be kept says so itself.
NO_STORE: Final = (b"cache-control", b"no-store")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


class Edge:
    """ASGI middleware. A body over `body_bytes_max` is refused while it arrives, not after, and one that would have to
    be unpacked before it arrives. Nobody's body is waited for who does not get past the guard.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, rng: random.Random, *, timeout_s: float, body_bytes_max: int
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._rng = rng
        self._timeout_s = timeout_s
        self._body_bytes_max = body_bytes_max
        self._held = _Held(FULL_BODIES_MAX * body_bytes_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        body = _Body(scope, receive, self._body_bytes_max, self._held)
        status = 0
        scope.setdefault("state", {})["route"] = UNKNOWN_ROUTE

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                if not any(name == b"cache-control" for name, _ in headers):
                    message = {**message, "headers": [*headers, NO_STORE]}
            await send(message)

        try:
            async with asyncio.timeout(None if scope["path"] in ENDLESS else self._timeout_s) as limit:
                await self._app(scope, body.receive, send_noting_status)
        except TimeoutError:
            if status or not limit.expired():
                raise
            response = render(self._late(body), self._rng)
            await response(scope, receive, send_noting_status)
        finally:
            body.release()
            method = scope["method"] if scope["method"] in METHODS else "other"
            # Without a status an exception is on its way to the server's error handler, which answers 500.
            self._metrics.http_answered(scope["state"]["route"], method, status or 500, loop.time() - begun_s)

    def _late(self, body: "_Body") -> ProblemError:
        if body.pending:
            return ProblemError("request-timeout", f"the body took longer than {self._timeout_s:g} s")
        detail = (
            f"no answer within {self._timeout_s:g} s; what was sent may have been decided all the same: "
            "send it again with the same ids, and what was decided is recognised"
        )
        return ProblemError("outcome-unknown", detail, retry_after_s=RETRY_S)


class _Held:
    """Bytes of bodies in memory, of all requests."""

    __slots__ = ("bytes", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max


class _Body:
    """A request's body as it arrives. `pending` while somebody waits for more of it."""

    __slots__ = ("_bytes", "_bytes_max", "_complete", "_declared", "_encoding", "_held", "_receive", "pending")

    def __init__(self, scope: Scope, receive: Receive, bytes_max: int, held: _Held) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self._bytes = 0
        self._complete = False
        self._declared, self._encoding = _declared(scope)
        self._held = held
        self.pending = False

    async def receive(self) -> Message:
        if self._declared > self._bytes_max:
            raise self._too_large(self._declared)
        if self._encoding != b"identity":
            # A small one could become any size.
            raise ProblemError(
                "unsupported-media-type",
                "expected a body without Content-Encoding",
                field="Content-Encoding",
                members={"reason": Reason.UNSUPPORTED_MEDIA_TYPE},
            )
        self.pending = not self._complete  # past the body, what is waited for is the caller's hanging up
        message = await self._receive()
        self.pending = False
        if message["type"] == "http.disconnect" and not self._complete:
            # Nobody is there to read this. It is for the counters: no failure of ours, and nothing was handled.
            detail = "the connection ended before the body was complete"
            raise ProblemError("unreadable-body", detail, members={"reason": Reason.INCOMPLETE_BODY})
        self._complete = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._bytes += size
        self._held.bytes += size
        if self._bytes > self._bytes_max:
            raise self._too_large(self._bytes)
        if self._held.bytes > self._held.bytes_max:
            raise ProblemError(
                "pushback", "too many bodies are being read", retry_after_s=RETRY_S, members={"reason": "pushback"}
            )
        return message

    def release(self) -> None:
        """The request is over, and its body with it."""
        self._held.bytes -= self._bytes
        self._bytes = 0

    def _too_large(self, size: int) -> ProblemError:
        detail = f"{size} bytes or more; a body may have {self._bytes_max}"
        return ProblemError("body-too-large", detail, members={"reason": Reason.TOO_LARGE})


def _declared(scope: Scope) -> tuple[int, bytes]:
    """A body's length, 0 if unknown, and its encoding, as the headers say."""
    length, encoding = 0, b"identity"
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 20 else 0
        elif name == b"content-encoding":
            encoding = value.lower()
    return length, encoding
