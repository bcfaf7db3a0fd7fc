"""The snapshot file: what a log comes to after its first `size` receipts. A pure codec, described in
docs/formats/snapshot.md.

    snapshot = magic(8) | SHA-256 of the rest(32) | MessagePack map
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Struct, msgpack

from ledger.errors import SnapshotInvalidError
from ledger.format.chain import PSEUDONYM_CHARS
from ledger.format.merkle import HASH_BYTES

MAGIC: Final = b"GVLSNP1\n"
_CHAIN: Final = struct.Struct(f"<{PSEUDONYM_CHARS // 2}sQ{HASH_BYTES}s")


class SegmentEntry(Struct, frozen=True, array_like=True):
    """A sealed segment: what its name says, how many receipts it has, how many bytes, and its SHA-256."""

    first_index: int
    epoch: int
    count: int
    length: int
    sha256: bytes


class Snapshot(Struct, frozen=True, forbid_unknown_fields=True):
    """The first `size` receipts of the log `log`, whose tree has the root `root`; `epoch` is that of the last segment.

    `segments` are all that led here, in order. `edge` is the tree's right edge (`TileTree.state`), `chains` the end of
    each tenant's chain (`encode_chains`), `states` the latest value under each key, and `app` whatever the application
    folded the receipts into.
    """

    log: str
    size: int
    epoch: int
    root: bytes
    segments: list[SegmentEntry]
    edge: bytes
    chains: bytes
    states: dict[str, bytes]
    app: bytes


_decode = msgpack.Decoder(Snapshot).decode
_encode = msgpack.Encoder().encode


def encode(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot file."""
    body = _encode(snapshot)
    return b"".join((MAGIC, hashlib.sha256(body).digest(), body))


def decode(data: bytes) -> Snapshot:
    """Raises SnapshotInvalidError for anything but what `encode` gave."""
    head = len(MAGIC) + HASH_BYTES
    body = memoryview(data)[head:]
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotInvalidError("it is no snapshot, or one of another version")
    if data[len(MAGIC) : head] != hashlib.sha256(body).digest():
        raise SnapshotInvalidError("its SHA-256 does not match")
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotInvalidError(f"it cannot be read: {error}") from error


def encode_chains(chains: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Of each tenant: pseudonym (16 bytes), number of receipts (u64), leaf hash of the last."""
    return b"".join([_CHAIN.pack(bytes.fromhex(name), count, head) for name, count, head in chains])


def decode_chains(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """The reverse. Raises SnapshotInvalidError."""
    if len(data) % _CHAIN.size:
        raise SnapshotInvalidError("a chain is cut short")
    return ((name.hex(), count, head) for name, count, head in _CHAIN.iter_unpack(data))
