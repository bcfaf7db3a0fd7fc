"""A disk that fills up: the service stops taking signals, says why and ends; with space again nothing is missing."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from support.service import STOP_S, ServiceProcess, receipts_by_event

from ledger.fsck import verify_log

# What runs out. A batch takes more than a small segment has, so that each begins a segment of its own.
BYTES: Final = "size=1m"
FILES: Final = "size=64m,nr_inodes=64"
LARGE_SEGMENTS: Final = 16 << 20
SMALL_SEGMENTS: Final = 64 << 10


@pytest.fixture
def small_disk(tmp_path: Path, room: str) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", room, "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def batch(number: int) -> list[dict[str, Any]]:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    data = {"depth": 1, "oldest_age_s": 0.1, "in_rate_per_s": 1.0, "done_rate_per_s": 1.0}
    return [
        {
            "id": f"{number}-{position}",
            "source": "test",
            "tenant": "acme",
            "kind": "queue.sample",
            "observed_at": now,
            "data": data,
        }
        for position in range(100)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "segment_bytes"),
    [(BYTES, LARGE_SEGMENTS), (FILES, SMALL_SEGMENTS)],
    ids=["bytes", "files"],
)
def test_a_full_disk_ends_the_service_and_costs_nothing_that_was_answered(
    small_disk: Path, tmp_path_factory: pytest.TempPathFactory, segment_bytes: int
) -> None:
    config = tmp_path_factory.mktemp("config") / "governors.yaml"
    limits = f"{{segment_bytes_max: {segment_bytes}, batch_bytes_max: {SMALL_SEGMENTS}}}"
    config.write_text(f"tenants: {{auto_create: true}}\nledger: {limits}\n")
    answered: dict[str, str] = {}
    with (
        ServiceProcess(small_disk, "--config", str(config)) as process,
        httpx.Client(base_url=process.url, timeout=30.0) as client,
    ):
        for number in range(1_000):
            try:
                response = client.post("/v1/signals", json=batch(number))
            except httpx.HTTPError:
                break
            if response.status_code != 200:
                assert response.status_code == 503
                break
            answered.update({result["id"]: result["receipt"] for result in response.json()["results"]})
        assert process.wait(STOP_S) == 1
        assert any("No space left on device" in line for line in process.log)
    assert answered

    subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=10000", str(small_disk)], check=True)
    with ServiceProcess(small_disk) as process, httpx.Client(base_url=process.url, timeout=30.0) as client:
        assert answered.items() <= receipts_by_event(client, "acme").items()
        assert client.post("/v1/signals", json=batch(1_001)).status_code == 200
        assert process.stop() == 0
    assert verify_log(small_disk).ok
