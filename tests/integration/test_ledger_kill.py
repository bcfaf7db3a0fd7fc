"""A process that writes is killed at any moment: what it had acknowledged is in the log, once, and the log verifies."""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.appender import Ledger
from ledger.durable import POSIX
from ledger.format.canonical import decode
from ledger.format.receipt import Receipt
from ledger.fsck import verify_log
from ledger.identity import open_identity, partition_folder
from ledger.recovery import fold, recover
from ledger.snapshots import write_snapshot

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


class Seen:
    """Which events the log has, as a snapshot keeps it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_receipt(self, index: int, receipt: Receipt) -> None:
        assert index == len(self.events)
        self.events.append(receipt.event_id)

    def encode(self) -> bytes:
        return json.dumps(self.events).encode()

    def decode(self, data: bytes) -> None:
        self.events = json.loads(data)


async def expect_everything_found(data_dir: Path, rng: random.Random) -> tuple[Seen, int]:
    """What a start over the folder comes to, each receipt of which it finds by index and by tenant."""
    app = Seen()
    ledger = Ledger.open(data_dir, entropy=rng.randbytes, writer="w", encode_state=bytes, app=app)
    task = asyncio.create_task(ledger.run())
    try:
        owners: dict[str, list[int]] = {}
        for index, event in enumerate(app.events):
            receipt = decode((await ledger.read(index)).leaf)
            assert receipt.event_id == event
            owners.setdefault(receipt.tenant, []).append(index)
        for number in range(5):
            found = await ledger.tenant_receipts(f"t{number}", -1, ledger.size)
            assert [one.index for one in found] == owners[ledger.pseudonym(f"t{number}")]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return app, ledger.recovered.snapshot_size


@pytest.mark.slow
def test_snapshots_and_index_of_killed_processes_are_as_good_as_the_log(tmp_path: Path) -> None:
    rng = random.Random(11)
    folder = partition_folder(tmp_path, 0)
    for run in range(6):
        writer = subprocess.Popen(
            [sys.executable, str(WRITER), str(tmp_path), str(run)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(rng.randrange(100, 400)):
            writer.stdout.readline()
        # While it writes, and without its lock.
        origin = (tmp_path / "ledger" / "origin").read_text().strip() + "/0"
        made = fold(folder, origin, Seen())
        if made is not None:
            write_snapshot(folder, made, POSIX)
        writer.kill()
        writer.communicate()

        app, snapshot_size = asyncio.run(expect_everything_found(tmp_path, rng))
        assert snapshot_size > 0 or made is None
        whole = Seen()
        recover(folder, origin, on_receipt=whole.on_receipt)
        assert whole.events == app.events
