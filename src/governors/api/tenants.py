"""Tenants as operators see and steer them: `/v1/tenants` and what lies below it."""

from typing import Annotated, Any, Final, Literal, Self

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from governors.api.documents import answers
from governors.api.guard import principal_of
from governors.api.problem import ProblemError
from governors.api.respond import json_response
from governors.api.service import (
    EntitlementStatus,
    NotFoundError,
    OverrideGrant,
    OverrideMode,
    OverrideResult,
    ReceiptsPage,
    ReceiptView,
    Service,
    TenantChange,
    TenantsPage,
    TenantView,
)
from governors.api.strict_json import StrictRoute
from governors.auth.principal import LOCAL, Principal
from ingest.signals import DEFAULT_SUBJECT, parse_micros

PAGE_MAX: Final = 1_000
TTL_DEFAULT_S: Final = 3_600.0
TTL_MAX_S: Final = 30 * 86_400.0
# What ingest.signals.NAME_PATTERN says, in the dialect of pydantic.
SUBJECT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$"
# One segment of a path, so that a tenant's name never runs into what follows it.
TENANT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*$"
GovernorName = Literal["cost_guard", "rollback_guard", "backlog_valve"]

TenantPath = Annotated[str, Path(max_length=128, pattern=TENANT_PATTERN, description="The tenant's name.")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Most entries in the page.")]
# They end up in receipts, which people read in a terminal: no control characters, no change of direction.
PLAIN_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$"
Who = Annotated[str, Field(min_length=1, max_length=256, pattern=PLAIN_PATTERN, examples=["alice@example.com"])]
Text = Annotated[str, Field(min_length=1, max_length=256, pattern=PLAIN_PATTERN)]
ProfileName = Annotated[str, Field(min_length=1, max_length=128, examples=["premium"])]


class TenantBody(BaseModel):
    """What shall hold for a tenant. A key that is absent stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    entitlement: EntitlementStatus | None = None
    profile: ProfileName | None = None
    reason: Annotated[Text | None, Field(description="Why; it is kept with the receipt of what was asked for.")] = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.entitlement is None and self.profile is None:
            raise ValueError("expected entitlement, profile or both")
        return self


class OverrideBody(BaseModel):
    """An operator's decision for one machine: for how long, why, and whose it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    governor: GovernorName
    subject: Annotated[str, Field(max_length=128, pattern=SUBJECT_PATTERN)] = DEFAULT_SUBJECT
    mode: OverrideMode
    ttl_s: Annotated[
        float,
        Field(
            gt=0, le=TTL_MAX_S, allow_inf_nan=False, description="Seconds until it ends by itself; one hour if absent."
        ),
    ] = TTL_DEFAULT_S
    status: Annotated[str, Field(max_length=64, description="With force: the status.", examples=["THROTTLE"])] = ""
    extra_amount: Annotated[
        str | None, Field(description="With extra_budget: how much more, a decimal string.", examples=["250.00"])
    ] = None
    reason: Text
    by: Annotated[
        Who | None, Field(description="Whose decision it is. With a token it is the token's, and can be left out.")
    ] = None

    def grant(self, by: str) -> OverrideGrant:
        """The same for the service. Raises ProblemError where the mode and its own field do not go together."""
        _belongs("status", self.status != "", self.mode, "force")
        _belongs("extra_amount", self.extra_amount is not None, self.mode, "extra_budget")
        return OverrideGrant(
            governor=self.governor,
            subject=self.subject,
            mode=self.mode,
            ttl_s=self.ttl_s,
            by=by,
            reason=self.reason,
            status=self.status,
            extra_micros=0 if self.extra_amount is None else _amount(self.extra_amount),
        )


def who_decides(principal: Principal, by: str | None) -> str:
    """Whose decision it is: the principal's own, or, where nobody is asked who they are, whose they say it is."""
    if principal is not LOCAL:
        if by not in (None, principal.name):
            raise ProblemError("invalid-field", f"the token is that of {principal.name}", field="by")
        return principal.name
    if by is None:
        raise ProblemError("invalid-field", "required: whose decision it is", field="by")
    return by


def _belongs(field: str, given: bool, mode: str, to_mode: str) -> None:  # noqa: FBT001 - both are named by the callers
    if given != (mode == to_mode):
        detail = f"required with mode {to_mode}" if mode == to_mode else f"goes with mode {to_mode} only"
        raise ProblemError("invalid-field", detail, field=field)


def _amount(text: str) -> int:
    try:
        micros = parse_micros(text)
    except ValueError as error:
        raise ProblemError("invalid-field", str(error), field="extra_amount") from error
    if micros <= 0:
        raise ProblemError("invalid-field", "expected more than 0", field="extra_amount")
    return micros


def tenants_router(service: Service) -> APIRouter:
    """The routes of operators."""
    router = APIRouter(tags=["tenants"], route_class=StrictRoute)

    @router.get("/v1/tenants", responses=answers(TenantsPage, 422), response_class=Response)
    async def list_tenants(
        request: Request,
        after: Annotated[str, Query(max_length=128, description="The `next` of the page before.")] = "",
        limit: Limit = 100,
    ) -> Any:
        """Known tenants in order of their names, with the state of each machine."""
        return json_response(service.tenants(after, limit, principal_of(request).tenants))

    @router.get("/v1/tenants/{tenant}", responses=answers(TenantView, 404, 422), response_class=Response)
    async def get_tenant(tenant: TenantPath) -> Any:
        """One tenant: the state of each machine, why, since when, and what it waits for."""
        view = service.tenant(tenant)
        if view is None:
            raise NotFoundError(f"tenant {tenant} is not known")
        return json_response(view)

    @router.put("/v1/tenants/{tenant}", responses=answers(TenantView, 400, 413, 415, 422, 503), response_class=Response)
    async def put_tenant(request: Request, tenant: TenantPath, body: TenantBody) -> Any:
        """Make a tenant known, or change its entitlement or profile. The change leaves a receipt."""
        change = TenantChange(body.entitlement, body.profile)
        return json_response(await service.put_tenant(tenant, change, principal_of(request).name))

    @router.post(
        "/v1/tenants/{tenant}/overrides",
        status_code=201,
        responses=answers(OverrideResult, 400, 404, 413, 415, 422, 503, status=201),
        response_class=Response,
    )
    async def grant_override(request: Request, tenant: TenantPath, body: OverrideBody) -> Any:
        """Take a decision out of a machine's hands for a while. Always ends by itself, always leaves a receipt."""
        result = await service.grant_override(tenant, body.grant(who_decides(principal_of(request), body.by)))
        where = f"/v1/tenants/{tenant}/overrides/{result.governor}/{result.subject}"
        return json_response(result, 201, {"Location": where})

    @router.delete(
        "/v1/tenants/{tenant}/overrides/{governor}/{subject:path}",
        responses=answers(OverrideResult, 404, 422, 503),
        response_class=Response,
    )
    async def withdraw_override(
        request: Request,
        tenant: TenantPath,
        governor: GovernorName,
        subject: Annotated[str, Path(max_length=128, pattern=SUBJECT_PATTERN)],
        by: Annotated[
            str | None,
            Query(min_length=1, max_length=256, pattern=PLAIN_PATTERN, description="Who withdraws it; see `by` there."),
        ] = None,
        reason: Annotated[  # noqa: ARG001 - for the receipt of what was asked for
            str | None, Query(min_length=1, max_length=256, pattern=PLAIN_PATTERN, description="Why; it is kept.")
        ] = None,
    ) -> Any:
        """End a machine's override before its time."""
        who = who_decides(principal_of(request), by)
        return json_response(await service.withdraw_override(tenant, governor, subject, who))

    @router.get("/v1/tenants/{tenant}/receipts", responses=answers(ReceiptsPage, 404, 422), response_class=Response)
    async def list_receipts(
        tenant: TenantPath,
        after: Annotated[int, Query(ge=-1, le=2**53, description="The `next` of the page before.")] = -1,
        limit: Limit = 100,
    ) -> Any:
        """A tenant's receipts, oldest first."""
        return json_response(await service.receipts(tenant, after, limit))

    return router


def receipts_router(service: Service) -> APIRouter:
    """Receipts by their ids."""
    router = APIRouter(tags=["receipts"])

    @router.get(
        "/v1/receipts/{receipt_id}", responses=answers(ReceiptView, 404, 410, 422, 503), response_class=Response
    )
    async def get_receipt(
        request: Request,
        receipt_id: Annotated[
            str, Path(pattern=r"^[0-9]{1,4}:[0-9]{1,15}$", description="`partition:index`.", examples=["0:1234"])
        ],
    ) -> Any:
        """One receipt: decoded, and its exact bytes."""
        partition, _, index = receipt_id.partition(":")
        return json_response(await service.receipt(int(partition), int(index), principal_of(request).tenants))

    return router
