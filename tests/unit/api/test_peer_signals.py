"""Signals that another worker hands on: what is asked, what is answered, and how an answer is read as it arrives."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx
import msgspec
import orjson
import pytest
import pytest_asyncio
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from governors.api.app import answer_problems
from governors.api.peer_signals import (
    BATCH_TYPE,
    OPERATIONS_PATH,
    PATH,
    RESULTS_BYTES_MAX,
    HandedOn,
    ResultFrames,
    encode_batch,
    encode_one_operation,
    peer_operations_endpoint,
    peer_signals_endpoint,
)
from governors.api.service import NotAcceptingError, OutcomeUnknownError, SignalResult
from governors.tenants.operations import Operation
from ingest.decode.native import decode_native
from ingest.signals import Signal, format_time
from ledger.errors import StoreUnavailableError

NOW_US = 1_795_341_600_000_000


def signal(number: int) -> Signal:
    wire = {
        "id": f"s-{number}", "source": "test", "tenant": "acme", "kind": "queue.sample",
        "observed_at": format_time(NOW_US),
        "data": {"depth": number, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1},
    }  # fmt: skip
    return decode_native(orjson.dumps(wire), NOW_US)


def result_of(one: Signal, index: int = 0) -> SignalResult:
    why = "the queue is short"
    return SignalResult(
        one.id, one.tenant, "backlog_valve", "s", "decided", "none", "OPEN", "OPEN", why, f"0:{index}", "local"
    )


@dataclass
class Here:
    """Decides whatever it is given, and remembers it. It has nobody to hand anything on to."""

    signals: list[Signal] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    waited_for: list[SignalResult | None] = field(default_factory=list)
    elsewhere: frozenset[str] = frozenset()
    """Signals of partitions that are not here."""
    refusal: Exception | None = None
    uncommitted: Exception | None = None

    async def submit_here(self, signals: Sequence[Signal]) -> HandedOn:
        if self.refusal is not None:
            raise self.refusal
        self.signals += signals
        results = [None if one.id in self.elsewhere else result_of(one, index) for index, one in enumerate(signals)]

        async def committed() -> None:
            self.waited_for += results
            if self.uncommitted is not None:
                raise self.uncommitted

        return HandedOn(results, committed)

    async def record_operation(self, operation: Operation) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.operations.append(operation)


@dataclass
class Asked:
    here: Here
    client: httpx.AsyncClient

    async def post(self, body: bytes, wait: str = "local") -> httpx.Response:
        return await self.client.post(PATH, params={"wait": wait}, content=body, headers={"content-type": BATCH_TYPE})


@pytest_asyncio.fixture
async def asked() -> AsyncIterator[Asked]:
    here = Here()
    app = FastAPI(
        routes=[
            Route(PATH, peer_signals_endpoint(here, lambda: NOW_US), methods=["POST"]),
            Route(OPERATIONS_PATH, peer_operations_endpoint(here), methods=["POST"]),
        ]
    )
    answer_problems(app, random.Random(1))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield Asked(here, client)


def read(answer: httpx.Response) -> ResultFrames:
    frames = ResultFrames()
    frames.take(answer.content)
    return frames


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rpartition(":")[2]


# An answer as it arrives

answers = st.lists(st.integers(0, 300), max_size=5).map(
    lambda numbers: [result_of(signal(one), one) for one in numbers]
)


def framed(results: Sequence[SignalResult | None]) -> bytes:
    data = msgspec.msgpack.encode(results)
    return len(data).to_bytes(4, "big") + data


@given(answers, st.booleans(), st.data())
def test_results_arrive_whatever_way_their_bytes_are_cut(
    results: list[SignalResult], is_committed: bool, data: st.DataObject
) -> None:
    said = framed(results)
    whole = said + b"\x01" * is_committed
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    frames, taken = ResultFrames(), 0
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        frames.take(whole[begin:end])
        taken += end - begin
        assert frames.results == (results if taken >= len(said) else None)
        assert frames.is_committed == (taken > len(said))


@pytest.mark.parametrize("more", [b"\x00", b"\x02", b"\x01\x01"])
def test_what_else_follows_commits_nothing(more: bytes) -> None:
    frames = ResultFrames()
    frames.take(framed([]) + more)
    assert not frames.is_committed


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x91\x01", b"\x91\x81\xa2id\xa2\xff\xfe", b"\x90\x90", b"\x81\x01\x01"]
)
def test_nonsense_says_that_nothing_is_known(data: bytes) -> None:
    with pytest.raises(OutcomeUnknownError):
        ResultFrames().take(len(data).to_bytes(4, "big") + data)


@given(st.binary(max_size=64))
def test_whatever_comes_is_results_or_says_that_nothing_is_known(data: bytes) -> None:
    frames = ResultFrames()
    try:
        frames.take(data)
    except OutcomeUnknownError:
        assert frames.results is None
    assert frames.results is None or framed(frames.results)[:4] <= data[:4]


def test_nobody_waits_for_more_than_any_worker_says() -> None:
    frames = ResultFrames()
    frames.take((RESULTS_BYTES_MAX - 4).to_bytes(4, "big"))
    assert frames.results is None
    with pytest.raises(OutcomeUnknownError):
        ResultFrames().take((RESULTS_BYTES_MAX - 3).to_bytes(4, "big"))


# What is asked


async def test_signals_arrive_as_they_were_sent_and_are_answered_in_their_order(asked: Asked) -> None:
    sent = [signal(number) for number in (3, 1, 2)]
    answer = await asked.post(encode_batch(sent))
    assert (answer.status_code, answer.headers["content-type"]) == (200, BATCH_TYPE)
    assert asked.here.signals == sent
    assert read(answer).results == [result_of(one, index) for index, one in enumerate(sent)]
    assert not read(answer).is_committed
    assert asked.here.waited_for == []


async def test_whoever_asks_for_the_commit_hears_of_it(asked: Asked) -> None:
    frames = read(await asked.post(encode_batch([signal(1)]), wait="committed"))
    assert frames.is_committed
    assert asked.here.waited_for == frames.results


@pytest.mark.parametrize("failure", [NotAcceptingError("moved", 1.0), StoreUnavailableError("away", 1.0)])
async def test_where_the_commit_fails_the_results_stay(asked: Asked, failure: Exception) -> None:
    asked.here.uncommitted = failure
    answer = await asked.post(encode_batch([signal(1)]), wait="committed")
    assert read(answer).results == [result_of(signal(1))]
    assert not read(answer).is_committed


async def test_what_is_not_here_has_no_result_in_its_place(asked: Asked) -> None:
    asked.here.elsewhere = frozenset({"s-1", "s-3"})
    body = msgspec.msgpack.encode([signal(1).payload, b"{", signal(2).payload, signal(3).payload])
    results = read(await asked.post(body, wait="committed")).results
    assert results is not None
    assert [one and one.outcome for one in results] == [None, "rejected", "decided", None]


async def test_what_cannot_be_read_is_rejected_in_its_place(asked: Asked) -> None:
    late = orjson.dumps({**orjson.loads(signal(2).payload), "observed_at": "2037-01-01T00:00:00Z"})
    body = msgspec.msgpack.encode([b"{", signal(1).payload, late, signal(3).payload])
    results = read(await asked.post(body, wait="committed")).results
    assert results is not None
    assert [one and one.outcome for one in results] == ["rejected", "decided", "rejected", "decided"]
    assert [one and one.error and one.error.field for one in results] == ["", None, "observed_at", None]
    assert [one.id for one in asked.here.signals] == ["s-1", "s-3"]


@pytest.mark.parametrize("body", [b"", b"{}", b"\x91\x01", b"\x91\x81\x01\x01", b"\xc1", b"\x91\xc4\x05a", b"\x90\x90"])
async def test_a_body_that_is_no_batch_is_refused_whole(asked: Asked, body: bytes) -> None:
    assert kind(await asked.post(body)) == (400, "unreadable-body")
    assert asked.here.signals == []


@pytest.mark.parametrize("wait", ["", "sometime"])
async def test_how_long_to_wait_has_to_be_said(asked: Asked, wait: str) -> None:
    answer = await asked.post(encode_batch([signal(1)]), wait)
    assert (kind(answer), answer.json()["field"]) == ((422, "invalid-field"), "wait")
    assert asked.here.signals == []


async def test_a_worker_that_does_not_have_them_says_so(asked: Asked) -> None:
    asked.here.refusal = NotAcceptingError("partition 3 is not here", 1.0)
    assert kind(await asked.post(encode_batch([signal(1)]))) == (503, "not-accepting")


async def test_what_an_operator_asked_arrives_as_it_was(asked: Asked) -> None:
    operation = Operation(
        at_us=NOW_US, by="alice", action="PUT /v1/emergency-stop", path="/v1/emergency-stop", status=200
    )
    answer = await asked.client.post(OPERATIONS_PATH, content=encode_one_operation(operation))
    assert (answer.status_code, answer.content) == (204, b"")
    assert asked.here.operations == [operation]


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xc1", b"\x81\xa2by\xa2\xff\xfe"])
async def test_what_is_no_operation_leaves_no_receipt(asked: Asked, body: bytes) -> None:
    assert kind(await asked.client.post(OPERATIONS_PATH, content=body)) == (400, "unreadable-body")
    assert asked.here.operations == []
