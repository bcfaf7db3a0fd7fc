"""Reads receipts and payloads back from segments. Blocking: it runs in a thread.

A batch is read whole and its CRC checked: what the disk has spoiled is never handed out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ledger.disk import Disk
from ledger.durable import POSIX
from ledger.errors import ReceiptNotFoundError, SegmentCorruptError
from ledger.format import segment
from ledger.format.segment import COMMITMENT_KEY_BYTES, FRAME_HEAD_BYTES, TRAILER_BYTES, Kind
from ledger.index import BatchPlace, ReceiptPlace, SegmentKey
from ledger.layout import SegmentName


@dataclass(frozen=True, slots=True)
class Stored:
    """A receipt's leaf, and the bytes of the payload frame behind it (None if there is none)."""

    index: int
    leaf: bytes
    payload: bytes | None

    def split_payload(self) -> tuple[bytes, bytes]:
        """The commitment key and the sender's bytes. Raises ReceiptNotFoundError."""
        if self.payload is None:
            raise ReceiptNotFoundError(f"receipt {self.index} has no payload any more")
        return self.payload[:COMMITMENT_KEY_BYTES], self.payload[COMMITMENT_KEY_BYTES:]


def read_receipts(folder: Path, places: Iterable[ReceiptPlace], disk: Disk = POSIX) -> list[Stored]:
    """The receipts at these places, in the same order. Neighbours in one batch cost one read.

    Raises SegmentCorruptError, OSError.
    """
    found: list[Stored] = []
    for batch, group in groupby(places, key=lambda place: place.batch):
        path, body = _read_body(disk, folder, batch, first := next(group))
        found.extend(_receipt_at(path, batch, body, place) for place in (first, *group))
    return found


def _read_body(disk: Disk, folder: Path, batch: BatchPlace, first: ReceiptPlace) -> tuple[Path, bytes]:
    path, data = read_segment(folder, batch.key, batch.body, batch.length + TRAILER_BYTES, disk)
    if not segment.is_whole(data, batch.seed):
        message = "a batch's CRC does not match when read again"
        raise SegmentCorruptError(path, batch.body - segment.BATCH_HEAD_BYTES, first.index, message)
    return path, data[: batch.length]


def _receipt_at(path: Path, batch: BatchPlace, body: bytes, place: ReceiptPlace) -> Stored:
    length, kind = segment.frame_at(body, place.offset)
    start = place.offset + FRAME_HEAD_BYTES
    if kind != Kind.RECEIPT:
        raise SegmentCorruptError(path, batch.body + place.offset, place.index, "a frame of another kind")
    leaf, payload = body[start : start + length], None
    following = start + length
    if following < len(body):
        length, kind = segment.frame_at(body, following)
        if kind == Kind.PAYLOAD:
            payload = body[following + FRAME_HEAD_BYTES : following + FRAME_HEAD_BYTES + length]
    return Stored(place.index, leaf, payload)


def read_segment(
    folder: Path, key: SegmentKey, offset: int = 0, length: int = -1, disk: Disk = POSIX
) -> tuple[Path, bytes]:
    """Bytes of a segment (to its end by default), whether it is sealed, open, or sealed meanwhile."""
    sealed, unsealed = (folder / str(SegmentName(*key, sealed=sealed)) for sealed in (True, False))
    for path in (sealed, unsealed):
        try:
            return path, disk.read(path, offset, length)
        except FileNotFoundError:
            continue
    return sealed, disk.read(sealed, offset, length)  # sealed between the two attempts
