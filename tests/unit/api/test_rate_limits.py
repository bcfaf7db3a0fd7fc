"""What comes too soon is told so and when to come again; what is told holds; and nobody pays for another."""

import json
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support import foreign
from support.pushes import Handler, Sink, pusher_of

from governors.api.app import build_api
from governors.api.push import PubSubDoor, Pushes
from governors.api.service import TenantView
from governors.auth.principal import Principal, Role
from governors.settings import LimitSettings, Settings
from governors.telemetry.metrics import Metrics
from ingest.decode.tenants import Routing, Rule

Wire = Callable[..., dict[str, Any]]
NOON_US = foreign.NOON_US
# 30 signals of a token at once, 20 about a tenant, 10 other requests.
LIMITS = LimitSettings(token_signals_per_s=3, tenant_signals_per_s=2, token_requests_per_s=1)
ROLES: dict[str, Role] = {"feed": "ingest", "other": "ingest", "ops": "operate", "gate": "admit"}
SCOPED = Principal("acmes", frozenset({"ingest"}), frozenset({"acme"}))


async def authenticate(token: bytes) -> Principal | None:
    name = token.decode()
    if name == "acmes":
        return SCOPED
    return Principal(name, frozenset({ROLES[name]})) if name in ROLES else None


@dataclass
class Edge:
    """The real application, a clock that the test moves, and a service that takes everything."""

    service: Any
    metrics: Metrics
    client: httpx.AsyncClient
    handler: Handler
    wire: Wire
    now_us: int = NOON_US
    sent: int = 0

    async def send(self, *tenants: str, token: str | None = "feed") -> httpx.Response:
        """A batch of signals about these tenants."""
        batch = [self.signal(tenant) for tenant in tenants]
        return await self.post(json.dumps(batch).encode(), token)

    async def post(self, body: bytes, token: str | None = "feed") -> httpx.Response:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        return await self.client.post("/v1/signals", content=body, headers=headers)

    def signal(self, tenant: str) -> dict[str, Any]:
        self.sent += 1
        return self.wire(tenant=tenant, id=f"s-{self.sent}")

    async def get(self, path: str, token: str) -> httpx.Response:
        return await self.client.get(path, headers={"authorization": f"Bearer {token}"})

    def wait(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def taken(self) -> list[str]:
        return [signal.id for signals in self.service.submitted for signal in signals]


@pytest.fixture
def limits() -> LimitSettings:
    return LIMITS


@pytest.fixture
def is_asked() -> bool:
    return True


@pytest_asyncio.fixture
async def edge(api: Any, wire: Wire, limits: LimitSettings, is_asked: bool) -> AsyncIterator[Edge]:
    metrics, handler = Metrics("0"), Handler()
    pushes = Pushes(Routing([Rule(tenant_from="label.tenant")]), Sink(), PubSubDoor(pusher_of, handler))
    made: list[Edge] = []
    app = build_api(
        api.service,
        Settings(limits=limits),
        metrics,
        lambda: made[0].now_us,
        random.Random(1),
        authenticate if is_asked else None,
        pushes=pushes,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://governors") as client:
        made.append(Edge(api.service, metrics, client, handler, wire))
        yield made[0]


def outcomes(response: httpx.Response) -> list[str]:
    return [one["error"]["reason"] if "error" in one else one["outcome"] for one in response.json()["results"]]


def problem(response: httpx.Response, *policies: str) -> int:
    """Checks a refusal of everything; returns its Retry-After."""
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["type"] == "urn:governors:problem:quota-exceeded"
    assert document["violated-policies"] == list(policies)
    assert document["reason"] == "rate_limited"
    retry_s = int(response.headers["retry-after"])
    told_s = [int(t) for t in re.findall(r";t=(\d+)", response.headers["ratelimit"])]
    assert retry_s >= max(told_s) >= 1
    return retry_s


async def test_what_is_left_is_told_with_every_answer(edge: Edge) -> None:
    response = await edge.send("acme", "acme")

    assert response.status_code == 200
    assert response.headers["ratelimit-policy"] == (
        '"token";q=30;w=10;governors-qu="signals", "tenant";q=20;w=10;governors-qu="signals";pk=:YWNtZQ==:'
    )
    assert response.headers["ratelimit"] == '"token";r=28;t=1, "tenant";r=18;t=1;pk=:YWNtZQ==:'
    # Of several tenants nothing is told, as long as none is over its limit.
    response = await edge.send("acme", "globex")
    assert response.headers["ratelimit"] == '"token";r=26;t=2'


async def test_a_signal_that_comes_too_soon_is_refused_and_after_retry_after_it_is_taken(edge: Edge) -> None:
    assert outcomes(await edge.send(*["acme"] * 20)) == ["decided"] * 20

    one = json.dumps(edge.signal("acme")).encode()
    retry_s = problem(await edge.post(one), "tenant")
    assert "s-21" not in edge.taken

    edge.wait(retry_s)
    assert outcomes(await edge.post(one)) == ["decided"]
    assert edge.count("governors_rate_limited_total", limit="tenant") == 1
    assert edge.count("governors_rejected_total", source="http", reason="rate_limited") == 1


async def test_of_a_batch_the_beginning_is_taken_and_each_of_the_rest_says_when_to_come_again(edge: Edge) -> None:
    response = await edge.send(*["acme"] * 25)

    assert response.status_code == 200
    assert outcomes(response) == ["decided"] * 20 + ["rate_limited"] * 5
    late = response.json()["results"][20:]
    assert [one["id"] for one in late] == [f"s-{number}" for number in range(21, 26)]
    (retry_s,) = {one["error"]["retry_after_s"] for one in late}
    assert "2 signals about tenant acme may come a second, and 20 at once" in late[0]["error"]["detail"]
    assert response.headers["ratelimit"].endswith('"tenant";r=0;t=3;pk=:YWNtZQ==:')
    assert response.headers["ratelimit"].count(";r=") == 1

    edge.wait(retry_s)
    assert outcomes(await edge.send(*["acme"] * 5)) == ["decided"] * 5


async def test_a_tenant_over_its_limit_costs_its_neighbours_nothing(edge: Edge) -> None:
    response = await edge.send(*["acme"] * 20, "globex", "acme", "globex")

    assert outcomes(response) == ["decided"] * 21 + ["rate_limited", "decided"]


async def test_all_tenants_of_a_token_share_its_limit_and_other_tokens_have_their_own(edge: Edge) -> None:
    assert outcomes(await edge.send(*["acme"] * 15, *["globex"] * 15)) == ["decided"] * 30

    problem(await edge.send("initech"), "token")
    assert outcomes(await edge.send("initech", token="other")) == ["decided"]


async def test_all_tokens_share_the_limit_of_a_tenant(edge: Edge) -> None:
    await edge.send(*["acme"] * 20)
    problem(await edge.send("acme", token="other"), "tenant")


async def test_of_a_batch_over_the_tokens_limit_the_beginning_is_taken(edge: Edge) -> None:
    response = await edge.send(*[f"t{number}" for number in range(40)])

    assert outcomes(response) == ["decided"] * 30 + ["rate_limited"] * 10
    edge.wait(max(one["error"]["retry_after_s"] for one in response.json()["results"][30:]))
    assert outcomes(await edge.send(*[f"t{number}" for number in range(30, 40)])) == ["decided"] * 10


async def test_what_its_sender_may_not_send_costs_the_tenant_nothing(edge: Edge) -> None:
    response = await edge.send(*["acme"] * 20, *["globex"] * 20)
    assert outcomes(response) == ["decided"] * 30 + ["rate_limited"] * 10
    assert outcomes(await edge.send(*["globex"] * 10, token="other")) == ["decided"] * 10


async def test_a_token_with_nothing_left_is_refused_before_its_body_is_read(edge: Edge) -> None:
    await edge.send(*[f"t{number}" for number in range(30)])

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b"{}"

    read: list[bool] = []
    headers = {"content-type": "application/json", "authorization": "Bearer feed"}
    response = await edge.client.post("/v1/signals", content=body(), headers=headers)
    problem(response, "token")
    assert not read


async def test_what_cannot_be_used_is_paid_for_by_its_sender_and_not_by_the_tenant(edge: Edge) -> None:
    bad = [edge.signal("acme") | {"kind": "nonsense"} for _ in range(25)]
    assert outcomes(await edge.post(json.dumps(bad).encode())) == ["unknown_kind"] * 25
    for _ in range(5):
        assert (await edge.post(b"{")).status_code == 400
    problem(await edge.send("acme"), "token")
    assert outcomes(await edge.send(*["acme"] * 20, token="other")) == ["decided"] * 20


async def test_nobody_uses_up_the_limit_of_a_tenant_that_is_not_theirs(edge: Edge) -> None:
    response = await edge.send(*["globex"] * 20, token="acmes")
    assert outcomes(response) == ["forbidden_tenant"] * 20
    assert outcomes(await edge.send(*["globex"] * 20)) == ["decided"] * 20


async def test_a_batch_of_which_nothing_can_be_used_is_answered_as_such(edge: Edge) -> None:
    await edge.send(*["acme"] * 20)
    bad = edge.signal("acme") | {"kind": "nonsense"}
    # Each says what is wrong with it; none of them came too soon.
    assert outcomes(await edge.post(json.dumps([bad, bad]).encode())) == ["unknown_kind"] * 2
    # Where nothing was taken in, all of it is to come again.
    problem(await edge.post(json.dumps([bad, edge.signal("acme")]).encode()), "tenant")


async def test_a_sender_who_does_as_told_loses_nothing_and_keeps_the_order(edge: Edge) -> None:
    waiting = [edge.signal(f"t{number % 3}") for number in range(150)]
    for _ in range(60):
        if not waiting:
            break
        response = await edge.post(json.dumps(waiting).encode())
        if response.status_code == 429:
            edge.wait(int(response.headers["retry-after"]))
            continue
        results = response.json()["results"]
        waiting = [one for one, result in zip(waiting, results, strict=True) if "error" in result]
        edge.wait(max([result["error"]["retry_after_s"] for result in results if "error" in result], default=0))
    assert sorted(edge.taken, key=lambda one: int(one[2:])) == [f"s-{number}" for number in range(1, 151)]
    for tenant in range(3):
        mine = [int(one[2:]) for one in edge.taken if (int(one[2:]) - 1) % 3 == tenant]
        assert mine == sorted(mine)
    # 150 signals of a token that may send 30, and 3 a second.
    assert edge.now_us - NOON_US >= 40_000_000


async def test_other_requests_are_counted_by_token(edge: Edge) -> None:
    edge.service.known["acme"] = TenantView("acme", "active", "standard", "NORMAL", [])
    for _ in range(10):
        assert (await edge.get("/v1/tenants/acme", "ops")).status_code == 200
    retry_s = problem(await edge.get("/v1/tenants/acme", "ops"), "requests")
    # Also for what they may not have, and for what there is not.
    assert (await edge.get("/v1/nonsense", "ops")).status_code == 429
    assert edge.count("governors_rate_limited_total", limit="requests") == 2
    edge.wait(retry_s)
    assert (await edge.get("/v1/tenants/acme", "ops")).status_code == 200


async def test_who_may_not_is_refused_no_faster_than_who_may(edge: Edge) -> None:
    assert [(await edge.get("/v1/tree", "feed")).status_code for _ in range(11)] == [403] * 10 + [429]
    assert [(await edge.send("acme", token="ops")).status_code for _ in range(11)] == [403] * 10 + [429]


async def test_admission_is_never_held_back(edge: Edge) -> None:
    for _ in range(40):
        assert (await edge.get("/v1/admit?tenant=acme", "gate")).status_code == 200


async def test_a_notification_is_taken_in_whole_or_asked_for_again(edge: Edge) -> None:
    def group(alerts: int) -> bytes:
        return foreign.group(*[foreign.ALERT | {"fingerprint": str(number)} for number in range(alerts)])

    async def notify(alerts: int) -> httpx.Response:
        headers = {"authorization": "Bearer feed"}
        return await edge.client.post("/v1/push/alertmanager", content=group(alerts), headers=headers)

    assert (await notify(15)).status_code == 200
    # Alertmanager tries again at 5xx alone.
    late = await notify(15)
    assert late.status_code == 503
    assert late.json()["violated-policies"] == ["tenant"]
    assert len(edge.taken) == 15
    edge.wait(int(late.headers["retry-after"]))
    assert (await notify(15)).status_code == 200
    # One that is larger than what may ever come at once goes through once nothing is owed.
    edge.wait(60)
    assert (await notify(25)).status_code == 200
    assert (await notify(1)).status_code == 503
    assert edge.count("governors_rate_limited_total", limit="tenant") == 16


async def test_what_pubsub_pushes_is_not_limited_here(edge: Edge) -> None:
    for _ in range(40):
        headers = {"authorization": "Bearer google"}
        response = await edge.client.post("/v1/push/pubsub", content=foreign.push(foreign.budget()), headers=headers)
        assert response.status_code == 200


@pytest.mark.parametrize("is_asked", [False])
async def test_where_nobody_is_asked_who_they_are_only_tenants_are_limited(edge: Edge) -> None:
    response = await edge.send(*[f"t{number}" for number in range(100)], token=None)
    assert outcomes(response) == ["decided"] * 100
    assert "ratelimit" not in response.headers
    assert [(await edge.client.get("/v1/tree")).status_code for _ in range(20)] == [200] * 20
    await edge.send(*["acme"] * 20, token=None)
    problem(await edge.send("acme", token=None), "tenant")


@pytest.mark.parametrize(
    "limits", [LimitSettings(token_signals_per_s=None, tenant_signals_per_s=None, token_requests_per_s=None)]
)
async def test_without_limits_nothing_is_told_of_them(edge: Edge) -> None:
    response = await edge.send(*["acme"] * 100)
    assert outcomes(response) == ["decided"] * 100
    assert "ratelimit" not in response.headers
    assert [(await edge.get("/v1/tree", "ops")).status_code for _ in range(20)] == [200] * 20
    assert (await edge.client.get("/v1/tree", headers={"authorization": "Bearer ops"})).status_code == 200


async def test_only_those_who_sent_lately_are_remembered(edge: Edge) -> None:
    for number in range(30):
        await edge.send(f"t{number}")
        edge.wait(1)
    # One signal is back within half a second: the next to come finds them whole again.
    assert edge.count("governors_rate_limit_keys", limit="tenant") <= 2
    assert edge.count("governors_rate_limit_keys", limit="token") == 1
