"""The demonstration's hour, played through the real service, and run again from its files."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import replay
from governors.demo.play import Play
from governors.replay.folder import replay_folder


async def at_once(second: int) -> None:
    pass


def test_an_hour_of_five_tenants_comes_out_the_same(tmp_path: Path) -> None:
    summary = asyncio.run(Play(7, lambda event: None, at_once).run(tmp_path))
    report = replay_folder(tmp_path)
    assert report.ok, report.as_dict()["mismatches"][:3]
    assert report.receipts == summary.receipts > 1_000
    command = [sys.executable, "-m", "governors", "replay", str(tmp_path), "--json", "--processes", "3"]
    shared = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert shared | {"seconds": 0} == report.as_dict() | {"seconds": 0}


def test_ten_minutes_of_many_tenants_come_out_the_same_and_sooner(tmp_path: Path) -> None:
    """The benchmark's second hour, in a short form."""
    receipts, _ = asyncio.run(replay.live_hour(tmp_path, seconds=600, rate=3, tenants=30))
    found = replay.measure("ten minutes", tmp_path, 600, receipts, runs=1, processes=1)
    assert found["byte_identical"]
    assert found["as_written"]
    assert found["ok"]
    assert receipts >= 1_800
