"""Everything that senders get wrong, against a real service: told why, counted, and nobody else suffers for it.

One service takes all of it. What it answers is never its own failure: 4xx with the field, or an entry of its own
beside the good signals of the same batch.
"""

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.service import ServiceProcess

from benchmarks.support_scrape import Scrape
from ingest.errors import Reason

JSON = "application/json"
NDJSON = "application/x-ndjson"
BODY_BYTES_MAX = 4 * 1024 * 1024
BATCH_MAX = 10_000
# Long enough for every honest request here, on a busy machine too; the slow sender waits it out.
REQUEST_TIMEOUT_S = 4

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Bench:
    """The service, a client for it, and a look at its counters."""

    process: ServiceProcess
    client: httpx.Client

    def post(self, body: bytes, content_type: str = JSON) -> httpx.Response:
        return self.client.post("/v1/signals", content=body, headers={"content-type": content_type})

    def count(self, name: str, **labels: str) -> float:
        return Scrape.parse(self.client.get("/metrics").text).total(name, **labels)

    def rejections(self, reason: str) -> float:
        return self.count("governors_rejected_total", source="http", reason=reason)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the service does on its own account."""
        give_up_s = time.monotonic() + 30.0
        while not condition():
            assert time.monotonic() < give_up_s
            time.sleep(0.01)

    def speak(self, *parts: bytes, hang_up: bool = False) -> bytes:
        """Write to a connection of its own as no client would; returns all that is answered."""
        address = urlsplit(self.process.url)
        with socket.create_connection((address.hostname, address.port), timeout=60.0) as connection:
            for part in parts:
                connection.sendall(part)
            if hang_up:
                return b""
            answer = b""
            # Who is refused in the middle of a body finds the connection reset behind the answer.
            with contextlib.suppress(ConnectionResetError):
                while more := connection.recv(65_536):
                    answer += more
            return answer


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    env = {"GOVERNORS_HTTP__REQUEST_TIMEOUT_S": str(REQUEST_TIMEOUT_S)}
    folder = tmp_path_factory.mktemp("bad-input")
    with ServiceProcess(folder, env=env) as process, httpx.Client(base_url=process.url, timeout=60.0) as client:
        yield Bench(process, client)


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def queue(**changes: Any) -> dict[str, Any]:
    """A good signal, but for the changes; each has an id of its own."""
    data = {"depth": 12, "oldest_age_s": 0.4, "in_rate_per_s": 3.0, "done_rate_per_s": 3.0}
    signal = {
        "id": f"s-{next(_numbers)}",
        "source": "bad-input",
        "tenant": "acme",
        "kind": "queue.sample",
        "subject": "orders",
        "observed_at": ago(0),
        "data": data,
    }
    return signal | changes


def queue_data(**changes: Any) -> dict[str, Any]:
    signal = queue()
    return signal | {"data": signal["data"] | changes}


def spend_data(**changes: Any) -> dict[str, Any]:
    data = {
        "cost_amount": "10.00",
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": "2026-11-01T00:00:00Z",
    }
    return queue(kind="cost.snapshot", subject="prod-budget", data=data | changes)


def without(signal: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in signal.items() if key != name}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def raw(signal: dict[str, Any], old: str, new: bytes) -> bytes:
    """A signal's bytes with something in place of a text that no JSON writer would put there."""
    text = json.dumps(signal).encode()
    assert text.count(old.encode()) == 1
    return text.replace(old.encode(), new)


def text(signal: dict[str, Any]) -> bytes:
    return json.dumps(signal).encode()


# What is wrong with a signal -> its bytes, the field that is to blame, and the word that it counts under.
SIGNALS: dict[str, tuple[bytes, str, Reason]] = {
    "unknown kind": (text(queue(kind="queue.smaple")), "kind", Reason.UNKNOWN_KIND),
    "kind of another type": (text(queue(kind=["queue.sample"])), "kind", Reason.BAD_FIELD),
    "no tenant": (text(without(queue(), "tenant")), "tenant", Reason.MISSING_FIELD),
    "no id": (text(without(queue(), "id")), "id", Reason.MISSING_FIELD),
    "no data": (text(without(queue(), "data")), "data", Reason.MISSING_FIELD),
    "no depth": (text(queue(data={"oldest_age_s": 1})), "data.depth", Reason.MISSING_FIELD),
    "unknown field": (text(queue(colour="red")), "colour", Reason.UNKNOWN_FIELD),
    "unknown field in data": (text(queue_data(dpeth=3)), "data.dpeth", Reason.UNKNOWN_FIELD),
    "tenant with a slash": (text(queue(tenant="a/b")), "tenant", Reason.BAD_FIELD),
    "tenant that is null": (text(queue(tenant=None)), "tenant", Reason.BAD_FIELD),
    "tenant of 129 letters": (text(queue(tenant="t" * 129)), "tenant", Reason.BAD_FIELD),
    "empty id": (text(queue(id="")), "id", Reason.BAD_FIELD),
    "id with a line feed": (text(queue(id="a\nb")), "id", Reason.BAD_FIELD),
    "subject that turns the text around": (text(queue(subject="a\u202eb")), "subject", Reason.BAD_FIELD),
    "data that is a list": (text(queue(data=[])), "data", Reason.BAD_FIELD),
    "NaN": (text(queue_data(in_rate_per_s=float("nan"))), "data.in_rate_per_s", Reason.NOT_FINITE),
    "Infinity": (text(queue_data(in_rate_per_s=float("inf"))), "data.in_rate_per_s", Reason.NOT_FINITE),
    "a number that no double holds": (
        raw(queue_data(oldest_age_s=0.123), "0.123", b"1e999"),
        "data.oldest_age_s",
        Reason.NOT_FINITE,
    ),
    "an integer of a thousand digits": (
        raw(queue_data(depth=424_242), "424242", b"9" * 1_000),
        "data.depth",
        Reason.BAD_FIELD,
    ),
    "negative depth": (text(queue_data(depth=-1)), "data.depth", Reason.BAD_FIELD),
    "half a message": (text(queue_data(depth=1.5)), "data.depth", Reason.BAD_FIELD),
    "a number in a string": (text(queue_data(depth="12")), "data.depth", Reason.BAD_FIELD),
    "true for a number": (text(queue_data(depth=True)), "data.depth", Reason.BAD_FIELD),
    "amount as a number": (text(spend_data(cost_amount=910.25)), "data.cost_amount", Reason.BAD_FIELD),
    "amount as an integer": (text(spend_data(budget_amount=1000)), "data.budget_amount", Reason.BAD_FIELD),
    "amount in words": (text(spend_data(cost_amount="ten")), "data.cost_amount", Reason.BAD_FIELD),
    "amount with an exponent": (text(spend_data(cost_amount="1e3")), "data.cost_amount", Reason.BAD_FIELD),
    "amount out of range": (text(spend_data(cost_amount="9" * 40)), "data.cost_amount", Reason.BAD_FIELD),
    "currency in small letters": (text(spend_data(currency="usd")), "data.currency", Reason.BAD_FIELD),
    "more than an hour ahead": (text(queue(observed_at=ago(-7_200))), "observed_at", Reason.FUTURE_TIME),
    "usage more than an hour ahead": (
        text(
            queue(kind="cost.delta", subject="b", data={"amount": "1.00", "currency": "USD", "usage_at": ago(-7_200)})
        ),
        "data.usage_at",
        Reason.FUTURE_TIME,
    ),
    "time without an offset": (text(queue(observed_at="2026-11-22T10:00:00")), "observed_at", Reason.BAD_FIELD),
    "time as a number": (text(queue(observed_at=1_795_341_600)), "observed_at", Reason.BAD_FIELD),
    "30 February": (text(queue(observed_at="2026-02-30T10:00:00Z")), "observed_at", Reason.BAD_FIELD),
    "before 1970": (text(queue(observed_at="1969-12-31T23:59:59Z")), "observed_at", Reason.BAD_FIELD),
    "half a character": (text(queue(id="\ud800")), "id", Reason.LONE_SURROGATE),
    "half a character as a name": (
        raw(queue(extra={"name": 1}), '"name"', b'"\\udfff"'),
        "extra",
        Reason.LONE_SURROGATE,
    ),
    "bytes that are not UTF-8": (raw(queue(source="sauce"), "sauce", b"\xff\xfe"), "", Reason.BAD_UTF8),
    "a name given twice": (
        raw(queue(tenant="twice"), '"tenant": "twice"', b'"tenant":"a","tenant":"b"'),
        "tenant",
        Reason.DUPLICATE_FIELD,
    ),
    "extra nested too deeply": (text(queue(extra={"deep": nested(20)})), "extra", Reason.TOO_DEEP),
    "data nested out of all bounds": (
        raw(queue(data="deep"), '"deep"', b"[" * 20_000 + b"]" * 20_000),
        "data",
        Reason.TOO_DEEP,
    ),
    "extra over 8 KiB": (text(queue(extra={"note": "x" * 9_000})), "extra", Reason.TOO_LARGE),
    "a signal over 64 KiB": (text(queue(source="x" * 70_000)), "", Reason.TOO_LARGE),
    "a number": (b"42", "", Reason.BAD_FIELD),
    "null": (b"null", "", Reason.BAD_FIELD),
    "a text": (b'"signal"', "", Reason.BAD_FIELD),
}


@pytest.mark.parametrize("wrong", SIGNALS)
def test_a_bad_signal_is_refused_by_name_of_its_field(bench: Bench, wrong: str) -> None:
    element, field, reason = SIGNALS[wrong]
    before = bench.rejections(reason)
    response = bench.post(element)
    assert 400 <= response.status_code < 500, response.text
    document = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert document.get("field", "") == field
    assert document["reason"] == reason
    assert document["detail"]
    assert bench.rejections(reason) == before + 1


@pytest.mark.parametrize("form", [JSON, NDJSON])
@pytest.mark.parametrize("wrong", SIGNALS)
def test_the_good_signals_beside_a_bad_one_have_their_receipts(bench: Bench, wrong: str, form: str) -> None:
    element, field, reason = SIGNALS[wrong]
    before = bench.rejections(reason)
    first, last = queue(subject="beside"), queue(subject="beside")
    parts = [text(first), element, text(last)]
    response = bench.post(b"\n".join(parts) if form == NDJSON else b"[" + b",".join(parts) + b"]", form)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == 3
    for sent, result in ((first, results[0]), (last, results[2])):
        assert (result["id"], result["outcome"]) == (sent["id"], "decided")
        receipt = bench.client.get(f"/v1/receipts/{result['receipt']}").json()["receipt"]
        assert receipt["event_id"] == sent["id"]
    bad = results[1]
    assert bad["outcome"] == "rejected"
    assert (bad["error"]["field"], bad["error"]["reason"]) == (field, reason)
    assert bad["error"]["detail"]
    assert bench.rejections(reason) == before + 1


# What is wrong with a body -> its bytes, its media type, the status and the word that it counts under.
BODIES: dict[str, tuple[bytes, str, int, Reason]] = {
    "nothing": (b"", JSON, 400, Reason.EMPTY_BODY),
    "white space": (b" \r\n\t ", JSON, 400, Reason.EMPTY_BODY),
    "no JSON": (b"tenant=acme", JSON, 400, Reason.BAD_JSON),
    "half a signal": (text(queue())[:-20], JSON, 400, Reason.BAD_JSON),
    "an array without an end": (b"[" + text(queue()) + b",", JSON, 400, Reason.BAD_JSON),
    "a string without an end": (b'[{"id": "s', JSON, 400, Reason.BAD_JSON),
    "an array and more": (b"[" + text(queue()) + b"]]", JSON, 400, Reason.BAD_JSON),
    "nested 100,000 deep": (b"[" * 100_000, JSON, 400, Reason.BAD_JSON),
    "UTF-16": (json.dumps(queue()).encode("utf-16"), JSON, 400, Reason.BAD_UTF8),
    "no media type": (text(queue()), "", 415, Reason.UNSUPPORTED_MEDIA_TYPE),
    "a form": (text(queue()), "application/x-www-form-urlencoded", 415, Reason.UNSUPPORTED_MEDIA_TYPE),
    "XML": (b"<signal/>", "application/xml", 415, Reason.UNSUPPORTED_MEDIA_TYPE),
    "another charset": (text(queue()), "application/json; charset=latin-1", 415, Reason.UNSUPPORTED_MEDIA_TYPE),
    "too many signals": (b"[" + b",".join([b"{}"] * (BATCH_MAX + 1)) + b"]", JSON, 413, Reason.BATCH_TOO_LARGE),
    "too many lines": (b"{}\n" * (BATCH_MAX + 1), NDJSON, 413, Reason.BATCH_TOO_LARGE),
    "a million commas": (b"[" + b"," * 1_000_000 + b"]", JSON, 413, Reason.TOO_LARGE),
    "over 4 MiB": (b" " * (BODY_BYTES_MAX + 1), JSON, 413, Reason.TOO_LARGE),
}


@pytest.mark.parametrize("wrong", BODIES)
def test_a_bad_body_is_refused_as_a_whole(bench: Bench, wrong: str) -> None:
    body, content_type, status, reason = BODIES[wrong]
    before, signals = bench.rejections(reason), bench.count("governors_signals_received_total")
    response = bench.post(body, content_type)
    assert response.status_code == status, response.text
    assert response.json()["reason"] == reason
    assert response.json()["detail"]
    assert bench.rejections(reason) == before + 1
    assert bench.count("governors_signals_received_total") == signals, "nothing in it was handled"


def test_a_full_batch_of_nothing_but_bad_signals_is_answered_one_by_one(bench: Bench) -> None:
    before = bench.rejections(Reason.MISSING_FIELD)
    response = bench.post(b"[" + b",".join([b"{}"] * BATCH_MAX) + b"]")
    assert response.status_code == 200
    assert [one["outcome"] for one in response.json()["results"]] == ["rejected"] * BATCH_MAX
    assert bench.rejections(Reason.MISSING_FIELD) == before + BATCH_MAX


def head(*lines: str) -> bytes:
    fixed = ["POST /v1/signals HTTP/1.1", "Host: governors", f"Content-Type: {JSON}", "Connection: close"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"-5\r\n{}\r\n0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"1\r\n{}\r\n0\r\n\r\n",
        head("Content-Length: many") + b"{}",
        head("Content-Length: -1") + b"{}",
        b"POST\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["size no number", "negative size", "size too small", "length no number", "negative length", "no path", "TLS"],
)
def test_what_is_no_http_is_a_bad_request(bench: Bench, request_bytes: bytes) -> None:
    assert status_of(bench.speak(request_bytes)) == 400


def test_a_chunked_body_over_the_limit_is_refused_while_it_arrives(bench: Bench) -> None:
    before = bench.rejections(Reason.TOO_LARGE)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = bench.speak(head("Transfer-Encoding: chunked"), chunk * (BODY_BYTES_MAX // 0x10000 + 1))
    assert status_of(answer) == 413
    assert bench.rejections(Reason.TOO_LARGE) == before + 1


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_sender_that_hangs_up_in_the_middle_harms_nobody(bench: Bench, framing: str) -> None:
    before, signals = bench.rejections(Reason.INCOMPLETE_BODY), bench.count("governors_signals_received_total")
    for _ in range(5):
        bench.speak(head(framing), b"5\r\n[{", hang_up=True)
    response = bench.post(text(queue()))
    assert response.status_code == 200
    bench.until(lambda: bench.rejections(Reason.INCOMPLETE_BODY) == before + 5)
    assert bench.count("governors_signals_received_total") == signals + 1


def test_a_sender_that_takes_too_long_is_let_go(bench: Bench) -> None:
    answer = bench.speak(head("Content-Length: 1000"), b"[{")
    assert status_of(answer) == 408


def test_after_all_of_it_the_service_is_well_and_its_log_verifies(bench: Bench) -> None:
    assert bench.client.get("/healthz").status_code == 200
    assert bench.client.get("/readyz").status_code == 200
    assert bench.post(text(queue())).json()["results"][0]["outcome"] == "decided"
    samples = Scrape.parse(bench.client.get("/metrics").text).samples
    failed = [at for name, at, _ in samples if name == "governors_http_requests_total" and at["status"] >= "500"]
    assert failed == []
    assert [at for name, at, _ in samples if name == "governors_child_restarts_total"] == []
    assert bench.process.stop() == 0
    entries = [json.loads(line) for line in bench.process.log]
    assert [entry for entry in entries if entry["severity"] in {"ERROR", "CRITICAL"}] == []
    verified = subprocess.run(
        [sys.executable, "-m", "governors", "verify", "log", str(bench.process.data_dir), "--json"],
        capture_output=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["ok"]
