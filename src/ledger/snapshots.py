"""Snapshots on the disk: beside the segments, named by how many receipts they stand for, the newest two kept.

A snapshot spares a start the reading of what lies before it. It is made from segments alone and can always be made
again, so one that cannot be used is passed over.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ledger.disk import Disk
from ledger.errors import SegmentCorruptError, SegmentFormatError, SnapshotInvalidError
from ledger.format import segment, snapshot
from ledger.format.receipt import Receipt
from ledger.format.snapshot import SegmentEntry, Snapshot
from ledger.index import SealedSegment, SegmentKey
from ledger.layout import QUARANTINE, SegmentName

SNAPSHOT_SUFFIX: Final = ".snap"
KEPT: Final = 2
_NAME = re.compile(r"(\d{20})-(\d{10})\.snap")


class SnapshotName(NamedTuple):
    """How many receipts a snapshot stands for, and the epoch of the last segment in it."""

    size: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.size:020d}-{self.epoch:010d}{SNAPSHOT_SUFFIX}"


class Standing(NamedTuple):
    """A snapshot on this disk: its name, the last segment in it, its bytes' SHA-256 (hex)."""

    name: SnapshotName
    last: SegmentEntry
    sha256: str


class AppFold(Protocol):
    """What an application makes of receipts, one after the other, and keeps in snapshots. The same receipts must lead
    to the same bytes.
    """

    def on_receipt(self, index: int, receipt: Receipt) -> None:
        """The next receipt of the log."""

    def encode(self) -> bytes:
        """Everything so far."""

    def decode(self, data: bytes) -> None:
        """Be as the one that gave these bytes. Raises ValueError, having changed nothing, for others."""


def list_snapshots(folder: Path, disk: Disk) -> list[SnapshotName]:
    """The snapshots of a partition, the newest first."""
    found = (_NAME.fullmatch(name) for name in disk.names(folder))
    return sorted((SnapshotName(int(match[1]), int(match[2])) for match in found if match), reverse=True)


def read_snapshot(folder: Path, name: SnapshotName, log: str, disk: Disk) -> Snapshot:
    """A snapshot of this log. Raises SnapshotInvalidError, OSError."""
    return open_snapshot(disk.read(folder / str(name)), name, log)


def open_snapshot(data: bytes, name: SnapshotName, log: str) -> Snapshot:
    """The snapshot in a file of this name. Raises SnapshotInvalidError unless it is one of this log."""
    found = snapshot.decode(data)
    if (found.log, found.size, found.epoch) != (log, *name):
        raise SnapshotInvalidError(f"it is of {found.size} receipts of {found.log}")
    return found


def find_standing(folder: Path, log: str, disk: Disk) -> list[Standing]:
    """The snapshots of this log that can be read, the newest first."""
    found = []
    for name in list_snapshots(folder, disk)[:KEPT]:
        with suppress(SnapshotInvalidError, FileNotFoundError):
            data = disk.read(folder / str(name))
            made = open_snapshot(data, name, log)
            found.append(Standing(name, made.segments[-1], hashlib.sha256(data).hexdigest()))
    return found


def may_go_below(segments_from: int, standing: Sequence[Standing]) -> int:
    """The receipt below which segments may go from this disk, of those that the log has dropped. A start here needs
    what one on an empty disk does not: the last segments of its own snapshots, of which more than one must stand.
    """
    return min(segments_from, *(one.last.first_index for one in standing)) if len(standing) >= KEPT else 0


def write_snapshot(folder: Path, made: Snapshot, disk: Disk) -> Path:
    """Keep a snapshot, and of the others the newest. A crash leaves the new one or not, and at worst one too many."""
    path = folder / str(SnapshotName(made.size, made.epoch))
    disk.replace(path, snapshot.encode(made))
    for old in list_snapshots(folder, disk)[KEPT:]:
        disk.unlink(folder / str(old))
    return path


def match_segments(folder: Path, made: Snapshot, names: list[SegmentName], disk: Disk) -> list[SealedSegment]:
    """The segments that a snapshot stands for, as far as they are here: the first ones may have been dropped.

    Raises SnapshotInvalidError if it is of another history, SegmentCorruptError if segments that it knows are lost.
    """
    sizes = disk.sizes(folder)
    names = list(dropwhile(lambda name: str(name) not in sizes, names))  # dropped since they were listed
    keys = {(name.first_index, name.epoch) for name in names}
    entries = list(dropwhile(lambda entry: (entry.first_index, entry.epoch) not in keys, made.segments))
    sealed = []
    for number, entry in enumerate(entries or made.segments[-1:]):
        key = SegmentKey(entry.first_index, entry.epoch)
        one = SealedSegment(folder, key, entry.sha256, entry.count, entry.length)
        if number >= len(names) or key != names[number][:2]:
            # A process that made this snapshot may have outlived its parent, and the takeover after that.
            if any(file.startswith(f"{one.path.name}{QUARANTINE}") for file in sizes):
                raise SnapshotInvalidError(f"{one.path} was put aside since")
            message = "it is missing: a snapshot was made when it was there"
            raise SegmentCorruptError(one.path, 0, entry.first_index, message)
        if not names[number].sealed:
            raise SnapshotInvalidError(f"{folder / str(names[number])} is in it, though it is not sealed")
        size = sizes[str(names[number])]
        if size != entry.length:
            message = f"it has {size} bytes, and had {entry.length} when a snapshot was made"
            raise SegmentCorruptError(one.path, min(size, entry.length), entry.first_index, message)
        sealed.append(one)
    if sealed and not _is_joined(folder, sealed[-1], names[len(sealed) :], disk):
        raise SnapshotInvalidError(f"{sealed[-1].path} is not the segment that it was made of")
    return sealed


def _is_joined(folder: Path, last: SealedSegment, rest: list[SegmentName], disk: Disk) -> bool:
    """Is the last segment of a snapshot the one that the log goes on from?"""
    if not rest:
        return hashlib.sha256(disk.read(last.path)).digest() == last.sha256
    try:
        following = segment.decode_header(disk.read(folder / str(rest[0]), 0, segment.HEADER_BYTES))
    except SegmentFormatError:
        return True  # damage, which is found when that segment is read
    return following.previous_sha256 == last.sha256
