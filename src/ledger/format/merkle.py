"""The Merkle tree of RFC 6962: hashes, a compact range to append to, proofs and their verification. Pure.

Hashes are 32 bytes. Leaves are hashed with a leading 0x00 and inner nodes with 0x01, so that neither passes for the
other. A proof is a list of hashes, the deepest first. Verification is that of RFC 9162 section 2.1: sizes and roots
must come from a source that the caller trusts (a checkpoint), since a proof does not bind the size.
"""

import hashlib
from collections.abc import Sequence
from itertools import repeat
from typing import Final

from ledger.errors import ProofInvalidError
from ledger.format.chain import split

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256
_digest = type(_sha256()).digest
_join = b"".join


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 | leaf)."""
    return _sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 | left | right)."""
    return _sha256(b"\1" + left + right).digest()


def pair_hashes(hashes: bytes) -> bytes:
    """The hashes of the next level, of an even number of concatenated ones."""
    pairs = split(hashes, 2 * HASH_BYTES)
    return _join(map(_digest, map(_sha256, map(b"\1".__add__, pairs))))


class CompactRange:
    """The right edge of a tree: for each perfect subtree its root, enough to append and to know the tree's root.

    `edge[level]` is meaningful where bit `level` of `size` is set. Appending hashes each inner node once, so it is
    O(1) a leaf on average; the state is at most 64 hashes whatever the size.
    """

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Empty, or as `hashes()` of a range of that size gave it. Raises ValueError if the two do not fit."""
        if size < 0 or size.bit_count() != len(hashes) or any(len(item) != HASH_BYTES for item in hashes):
            raise ValueError(f"a tree of {size} leaves has {max(size, 0).bit_count()} hashes of 32 bytes on its edge")
        self.size = size
        self._edge = [b""] * size.bit_length()
        largest_first = iter(hashes)
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                self._edge[level] = next(largest_first)

    def append(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append leaf hashes in order: level by level, which costs half of what leaf by leaf does."""
        old, edge = self.size, self._edge
        self.size = old + len(leaves)
        nodes: list[bytes] = list(leaves)
        level = 0
        while nodes:
            if level == len(edge):
                edge.append(b"")
            if old >> level & 1:
                nodes.insert(0, edge[level])
            if len(nodes) & 1:
                edge[level] = nodes.pop()
            each = iter(nodes)  # taken from twice, it gives pairs
            nodes = list(map(_digest, map(_sha256, map(_join, zip(repeat(b"\1"), each, each)))))
            level += 1

    def root(self) -> bytes:
        """The tree's root: the subtrees folded from the smallest, which stands at the right."""
        root = b""
        for level, subtree in enumerate(self._edge):
            if self.size >> level & 1:
                root = node_hash(subtree, root) if root else subtree
        return root or EMPTY_ROOT

    def hashes(self) -> list[bytes]:
        """The subtree roots, the largest first: with `size`, all there is to store."""
        return [subtree for level, subtree in enumerate(self._edge) if self.size >> level & 1][::-1]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over a list of leaf hashes."""
    tree = CompactRange()
    tree.extend(leaves)
    return tree.root()


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges [start, end) of leaves whose roots are the audit path of leaf `index` (RFC 6962, 2.1.1)."""
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} is not in a tree of {size}")
    start, end = 0, size
    path: list[tuple[int, int]] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """The ranges [start, end) of leaves whose roots prove that a tree continues another (RFC 6962, 2.1.2)."""
    if not 0 <= old_size <= size:
        raise IndexError(f"a tree of {size} has no earlier size {old_size}")
    if old_size in (0, size):
        return []
    start, end = 0, size
    path: list[tuple[int, int]] = []
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:  # otherwise the old tree is a whole subtree, whose root the verifier knows already
        path.append((start, end))
    return path[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index` in the tree over these leaf hashes. O(n)."""
    return [root_of(leaves[start:end]) for start, end in inclusion_ranges(index, len(leaves))]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over `leaves` continues its first `old_size` ones. O(n)."""
    return [root_of(leaves[start:end]) for start, end in consistency_ranges(old_size, len(leaves))]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash stands at `index` in the tree of `size` with `root` (RFC 9162, 2.1.3.2).

    Raises ProofInvalidError.
    """
    _check_hashes((leaf, root, *proof))
    if not 0 <= index < size:
        raise ProofInvalidError(f"index {index} is not in a tree of {size}")
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalidError("the proof is too long")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            result = node_hash(result, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ProofInvalidError("the proof is too short")
    if result != root:
        raise ProofInvalidError("the proof leads to another root")


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `size` with `root` continues the one of `old_size` (RFC 9162, 2.1.4.2).

    Every tree continues the empty one, by the empty proof. Raises ProofInvalidError.
    """
    _check_hashes((old_root, root, *proof))
    if not 0 <= old_size <= size:
        raise ProofInvalidError(f"a tree of {size} cannot continue one of {old_size}")
    if old_size in (0, size):
        if proof:
            raise ProofInvalidError("the proof is too long")
        if old_size == size and old_root != root:
            raise ProofInvalidError("two roots for one size")
        if old_size == 0 and old_root != EMPTY_ROOT:
            raise ProofInvalidError("the empty tree has another root")
        return
    if old_size & (old_size - 1) == 0:
        proof = (old_root, *proof)  # a whole subtree: the proof leaves out what the verifier has
    if not proof:
        raise ProofInvalidError("the proof is too short")
    node, last = old_size - 1, size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old_result = result = proof[0]
    for sibling in proof[1:]:
        if last == 0:
            raise ProofInvalidError("the proof is too long")
        if node & 1 or node == last:
            old_result = node_hash(sibling, old_result)
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            result = node_hash(result, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ProofInvalidError("the proof is too short")
    if old_result != old_root or result != root:
        raise ProofInvalidError("the proof leads to other roots")


def _split(size: int) -> int:
    """The largest power of two below `size`: where RFC 6962 divides a tree."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise ProofInvalidError("a hash is not 32 bytes long")
