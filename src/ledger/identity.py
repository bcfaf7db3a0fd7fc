"""Which log a data folder holds: its origin, the key of its pseudonyms, and the lock on each partition.

Layout (docs/formats/segment.md):

    <data-dir>/ledger/origin                         the log's name, without the partition
    <data-dir>/ledger/pseudonym.key                  32 bytes, mode 0600
    <data-dir>/ledger/partitions                     how many there are, in decimal; absent for a log with one
    <data-dir>/ledger/<partition>/lock               held by the one process that writes
    <data-dir>/ledger/<partition>/<first>-<epoch>.seg    sealed segments; `.open` while being written
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from ledger import durable
from ledger.errors import IdentityError, LedgerLockedError
from ledger.format.chain import KEY_BYTES

LEDGER_FOLDER: Final = "ledger"
STORE_FOLDER: Final = "store"
ORIGIN_FILE: Final = "origin"
KEY_FILE: Final = "pseudonym.key"
PARTITIONS_FILE: Final = "partitions"
PARTITIONS_MAX: Final = 1_000
LOCK_FILE: Final = "lock"
DEFAULT_HOST: Final = "governors.local"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

# A log's name goes into signed notes (C2SP tlog-checkpoint): no white space, no plus.
_ORIGIN = re.compile(r"[A-Za-z0-9._~/-]{1,200}")


@dataclass(frozen=True, slots=True)
class Identity:
    """`name` is the log's origin without the partition. `key` makes pseudonyms: losing it breaks every tenant's
    chain, and who has it can tell tenants from their pseudonyms. The number of partitions never changes, or tenants
    would move from one to another.
    """

    name: str
    key: bytes = field(repr=False)
    partitions: int = 1

    def origin(self, partition: int) -> str:
        return f"{self.name}/{partition}"


def open_identity(
    data_dir: Path, entropy: Callable[[int], bytes], name: str | None = None, partitions: int | None = None
) -> Identity:
    """The identity of a data folder, created the first time.

    `name` (default: `governors.local/` and 16 random hex digits) and `partitions` (default: 1) are used then and must
    fit ever after. Safe for several processes at once. Raises IdentityError.
    """
    folder = data_dir / LEDGER_FOLDER
    durable.make_folder(folder)
    if name is not None and not _ORIGIN.fullmatch(name):
        raise IdentityError(f"the origin {name!r} may hold letters, digits and . _ ~ / - only, at most 200")
    key_path, origin_path = folder / KEY_FILE, folder / ORIGIN_FILE
    if origin_path.exists() and not key_path.exists():
        raise IdentityError(f"{key_path} is missing: restore it; with another key no tenant's chain could go on")
    # The key first: a folder with an origin has had its key.
    if not key_path.exists():
        durable.create_once(key_path, entropy(KEY_BYTES), 0o600)
    if not origin_path.exists():
        write_partitions(folder, partitions or 1)
        fresh = name or f"{DEFAULT_HOST}/{entropy(8).hex()}"
        durable.create_once(origin_path, fresh.encode() + b"\n", 0o644)
    key = key_path.read_bytes()
    if len(key) != KEY_BYTES:
        raise IdentityError(f"{key_path} has {len(key)} bytes, not {KEY_BYTES}: restore it from a backup")
    found = origin_path.read_text(encoding="ascii").removesuffix("\n")
    if not _ORIGIN.fullmatch(found):
        raise IdentityError(f"{origin_path} does not hold an origin: restore it from a backup")
    if name is not None and name != found:
        raise IdentityError(f"{folder} belongs to the log {found!r}, not to {name!r}: name another data folder")
    there = read_partitions(folder)
    if partitions is not None and partitions != there:
        raise IdentityError(f"the log {found!r} has {there} partitions, not {partitions}: that never changes")
    return Identity(found, key, there)


def write_partitions(folder: Path, partitions: int) -> None:
    """Say, before there is an origin, how many partitions a ledger folder's log has."""
    if partitions > 1:
        durable.create_once(folder / PARTITIONS_FILE, b"%d\n" % partitions, 0o644)


def read_partitions(folder: Path) -> int:
    """How many partitions a ledger folder's log has. Raises IdentityError."""
    path = folder / PARTITIONS_FILE
    try:
        text = path.read_text(encoding="ascii", errors="replace").removesuffix("\n")
    except FileNotFoundError:
        return 1
    if not text.isdecimal() or not 1 <= int(text) <= PARTITIONS_MAX:
        raise IdentityError(f"{path} does not hold a number of partitions: restore it from a backup")
    return int(text)


def partition_folder(data_dir: Path, partition: int) -> Path:
    """Where a partition's segments are."""
    return data_dir / LEDGER_FOLDER / str(partition)


def lock_name(folder: Path, entropy: Callable[[int], bytes]) -> str:
    """A name for the lock on this folder, 16 hex digits, the same for every holder for as long as the kernel runs.

    So who holds the lock knows that whoever wrote this name before has ended. A file system that another machine
    has mounted too has another name there: the kernels are different ones.
    """
    try:
        kernel = _BOOT_ID.read_bytes()
    except OSError:
        kernel = entropy(16)  # no such file on this system: then nobody is known to have ended
    found = (folder / LOCK_FILE).stat()
    return hashlib.sha256(b"%s %d %d" % (kernel, found.st_dev, found.st_ino)).hexdigest()[:16]


class PartitionLock:
    """An flock on a partition's folder, to write (or under another name, to do something else that one process at a
    time may do). The kernel lets go of it when the process ends, however it ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, folder: Path, name: str = LOCK_FILE) -> Self:
        """Raises LedgerLockedError at once if another holder has it."""
        durable.make_folder(folder)
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise LedgerLockedError(folder) from error
        return cls(fd)

    def release(self) -> None:
        """Let go of it, if that was not done before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
