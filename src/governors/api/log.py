"""The log as a transparency log: `/v1/logs/{partition}`, the read path of C2SP tlog-tiles, and consistency proofs."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from governors.api.documents import answers, problem_answers
from governors.api.proofs import Proofs
from governors.api.respond import json_response
from ledger.verify.documents import Consistency

SIZE_MAX: Final = 2**53 - 1
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
NEVER_CHANGES: Final = {"Cache-Control": "max-age=31536000, immutable"}
ASK_EACH_TIME: Final = {"Cache-Control": "no-cache"}

Partition = Annotated[int, Path(ge=0, le=9_999, description="Which part of the log.")]
NUMBER_PATTERN: Final = r"^(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?$"
Number = Annotated[
    str,
    Path(pattern=NUMBER_PATTERN, max_length=64, description="Groups of three digits.", examples=["x001/x234/067.p/8"]),
]
_BINARY: Final[dict[str, Any]] = {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
_NOTE: Final[dict[str, Any]] = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def log_router(proofs: Proofs) -> APIRouter:
    """The routes of verifiers and witnesses."""
    router = APIRouter(tags=["log"])

    @router.get(
        "/v1/logs/{partition}/checkpoint",
        responses={200: _NOTE, **problem_answers(404, 503)},
        response_class=Response,
    )
    async def get_checkpoint(partition: Partition) -> Any:
        """The newest signed checkpoint (C2SP tlog-checkpoint)."""
        return Response(proofs.checkpoint(partition), headers=ASK_EACH_TIME, media_type=TEXT)

    @router.get(
        "/v1/logs/{partition}/tile/entries/{number:path}",
        responses={200: _BINARY, **problem_answers(404, 410, 422, 503)},
        response_class=Response,
    )
    async def get_entries(partition: Partition, number: Number) -> Any:
        """A bundle of receipts, each after its length (u16, big endian), as they were hashed."""
        data = await proofs.tile(partition, f"tile/entries/{number}")
        return Response(data, headers=NEVER_CHANGES, media_type=BYTES)

    @router.get(
        "/v1/logs/{partition}/tile/{level}/{number:path}",
        responses={200: _BINARY, **problem_answers(404, 422, 503)},
        response_class=Response,
    )
    async def get_tile(
        partition: Partition,
        level: Annotated[int, Path(ge=0, le=63, description="0: leaf hashes.")],
        number: Number,
    ) -> Any:
        """A tile of the tree (C2SP tlog-tiles): up to 256 hashes of 32 bytes."""
        data = await proofs.tile(partition, f"tile/{level}/{number}")
        return Response(data, headers=NEVER_CHANGES, media_type=BYTES)

    @router.get(
        "/v1/logs/{partition}/consistency",
        responses=answers(Consistency, 404, 422, 503),
        response_class=Response,
    )
    async def get_consistency(
        partition: Partition,
        old: Annotated[int, Query(alias="from", ge=0, le=SIZE_MAX, description="Receipts in the older log.")],
        new: Annotated[
            int | None, Query(alias="to", ge=0, le=SIZE_MAX, description="In the newer one; default: all.")
        ] = None,
    ) -> Any:
        """That the log has only grown between two sizes, under its newest checkpoint."""
        return json_response(await proofs.consistency(partition, old, new))

    return router
