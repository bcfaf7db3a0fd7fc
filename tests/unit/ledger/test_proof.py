"""Proof files: their form as C2SP tlog-proof has it, what they prove, and how little they take."""

import base64

import msgspec
import pytest

from ledger.errors import NoteInvalidError, ProofInvalidError
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.merkle import inclusion_proof, inclusion_ranges, leaf_hash, root_of
from ledger.format.note import NOTE_BYTES_MAX, Signature, Signer, add_signatures
from ledger.format.proof import PROOF_BYTES_MAX, TlogProof, decode, encode, verify, verify_at

ORIGIN = "example.org/log/0"
SIGNER = Signer(ORIGIN, bytes(range(32)))
LEAVES = [b"leaf %d" % number for number in range(11)]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]
CHECKPOINT = sign_checkpoint(Checkpoint(ORIGIN, 11, root_of(HASHES)), SIGNER)
PROOF = TlogProof(4, tuple(inclusion_proof(HASHES, 4)), CHECKPOINT, LEAVES[4])
FILE = encode(PROOF)
# The lines of C2SP tlog-proof's example that it prints in full.
EXAMPLE_HEAD = b"""c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=
"""


def test_the_example_of_c2sp_is_read_and_written() -> None:
    read = decode(EXAMPLE_HEAD)
    assert read.index == 73894
    assert len(read.path) == 5
    assert read.path[0].hex().startswith("8122b25e86195206")
    assert read.extra is not None
    assert read.extra.startswith(b"age-v1.2.1-darwin-arm64.tar.gz")
    assert read.checkpoint.startswith(b"example.com/fancylog\n109482\n")
    assert encode(read) == EXAMPLE_HEAD


def test_a_proof_proves_its_leaf_in_the_log_that_the_caller_names() -> None:
    assert decode(FILE) == PROOF
    assert verify(LEAVES[4], PROOF, SIGNER.verifier, ORIGIN).size == 11
    with pytest.raises(ProofInvalidError, match="another root"):
        verify(LEAVES[5], PROOF, SIGNER.verifier, ORIGIN)
    with pytest.raises(NoteInvalidError):
        verify(LEAVES[4], PROOF, SIGNER.verifier, "example.org/log/1")
    with pytest.raises(NoteInvalidError):
        verify(LEAVES[4], PROOF, Signer(ORIGIN, bytes(32)).verifier, ORIGIN)


def test_each_leaf_of_each_small_tree_is_proven_and_only_at_its_index() -> None:
    for size in range(1, 12):
        checkpoint = Checkpoint(ORIGIN, size, root_of(HASHES[:size]))
        for index in range(size):
            proof = TlogProof(index, tuple(inclusion_proof(HASHES[:size], index)), b"")
            verify_at(LEAVES[index], proof, checkpoint)
            for other in {*range(-1, 12), 2**62} - {index}:
                with pytest.raises(ProofInvalidError):
                    verify_at(LEAVES[index], msgspec.structs.replace(proof, index=other), checkpoint)


def test_the_size_comes_from_the_checkpoint_alone() -> None:
    """A path of a tree of 1,000 leaves fits 1,001 as well: what the log did not sign must not be asked."""
    hashes = [leaf_hash(b"%d" % number) for number in range(1_000)]
    path = inclusion_proof(hashes, 4)
    proof = TlogProof(4, tuple(path), b"")
    verify_at(b"4", proof, Checkpoint(ORIGIN, 1_000, root_of(hashes)))
    assert "size" not in TlogProof.__struct_fields__


def test_a_witness_may_cosign_the_checkpoint_in_a_proof() -> None:
    cosigned = add_signatures(CHECKPOINT, [Signature("witness.example", b"abcd", bytes(72))])
    proof = decode(encode(msgspec.structs.replace(PROOF, checkpoint=cosigned)))
    assert verify(LEAVES[4], proof, SIGNER.verifier, ORIGIN).size == 11


def test_the_only_leaf_of_a_log_has_an_empty_path() -> None:
    only = sign_checkpoint(Checkpoint(ORIGIN, 1, HASHES[0]), SIGNER)
    file = encode(TlogProof(0, (), only))
    assert file == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + only
    assert verify(LEAVES[0], decode(file), SIGNER.verifier, ORIGIN).size == 1


HASH_LINE = base64.b64encode(HASHES[0])


@pytest.mark.parametrize(
    "head",
    [
        b"", b"index 0", b"c2sp.org/tlog-proof@v2\nindex 0", b" c2sp.org/tlog-proof@v1\nindex 0",
        b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v1\nextra eA==", b"c2sp.org/tlog-proof@v1\nindex",
        b"c2sp.org/tlog-proof@v1\r\nindex 0", b"\nc2sp.org/tlog-proof@v1\nindex 0",
        *(b"c2sp.org/tlog-proof@v1\nindex " + number for number in (
            b"", b"00", b"01", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"9223372036854775808", b"9" * 5000,
        )),
        *(b"c2sp.org/tlog-proof@v1\n" + extra + b"\nindex 0" for extra in (
            b"extra ", b"extra", b"extra eA=", b"extra eA", b"extra eB==", b"extra  eA==", b"extra eA== ",
            b"extra e-==",
            b"extra eA==\nextra eA==", b"Extra eA==", b"more eA==",
        )),
        b"c2sp.org/tlog-proof@v1\nindex 0\nextra eA==", b"c2sp.org/tlog-proof@v1\nindex 0\nindex 0",
        *(b"c2sp.org/tlog-proof@v1\nindex 0\n" + line for line in (
            HASH_LINE[:-1], HASH_LINE + b" ", b" " + HASH_LINE, b"eA==", base64.b64encode(HASHES[0] + b"x"),
            HASHES[0].hex().encode(), base64.urlsafe_b64encode(b"\xff" * 32), b"\xff", "é".encode(),
            b"\n".join([HASH_LINE] * 64),
        )),
    ],
)  # fmt: skip
def test_what_the_specification_forbids_is_refused(head: bytes) -> None:
    with pytest.raises(NoteInvalidError):
        decode(head + b"\n\n" + CHECKPOINT)


@pytest.mark.parametrize(
    "file",
    [FILE.replace(b"\n\n", b"\n"), FILE + b"\n", FILE + b"x", FILE[:-1], FILE.replace(b"\n\n", b"\n\n\n", 1)],
)
def test_a_proof_whose_end_is_not_a_checkpoints_is_refused(file: bytes) -> None:
    with pytest.raises(NoteInvalidError):
        verify(LEAVES[4], decode(file), SIGNER.verifier, ORIGIN)


def test_a_file_of_any_length_is_not_read() -> None:
    with pytest.raises(NoteInvalidError):
        decode(FILE + bytes(NOTE_BYTES_MAX + 100_000))


@pytest.mark.parametrize(
    "wrong",
    [
        TlogProof(-1, (), CHECKPOINT), TlogProof(2**63, (), CHECKPOINT), TlogProof(0, (b"x",), CHECKPOINT),
        TlogProof(0, (), CHECKPOINT, b""),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(wrong: TlogProof) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        encode(wrong)


def test_a_proof_at_ten_million_leaves_takes_a_kilobyte_and_a_half() -> None:
    size, leaf = 10_000_000, b"x" * 1024
    long_origin = "governors.local/0123456789abcdef/0"
    signer = Signer(long_origin, bytes(32))
    checkpoint = sign_checkpoint(Checkpoint(long_origin, size, HASHES[0]), signer)
    path = tuple(HASHES[0] for _ in inclusion_ranges(1_234_567, size))
    assert len(encode(TlogProof(1_234_567, path, checkpoint))) <= 1_536
    assert len(encode(TlogProof(1_234_567, path, checkpoint, leaf))) <= 2_048 + len(leaf)
    assert len(encode(TlogProof(1_234_567, path, checkpoint, leaf))) <= PROOF_BYTES_MAX
