"""A process that writes is killed at any moment: what it had acknowledged is in the log, once, and the log verifies."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.format.receipt import Receipt
from ledger.fsck import verify_log
from ledger.identity import open_identity, partition_folder
from ledger.recovery import recover

WRITER = Path(__file__).with_name("ledger_writer.py")


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(9)
    acknowledged: list[str] = []
    for run in range(8):
        writer = subprocess.Popen(
            [sys.executable, str(WRITER), str(tmp_path), str(run)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acknowledged += [writer.stdout.readline().strip() for _ in range(rng.randrange(1, 400))]
        writer.kill()
        # What it had still told before it died counts too; a line without its end was not told.
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.stdout.close()
        writer.wait()
        assert verify_log(tmp_path).errors == []

    kept: list[Receipt] = []
    counts: dict[str, bytes] = {}
    identity = open_identity(tmp_path, rng.randbytes)
    recovered = recover(
        partition_folder(tmp_path, 0),
        identity.origin(0),
        on_receipt=lambda _, receipt: kept.append(receipt),
        on_state=counts.__setitem__,
    )
    events = [receipt.event_id for receipt in kept]
    assert len(events) == len(set(events)) == recovered.size
    assert set(acknowledged) <= set(events)
    assert len(acknowledged) == len(set(acknowledged))
    # The state is the one after the last receipt that is there: neither older nor newer.
    assert counts["receipts"] == b"%d" % recovered.size
    report = verify_log(tmp_path)
    assert (report.errors, report.notes, report.receipts) == ([], [], recovered.size)
