"""A real service that forgets: what is dropped is said, what is kept is proven, and another disk goes on from it."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.buckets import GCS, Bucket, serve_bucket
from support.service import ServiceProcess

# It starts some ten processes, one after another.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = """
tenants: {{auto_create: true}}
store: {{url: "{bucket}", lease_s: 2, commit_interval_s: 0.2, publish_interval_s: 1.1}}
# A moment, in days.
retention: {{payloads_days: 0.000001, receipts_days: 0.000001, receipts_min: 0}}
"""


@pytest.fixture(params=[GCS])  # a folder keeps the same contract
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    with serve_bucket(request.param, tmp_path / "bucket") as served:
        yield served


def configure(folder: Path, url: str) -> tuple[str, str]:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(bucket=url))
    return "--config", str(config)


def governors(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "governors", *args], capture_output=True, text=True, timeout=60, check=False
    )


def send(client: httpx.Client, first: int, count: int = 300) -> None:
    """One batch, which is one segment: each commit seals."""
    signals = [
        {
            "id": f"s-{number}", "source": "test", "tenant": "acme", "kind": "queue.sample",
            "observed_at": f"2026-11-22T10:00:00.{number:06}Z",
            "data": {"depth": number, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1},
        }
        for number in range(first, first + count)
    ]  # fmt: skip
    answer = client.post("/v1/signals", params={"wait": "committed"}, json=signals)
    assert answer.status_code == 200, answer.text


def metric(client: httpx.Client, name: str) -> int:
    found = re.search(rf'^governors_{name}{{partition="0"}} ([0-9.e+]+)$', client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def wait_until(holds: Callable[[], object], what: str) -> None:
    give_up_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < give_up_s, f"never: {what}"
        time.sleep(0.05)


def problem(answer: httpx.Response) -> tuple[int, str, Any]:
    body = answer.json()
    return answer.status_code, body["type"].rpartition(":")[2].rpartition("/")[2], body.get("kept_from")


def test_a_log_that_forgets_says_so_proves_the_rest_and_is_restored_elsewhere(tmp_path: Path, bucket: Bucket) -> None:
    data, options = tmp_path / "data", configure(tmp_path, bucket.url)
    for run in range(2):
        with ServiceProcess(data, *options) as service:
            with httpx.Client(base_url=service.url, timeout=30) as client:
                send(client, run * 600)
                send(client, run * 600 + 300)
                if run:
                    wait_until(lambda: bucket.has("0/retention"), "a snapshot was put into the store")
            assert service.stop() == 0
        made = governors("ledger", "snapshot", "--data-dir", str(data))
        assert made.returncode == 0, made.stderr
    with ServiceProcess(data, *options) as service:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            wait_until(lambda: metric(client, "ledger_receipts_from"), "receipts were dropped")
            kept = metric(client, "ledger_receipts_from")
            assert kept == 256
            assert kept <= metric(client, "ledger_payloads_from") <= 301
            for path in ("receipts/0:0", "receipts/0:0/proof", "logs/0/tile/entries/000"):
                assert problem(client.get(f"/v1/{path}")) == (410, "receipt-dropped", kept), path
            assert client.get("/v1/receipts/0:256").json()["receipt"]["tseq"] > 0
            assert client.get("/v1/receipts/0:256/proof").status_code == 200
            page = client.get("/v1/tenants/acme/receipts", params={"limit": 1}).json()
            assert page["dropped_before"] == metric(client, "ledger_payloads_from") == page["receipts"][0]["index"]
            send(client, 1_200)
        assert service.stop() == 0
    restored = governors("restore", bucket.url, str(tmp_path / "elsewhere"))
    assert restored.returncode == 0, restored.stdout
    # The first disk beside a copy of what its store says, and the second by itself.
    for folder in (data, tmp_path / "elsewhere"):
        verified = governors("verify", "log", str(folder), "--store", str(tmp_path / "elsewhere/store"))
        assert verified.returncode == 0, verified.stdout
        assert "receipts 0..255 were dropped by retention" in verified.stdout
    if bucket.url.startswith("file:"):  # what store it was no longer matters
        replayed = governors("replay", str(tmp_path / "elsewhere"))
        assert replayed.returncode == 0, replayed.stdout
        assert "the replay began with the snapshot that receipt" in replayed.stdout
    with ServiceProcess(tmp_path / "elsewhere", *options) as service:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            again = client.post("/v1/signals", json={
                "id": "s-0", "source": "test", "tenant": "acme", "kind": "queue.sample",
                "observed_at": "2026-11-22T10:00:00.000000Z",
                "data": {"depth": 0, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1},
            })  # fmt: skip
            assert again.json()["results"][0]["outcome"] == "duplicate", "what was decided once is decided"
        assert service.stop() == 0
