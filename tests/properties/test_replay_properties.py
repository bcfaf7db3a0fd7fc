"""Whatever a service has been through, its log can be run again and comes out the same."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from support.life import Life, defects

from governors.replay_folder import Report, replay_folder
from ledger import fsck


def lived(folder: Path, seed: int, *, restarts: int, steps: int) -> Report:
    with defects():
        asyncio.run(Life(folder, seed).live(restarts, steps))
        return replay_folder(folder)


@given(seed=st.integers(0, 2**32 - 1), restarts=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_every_receipt_comes_out_the_same(seed: int, restarts: int) -> None:
    with TemporaryDirectory() as folder:
        report = lived(Path(folder), seed, restarts=restarts, steps=25)
        (partition,) = report.partitions
        assert partition.mismatches == []
        assert partition.unknown == []
        assert partition.replayed == partition.receipts == fsck.verify_log(Path(folder)).receipts
