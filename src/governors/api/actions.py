"""Actions that have not ended, as operators see them, hurry them and give them up."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from governors.api.documents import answers
from governors.api.governing import By
from governors.api.guard import principal_of
from governors.api.respond import json_response
from governors.api.service import ActionAsked, ActionsPage, Service
from governors.api.strict_json import StrictRoute
from governors.api.tenants import Limit, TenantPath, Text, who_decides

ID_CHARS_MAX = 128
ActionPath = Annotated[str, Path(max_length=ID_CHARS_MAX, pattern=r"^[A-Za-z0-9-]+$", description="The action's id.")]
After = Annotated[str, Query(max_length=ID_CHARS_MAX, description="The last id of the page before.")]


class ActionBody(BaseModel):
    """Why an operator steps in, and whose decision it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Text
    by: By = None


def actions_router(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["actions"], route_class=StrictRoute)
    asked = answers(ActionAsked, 400, 404, 413, 415, 422, 503)

    @router.get("/v1/actions", responses=answers(ActionsPage, 422), response_class=Response)
    async def get_actions(request: Request, after: After = "", limit: Limit = 100) -> Any:
        """Actions that have not ended, in order of their ids: whose, how often they were tried, what came of it."""
        return json_response(service.actions(after, limit, principal_of(request).tenants))

    @router.post("/v1/tenants/{tenant}/actions/{action_id}/retry", responses=asked, response_class=Response)
    async def retry(request: Request, tenant: TenantPath, action_id: ActionPath, body: ActionBody) -> Any:
        """Try again now, also where its executor is being left alone."""
        who_decides(principal_of(request), body.by)
        return json_response(service.retry_action(tenant, action_id))

    @router.post("/v1/tenants/{tenant}/actions/{action_id}/abandon", responses=asked, response_class=Response)
    async def abandon(request: Request, tenant: TenantPath, action_id: ActionPath, body: ActionBody) -> Any:
        """Try no more: its machine is told that it was not done, and asks anew for what is to be so then."""
        who = who_decides(principal_of(request), body.by)
        return json_response(service.abandon_action(tenant, action_id, who))

    return router
