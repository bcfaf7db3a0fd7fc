"""Proofs, tiles and bundles over HTTP: forms, caching, and which field is to blame."""

from base64 import b64encode
from typing import Any

import pytest

from governors.api.service import InvalidFieldError, NotAcceptingError, NotFoundError
from ledger.errors import ReceiptDroppedError

ZEROS = b64encode(bytes(32)).decode()


def problem(response: Any) -> tuple[int, str, str | None]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    return response.status_code, document["type"].removeprefix("urn:governors:problem:"), document.get("field")


async def test_a_checkpoint_is_text_and_asked_for_each_time(api: Any) -> None:
    response = await api.client.get("/v1/logs/0/checkpoint")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.text.startswith("log/0\n")


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/x001/x234/067.p/8", "tile/entries/x001/234", "tile/63/000.p/1"])
async def test_tiles_are_bytes_that_never_change(api: Any, path: str) -> None:
    response = await api.client.get(f"/v1/logs/0/{path}")
    assert (response.status_code, response.content) == (200, bytes(32))
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["cache-control"] == "max-age=31536000, immutable"
    assert api.service.asked == [(0, path)]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("tile/64/000", "level"), ("tile/x/000", "level"), ("tile/0/00", "number"), ("tile/0/../../ctl/head", "number"),
        ("tile/entries/1", "number"), ("tile/0/000.p/", "number"), ("tile/0/000.p/1000", "number"),
    ],
)  # fmt: skip
async def test_what_is_no_tile_never_reaches_the_store(api: Any, path: str, field: str) -> None:
    response = await api.client.get(f"/v1/logs/0/{path}".replace("..", "%2e%2e"))
    assert problem(response) in ((422, "invalid-field", field), (404, "not-found", None))
    assert api.service.asked == []


async def test_consistency_has_both_sizes_and_the_proof(api: Any) -> None:
    found = (await api.client.get("/v1/logs/0/consistency?from=3&to=7")).json()
    assert found["type"] == "governors-consistency@v1"
    assert (found["from"], found["to"]) == ({"size": 3, "root": ZEROS}, {"size": 7, "root": ZEROS})
    assert found["proof"] == [ZEROS]
    await api.client.get("/v1/logs/0/consistency?from=3")
    assert api.service.asked == [(0, 3, 7), (0, 3, None)]


@pytest.mark.parametrize(
    ("query", "field"), [("", "from"), ("?from=-1", "from"), ("?from=1&to=x", "to"), ("?to=1", "from")]
)
async def test_a_size_that_is_none_is_named(api: Any, query: str, field: str) -> None:
    assert problem(await api.client.get(f"/v1/logs/0/consistency{query}")) == (422, "invalid-field", field)


async def test_a_proof_comes_as_json_or_as_a_file(api: Any) -> None:
    as_json = await api.client.get("/v1/receipts/0:7/proof")
    assert as_json.json() == {
        "id": "0:7", "index": 7, "leaf": b64encode(b"{}").decode(), "path": [ZEROS], "size": 9, "root": "00" * 32,
        "checkpoint": "note", "text": "a proof file\n",
    }  # fmt: skip
    as_file = await api.client.get("/v1/receipts/0:7/proof", headers={"accept": "text/plain"})
    assert as_file.text == "a proof file\n"
    assert as_file.headers["content-type"].startswith("text/plain")
    assert as_file.headers["content-disposition"] == 'attachment; filename="receipt-0-7.tlog-proof"'
    assert as_json.headers["vary"] == as_file.headers["vary"] == "Accept"
    assert problem(await api.client.get("/v1/receipts/7/proof")) == (422, "invalid-field", "receipt_id")


async def test_a_bundle_is_bounded(api: Any) -> None:
    found = (await api.client.get("/v1/tenants/acme/bundle?after=5&limit=2000")).json()
    assert found["type"] == "governors-tenant-bundle@v1"
    assert api.service.asked == [("acme", 5, 2_000)]
    for query, field in (("limit=2001", "limit"), ("limit=0", "limit"), ("after=-2", "after")):
        assert problem(await api.client.get(f"/v1/tenants/acme/bundle?{query}")) == (422, "invalid-field", field)


async def test_a_verdict_is_an_answer_good_or_bad(api: Any) -> None:
    response = await api.client.post("/v1/verify", content=b"whatever it is")
    assert response.status_code == 200
    assert (response.json()["ok"], response.json()["error"]) == (False, "tampered")
    assert api.service.asked == [(b"whatever it is",)]
    assert problem(await api.client.post("/v1/verify", content=b" \n")) == (400, "unreadable-body", None)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (NotFoundError("partition 5 is not here"), (404, "not-found", None)),
        (InvalidFieldError("to", "beyond the log"), (422, "invalid-field", "to")),
        (NotAcceptingError("not published yet", 2.0), (503, "not-accepting", None)),
    ],
)
async def test_what_the_log_cannot_give_is_a_problem(api: Any, error: Exception, found: tuple[int, str, str]) -> None:
    api.service.error = error
    for path in ("logs/5/checkpoint", "logs/5/tile/0/000", "logs/5/consistency?from=1", "tenants/acme/bundle"):
        assert problem(await api.client.get(f"/v1/{path}")) == found


async def test_a_receipt_that_was_dropped_is_told_from_one_that_never_was(api: Any) -> None:
    api.service.error = ReceiptDroppedError(3, 256)
    answer = await api.client.get("/v1/logs/0/tile/entries/000")
    assert (answer.status_code, answer.json()["kept_from"]) == (410, 256)
    assert "receipts from 256 on are kept" in answer.json()["detail"]
