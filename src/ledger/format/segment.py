"""The segment file: a header, then batches, each one atomic. A pure codec; docs/formats/segment.md is its description.

    segment  = header(64) batch*
    batch    = head(32) body trailer(36)
    body     = frame*                    frame = u32 length | u8 kind | bytes
    trailer  = u32 crc | root(32)

Integers are little-endian. Every CRC is CRC-32C and every one continues another: a batch head's starts from the
segment header's, a batch's (over body and root) from that of the batch before it. So a batch is valid only in its own
place, and bytes that a sender put into a payload cannot pass for a batch: he would need the header's CRC, which covers
hashes he has not seen.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, chain, islice, repeat
from typing import Final, NamedTuple

import google_crc32c

from ledger.errors import SegmentFormatError
from ledger.format.merkle import HASH_BYTES

MAGIC: Final = b"GVLSEG1"
FORMAT_VERSION: Final = 1
BATCH_MAGIC: Final = b"GVB1"
NO_SEGMENT_SHA256: Final = bytes(32)
"""What the first segment of a log names as the one before it."""

_HEADER: Final = struct.Struct("<7sB8sIQ32s")
_BATCH: Final = struct.Struct("<4sIQIII")
_CRC: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<IB")
_KEY_LENGTH: Final = struct.Struct("<H")
_payload_head: Final = struct.Struct("<IB32s").pack
_STATE_HEAD: Final = struct.Struct("<IBH")

HEADER_BYTES: Final = _HEADER.size + _CRC.size
BATCH_HEAD_BYTES: Final = _BATCH.size + _CRC.size
TRAILER_BYTES: Final = _CRC.size + HASH_BYTES
FRAME_HEAD_BYTES: Final = _FRAME.size
COMMITMENT_KEY_BYTES: Final = 32
LOG_HASH_BYTES: Final = 8

_crc32c = google_crc32c.extend
frame_head = _FRAME.pack
"""`frame_head(length, kind)`: the five bytes before a frame's own."""
frame_at = _FRAME.unpack_from
"""`frame_at(data, offset) -> (length, kind)`: the reverse."""


class Kind(IntEnum):
    """What a frame holds: a leaf, the payload of the receipt before it, or the latest state of one machine."""

    RECEIPT = 1
    PAYLOAD = 2
    STATE = 3


# Not looked up in the enum for each frame, which would take as long as packing its head.
_RECEIPT: Final = int(Kind.RECEIPT)
_PAYLOAD: Final = int(Kind.PAYLOAD)
_STATE: Final = int(Kind.STATE)


class SegmentHeader(NamedTuple):
    """`log_hash` is the first 8 bytes of SHA-256 of the origin; `previous_sha256` of the whole segment before."""

    log_hash: bytes
    epoch: int
    first_index: int
    previous_sha256: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Where a valid batch stands. Offsets count from the start of the file.

    `first_index` is the index of its first receipt, `count` how many it has, `seed` the CRC that its own continues.
    """

    number: int
    offset: int
    first_index: int
    count: int
    epoch: int
    body: int
    body_end: int
    seed: int
    crc: int
    root: bytes

    @property
    def end(self) -> int:
        return self.body_end + TRAILER_BYTES


class Intact(NamedTuple):
    """Every byte belongs to a valid batch."""


class Torn(NamedTuple):
    """From `offset` on is a batch that was never finished, and no batch follows: what a crash while writing leaves.

    Damage to the last batch of a segment looks the same: nothing after it shows that it once was whole.
    """

    offset: int
    reason: str


class Corrupt(NamedTuple):
    """The batch at `offset` is damaged, and that it was whole is certain: a valid one follows, or it was sealed."""

    offset: int
    reason: str


Verdict = Intact | Torn | Corrupt


class Scan(NamedTuple):
    """The valid batches up to the first invalid one, and what that one is."""

    header: SegmentHeader
    batches: list[Batch]
    verdict: Verdict

    @property
    def end(self) -> int:
        """Where the last valid batch ends."""
        return self.batches[-1].end if self.batches else HEADER_BYTES


def log_hash(log: str) -> bytes:
    """How a segment header names its log: enough to tell two logs apart, not a commitment."""
    return hashlib.sha256(log.encode()).digest()[:LOG_HASH_BYTES]


def encode_header(log: str, epoch: int, first_index: int, previous_sha256: bytes) -> bytes:
    """The first 64 bytes of a segment."""
    head = _HEADER.pack(MAGIC, FORMAT_VERSION, log_hash(log), epoch, first_index, previous_sha256)
    return head + _CRC.pack(_crc32c(0, head))


def decode_header(data: bytes) -> SegmentHeader:
    """Raises SegmentFormatError."""
    if len(data) < HEADER_BYTES:
        raise SegmentFormatError(0, f"the header has {len(data)} of its {HEADER_BYTES} bytes")
    magic, version, log, epoch, first_index, previous = _HEADER.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != _crc32c(0, data[: _HEADER.size]):
        raise SegmentFormatError(0, "the header's CRC does not match")
    if magic != MAGIC or version != FORMAT_VERSION:
        raise SegmentFormatError(0, f"a segment of another format: {magic!r}, version {version}")
    return SegmentHeader(log, epoch, first_index, previous, crc)


def encode_batch(
    header: SegmentHeader, number: int, first_index: int, count: int, seed: int, body: Sequence[bytes], root: bytes
) -> tuple[bytes, int]:
    """The bytes of a batch and its CRC, which the next one's continues. `seed` is the last one's (or the header's).

    `body` comes in pieces, so that what can be megabytes is copied only once.
    """
    head = _BATCH.pack(BATCH_MAGIC, number, first_index, count, sum(map(len, body)), header.epoch)
    crc = seed
    for piece in body:
        crc = _crc32c(crc, piece)
    crc = _crc32c(crc, root)
    return b"".join((head, _CRC.pack(_crc32c(header.crc, head)), *body, _CRC.pack(crc), root)), crc


def is_whole(body_and_trailer: bytes, seed: int) -> bool:
    """Does the trailer's CRC match, given the CRC that it continues?"""
    if len(body_and_trailer) < TRAILER_BYTES:
        return False
    (crc,) = _CRC.unpack_from(body_and_trailer, len(body_and_trailer) - TRAILER_BYTES)
    body, root = body_and_trailer[:-TRAILER_BYTES], body_and_trailer[-HASH_BYTES:]
    return bool(crc == _crc32c(_crc32c(seed, body), root))


def encode_receipts(
    at: int, leaves: Sequence[bytes], keys: Sequence[bytes], payloads: Sequence[bytes]
) -> tuple[bytes, list[int]]:
    """The frames of receipts in a row, and where each receipt's begin if the first begins at `at`.

    In columns, which no step in Python goes through, and without a piece of bytes in between.
    """
    leaf_bytes = [*map(len, leaves)]
    payload_bytes = [COMMITMENT_KEY_BYTES + len(payload) for payload in payloads]
    leaf_heads = map(frame_head, leaf_bytes, repeat(_RECEIPT))
    payload_heads = map(_payload_head, payload_bytes, repeat(_PAYLOAD), keys)
    frames = b"".join(chain.from_iterable(zip(leaf_heads, leaves, payload_heads, payloads, strict=True)))
    lengths = map(sum, zip(leaf_bytes, payload_bytes, repeat(2 * FRAME_HEAD_BYTES)))
    *starts, _ = accumulate(lengths, initial=at)
    return frames, starts


def encode_state(key: str, value: bytes) -> bytes:
    """A whole state frame. Raises ValueError for a key over 65,535 bytes."""
    name = key.encode()
    if len(name) > 0xFFFF:
        raise ValueError(f"the state key {key[:64]!r}… takes {len(name)} bytes; there is room for 65,535")
    return _STATE_HEAD.pack(_KEY_LENGTH.size + len(name) + len(value), _STATE, len(name)) + name + value


def decode_state(frame: bytes) -> tuple[str, bytes]:
    """The key and value of a state frame's bytes. Raises SegmentFormatError, its offset within the frame."""
    if len(frame) < _KEY_LENGTH.size:
        raise SegmentFormatError(0, "a state frame without a key")
    (length,) = _KEY_LENGTH.unpack_from(frame)
    value = _KEY_LENGTH.size + length
    if value > len(frame):
        raise SegmentFormatError(0, "a state frame's key is longer than the frame")
    try:
        return frame[_KEY_LENGTH.size : value].decode(), frame[value:]
    except UnicodeDecodeError as error:
        raise SegmentFormatError(_KEY_LENGTH.size, "a state frame's key is not UTF-8") from error


def scan(data: bytes, *, sealed: bool = False) -> Scan:
    """Check headers, CRCs, numbers and indices of all batches, and say what the first invalid one means.

    The torn-write rule: a writer starts a batch only when the one before is durable, so a crash can leave at most one
    that is unfinished, at the end. In a sealed segment none can be. Raises SegmentFormatError for a bad segment
    header, which is written and made durable before the file gets its name. Does not look into frames.
    """
    header = decode_header(data)
    batches: list[Batch] = []
    offset, seed, first_index = HEADER_BYTES, header.crc, header.first_index
    while offset < len(data):
        try:
            batch = _batch_at(data, offset, header, len(batches), first_index, seed)
        except SegmentFormatError as error:
            later = next(_later_heads(data, header, offset, len(batches)), None)
            if later is not None:
                return Scan(header, batches, Corrupt(offset, f"{error.message}, but a later batch follows at {later}"))
            if sealed:
                return Scan(header, batches, Corrupt(offset, error.message))
            return Scan(header, batches, Torn(offset, error.message))
        batches.append(batch)
        offset, seed, first_index = batch.end, batch.crc, first_index + batch.count
    return Scan(header, batches, Intact())


def frames(data: bytes, batch: Batch) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end (of its bytes, without the head) of each frame of a valid batch.

    Raises SegmentFormatError where they do not fill its body exactly.
    """
    at, end = batch.body, batch.body_end
    while at < end:
        if at + FRAME_HEAD_BYTES > end:
            raise SegmentFormatError(at, "a frame's head runs over its batch")
        length, kind = frame_at(data, at)
        start = at + FRAME_HEAD_BYTES
        at = start + length
        if at > end:
            raise SegmentFormatError(start - FRAME_HEAD_BYTES, "a frame runs over its batch")
        yield kind, start, at


def find_leaf(data: bytes, scan: Scan, index: int) -> bytes | None:
    """The leaf of a receipt, None if it is in none of the valid batches. Raises SegmentFormatError as `frames`."""
    for batch in scan.batches:
        if batch.first_index <= index < batch.first_index + batch.count:
            leaves = (data[start:end] for kind, start, end in frames(data, batch) if kind == Kind.RECEIPT)
            return next(islice(leaves, index - batch.first_index, None))
    return None


def batch_bytes(body_bytes: int) -> int:
    """How long a batch with such a body is."""
    return BATCH_HEAD_BYTES + body_bytes + TRAILER_BYTES


def body_length(data: bytes, offset: int) -> int:
    """What the batch head at `offset` says of its body's length, valid or not."""
    return int(_BATCH.unpack_from(data, offset)[4])


def _batch_at(data: bytes, offset: int, header: SegmentHeader, number: int, first_index: int, seed: int) -> Batch:
    """The batch at `offset`, if it is whole and the one that belongs there."""
    body = offset + BATCH_HEAD_BYTES
    if body > len(data):
        raise SegmentFormatError(offset, "a batch head is cut short")
    head = data[offset : offset + _BATCH.size]
    (head_crc,) = _CRC.unpack_from(data, offset + _BATCH.size)
    if head_crc != _crc32c(header.crc, head):
        raise SegmentFormatError(offset, "a batch head's CRC does not match")
    magic, found_number, found_index, count, length, epoch = _BATCH.unpack(head)
    if (magic, found_number, found_index, epoch) != (BATCH_MAGIC, number, first_index, header.epoch):
        raise SegmentFormatError(offset, f"batch {found_number} from index {found_index} stands in another's place")
    body_end = body + length
    if body_end + TRAILER_BYTES > len(data):
        raise SegmentFormatError(offset, "a batch is cut short")
    (crc,) = _CRC.unpack_from(data, body_end)
    root = data[body_end + _CRC.size : body_end + TRAILER_BYTES]
    if crc != _crc32c(_crc32c(seed, data[body:body_end]), root):
        raise SegmentFormatError(offset, "a batch's CRC does not match")
    return Batch(number, offset, first_index, count, epoch, body, body_end, seed, crc, root)


def _later_heads(data: bytes, header: SegmentHeader, offset: int, number: int) -> Iterator[int]:
    """Where after `offset` a later batch begins, judged by its head alone.

    The head is enough: its CRC continues the segment header's. And more would be too much to ask: damage to a
    batch's trailer breaks the CRC of the next one too, which is durable all the same.
    """
    at = data.find(BATCH_MAGIC, offset + 1)
    while at >= 0 and at + BATCH_HEAD_BYTES <= len(data):
        head = data[at : at + _BATCH.size]
        (crc,) = _CRC.unpack_from(data, at + _BATCH.size)
        if crc == _crc32c(header.crc, head) and _BATCH.unpack(head)[1] > number:
            yield at
        at = data.find(BATCH_MAGIC, at + 1)
