"""`governors loadtest` against a real service, also one that is killed in the middle."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service import ServiceProcess

from benchmarks.support_process import free_port

pytestmark = pytest.mark.slow
# How fast this machine is now is not what is tested.
PATIENT = ("--p99-ms", "60000", "--rss-mb", "10000", "--rss-growth-mb", "10000")


def start(url: str, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "governors", "loadtest", "--url", url, "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def end(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, json.loads(out) if out.strip() else {}, err


def test_every_signal_is_found_among_the_receipts_and_a_limit_that_is_passed_is_named(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as service:
        code, report, err = end(start(service.url, "--tenants", "7", "--rate", "300", "--seconds", "2", *PATIENT))
        assert report["sent"] == report["answered"] > 590, err
        assert (report["lost"], report["duplicates"], report["receipts_checked"]) == (0, 0, True)
        assert set(report["outcomes"]) == {"decided"}
        assert {"THROTTLE", "STOP"} <= set(report["states"]["cost_guard"]), "machines move"
        assert report["rss_mb_start"] > 0
        assert report["p50_ms"] <= report["p99_ms"] <= report["p999_ms"]
        assert {"tenants", "rate_per_s", "seconds", "rss_mb_end", "limits"} <= report.keys()
        # A machine under load from elsewhere may miss the rate, and nothing else.
        assert all("asked for" in sentence for sentence in report["past"])
        assert (code == 0) == report["ok"]
        with httpx.Client(base_url=service.url) as client:
            assert len(client.get("/v1/tenants").json()["tenants"]) == 7
        options = ("--tenants", "1", "--rate", "20", "--seconds", "1", "--p99-ms", "0.001")
        code, report, _ = end(start(service.url, *options))
    assert code == 1
    assert not report["ok"]
    assert any("p99" in sentence for sentence in report["past"])


def test_without_a_service_it_ends_with_two() -> None:
    process = start(f"http://127.0.0.1:{free_port()}", "--seconds", "1", "--tenants", "1", "--give-up", "1")
    code, report, err = end(process)
    assert (code, report) == (2, {})
    assert "cannot be asked" in err


def test_a_service_that_is_killed_in_the_middle_loses_nothing_and_decides_nothing_twice(tmp_path: Path) -> None:
    port = str(free_port())
    with ServiceProcess(tmp_path, "--port", port) as service:
        process = start(service.url, "--tenants", "10", "--rate", "200", "--seconds", "3", *PATIENT)
        while service_receipts(service.url) < 100:
            time.sleep(0.02)
        service.kill()
    with ServiceProcess(tmp_path, "--port", port):
        code, report, err = end(process)
    assert report["sent_again"] > 0, err
    assert report["sent"] == report["answered"]
    assert (report["lost"], report["duplicates"], report["receipts_checked"]) == (0, 0, True)
    assert set(report["outcomes"]) <= {"decided", "duplicate"}
    assert code in (0, 1)


def service_receipts(url: str) -> int:
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("governors_ledger_size"):
            return int(float(line.split()[-1]))
    return 0
