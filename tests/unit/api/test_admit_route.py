"""`GET /v1/admit`: 200 or 429, with what a gateway needs to tell its caller."""

from typing import Any, get_args

import pytest

from governors.admission import Admitted, Refused, Viewed
from ingest.errors import Reason


async def test_an_admitted_request_is_answered_with_why(api: Any) -> None:
    api.service.answer = Admitted("unrestricted")
    response = await api.client.get("/v1/admit?tenant=acme&class=critical&user=alice&cost=3")
    assert response.status_code == 200
    assert response.json() == {"basis": "unrestricted"}
    assert api.service.asked == [("acme", "critical", "alice", 3)]


async def test_only_the_tenant_has_to_be_named(api: Any) -> None:
    assert (await api.client.get("/v1/admit?tenant=acme")).status_code == 200
    assert api.service.asked == [("acme", "normal", "", 1)]


async def test_a_refusal_by_rate_tells_the_quota_and_when_to_come_back(api: Any) -> None:
    api.service.answer = Refused(
        "temporary-reduced-capacity",
        12,
        "backlog_valve/orders",
        "rate",
        rate_milli_per_s=2_500,
    )
    response = await api.client.get("/v1/admit?tenant=t1")
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "12"
    assert response.headers["ratelimit-policy"] == '"backlog_valve/orders";q=150;w=60;pk=:dDE=:'
    assert response.headers["ratelimit"] == '"backlog_valve/orders";r=0;t=12;pk=:dDE=:'
    document = response.json()
    assert document["type"] == "urn:governors:problem:temporary-reduced-capacity"
    assert document["violated-policies"] == ["backlog_valve/orders"]
    assert document["detail"] == "2.5 a second of t1's requests pass now"


async def test_a_tenant_that_is_not_active_is_told_what_it_is(api: Any) -> None:
    api.service.answer = Refused("tenant-not-active", 300, "tenant", "not_active", detail="suspended")
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.json()["detail"] == "tenant acme is suspended"


async def test_a_refusal_without_a_rate_names_no_quota(api: Any) -> None:
    api.service.answer = Refused("quota-exceeded", 30, "cost_guard/prod", "fraction", fraction_ppm=400_000)
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.status_code == 429
    assert "ratelimit-policy" not in response.headers
    assert response.headers["ratelimit"].startswith('"cost_guard/prod";r=0;t=30')
    assert response.json()["type"] == "urn:governors:problem:quota-exceeded"
    assert response.json()["detail"] == "40 % of acme's requests pass now, and not this one"


@pytest.mark.parametrize("age_ms", [0, 340, None])
async def test_an_answer_by_a_view_says_how_old_it_is(api: Any, age_ms: int | None) -> None:
    api.service.answer = Viewed(Admitted("rules"), age_ms)
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.status_code == 200
    assert response.json() == {"basis": "rules", "view_age_ms": age_ms}
    api.service.answer = Viewed(Refused("quota-exceeded", 30, "cost_guard/prod", "fraction", fraction_ppm=1), age_ms)
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.status_code == 429
    assert response.json()["view_age_ms"] == age_ms
    assert response.json()["reason"] == "fraction"


async def test_a_view_that_is_too_old_says_so_whichever_way_it_fails(api: Any) -> None:
    api.service.answer = Viewed(Admitted("view_stale"), 12_000)
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.json() == {"basis": "view_stale", "view_age_ms": 12_000}
    api.service.answer = Viewed(Refused("view-stale", 2, "tenant", "view_stale"), 12_000)
    response = await api.client.get("/v1/admit?tenant=acme")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["type"] == "urn:governors:problem:view-stale"
    assert response.json()["reason"] == "view_stale"


@pytest.mark.parametrize("kind", get_args(Refused.__annotations__["type"]))
async def test_every_refusal_is_429_because_gateways_take_5xx_for_our_failure(api: Any, kind: Any) -> None:
    api.service.answer = Refused(kind, 5, "tenant", "not_active")
    assert (await api.client.get("/v1/admit?tenant=acme")).status_code == 429


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "tenant"),
        ("tenant=", "tenant"),
        ("tenant=a/b", "tenant"),
        ("tenant=a%00b", "tenant"),
        ("tenant=%ff", "tenant"),
        ("tenant=" + "a" * 129, "tenant"),
        ("tenant=a&tenant=b", "tenant"),
        ("tenant=a&class=vip", "class"),
        ("tenant=a&user=" + "u" * 257, "user"),
        ("tenant=a&cost=0", "cost"),
        ("tenant=a&cost=-1", "cost"),
        ("tenant=a&cost=1.5", "cost"),
        ("tenant=a&cost=nan", "cost"),
        ("tenant=a&cost=1000001", "cost"),
        ("tenant=a&cost=" + "9" * 5_000, "cost"),
        ("tenant=a&cost=%D9%A1", "cost"),  # a digit, but none that we read
        ("tenant=a&klass=critical", "klass"),
    ],
)
async def test_a_question_that_cannot_be_answered_names_the_parameter(api: Any, query: str, field: str) -> None:
    response = await api.client.get(f"/v1/admit?{query}")
    assert response.status_code == 422
    assert response.json()["field"] == field
    assert api.service.asked == []
    assert api.count("governors_rejected_total", source="admit", reason=Reason.BAD_FIELD) == 1
