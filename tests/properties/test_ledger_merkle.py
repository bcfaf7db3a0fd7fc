from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import ProofInvalidError
from ledger.format.merkle import (
    CompactRange,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

HASHES = [leaf_hash(b"%d" % number) for number in range(70)]
SIZES = st.integers(0, len(HASHES))


def holds_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    try:
        verify_inclusion(leaf, index, size, proof, root)
    except ProofInvalidError:
        return False
    return True


def holds_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: list[bytes]) -> bool:
    try:
        verify_consistency(old, old_root, size, root, proof)
    except ProofInvalidError:
        return False
    return True


@given(st.lists(st.integers(0, 20), max_size=8))
def test_leaves_may_be_appended_in_any_portions(portions: list[int]) -> None:
    tree, done = CompactRange(), 0
    for portion in portions:
        leaves = [HASHES[(done + at) % len(HASHES)] for at in range(portion)]
        tree.extend(leaves)
        done += portion
        assert tree.size == done
        assert tree.root() == root_of([HASHES[at % len(HASHES)] for at in range(done)])
        assert len(tree.hashes()) == done.bit_count()
        tree = CompactRange(tree.size, tree.hashes())


@given(SIZES, st.data())
def test_a_stored_range_with_the_wrong_number_of_hashes_is_refused(size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 8).filter(lambda number: number != size.bit_count()))
    try:
        CompactRange(size, HASHES[:count])
    except ValueError:
        return
    raise AssertionError("accepted")


def test_every_inclusion_proof_of_small_trees_verifies() -> None:
    for size in range(1, 34):
        root = root_of(HASHES[:size])
        for index in range(size):
            verify_inclusion(HASHES[index], index, size, inclusion_proof(HASHES[:size], index), root)


def test_every_consistency_proof_of_small_trees_verifies() -> None:
    roots = [root_of(HASHES[:size]) for size in range(34)]
    for size in range(34):
        for old in range(size + 1):
            verify_consistency(old, roots[old], size, roots[size], consistency_proof(HASHES[:size], old))


@given(st.data())
def test_an_inclusion_proof_proves_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(HASHES)))
    index = data.draw(st.integers(0, size - 1))
    root, proof = root_of(HASHES[:size]), inclusion_proof(HASHES[:size], index)
    other = data.draw(st.integers(0, size - 1))
    assert holds_inclusion(HASHES[other], index, size, proof, root) == (other == index)
    assert holds_inclusion(HASHES[index], other, size, proof, root) == (other == index)
    assert not holds_inclusion(HASHES[index], index, size, [*proof, HASHES[0]], root)
    assert not holds_inclusion(HASHES[index], -1, size, proof, root)
    assert not holds_inclusion(HASHES[index], size, size, proof, root)
    if proof:
        at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
        bad = bytearray(proof[at])
        bad[bit // 8] ^= 1 << bit % 8
        assert not holds_inclusion(HASHES[index], index, size, [*proof[:at], bytes(bad), *proof[at + 1 :]], root)
        assert not holds_inclusion(HASHES[index], index, size, proof[:-1], root)
        assert not holds_inclusion(HASHES[index], index, size, [*proof[:at], proof[at][:-1], *proof[at + 1 :]], root)


@given(st.data())
def test_a_consistency_proof_proves_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(HASHES)))
    old = data.draw(st.integers(0, size))
    old_root, root = root_of(HASHES[:old]), root_of(HASHES[:size])
    proof = consistency_proof(HASHES[:size], old)
    forged = root_of([*HASHES[: old - 1], leaf_hash(b"forged")]) if old else leaf_hash(b"forged")
    assert not holds_consistency(old, forged, size, root, proof)
    assert not holds_consistency(old, old_root, size, root, [*proof, HASHES[0]])
    assert not holds_consistency(size + 1, old_root, size, root, proof)
    if old:
        assert not holds_consistency(old, old_root, size, leaf_hash(b"forged"), proof)
    if proof:
        at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
        bad = bytearray(proof[at])
        bad[bit // 8] ^= 1 << bit % 8
        assert not holds_consistency(old, old_root, size, root, [*proof[:at], bytes(bad), *proof[at + 1 :]])
        assert not holds_consistency(old, old_root, size, root, proof[:-1])
        assert not holds_consistency(old, old_root, size, root, [])
