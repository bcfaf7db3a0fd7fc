"""What a partition's folder holds, seen from outside: which segments, and how they compare with a committed log.

Cheap: reads headers, and the last segment. Recovery reads the rest. Blocking.
"""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from ledger import layout
from ledger.disk import Disk
from ledger.errors import SegmentCorruptError, SegmentFormatError
from ledger.format import segment
from ledger.format.segment import Corrupt
from ledger.index import SegmentKey
from ledger.layout import QUARANTINE, SegmentName
from ledger.protocol.takeover import LocalSegment
from ledger.snapshots import list_snapshots

FETCHED_SUFFIX: Final = ".fetched"


class FoundSegment(NamedTuple):
    """A segment file. `sha256` is of its valid bytes, which are all of them in a sealed one."""

    name: SegmentName
    end_index: int
    sha256: bytes

    @property
    def key(self) -> SegmentKey:
        return SegmentKey(self.name.first_index, self.name.epoch)

    def as_local(self) -> LocalSegment:
        return LocalSegment(self.name.first_index, self.name.epoch, self.end_index)


def find_segments(disk: Disk, folder: Path, from_key: SegmentKey | None = None) -> list[FoundSegment]:
    """The segments in log order, beginning with this one, if it is there. A segment's SHA-256 is taken from the header
    of the next one, where there is one: recovery checks that the two agree.

    Raises SegmentCorruptError for a header that cannot be read, and for damage in the last segment.
    """
    names = layout.list_segments(folder, disk)
    if from_key is not None:
        names = [name for name in names if (name.first_index, name.epoch) >= from_key]
    found = []
    for name, following in pairwise(names):
        header = _header(
            folder / str(following), following, disk.read(folder / str(following), 0, segment.HEADER_BYTES)
        )
        found.append(FoundSegment(name, following.first_index, header.previous_sha256))
    if names:
        found.append(_read_last(disk, folder, names[-1]))
    return found


def quarantine(disk: Disk, folder: Path, names: list[SegmentName], epoch: int) -> list[Path]:
    """Put the last segments of a log aside under names that nobody reads as segments, the very last one first, so that
    a crash in between leaves a shorter log. What was derived from them goes too.
    """
    put_aside = []
    for name in reversed(names):
        path = folder / f"{name}{QUARANTINE}{epoch:010d}"
        disk.rename(folder / str(name), path)
        put_aside.append(path)
    return put_aside[::-1]


def remove(disk: Disk, folder: Path, names: list[SegmentName]) -> None:
    """Remove the first segments of a log, and the snapshots that go on from them; the last one first, for nothing is to
    go on from what is left if this is interrupted.
    """
    for snapshot in list_snapshots(folder, disk):
        disk.unlink(folder / str(snapshot))
    for name in reversed(names):
        disk.unlink(folder / str(name))
        disk.sync_names(folder)


def remove_below(disk: Disk, folder: Path, first_index: int) -> int:
    """Remove the sealed segments that begin below this receipt, all that are left of them; how many those were.

    One after the other, for good: were one of them to come back after a crash, and not those behind it, the log would
    have a hole.
    """
    names = [name for name in layout.list_segments(folder, disk) if name.sealed and name.first_index < first_index]
    for name in names:
        disk.unlink(folder / str(name))
        disk.sync_names(folder)
    return len(names)


def root_at_end(disk: Disk, folder: Path, name: SegmentName) -> bytes | None:
    """The tree's root at the end of a segment, None if it has no whole batch to say it."""
    data = disk.read(folder / str(name))
    batches = segment.scan(data, sealed=name.sealed).batches
    return batches[-1].root if batches else None


def quarantined(disk: Disk, folder: Path) -> Iterator[tuple[Path, str]]:
    """What lies in quarantine: path, and the key that it has in the store."""
    for file in sorted(disk.names(folder)):
        name, mark, epoch = file.partition(QUARANTINE)
        if mark and layout.parse(name) is not None:
            yield folder / file, f"quarantine/{epoch}/{name}"


def _read_last(disk: Disk, folder: Path, name: SegmentName) -> FoundSegment:
    path = folder / str(name)
    data = disk.read(path)
    _header(path, name, data)
    scan = segment.scan(data, sealed=name.sealed)
    if isinstance(scan.verdict, Corrupt):
        raise SegmentCorruptError(path, scan.verdict.offset, name.first_index, scan.verdict.reason)
    end_index = scan.batches[-1].first_index + scan.batches[-1].count if scan.batches else name.first_index
    return FoundSegment(name, end_index, hashlib.sha256(memoryview(data)[: scan.end]).digest())


def _header(path: Path, name: SegmentName, data: bytes) -> segment.SegmentHeader:
    try:
        return segment.decode_header(data[: segment.HEADER_BYTES])
    except SegmentFormatError as error:
        raise SegmentCorruptError(path, error.offset, name.first_index, error.message) from error
