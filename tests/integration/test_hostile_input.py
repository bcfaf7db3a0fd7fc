"""Input that is meant to do harm, against a real service: refused within bounds, and nobody else notices.

One service takes all of it. While it is attacked somebody honest goes on asking, each time by a new connection, and
has to be answered; what the process holds at its peak (`VmHWM`) has a bound for each attack.
"""

import contextlib
import hashlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from support.google import ACCOUNT, AUDIENCE, Google
from support.service import ServiceProcess

from benchmarks.support_scrape import Scrape

HONEST: Final = "gov_" + "h" * 43
HOSTILE: Final = "gov_" + "x" * 43
CONNECTIONS_MAX: Final = 100
REQUEST_S: Final = 4
HEAD_S: Final = 2
GIB: Final = 1024**3
DEPTH: Final = 10_000
TENANTS: Final = 100_000
BATCH: Final = 10_000
MB: Final = 1_000_000


def signal_of(tenant: str, signal_id: str) -> dict[str, Any]:
    return {
        "id": signal_id,
        "source": "hostile",
        "tenant": tenant,
        "kind": "queue.sample",
        "observed_at": datetime.now(UTC).isoformat(),
        "data": {"depth": 1, "oldest_age_s": 0.1, "in_rate_per_s": 1.0, "done_rate_per_s": 1.0},
    }


@dataclass(frozen=True, slots=True)
class Place:
    """The service, and how to speak to it as no client would."""

    process: ServiceProcess
    google: dict[str, str]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.process.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60.0)

    def client(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.process.url, headers=headers, timeout=60.0)

    @contextlib.contextmanager
    def grows_by_at_most(self, megabytes: float) -> Iterator[None]:
        """The process's peak meanwhile, above what it held before."""
        clear, status = Path(f"/proc/{self.process.pid}/clear_refs"), Path(f"/proc/{self.process.pid}/status")
        clear.write_text("5")  # the peak is what is held now
        before = _kilobytes(status, "VmRSS")
        yield
        grown = (_kilobytes(status, "VmHWM") - before) * 1_024 / MB
        assert grown <= megabytes, f"{grown:.0f} MB more"

    @contextlib.contextmanager
    def stays_well(self) -> Iterator[None]:
        """Somebody honest asks all the time, by a new connection each, and is answered."""
        done = threading.Event()

        def ask() -> int:
            asked = 0
            while not done.is_set() or not asked:
                with self.client(HONEST) as client:
                    assert client.get("/readyz").status_code == 200
                    sent = client.post("/v1/signals", json=signal_of("acme", f"h-{threading.get_ident()}-{asked}"))
                    assert sent.status_code == 200
                    assert sent.json()["results"][0]["outcome"] in ("decided", "duplicate")
                asked += 1
            return asked

        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask)
            try:
                yield
            finally:
                done.set()
            assert asking.result() > 0


def _kilobytes(status: Path, name: str) -> int:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hostile")
    entries = [
        {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "roles": ["admin"]}
        for name, token in (("honest", HONEST), ("hostile", HOSTILE))
    ]
    (folder / "tokens.yaml").write_text(json.dumps({"tokens": entries}))
    google = Google(folder / "google.json")
    env = {
        "GOVERNORS_TENANTS__AUTO_CREATE": "false",
        "GOVERNORS_AUTH__TOKENS_FILE": str(folder / "tokens.yaml"),
        "GOVERNORS_PUSH__AUDIENCE": AUDIENCE,
        "GOVERNORS_PUSH__SERVICE_ACCOUNTS": ACCOUNT,
        "GOVERNORS_PUSH__KEYS": str(folder / "google.json"),
        "GOVERNORS_HTTP__CONNECTIONS_MAX": str(CONNECTIONS_MAX),
        "GOVERNORS_HTTP__REQUEST_TIMEOUT_S": str(REQUEST_S),
        "GOVERNORS_HTTP__HEAD_TIMEOUT_S": str(HEAD_S),
    }
    with ServiceProcess(folder / "data", env=env) as process:
        place = Place(process, google.token())
        with place.client(HONEST) as client:
            assert client.put("/v1/tenants/acme", json={"entitlement": "active"}).status_code == 200
        with place.stays_well():  # what a first use makes and keeps is no attack's doing
            pass
        yield place
        assert process.stop() == 0
        assert [line for line in process.log if '"ERROR"' in line or '"CRITICAL"' in line] == []


def head(token: str | None, *lines: str, route: str = "POST /v1/signals") -> bytes:
    known = [] if token is None else [f"Authorization: Bearer {token}"]
    return "\r\n".join(
        [f"{route} HTTP/1.1", "Host: g", "Content-Type: application/json", *known, *lines, "", ""]
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    """Whatever is said until the other side ends it."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65_536):
            answer += more
    return answer


def test_senders_that_take_for_ever_hold_nobody_up(place: Place) -> None:
    """Three times as many as there may be connections: of heads, of bodies that nobody may send, of bodies."""
    slow = {
        b"head": head(None)[:-4],
        b"body of nobody": head(None, "Content-Length: 1000"),
        b"body": head(HOSTILE, "Content-Length: 1000"),
    }
    with contextlib.ExitStack() as connections, place.grows_by_at_most(30), place.stays_well():
        begun = []
        for number in range(CONNECTIONS_MAX):
            # Not all of them may be busy with somebody who is known: who pays for a place, keeps it for REQUEST_S.
            kinds = list(slow.values())[: 3 if number % 4 == 0 else 2]
            for start in kinds:
                connection = connections.enter_context(place.connect())
                connection.sendall(start)
                begun.append(connection)
        left = set(begun)
        while left:
            for connection in list(left):
                try:
                    connection.sendall(b"x")
                    connection.settimeout(0.001)
                    if connection.recv(65_536) == b"":
                        left.discard(connection)
                except TimeoutError:
                    pass
                except OSError:
                    left.discard(connection)


@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
def test_a_body_of_a_gibibyte_is_refused_while_it_arrives(place: Place, framing: str) -> None:
    piece = b" " * 1024 * 1024
    if framing == "chunked":
        lines, piece = "Transfer-Encoding: chunked", b"100000\r\n" + piece + b"\r\n"
    else:
        lines = f"Content-Length: {GIB}"
    with place.grows_by_at_most(20), place.stays_well(), place.connect() as connection:
        connection.sendall(head(HOSTILE, lines))
        # Who does not listen for an answer goes on until he is cut off.
        with contextlib.suppress(OSError):
            for _ in range(1024):
                connection.sendall(piece)
        answer = b""
        with contextlib.suppress(OSError):
            answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ") or answer == b""  # a reset may have overtaken it


def bombs() -> dict[str, tuple[bytes, str]]:
    lists, objects = b"[" * DEPTH + b"]" * DEPTH, b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    sound = json.dumps(signal_of("acme", "deep")).encode()
    event = b'{"specversion":"1.0","id":"1","source":"//gov/acme","type":"gov.queue.sample.v1","data":%s}'
    return {
        "lists": (lists, "application/json"),
        "objects": (objects, "application/json"),
        "lists without an end": (b"[" * DEPTH, "application/json"),
        "objects without an end": (b'{"a":' * DEPTH, "application/json"),
        "in data": (sound.replace(b'"data": {', b'"data": {"deep": %s, ' % objects), "application/json"),
        "in extra": (sound[:-1] + b', "extra": {"deep": %s}}' % lists, "application/json"),
        "in lines": (b"\n".join([lists, objects, lists]), "application/x-ndjson"),
        "in an event": (event % objects, "application/cloudevents+json"),
        "in a batch of events": (b"[" + event % lists + b"]", "application/cloudevents-batch+json"),
    }


JSON_ROUTES: Final = (
    ("POST", "/v1/signals"),
    ("POST", "/v1/push/alertmanager"),
    ("POST", "/v1/push/pubsub"),
    ("POST", "/v1/verify"),
    ("PUT", "/v1/tenants/acme"),
    ("POST", "/v1/tenants/acme/overrides"),
    ("POST", "/v1/tenants/acme/approvals"),
    ("PUT", "/v1/tenants/acme/emergency-stop"),
    ("PUT", "/v1/emergency-stop"),
)


@pytest.mark.parametrize(("method", "route"), JSON_ROUTES)
def test_json_that_is_nested_ten_thousand_deep_is_refused(place: Place, method: str, route: str) -> None:
    headers = place.google if route == "/v1/push/pubsub" else {}
    with place.grows_by_at_most(20), place.stays_well(), place.client(HOSTILE) as client:
        for name, (body, media_type) in bombs().items():
            answer = client.request(method, route, content=body, headers={"Content-Type": media_type, **headers})
            assert answer.status_code < 500, (name, answer.text)
            if answer.status_code == 200:
                # A batch says of each what is wrong; what Pub/Sub pushes is put aside; a verdict is an answer.
                said = answer.json()
                outcomes = [one["outcome"] for one in said["results"]] if "results" in said else [said.get("outcome")]
                assert said.get("ok") is False or set(outcomes) <= {"rejected", "dead_lettered"}, (name, said)


def packed(method: int) -> bytes:
    """100 MB of nothing, packed a thousandfold."""
    packer = zlib.compressobj(9, zlib.DEFLATED, method)
    return b"".join([*(packer.compress(bytes(MB)) for _ in range(100)), packer.flush()])


def test_what_unpacks_to_a_thousand_times_its_size_is_not_unpacked(place: Place) -> None:
    gzipped, deflated = packed(31), packed(15)
    assert len(gzipped) < 200_000
    with place.grows_by_at_most(20), place.stays_well(), place.client(HOSTILE) as client:
        for method, route in JSON_ROUTES:
            headers = {"Content-Type": "application/json", **(place.google if "pubsub" in route else {})}
            for encoding, body in (("gzip", gzipped), ("deflate", deflated), ("gzip, gzip", gzipped), ("br", gzipped)):
                answer = client.request(method, route, content=body, headers={**headers, "Content-Encoding": encoding})
                assert answer.status_code == 415, (route, encoding)
            unsaid = client.request(method, route, content=gzipped, headers=headers)
            assert unsaid.status_code < 500
        with place.connect() as connection:
            connection.sendall(head(HOSTILE, "Transfer-Encoding: gzip, chunked"))
            assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_a_hundred_thousand_tenants_that_nobody_knows_are_refused_and_not_remembered(place: Place) -> None:
    with place.client(HOSTILE) as client:
        known = client.get("/v1/tenants").json()["tenants"]
        with place.grows_by_at_most(150), place.stays_well():
            for start in range(0, TENANTS, BATCH):
                batch = [signal_of(f"nobody-{number:06}", f"u-{number}") for number in range(start, start + BATCH)]
                while (answer := client.post("/v1/signals", json=batch)).status_code == 503:
                    time.sleep(float(answer.headers["retry-after"]))  # a machine with others may fall behind
                assert answer.status_code == 200
                assert {one["outcome"] for one in answer.json()["results"]} == {"refused"}
        assert [one["tenant"] for one in client.get("/v1/tenants").json()["tenants"]] == [
            one["tenant"] for one in known
        ]
        metrics = Scrape.parse(client.get("/metrics").text)
        assert metrics.total("governors_active_tenants") <= 2


def test_after_all_of_it_nothing_has_failed(place: Place) -> None:
    with place.client(HONEST) as client:
        samples = Scrape.parse(client.get("/metrics").text).samples
        assert client.get("/healthz").status_code == 200
    failed = [at for name, at, _ in samples if name == "governors_http_requests_total" and at["status"] == "500"]
    assert failed == []
    assert [at for name, at, _ in samples if name == "governors_child_restarts_total"] == []
