"""`governors serve --workers`: several processes behind one address, which divide the partitions among them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.service import ServiceProcess

from ledger.fsck import verify_log

pytestmark = pytest.mark.slow

WAIT_S_MAX = 60.0
"""For a test not to hang."""


def signals(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"s-{number}",
            "source": "test",
            "tenant": f"t-{number}",
            "kind": "budget.set",
            "subject": "budget",
            "observed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "data": {"budget_amount": "900.00", "currency": "USD", "interval": "month"},
        }
        for number in range(count)
    ]


def until_stood_by(url: str) -> dict[str, Any]:
    """The cluster, once each partition has an owner and another one that stands by."""
    give_up_s = time.monotonic() + WAIT_S_MAX
    while True:
        view: dict[str, Any] = httpx.get(f"{url}/v1/cluster", timeout=30.0).json()
        owned = [one["partition"] for one in view["partitions"] if one["owner"] is not None]
        if len(owned) == len({number for one in view["workers"] for number in one["stands_by"]}) == 8:
            return view
        assert time.monotonic() < give_up_s, view
        time.sleep(0.2)  # what a person does who looks


def test_they_share_an_address_and_the_log_and_one_that_dies_costs_nothing(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, "--workers", "2") as service:
        view = until_stood_by(service.url)
        assert [one["partition"] for one in view["partitions"]] == list(range(8))
        sent = signals(40)
        answer = httpx.post(f"{service.url}/v1/signals", params={"wait": "committed"}, json=sent, timeout=30.0)
        assert {one["outcome"] for one in answer.json()["results"]} == {"decided"}
        drained = subprocess.run(
            [sys.executable, "-m", "governors", "drain", "--url", view["workers"][0]["url"], "--json"],
            capture_output=True, text=True, timeout=120.0, check=False,
        )  # fmt: skip
        assert drained.returncode == 0, drained.stderr
        assert {one["owner"] for one in json.loads(drained.stdout)["partitions"]} == {view["workers"][1]["worker"]}

        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        give_up_s = time.monotonic() + WAIT_S_MAX
        while True:
            # Whoever dies with a request under way answers it no more.
            try:
                again = httpx.post(f"{service.url}/v1/signals", json=sent, timeout=30.0)
                if again.status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < give_up_s
            time.sleep(0.2)  # what a sender does who was told to come again
        assert {one["outcome"] for one in again.json()["results"]} == {"duplicate"}
        assert service.stop() == 0
    assert verify_log(tmp_path).ok
    assert verify_log(tmp_path / "worker-1").ok
