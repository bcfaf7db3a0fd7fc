"""`governors send` and a service that says when to come again: everything arrives, once, in order."""

import time
from typing import Any

import httpx
import orjson
import pytest

from governors.cli import client
from governors.cli.signal_input import bodies


class Service:
    """Takes `room` signals at a time; more comes back after a wait, of which it keeps count."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.left = room
        self.taken: list[str] = []
        self.waited: list[float] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        signals = [orjson.loads(line) for line in request.content.splitlines()]
        if not self.left:
            return httpx.Response(429, headers={"retry-after": "4"}, json={"title": "too soon", "detail": ""})
        now, late = signals[: self.left], signals[self.left :]
        self.left -= len(now)
        self.taken += [one["id"] for one in now]
        error = {"reason": "rate_limited", "field": "", "detail": "too soon", "retry_after_s": 3}
        results = [{"id": one["id"], "outcome": "decided"} for one in now]
        refused = [{"id": one["id"], "outcome": "rejected", "error": error} for one in late]
        return httpx.Response(200, json={"results": [*results, *refused]})

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.left = self.room


@pytest.mark.parametrize(("room", "waits"), [(10, []), (4, [3, 3]), (9, [3])])
def test_what_comes_too_soon_is_sent_again_when_the_service_said(
    room: int, waits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(room)
    monkeypatch.setattr(time, "sleep", service.wait)
    ids = [str(number) for number in range(10)]
    (body,) = bodies(b"\n".join(b'{"id":"%s"}' % one.encode() for one in ids))
    with httpx.Client(transport=httpx.MockTransport(service.answer), base_url="http://governors") as asked:
        results: list[dict[str, Any]] = client._post(asked, body, client.Wait.LOCAL)
    assert service.taken == ids
    assert results == [{"id": one, "outcome": "decided"} for one in ids]
    assert service.waited == waits


def test_a_body_that_is_refused_as_a_whole_is_sent_again_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(2)
    service.left = 0
    monkeypatch.setattr(time, "sleep", service.wait)
    (body,) = bodies(b'{"id":"a"}\n{"id":"b"}')
    with httpx.Client(transport=httpx.MockTransport(service.answer), base_url="http://governors") as asked:
        client._post(asked, body, client.Wait.LOCAL)
    assert service.taken == ["a", "b"]
    assert service.waited == [4]
