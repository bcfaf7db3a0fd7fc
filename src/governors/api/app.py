"""The HTTP API as one ASGI application."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from governors.admission import CLASSES
from governors.api.access import ACCESS, AccessTable, Door, Reach
from governors.api.actions import actions_router
from governors.api.admit import CLASS_DEFAULT, COST_MAX
from governors.api.docs_page import docs_route
from governors.api.documents import (
    ANSWER_EXAMPLE,
    REF,
    SIGNAL_EXAMPLE,
    answers,
    component_schemas,
    problem_answers,
)
from governors.api.edge import Edge
from governors.api.gateways import gateway_operations
from governors.api.governing import governing_router
from governors.api.guard import Authenticate, Doorkeeper, Guard
from governors.api.health import health_router
from governors.api.log import log_router
from governors.api.operations import Operations, operations_router
from governors.api.peer_signals import OPERATIONS_PATH as PEER_OPERATIONS
from governors.api.peer_signals import PATH as PEER_SIGNALS
from governors.api.peer_signals import DecidesHere, peer_operations_endpoint, peer_signals_endpoint
from governors.api.peers import Peers, peers_router
from governors.api.problem import problem_of, render
from governors.api.proofs import Proofs, proofs_router
from governors.api.push import Pushes, alertmanager_endpoint, pubsub_endpoint
from governors.api.push_documents import push_operations
from governors.api.rates import RateLimits
from governors.api.service import AdmitAnswer, Service, ServiceError
from governors.api.signals import signals_endpoint
from governors.api.stream import stream_router
from governors.api.tenants import receipts_router, tenants_router
from governors.api.turnstile import Turnstile
from governors.settings import Settings
from governors.telemetry.metrics import Metrics
from ingest.decode.body import MEDIA_TYPES
from ingest.decode.limits import DecodeLimits
from ingest.errors import IngestError
from ledger.errors import LedgerError

DESCRIPTION: Final = (
    "Send signals about tenants, read what was decided and why, steer it, and fetch the receipts. "
    "Every error is a problem document (RFC 9457)."
)


class Here(DecidesHere, Peers, Protocol):
    """What a worker is to the others."""


@dataclass(frozen=True, slots=True)
class Peering:
    """What a worker that shares a log with others needs of the edge. `authenticate` finds out which worker asks, None
    where nobody is asked who they are; `here` decides what they hand on and tells them what they ask for; `route` sends
    each request to the worker that has what it is about.
    """

    authenticate: Authenticate | None
    here: Here
    route: Callable[[ASGIApp, AccessTable], ASGIApp]


class Api(FastAPI):
    """The application behind its turnstile, which answers what gateways ask before anything else is looked at."""

    def __init__(self, turnstile: Turnstile, **options: Any) -> None:
        super().__init__(**options)
        self.turnstile = turnstile

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not await self.turnstile.answer(scope, send):
            await super().__call__(scope, receive, send)


def build_api(
    service: Service,
    settings: Settings,
    metrics: Metrics,
    clock_us: Callable[[], int],
    rng: random.Random,
    authenticate: Authenticate | None = None,
    proofs: Proofs | None = None,
    pushes: Pushes | None = None,
    peering: Peering | None = None,
) -> Api:
    """The application. `clock_us` is the wall clock in µs; `rng` spreads Retry-After; without `authenticate` nobody is
    asked who they are, without `proofs` there are none, without `pushes` nobody can push, without `peering` there are
    no other workers.
    """
    http = settings.http
    rates = RateLimits(settings.limits, metrics, clock_us, rng)
    door = pushes.pubsub if pushes is not None else None
    doors: dict[Door, Authenticate | None] = {Door.OURS: authenticate}
    if door is not None:
        doors[Door.PUSH] = door.authenticate
    if peering is not None:
        doors[Door.PEER] = peering.authenticate
    access = AccessTable(doors=frozenset(doors))
    doorkeeper = Doorkeeper(access, doors, rates)
    app = Api(
        Turnstile(doorkeeper, service, metrics, rng, timeout_s=http.request_timeout_s),
        title="Governors",
        version=version("governors"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Our own metrics say the same; FastAPI's cost a span for every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    # The last one added comes first: what takes too long is ended, and counted, also where it is refused.
    app.add_middleware(Guard, doorkeeper=doorkeeper, rng=rng)
    app.add_middleware(
        Operations,
        access=access,
        record=service.record_operation,
        on_left_out=metrics.operation_left_out,
        clock_us=clock_us,
        rng=rng,
    )
    if peering is not None:
        app.add_middleware(peering.route, access)
    app.add_middleware(
        Edge,
        metrics=metrics,
        rng=rng,
        timeout_s=http.request_timeout_s,
        body_bytes_max=http.body_bytes_max,
    )

    answer_problems(app, rng)
    limits = DecodeLimits(body_bytes_max=http.body_bytes_max, batch_max=http.batch_max)
    # A plain route, and first: they are matched in order, and this one is asked thousands of times a second.
    app.router.routes.insert(
        0, Route("/v1/signals", signals_endpoint(service, metrics, limits, clock_us, rates), methods=["POST"])
    )
    app.router.routes.append(docs_route(app.title))
    if pushes is not None:
        alerts = alertmanager_endpoint(service, pushes, metrics, limits, clock_us, rates)
        app.router.routes.append(Route("/v1/push/alertmanager", alerts, methods=["POST"]))
    if pushes is not None and pushes.pubsub is not None:
        messages = pubsub_endpoint(pushes.pubsub, pushes.dead_letters, metrics, limits, clock_us)
        app.router.routes.append(Route("/v1/push/pubsub", messages, methods=["POST"]))
    if peering is not None:
        handed_on = peer_signals_endpoint(peering.here, clock_us)
        app.router.routes.append(Route(PEER_SIGNALS, handed_on, methods=["POST"]))
        operations = peer_operations_endpoint(peering.here)
        app.router.routes.append(Route(PEER_OPERATIONS, operations, methods=["POST"]))
        app.include_router(peers_router(peering.here))
    app.include_router(health_router(service, metrics))
    app.include_router(tenants_router(service))
    app.include_router(governing_router(service))
    app.include_router(actions_router(service))
    app.include_router(receipts_router(service))
    app.include_router(operations_router(service))
    app.include_router(stream_router(service))
    if proofs is not None:
        app.include_router(log_router(proofs))
        app.include_router(proofs_router(proofs))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend its document
    return app


def answer_problems(app: FastAPI, rng: random.Random) -> None:
    """Have everything that its routes raise answered with a problem document."""

    async def answer_problem(_request: Request, error: Exception) -> Response:
        return render(problem_of(error), rng)

    for kind in (HTTPException, RequestValidationError, ServiceError, IngestError, LedgerError, Exception):
        app.add_exception_handler(kind, answer_problem)


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with the plain routes and the structs' schemas added."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= component_schemas()
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    paths = {"/v1/signals": {"post": _signals_operation()}, "/v1/admit": {"get": _admit_operation()}}
    paths |= {path: {"get": operation} for path, operation in gateway_operations().items()}
    routed = {getattr(route, "path", "") for route in app.routes}
    paths |= {path: {"post": operation} for path, operation in push_operations().items() if path in routed}
    document["paths"] = paths | document["paths"]
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "push": {
            "type": "http",
            "scheme": "bearer",
            "description": "Google's, for an account that pushes.",
        },
    }
    for (method, path), access in ACCESS.items():
        operation = document["paths"].get(path.replace(":path", ""), {}).get(method.lower())
        if operation is None:
            continue
        operation["responses"] |= _statuses(problem_answers(431))
        if access.reach is not Reach.NOBODY:
            operation["security"] = [{"token": [access.role]} if access.door is Door.OURS else {"push": []}]
            operation["responses"] = _statuses(problem_answers(401, 403, 429)) | operation["responses"]
    return document


def _signals_operation() -> dict[str, Any]:
    answer = {"schema": {"$ref": f"{REF}SignalsAnswer"}, "example": ANSWER_EXAMPLE}
    signal = {"$ref": f"{REF}Signal"}
    one_or_many = {"oneOf": [signal, {"type": "array", "items": signal}]}
    schemas = {
        "application/json": {"schema": one_or_many, "example": SIGNAL_EXAMPLE},
        "application/x-ndjson": {"schema": {"type": "string", "description": "One signal a line."}},
    }
    others: dict[str, Any] = {name: {"schema": {}} for name in MEDIA_TYPES if name not in schemas}
    responses = _statuses(answers(answer, 400, 408, 413, 415, 422, 429, 503))
    responses["429"]["headers"] = _rate_limit_headers("there where anything is limited")
    return {
        "tags": ["signals"],
        "operationId": "post_signals",
        "summary": "Send signals",
        "description": (
            "One signal, an array, a line for each, or CloudEvents 1.0 (structured, batch, or binary with `ce-` "
            "headers). Answers 200 once each has its outcome, also when some were rejected: those say why. A single "
            "signal that is rejected is answered with 422."
        ),
        "parameters": [
            {
                "name": "wait",
                "in": "query",
                "description": "How durable the receipts shall be before the answer.",
                "schema": {"type": "string", "enum": ["local", "committed"], "default": "local"},
            }
        ],
        "requestBody": {"required": True, "content": {**schemas, **others}},
        "responses": responses,
    }


def _admit_operation() -> dict[str, Any]:
    def parameter(name: str, schema: dict[str, Any], description: str, *, required: bool = False) -> dict[str, Any]:
        return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}

    responses = _statuses(answers(AdmitAnswer, 422, 429))
    responses["429"]["headers"] = _rate_limit_headers("there where the rule is a rate")
    return {
        "tags": ["admission"],
        "operationId": "get_admit",
        "summary": "May this request pass now?",
        "description": "200 or 429, from memory, for gateways that ask for each request.",
        "parameters": [
            parameter("tenant", {"type": "string", "maxLength": 128}, "Whose request it is.", required=True),
            parameter(
                "class",
                {"type": "string", "enum": list(CLASSES), "default": CLASS_DEFAULT},
                "How important it is: lower classes give way first.",
            ),
            parameter(
                "user", {"type": "string", "maxLength": 256}, "The same user gets the same answer within an hour."
            ),
            parameter(
                "cost",
                {"type": "integer", "minimum": 1, "maximum": COST_MAX, "default": 1},
                "How much it counts against a rate.",
            ),
        ],
        "responses": responses,
    }


def _rate_limit_headers(policy: str) -> dict[str, Any]:
    texts = {
        "Retry-After": "Seconds, jittered.",
        "RateLimit": "draft-ietf-httpapi-ratelimit-headers.",
        "RateLimit-Policy": f"The same; {policy}.",
    }
    return {name: {"schema": {"type": "string"}, "description": text} for name, text in texts.items()}


def _statuses(responses: dict[int | str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(status): response for status, response in responses.items()}
