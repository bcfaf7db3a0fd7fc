"""Writes batches into segments, one durable append each. Blocking: it runs in the ledger's writing thread."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ledger.disk import Disk, SegmentFile
from ledger.format import segment
from ledger.index import BatchPlace, SealedSegment, SegmentKey
from ledger.layout import SegmentName


@dataclass(frozen=True, slots=True)
class CutBatch:
    """What one batch shall hold: `count` receipts from `first_index` on, and the tree's root after them. A batch
    without a body is not written. `seal`: seal the segment behind it, unless that holds no receipt.
    """

    first_index: int
    count: int
    body: list[bytes]
    root: bytes
    seal: bool = False


class Written(NamedTuple):
    """Where a batch stands (None for one without a body), and the segments that were sealed before or behind it."""

    place: BatchPlace | None
    sealed: list[SealedSegment]


class SegmentWriter:
    """The segments of one run (one epoch). A segment is created by its first batch, so that a run that writes nothing
    leaves nothing; it is sealed when the next batch would make it too long, or at the end.
    """

    def __init__(
        self, folder: Path, log: str, epoch: int, previous_sha256: bytes, segment_bytes_max: int,
        disk: Disk,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._log = log
        self._epoch = epoch
        self._previous_sha256 = previous_sha256
        self._segment_bytes_max = segment_bytes_max
        self._disk = disk
        self._current: _Segment | None = None

    def write(self, batch: CutBatch) -> Written:
        """Make a batch durable. Each step's comment says what a crash after it leaves."""
        sealed: list[SealedSegment] = []
        place: BatchPlace | None = None
        if batch.body:
            body_bytes = sum(map(len, batch.body))
            current = self._current
            if current is not None and current.is_full(body_bytes, self._segment_bytes_max):
                sealed += self.seal()  # a log of sealed segments: the next start begins a new one, as it always does
                current = None
            if current is None:
                current = self._begin(batch.first_index)  # an empty segment, which the next start keeps and seals
            place = current.append(batch, body_bytes)  # a whole batch, or a torn one, which the next start cuts off
        if batch.seal and self._current is not None and self._current.receipts:
            sealed += self.seal()
        return Written(place, sealed)

    def seal(self) -> list[SealedSegment]:
        """Give the current segment, if there is one, its final name: no byte of it changes any more."""
        if self._current is None:
            return []
        current, self._current = self._current, None
        self._previous_sha256 = sha256 = current.sha256.digest()
        sealed = SealedSegment(self._folder, current.key, sha256, current.receipts, current.size)
        current.file.rename(sealed.path)
        current.file.close()
        return [sealed]

    def close(self) -> None:
        """Let go of the current segment without sealing it: what was not written stays unknown."""
        if self._current is not None:
            self._current.file.close()
            self._current = None

    def _begin(self, first_index: int) -> "_Segment":
        key = SegmentKey(first_index, self._epoch)
        head = segment.encode_header(self._log, self._epoch, first_index, self._previous_sha256)
        file = self._disk.create(self._folder / str(SegmentName(*key, sealed=False)), head)
        self._current = _Segment(key, head, file)
        return self._current


class _Segment:
    """The segment being written: what its next batch continues."""

    def __init__(self, key: SegmentKey, head: bytes, file: SegmentFile) -> None:
        self.key = key
        self.file = file
        self.sha256 = hashlib.sha256(head)
        self._header = segment.decode_header(head)
        self.size = len(head)
        self._batches = 0
        self.receipts = 0
        self._crc = self._header.crc

    def is_full(self, body_bytes: int, bytes_max: int) -> bool:
        """A segment without receipts is never full: the next one would have its name."""
        return self.receipts > 0 and self.size + segment.batch_bytes(body_bytes) > bytes_max

    def append(self, batch: CutBatch, body_bytes: int) -> BatchPlace:
        data, crc = segment.encode_batch(
            self._header, self._batches, batch.first_index, batch.count, self._crc, batch.body, batch.root
        )
        self.file.append(data)
        self.sha256.update(data)
        place = BatchPlace(self.key, self.size + segment.BATCH_HEAD_BYTES, body_bytes, self._crc)
        self._crc = crc
        self.size += len(data)
        self._batches += 1
        self.receipts += batch.count
        return place
