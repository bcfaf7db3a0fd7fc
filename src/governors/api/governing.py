"""What all are governed by, as operators see and change it: the policies, emergency stops, approvals."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from governors.api.documents import answers
from governors.api.guard import principal_of
from governors.api.respond import json_response
from governors.api.service import OverrideGrant, OverrideResult, PoliciesView, Reloaded, Service, StopResult
from governors.api.strict_json import StrictRoute
from governors.api.tenants import PLAIN_PATTERN, SUBJECT_PATTERN, GovernorName, TenantPath, Text, Who, who_decides
from ingest.signals import DEFAULT_SUBJECT

# An answer is not an override: it holds for what was asked about, while that is wanted, and no longer than this.
ANSWER_TTL_S = 3_600.0

By = Annotated[Who | None, Field(description="Whose decision it is. With a token it is the token's.")]
WhoAsks = Annotated[
    str | None,
    Query(min_length=1, max_length=256, pattern=PLAIN_PATTERN, description="Whose decision it is; see `by`."),
]
Why = Annotated[str, Query(min_length=1, max_length=256, pattern=PLAIN_PATTERN, description="Why; it is kept.")]


class StopBody(BaseModel):
    """An emergency stop: governors decide and leave receipts, and act on nothing; admission lets everything through."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Text
    by: By = None


class ApprovalBody(BaseModel):
    """A person's word on the action that a machine asks about."""

    model_config = ConfigDict(extra="forbid", strict=True)

    governor: GovernorName
    subject: Annotated[str, Field(max_length=128, pattern=SUBJECT_PATTERN)] = DEFAULT_SUBJECT
    verdict: Literal["approve", "refuse"]
    reason: Text
    ttl_s: Annotated[
        float,
        Field(ge=1, le=7 * 86_400, description="How long it holds: after that, what is wanted still is asked anew."),
    ] = ANSWER_TTL_S
    by: By = None

    def grant(self, by: str) -> OverrideGrant:
        """The same for the service."""
        return OverrideGrant(
            governor=self.governor,
            subject=self.subject,
            mode="approve" if self.verdict == "approve" else "veto",
            ttl_s=self.ttl_s,
            by=by,
            reason=self.reason,
        )


def governing_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["governing"], route_class=StrictRoute)
    stops = answers(StopResult, 400, 404, 413, 415, 422, 503)
    lifts = answers(StopResult, 404, 422, 503)

    @router.get("/v1/policies", responses=answers(PoliciesView, 422), response_class=Response)
    async def get_policies() -> Any:
        """What decisions are taken under now."""
        return json_response(service.policies())

    @router.post("/v1/policies/reload", responses=answers(Reloaded, 422, 503), response_class=Response)
    async def reload_policies() -> Any:
        """Read the policy files again. With anything wrong in them all that held before goes on."""
        return json_response(await service.reload_policies())

    @router.put("/v1/emergency-stop", responses=stops, response_class=Response)
    async def stop_everybody(request: Request, body: StopBody) -> Any:
        """Stop all governors from acting. What they have done outside stays as it is."""
        who = who_decides(principal_of(request), body.by)
        return json_response(await service.emergency_stop(None, who, body.reason, stopped=True))

    @router.delete("/v1/emergency-stop", responses=lifts, response_class=Response)
    async def lift_for_everybody(request: Request, reason: Why, by: WhoAsks = None) -> Any:
        """Let governors act again, on what is so now."""
        who = who_decides(principal_of(request), by)
        return json_response(await service.emergency_stop(None, who, reason, stopped=False))

    @router.put("/v1/tenants/{tenant}/emergency-stop", responses=stops, response_class=Response)
    async def stop_tenant(request: Request, tenant: TenantPath, body: StopBody) -> Any:
        """Stop one tenant's governors from acting."""
        who = who_decides(principal_of(request), body.by)
        return json_response(await service.emergency_stop(tenant, who, body.reason, stopped=True))

    @router.delete("/v1/tenants/{tenant}/emergency-stop", responses=lifts, response_class=Response)
    async def lift_for_tenant(request: Request, tenant: TenantPath, reason: Why, by: WhoAsks = None) -> Any:
        """Let one tenant's governors act again."""
        who = who_decides(principal_of(request), by)
        return json_response(await service.emergency_stop(tenant, who, reason, stopped=False))

    @router.post(
        "/v1/tenants/{tenant}/approvals",
        responses=answers(OverrideResult, 400, 404, 413, 415, 422, 503),
        response_class=Response,
    )
    async def answer_approval(request: Request, tenant: TenantPath, body: ApprovalBody) -> Any:
        """Approve or refuse what a machine asks about: an action that its policy has a person asked about first."""
        who = who_decides(principal_of(request), body.by)
        return json_response(await service.grant_override(tenant, body.grant(who)))

    return router
