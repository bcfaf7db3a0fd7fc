"""Documents that can be checked without this service, and a check of those that somebody hands in."""

from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from governors.api.documents import answers
from governors.api.guard import principal_of
from governors.api.problem import ProblemError
from governors.api.proof_views import ReceiptProof, VerifyAnswer
from governors.api.respond import json_response
from governors.api.tenants import TenantPath
from governors.auth.principal import Scope
from ledger.verify.documents import Consistency, TenantBundle

BUNDLE_MAX: Final = 2_000
"""Each may need a tile of its own, of 8 kB."""
TEXT: Final = "text/plain"
_PROOF_ANSWERS: Final = answers(ReceiptProof, 404, 410, 422, 503)
_PROOF_ANSWERS[200]["content"][TEXT] = {"schema": {"type": "string"}, "example": "c2sp.org/tlog-proof@v1\n…"}


class Proofs(Protocol):
    """What these routes need. Each raises NotFoundError, InvalidFieldError or NotAcceptingError."""

    def checkpoint(self, partition: int) -> bytes:
        """The newest signed note."""
        ...

    async def tile(self, partition: int, path: str) -> bytes:
        """A tile or entry bundle by its path (C2SP tlog-tiles)."""
        ...

    async def consistency(self, partition: int, old: int, new: int | None) -> Consistency:
        """That the log of `new` receipts continues that of `old`."""
        ...

    async def proof(self, partition: int, index: int, scope: Scope) -> ReceiptProof:
        """Of one receipt, if its tenant is in scope."""
        ...

    async def bundle(self, tenant: str, after: int, limit: int) -> TenantBundle:
        """A tenant's receipts from behind index `after` on."""
        ...

    async def verify(self, document: bytes) -> VerifyAnswer:
        """The verdict on whatever somebody hands in."""
        ...


def proofs_router(proofs: Proofs) -> APIRouter:
    """The routes of auditors."""
    router = APIRouter(tags=["proofs"])

    @router.get("/v1/receipts/{receipt_id}/proof", responses=_PROOF_ANSWERS, response_class=Response)
    async def get_proof(
        request: Request,
        receipt_id: Annotated[
            str, Path(pattern=r"^[0-9]{1,4}:[0-9]{1,15}$", description="`partition:index`.", examples=["0:1234"])
        ],
    ) -> Any:
        """One receipt's proof. With `Accept: text/plain` a C2SP tlog-proof, which holds all that it takes."""
        partition, _, index = receipt_id.partition(":")
        proof = await proofs.proof(int(partition), int(index), principal_of(request).tenants)
        if not _wants_text(request):
            return json_response(proof, headers={"Vary": "Accept"})
        name = f"receipt-{partition}-{index}.tlog-proof"
        headers = {"Vary": "Accept", "Content-Disposition": f'attachment; filename="{name}"'}
        return Response(proof.text, headers=headers, media_type=TEXT)

    @router.get("/v1/tenants/{tenant}/bundle", responses=answers(TenantBundle, 404, 422, 503), response_class=Response)
    async def get_bundle(
        tenant: TenantPath,
        after: Annotated[int, Query(ge=-1, description="Only receipts with a greater index.")] = -1,
        limit: Annotated[int, Query(ge=1, le=BUNDLE_MAX, description="Most receipts in the bundle.")] = 500,
    ) -> Any:
        """A tenant's receipts with one proof for all of them, and how far they are shown to be complete."""
        return json_response(await proofs.bundle(tenant, after, limit))

    @router.post(
        "/v1/verify",
        responses=answers(VerifyAnswer, 400, 413, 415, 503),
        response_class=Response,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "object"}}, TEXT: {"schema": {"type": "string"}}},
            }
        },
    )
    async def verify(request: Request) -> Any:
        """Judge a proof file, a consistency proof or a tenant's bundle of this log: 200 with the verdict, good or bad.

        Whoever does not trust this service checks it with `governors verify bundle` instead.
        """
        document = await request.body()
        if not document.strip():
            raise ProblemError("unreadable-body", "expected a proof file, a consistency proof or a tenant's bundle")
        return json_response(await proofs.verify(document))

    return router


def _wants_text(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return TEXT in accepted and "application/json" not in accepted
