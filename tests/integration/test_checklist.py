"""`governors checklist` against a real service."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.manifests import ROOT
from support.service import ServiceProcess

from benchmarks.support_process import free_port
from ledger.format.note import Signer
from ledger.verify.describe import describe

pytestmark = pytest.mark.slow


def checklist(*options: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """Its end, its lines by number, what it said on standard error."""
    command = [sys.executable, "-m", "governors", "checklist", "--json", "--checkout", str(ROOT), *options]
    env = {**os.environ, "KUBECONFIG": "/nonexistent"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=100)
    document: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"lines": []}
    return done.returncode, {line["line"]: line for line in document["lines"]}, done.stderr


def test_a_service_that_is_well_passes_and_its_report_can_be_signed(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    with ServiceProcess(tmp_path / "data") as service:
        [partition] = describe(tmp_path / "data")
        assert partition.vkey is not None
        code, lines, err = checklist(
            "--phase", "2", "--env", "staging", "--url", service.url, "--vkey", partition.vkey, "--report", str(report)
        )
        other = Signer(partition.origin, bytes(32)).verifier.vkey
        not_ours = checklist("--phase", "3", "--env", "staging", "--url", service.url, "--vkey", other)
    assert code == 0, err
    assert not_ours[1]["3.3.5"]["status"] == "fail", "another key than the log has is found out"
    assert not_ours[1]["3.3.1"]["status"] == "pass"
    status = {name: line["status"] for name, line in lines.items()}
    for name in ("2.1.3", "2.3.1", "2.3.2", "2.3.3", "2.3.4", "2.4.3", "2.4.4"):
        assert status[name] == "pass", lines[name]
    assert status["2.2.1"] == "pass", "it agrees with itself"
    assert status["2.2.2"] == status["2.4.1"] == status["2.5.2"] == "skip"
    assert status["2.6.1"] == "sign"
    text = report.read_text()
    assert "phase 2, staging" in text
    assert "Sign-off" in text


def test_a_service_that_is_away_passes_nothing_that_needs_it() -> None:
    code, lines, _ = checklist("--phase", "2", "--env", "staging", "--url", f"http://127.0.0.1:{free_port()}")
    assert code == 1
    for name in ("2.1.3", "2.3.1", "2.3.2", "2.3.3", "2.3.4", "2.4.1", "2.4.2", "2.4.3"):
        assert lines[name]["status"] == "fail", lines[name]
