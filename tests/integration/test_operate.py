"""Operators at the command line: what they are asked, what they decide, and what outlives a killed service."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service import ServiceProcess
from typer.testing import CliRunner

from governors.cli.main import command_line
from governors.replay.folder import replay_folder

POLICIES = "windows: [{name: ask, approval: {actions: [throttle], wait_s: 3600}}]\n"
ENV = {"GOVERNORS_TENANTS__AUTO_CREATE": "true"}
BY = ("--by", "ana", "--reason", "drill")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "governors.yaml").write_text(f"policies: {tmp_path / 'policies.yaml'}", encoding="utf-8")
    (tmp_path / "policies.yaml").write_text(POLICIES, encoding="utf-8")
    return tmp_path


def serve(files: Path) -> ServiceProcess:
    return ServiceProcess(files / "data", "--config", str(files / "governors.yaml"), env=ENV)


@pytest.fixture
def service(files: Path) -> Iterator[ServiceProcess]:
    with serve(files) as running:
        yield running


def run(url: str, *args: str, code: int = 0) -> Any:
    done = CliRunner().invoke(command_line(), [*args, "--url", url, "--json"], env={"COLUMNS": "200"})
    assert done.exit_code == code, (done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else done.stderr


def said(url: str, *args: str) -> str:
    done = CliRunner().invoke(command_line(), [*args, "--url", url], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.stdout, done.stderr)
    return done.stdout


def spend(service: ServiceProcess, number: int, cost: str) -> None:
    start = datetime.now(UTC).strftime("%Y-%m-01T00:00:00Z")
    data = {"cost_amount": cost, "budget_amount": "1000.00", "currency": "USD", "interval_start": start}
    signal = {
        "id": f"b-{number}", "source": "billing", "tenant": "acme", "kind": "cost.snapshot", "subject": "prod",
        "observed_at": datetime.now(UTC).isoformat(), "data": data,
    }  # fmt: skip
    answer = httpx.post(service.url + "/v1/signals", json=signal, timeout=60)
    assert answer.json()["results"][0]["outcome"] == "decided"


def test_what_people_are_asked_outlives_a_kill_and_their_word_is_done(service: ServiceProcess, files: Path) -> None:
    spend(service, 1, "950.00")
    (asked,) = run(service.url, "approvals")["approvals"]
    assert (asked["tenant"], asked["subject"], asked["action"]) == ("acme", "prod", "throttle")
    assert asked["until"] in said(service.url, "approvals", "acme")
    service.kill()
    with serve(files) as again:
        assert run(again.url, "approvals", "acme")["approvals"] == [asked]
        assert "not asked for is throttle" in said(again.url, "tenants", "acme")
        where = ("acme", "cost_guard", "--subject", "prod")
        refused = run(again.url, "refuse", *where, *BY, "--ttl", "2h")
        assert (refused["decision"], refused["state"]) == ("veto", "THROTTLE")
        assert run(again.url, "approvals")["approvals"] == []
        assert "nothing is asked" in run(again.url, "approve", *where, *BY, code=1)
        assert again.stop() == 0
    assert replay_folder(files / "data").ok


def test_an_approved_action_is_asked_for(service: ServiceProcess) -> None:
    spend(service, 1, "950.00")
    assert "approve until" in said(service.url, "approve", "acme", "cost_guard", "--subject", "prod", *BY)
    receipts = run(service.url, "receipts", "acme")["receipts"]
    assert [one["receipt"]["decision"] for one in receipts if one["receipt"]["actions"]][-1] == "approve"


def test_an_override_is_set_and_ended(service: ServiceProcess) -> None:
    spend(service, 1, "950.00")
    where = ("acme", "cost_guard")
    held = run(service.url, "override", *where, "release", "--subject", "prod", "--ttl", "30min", *BY)
    assert held["until"]
    assert run(service.url, "tenants", "acme")["machines"][0]["override"]["by"] == "ana"
    ended = run(service.url, "override", *where, "end", "--subject", "prod", *BY)
    assert ended["decision"] != ""
    assert run(service.url, "tenants", "acme")["machines"][0]["override"] is None
    assert "no machine" in run(service.url, "override", *where, "hold", *BY, code=1)
    assert "status" in run(service.url, "override", *where, "force", "--subject", "prod", *BY, code=1)
    assert "expected a time" in run(service.url, "override", *where, "hold", "--ttl", "soon", *BY, code=1)
    assert "cannot be asked" in run("http://127.0.0.1:9", "override", *where, "hold", *BY, code=2)


def test_an_emergency_stop_for_one_and_for_all(service: ServiceProcess) -> None:
    spend(service, 1, "10.00")
    for whom in ([], ["acme"]):
        assert run(service.url, "emergency-stop", *whom, *BY)["stopped"] is True
        assert run(service.url, "emergency-stop", *whom, *BY)["receipt"] is None
        assert "acts again" in said(service.url, "resume", *whom, *BY)
    run(service.url, "emergency-stop", "nobody", *BY, code=1)


def test_policies_are_shown_and_read_again(service: ServiceProcess, files: Path) -> None:
    assert "ask: open" in said(service.url, "policies")
    (files / "policies.yaml").write_text("windows: [{name: ask, approval: {actions: [throtle]}}]", encoding="utf-8")
    assert "throttle" in run(service.url, "policies", "--reload", code=1), "what it could have meant"
    assert run(service.url, "policies")["windows"][0]["name"] == "ask"
    os.truncate(files / "policies.yaml", 0)
    assert run(service.url, "policies", "--reload")["changed"] is True
