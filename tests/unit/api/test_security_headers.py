"""What answers tell browsers and caches."""

import base64
import hashlib
import re
from typing import Any

import pytest


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/v1/tenants",
        "/v1/tenants/ghost",
        "/v1/admit?tenant=acme",
        "/v1/receipts/0:1",
        "/v1/stream",
        "/nowhere",
    ],
)
async def test_nothing_is_kept_that_does_not_say_so(api: Any, path: str) -> None:
    response = await api.client.get(path)
    assert response.headers.get_list("cache-control") == ["no-store"]


async def test_what_may_be_kept_says_so(api: Any) -> None:
    response = await api.client.get("/v1/logs/0/tile/0/000")
    assert response.headers.get_list("cache-control") == ["max-age=31536000, immutable"]


async def test_the_only_page_runs_no_script_but_its_own_and_is_in_nobodys_frame(api: Any) -> None:
    response = await api.client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    (script,) = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = policy["script-src"].split()
    assert f"'sha256-{digest}'" in allowed
    assert "'unsafe-inline'" not in allowed
    for address in re.findall(r'(?:src|href)="(.*?)"', response.text):
        assert address.startswith((allowed[0], "data:")), address
