"""Whatever a service has been through, its log can be run again and comes out the same."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.forge import written
from support.life import Life, changed_valve, defects

from governors.fsm.table import Row, Verdict
from governors.machines.events import Event
from governors.replay.beginning import read_beginning
from governors.replay.findings import Findings, join
from governors.replay.fold import Replay, StoredReceipt
from governors.replay.folder import Report, replay_folder
from governors.snapshotter import make_snapshot
from ledger import fsck
from ledger.durable import POSIX
from ledger.format import snapshot as codec
from ledger.identity import partition_folder
from ledger.snapshots import list_snapshots


def lived(folder: Path, seed: int, *, restarts: int, steps: int) -> Report:
    with defects():
        asyncio.run(Life(folder, seed).live(restarts, steps))
        return replay_folder(folder)


@pytest.mark.parametrize("shares", [2, 3, 4])
def test_replays_that_share_a_log_out_find_together_what_one_finds(tmp_path: Path, shares: int) -> None:
    """Under another code than it was decided by, so that there is something to find."""
    with defects():
        asyncio.run(Life(tmp_path, shares).live(4, 30))
    with changed_valve(other_evidence):
        (alone,) = findings(tmp_path, 1)
        shared = findings(tmp_path, shares)
    assert alone.mismatched
    assert join(shared) == join([alone])


def findings(folder: Path, shares: int) -> list[Findings]:
    receipts = [StoredReceipt(one.leaf, one.frame) for one in written(folder)]
    replays = [Replay(share=share, shares=shares) for share in range(shares)]
    for replay in replays:
        replay.take(receipts)
    return [replay.found for replay in replays]


def other_evidence(row: Row, state: Any, event: Event, policy: Any, now_us: int) -> Any:
    verdict: Verdict[Any] = row.handler(state, event, policy, now_us)
    return replace(verdict, evidence={**verdict.evidence, "more": 1})


@given(seed=st.integers(0, 2**32 - 1), restarts=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_every_receipt_comes_out_the_same(seed: int, restarts: int) -> None:
    with TemporaryDirectory() as folder:
        report = lived(Path(folder), seed, restarts=restarts, steps=25)
        (partition,) = report.partitions
        assert partition.mismatches == []
        assert partition.unknown == []
        assert partition.replayed == partition.receipts == fsck.verify_log(Path(folder)).receipts


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=4, deadline=None)
def test_a_replay_that_begins_with_a_snapshot_finds_what_one_from_the_first_receipt_finds(seed: int) -> None:
    with TemporaryDirectory() as path, defects():
        folder = Path(path)
        life = Life(folder, seed)
        asyncio.run(life.live(1, 25))
        make_snapshot(folder, 0)
        partition = partition_folder(folder, 0)
        made = codec.decode((partition / str(list_snapshots(partition, POSIX)[0])).read_bytes())
        asyncio.run(life.live(1, 25))
        receipts = [StoredReceipt(one.leaf, one.frame) for one in written(folder)][made.size :]
        for shares in (1, 3):
            replays = [Replay(made.size, read_beginning(made), share=share, shares=shares) for share in range(shares)]
            for replay in replays:
                replay.take(receipts)
            found = join([replay.found for replay in replays])
            assert (found.mismatches, found.unknown) == ([], [])
            assert found.replayed == len(receipts)
