"""Checkpoints against C2SP's example and the rules of tlog-checkpoint."""

import base64

import pytest

from ledger.errors import NoteInvalidError
from ledger.format import checkpoint
from ledger.format.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.format.merkle import EMPTY_ROOT, leaf_hash
from ledger.format.note import Signature, Signer, add_signatures, split_note

# C2SP tlog-checkpoint, its example (whose key is not published).
EXAMPLE = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
""".encode()
ROOT = leaf_hash(b"leaf")
ROOT_LINE = base64.b64encode(ROOT)
SIGNER = Signer("example.org/log/0", bytes(range(32)))
SIGNED = Checkpoint("example.org/log/0", 1, ROOT)


def test_the_example_of_c2sp_is_read_and_written() -> None:
    text, (signature,) = split_note(EXAMPLE)
    read = checkpoint.decode(text)
    assert read.origin == "example.com/behind-the-sofa" == signature.name
    assert read.size == 20852163
    assert read.root.hex() == "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    assert checkpoint.encode(read) == text


def test_a_signed_checkpoint_opens_with_its_key_and_origin_only() -> None:
    note = sign_checkpoint(SIGNED, SIGNER)
    assert note.startswith(b"example.org/log/0\n1\n" + ROOT_LINE + b"\n\n")
    assert open_checkpoint(note, SIGNER.verifier, "example.org/log/0") == SIGNED
    with pytest.raises(NoteInvalidError, match="not of 'example"):
        open_checkpoint(note, SIGNER.verifier, "example.org/log/1")
    with pytest.raises(NoteInvalidError, match="no trusted key"):
        open_checkpoint(note, Signer("example.org/log/0", bytes(32)).verifier, "example.org/log/0")


def test_a_cosigned_checkpoint_is_the_same_checkpoint() -> None:
    cosigned = add_signatures(sign_checkpoint(SIGNED, SIGNER), [Signature("witness.example", b"abcd", bytes(72))])
    assert open_checkpoint(cosigned, SIGNER.verifier, SIGNED.origin) == SIGNED


def test_the_empty_tree_has_a_checkpoint_too() -> None:
    empty = Checkpoint("example.org/log/0", 0, EMPTY_ROOT)
    assert open_checkpoint(sign_checkpoint(empty, SIGNER), SIGNER.verifier, empty.origin) == empty


def test_extension_lines_are_passed_over() -> None:
    assert checkpoint.decode(b"o\n1\n" + ROOT_LINE + b"\nopaque\nmore lines\n") == Checkpoint("o", 1, ROOT)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"o\n1\n", b"o\n1\n" + ROOT_LINE, b"\n1\n" + ROOT_LINE + b"\n", b"o\n\n" + ROOT_LINE + b"\n",
        b"o\n1\n\n", b"o\n1\n" + ROOT_LINE + b"\n\n", b"o\n1\n" + ROOT_LINE + b"\nx\n\ny\n",
        b"o\n1\n" + ROOT_LINE + b"\nx",
        *(b"o\n" + size + b"\n" + ROOT_LINE + b"\n" for size in (
            b"01", b"00", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"1.0", b"1e3",
            "\N{ARABIC-INDIC DIGIT ONE}".encode(), b"9223372036854775808", b"9" * 5000,
        )),
        *(b"o\n1\n" + root + b"\n" for root in (
            ROOT_LINE[:-1], ROOT_LINE + b"=", b" " + ROOT_LINE, ROOT_LINE + b" ", base64.b64encode(ROOT[:31]),
            base64.b64encode(ROOT + b"x"), base64.urlsafe_b64encode(b"\xff" * 32), ROOT.hex().encode(),
            ROOT_LINE[:-2] + bytes((ROOT_LINE[-2] + 1,)) + b"=", b"\xff",
        )),
    ],
)  # fmt: skip
def test_what_the_specification_forbids_is_refused(text: bytes) -> None:
    with pytest.raises(NoteInvalidError):
        checkpoint.decode(text)


@pytest.mark.parametrize(
    "wrong",
    [
        Checkpoint("", 1, ROOT), Checkpoint("a\nb", 1, ROOT), Checkpoint("o", -1, ROOT), Checkpoint("o", 2**63, ROOT),
        Checkpoint("o", 1, ROOT[:31]),
    ],
)  # fmt: skip
def test_what_has_no_text_is_not_written(wrong: Checkpoint) -> None:
    with pytest.raises(ValueError, match=r"is not a line|no tree"):
        checkpoint.encode(wrong)


def test_a_key_signs_for_its_own_log_only() -> None:
    with pytest.raises(ValueError, match="does not sign"):
        sign_checkpoint(Checkpoint("example.org/log/1", 1, ROOT), SIGNER)
