"""Admission in the words of gateways: NGINX's `auth_request` and Envoy's `ext_authz` over HTTP.

What a request is, the gateway says in headers that it sets itself: `x-governor-tenant`, and where it knows them
`x-governor-class`, `x-governor-user`, `x-governor-cost`. The original request's path and query are not looked at.

- NGINX takes 2xx for yes, 401 and 403 for no, and anything else for a failure of ours
  (https://nginx.org/en/docs/http/ngx_http_auth_request_module.html). So a refusal is 403, and the status that the
  client shall see stands in `x-governor-status`; the body does not reach it.
- Envoy takes 200 for yes, 5xx for a failure of ours, and hands any other answer to the client as it is
  (https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter). So a refusal is 429.
  It appends the original path to ours, and keeps the original method.
"""

from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from governors.admission import CLASSES, Admitted
from governors.api.admit import CLASS_DEFAULT, COST_MAX, Asked, Endpoint, invalid, read_asked, refusal
from governors.api.documents import problem_answers
from governors.api.guard import principal_of, require_tenant
from governors.api.problem import MEDIA_TYPE, ProblemError, body_of
from governors.api.service import Service
from governors.telemetry.metrics import Metrics
from ingest.errors import Reason

NGINX_PATH: Final = "/v1/admit/nginx"
ENVOY_PATH: Final = "/v1/admit/envoy/{original:path}"
PREFIX: Final = "x-governor-"
_ASKED: Final = ("tenant", "class", "user", "cost")


def nginx_endpoint(service: Service, metrics: Metrics) -> Endpoint:
    """The handler for `auth_request`."""

    async def admit_for_nginx(request: Request) -> Response:
        refused = _refusal_of(service, metrics, request)
        if refused is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        status = HTTPStatus.FORBIDDEN
        return Response(body_of(refused, status), status, refused.headers, MEDIA_TYPE)

    return admit_for_nginx


def envoy_endpoint(service: Service, metrics: Metrics) -> Endpoint:
    """The handler for `ext_authz`."""

    async def admit_for_envoy(request: Request) -> Response:
        refused = _refusal_of(service, metrics, request)
        if refused is not None:
            raise refused
        return Response(status_code=HTTPStatus.OK)

    return admit_for_envoy


def read_headers(headers: Headers) -> Asked:
    """What a gateway asks. Raises ProblemError naming the header."""
    for name in _ASKED:
        # Of two tenants one may be what a client has sent, and what the gateway failed to replace.
        if len(headers.getlist(PREFIX + name)) > 1:
            raise invalid(PREFIX + name, "given twice")
    tenant, klass, user, cost = (_said(headers.get(PREFIX + name, "")) for name in _ASKED)
    return read_asked(tenant, klass or CLASS_DEFAULT, user, cost or "1", PREFIX)


def _said(value: str) -> str:
    """Envoy's formatter writes a dash for what is not there."""
    return "" if value == "-" else value


def _refusal_of(service: Service, metrics: Metrics, request: Request) -> ProblemError | None:
    try:
        asked = read_headers(request.headers)
    except ProblemError:
        metrics.rejected("admit", Reason.BAD_FIELD)
        raise
    require_tenant(principal_of(request), asked.tenant)
    answer = service.admit(asked.tenant, asked.klass, asked.user, asked.cost)
    if isinstance(answer, Admitted):
        return None
    refused = refusal(asked.tenant, answer)
    said = {f"{PREFIX}status": str(refused.status_code), f"{PREFIX}reason": f"{answer.policy}: {answer.reason}"}
    refused.headers = {**(refused.headers or {}), **said}
    return refused


def gateway_operations() -> dict[str, dict[str, Any]]:
    """The two routes in the OpenAPI document."""
    texts = {
        "tenant": ("Whose request it is.", {"type": "string", "maxLength": 128}),
        "class": ("How important it is.", {"type": "string", "enum": list(CLASSES), "default": CLASS_DEFAULT}),
        "user": ("The same user gets the same answer within an hour.", {"type": "string", "maxLength": 256}),
        "cost": ("How much it counts against a rate.", {"type": "integer", "minimum": 1, "maximum": COST_MAX}),
    }
    parameters: list[dict[str, Any]] = [
        {"name": PREFIX + name, "in": "header", "required": name == "tenant", "description": text, "schema": schema}
        for name, (text, schema) in texts.items()
    ]
    original = {"name": "original", "in": "path", "required": True, "schema": {"type": "string"}}
    said = {
        name: {"schema": {"type": "string"}, "description": text}
        for name, text in {
            "Retry-After": "Seconds, jittered.",
            "RateLimit": "draft-ietf-httpapi-ratelimit-headers.",
            f"{PREFIX}status": "The status that the client shall see.",
            f"{PREFIX}reason": "Which rule refused.",
        }.items()
    }
    nginx: dict[str, dict[str, Any]] = {
        "204": {"description": "It may pass."},
        **{str(status): answer for status, answer in problem_answers(403, 422).items()},
    }
    nginx["403"] |= {"description": "It may not pass, or the token is not for this.", "headers": said}
    envoy: dict[str, dict[str, Any]] = {
        "200": {"description": "It may pass."},
        **{str(status): answer for status, answer in problem_answers(422, 429).items()},
    }
    envoy["429"]["headers"] = said
    return {
        NGINX_PATH: {
            "tags": ["admission"], "operationId": "get_admit_nginx", "summary": "The same for NGINX's auth_request",
            "description": "Asked by the gateway's own headers. 204, or 403.", "parameters": parameters,
            "responses": nginx,
        },
        ENVOY_PATH.replace(":path", ""): {
            "tags": ["admission"], "operationId": "get_admit_envoy", "summary": "The same for Envoy's ext_authz",
            "description": "Any method and any path behind the prefix. 200, or 429.",
            "parameters": [original, *parameters], "responses": envoy,
        },
    }  # fmt: skip
