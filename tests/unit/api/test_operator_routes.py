"""Tenants, overrides and receipts over HTTP."""

import base64
import json
from typing import Any

import pytest

from governors.api.service import InvalidFieldError, NotFoundError, OverrideGrant, TenantChange, TenantView


def tenant(name: str) -> TenantView:
    return TenantView(name, "active", "standard", "NORMAL", [])


def override(**changes: Any) -> dict[str, Any]:
    good = {"governor": "cost_guard", "subject": "prod", "mode": "release", "reason": "launch day", "by": "alice"}
    return {key: value for key, value in (good | changes).items() if value is not ...}


async def test_tenants_come_in_pages_that_join_without_gap_or_overlap(api: Any) -> None:
    api.service.known = {name: tenant(name) for name in ("a", "b", "c", "d", "e")}
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = (await api.client.get("/v1/tenants", params={"after": after, "limit": 2})).json()
        seen += [one["tenant"] for one in page["tenants"]]
        after = page["next"]
    assert seen == ["a", "b", "c", "d", "e"]


async def test_a_tenant_that_is_not_known_is_a_problem(api: Any) -> None:
    response = await api.client.get("/v1/tenants/ghost")
    assert response.status_code == 404
    assert response.json()["type"] == "urn:governors:problem:not-found"
    assert "ghost" in response.json()["detail"]


async def test_putting_a_tenant_sets_what_is_named_and_leaves_the_rest(api: Any) -> None:
    response = await api.client.put("/v1/tenants/acme", json={"profile": "premium"})
    assert response.status_code == 200
    assert response.json()["profile"] == "premium"
    assert api.service.asked == [("acme", TenantChange(None, "premium"), "local")]


async def test_an_unknown_profile_is_a_problem_of_its_field(api: Any) -> None:
    api.service.error = InvalidFieldError("profile", "expected one of standard, premium, enterprise")
    response = await api.client.put("/v1/tenants/acme", json={"profile": "gold"})
    assert response.status_code == 422
    assert response.json()["field"] == "profile"


async def test_an_override_lasts_an_hour_unless_it_says_otherwise(api: Any) -> None:
    response = await api.client.post("/v1/tenants/acme/overrides", json=override())
    assert response.status_code == 201
    assert response.headers["location"] == "/v1/tenants/acme/overrides/cost_guard/prod"
    assert response.json()["receipt"] == "0:9"
    expected = OverrideGrant("cost_guard", "prod", "release", 3_600.0, "alice", "launch day")
    assert api.service.asked == [("acme", expected)]


async def test_an_extra_budget_is_read_as_money(api: Any) -> None:
    body = override(mode="extra_budget", extra_amount="250.50", ttl_s=60)
    assert (await api.client.post("/v1/tenants/acme/overrides", json=body)).status_code == 201
    ((_, grant),) = api.service.asked
    assert grant.extra_micros == 250_500_000
    assert grant.ttl_s == 60


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (override(governor="cost_gard"), "governor"),
        (override(mode="stop"), "mode"),
        (override(mode=...), "mode"),
        (override(reason=""), "reason"),
        (override(reason=...), "reason"),
        (override(by=...), "by"),
        (override(ttl_s=0), "ttl_s"),
        (override(ttl_s=-5), "ttl_s"),
        (override(ttl_s=10**9), "ttl_s"),
        (override(ttl_s="3600"), "ttl_s"),
        (override(ttl_s=float("nan")), "ttl_s"),
        (override(ttl_s=float("inf")), "ttl_s"),
        (override(ttl_s=None), "ttl_s"),
        (override(subject=""), "subject"),
        (override(subject="a b"), "subject"),
        (override(mode="force"), "status"),
        (override(status="STOP"), "status"),
        (override(mode="extra_budget"), "extra_amount"),
        (override(mode="extra_budget", extra_amount="1e9"), "extra_amount"),
        (override(mode="extra_budget", extra_amount="0"), "extra_amount"),
        (override(mode="extra_budget", extra_amount="-1"), "extra_amount"),
        (override(mode="extra_budget", extra_amount=5), "extra_amount"),
        (override(extra_amount="5"), "extra_amount"),
        (override(colour="red"), "colour"),
        (override(reason="\ud800"), "reason"),
        (override(by="\x00"), "by"),
        (override(by="\u202ebob"), "by"),
    ],
)
async def test_an_override_that_cannot_be_names_its_field(api: Any, body: dict[str, Any], field: str) -> None:
    response = await api.client.post(
        "/v1/tenants/acme/overrides", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    document = response.json()
    assert document["type"] == "urn:governors:problem:invalid-field"
    assert document["field"] == field
    assert api.service.asked == []


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"\\ud800": 1}', "application/json"),
        (b'{"profile": "premium"}', "text/plain"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused_as_such(api: Any, content: bytes, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = await api.client.put("/v1/tenants/acme", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["type"] == "urn:governors:problem:unreadable-body"


@pytest.mark.parametrize("body", [{}, {"entitlement": "gone"}, {"profile": ""}, {"profile": 5}, {"profle": "premium"}])
async def test_a_change_of_a_tenant_that_cannot_be_is_refused(api: Any, body: dict[str, Any]) -> None:
    response = await api.client.put("/v1/tenants/acme", json=body)
    assert response.status_code == 422
    assert api.service.asked == []


@pytest.mark.parametrize("depth", [300, 20_000])
async def test_a_body_that_is_nested_too_deeply_names_the_field(api: Any, depth: int) -> None:
    content = json.dumps(override(reason="_")).encode().replace(b'"_"', b"[" * depth + b"1" + b"]" * depth)
    headers = {"content-type": "application/json"}
    response = await api.client.post("/v1/tenants/acme/overrides", content=content, headers=headers)
    assert response.status_code in (400, 422)
    assert response.json()["field"] == "reason"
    assert api.service.asked == []


async def test_a_name_given_twice_is_refused_before_one_of_them_holds(api: Any) -> None:
    content = json.dumps(override())[:-1] + ', "mode": "hold"}'
    headers = {"content-type": "application/json"}
    response = await api.client.post("/v1/tenants/acme/overrides", content=content, headers=headers)
    assert (response.status_code, response.json()["field"]) == (422, "mode")
    assert response.json()["reason"] == "duplicate_field"
    assert api.service.asked == []


async def test_an_operators_body_has_a_largest_size(api: Any) -> None:
    response = await api.client.post("/v1/tenants/acme/overrides", json=override(reason="x" * 65_536))
    assert response.status_code == 413
    assert response.json()["type"] == "urn:governors:problem:body-too-large"


async def test_withdrawing_names_the_machine_also_where_its_subject_has_slashes(api: Any) -> None:
    response = await api.client.delete("/v1/tenants/acme/overrides/rollback_guard/ns/web", params={"by": "bob"})
    assert response.status_code == 200
    assert response.json()["until"] is None
    assert api.service.asked == [("acme", "rollback_guard", "ns/web", "bob")]


async def test_withdrawing_must_say_who_does_it(api: Any) -> None:
    response = await api.client.delete("/v1/tenants/acme/overrides/cost_guard/prod")
    assert response.status_code == 422
    assert response.json()["field"] == "by"


async def test_withdrawing_what_is_not_in_force_is_not_found(api: Any) -> None:
    api.service.error = NotFoundError("there is no override to end")
    response = await api.client.delete("/v1/tenants/acme/overrides/cost_guard/prod", params={"by": "bob"})
    assert response.status_code == 404


async def test_receipts_come_decoded_and_as_their_exact_bytes(api: Any) -> None:
    page = (await api.client.get("/v1/tenants/acme/receipts", params={"limit": 2})).json()
    first = page["receipts"][0]
    assert first["id"] == "0:0"
    assert first["committed"] is True
    assert json.loads(base64.b64decode(first["leaf"])) == first["receipt"]
    assert page["next"] == 1
    rest = (await api.client.get("/v1/tenants/acme/receipts", params={"after": page["next"]})).json()
    assert [one["index"] for one in rest["receipts"]] == [2]
    assert rest["next"] is None


async def test_a_receipt_is_found_by_its_id(api: Any) -> None:
    assert (await api.client.get("/v1/receipts/0:2")).json()["index"] == 2
    assert (await api.client.get("/v1/receipts/0:3")).status_code == 404


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/receipts/7", "receipt_id"),
        ("/v1/receipts/0:x", "receipt_id"),
        ("/v1/receipts/0:-1", "receipt_id"),
        ("/v1/receipts/0:" + "9" * 400, "receipt_id"),
        ("/v1/receipts/0:%D9%A1", "receipt_id"),
        ("/v1/tenants?limit=0", "limit"),
        ("/v1/tenants?limit=1001", "limit"),
        ("/v1/tenants?limit=ten", "limit"),
        ("/v1/tenants/acme/receipts?after=-2", "after"),
        ("/v1/tenants/acme/receipts?after=1e3", "after"),
        ("/v1/tenants/%20", "tenant"),
        ("/v1/tenants/" + "a" * 129, "tenant"),
    ],
)
async def test_a_path_or_query_that_cannot_be_names_its_part(api: Any, path: str, field: str) -> None:
    response = await api.client.get(path)
    assert response.status_code == 422
    assert response.json()["field"] == field
