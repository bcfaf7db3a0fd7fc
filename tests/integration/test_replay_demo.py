"""The demonstration's hour, played through the real service, and run again from its files."""

from pathlib import Path

from governors.demo.play import Play
from governors.replay_folder import replay_folder


async def test_an_hour_of_five_tenants_comes_out_the_same(tmp_path: Path) -> None:
    async def at_once(second: int) -> None:
        pass

    summary = await Play(7, lambda event: None, at_once).run(tmp_path)
    report = replay_folder(tmp_path)
    assert report.ok, report.as_dict()["mismatches"][:3]
    assert report.receipts == summary.receipts > 1_000
