"""Admission in the words of gateways: NGINX's `auth_request` and Envoy's `ext_authz` over HTTP.

What a request is, the gateway says in headers that it sets itself: `x-governor-tenant`, and where it knows them
`x-governor-class`, `x-governor-user`, `x-governor-cost`. The original request's path and query are not looked at.

- NGINX takes 2xx for yes, 401 and 403 for no, and anything else for a failure of ours
  (https://nginx.org/en/docs/http/ngx_http_auth_request_module.html). So a refusal is 403, as is a header that cannot be
  understood, and the status that the client shall see stands in `x-governor-status`; the body does not reach it.
- Envoy takes 200 for yes, 5xx for a failure of ours, and hands any other answer to the client as it is
  (https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter). So a refusal is 429.
  It appends the original path to ours, and keeps the original method.
"""

from collections.abc import Iterable
from typing import Any, Final

from governors.admission import CLASSES, Refused, Viewed
from governors.api.admit import CLASS_DEFAULT, COST_MAX, Asked, invalid, read_asked, refusal
from governors.api.documents import problem_answers
from governors.api.problem import ProblemError

NGINX_PATH: Final = "/v1/admit/nginx"
ENVOY_PREFIX: Final = "/v1/admit/envoy/"
ENVOY_PATH: Final = ENVOY_PREFIX + "{original:path}"
PREFIX: Final = "x-governor-"
_HEADERS: Final = tuple(f"{PREFIX}{name}".encode() for name in ("tenant", "class", "user", "cost"))


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """What a gateway asks. Raises ProblemError naming the header."""
    given: dict[bytes, str] = {}
    for name, value in headers:
        if name in _HEADERS:
            # Of two tenants one may be what a client has sent, and what the gateway failed to replace.
            if name in given:
                raise invalid(name.decode(), "given twice")
            given[name] = _said(value.decode("latin-1"))
    tenant, klass, user, cost = (given.get(name, "") for name in _HEADERS)
    return read_asked(tenant, klass or CLASS_DEFAULT, user, cost or "1", PREFIX)


def _said(value: str) -> str:
    """Envoy's formatter writes a dash for what is not there."""
    return "" if value == "-" else value


def refusal_for_gateway(tenant: str, answer: Refused) -> ProblemError:
    """A refusal, with what the gateway makes headers of."""
    refused = refusal(tenant, answer)
    said = {f"{PREFIX}status": str(refused.status_code), f"{PREFIX}reason": f"{answer.policy}: {answer.reason}"}
    refused.headers = {**(refused.headers or {}), **said}
    return refused


def age_headers(viewed: Viewed) -> dict[str, str]:
    """What says how old the view is that an answer was given by; nothing where there was none."""
    return {} if viewed.age_ms is None else {f"{PREFIX}view-age-ms": str(viewed.age_ms)}


def unreadable_for_gateway(problem: ProblemError) -> ProblemError:
    """A header that cannot be, with the same."""
    said = {f"{PREFIX}status": str(problem.status_code), f"{PREFIX}reason": f"{problem.field}: not valid"}
    problem.headers = {**(problem.headers or {}), **said}
    return problem


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
            f"{PREFIX}view-age-ms": "There where whoever answers does not have the tenant's log.",
        }.items()
    }
    nginx: dict[str, dict[str, Any]] = {
        "204": {"description": "It may pass."},
        **{str(status): answer for status, answer in problem_answers(403).items()},
    }
    nginx["403"] |= {
        "description": "It may not pass, a header cannot be understood, or the token is not for this.",
        "headers": said,
    }
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
