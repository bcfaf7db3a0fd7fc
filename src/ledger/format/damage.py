"""Which byte of a damaged segment was changed. Pure.

A CRC is linear: what one changed byte does to it depends on the change and on how many bytes follow, and on nothing
else. So from the difference between the CRC that stands there and the one computed, each single-byte change that
explains it can be found by running the CRC's register backwards from that difference until it holds what one byte
leaves in it. For n bytes that takes n steps, and a wrong explanation turns up by chance in n * 255 / 2**32 cases.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import google_crc32c

from ledger.errors import SegmentFormatError
from ledger.format import segment
from ledger.format.chain import commitment
from ledger.format.merkle import CompactRange, leaf_hash
from ledger.format.segment import BATCH_HEAD_BYTES, COMMITMENT_KEY_BYTES, HEADER_BYTES, TRAILER_BYTES, Batch, Kind, Scan

_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C (Castagnoli), reflected: RFC 3720, appendix B.4
_CRC: Final = struct.Struct("<I")
_PARTS: Final[dict[int, str]] = {Kind.RECEIPT: "a receipt", Kind.PAYLOAD: "a payload", Kind.STATE: "a state"}


class Change(NamedTuple):
    """The byte at `offset` was `original` once."""

    offset: int
    original: int


class Repair(NamedTuple):
    """A change undone: the bytes as they must have been, and what a scan says of them."""

    change: Change
    data: bytes
    scan: Scan


def explain(data: bytes, *, sealed: bool) -> list[Repair]:
    """Every change of a single byte that explains why a scan of `data` stops where it does: those, if there are
    several, that let it get furthest. Empty if no single byte does, or if the scan does not stop.
    """
    repairs: list[Repair] = []
    reached = _reach(data, sealed=sealed)
    for change in _candidates(data, sealed=sealed):
        mended = data[: change.offset] + bytes((change.original,)) + data[change.offset + 1 :]
        try:
            repair = Repair(change, mended, segment.scan(mended, sealed=sealed))
        except SegmentFormatError:
            continue
        if repair.scan.end > reached:
            repairs, reached = [repair], repair.scan.end
        elif repairs and repair.scan.end == reached:
            repairs.append(repair)
    return repairs


def is_sound(data: bytes, batch: Batch, tree: CompactRange) -> bool:
    """Do the receipts of a batch lead from `tree` (before it) to its root, and its payloads to their commitments?

    A batch of which a crash lost a page cannot pass: each page holds some of a receipt or of a payload.
    """
    hashes: list[bytes] = []
    leaf = b""
    try:
        for kind, start, end in segment.frames(data, batch):
            content = data[start:end]
            if kind == Kind.RECEIPT:
                leaf = content
                hashes.append(leaf_hash(leaf))
            elif kind == Kind.PAYLOAD:
                key, payload = content[:COMMITMENT_KEY_BYTES], content[COMMITMENT_KEY_BYTES:]
                if f'"inputs_commit":"{commitment(key, payload)}"'.encode() not in leaf:
                    return False
            elif kind == Kind.STATE:
                segment.decode_state(content)
    except SegmentFormatError:
        return False
    after = CompactRange(tree.size, tree.hashes())
    after.extend(hashes)
    return len(hashes) == batch.count and after.root() == batch.root


def part_of(data: bytes, batch: Batch, offset: int) -> tuple[int, str]:
    """Which receipt a byte of a valid batch concerns, and what it is part of, in words.

    A byte of the batch's own concerns its first receipt.
    """
    if not batch.body <= offset < batch.body_end:
        return batch.first_index, "a batch's head" if offset < batch.body else "a batch's trailer"
    index = batch.first_index - 1
    for kind, start, end in segment.frames(data, batch):
        index += kind == Kind.RECEIPT
        if offset < end:
            part = _PARTS.get(kind, "a frame")
            return max(index, batch.first_index), part if offset >= start else f"the frame head of {part}"
    raise ValueError(f"byte {offset} is in no frame")


def _reach(data: bytes, *, sealed: bool) -> int:
    """How far into the segment everything is valid."""
    try:
        return segment.scan(data, sealed=sealed).end
    except SegmentFormatError:
        return 0


def _candidates(data: bytes, *, sealed: bool) -> Iterator[Change]:
    """The single-byte changes that explain the first CRC that does not match."""
    try:
        scan = segment.scan(data, sealed=sealed)
    except SegmentFormatError:
        if len(data) >= HEADER_BYTES:
            yield from _explain_crc(data, [range(HEADER_BYTES - _CRC.size)], HEADER_BYTES - _CRC.size, 0)
        return
    head = scan.end
    body = head + BATCH_HEAD_BYTES
    if body > len(data):
        return
    in_head = list(_explain_crc(data, [range(head, body - _CRC.size)], body - _CRC.size, scan.header.crc))
    body_end = body + segment.body_length(data, head)
    if in_head or body_end + TRAILER_BYTES > len(data):
        yield from in_head
        return
    root = range(body_end + _CRC.size, body_end + TRAILER_BYTES)
    seed = scan.batches[-1].crc if scan.batches else scan.header.crc
    yield from _explain_crc(data, [range(body, body_end), root], body_end, seed)


def _explain_crc(data: bytes, covered: list[range], field: int, seed: int) -> Iterator[Change]:
    """The changes of one byte that explain why the CRC that stands at `field` is not that of the covered bytes."""
    crc = seed
    for span in covered:
        crc = google_crc32c.extend(crc, data[span.start : span.stop])
    (found,) = _CRC.unpack_from(data, field)
    difference = crc ^ found
    if difference == 0:
        return
    in_field = [at for at, byte in enumerate(_CRC.pack(difference)) if byte]
    if len(in_field) == 1:
        at = field + in_field[0]
        yield Change(at, data[at] ^ _CRC.pack(difference)[in_field[0]])
    register = difference
    for span in reversed(covered):
        for at in reversed(span):
            flip = _BYTE_OF_ENTRY.get(register)
            if flip is not None:
                yield Change(at, data[at] ^ flip)
            # One step back: the top byte tells which table entry the step had mixed in.
            entry = _ENTRY_OF_TOP[register >> 24]
            register = (register ^ _TABLE[entry]) << 8 & 0xFFFFFFFF | entry


def _table_entry(byte: int) -> int:
    """What one byte leaves in the register."""
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE: Final = [_table_entry(byte) for byte in range(256)]
_BYTE_OF_ENTRY: Final = {entry: byte for byte, entry in enumerate(_TABLE) if byte}
_ENTRY_OF_TOP: Final = {entry >> 24: byte for byte, entry in enumerate(_TABLE)}
