"""`governors ingest explain`, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support import foreign

CONFIG = "ingest: {routing: [{when: {format: budget}, tenant: acme}]}\n"


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "governors", "ingest", "explain", *args]
    return subprocess.run(command, check=False, capture_output=True, input=stdin, timeout=60, env=dict(os.environ))


def test_a_message_is_explained_by_the_rules_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "governors.yaml").write_text(CONFIG)
    (tmp_path / "push.json").write_bytes(foreign.push(foreign.budget()))
    options = [str(tmp_path / "push.json"), "--config", str(tmp_path / "governors.yaml")]

    told = run(*options)
    assert told.returncode == 0, told.stderr
    assert b"budget: cost.snapshot" in told.stdout
    assert b"acme, by rule 1 of ingest.routing" in told.stdout

    as_json = run(*options, "--json")
    (message,) = json.loads(as_json.stdout)["messages"]
    assert (message["form"], message["tenant"], message["signal"]["kind"]) == ("budget", "acme", "cost.snapshot")


def test_what_is_rejected_ends_with_1_and_what_is_not_there_with_2(tmp_path: Path) -> None:
    refused = run("-", stdin=foreign.push(foreign.budget()))
    assert refused.returncode == 1
    assert b"rejected, no_tenant" in refused.stdout

    assert run(str(tmp_path / "absent.json")).returncode == 2
    assert run("-").returncode == 2
    assert run("-", "--attribute", "budgetId", stdin=b"{}").returncode == 1
