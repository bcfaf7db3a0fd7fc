"""The head: one small object per partition whose replacement, by compare-and-swap, is what commits. Pure.

Its bytes are canonical JSON (RFC 8785), so that a head that was read can be compared with one that was written byte
for byte. docs/formats/head.md describes it.
"""

import re
from typing import Final

import msgspec
from msgspec import Struct

from ledger.errors import HeadInvalidError, NoteInvalidError
from ledger.format import checkpoint as checkpoints
from ledger.format.merkle import EMPTY_ROOT
from ledger.format.note import split_note

HEAD_VERSION: Final = 1
HEAD_BYTES_MAX: Final = 64 * 1024
_SEGMENT_KEY = re.compile(r"seg/(\d{20})-(\d{10})-([0-9a-f]{8})\.seg")
_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_EPOCH_LIMIT: Final = 2**32  # a segment header has 32 bits for it


class SegmentRef(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The last committed segment. `key` is below the partition's prefix, `sha256` (hex) of the whole object: from it
    the segment's header leads to the one before, and so on to the first.
    """

    key: str
    sha256: str

    def place(self) -> tuple[int, int]:
        """First index and epoch."""
        place = parse_segment_key(self.key)
        assert place is not None  # noqa: S101 - no other head can be read or written
        return place


# In this order, so that the encoding is canonical.
class Head(Struct, frozen=True, forbid_unknown_fields=True, gc=False, kw_only=True):
    """Who writes, and what is committed.

    `checkpoint` is the signed note for `size` and `root` (hex). `lease_us`: how long after this head was written its
    owner may answer for receipts that are not committed; 0 says that the owner has stopped and answers no more.
    `nonce` is fresh in each head: a writer knows its own by it. `vkey` is the signer's public key, for whoever has no
    better source.
    """

    checkpoint: str
    epoch: int
    lease_us: int
    nonce: str
    owner: str
    root: str
    segment: SegmentRef | None
    size: int
    v: int = HEAD_VERSION
    vkey: str

    def root_bytes(self) -> bytes:
        return bytes.fromhex(self.root)


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Head).decode


def encode_head(head: Head) -> bytes:
    """The object's bytes. Raises HeadInvalidError for a head that `decode_head` would not take."""
    data = _encode(head)
    _check(head, data)
    return data


def decode_head(data: bytes) -> Head:
    """The head in an object, if these are just the bytes that `encode_head` gives it. Raises HeadInvalidError.

    The signature is not verified here: that needs a key from elsewhere.
    """
    try:
        head = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HeadInvalidError(f"it cannot be read: {error}") from error
    _check(head, data)
    if _encode(head) != data:
        raise HeadInvalidError("it is not canonical JSON")
    return head


def segment_key(first_index: int, epoch: int, nonce: bytes) -> str:
    """The key of a segment; `nonce` is 4 random bytes, so that no two uploads ever share a name."""
    return f"{segment_key_prefix(first_index)}-{epoch:010d}-{nonce.hex()}.seg"


def segment_key_prefix(first_index: int) -> str:
    """What the keys of all segments that begin with this receipt begin with; those of later ones sort behind it."""
    return f"seg/{first_index:020d}"


def parse_segment_key(key: str) -> tuple[int, int] | None:
    """First index and epoch of a segment's key; None for one that is none."""
    match = _SEGMENT_KEY.fullmatch(key)
    return (int(match[1]), int(match[2])) if match else None


def _check(head: Head, data: bytes) -> None:
    if len(data) > HEAD_BYTES_MAX:
        raise HeadInvalidError(f"{len(data)} bytes; a head has at most {HEAD_BYTES_MAX}")
    if head.v != HEAD_VERSION:
        raise HeadInvalidError(f"version {head.v}; this program knows version {HEAD_VERSION}")
    if not 0 < head.epoch < _EPOCH_LIMIT or head.lease_us < 0:
        raise HeadInvalidError(f"epoch {head.epoch}, lease {head.lease_us} µs")
    if not _HEX_HASH.fullmatch(head.root) or not _NONCE.fullmatch(head.nonce):
        raise HeadInvalidError("the root or the nonce is not lower case hex of its length")
    if head.segment is None:
        if head.size != 0 or head.root_bytes() != EMPTY_ROOT:
            raise HeadInvalidError(f"{head.size} receipts and no segment")
    elif parse_segment_key(head.segment.key) is None or not _HEX_HASH.fullmatch(head.segment.sha256):
        raise HeadInvalidError(f"no segment can be called {head.segment.key[:100]!r}")
    try:
        signed = checkpoints.decode(split_note(head.checkpoint.encode())[0])
    except (NoteInvalidError, UnicodeEncodeError) as error:
        raise HeadInvalidError(f"its checkpoint: {error}") from error
    if (signed.size, signed.root) != (head.size, head.root_bytes()):
        raise HeadInvalidError(f"its checkpoint is of {signed.size} receipts, or of another root")
