"""`POST /v1/signals`: what is answered, what is refused, and that nobody suffers for a neighbour."""

import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from governors.api.service import NotAcceptingError, SignalError
from governors.settings import HttpSettings
from ingest.errors import Reason
from ledger.errors import LedgerFailedError, PushbackError

Wire = Callable[..., dict[str, Any]]
BODY_BYTES_MAX = 20_000
PROBLEM = "application/problem+json"


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(body_bytes_max=BODY_BYTES_MAX, batch_max=20)


def problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:governors:problem:{name}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


async def test_one_signal_is_answered_with_its_outcome(api: Any, wire: Wire) -> None:
    response = await api.post(json.dumps(wire()).encode())
    assert response.status_code == 200
    assert response.json() == {
        "results": [
            {
                "id": "s-1",
                "tenant": "acme",
                "governor": "backlog_valve",
                "subject": "orders",
                "outcome": "decided",
                "decision": "none",
                "state": "OPEN",
                "previous_state": "OPEN",
                "reason": "the queue is short",
                "receipt": "0:0",
                "durability": "local",
            }
        ]
    }
    assert api.count("governors_signals_received_total", source="http", kind="queue.sample") == 1
    assert api.count("governors_http_requests_total", route="/v1/signals", method="POST", status="200") == 1


@pytest.mark.parametrize("form", ["array", "ndjson", "cloudevents-batch"])
async def test_a_batch_is_answered_in_order_in_one_submission(api: Any, wire: Wire, form: str) -> None:
    ids = ["a", "b", "c"]
    if form == "array":
        body, content_type = json.dumps([wire(id=one) for one in ids]), "application/json"
    elif form == "ndjson":
        body, content_type = "\n".join(json.dumps(wire(id=one)) for one in ids), "application/x-ndjson"
    else:
        events = [
            {
                "specversion": "1.0",
                "id": one,
                "source": "broker",
                "type": "gov.queue.sample.v1",
                "subject": "orders",
                "tenant": "acme",
                "time": "2026-11-22T09:59:58Z",
                "data": wire()["data"],
            }
            for one in ids
        ]
        body, content_type = json.dumps(events), "application/cloudevents-batch+json"
    response = await api.post(body.encode(), content_type)
    assert response.status_code == 200
    assert [result["id"] for result in response.json()["results"]] == ids
    assert [len(batch) for batch in api.service.submitted] == [3]


async def test_the_sender_chooses_how_durable_the_answer_is(api: Any, wire: Wire) -> None:
    response = await api.post(json.dumps(wire()).encode(), wait="committed")
    assert response.json()["results"][0]["durability"] == "committed"
    assert api.service.waits == ["committed"]


async def test_a_batch_of_one_in_an_array_is_still_a_batch(api: Any, wire: Wire) -> None:
    response = await api.post(json.dumps([wire(kind="nonsense")]).encode())
    assert response.status_code == 200
    assert response.json()["results"][0]["outcome"] == "rejected"


def with_data(signal: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return signal | {"data": signal["data"] | changes}


BAD_SIGNALS = [
    pytest.param(lambda s: s | {"kind": "queue.smaple"}, "kind", Reason.UNKNOWN_KIND, id="unknown kind"),
    pytest.param(lambda s: s | {"tenant": ""}, "tenant", Reason.BAD_FIELD, id="empty tenant"),
    pytest.param(lambda s: s | {"tenant": "a/b"}, "tenant", Reason.BAD_FIELD, id="tenant with a slash"),
    pytest.param(lambda s: s | {"tenant": 7}, "tenant", Reason.BAD_FIELD, id="tenant of another type"),
    pytest.param(lambda s: s | {"colour": 1}, "colour", Reason.UNKNOWN_FIELD, id="unknown field"),
    pytest.param(lambda s: with_data(s, dpeth=1), "data.dpeth", Reason.UNKNOWN_FIELD, id="unknown data field"),
    pytest.param(lambda s: with_data(s, depth=-1), "data.depth", Reason.BAD_FIELD, id="negative depth"),
    pytest.param(lambda s: with_data(s, depth="12"), "data.depth", Reason.BAD_FIELD, id="number in a string"),
    pytest.param(lambda s: with_data(s, depth=None), "data.depth", Reason.BAD_FIELD, id="null"),
    pytest.param(lambda s: with_data(s, oldest_age_s=float("nan")), "data.oldest_age_s", Reason.NOT_FINITE, id="NaN"),
    pytest.param(
        lambda s: with_data(s, in_rate_per_s=float("inf")), "data.in_rate_per_s", Reason.NOT_FINITE, id="Infinity"
    ),
    pytest.param(
        lambda s: s | {"observed_at": "2026-11-22T11:00:01Z"}, "observed_at", Reason.FUTURE_TIME, id="an hour ahead"
    ),
    pytest.param(lambda s: s | {"observed_at": "yesterday"}, "observed_at", Reason.BAD_FIELD, id="no time"),
    pytest.param(lambda s: s | {"observed_at": "2026-11-22T10:00:00"}, "observed_at", Reason.BAD_FIELD, id="no offset"),
    pytest.param(lambda s: s | {"id": "\ud800"}, "id", Reason.LONE_SURROGATE, id="half a character"),
    pytest.param(lambda s: s | {"id": "x" * 300}, "id", Reason.BAD_FIELD, id="id too long"),
    pytest.param(
        lambda s: {name: s[name] for name in s if name != "source"}, "source", Reason.MISSING_FIELD, id="no source"
    ),
]


@pytest.mark.parametrize(("spoil", "field", "reason"), BAD_SIGNALS)
async def test_a_single_bad_signal_is_a_problem_that_names_the_field(
    api: Any, wire: Wire, spoil: Callable[[dict[str, Any]], dict[str, Any]], field: str, reason: Reason
) -> None:
    response = await api.post(json.dumps(spoil(wire())).encode())
    document = problem(response, 422, "signal-rejected")
    assert document["field"] == field
    assert document["reason"] == reason
    assert api.service.submitted == []
    assert api.count("governors_rejected_total", source="http", reason=reason) == 1


@pytest.mark.parametrize("ndjson", [True, False], ids=["ndjson", "array"])
@pytest.mark.parametrize(("spoil", "field", "reason"), BAD_SIGNALS)
async def test_the_good_signals_of_a_batch_are_handled_beside_a_bad_one(
    api: Any,
    wire: Wire,
    spoil: Callable[[dict[str, Any]], dict[str, Any]],
    field: str,
    reason: Reason,
    ndjson: bool,
) -> None:
    elements = [json.dumps(one) for one in (wire(id="first"), spoil(wire()), wire(id="last"))]
    body = "\n".join(elements) if ndjson else f"[{','.join(elements)}]"
    response = await api.post(body.encode(), "application/x-ndjson" if ndjson else "application/json")
    assert response.status_code == 200
    first, bad, last = response.json()["results"]
    assert (first["id"], first["outcome"], first["receipt"]) == ("first", "decided", "0:0")
    assert (last["id"], last["outcome"], last["receipt"]) == ("last", "decided", "0:1")
    assert bad["outcome"] == "rejected"
    assert bad["error"]["field"] == field
    assert bad["error"]["reason"] == reason
    assert bad["error"]["detail"]
    assert api.count("governors_rejected_total", source="http", reason=reason) == 1
    assert api.count("governors_signals_received_total", source="http", kind="queue.sample") == 2


@pytest.mark.parametrize(
    ("body", "content_type", "status", "name", "reason"),
    [
        (b"", "application/json", 400, "unreadable-body", Reason.EMPTY_BODY),
        (b"  \n", "application/json", 400, "unreadable-body", Reason.EMPTY_BODY),
        (b"{", "application/json", 400, "unreadable-body", Reason.BAD_JSON),
        (b"[{]", "application/json", 400, "unreadable-body", Reason.BAD_JSON),
        (b"\xff\xfe{}", "application/json", 400, "unreadable-body", Reason.BAD_UTF8),
        (b"{}", "text/plain", 415, "unsupported-media-type", Reason.UNSUPPORTED_MEDIA_TYPE),
        (b"{}", "", 415, "unsupported-media-type", Reason.UNSUPPORTED_MEDIA_TYPE),
        (b"{}", "application/json; charset=latin-1", 415, "unsupported-media-type", Reason.UNSUPPORTED_MEDIA_TYPE),
        (b"[" + b"1," * 20 + b"1]", "application/json", 413, "batch-too-large", Reason.BATCH_TOO_LARGE),
        (b"1\n" * 21, "application/x-ndjson", 413, "batch-too-large", Reason.BATCH_TOO_LARGE),
        (b"x" * (BODY_BYTES_MAX + 1), "application/json", 413, "body-too-large", Reason.TOO_LARGE),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_as_a_whole(
    api: Any, body: bytes, content_type: str, status: int, name: str, reason: Reason
) -> None:
    document = problem(await api.post(body, content_type), status, name)
    assert document["reason"] == reason
    assert api.service.submitted == []
    assert api.count("governors_rejected_total", source="http", reason=reason) == 1


async def test_a_compressed_body_is_refused_by_name_instead_of_as_bad_json(api: Any) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = await api.client.post("/v1/signals", content=b"\x1f\x8b", headers=headers)
    assert problem(response, 415, "unsupported-media-type")["field"] == "Content-Encoding"


@pytest.mark.parametrize(("params", "field"), [({"wait": "soon"}, "wait"), ({"wiat": "committed"}, "wiat")])
async def test_a_parameter_that_cannot_be_honoured_is_not_ignored(
    api: Any, wire: Wire, params: dict[str, str], field: str
) -> None:
    response = await api.post(json.dumps(wire()).encode(), **params)
    assert problem(response, 422, "invalid-field")["field"] == field
    assert api.service.submitted == []
    assert api.count("governors_rejected_total", source="http", reason=Reason.BAD_FIELD) == 1


async def test_a_body_over_the_limit_is_refused_while_it_arrives(api: Any) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1_000

    headers = {"content-type": "application/json"}
    response = await api.client.post("/v1/signals", content=endless(), headers=headers)
    problem(response, 413, "body-too-large")
    assert response.headers["connection"] == "close"
    assert sent == BODY_BYTES_MAX // 1_000 + 1


async def test_a_body_that_says_it_is_too_large_is_not_read_at_all(api: Any) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    headers = {"content-type": "application/json", "content-length": str(10**12)}
    response = await api.client.post("/v1/signals", content=body(), headers=headers)
    problem(response, 413, "body-too-large")
    assert read == 0


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NotAcceptingError("the service is starting", 2.0), "not-accepting"),
        (PushbackError(1_000_000, 2.0), "pushback"),
        (LedgerFailedError("the disk is gone"), "not-accepting"),
    ],
)
async def test_who_cannot_be_served_now_is_told_when_to_come_back(
    api: Any, wire: Wire, error: Exception, name: str
) -> None:
    api.service.error = error
    response = await api.post(json.dumps(wire()).encode())
    problem(response, 503, name)
    assert int(response.headers["retry-after"]) >= 2


async def test_retry_after_is_spread_so_that_those_sent_away_do_not_return_together(api: Any, wire: Wire) -> None:
    api.service.error = NotAcceptingError("full", 60.0)
    body = json.dumps(wire()).encode()
    waits = {int((await api.post(body)).headers["retry-after"]) for _ in range(20)}
    assert len(waits) > 5
    assert min(waits) >= 60
    assert max(waits) <= 90


async def test_a_single_signal_that_the_service_rejects_is_a_problem_with_its_receipt(api: Any, wire: Wire) -> None:
    api.service.rejects = SignalError("unknown_profile", "data.profile", "profile gold is not configured")
    document = problem(await api.post(json.dumps(wire()).encode()), 422, "signal-rejected")
    assert document["field"] == "data.profile"
    assert document["receipt"] == "0:0"


async def test_an_error_that_nobody_foresaw_says_nothing_of_itself(api: Any, wire: Wire) -> None:
    api.service.error = RuntimeError("password=hush")
    response = await api.post(json.dumps(wire()).encode())
    problem(response, 500, "internal")
    assert "hush" not in response.text
    assert api.count("governors_http_requests_total", route="/v1/signals", method="POST", status="500") == 1


async def test_a_method_that_the_route_lacks_is_a_problem_that_names_the_right_one(api: Any) -> None:
    response = await api.client.get("/v1/signals")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


async def test_no_body_whatever_makes_the_service_fail(api: Any, wire: Wire) -> None:
    rng = random.Random(20261122)
    good = json.dumps([wire(id="a"), wire(id="b", extra={"note": "x"}), wire(kind="alert")]).encode()
    types = ["application/json", "application/x-ndjson", "application/cloudevents+json"]
    types.append("application/cloudevents-batch+json")
    tokens = [
        b"\\ud800",
        b"NaN",
        b"1e999",
        b"null",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\xff",
        b"\x00",
        b"9" * 400,
        b",",
        b"\n",
    ]
    statuses = set()
    for _ in range(400):
        body = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(body))
            body[at : at + rng.randint(0, 6)] = rng.choice(tokens)
        response = await api.post(bytes(body), rng.choice(types))
        statuses.add(response.status_code)
        assert response.status_code < 500, body
        response.json()
    assert statuses >= {200, 400}


async def test_an_event_in_binary_mode_is_told_by_its_headers(api: Any, wire: Callable[..., dict[str, Any]]) -> None:
    signal = wire()
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-type": "gov.queue.sample.v1",
        "ce-id": "e-1",
        "ce-source": "//gov/acme/broker",
        "ce-time": signal["observed_at"],
        "ce-subject": "orders",
    }
    response = await api.client.post("/v1/signals", json=signal["data"], headers=headers)
    assert response.status_code == 200
    ((taken,),) = api.service.submitted
    assert (taken.id, taken.tenant, taken.subject, taken.kind) == ("e-1", "acme", "orders", "queue.sample")

    refused = await api.client.post("/v1/signals", json={"depth": -1}, headers=headers)
    assert refused.status_code == 422
    assert refused.json()["id"] == "e-1"
