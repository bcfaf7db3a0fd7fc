"""Admission before everything else: what answers the routes under `/v1/admit`, in front of the application.

Gateways ask for every request that they get, so what the rest of the API can afford (routing, five layers of
middleware, a Request and a Response for each) would cost more than the answer. Nothing of it is left out: the same
doorkeeper lets in, the same problems are told, the same metrics count, and nothing may be kept. Bodies are not read.

Most of the time nobody has to be waited for: then a connection writes the answer without so much as a task
(`connections.py`). Otherwise it comes by ASGI, as everything else does.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from starlette.types import Scope, Send

from governors.admission import Admitted, Viewed
from governors.api.admit import BODIES, INVALID, read_query, refusal, viewed_body, viewed_refusal
from governors.api.edge import METHODS, NO_STORE, RETRY_S
from governors.api.gateways import (
    ENVOY_PREFIX,
    NGINX_PATH,
    age_headers,
    read_headers,
    refusal_for_gateway,
    unreadable_for_gateway,
)
from governors.api.guard import Doorkeeper, require_tenant
from governors.api.problem import ProblemError, problem_of, render
from governors.api.respond import JSON
from governors.api.service import NotAcceptingError, Service
from governors.telemetry.metrics import Metrics
from ingest.errors import Reason

NATIVE_PATH: Final = "/v1/admit"
INTERNAL: Final = 500


class Reply:
    """A status with its headers and body, ready to be sent. Nobody changes it, so that one serves all who ask."""

    __slots__ = ("body", "head", "headers", "status")

    def __init__(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
        self.status = status
        self.headers = [*headers, NO_STORE]
        self.head = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        """The headers as they are sent."""
        self.body = body
        if self.head.count(b"\n") != len(self.headers):
            raise ValueError("a header has a line break in it")

    def with_headers(self, said: Mapping[str, str]) -> "Reply":
        """The same with more headers."""
        more = [(name.encode(), value.encode()) for name, value in said.items()]
        return Reply(self.status, [*self.headers[:-1], *more], self.body)


def _yes(status: int, body: bytes = b"", media_type: str = "") -> Reply:
    headers = [(b"content-type", media_type.encode())] if media_type else []
    # RFC 9110, section 8.6: 204 has no length, not even none.
    length = [] if status == HTTPStatus.NO_CONTENT else [(b"content-length", str(len(body)).encode())]
    return Reply(status, [*length, *headers], body)


_NATIVE_YES: Final = {basis: _yes(HTTPStatus.OK, body, JSON) for basis, body in BODIES.items()}
_NGINX_YES: Final = _yes(HTTPStatus.NO_CONTENT)
_ENVOY_YES: Final = _yes(HTTPStatus.OK)


async def _send(reply: Reply, send: Send) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


class Turnstile:
    """Answers requests about admission. `timeout_s` is for finding out who asks."""

    def __init__(
        self, doorkeeper: Doorkeeper, service: Service, metrics: Metrics, rng: random.Random, *, timeout_s: float
    ) -> None:
        self._doorkeeper = doorkeeper
        self._service = service
        self._metrics = metrics
        self._rng = rng
        self._timeout_s = timeout_s
        self._clock_s = time.monotonic

    def at_once(self, scope: Scope) -> Reply | None:
        """The answer where it is about admission and nobody has to be waited for. None for everything else, of which
        nothing was done.
        """
        decide = self._decider_of(scope["path"])
        if decide is None:
            return None
        begun_s = self._clock_s()
        try:
            if not self._doorkeeper.admit_at_once(scope):
                return None
            reply = self._decided(scope, decide)
        except ProblemError as problem:
            reply = self._problem(problem)
        self._note(scope, reply.status, begun_s)
        return reply

    async def answer(self, scope: Scope, send: Send) -> bool:
        """Answer a request; false where it is not about admission, and nothing was done."""
        decide = self._decider_of(scope["path"])
        if decide is None:
            return False
        begun_s = self._clock_s()
        status = INTERNAL
        try:
            try:
                reply = await self._reply(scope, decide)
            except Exception as error:
                # The server's log gets it, and the gateway an answer.
                await _send(self._problem(problem_of(error)), send)
                raise
            status = reply.status
            await _send(reply, send)
        finally:
            self._note(scope, status, begun_s)
        return True

    def _decider_of(self, path: str) -> Callable[[Scope], Reply] | None:
        if path == NATIVE_PATH:
            return self._native
        if path == NGINX_PATH:
            return self._nginx
        # Whatever is behind it: another request's path, as its client wrote it.
        return self._envoy if path.startswith(ENVOY_PREFIX) else None

    async def _reply(self, scope: Scope, decide: Callable[[Scope], Reply]) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._doorkeeper.admit(scope)
        except ProblemError as problem:
            return self._problem(problem)
        except TimeoutError:
            detail = f"it was not found out within {self._timeout_s:g} s who asks"
            return self._problem(ProblemError("outcome-unknown", detail, retry_after_s=RETRY_S))
        return self._decided(scope, decide)

    def _decided(self, scope: Scope, decide: Callable[[Scope], Reply]) -> Reply:
        try:
            return decide(scope)
        except ProblemError as problem:
            if problem.name == INVALID:
                self._metrics.rejected("admit", Reason.BAD_FIELD)
            return self._problem(problem)
        except NotAcceptingError as error:
            return self._problem(problem_of(error))

    def _note(self, scope: Scope, status: int, begun_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.http_answered(scope["state"]["route"], method, status, self._clock_s() - begun_s)

    def _native(self, scope: Scope) -> Reply:
        asked = read_query(scope["query_string"])
        require_tenant(scope["state"]["principal"], asked.tenant)
        answer = self._service.admit(asked.tenant, asked.klass, asked.user, asked.cost)
        if isinstance(answer, Admitted):
            return _NATIVE_YES[answer.basis]
        if isinstance(answer, Viewed):
            if isinstance(answer.answer, Admitted):
                return _yes(HTTPStatus.OK, viewed_body(answer.answer, answer), JSON)
            raise viewed_refusal(asked.tenant, answer.answer, answer)
        raise refusal(asked.tenant, answer)

    def _nginx(self, scope: Scope) -> Reply:
        try:
            answer = self._answer_to_gateway(scope, _NGINX_YES)
        except ProblemError as problem:
            if problem.name != INVALID:
                raise
            # Any other status is a failure of ours to NGINX, which may let pass what nobody could answer for: a client
            # must not get past with a header that is wrong.
            self._metrics.rejected("admit", Reason.BAD_FIELD)
            answer = unreadable_for_gateway(problem)
        return answer if isinstance(answer, Reply) else self._problem(answer, HTTPStatus.FORBIDDEN)

    def _envoy(self, scope: Scope) -> Reply:
        answer = self._answer_to_gateway(scope, _ENVOY_YES)
        return answer if isinstance(answer, Reply) else self._problem(answer)

    def _answer_to_gateway(self, scope: Scope, yes: Reply) -> Reply | ProblemError:
        asked = read_headers(scope["headers"])
        require_tenant(scope["state"]["principal"], asked.tenant)
        answer = self._service.admit(asked.tenant, asked.klass, asked.user, asked.cost)
        if isinstance(answer, Admitted):
            return yes
        if not isinstance(answer, Viewed):
            return refusal_for_gateway(asked.tenant, answer)
        said = age_headers(answer)
        if isinstance(answer.answer, Admitted):
            return yes.with_headers(said)
        refused = refusal_for_gateway(asked.tenant, answer.answer)
        refused.headers = {**(refused.headers or {}), **said}
        return refused

    def _problem(self, problem: ProblemError, status: int | None = None) -> Reply:
        response = render(problem, self._rng, status)
        return Reply(response.status_code, response.raw_headers, bytes(response.body))
