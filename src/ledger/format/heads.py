"""Where each tenant's chain ends, as one hash in the log: so that a tenant's newest receipts cannot be held back. Pure.

A chain shows that nothing is missing before a receipt, not that it is the last. So now and then the log takes a receipt
of its own, the heads receipt. Its evidence has the root of an RFC 6962 tree over all chains' ends, sorted by pseudonym;
whoever has that receipt can check one tenant's end with a path of a few hashes.

An entry of that tree (the leaf, 72 bytes): pseudonym (32 hex digits) | sequence number that the tenant's next receipt
will have (u64, big endian) | leaf hash of its last receipt (32 bytes).
"""

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from msgspec import Struct

from ledger.errors import ProofInvalidError
from ledger.format.chain import LEDGER_TENANT, PSEUDONYM_CHARS, split
from ledger.format.checkpoint import SIZE_LIMIT
from ledger.format.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from ledger.format.receipt import Fsm, Receipt
from ledger.format.tiles import TileTree, inclusion_proof

MACHINE: Final = "ledger"
EVENT: Final = "heads"
RULE: Final = "ledger.heads"
FSM: Final = Fsm(event=EVENT, from_="", machine=MACHINE, subject="", to="", version=1)

_ENTRY: Final = struct.Struct(f">{PSEUDONYM_CHARS}sQ{HASH_BYTES}s")
_HEX: Final = b"0123456789abcdef"


class Head(NamedTuple):
    """The end of a tenant's chain. `next_tseq` counts its receipts so far, `leaf_hash` is the last one's."""

    tenant: str
    next_tseq: int
    leaf_hash: bytes


class HeadProof(Struct, frozen=True):
    """A tenant's head and its audit path in the tree over `count` heads, in which it stands at `index`."""

    head: Head
    index: int
    path: list[bytes]


class HeadsStatement(Struct, frozen=True):
    """What a heads receipt says: `count` chains, as they ended when the log had `size` receipts, have this root."""

    count: int
    size: int
    root: bytes


class HeadList:
    """All heads at some size, sorted: what a heads receipt's root is over. Takes about 110 bytes a tenant."""

    __slots__ = ("_entries", "_tree", "encoded")

    def __init__(self, encoded: bytes) -> None:
        """From the entries, concatenated. Raises ProofInvalidError unless they are whole, sorted and each tenant's one.

        That they are the log's is for `root` to show.
        """
        if len(encoded) % _ENTRY.size:
            raise ProofInvalidError(f"{len(encoded)} bytes are not whole entries of {_ENTRY.size}")
        self.encoded = encoded
        self._entries = split(encoded, _ENTRY.size)
        if any(this[:PSEUDONYM_CHARS] >= following[:PSEUDONYM_CHARS] for this, following in pairwise(self._entries)):
            raise ProofInvalidError("the heads are not sorted by pseudonym, each once")
        self._tree = TileTree()
        self._tree.extend(b"".join([hashlib.sha256(b"\0" + entry).digest() for entry in self._entries]))

    @classmethod
    def of(cls, heads: Iterable[tuple[str, int, bytes]]) -> "HeadList":
        """From (pseudonym, next sequence number, leaf hash) in any order. Raises ValueError for what is no head."""
        entries = sorted([encode_head(Head(*head)) for head in heads])
        try:
            return cls(b"".join(entries))
        except ProofInvalidError as error:
            raise ValueError("a tenant has two heads") from error

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Head]:
        return map(_decode_head, self._entries)

    def root(self) -> bytes:
        return self._tree.root()

    def prove(self, tenant: str) -> HeadProof:
        """Raises KeyError for a tenant (a pseudonym) without receipts at that size."""
        index = bisect_left(self._entries, tenant.encode())
        if index == len(self) or not self._entries[index].startswith(tenant.encode()) or not _is_pseudonym(tenant):
            raise KeyError(tenant)
        path = inclusion_proof(index, len(self), self._tree.tile)
        return HeadProof(_decode_head(self._entries[index]), index, path)


def encode_head(head: Head) -> bytes:
    """The entry. Raises ValueError."""
    if not _is_pseudonym(head.tenant) or not 0 < head.next_tseq < SIZE_LIMIT or len(head.leaf_hash) != HASH_BYTES:
        raise ValueError(f"not the end of a chain: {head}")
    return _ENTRY.pack(head.tenant.encode(), head.next_tseq, head.leaf_hash)


def evidence(statement: HeadsStatement) -> dict[str, int | str]:
    """What a heads receipt has as evidence; `FSM`, `RULE` and the decision `none` stand beside it."""
    return {"count": statement.count, "root": statement.root.hex(), "size": statement.size}


def read_statement(receipt: Receipt) -> HeadsStatement:
    """What a heads receipt says. That the receipt is the log's is proven apart. Raises ProofInvalidError."""
    if (receipt.tenant, receipt.fsm.machine, receipt.fsm.event, receipt.rule) != (LEDGER_TENANT, MACHINE, EVENT, RULE):
        raise ProofInvalidError("not a heads receipt")
    count, size, root = (receipt.evidence.get(key) for key in ("count", "size", "root"))
    if type(count) is not int or type(size) is not int or not isinstance(root, str) or not 0 <= count <= size:
        raise ProofInvalidError("a heads receipt without count, size and root")
    if len(root) != 2 * HASH_BYTES or root.encode().strip(_HEX):
        raise ProofInvalidError(f"the root in a heads receipt is not {HASH_BYTES} bytes in hex")
    return HeadsStatement(count, size, bytes.fromhex(root))


def verify_head(head: Head, index: int, path: Sequence[bytes], receipt: Receipt) -> HeadsStatement:
    """Check one tenant's head against a heads receipt, which itself was checked against a checkpoint.

    Gives the receipt's statement: the head is the tenant's chain when the log had `size` receipts. If the newest
    receipt below `size` that the tenant was shown has another leaf hash, or a sequence number that `next_tseq` does
    not follow, some were held back. Raises ProofInvalidError.
    """
    statement = read_statement(receipt)
    try:
        entry = encode_head(head)
    except ValueError as error:
        raise ProofInvalidError(str(error)) from error
    verify_inclusion(leaf_hash(entry), index, statement.count, path, statement.root)
    return statement


def _decode_head(entry: bytes) -> Head:
    tenant, next_tseq, last = _ENTRY.unpack(entry)
    try:
        return Head(tenant.decode("ascii"), next_tseq, last)
    except UnicodeDecodeError as error:
        raise ProofInvalidError("a head without a pseudonym") from error


def _is_pseudonym(tenant: str) -> bool:
    return len(tenant) == PSEUDONYM_CHARS and tenant.isascii() and not tenant.encode().strip(_HEX)
