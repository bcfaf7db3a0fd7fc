"""Every request of an operator leaves a receipt: who asked for what, when, from where, why, and what became of it.

A route is an operator's where the table of routes asks for the role `operate` or `admin`, and the method changes
something: whatever is added to the table is recorded like the rest. The answer is held back until the receipt is on the
disk. Whoever is known and has no right to what they ask for leaves one too; of those that come too fast only the number
is kept, or a token without any right could fill the disk. Who is not known at all leaves none.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from governors.api.access import AccessTable, Place
from governors.api.documents import answers
from governors.api.pages import CURSOR_CHARS_MAX, CURSOR_PATTERN
from governors.api.problem import URN, problem_of, render
from governors.api.respond import json_response
from governors.api.service import OperationsPage, Service, ServiceError
from governors.auth.principal import Principal, Role
from governors.numerics.gcra import Rates
from governors.tenants.operations import Operation, asked_text
from ledger.errors import LedgerError

OPERATORS: Final[frozenset[Role]] = frozenset({"operate", "admin"})
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_BYTES_KEPT: Final = 16 * 1024
TEXT_CHARS_MAX: Final = 256
# What a token may leave of refusals: a mistake is seen, a flood costs at most a receipt a second.
REFUSALS_PER_S: Final = 1
REFUSALS_BURST: Final = 60
NAMES_MAX: Final = 1_024
# For the receipt of a request that was given up: its caller has the answer by then.
RECORD_S: Final = 5.0
FORBIDDEN: Final = 403
TOO_SOON: Final = 429
UNKNOWN_OUTCOME: Final = 503
INTERNAL: Final = 500
OUTCOME_UNKNOWN: Final = "outcome-unknown"

Record = Callable[[Operation], Awaitable[None]]
"""`record(operation)`: returns once the receipt is on this machine's disk."""


class Operations:
    """ASGI middleware around the guard, which finds out who asks."""

    def __init__(
        self,
        app: ASGIApp,
        access: AccessTable,
        record: Record,
        on_left_out: Callable[[], None],
        clock_us: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._app = app
        self._access = access
        self._record = record
        self._on_left_out = on_left_out
        self._clock_us = clock_us
        self._rng = rng
        self._refusals = Rates(REFUSALS_PER_S, REFUSALS_BURST, NAMES_MAX)
        self._left_out = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = self._place_of_operator(scope)
        if place is None:
            await self._app(scope, receive, send)
            return
        request = _Request(scope, place, self._clock_us(), receive)
        answer: list[Message] = []

        async def hold(message: Message) -> None:
            answer.append(message)

        try:
            await self._app(scope, request.receive, hold)
        except asyncio.CancelledError:
            # Over its time, and perhaps done all the same.
            with contextlib.suppress(LedgerError, ServiceError, TimeoutError):
                async with asyncio.timeout(RECORD_S):
                    await self._leave(request, UNKNOWN_OUTCOME, {"type": OUTCOME_UNKNOWN})
            raise
        except Exception:
            with contextlib.suppress(LedgerError, ServiceError):
                await self._leave(request, INTERNAL, {"type": "internal"})
            raise
        status, document = _read(answer)
        try:
            await self._leave(request, status, document)
        except (LedgerError, ServiceError) as error:
            # Nobody is told that something is done of which there is no receipt.
            await render(problem_of(error), self._rng)(scope, receive, send)
            return
        for message in answer:
            await send(message)

    def _place_of_operator(self, scope: Scope) -> Place | None:
        if scope["type"] != "http" or scope["method"] in READING:
            return None
        place = self._access.find(scope["path"])
        access = None if place is None else place.access.get(scope["method"])
        return place if access is not None and access.role in OPERATORS else None

    async def _leave(self, request: "_Request", status: int, document: dict[str, Any]) -> None:
        principal = request.principal
        if principal is None or status == TOO_SOON:
            return
        if status == FORBIDDEN and not self._refusals.take(principal.name, 1, request.at_us):
            self._left_out += 1
            self._on_left_out()
            return
        left_out, self._left_out = self._left_out, 0
        await self._record(request.operation(principal, status, document, left_out))


class _Request:
    """What is known of a request besides its answer."""

    def __init__(self, scope: Scope, place: Place, at_us: int, receive: Receive) -> None:
        self._scope = scope
        self._place = place
        self._receive = receive
        self._body = bytearray()
        self._bytes = 0
        self.at_us = at_us

    @property
    def principal(self) -> Principal | None:
        """Who asks, once the guard has found out; None where it is nobody."""
        principal: Principal | None = self._scope.get("state", {}).get("principal")
        return principal

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            chunk = message.get("body", b"")
            self._body += chunk[: max(0, BODY_BYTES_KEPT - len(self._body))]
            self._bytes += len(chunk)
        return message

    def operation(self, principal: Principal, status: int, document: dict[str, Any], left_out: int) -> Operation:
        scope = self._scope
        client = scope.get("client")
        return Operation(
            at_us=self.at_us,
            by=principal.name,
            action=f"{scope['method']} {self._place.route}",
            path=_plain(scope["path"]),
            status=status,
            address=client[0] if client else "",
            tenant=self._place.tenant or "",
            reason=self._reason(),
            asked=asked_text(bytes(self._body)),
            asked_bytes=self._bytes,
            problem=_text(document, "type").removeprefix(URN),
            detail=_text(document, "detail"),
            receipt=_text(document, "receipt"),
            left_out=left_out,
        )

    def _reason(self) -> str:
        """As it was given: in the body, or with what has none, in the query."""
        with contextlib.suppress(orjson.JSONDecodeError):
            document = orjson.loads(self._body)
            if isinstance(document, dict) and "reason" in document:
                return _text(document, "reason")
        return _plain(QueryParams(self._scope["query_string"]).get("reason", ""))


def _read(answer: list[Message]) -> tuple[int, dict[str, Any]]:
    """The status of an answer and its document, empty where it has none."""
    start = next(message for message in answer if message["type"] == "http.response.start")
    if "json" in Headers(raw=start["headers"]).get("content-type", ""):
        with contextlib.suppress(orjson.JSONDecodeError):
            document = orjson.loads(b"".join(message.get("body", b"") for message in answer))
            if isinstance(document, dict):
                return start["status"], document
    return start["status"], {}


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return _plain(value) if isinstance(value, str) else ""


def _plain(text: str) -> str:
    """Short, of whole characters, and without what looks like a token."""
    return asked_text(text.encode("utf-8", "replace"))[:TEXT_CHARS_MAX]


def operations_router(service: Service) -> APIRouter:
    """What operators did, for those who look after them."""
    router = APIRouter(tags=["operations"])

    @router.get("/v1/operations", responses=answers(OperationsPage, 422), response_class=Response)
    async def list_operations(
        after: Annotated[
            str,
            Query(max_length=CURSOR_CHARS_MAX, pattern=CURSOR_PATTERN, description="The `next` of the page before."),
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100, description="Most entries in the page.")] = 100,
    ) -> Any:
        """What operators asked for, oldest first, each with its receipt."""
        return json_response(await service.operations(after, limit))

    return router
