"""Makes snapshots of the ledger, in a process of its own: folding receipts takes a processor, and the event loop needs
its own. That process reads sealed segments only, so it needs nothing of this one.
"""

import asyncio
import math
import os
import random
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from governors.memory import without_collector
from governors.tenants.fold import WindowFold
from ledger.durable import POSIX
from ledger.errors import LedgerLockedError, NotALedgerError
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE, PartitionLock, partition_folder
from ledger.recovery import fold
from ledger.snapshots import write_snapshot

if TYPE_CHECKING:
    from governors.settings import Settings

RECEIPTS_EVERY: Final = 32_768
"""What a start may have to read, besides the segment that was open: a quarter of a second's worth."""
RECEIPTS_MAX: Final = 2 * RECEIPTS_EVERY
"""With so many no pause is made any more: a quick start is promised, an idle processor is not."""
LOOK_S: Final = 1.0
PAUSE_FACTOR: Final = 4.0
"""A pause is so many times as long as the last snapshot took of a processor: a fifth of one goes into them."""
PAUSE_MIN_S: Final = 5.0
RETENTION_EVERY_S: Final = 4 * 3_600.0
"""Where old payloads have to go: two snapshots must stand for what goes, however few receipts come."""
RETRY_S: Final = 30.0
RETRY_MAX_S: Final = 600.0
DEADLINE_S: Final = 1_800.0
NICENESS: Final = 10
LOCK_FILE: Final = "snapshot.lock"


def make_snapshot(data_dir: Path, partition: int) -> Path | None:
    """Make a snapshot of a partition's sealed segments, whether a service runs on them or not; None if there is
    nothing new to put into one, or another process makes one already.

    Raises NotALedgerError, SegmentCorruptError, OSError.
    """
    folder = partition_folder(data_dir, partition)
    origin = data_dir / LEDGER_FOLDER / ORIGIN_FILE
    if not (folder.is_dir() and origin.is_file()):
        raise NotALedgerError(f"{data_dir} holds no ledger with a partition {partition}")
    try:
        lock = PartitionLock.acquire(folder, LOCK_FILE)
    except LedgerLockedError:
        return None
    try:
        with without_collector():
            made = fold(folder, f"{origin.read_text(encoding='ascii').strip()}/{partition}", WindowFold())
        return None if made is None else write_snapshot(folder, made, POSIX)
    finally:
        lock.release()


class Grows(Protocol):
    """What the snapshotter needs of the ledger."""

    @property
    def sealed_size(self) -> int: ...


class Snapshotter:
    """Has a snapshot made when enough receipts were sealed since the last one, which stood for `size`."""

    def __init__(
        self,
        data_dir: Path,
        partition: int,
        ledger: Grows,
        size: int,
        rng: random.Random,
        turn: asyncio.Lock,
        every_s: float = math.inf,
    ) -> None:
        """`turn` is shared by all partitions of a worker: they fill alike, and a process for each at the same time
        would take its memory so many times. `every_s`: after so long a single new receipt is enough.
        """
        self._turn = turn
        self._command = snapshot_command(data_dir, partition)
        self._ledger = ledger
        self._size = size
        self._rng = rng
        self._every_s = every_s
        self._log = structlog.get_logger("governors.snapshotter")

    async def run(self) -> None:
        """Until cancelled; a process under way is ended then."""
        loop = asyncio.get_running_loop()
        failures, made_s, rested_s, retry_s = 0, loop.time(), loop.time(), loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            size, begun_s = self._ledger.sealed_size, loop.time()
            due = RECEIPTS_EVERY if begun_s >= rested_s else RECEIPTS_MAX
            if begun_s - made_s >= self._every_s:
                due = 1
            if size - self._size < due or begun_s < retry_s:
                continue
            async with self._turn:
                size, begun_s = self._ledger.sealed_size, loop.time()
                used_s = _used_by_children_s()
                error = await self._make()
                used_s = _used_by_children_s() - used_s
            jitter = self._rng.uniform(1.0, 1.5)
            if error is None:
                self._size, failures, made_s = size, 0, begun_s
                rested_s = loop.time() + jitter * max(PAUSE_MIN_S, PAUSE_FACTOR * used_s)
            else:
                # A start takes longer without it, and that is all.
                self._log.warning("no snapshot was made", reason=error)
                retry_s = loop.time() + jitter * min(RETRY_MAX_S, RETRY_S * 2**failures)
                failures += 1

    async def _make(self) -> str | None:
        """None, or why it failed."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            return str(error)
        try:
            with suppress(OSError):  # it may have ended; if not, everything else goes first from its first import on
                os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
            async with asyncio.timeout(DEADLINE_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"it took more than {DEADLINE_S:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            return None
        return said.decode(errors="replace").strip()[-500:] or f"exit code {process.returncode}"


def every_s(settings: "Settings") -> float:
    """How old the last snapshot becomes at most: where something is dropped from the log, two must stand for it, on
    the disk of its writer and on those of who stands by.
    """
    return math.inf if settings.retention is None else RETENTION_EVERY_S


def _used_by_children_s() -> float:
    """Seconds of a processor that processes begun here have taken. How long they ran says less: they let others go
    first.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def snapshot_command(data_dir: Path, partition: int) -> Sequence[str]:
    """The process that makes one snapshot."""
    return [
        *(sys.executable, "-m", "governors", "ledger", "snapshot"),
        *("--data-dir", str(data_dir), "--partition", str(partition)),
    ]
