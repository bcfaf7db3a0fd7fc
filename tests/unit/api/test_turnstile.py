"""Admission without a task: the same answers as by ASGI, and none where somebody has to be waited for."""

import asyncio
import random
from typing import Any

import pytest

from governors.admission import Admitted, Refused, Viewed
from governors.api.app import build_api
from governors.auth.principal import Principal
from governors.settings import Settings
from governors.telemetry.metrics import Metrics

TENANT = (b"x-governor-tenant", b"acme")
REFUSED = Refused("quota-exceeded", 17, "cost_guard/prod", "fraction", fraction_ppm=400_000)


def scope_of(path: str, query: str = "", headers: tuple[tuple[bytes, bytes], ...] = (), method: str = "GET") -> Any:
    return {
        "type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": [*headers],
        "raw_path": path.encode(), "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("here", 80),
    }  # fmt: skip


async def by_asgi(app: Any, scope: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("no body is read")

    await app(scope, receive, send)
    start, body = sent
    return start["status"], start["headers"], body["body"]


@pytest.mark.parametrize(
    "answer",
    [Admitted("rules"), Admitted("unrestricted"), REFUSED, Viewed(Admitted("rules"), 340), Viewed(REFUSED, None)],
    ids=str,
)
@pytest.mark.parametrize(
    "asked",
    [
        ("/v1/admit", "tenant=acme&class=low&user=ana&cost=3"),
        ("/v1/admit", "tenant=acme&user=a%20b%2Bc+d"),
        ("/v1/admit", "tenant=acme&user=\u00e9"),
        ("/v1/admit", "&&tenant=acme&"),
        ("/v1/admit", "tenant"),
        ("/v1/admit", "tenant=acme&tenant=acme"),
        ("/v1/admit", "tenant=acme&nonsense=1"),
        ("/v1/admit/nginx", "", (TENANT, (b"x-governor-class", b"critical"))),
        ("/v1/admit/nginx", "", ()),
        ("/v1/admit/envoy/a/b", "c=d", (TENANT, (b"x-governor-user", b"-")), "POST"),
        ("/v1/admit/envoy/a\nb\r\n\x00", "", (TENANT,)),
        ("/v1/admit/envoy/", "", (TENANT, TENANT)),
        ("/v1/admit/envoy/", "", ((b"x-governor-tenant", b"\xff\xfe"),)),
        ("/v1/admit", "tenant=acme", (), "DELETE"),
    ],
    ids=str,
)
async def test_an_answer_is_the_same_whichever_way_it_comes(api: Any, asked: tuple[Any, ...], answer: Any) -> None:
    api.service.answer = answer
    status, headers, body = await by_asgi(api.app, scope_of(*asked))
    reply = api.app.turnstile.at_once(scope_of(*asked))
    assert (reply.status, reply.headers, reply.body) == (status, headers, body)
    assert api.service.asked == api.service.asked[:1] * len(api.service.asked)
    assert status < 500


async def test_both_are_counted(api: Any) -> None:
    api.app.turnstile.at_once(scope_of("/v1/admit", "tenant=acme"))
    await by_asgi(api.app, scope_of("/v1/admit", "tenant=acme"))
    api.app.turnstile.at_once(scope_of("/v1/admit", "tenant="))
    assert api.count("governors_http_requests_total", route="/v1/admit", method="GET", status="200") == 2
    assert api.count("governors_http_requests_total", route="/v1/admit", method="GET", status="422") == 1
    assert api.count("governors_rejected_total", source="admit", reason="bad_field") == 1


@pytest.mark.parametrize("path", ["/v1/admitted", "/v1/admit/", "/v1/admit/nginx/", "/v1/admit/envoy", "/healthz", "/"])
async def test_what_is_not_about_admission_is_not_answered(api: Any, path: str) -> None:
    assert api.app.turnstile.at_once(scope_of(path, "tenant=acme")) is None
    assert api.service.asked == []


async def test_nobody_is_answered_before_it_is_known_who_asks(api: Any) -> None:
    known = asyncio.Event()
    gateway = Principal("gateway", frozenset({"admit"}), frozenset({"acme"}))

    async def authenticate(token: bytes) -> Principal | None:
        if token == b"unheard-of":
            await known.wait()
        return gateway if token in {b"heard-of", b"unheard-of"} else None

    app = build_api(api.service, Settings(), Metrics("0"), lambda: 0, random.Random(1), authenticate)

    def ask(token: bytes, tenant: str = "acme") -> Any:
        return scope_of("/v1/admit", f"tenant={tenant}", ((b"authorization", b"Bearer " + token),))

    for token, tenant, status in ((b"heard-of", "acme", 200), (b"heard-of", "other", 403), (b"wrong", "acme", 401)):
        reply = app.turnstile.at_once(ask(token, tenant))
        assert reply is not None
        assert reply.status == status
    no_token = app.turnstile.at_once(scope_of("/v1/admit", "tenant=acme"))
    assert no_token is not None
    assert no_token.status == 401
    asked = len(api.service.asked)
    assert app.turnstile.at_once(ask(b"unheard-of")) is None
    assert len(api.service.asked) == asked
    waiting = asyncio.create_task(by_asgi(app, ask(b"unheard-of")))
    await asyncio.sleep(0)
    assert not waiting.done()
    known.set()
    assert (await waiting)[0] == 200


async def test_a_doubt_about_who_asks_that_does_not_end_is_an_answer(api: Any) -> None:
    async def authenticate(_token: bytes) -> Principal | None:
        await asyncio.Event().wait()
        return None

    settings = Settings()
    app = build_api(api.service, settings, Metrics("0"), lambda: 0, random.Random(1), authenticate)
    app.turnstile._timeout_s = 0.01
    status, _, body = await by_asgi(app, scope_of("/v1/admit", "tenant=acme", ((b"authorization", b"Bearer x"),)))
    assert status == 503
    assert b"outcome-unknown" in body


async def test_a_defect_is_said_to_the_gateway_and_to_the_server(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api.service, "admit", defect)
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.status_code == 500
    assert response.json()["type"] == "urn:governors:problem:internal"
    assert api.count("governors_http_requests_total", route="/v1/admit", method="GET", status="500") == 1
    with pytest.raises(ZeroDivisionError):
        await by_asgi(api.app, scope_of("/v1/admit", "tenant=acme"))
