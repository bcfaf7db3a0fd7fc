"""Whatever an operator asks for leaves a receipt that names them; whoever may not, leaves one of the refusal."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from governors.api.access import ACCESS
from governors.api.app import build_api
from governors.api.operations import OPERATORS, READING, REFUSALS_BURST
from governors.api.service import NotFoundError, TenantView
from governors.auth.principal import Principal, Role
from governors.settings import HttpSettings, LimitSettings, Settings
from governors.telemetry.metrics import Metrics
from governors.tenants.operations import Operation
from ledger.errors import LedgerFailedError

NOW_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z
OVERRIDE = {"governor": "cost_guard", "subject": "prod", "mode": "release", "reason": "launch day"}
ROLES: dict[str, Role] = {"alice": "admin", "oscar": "operate", "rita": "read", "feed": "ingest"}
# A request for each route that is an operator's.
ASKED = {
    ("PUT", "/v1/tenants/{tenant}"): ("/v1/tenants/acme", {"entitlement": "suspended", "reason": "unpaid"}),
    ("POST", "/v1/tenants/{tenant}/overrides"): ("/v1/tenants/acme/overrides", OVERRIDE),
    ("DELETE", "/v1/tenants/{tenant}/overrides/{governor}/{subject:path}"): (
        "/v1/tenants/acme/overrides/cost_guard/a/b?reason=it+is+over",
        None,
    ),
    ("POST", "/v1/tenants/{tenant}/approvals"): (
        "/v1/tenants/acme/approvals",
        {"governor": "cost_guard", "verdict": "approve", "reason": "go on"},
    ),
    ("POST", "/v1/tenants/{tenant}/actions/{action_id}/retry"): (
        "/v1/tenants/acme/actions/act-1/retry",
        {"reason": "it is well again"},
    ),
    ("POST", "/v1/tenants/{tenant}/actions/{action_id}/abandon"): (
        "/v1/tenants/acme/actions/act-1/abandon",
        {"reason": "done by hand"},
    ),
    ("PUT", "/v1/tenants/{tenant}/emergency-stop"): ("/v1/tenants/acme/emergency-stop", {"reason": "drill"}),
    ("DELETE", "/v1/tenants/{tenant}/emergency-stop"): ("/v1/tenants/acme/emergency-stop?reason=over", None),
    ("PUT", "/v1/emergency-stop"): ("/v1/emergency-stop", {"reason": "drill"}),
    ("DELETE", "/v1/emergency-stop"): ("/v1/emergency-stop?reason=over", None),
    ("POST", "/v1/policies/reload"): ("/v1/policies/reload", None),
    ("POST", "/v1/cluster/drain"): ("/v1/cluster/drain", None),
    ("DELETE", "/v1/cluster/drain"): ("/v1/cluster/drain", None),
}
REASONS = [
    "unpaid",
    "launch day",
    "it is over",
    "go on",
    "it is well again",
    "done by hand",
    "drill",
    "over",
    "drill",
    "over",
    "",
    "",
    "",
]


@pytest.fixture
def timeout_s() -> float:
    return 30.0


@pytest.fixture
def requests_per_s() -> int | None:
    return None


@pytest_asyncio.fixture
async def served(api: Any, timeout_s: float, requests_per_s: int | None) -> AsyncIterator[Any]:
    """The API behind tokens, asked from 10.4.0.17."""

    async def authenticate(token: bytes) -> Principal | None:
        name, _, tenant = token.decode().partition("@")
        role = ROLES.get(name)
        return None if role is None else Principal(name, frozenset({role}), frozenset({tenant}) if tenant else None)

    api.metrics = Metrics("0")
    limits = LimitSettings(token_requests_per_s=requests_per_s)
    settings = Settings(http=HttpSettings(request_timeout_s=timeout_s), limits=limits)
    app = build_api(api.service, settings, api.metrics, lambda: NOW_US, random.Random(1), authenticate)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.4.0.17", 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://governors") as client:
        api.client = client
        yield api


async def ask(api: Any, method: str, path: str, body: Any = None, token: str = "alice") -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
    response: httpx.Response = await api.client.request(method, path, headers=headers, content=content)
    return response


def left(api: Any) -> Operation:
    (operation,) = api.service.operated
    assert isinstance(operation, Operation)
    return operation


def test_every_route_by_which_an_operator_changes_something_is_asked_here() -> None:
    operators = {one for one, access in ACCESS.items() if access.role in OPERATORS and one[0] not in READING}
    assert operators == ASKED.keys()


@pytest.mark.parametrize(("method", "route", "reason"), [(*one, why) for one, why in zip(ASKED, REASONS, strict=True)])
async def test_an_operation_leaves_who_what_when_from_where_why_and_what_came_of_it(
    served: Any, method: str, route: str, reason: str
) -> None:
    path, body = ASKED[method, route]
    response = await ask(served, method, path, body)

    assert response.is_success
    operation = left(served)
    assert operation.by == "alice"
    assert operation.action == f"{method} {route}"
    assert operation.path == path.partition("?")[0]
    assert operation.tenant == ("acme" if "{tenant}" in route else "")
    assert operation.at_us == NOW_US
    assert operation.address == "10.4.0.17"
    assert operation.reason == reason
    assert operation.status == response.status_code
    assert operation.receipt == response.json().get("receipt", "")
    assert (json.loads(operation.asked) if body else operation.asked) == (body or "")


@pytest.mark.parametrize(("method", "route"), ASKED)
@pytest.mark.parametrize("token", ["rita", "feed", "alice@globex"])
async def test_who_may_not_is_named_too_and_nothing_of_the_body_is_read(
    served: Any, method: str, route: str, token: str
) -> None:
    path, body = ASKED[method, route]
    assert (await ask(served, method, path, body, token)).status_code == 403
    operation = left(served)
    assert (operation.by, operation.status, operation.problem) == (token.partition("@")[0], 403, "forbidden")
    assert (operation.asked, operation.asked_bytes) == ("", 0)
    assert not served.service.asked


@pytest.mark.parametrize(("method", "route"), ASKED)
async def test_nobody_leaves_nothing(served: Any, method: str, route: str) -> None:
    path, body = ASKED[method, route]
    assert (await ask(served, method, path, body, "mallory")).status_code == 401
    assert not served.service.operated


async def test_what_is_no_operators_leaves_nothing(served: Any) -> None:
    served.service.known["acme"] = TenantView("acme", "active", "standard", "NORMAL", [])
    assert (await ask(served, "GET", "/v1/tenants/acme")).status_code == 200
    assert (await ask(served, "POST", "/v1/signals", b"[]")).status_code == 200
    assert (await ask(served, "PATCH", "/v1/tenants/acme")).status_code == 405
    assert not served.service.operated


@pytest.mark.parametrize(
    ("body", "error", "status", "problem"),
    [
        (OVERRIDE, NotFoundError("no such machine"), 404, "not-found"),
        (OVERRIDE | {"mode": "sing"}, None, 422, "invalid-field"),
        (b"{", None, 400, "unreadable-body"),
        (OVERRIDE, RuntimeError("a defect"), 500, "internal"),
    ],
)
async def test_what_came_to_nothing_leaves_a_receipt_of_that(
    served: Any, body: Any, error: Exception | None, status: int, problem: str
) -> None:
    served.service.error = error
    assert (await ask(served, "POST", "/v1/tenants/acme/overrides", body)).status_code == status
    operation = left(served)
    assert (operation.by, operation.status, operation.problem) == ("alice", status, problem)
    assert operation.asked_bytes > 0


async def test_no_answer_before_the_receipt(served: Any) -> None:
    served.service.unrecordable = LedgerFailedError("the disk is gone")
    response = await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE)
    assert response.status_code == 503
    assert response.json()["type"] == "urn:governors:problem:not-accepting"


@pytest.mark.parametrize("timeout_s", [0.05])
async def test_what_takes_too_long_leaves_a_receipt_that_nobody_knows(served: Any) -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    served.service.grant_override = never
    response = await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE)
    assert response.json()["type"] == "urn:governors:problem:outcome-unknown"
    operation = left(served)
    assert (operation.status, operation.problem, operation.reason) == (503, "outcome-unknown", "launch day")


@pytest.mark.parametrize("token", ["gov_" + "x" * 43, "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"])
async def test_a_token_that_somebody_wrote_by_mistake_is_not_kept(served: Any, token: str) -> None:
    body = OVERRIDE | {"reason": f"with {token}"}
    await ask(served, "POST", "/v1/tenants/acme/overrides", body)
    await ask(served, "DELETE", f"/v1/tenants/acme/overrides/cost_guard/{token}?reason={token}")
    await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE | {token: 1})
    assert len(served.service.operated) == 3
    for operation in served.service.operated:
        assert token not in repr(operation)
        assert "(a token)" in repr(operation)


async def test_a_large_body_is_kept_by_its_beginning(served: Any) -> None:
    body = json.dumps(OVERRIDE | {"reason": "x" * 20_000}).encode()
    assert (await ask(served, "POST", "/v1/tenants/acme/overrides", body)).status_code == 422
    operation = left(served)
    assert operation.asked_bytes == len(body)
    assert operation.asked.startswith('{"governor"')
    assert len(operation.asked) == 4_096


async def test_a_flood_of_refusals_leaves_few_receipts_and_their_number(served: Any) -> None:
    for _ in range(REFUSALS_BURST + 25):
        assert (await ask(served, "PUT", "/v1/tenants/acme", {}, "rita")).status_code == 403
    assert len(served.service.operated) == REFUSALS_BURST
    assert served.count("governors_operations_left_out_total") == 25
    # Whoever may is recorded all the same, and says how many there were.
    await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE)
    assert served.service.operated[-1].left_out == 25
    await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE)
    assert served.service.operated[-1].left_out == 0


async def test_whoever_may_leaves_a_receipt_however_often_they_ask(served: Any) -> None:
    for _ in range(REFUSALS_BURST + 1):
        await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE)
    assert len(served.service.operated) == REFUSALS_BURST + 1


@pytest.mark.parametrize("requests_per_s", [1])
async def test_what_comes_too_soon_was_not_looked_at_and_leaves_nothing(served: Any) -> None:
    asked = [await ask(served, "POST", "/v1/tenants/acme/overrides", OVERRIDE) for _ in range(11)]
    assert [response.status_code for response in asked] == [201] * 10 + [429]
    assert len(served.service.operated) == 10


async def test_where_nobody_is_asked_who_they_are_it_says_so(api: Any) -> None:
    response = await api.client.post("/v1/tenants/acme/overrides", json=OVERRIDE | {"by": "alice"})
    assert response.status_code == 201
    operation = left(api)
    assert operation.by == "local"
    assert json.loads(operation.asked)["by"] == "alice"
