"""A disk that fails: the service stops taking signals, says why and ends; on a sound disk nothing answered is missing.

libfiu stands between the running service and the C library and makes one call fail with EIO, without a byte of it
reaching the disk, from then on. All of these calls are for files alone, so that nothing else of the service fails.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from support.service import STOP_S, ServiceProcess, receipts_by_event
from typer.testing import CliRunner

from governors.cli.main import command_line

EIO: Final = "failinfo=5"
WRITE: Final = f"enable name=posix/io/rw/pwrite,{EIO}"
FSYNC: Final = f"enable name=posix/io/sync/fsync,{EIO}"
FDATASYNC: Final = f"enable name=posix/io/sync/fdatasync,{EIO}"
RENAME: Final = f"enable name=posix/io/dir/rename,{EIO}"
SHORT_WRITE: Final = "enable name=posix/io/rw/pwrite/reduce,onetime"
# A segment for each batch or two: creating and sealing them is what calls fsync and rename.
CONFIG: Final = """
tenants: {auto_create: true}
ledger: {segment_bytes_max: 65536, batch_bytes_max: 65536}
"""
BATCHES_MAX: Final = 100

pytestmark = pytest.mark.slow


class FaultyDisk:
    """A service's folder, and the means to make its disk fail."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self._config = folder / "governors.yaml"
        self._config.write_text(CONFIG)
        self._control = str(folder / "fiu")

    def serve(self) -> ServiceProcess:
        """The service, on a disk that is sound until it is made to fail."""
        return ServiceProcess(self.data_dir, "--config", str(self._config), under=self._under())

    def serve_in_vain(self, fault: str) -> subprocess.CompletedProcess[str]:
        """A service that ends before it is ready, on a disk that fails from the first."""
        command = [*self._under("-c", fault), sys.executable, "-m", "governors", "serve", "--port", "0"]
        command += ["--data-dir", str(self.data_dir), "--config", str(self._config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=STOP_S)

    def fail(self, process: ServiceProcess, fault: str) -> None:
        """Make a running service's disk fail. Does nothing to one that has ended."""
        subprocess.run(
            ["fiu-ctrl", "-f", self._control, "-c", fault, str(process.pid)],
            capture_output=True, check=True, timeout=STOP_S,
        )  # fmt: skip

    def _under(self, *options: str) -> list[str]:
        return ["fiu-run", "-x", "-f", self._control, *options]


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    if shutil.which("fiu-run") is None:
        missing = "no fiu-run (Debian: fiu-utils), which makes a disk fail"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have it: {missing}")
        pytest.skip(missing)
    return FaultyDisk(tmp_path)


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
        for position in range(50)
    ]


def send(client: httpx.Client, number: int) -> dict[str, str]:
    """The receipts of a batch that was answered, by the signals' ids; none if it was not."""
    try:
        response = client.post("/v1/signals", json=batch(number))
    except httpx.HTTPError:
        return {}
    if response.status_code != 200:
        assert response.status_code == 503
        return {}
    return {result["id"]: result["receipt"] for result in response.json()["results"]}


def assert_nothing_is_missing(disk: FaultyDisk, answered: dict[str, str]) -> None:
    """On a sound disk: each answered signal has its receipt, the service goes on, and the log holds."""
    with disk.serve() as process, httpx.Client(base_url=process.url, timeout=30.0) as client:
        assert answered.items() <= receipts_by_event(client, "acme").items()
        assert send(client, BATCHES_MAX + 1)
        assert process.stop() == 0
    verified = CliRunner().invoke(command_line(), ["verify", "log", str(disk.data_dir), "--no-remember", "--json"])
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["receipts"] > len(answered)


@pytest.mark.parametrize("fault", [WRITE, FSYNC, FDATASYNC, RENAME], ids=["pwrite", "fsync", "fdatasync", "rename"])
def test_a_failing_disk_ends_the_service_and_costs_nothing_that_was_answered(disk: FaultyDisk, fault: str) -> None:
    answered: dict[str, str] = {}
    with disk.serve() as process, httpx.Client(base_url=process.url, timeout=30.0) as client:
        answered |= send(client, 0)
        assert answered
        for number in range(1, BATCHES_MAX):
            disk.fail(process, fault)
            if not (more := send(client, number)):
                break
            answered |= more
        assert process.wait(STOP_S) == 1
        assert any("Input/output error" in line for line in process.log)
    assert_nothing_is_missing(disk, answered)


@pytest.mark.parametrize("fault", [FSYNC, RENAME], ids=["fsync", "rename"])
def test_a_start_on_a_failing_disk_says_so_and_loses_nothing(disk: FaultyDisk, fault: str) -> None:
    with disk.serve() as process, httpx.Client(base_url=process.url, timeout=30.0) as client:
        answered = send(client, 0)
        assert answered
        process.kill()  # it leaves an unsealed segment, which the next start has to seal
    ended = disk.serve_in_vain(fault)
    assert ended.returncode == 1
    assert "Input/output error" in ended.stdout + ended.stderr
    assert_nothing_is_missing(disk, answered)


def test_writes_that_take_only_a_part_are_gone_on_with(disk: FaultyDisk) -> None:
    with disk.serve() as process, httpx.Client(base_url=process.url, timeout=30.0) as client:
        answered: dict[str, str] = {}
        for number in range(10):
            disk.fail(process, SHORT_WRITE)
            more = send(client, number)
            assert more
            answered |= more
        assert process.stop() == 0
    assert_nothing_is_missing(disk, answered)
