"""Policies of a running service: read again when somebody says so, from the files that a person has edited."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service import ServiceProcess

WAIT_S = 60.0
OBSERVE = "windows: [{name: night, observe: true}]\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "governors.yaml").write_text("policies: " + str(tmp_path / "policies"), encoding="utf-8")
    (tmp_path / "policies").mkdir()
    return tmp_path


@pytest.fixture
def service(files: Path) -> Iterator[ServiceProcess]:
    env = {"GOVERNORS_TENANTS__AUTO_CREATE": "true"}
    with ServiceProcess(files / "data", "--config", str(files / "governors.yaml"), env=env) as running:
        yield running


def ask(service: ServiceProcess, method: str, path: str, body: Any = None) -> Any:
    return httpx.request(method, service.url + path, json=body, timeout=WAIT_S)


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def spend(service: ServiceProcess, number: int, cost: str) -> dict[str, Any]:
    start = datetime.now(UTC).strftime("%Y-%m-01T00:00:00Z")
    signal_ = {
        "id": f"b-{number}", "source": "billing", "tenant": "acme", "kind": "cost.snapshot",
        "observed_at": datetime.now(UTC).isoformat(),
        "data": {"cost_amount": cost, "budget_amount": "1000.00", "currency": "USD", "interval_start": start},
    }  # fmt: skip
    result: dict[str, Any] = ask(service, "POST", "/v1/signals", signal_).json()["results"][0]
    return result


def machine(service: ServiceProcess) -> Any:
    return ask(service, "GET", "/v1/tenants/acme").json()["machines"][0]


def test_an_edited_file_holds_once_somebody_says_so(service: ServiceProcess, files: Path) -> None:
    before = ask(service, "GET", "/v1/policies").json()
    assert before["windows"] == []

    (files / "policies" / "night.yaml").write_text(OBSERVE, encoding="utf-8")
    os.kill(service.pid, signal.SIGHUP)
    until(lambda: ask(service, "GET", "/v1/policies").json()["digest"] != before["digest"])
    assert ask(service, "GET", "/v1/policies").json()["windows"] == [{"name": "night", "open": True, "changes": None}]
    result = spend(service, 1, "950.00")
    assert result["state"] == "THROTTLE"
    assert result["reason"].endswith("; not asked for is throttle: window night")
    assert machine(service)["withheld"] == {"kind": "throttle", "why": "window night", "until": None, "awaits": False}

    (files / "policies" / "night.yaml").write_text("windows: [{name: night}]\n", encoding="utf-8")
    refused = ask(service, "POST", "/v1/policies/reload")
    assert refused.status_code == 422
    assert "it changes nothing" in refused.json()["detail"]
    os.kill(service.pid, signal.SIGHUP)
    until(lambda: any("those of before still hold" in line for line in service.log))
    assert ask(service, "GET", "/v1/policies").json()["windows"][0]["open"]

    (files / "policies" / "night.yaml").unlink()
    assert ask(service, "POST", "/v1/policies/reload").json() == {"changed": True, "digest": before["digest"]}
    until(lambda: machine(service)["withheld"] is None)
    assert 'governors_policy_reloads_total{result="refused"} 2.0' in ask(service, "GET", "/metrics").text


def test_an_emergency_stop_outlives_a_kill(service: ServiceProcess, files: Path) -> None:
    stopped = ask(service, "PUT", "/v1/emergency-stop", {"reason": "drill", "by": "ana"}).json()
    assert stopped["stopped"]
    assert spend(service, 1, "1000.00")["reason"].endswith("not asked for is stop: emergency stop")
    assert ask(service, "GET", "/v1/admit?tenant=acme").status_code == 200
    service.kill()
    with ServiceProcess(files / "data", "--config", str(files / "governors.yaml")) as again:
        assert ask(again, "GET", "/v1/policies").json()["stopped"]
        assert ask(again, "GET", "/v1/admit?tenant=acme").status_code == 200
        assert ask(again, "DELETE", "/v1/emergency-stop?reason=over&by=ana").json()["receipt"]
        until(lambda: machine(again)["withheld"] is None)
        assert ask(again, "GET", "/v1/admit?tenant=acme").status_code == 429
        assert again.stop() == 0
    replayed = subprocess.run(
        [sys.executable, "-m", "governors", "replay", str(files / "data"), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert replayed.returncode == 0, replayed.stdout
    assert json.loads(replayed.stdout)["ok"]
