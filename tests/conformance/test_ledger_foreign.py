"""Other people's implementations judge ours: on trees, proofs, checkpoints, and on every byte that can be changed.

The judges share no code with us or with each other: pymerkle (trees, paths, consistency), scitt-cose (RFC 6962 and
9162 proofs), sigstore (Rekor's path arithmetic; its parser and verifier of signed checkpoints). Wherever one of them
refuses, ours must. Where ours refuses and a judge does not, the test names what the judge is lenient about.
"""

import base64
import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pymerkle import InmemoryTree
from pymerkle import verify_consistency as pymerkle_verify_consistency
from pymerkle import verify_inclusion as pymerkle_verify_inclusion
from pymerkle.core import _inclusion_path_layout
from pymerkle.hasher import MerkleHasher
from pymerkle.proof import InclusionProof
from scitt_cose import merkle as scitt  # type: ignore[import-untyped]
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint, verify_checkpoint
from sigstore._internal.trust import Keyring
from sigstore_models.common import v1 as sigstore_common

from ledger.errors import ProofInvalidError
from ledger.format import tiles
from ledger.format.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.format.merkle import CompactRange, leaf_hash, verify_consistency, verify_inclusion
from ledger.format.note import Signer
from ledger.format.proof import TlogProof, decode, encode, verify
from ledger.format.tiles import TileTree

COUNT = 1_200
_rng = random.Random(6962)
LEAVES = [_rng.randbytes(_rng.randrange(1, 120)) for _ in range(COUNT)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]

ORIGIN = "example.org/log/0"
SIGNER = Signer(ORIGIN, bytes(range(32)))


def _grow() -> tuple[TileTree, list[bytes]]:
    tree, compact = TileTree(), CompactRange()
    tree.extend(b"".join(HASHES))
    roots = [compact.root()]
    for each in HASHES:
        compact.append(each)
        roots.append(compact.root())
    return tree, roots


TREE, ROOTS = _grow()


@pytest.fixture(scope="module")
def foreign_tree() -> Any:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in LEAVES:
        tree.append_entry(leaf)
    return tree


def path_of(index: int, size: int) -> list[bytes]:
    return tiles.inclusion_proof(index, size, TREE.tile)


def consistency_of(old: int, size: int) -> list[bytes]:
    return tiles.consistency_proof(old, size, TREE.tile)


# Judges of inclusion: does `path` lead from the leaf at `index` of a tree of `size` to `root`?


def ours(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    try:
        verify_inclusion(leaf_hash(leaf), index, size, path, root)
    except ProofInvalidError:
        return False
    return True


def pymerkle(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    base = MerkleHasher("sha256").hash_buff(leaf)
    rule, _ = _inclusion_path_layout(index + 1, size)  # a verifier of theirs computes it too, and compares
    proof = InclusionProof("sha256", True, size, index + 1, rule, [base, *path])
    pymerkle_verify_inclusion(base, root, proof, index=index + 1, size=size, algorithm="sha256")
    return True


def scitt_cose(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    return bool(scitt.verify_inclusion(leaf.hex(), index, size, [each.hex() for each in path], root.hex()))


def sigstore(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    proof = SimpleNamespace(log_index=index, tree_size=size, hashes=list(path), root_hash=root)
    entry: Any = SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=proof, canonicalized_body=leaf))
    verify_merkle_inclusion(entry)
    return True


FOREIGN = (pymerkle, scitt_cose, sigstore)


def accepts(judge: Callable[..., bool], *case: Any) -> bool:
    """Whether a foreign judge says yes; whatever it raises is a no."""
    try:
        return judge(*case)
    except Exception:  # noqa: BLE001 - each library refuses with errors of its own
        return False


def changed(data: bytes, at: int, values: Sequence[int] = range(256)) -> Iterator[bytes]:
    """`data` with the byte at `at` replaced by each other value."""
    for value in values:
        if value != data[at]:
            yield data[:at] + bytes((value,)) + data[at + 1 :]


def test_every_root_is_theirs(foreign_tree: Any) -> None:
    assert [foreign_tree.get_root(size) for size in range(1, COUNT + 1)] == ROOTS[1:]
    entries = [leaf.hex() for leaf in LEAVES]
    for size in (0, 1, 2, 3, 255, 256, 257, 511, 600, COUNT):
        assert scitt.merkle_root(entries[:size]) == ROOTS[size].hex()


@pytest.mark.parametrize("seed", range(4))
def test_on_ten_thousand_random_trees_all_agree_on_every_proof_and_on_a_wrong_one(foreign_tree: Any, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(2_500):
        size = rng.randrange(1, rng.choice((10, 300, COUNT)) + 1)
        index, old = rng.randrange(size), rng.randrange(size + 1)
        leaf, root, path = LEAVES[index], ROOTS[size], path_of(index, size)
        assert foreign_tree.prove_inclusion(index + 1, size).path == [HASHES[index], *path]
        case = (leaf, index, size, path, root)
        assert ours(*case)
        assert all(accepts(judge, *case) for judge in FOREIGN), case
        wrong = spoilt(rng, index, size, path)
        assert not ours(*wrong)
        assert not any(accepts(judge, *wrong) for judge in FOREIGN), wrong
        proof = consistency_of(old, size)
        verify_consistency(old, ROOTS[old], size, root, proof)
        assert scitt_consistency(old, size, [ROOTS[old], root, *proof])
        if proof:
            at = rng.randrange(len(proof))
            assert not scitt_consistency(old, size, [ROOTS[old], root, *proof[:at], *proof[at + 1 :]])
            with pytest.raises(ProofInvalidError):
                verify_consistency(old, ROOTS[old], size, root, [*proof[:at], *proof[at + 1 :]])
        if old:  # pymerkle has an encoding of its own: what it proves is that our two roots belong together
            foreign_proof = foreign_tree.prove_consistency(old, size)
            pymerkle_verify_consistency(ROOTS[old], root, foreign_proof, prior_size=old, later_size=size)


def spoilt(rng: random.Random, index: int, size: int, path: list[bytes]) -> tuple[Any, ...]:
    """A case that is wrong in one thing."""
    leaf, root, way = LEAVES[index], ROOTS[size], rng.randrange(5)
    if way == 0 and path:
        at = rng.randrange(len(path))
        return leaf, index, size, [*path[:at], rng.randbytes(32), *path[at + 1 :]], root
    if way == 1 and path:
        return leaf, index, size, path[:-1], root
    if way == 2 and size > 1:
        return leaf, (index + rng.randrange(1, size)) % size, size, path, root
    if way == 3:
        return leaf, index, size, [*path, rng.choice(HASHES)], root
    return leaf + b"x", index, size, path, root


def test_the_proofs_that_scitt_cose_makes_are_ours() -> None:
    entries = [leaf.hex() for leaf in LEAVES]
    rng = random.Random(9162)
    for _ in range(30):
        size = rng.randrange(1, 300)
        index, old = rng.randrange(size), rng.randrange(1, size + 1)
        assert scitt.inclusion_proof(entries[:size], index) == [each.hex() for each in path_of(index, size)]
        assert scitt.consistency_proof(entries, old, size) == [each.hex() for each in consistency_of(old, size)]


def test_no_changed_byte_of_a_leaf_path_or_root_is_accepted_by_anybody() -> None:
    index, size = 4, 7
    leaf, root, path = LEAVES[index], ROOTS[size], path_of(index, size)
    assert len(path) == 3
    cases: list[tuple[Any, ...]] = []
    for at in range(len(leaf)):
        cases += ((wrong, index, size, path, root) for wrong in changed(leaf, at))
    for at in range(32):
        cases += ((leaf, index, size, path, wrong) for wrong in changed(root, at))
        for hop in range(3):
            cases += (
                (leaf, index, size, [*path[:hop], wrong, *path[hop + 1 :]], root) for wrong in changed(path[hop], at)
            )
    for case in cases:
        assert not ours(*case)
        assert not any(accepts(judge, *case) for judge in FOREIGN)


def test_no_changed_byte_of_a_consistency_proof_or_root_is_accepted() -> None:
    old, size = 6, 8
    pieces = [ROOTS[old], ROOTS[size], *consistency_of(old, size)]
    assert len(pieces) == 5
    assert scitt_consistency(old, size, pieces)
    for which, piece in enumerate(pieces):
        for at in range(32):
            for wrong in changed(piece, at):
                spoilt_pieces = [*pieces[:which], wrong, *pieces[which + 1 :]]
                assert not scitt_consistency(old, size, spoilt_pieces)
                with pytest.raises(ProofInvalidError):
                    verify_consistency(old, spoilt_pieces[0], size, spoilt_pieces[1], spoilt_pieces[2:])


def scitt_consistency(old: int, size: int, pieces: list[bytes]) -> bool:
    old_root, root, *proof = [each.hex() for each in pieces]
    return bool(scitt.verify_consistency(old_root, root, old, size, proof))


def test_a_path_does_not_bind_the_size_so_a_proof_file_takes_it_from_the_signed_checkpoint() -> None:
    """All of us accept the path of a tree of 1,000 for one of 1,001: that is how RFC 6962 is, and no mistake."""
    case = (LEAVES[3], 3, 1_001, path_of(3, 1_000), ROOTS[1_000])
    assert [judge(*case) for judge in (ours, *FOREIGN)] == [True] * 4
    lie = sign_checkpoint(Checkpoint(ORIGIN, 1_001, ROOTS[1_001]), SIGNER)
    with pytest.raises(ProofInvalidError):
        verify(LEAVES[3], TlogProof(3, tuple(path_of(3, 1_000)), lie), SIGNER.verifier, ORIGIN)


@pytest.fixture(scope="module")
def keyring() -> Any:
    public_key = Ed25519PublicKey.from_public_bytes(SIGNER.public_key)
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = sigstore_common.PublicKey(
        raw_bytes=base64.b64encode(spki), key_details=sigstore_common.PublicKeyDetails.PKIX_ED25519
    )
    return Keyring([known])


def sigstore_checkpoint(keyring: Any, note: bytes, root: bytes) -> bool:
    """Sigstore's verdict on a checkpoint; `root` is the one that an inclusion proof beside it would claim."""
    proof = SimpleNamespace(checkpoint=SimpleNamespace(envelope=note.decode()), root_hash=root)
    log_id = SimpleNamespace(key_id=SIGNER.key_id)
    entry: Any = SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=proof, log_id=log_id))
    verify_checkpoint(keyring, entry)
    return True


def test_sigstore_opens_our_checkpoints_and_reads_from_them_what_we_wrote(keyring: Any) -> None:
    for size in (0, 1, 600, COUNT):
        note = sign_checkpoint(Checkpoint(ORIGIN, size, ROOTS[size]), SIGNER)
        assert sigstore_checkpoint(keyring, note, ROOTS[size])
        read = SignedCheckpoint.from_text(note.decode()).checkpoint
        assert (read.origin, read.log_size, read.log_hash) == (ORIGIN, size, ROOTS[size].hex())


def test_no_changed_byte_of_a_checkpoint_is_accepted_and_sigstore_is_lenient_in_two_places_only(keyring: Any) -> None:
    note = sign_checkpoint(Checkpoint(ORIGIN, 600, ROOTS[600]), SIGNER)
    text_end = note.index(b"\n\n")
    name = range(text_end + 2 + len("— ".encode()), text_end + 2 + len(f"— {ORIGIN}".encode()))
    last_sextet = len(note) - len(b"x=\n")
    lenient = set()
    for at in range(len(note)):
        for wrong in changed(note, at):
            with pytest.raises(ProofInvalidError):
                open_checkpoint(wrong, SIGNER.verifier, ORIGIN)
            if accepts(sigstore_checkpoint, keyring, wrong, ROOTS[600]):
                lenient.add(at)
    # It knows a key by its id alone, whatever name stands before it, and does not look at the spare bits of base64.
    assert lenient <= {*name, last_sextet}
    assert set(name) <= lenient


def test_a_proof_file_says_to_sigstore_what_it_says_to_us(keyring: Any) -> None:
    """Nobody here reads the file itself but us, and this test line by line: its parts go to sigstore."""
    for index, size in ((0, 1), (4, 7), (599, 600), (300, COUNT)):
        note = sign_checkpoint(Checkpoint(ORIGIN, size, ROOTS[size]), SIGNER)
        file = encode(TlogProof(index, tuple(path_of(index, size)), note, LEAVES[index]))
        head, checkpoint = file.decode().split("\n\n", 1)
        _, extra, numbered, *path = head.split("\n")
        signed = SignedCheckpoint.from_text(checkpoint).checkpoint
        assert sigstore_checkpoint(keyring, checkpoint.encode(), bytes.fromhex(signed.log_hash))
        leaf = base64.b64decode(extra.removeprefix("extra "))
        assert sigstore(
            leaf,
            int(numbered.removeprefix("index ")),
            signed.log_size,
            [base64.b64decode(line) for line in path],
            bytes.fromhex(signed.log_hash),
        )
        assert leaf == LEAVES[index]


def test_no_changed_byte_of_a_proof_file_verifies() -> None:
    """Before the checkpoint each byte takes every value; in it, a bit changes or what has a meaning in notes stands."""
    index, size = 2, 3
    note = sign_checkpoint(Checkpoint(ORIGIN, size, ROOTS[size]), SIGNER)
    file = encode(TlogProof(index, tuple(path_of(index, size)), note, LEAVES[index]))
    proof = decode(file)
    assert proof.extra is not None
    verify(proof.extra, proof, SIGNER.verifier, ORIGIN)
    for at in range(len(file)):
        few = [file[at] ^ 1 << bit for bit in range(8)] + list(b"\0\t\n\r +-=09Az\x7f\xff")
        for wrong in changed(file, at, range(256) if at < file.index(b"\n\n") + 2 else few):
            with pytest.raises(ProofInvalidError):
                opens(wrong)


def opens(file: bytes) -> None:
    """As a stranger would: read the file, take the leaf from it, verify."""
    proof = decode(file)
    if proof.extra is None:
        raise ProofInvalidError("the file has no leaf")
    verify(proof.extra, proof, SIGNER.verifier, ORIGIN)
