"""Probes, metrics, the tree, the stream, and what the OpenAPI document says of all routes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from governors.api.documents import EXAMPLES, SIGNAL_EXAMPLE
from governors.api.problem import TYPES
from governors.api.service import NotAcceptingError
from ingest.decode.native import decode_native


async def test_healthz_says_which_version_lives(api: Any) -> None:
    response = await api.client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"version": "0.1.0", "down": [], "warnings": []}


async def test_healthz_fails_when_a_child_is_down_for_good(api: Any) -> None:
    api.service.down = ["ledger"]
    response = await api.client.get("/healthz")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["down"] == ["ledger"]


async def test_readyz_lists_what_is_missing(api: Any) -> None:
    assert (await api.client.get("/readyz")).json() == {"ready": True, "warnings": []}
    api.service.missing_parts = ["recovery", "pubsub"]
    response = await api.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["missing"] == ["recovery", "pubsub"]
    assert response.json()["type"] == "urn:governors:problem:not-ready"


async def test_metrics_are_openmetrics_when_asked_for(api: Any) -> None:
    plain = await api.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    asked = await api.client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")
    assert "governors_http_requests_total" in asked.text


async def test_the_tree_is_readable(api: Any) -> None:
    tree = (await api.client.get("/v1/tree")).json()
    assert tree["name"] == "governors"
    assert [child["name"] for child in tree["children"]] == ["ledger"]


async def test_a_route_that_is_not_there_is_a_problem_and_makes_no_series_of_its_own(api: Any) -> None:
    response = await api.client.get("/v1/nonsense/123")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert api.count("governors_http_requests_total", route="none", method="GET", status="404") == 1
    await api.client.get("/v1/tenants/ghost")
    assert api.count("governors_http_requests_total", route="/v1/tenants/{tenant}", method="GET", status="404") == 1
    await api.client.request("BREW", "/v1/tenants/ghost")
    assert api.count("governors_http_requests_total", route="/v1/tenants/{tenant}", method="other", status="405") == 1


async def test_the_stream_sends_decisions_as_events(api: Any) -> None:
    async with api.client.stream("GET", "/v1/stream", params={"tenant": "acme", "all": "true"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines()]
    (data,) = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert json.loads(data)["receipt"] == "0:7"
    assert "id: 0:7" in lines
    assert api.service.asked == [(frozenset({"acme"}), True)]


async def test_a_stream_that_cannot_be_had_is_refused_before_it_begins(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_tenant: str | None, *, every: bool) -> Any:
        if not every:
            raise NotAcceptingError("100 others are watching", 1.0)
        yield

    monkeypatch.setattr(api.service, "watch", full)
    response = await api.client.get("/v1/stream")
    assert response.status_code == 503
    assert response.json()["type"] == "urn:governors:problem:not-accepting"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def patterns(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("pattern"), str):
            yield node["pattern"]
        for value in node.values():
            yield from patterns(value)
    elif isinstance(node, list):
        for value in node:
            yield from patterns(value)


async def test_the_openapi_document_holds_together(api: Any) -> None:
    document = (await api.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for pattern in patterns(document):
        assert r"\A" not in pattern
        re.compile(pattern)
    assert "HTTPValidationError" not in schemas


async def test_the_openapi_document_names_every_route_and_its_problems(api: Any) -> None:
    document = (await api.client.get("/openapi.json")).json()
    operations = {(path, method): one for path, item in document["paths"].items() for method, one in item.items()}
    assert {
        ("/v1/signals", "post"),
        ("/v1/admit", "get"),
        ("/v1/tenants", "get"),
        ("/v1/tenants/{tenant}", "get"),
        ("/v1/tenants/{tenant}", "put"),
        ("/v1/tenants/{tenant}/overrides", "post"),
        ("/v1/tenants/{tenant}/overrides/{governor}/{subject}", "delete"),
        ("/v1/tenants/{tenant}/receipts", "get"),
        ("/v1/receipts/{receipt_id}", "get"),
        ("/v1/receipts/{receipt_id}/proof", "get"),
        ("/v1/tenants/{tenant}/bundle", "get"),
        ("/v1/logs/{partition}/checkpoint", "get"),
        ("/v1/logs/{partition}/tile/entries/{number}", "get"),
        ("/v1/logs/{partition}/tile/{level}/{number}", "get"),
        ("/v1/logs/{partition}/consistency", "get"),
        ("/v1/verify", "post"),
        ("/v1/tree", "get"),
        ("/v1/cluster", "get"),
        ("/v1/cluster/admission", "get"),
        ("/v1/cluster/drain", "post"),
        ("/v1/cluster/drain", "delete"),
        ("/v1/operations", "get"),
        ("/v1/policies", "get"),
        ("/v1/policies/reload", "post"),
        ("/v1/emergency-stop", "put"),
        ("/v1/emergency-stop", "delete"),
        ("/v1/tenants/{tenant}/emergency-stop", "put"),
        ("/v1/tenants/{tenant}/emergency-stop", "delete"),
        ("/v1/tenants/{tenant}/approvals", "post"),
        ("/v1/actions", "get"),
        ("/v1/tenants/{tenant}/actions/{action_id}/retry", "post"),
        ("/v1/tenants/{tenant}/actions/{action_id}/abandon", "post"),
        ("/v1/admit/nginx", "get"),
        ("/v1/admit/envoy/{original}", "get"),
        ("/v1/stream", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    } == operations.keys()
    for (path, _), operation in operations.items():
        assert operation["summary"], path
        for status, response in operation["responses"].items():
            assert response["description"], (path, status)
            if status.startswith(("4", "5")):
                assert list(response["content"]) == ["application/problem+json"]
    declared = {kind.status for kind in TYPES.values()} - {400, 404, 405, 408, 500}
    for status in declared:
        assert any(str(status) in operation["responses"] for operation in operations.values()), status


def test_every_example_is_what_its_struct_takes() -> None:
    for kind, example in EXAMPLES.items():
        msgspec.json.decode(json.dumps(example), type=kind)


def test_the_example_of_a_signal_is_one() -> None:
    signal = decode_native(json.dumps(SIGNAL_EXAMPLE).encode(), 1_795_341_600_000_000)
    assert signal.subject == "prod-budget"
