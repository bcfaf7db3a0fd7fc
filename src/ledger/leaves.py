"""Reads the receipts of a sealed segment, all at once: for whoever publishes them."""

import hashlib
from typing import Final

from ledger.disk import Disk
from ledger.errors import SegmentCorruptError
from ledger.format import segment
from ledger.format.segment import Intact, Kind
from ledger.index import SealedSegment

_RECEIPT: Final = int(Kind.RECEIPT)


def read_leaves(disk: Disk, one: SealedSegment, from_index: int) -> tuple[list[bytes], bytes]:
    """The leaves of a segment from this index on, and their hashes, concatenated. Blocking.

    Raises SegmentCorruptError, OSError.
    """
    data = disk.read(one.path)
    scan = segment.scan(data, sealed=True)
    if not isinstance(scan.verdict, Intact):
        raise SegmentCorruptError(one.path, scan.verdict.offset, one.first_index, scan.verdict.reason)
    leaves = [
        data[start:end]
        for batch in scan.batches
        for kind, start, end in segment.frames(data, batch)
        if kind == _RECEIPT
    ]
    if len(leaves) != one.count:
        raise SegmentCorruptError(one.path, 0, one.first_index, f"it has {len(leaves)} receipts, not {one.count}")
    wanted = leaves[max(0, from_index - one.first_index) :]
    return wanted, b"".join([hashlib.sha256(b"\0" + leaf).digest() for leaf in wanted])
