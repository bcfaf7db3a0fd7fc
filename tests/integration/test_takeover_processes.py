"""Two real services over one store: the first is stopped, the second takes over, and the first wakes up."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.buckets import LOCKED, Bucket, serve_bucket
from support.service import ServiceProcess

from ledger.fsck import verify_log

pytestmark = pytest.mark.slow


def observed() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def send(url: str, number: int, wait: str = "committed") -> dict[str, Any]:
    signal_ = {
        "id": f"s-{number}",
        "source": "test",
        "tenant": f"t-{number % 3}",
        "kind": "budget.set",
        "subject": "budget",
        "observed_at": observed(),
        "data": {"budget_amount": "900.00", "currency": "USD", "interval": "month"},
    }
    answer = httpx.post(f"{url}/v1/signals", params={"wait": wait}, json=signal_, timeout=20.0)
    answer.raise_for_status()
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def configure(
    folder: Path, signing_key: Path | None = None, url: str | None = None, control_url: str | None = None
) -> dict[str, str]:
    config = folder / "config.json"
    ledger = {"origin": "ledger.test/two"} | ({"signing_key": str(signing_key)} if signing_key else {})
    document = {
        "tenants": {"auto_create": True},
        "ledger": ledger,
        "store": {
            "url": url or (folder / "bucket").as_uri(),
            "control_url": control_url,
            "lease_s": 2.0,
            "commit_interval_s": 0.2,
            "publish_interval_s": 1.1,
        },
    }
    config.write_text(json.dumps(document))
    return {"config": str(config)}


def governors(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "governors", *args], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("kind", [LOCKED])  # others keep the same contract, and a second run costs half a minute
def test_a_stopped_writer_that_wakes_up_after_a_takeover_writes_no_more_and_nothing_committed_is_lost(
    tmp_path: Path, kind: str
) -> None:
    with serve_bucket(kind, tmp_path / "bucket") as bucket:
        wake_up_after_a_takeover(tmp_path, bucket)
        assert bucket.has("0/tile/entries/000") is False
        assert not bucket.has("0/ctl/head")
        assert not bucket.has("0/checkpoint")


def wake_up_after_a_takeover(tmp_path: Path, bucket: Bucket) -> None:
    url, control_url = bucket.url, bucket.control_url
    args = ("--config", configure(tmp_path, url=url, control_url=control_url)["config"])
    first = ServiceProcess(tmp_path / "a", *args)
    with first:
        committed = [send(first.url, number) for number in range(9)]
        assert {one["durability"] for one in committed} == {"committed"}
        os.kill(first.pid, signal.SIGSTOP)

        (tmp_path / "b" / "ledger").mkdir(parents=True)
        shutil.copy(tmp_path / "a/ledger/signing.key", tmp_path / "b/ledger/signing.key")
        second = ServiceProcess(tmp_path / "b", *args)
        with second:
            assert second.receipts_at_start >= 10  # what the first had committed, and what the second says of itself
            repeated = [send(second.url, number)["outcome"] for number in range(9)]
            assert repeated == ["duplicate"] * 9
            committed += [send(second.url, number) for number in range(9, 14)]

            os.kill(first.pid, signal.SIGCONT)
            assert send(first.url, 14)["outcome"] == "decided"
            assert any("has taken the log over" in line for line in first.log), "\n".join(first.log)
            assert first.stop() == 0
            assert second.stop() == 0

    control = ["--control", control_url] if control_url else []
    restored = governors("restore", url, str(tmp_path / "c"), "--json", *control)
    assert restored.returncode == 0, restored.stderr
    if control:
        alone = governors("restore", url, str(tmp_path / "d"))
        assert (alone.returncode, f"are in {control_url}" in alone.stderr) == (1, True)
    (partition,) = json.loads(restored.stdout)["partitions"]
    report = verify_log(tmp_path / "b")
    assert report.ok
    assert (report.partitions[0].size, report.partitions[0].root) == (partition["size"], partition["root"])
    segments = b"".join(path.read_bytes() for path in sorted((tmp_path / "c/ledger/0").glob("*.seg")))
    for number in range(15):
        assert segments.count(b'"event_id":"s-%d"' % number) == 1


def test_a_killed_service_that_starts_again_on_its_disk_does_not_wait_for_its_own_lease(tmp_path: Path) -> None:
    args = ("--config", configure(tmp_path)["config"])
    with ServiceProcess(tmp_path / "a", *args) as first:
        send(first.url, 0)
        send(first.url, 1, wait="local")
        first.kill()
    with ServiceProcess(tmp_path / "a", *args) as again:
        assert not any("lease" in line for line in again.log)
        assert send(again.url, 1)["outcome"] == "duplicate"
        assert again.stop() == 0
    assert verify_log(tmp_path / "a").ok


def test_a_machine_without_the_logs_signing_key_does_not_fence_the_one_that_has_it(tmp_path: Path) -> None:
    args = ("--config", configure(tmp_path)["config"])
    with ServiceProcess(tmp_path / "a", *args) as first:
        send(first.url, 0)
        other = governors("serve", "--data-dir", str(tmp_path / "b"), "--port", "0", *args)
        assert other.returncode == 1
        assert "bring its signing key here" in other.stderr
        assert send(first.url, 1)["outcome"] == "decided"
        assert first.stop() == 0


def test_restore_says_what_is_wrong_and_how_it_ended(tmp_path: Path) -> None:
    nothing = governors("restore", str(tmp_path / "empty"), str(tmp_path / "a"))
    assert (nothing.returncode, "the store holds no log" in nothing.stderr) == (1, True)
    unknown = governors("restore", "ftp://x", str(tmp_path / "a"))
    assert (unknown.returncode, "gs://bucket/prefix" in unknown.stderr) == (2, True)
