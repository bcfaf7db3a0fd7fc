"""Admission in the words of gateways: who is asked about, and what NGINX and Envoy take for yes and no."""

from typing import Any

import pytest

from governors.admission import Admitted, Refused, Viewed
from governors.api.access import PROXIED_METHODS

REFUSED = Refused("quota-exceeded", 17, "cost_guard/prod", "fraction", fraction_ppm=400_000)
EVERYTHING = {
    "x-governor-tenant": "acme", "x-governor-class": "low", "x-governor-user": "ana", "x-governor-cost": "3",
}  # fmt: skip


async def test_nginx_is_told_yes_with_204_and_no_with_403_and_the_clients_status(api: Any) -> None:
    api.service.answer = Admitted("rules")
    assert (await api.client.get("/v1/admit/nginx", headers=EVERYTHING)).status_code == 204
    api.service.answer = REFUSED
    response = await api.client.get("/v1/admit/nginx", headers=EVERYTHING)
    assert response.status_code == 403
    assert response.headers["x-governor-status"] == "429"
    assert response.headers["x-governor-reason"] == "cost_guard/prod: fraction"
    assert response.headers["retry-after"] == "17"
    assert response.headers["ratelimit"].startswith('"cost_guard/prod";r=0;t=17')
    assert api.service.asked == [("acme", "low", "ana", 3)] * 2


@pytest.mark.parametrize("path", ["nginx", "envoy/a/b"])
async def test_an_answer_by_a_view_has_its_age_in_a_header(api: Any, path: str) -> None:
    for answer in (Admitted("rules"), REFUSED):
        api.service.answer = Viewed(answer, 340)
        response = await api.client.get(f"/v1/admit/{path}", headers=EVERYTHING)
        assert response.is_success == isinstance(answer, Admitted)
        assert response.headers["x-governor-view-age-ms"] == "340"
        assert response.headers["cache-control"] == "no-store"
        api.service.answer = Viewed(answer, None)
        assert "x-governor-view-age-ms" not in (await api.client.get(f"/v1/admit/{path}", headers=EVERYTHING)).headers
        api.service.answer = answer
        assert "x-governor-view-age-ms" not in (await api.client.get(f"/v1/admit/{path}", headers=EVERYTHING)).headers


@pytest.mark.parametrize("method", [*PROXIED_METHODS, "HEAD"])
@pytest.mark.parametrize(
    "path", ["", "/", "/a/b?tenant=other&x-governor-tenant=other", "/v1/../%2e%2e/%00/\u00e9", "/a%0Ab%0D"]
)
async def test_envoy_is_told_yes_with_200_and_no_with_429_whatever_was_asked_for(
    api: Any, method: str, path: str
) -> None:
    path = path or "/"
    api.service.answer = Admitted("rules")
    response = await api.client.request(method, f"/v1/admit/envoy{path}", headers=EVERYTHING)
    assert response.status_code == 200
    api.service.answer = REFUSED
    response = await api.client.request(method, f"/v1/admit/envoy{path}", headers=EVERYTHING)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "17"
    if method != "HEAD":
        assert response.json()["violated-policies"] == ["cost_guard/prod"]
    assert api.service.asked == [("acme", "low", "ana", 3)] * 2


async def test_a_dash_is_what_envoy_writes_for_nothing(api: Any) -> None:
    headers = {"x-governor-tenant": "acme", "x-governor-class": "-", "x-governor-user": "-"}
    assert (await api.client.get("/v1/admit/envoy/", headers=headers)).status_code == 200
    assert api.service.asked == [("acme", "normal", "", 1)]


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ([], "x-governor-tenant"),
        ([("x-governor-tenant", "-")], "x-governor-tenant"),
        ([("x-governor-tenant", "a b")], "x-governor-tenant"),
        ([("x-governor-tenant", "acme"), ("x-governor-tenant", "other")], "x-governor-tenant"),
        ([("x-governor-tenant", "acme"), ("x-governor-class", "urgent")], "x-governor-class"),
        ([("x-governor-tenant", "acme"), ("x-governor-cost", "0")], "x-governor-cost"),
        ([("x-governor-tenant", "acme"), ("x-governor-user", "u" * 257)], "x-governor-user"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/admit/nginx", "/v1/admit/envoy/x"])
async def test_what_a_gateway_may_not_say_is_refused_by_name(
    api: Any, headers: list[tuple[str, str]], field: str, path: str
) -> None:
    response = await api.client.get(path, headers=headers)
    if path == "/v1/admit/nginx":
        # NGINX takes 422 for a failure of ours, and may be told to let pass what failed.
        assert response.status_code == 403
        assert response.headers["x-governor-status"] == "422"
        assert response.headers["x-governor-reason"].startswith(field)
    else:
        assert response.status_code == 422
    assert response.json()["field"] == field
    assert api.service.asked == []
    assert api.count("governors_rejected_total", source="admit", reason="bad_field") == 1
