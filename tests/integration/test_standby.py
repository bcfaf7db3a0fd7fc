"""Real workers over one store: each can be asked, and when the one that has the log goes, another has it."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.buckets import FOLDER, GCS, serve_bucket
from support.service import ServiceProcess

from ledger.fsck import verify_log

pytestmark = pytest.mark.slow

TAKEOVER_S_MAX = 60.0
"""For a test not to hang: how long it takes is for a benchmark to judge."""


def signal_of(number: int) -> dict[str, Any]:
    return {
        "id": f"s-{number}",
        "source": "test",
        "tenant": f"t-{number % 3}",
        "kind": "budget.set",
        "subject": "budget",
        "observed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": {"budget_amount": "900.00", "currency": "USD", "interval": "month"},
    }


class Workers:
    """Their folders and addresses, one signing key, and a sender that asks any of them."""

    def __init__(self, folder: Path, bucket: str) -> None:
        self.folder = folder
        self.config = folder / "config.json"
        self.config.write_text(
            json.dumps(
                {
                    "tenants": {"auto_create": True},
                    "ledger": {"origin": "ledger.test/standby"},
                    "store": {"url": bucket, "lease_s": 2.0, "commit_interval_s": 0.2},
                }
            )
        )
        self.sent = 0

    def start(self, name: str, event: str = "ready") -> ServiceProcess:
        """With the key of the first one."""
        key, own = self.folder / "signing.key", self.folder / name / "ledger/signing.key"
        if key.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(key, own)
        worker = ServiceProcess(self.folder / name, "--config", str(self.config), event=event)
        if not key.exists():
            shutil.copy(own, key)
        return worker

    def wait(self, name: str) -> ServiceProcess:
        """One that waits for the log, and knows who has it."""
        worker = self.start(name, "standby")
        give_up_s = time.monotonic() + TAKEOVER_S_MAX
        while httpx.get(f"{worker.url}/readyz", timeout=5.0).status_code != 200:
            assert time.monotonic() < give_up_s, "it hears of nobody who has the log"
            time.sleep(0.05)  # what a probe does
        return worker

    def send(self, url: str) -> None:
        """One more signal, sent again until it is known to be committed."""
        give_up_s = time.monotonic() + TAKEOVER_S_MAX
        one, self.sent = signal_of(self.sent), self.sent + 1
        while True:
            try:
                answer = httpx.post(f"{url}/v1/signals", params={"wait": "committed"}, json=one, timeout=10.0)
            except httpx.TransportError as error:
                problem = str(error)
            else:
                if answer.status_code == 200:
                    return
                assert answer.status_code == 503, answer.text
                assert "retry-after" in answer.headers
                problem = answer.text
            assert time.monotonic() < give_up_s, problem
            time.sleep(0.05)  # what a sender does who was told to come again


def owner_of(url: str) -> str | None:
    partition: str | None = httpx.get(f"{url}/v1/cluster", timeout=5.0).json()["partitions"][0]["owner"]
    return partition


@pytest.mark.parametrize("kind", [FOLDER, GCS])
def test_who_waits_hands_on_and_takes_over_from_who_is_killed(tmp_path: Path, kind: str) -> None:
    with serve_bucket(kind, tmp_path / "bucket") as bucket:
        workers = Workers(tmp_path, bucket.url)
        first = workers.start("a")
        with first, workers.wait("b") as second:
            for _ in range(5):
                workers.send(second.url)
            assert httpx.get(f"{second.url}/v1/tenants/t-0").json() == httpx.get(f"{first.url}/v1/tenants/t-0").json()
            receipts = httpx.get(f"{second.url}/v1/tenants/t-1/receipts").json()["receipts"]
            assert [one["receipt"]["event_id"] for one in receipts] == ["s-1", "s-4"]
            before = owner_of(second.url)

            first.kill()
            workers.send(second.url)
            assert owner_of(second.url) not in {None, before}
            assert second.stop() == 0
    every_signal_has_one_receipt(tmp_path / "b", workers.sent)


def test_a_frozen_owner_is_taken_over_from_and_waits_when_it_wakes(tmp_path: Path) -> None:
    workers = Workers(tmp_path, (tmp_path / "bucket").as_uri())
    with workers.start("a") as first, workers.wait("b") as second:
        workers.send(second.url)
        os.kill(first.pid, signal.SIGSTOP)
        workers.send(second.url)
        os.kill(first.pid, signal.SIGCONT)
        workers.send(first.url)
        workers.send(second.url)
        assert httpx.get(f"{first.url}/v1/tenants/t-0").json() == httpx.get(f"{second.url}/v1/tenants/t-0").json()
        assert first.stop() == 0
        assert second.stop() == 0
    every_signal_has_one_receipt(tmp_path / "b", workers.sent)


def test_who_is_told_to_stop_hands_over(tmp_path: Path) -> None:
    workers = Workers(tmp_path, (tmp_path / "bucket").as_uri())
    with workers.start("a") as first, workers.wait("b") as second:
        workers.send(first.url)
        assert first.stop() == 0
        workers.send(second.url)
        while owner_of(second.url) is None:
            time.sleep(0.05)  # until it has heard itself
        known = httpx.get(f"{second.url}/v1/cluster").json()["workers"]
        assert [one["state"] for one in known] == ["owner"]  # the first said goodbye
        assert second.stop() == 0
    every_signal_has_one_receipt(tmp_path / "b", workers.sent)


def every_signal_has_one_receipt(folder: Path, sent: int) -> None:
    assert verify_log(folder).ok
    segments = b"".join(path.read_bytes() for path in sorted((folder / "ledger/0").glob("*.seg")))
    for number in range(sent):
        assert segments.count(b'"event_id":"s-%d"' % number) == 1, number
