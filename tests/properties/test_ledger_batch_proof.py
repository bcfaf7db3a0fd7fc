import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import ProofInvalidError
from ledger.format.batch_proof import batch_ranges, verify_batch
from ledger.format.merkle import inclusion_proof, inclusion_ranges, root_of


def tree_of(size: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in range(size)]


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, list[int]]:
    size = draw(st.integers(1, 70))
    return size, sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))


def proof_of(tree: list[bytes], indices: list[int]) -> list[bytes]:
    return [root_of(tree[start:end]) for start, end in batch_ranges(indices, len(tree))]


@given(choices())
def test_every_choice_of_leaves_of_every_tree_has_a_proof(choice: tuple[int, list[int]]) -> None:
    size, indices = choice
    tree = tree_of(size)
    verify_batch(indices, [tree[index] for index in indices], size, proof_of(tree, indices), root_of(tree))


@given(choices())
def test_no_hash_of_a_proof_is_in_vain(choice: tuple[int, list[int]]) -> None:
    size, indices = choice
    ranges = batch_ranges(indices, size)
    assert ranges == sorted(ranges)
    for start, end in ranges:
        assert not any(start <= index < end for index in indices)
    alone = {each for index in indices for each in inclusion_ranges(index, size)}
    assert set(ranges) <= alone


@given(st.integers(1, 70), st.data())
def test_for_one_leaf_it_is_the_audit_path_from_left_to_right(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of(size)
    assert sorted(proof_of(tree, [index])) == sorted(inclusion_proof(tree, index))


@given(choices(), st.data())
def test_whatever_is_changed_is_refused(choice: tuple[int, list[int]], data: st.DataObject) -> None:
    size, indices = choice
    tree = tree_of(size)
    hashes, proof, root = [tree[index] for index in indices], proof_of(tree, indices), root_of(tree)
    stranger = hashlib.sha256(b"stranger").digest()
    at = data.draw(st.integers(0, len(hashes) - 1))
    with pytest.raises(ProofInvalidError):
        verify_batch(indices, [*hashes[:at], stranger, *hashes[at + 1 :]], size, proof, root)
    with pytest.raises(ProofInvalidError):
        verify_batch(indices, hashes, size, [*proof, stranger], root)
    with pytest.raises(ProofInvalidError):
        verify_batch(indices, hashes[:-1], size, proof, root)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(ProofInvalidError):
            verify_batch(indices, hashes, size, [*proof[:at], stranger, *proof[at + 1 :]], root)
        with pytest.raises(ProofInvalidError):
            verify_batch(indices, hashes, size, proof[:-1], root)
    if len(indices) > 1:
        with pytest.raises(ProofInvalidError):
            verify_batch(indices, hashes[::-1], size, proof, root)
        with pytest.raises(ProofInvalidError):
            verify_batch(indices[::-1], hashes[::-1], size, proof, root)


def test_indices_outside_the_tree_and_twice_are_refused() -> None:
    for indices in ([], [-1], [3], [1, 1], [2, 1]):
        with pytest.raises(IndexError):
            batch_ranges(indices, 3)
        with pytest.raises(ProofInvalidError):
            verify_batch(indices, [bytes(32)] * len(indices), 3, [], bytes(32))
    with pytest.raises(ProofInvalidError):
        verify_batch([0], [bytes(31)], 1, [], bytes(31))
