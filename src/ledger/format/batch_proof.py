"""One proof for many leaves of a tree: the roots of the largest subtrees that hold none of them, from left to right.

Both sides walk down the tree as RFC 6962 (section 2.1) divides it, so the hashes need no positions. For neighbours that
takes little more than one audit path, where a path for each repeats what they share. Pure.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ledger.errors import ProofInvalidError
from ledger.format.merkle import HASH_BYTES, node_hash


def batch_ranges(indices: Sequence[int], size: int) -> list[tuple[int, int]]:
    """The ranges [start, end) of leaves whose roots are the proof for the leaves at `indices`.

    Raises IndexError if the indices do not ascend, or are not in a tree of `size`.
    """
    if not _are_in_order(indices, size):
        raise IndexError(f"not ascending indices in a tree of {size}")
    return list(_ranges_without(indices, 0, size))


def verify_batch(
    indices: Sequence[int], hashes: Sequence[bytes], size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that the leaf hashes stand at `indices`, which ascend, in the tree of `size` with `root`.

    Size and root come from a checkpoint that the caller has verified. Raises ProofInvalidError.
    """
    if not _are_in_order(indices, size):
        raise ProofInvalidError(f"the indices do not ascend, or are not in a tree of {size}")
    if len(indices) != len(hashes) or any(len(item) != HASH_BYTES for item in (*hashes, *proof, root)):
        raise ProofInvalidError("a hash is missing, or is not 32 bytes long")
    siblings = iter(proof)
    found = _root(indices, hashes, siblings, 0, size)
    if next(siblings, None) is not None:
        raise ProofInvalidError("the proof is too long")
    if found != root:
        raise ProofInvalidError("the proof leads to another root")


def _ranges_without(indices: Sequence[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """`indices` are those between start and end."""
    if not indices:
        yield start, end
    elif end - start > 1:
        middle = _middle(start, end)
        cut = bisect_left(indices, middle)
        yield from _ranges_without(indices[:cut], start, middle)
        yield from _ranges_without(indices[cut:], middle, end)


def _root(indices: Sequence[int], hashes: Sequence[bytes], siblings: Iterator[bytes], start: int, end: int) -> bytes:
    """The root over the leaves from start to end."""
    if not indices:
        sibling = next(siblings, None)
        if sibling is None:
            raise ProofInvalidError("the proof is too short")
        return sibling
    if end - start == 1:
        return hashes[0]
    middle = _middle(start, end)
    cut = bisect_left(indices, middle)
    left = _root(indices[:cut], hashes[:cut], siblings, start, middle)
    return node_hash(left, _root(indices[cut:], hashes[cut:], siblings, middle, end))


def _middle(start: int, end: int) -> int:
    """Where RFC 6962 divides the tree over these leaves: behind the largest power of two that is less than all."""
    return start + (1 << ((end - start - 1).bit_length() - 1))


def _are_in_order(indices: Sequence[int], size: int) -> bool:
    return bool(indices) and 0 <= indices[0] <= indices[-1] < size and all(a < b for a, b in pairwise(indices))
