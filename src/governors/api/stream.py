"""`GET /v1/stream`: decisions as they are taken, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from governors.api.documents import problem_answers
from governors.api.guard import principal_of, require_tenant
from governors.api.service import Service, SignalResult

MEDIA_TYPE: Final = "text/event-stream"
# Proxies commonly close what is silent for a minute, and a caller who is gone is only noticed by writing to him.
KEEP_ALIVE_S: Final = 15.0
_encode = msgspec.json.Encoder().encode


def stream_router(service: Service) -> APIRouter:
    """The route of those who watch."""
    router = APIRouter(tags=["stream"])

    @router.get(
        "/v1/stream",
        responses={
            200: {"description": "An event for each decision.", "content": {MEDIA_TYPE: {}}},
            **problem_answers(422, 503),
        },
        response_class=StreamingResponse,
    )
    async def stream(
        request: Request,
        tenant: Annotated[str | None, Query(max_length=128, description="Only this tenant's.")] = None,
        every: Annotated[bool, Query(alias="all", description="Also decisions that changed nothing.")] = False,  # noqa: FBT002 - a query parameter
    ) -> Any:
        """Decisions as they are taken, each in the shape of a signal's result, until the caller hangs up."""
        principal = principal_of(request)
        scope = principal.tenants
        if tenant is not None:
            require_tenant(principal, tenant)
            scope = frozenset({tenant})
        results = service.watch(scope, every=every)
        first = asyncio.ensure_future(anext(results))
        # One turn of the loop, so that a service that takes nobody more can say so with a status.
        await asyncio.sleep(0)
        if first.done() and (error := first.exception()) is not None:
            raise error
        return StreamingResponse(_events(results, first), media_type=MEDIA_TYPE)

    return router


async def _events(results: AsyncIterator[SignalResult], upcoming: asyncio.Future[SignalResult]) -> AsyncIterator[bytes]:
    yield b": watching\n\n"  # headers and a first byte at once, so that the caller knows that it is heard
    try:
        while True:
            await asyncio.wait({upcoming}, timeout=KEEP_ALIVE_S)
            if not upcoming.done():
                yield b": still here\n\n"
                continue
            try:
                result = upcoming.result()
            except StopAsyncIteration:
                return
            event_id = f"id: {result.receipt}\n" if result.receipt else ""
            yield event_id.encode() + b"event: decision\ndata: " + _encode(result) + b"\n\n"
            upcoming = asyncio.ensure_future(anext(results))
    finally:
        upcoming.cancel()
