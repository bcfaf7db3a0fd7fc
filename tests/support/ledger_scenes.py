"""What ledger tests share: receipts to append, ledgers to run, logs to spoil, and a disk that fails on demand."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ledger.appender import Ledger
from ledger.disk import SegmentFile
from ledger.draft import Draft, Limits
from ledger.durable import PosixDisk
from ledger.format.receipt import Fsm, Receipt
from ledger.identity import PartitionLock, open_identity, partition_folder
from ledger.recovery import OnReceipt, OnState, recover
from ledger.snapshots import AppFold

NAME = "ledger.test/log"
FSM = Fsm(event="e", from_="A", machine="m", subject="s", to="B", version=1)


class Events:
    """An application that remembers which receipts it has seen."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    def on_receipt(self, index: int, receipt: Receipt) -> None:
        self.seen.append([index, receipt.event_id])

    def encode(self) -> bytes:
        return orjson.dumps(self.seen)

    def decode(self, data: bytes) -> None:
        self.seen = orjson.loads(data)


def draft(number: int = 0, tenant: str = "acme", payload: bytes = b"{}", **fields: Any) -> Draft:
    """A small receipt about event `number`."""
    given: dict[str, Any] = {
        "tenant": tenant, "event_id": f"e-{number}", "source": "test", "observed_us": 1_700_000_000_000_000 + number,
        "ts_us": 1_700_000_000_000_001 + number, "outcome": "decided", "decision": "none", "rule": "r",
        "evidence": {"n": number}, "fsm": FSM, "policy_digest": "d", "actions": (), "payload": payload,
    }  # fmt: skip
    return Draft(**(given | fields))


def seeded_entropy(seed: int = 7) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def encode_text(value: object) -> bytes:
    return str(value).encode()


@dataclass
class Disk(PosixDisk):
    """A real disk that fails or waits when told to. `appends` counts batches that were started.

    `fail_at`: the number of the batch whose append raises; `landed`: whether it reaches the disk all the same.
    `hold`: batches wait until `let_go`, or for `let_one_go`.
    """

    fail_at: int | None = None
    landed: bool = False
    appends: int = 0
    renames: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    permits: threading.Semaphore | None = None

    def hold(self) -> None:
        self.permits = threading.Semaphore(0)

    def let_one_go(self) -> None:
        assert self.permits is not None
        self.permits.release()

    def let_go(self) -> None:
        permits, self.permits = self.permits, None
        if permits is not None:
            permits.release()

    def create(self, path: Path, head: bytes) -> SegmentFile:
        return _DiskFile(super().create(path, head), self)


@dataclass
class _DiskFile:
    file: SegmentFile
    disk: Disk

    def append(self, data: bytes) -> None:
        number, self.disk.appends = self.disk.appends, self.disk.appends + 1
        self.disk.started.set()
        if self.disk.permits is not None:
            assert self.disk.permits.acquire(timeout=30), "nobody let the disk go"
        if number != self.disk.fail_at:
            self.file.append(data)
            return
        if self.disk.landed:
            self.file.append(data)
        raise OSError(5, "the disk failed on demand")

    def rename(self, path: Path) -> None:
        self.disk.renames += 1
        self.file.rename(path)

    def close(self) -> None:
        self.file.close()


def open_ledger(
    data_dir: Path,
    *,
    disk: Disk | None = None,
    limits: Limits | None = None,
    on_receipt: OnReceipt | None = None,
    on_state: OnState | None = None,
    app: AppFold | None = None,
    entropy: Callable[[int], bytes] | None = None,
    encode_state: Callable[[Any], bytes] = encode_text,
    **options: Any,
) -> Ledger:
    """As `Ledger.open`, on a disk of the test's."""
    entropy = entropy or seeded_entropy()
    identity = open_identity(data_dir, entropy, NAME)
    folder = partition_folder(data_dir, 0)
    lock = PartitionLock.acquire(folder)
    try:
        recovered = recover(folder, identity.origin(0), on_receipt=on_receipt, on_state=on_state, app=app)
        return Ledger(
            folder, recovered, identity=identity, partition=0, entropy=entropy, writer="w", encode_state=encode_state,
            limits=limits or Limits(), lock=lock, disk=disk or Disk(), **options,
        )  # fmt: skip
    except BaseException:
        lock.release()
        raise


@asynccontextmanager
async def running(data_dir: Path, **options: Any) -> AsyncIterator[Ledger]:
    """A ledger that commits until the block ends, then closes in good order."""
    ledger = open_ledger(data_dir, **options)
    task = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        ledger.close()


async def write_log(data_dir: Path, batches: list[int], *, tenants: int = 2, **options: Any) -> None:
    """One run that writes batches of so many receipts each, and a state with every batch."""
    async with running(data_dir, **options) as ledger:
        number = ledger.size
        for count in batches:
            for _ in range(count):
                ledger.append(draft(number, tenant=f"t{number % tenants}", payload=b"p%d" % number))
                number += 1
            ledger.put_state("last", number)
            if count:
                await ledger.wait_local(number - 1)


def abandon(data_dir: Path) -> Path:
    """Give the last segment the name it would have if its run had been killed."""
    sealed = segments(data_dir)[-1]
    unsealed = sealed.with_suffix(".open")
    sealed.rename(unsealed)
    return unsealed


def segments(data_dir: Path) -> list[Path]:
    return sorted(path for path in partition_folder(data_dir, 0).iterdir() if path.suffix in {".seg", ".open"})
