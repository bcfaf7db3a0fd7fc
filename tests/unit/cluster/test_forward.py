"""A request that is handed on arrives as it came, once, and its answer comes back as it was given."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Self

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from governors.api.problem import ProblemError, render
from governors.cluster.forward import Forwarder

OWNER = "http://owner:8080"


class Owner(httpx.AsyncBaseTransport):
    """Who has the log: keeps what came, and answers or fails as it is told."""

    def __init__(self, failure: Exception | None = None, *, hangs: bool = False) -> None:
        self.failure = failure
        self.hangs = hangs
        self.asked: list[tuple[str, bytes, dict[str, str], bytes]] = []
        self.is_asked = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        self.asked.append((request.method, request.url.raw_path, dict(request.headers), body))
        self.is_asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        headers = {"X-Kept": "yes", "Date": "then", "Connection": "keep-alive", "Content-Type": "text/plain"}
        return httpx.Response(207, headers=headers, stream=httpx.ByteStream(b"what it said"))


class Asking:
    """A forwarder with somebody who asks it."""

    def __init__(self, owner: Owner) -> None:
        self.failures = 0
        self.forwarder = Forwarder(self._failed, transport=owner)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://standby")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.forwarder.hand_on(OWNER, b"1", scope, receive, send)
        except ProblemError as problem:
            await render(problem, random.Random(1))(scope, receive, send)

    def _failed(self) -> None:
        self.failures += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.forwarder.close()


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


async def test_it_arrives_as_it_came_and_comes_back_as_it_was_answered() -> None:
    owner = Owner()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with Asking(owner) as asking:
        answer = await asking.client.put(
            "/v1/tenants/a%2Fb?x=%26&y=", content=parts(), headers={"Authorization": "Bearer t", "X-Mine": "1"}
        )
    ((method, path, headers, body),) = owner.asked
    assert (method, path, body) == ("PUT", b"/v1/tenants/a%2Fb?x=%26&y=", b"one two")
    assert (headers["authorization"], headers["x-mine"], headers["governors-hop"]) == ("Bearer t", "1", "1")
    assert (answer.status_code, answer.text, answer.headers["x-kept"]) == (207, "what it said", "yes")
    assert "date" not in answer.headers


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (httpx.ConnectError("refused"), "not-accepting"),
        (httpx.ConnectTimeout("late"), "not-accepting"),
        (httpx.ReadError("reset"), "outcome-unknown"),
        (httpx.RemoteProtocolError("nonsense"), "outcome-unknown"),
    ],
)
async def test_what_may_have_arrived_is_told_from_what_cannot_have(failure: Exception, expected: str) -> None:
    async with Asking(Owner(failure)) as asking:
        answer = await asking.client.post("/v1/signals", content=b"{}")
        assert kind(answer) == (503, expected)
        assert asking.failures == 1


async def test_a_caller_who_is_gone_is_not_answered() -> None:
    owner = Owner(hangs=True)
    async with Asking(owner) as asking:

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_: object) -> None:
            raise AssertionError("nobody is there")

        scope: Scope = {
            "type": "http", "method": "GET", "raw_path": b"/v1/tenants", "path": "/v1/tenants",
            "query_string": b"", "headers": [],
        }  # fmt: skip
        answering: Receive = receive
        sending: Send = send
        task = asyncio.create_task(asking.forwarder.hand_on(OWNER, b"1", scope, answering, sending))
        await owner.is_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
