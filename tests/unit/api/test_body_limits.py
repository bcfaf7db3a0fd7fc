"""What bodies may be, on whichever route they arrive."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from governors.api.edge import FULL_BODIES_MAX
from governors.settings import HttpSettings

BODY_BYTES_MAX = 1_024
BODIES = [
    ("POST", "/v1/signals"),
    ("PUT", "/v1/tenants/acme"),
    ("POST", "/v1/tenants/acme/overrides"),
    ("POST", "/v1/verify"),
]


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(body_bytes_max=BODY_BYTES_MAX)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "br", "zstd", "identity, gzip"])
@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_what_would_have_to_be_unpacked_is_not_taken(api: Any, method: str, path: str, encoding: str) -> None:
    bomb = gzip.compress(b" " * 100_000)
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = await api.client.request(method, path, content=bomb, headers=headers)
    assert response.status_code == 415
    assert response.json()["field"] == "Content-Encoding"
    assert api.service.asked == []


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_a_body_without_an_encoding_can_say_so(api: Any, method: str, path: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": "Identity"}
    response = await api.client.request(method, path, content=b"{}", headers=headers)
    assert response.status_code not in (415, 500)


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_no_route_takes_a_larger_body_than_any_may_have(api: Any, method: str, path: str) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 500

    headers = {"content-type": "application/json"}
    response = await api.client.request(method, path, content=in_pieces(), headers=headers)
    assert response.status_code == 413
    assert api.service.asked == []


async def test_the_bodies_of_all_together_have_a_largest_size(api: Any) -> None:
    finish = asyncio.Event()
    sent = asyncio.Semaphore(0)

    async def slow() -> AsyncIterator[bytes]:
        yield b" " * BODY_BYTES_MAX
        sent.release()
        await finish.wait()

    slow_ones = [asyncio.create_task(api.client.post("/v1/verify", content=slow())) for _ in range(FULL_BODIES_MAX)]
    for _ in slow_ones:
        await sent.acquire()

    refused = await api.post(b" ")
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:governors:problem:pushback"
    assert int(refused.headers["retry-after"]) >= 1
    assert api.count("governors_rejected_total", source="http", reason="pushback") == 1
    assert (await api.client.get("/healthz")).status_code == 200

    finish.set()
    assert {response.status_code for response in await asyncio.gather(*slow_ones)} == {400}
    assert (await api.post(b" ")).status_code == 400, "what was read is forgotten with its request"
