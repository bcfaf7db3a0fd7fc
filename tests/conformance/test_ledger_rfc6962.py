"""The tree against Certificate Transparency's own test vectors and against pymerkle, which shares no code with it."""

import random

import pytest
from pymerkle import InmemoryTree
from pymerkle import verify_consistency as foreign_verify_consistency
from pymerkle import verify_inclusion as foreign_verify_inclusion

from ledger.format.merkle import (
    EMPTY_ROOT,
    CompactRange,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# From certificate-transparency's merkle tree tests (cpp/merkletree/merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(each)
    for each in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def test_roots_are_those_of_certificate_transparency() -> None:
    tree = CompactRange()
    roots = [tree.root().hex()]
    for each in HASHES:
        tree.append(each)
        roots.append(tree.root().hex())
    assert roots == ROOTS
    assert [root_of(HASHES[:size]).hex() for size in range(9)] == ROOTS
    assert EMPTY_ROOT.hex() == ROOTS[0]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_those_of_certificate_transparency(index: int, size: int) -> None:
    proof = inclusion_proof(HASHES[:size], index)
    assert [each.hex() for each in proof] == INCLUSION[index, size]
    verify_inclusion(HASHES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_consistency_proofs_are_those_of_certificate_transparency(old: int, size: int) -> None:
    proof = consistency_proof(HASHES[:size], old)
    assert [each.hex() for each in proof] == CONSISTENCY[old, size]
    verify_consistency(old, bytes.fromhex(ROOTS[old]), size, bytes.fromhex(ROOTS[size]), proof)


def test_a_foreign_library_gives_the_same_roots_and_paths() -> None:
    rng = random.Random(6962)
    leaves = [rng.randbytes(rng.randrange(200)) for _ in range(150)]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    foreign = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        foreign.append_entry(leaf)
    for size in range(1, 151):
        assert foreign.get_root(size) == root_of(hashes[:size])
    for _ in range(200):
        size = rng.randrange(1, 151)
        index = rng.randrange(size)
        path = foreign.prove_inclusion(index + 1, size).path
        assert path[0] == hashes[index]
        assert path[1:] == inclusion_proof(hashes[:size], index)
        foreign_verify_inclusion(hashes[index], root_of(hashes[:size]), foreign.prove_inclusion(index + 1, size))


def test_a_foreign_librarys_consistency_proofs_speak_of_our_roots() -> None:
    rng = random.Random(9162)
    hashes = [leaf_hash(rng.randbytes(20)) for _ in range(100)]
    foreign = InmemoryTree(algorithm="sha256")
    rng = random.Random(9162)
    for _ in range(100):
        foreign.append_entry(rng.randbytes(20))
    for _ in range(200):
        size = rng.randrange(1, 101)
        old = rng.randrange(1, size + 1)
        old_root, root = root_of(hashes[:old]), root_of(hashes[:size])
        foreign_verify_consistency(old_root, root, foreign.prove_consistency(old, size))
        verify_consistency(old, old_root, size, root, consistency_proof(hashes[:size], old))


def test_leaves_and_nodes_are_hashed_apart() -> None:
    left, right = HASHES[:2]
    assert node_hash(left, right) != leaf_hash(left + right)
