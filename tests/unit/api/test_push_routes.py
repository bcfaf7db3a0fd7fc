"""What Pub/Sub and Alertmanager push: answered with a 2xx only where nothing of it is needed any more."""

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support import foreign
from support.pushes import Handler, Sink, pusher_of

from governors.api.app import build_api
from governors.api.push import PubSubDoor, Pushes
from governors.api.service import NotAcceptingError
from governors.auth.principal import Principal
from governors.settings import HttpSettings, Settings
from governors.telemetry.metrics import Metrics
from ingest.decode.tenants import Routing, Rule
from ingest.errors import DeadLetterFullError
from ingest.source import DeadLetter

NOW_US = foreign.NOON_US
TENANTS = {"feed": None, "acmes": frozenset({"acme"}), "globexs": frozenset({"globex"})}
ROUTING = Routing([Rule(tenant_from="label.tenant")])


@dataclass
class Door:
    """The API with both push routes, behind tokens."""

    api: Any
    metrics: Metrics
    client: httpx.AsyncClient
    sink: Sink
    handler: Handler

    async def push(self, body: bytes, token: str = "google", **headers: str) -> httpx.Response:
        return await self.client.post(
            "/v1/push/pubsub", content=body, headers={"Authorization": f"Bearer {token}", **headers}
        )

    async def alerts(self, body: bytes, token: str = "feed", **headers: str) -> httpx.Response:
        return await self.client.post(
            "/v1/push/alertmanager", content=body, headers={"Authorization": f"Bearer {token}", **headers}
        )

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


async def principal_of(token: bytes) -> Principal | None:
    name = token.decode("ascii", "replace")
    return Principal(name, frozenset({"ingest"}), TENANTS[name]) if name in TENANTS else None


@pytest_asyncio.fixture
async def door(api: Any) -> AsyncIterator[Door]:
    sink, handler, metrics = Sink(), Handler(), Metrics("0.1.0")
    pushes = Pushes(ROUTING, sink, PubSubDoor(pusher_of, handler))
    settings = Settings(http=HttpSettings(body_bytes_max=200_000))
    app = build_api(api.service, settings, metrics, lambda: NOW_US, random.Random(1), principal_of, pushes=pushes)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://governors") as client:
        yield Door(api, metrics, client, sink, handler)


# Pub/Sub


async def test_a_pushed_message_is_handled_as_one_that_was_pulled(door: Door) -> None:
    response = await door.push(foreign.push(foreign.budget()))

    assert (response.status_code, response.json()) == (200, {"outcome": "taken"})
    ((batch, facts),) = door.handler.taken
    (message,) = batch.deliveries
    assert (message.payload, message.attributes) == (foreign.BUDGET, foreign.budget().attributes)
    assert (message.message_id, message.publish_us) == ("8840", foreign.budget().publish_us)
    assert (batch.received_us, batch.size_bytes) == (NOW_US, len(foreign.BUDGET))
    assert facts == {"subscription": "projects/p/subscriptions/budgets"}


async def test_what_can_never_be_read_is_acknowledged_once_it_is_put_aside(door: Door) -> None:
    door.handler.answer = DeadLetter("no_tenant", "no rule matches")

    response = await door.push(foreign.push(foreign.budget()))

    assert response.status_code == 200
    assert response.json() == {"outcome": "dead_lettered", "reason": "no_tenant", "detail": "no rule matches"}
    (letter,) = door.sink.letters
    assert (letter["payload"], letter["attributes"]["budgetId"]) == (foreign.BUDGET, foreign.BUDGET_ID)


@pytest.mark.parametrize("error", [DeadLetterFullError("full"), OSError(28, "No space left on device")])
async def test_what_cannot_be_put_aside_stays_with_pubsub(door: Door, error: Exception) -> None:
    door.handler.answer = DeadLetter("no_tenant", "no rule matches")
    door.sink.error = error

    response = await door.push(foreign.push(foreign.budget()))

    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 10


async def test_while_the_service_takes_nothing_the_message_stays_with_pubsub(door: Door) -> None:
    door.handler.answer = NotAcceptingError("starting", 1.0)

    response = await door.push(foreign.push(foreign.budget()))

    assert response.status_code == 503
    assert "retry-after" in response.headers


@pytest.mark.parametrize("body", [b"", b"{}", b"{", b"\xff", b"[" * 90_000, b'{"message": {"data": "!"}}'])
async def test_what_pubsub_pushes_and_nobody_can_read_is_put_aside_too(door: Door, body: bytes) -> None:
    response = await door.push(body)

    assert (response.status_code, response.json()["outcome"]) == (200, "dead_lettered")
    assert not door.handler.taken
    assert [letter["payload"] for letter in door.sink.letters] == [body]
    reason = response.json()["reason"]
    assert door.count("governors_rejected_total", source="push", reason=reason) == 1
    assert door.count("governors_dead_letters_total", reason=reason) == 1


async def test_a_push_over_the_limit_of_a_body_is_refused_while_it_arrives(door: Door) -> None:
    response = await door.push(b" " * 200_001)

    assert response.status_code == 413
    assert not door.handler.taken
    assert not door.sink.letters
    assert door.count("governors_rejected_total", source="push", reason="too_large") == 1


async def test_a_packed_body_is_refused(door: Door) -> None:
    response = await door.push(foreign.push(foreign.budget()), **{"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert not door.handler.taken


@pytest.mark.parametrize("token", ["", "nobody's", "feed", "acmes"])
async def test_only_those_who_push_for_pubsub_push(door: Door, token: str) -> None:
    assert (await door.push(foreign.push(foreign.budget()), token)).status_code == 401
    assert not door.handler.taken


@pytest.mark.parametrize("path", ["/v1/signals", "/v1/push/alertmanager", "/v1/tenants", "/v1/admit", "/metrics"])
async def test_whoever_pushes_for_pubsub_gets_in_nowhere_else(door: Door, path: str) -> None:
    headers = {"Authorization": "Bearer google"}
    for method in ("GET", "POST"):
        assert (await door.client.request(method, path, headers=headers)).status_code == 401


@pytest.mark.parametrize("authenticate", [None, principal_of])
async def test_where_nobody_may_push_for_pubsub_there_is_no_such_route(api: Any, authenticate: Any) -> None:
    app = build_api(
        api.service,
        Settings(),
        Metrics("0"),
        lambda: NOW_US,
        random.Random(1),
        authenticate,
        pushes=Pushes(ROUTING, Sink()),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://governors") as client:
        headers = {"Authorization": "Bearer feed"}
        response = await client.post("/v1/push/pubsub", content=foreign.push(foreign.budget()), headers=headers)
        assert response.status_code == 404
        assert (await client.get("/v1/push/pubsub", headers=headers)).status_code == 404, "not: another method"
        assert "/v1/push/pubsub" not in (await client.get("/openapi.json")).json()["paths"]


async def test_without_authentication_of_ours_a_push_is_asked_for_googles_all_the_same(api: Any) -> None:
    handler = Handler()
    app = build_api(
        api.service,
        Settings(),
        Metrics("0"),
        lambda: NOW_US,
        random.Random(1),
        None,
        pushes=Pushes(ROUTING, Sink(), PubSubDoor(pusher_of, handler)),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://governors") as client:
        body = foreign.push(foreign.budget())
        assert (await client.post("/v1/push/pubsub", content=body)).status_code == 401
        assert (await client.get("/v1/tenants")).status_code == 200
        assert not handler.taken


# Alertmanager


async def test_each_alert_has_its_result_once_it_is_committed(door: Door) -> None:
    body = foreign.group(foreign.ALERT, foreign.ALERT | {"fingerprint": "2"}, truncatedAlerts=3)

    response = await door.alerts(body)

    assert response.status_code == 200
    answer = response.json()
    assert [(one["outcome"], one["durability"]) for one in answer["results"]] == [("decided", "committed")] * 2
    assert answer["truncated_alerts"] == 3
    assert door.api.service.waits == ["committed"]
    assert [signal.tenant for signal in door.api.service.submitted[0]] == ["acme", "acme"]
    assert door.count("governors_truncated_alerts_total", source="alertmanager") == 3
    assert door.count("governors_signals_received_total", source="alertmanager", kind="alert") == 2


async def test_an_alert_that_is_nobodys_is_put_aside_and_its_neighbours_are_decided(door: Door) -> None:
    stray = foreign.ALERT | {"labels": {"alertname": "Stray"}}

    response = await door.alerts(foreign.group(stray, foreign.ALERT))

    results = response.json()["results"]
    assert [one["outcome"] for one in results] == ["rejected", "decided"]
    assert results[0]["error"]["reason"] == "no_tenant"
    (letter,) = door.sink.letters
    assert json.loads(letter["payload"]) == stray
    assert door.count("governors_dead_letters_total", reason="no_tenant") == 1
    assert door.count("governors_rejected_total", source="alertmanager", reason="no_tenant") == 1


async def test_a_token_speaks_for_its_own_tenants_alone(door: Door) -> None:
    globex = foreign.ALERT | {"labels": foreign.ALERT["labels"] | {"tenant": "globex"}}

    response = await door.alerts(foreign.group(foreign.ALERT, globex), "acmes")

    results = response.json()["results"]
    assert [one["outcome"] for one in results] == ["decided", "rejected"]
    assert results[1]["error"]["reason"] == "forbidden_tenant"
    assert [[signal.tenant for signal in signals] for signals in door.api.service.submitted] == [["acme"]]
    assert [letter["reason"] for letter in door.sink.letters] == ["forbidden_tenant"]


async def test_what_cannot_be_put_aside_is_asked_for_again(door: Door) -> None:
    door.sink.error = DeadLetterFullError("full")
    response = await door.alerts(foreign.group(foreign.ALERT | {"status": "?"}))
    assert response.status_code == 503


async def test_while_the_service_takes_nothing_alerts_are_asked_for_again(door: Door) -> None:
    door.api.service.error = NotAcceptingError("starting", 1.0)
    response = await door.alerts(foreign.group(foreign.ALERT))
    assert response.status_code == 503
    assert "retry-after" in response.headers


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"{", 400), (b'{"version": "3", "alerts": []}', 400)])
async def test_what_is_no_notification_is_refused_and_counted(door: Door, body: bytes, status: int) -> None:
    response = await door.alerts(body)
    assert response.status_code == status
    assert door.count("governors_rejected_total", source="alertmanager", reason=response.json()["reason"]) == 1


async def test_a_notification_without_alerts_does_nothing(door: Door) -> None:
    response = await door.alerts(foreign.group())
    assert (response.status_code, response.json()) == (200, {"results": [], "truncated_alerts": 0})
    assert door.api.service.submitted == []


async def test_the_document_describes_both_routes(door: Door) -> None:
    paths = (await door.client.get("/openapi.json")).json()["paths"]
    assert paths["/v1/push/pubsub"]["post"]["security"] == [{"push": []}]
    assert paths["/v1/push/alertmanager"]["post"]["security"] == [{"token": ["ingest"]}]
    example = paths["/v1/push/pubsub"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert (await door.push(json.dumps(example).encode())).status_code == 200
    example = paths["/v1/push/alertmanager"]["post"]["requestBody"]["content"]["application/json"]["example"]
    response = await door.alerts(json.dumps(example).encode())
    assert [one["outcome"] for one in response.json()["results"]] == ["decided"]
