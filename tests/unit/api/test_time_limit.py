"""What a request is told that takes too long."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from governors.settings import HttpSettings

Wire = Callable[..., dict[str, Any]]


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(request_timeout_s=0.05)


async def test_a_body_that_does_not_arrive_in_time_is_the_senders_problem(api: Any) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {"content-type": "application/json"}
    response = await api.client.post("/v1/signals", content=stuck(), headers=headers)
    assert response.status_code == 408
    assert response.json()["type"] == "urn:governors:problem:request-timeout"
    assert api.count("governors_http_requests_total", route="/v1/signals", method="POST", status="408") == 1


async def test_an_answer_that_does_not_come_in_time_is_unknown_and_says_that_sending_again_is_safe(
    api: Any, wire: Wire
) -> None:
    api.service.block = asyncio.Event()
    response = await api.post(json.dumps(wire()).encode())
    assert response.status_code == 503
    assert response.json()["type"] == "urn:governors:problem:outcome-unknown"
    assert "same ids" in response.json()["detail"]
    assert int(response.headers["retry-after"]) >= 1


async def test_the_stream_has_no_limit(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()

    async def silent(_tenant: str | None, *, every: bool) -> AsyncIterator[Any]:
        await released.wait()
        if every:
            yield None

    monkeypatch.setattr(api.service, "watch", silent)
    asyncio.get_running_loop().call_later(0.15, released.set)  # three times the limit
    response = await api.client.get("/v1/stream")
    assert response.status_code == 200
    assert response.text == ": watching\n\n"
