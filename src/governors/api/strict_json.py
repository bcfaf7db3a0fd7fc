"""Operators' JSON, read as strictly as signals are: what readers would differ on is refused by name of its field."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from governors.api.problem import ProblemError
from ingest.decode.strict import find_flaw
from ingest.errors import Reason

# A hundred times what an operator has to say.
BODY_BYTES_MAX: Final = 64 * 1024


class StrictRoute(APIRoute):
    """A route whose JSON is I-JSON (RFC 7493) of bounded size and depth. Others raise ProblemError."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]  # as called
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        if len(body) > BODY_BYTES_MAX:
            detail = f"{len(body)} bytes; this body may have {BODY_BYTES_MAX}"
            raise ProblemError("body-too-large", detail, members={"reason": Reason.TOO_LARGE})
        flaw = find_flaw(body)
        # What is no JSON at all is told by whoever parses it.
        if flaw is not None and flaw.reason != Reason.BAD_JSON:
            is_read = flaw.field != "" and flaw.reason != Reason.TOO_DEEP
            name = "invalid-field" if is_read else "unreadable-body"
            raise ProblemError(name, flaw.message, field=flaw.field or None, members={"reason": flaw.reason})
        return await super().json()
