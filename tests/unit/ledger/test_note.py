"""Signed notes against the examples that C2SP and Go publish, and against everything that they forbid."""

import pytest

from ledger.errors import KeyInvalidError, NoteInvalidError
from ledger.format.note import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Signature,
    Signer,
    Verifier,
    add_signatures,
    open_note,
    parse_signatures,
    split_note,
)

# C2SP signed-note, "Example".
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_LINE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
C2SP_NOTE = f"This is an example message.\n\n{C2SP_LINE}".encode()
# C2SP signed-note, the note that it opens with (its key is not published).
QUASIMODO = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore \
NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
""".encode()
# Go, golang.org/x/mod/sumdb/note, its package example.
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

GO_OTHER_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
GO_OTHER_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

SIGNER = Signer("example.org/log/0", bytes(range(32)))
WITNESS = Signer("witness.example", bytes(32))


def test_the_example_of_c2sp_opens() -> None:
    verifier = Verifier.parse(C2SP_VKEY)
    note = open_note(C2SP_NOTE, [verifier])
    assert note.text == b"This is an example message.\n"
    assert [each.name for each in note.verified] == ["example.com/foo"]
    assert note.unknown == ()
    assert note.verified[0].line() == C2SP_LINE.encode()
    assert verifier.vkey == C2SP_VKEY


def test_the_text_may_have_empty_lines_of_its_own() -> None:
    text, signatures = split_note(QUASIMODO)
    assert (
        text == "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n".encode()
    )
    assert [(each.name, len(each.signature)) for each in signatures] == [("quasimodo.example/salvatore", 64)]
    assert split_note(SIGNER.sign(b"\n"))[0] == b"\n"


def test_the_example_of_go_is_signed_and_opened_byte_for_byte() -> None:
    signer = Signer.parse(GO_SKEY)
    assert signer.verifier.vkey == GO_VKEY
    assert signer.skey == GO_SKEY
    note = signer.sign(GO_TEXT)
    assert note == GO_TEXT + b"\n" + GO_LINE.encode()
    assert open_note(note, [Verifier.parse(GO_VKEY)]).text == GO_TEXT


def test_a_note_of_go_with_two_signatures_opens_with_either_key_or_both() -> None:
    note = GO_TEXT + b"\n" + (GO_LINE + GO_OTHER_LINE).encode()
    one, other = Verifier.parse(GO_VKEY), Verifier.parse(GO_OTHER_VKEY)
    for known, verified in (([one], ["PeterNeumann"]), ([other], ["EnochRoot"]), ([other, one], None)):
        opened = open_note(note, known)
        assert [each.name for each in opened.verified] == (verified or ["PeterNeumann", "EnochRoot"])
        assert len(opened.unknown) == 2 - len(known)


def test_a_signature_that_stands_there_twice_counts_once() -> None:
    note = GO_TEXT + b"\n" + (GO_LINE * 3 + GO_OTHER_LINE * 2).encode()
    opened = open_note(note, [Verifier.parse(GO_VKEY)])
    assert (len(opened.verified), len(opened.unknown)) == (1, 1)


def test_of_gos_keys_every_part_and_every_one_with_a_character_changed_is_refused() -> None:
    for key, parse in ((GO_VKEY, Verifier.parse), (GO_SKEY, Signer.parse)):
        parts = [key[start:end] for start in range(len(key)) for end in range(start + 1, len(key) + 1)]
        mangled = [key[:at] + chr(ord(key[at]) + 1) + key[at + 1 :] for at in range(len(key))]
        for wrong in (*parts, *mangled):
            if wrong != key:
                with pytest.raises(KeyInvalidError):
                    parse(wrong)
    for wrong in (  # a key of another length and one of another type, each with the id that it would have
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ):
        with pytest.raises(KeyInvalidError):
            Verifier.parse(wrong)


def test_unknown_signatures_are_kept_and_handed_out() -> None:
    cosignature = Signature("witness.example", b"\1\2\3\4", bytes(72))
    note = add_signatures(SIGNER.sign(b"text\n"), [cosignature])
    assert note.endswith(cosignature.line())
    opened = open_note(note, [SIGNER.verifier])
    assert opened.unknown == (cosignature,)
    assert [each.key_id for each in opened.verified] == [SIGNER.key_id]
    assert add_signatures(note, [cosignature, cosignature]) == note


def test_several_known_keys_may_sign_and_each_is_verified() -> None:
    note = SIGNER.sign(b"text\n")
    (by_witness,) = split_note(WITNESS.sign(b"text\n"))[1]
    both = add_signatures(note, [by_witness])
    assert len(open_note(both, [SIGNER.verifier, WITNESS.verifier]).verified) == 2
    wrong = add_signatures(note, [by_witness._replace(signature=bytes(64))])
    with pytest.raises(NoteInvalidError, match=r"witness\.example is not of this text"):
        open_note(wrong, [SIGNER.verifier, WITNESS.verifier])
    assert open_note(wrong, [SIGNER.verifier]).unknown


def test_a_signature_that_shares_only_the_name_or_only_the_id_with_a_known_key_is_unknown() -> None:
    (mine,) = split_note(SIGNER.sign(b"text\n"))[1]
    same_name, same_id = mine._replace(key_id=b"\0\0\0\0"), mine._replace(name="other")
    note = add_signatures(SIGNER.sign(b"text\n"), [same_name, same_id])
    assert open_note(note, [SIGNER.verifier]).unknown == (same_name, same_id)
    with pytest.raises(NoteInvalidError, match="no trusted key"):
        open_note(b"text\n\n" + same_name.line() + same_id.line(), [SIGNER.verifier])


def test_a_note_without_a_trusted_signature_is_refused() -> None:
    with pytest.raises(NoteInvalidError, match="no trusted key"):
        open_note(C2SP_NOTE, [SIGNER.verifier])
    with pytest.raises(NoteInvalidError):
        open_note(C2SP_NOTE, [])


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"text\n", id="no signatures"),
        pytest.param(b"text\n\n", id="no signature line"),
        pytest.param(C2SP_NOTE.replace(b"\n\n", b"\n"), id="no blank line"),
        pytest.param(C2SP_NOTE[:-1], id="no final newline"),
        pytest.param(C2SP_NOTE + b"\n", id="a blank line behind"),
        pytest.param(C2SP_NOTE + b"x\n", id="trailing garbage"),
        pytest.param(C2SP_NOTE + b"x", id="trailing bytes"),
        pytest.param(C2SP_NOTE.replace(b"example m", b"example\tm"), id="tab"),
        pytest.param(C2SP_NOTE.replace(b"\n", b"\r\n"), id="carriage returns"),
        pytest.param(C2SP_NOTE.replace(b"example m", b"example\0m"), id="nul"),
        pytest.param(C2SP_NOTE.replace(b"example m", b"example\xff"), id="not UTF-8"),
        pytest.param(C2SP_NOTE.replace(b"example m", b"\xed\xa0\x80m"), id="surrogate"),
        pytest.param(C2SP_NOTE.replace("—".encode(), b"-"), id="hyphen"),
        pytest.param(C2SP_NOTE.replace("— ".encode(), "—  ".encode()), id="two spaces"),
        pytest.param(C2SP_NOTE.replace("— ".encode(), "—".encode()), id="no space"),
        pytest.param(C2SP_NOTE.replace(b"foo Uw2", b"foo  Uw2"), id="two spaces before the signature"),
        pytest.param(C2SP_NOTE.replace(b"aQM=\n", b"aQM= \n"), id="a space behind"),
        pytest.param(C2SP_NOTE.replace(b"aQM=", b"aQM"), id="no padding"),
        pytest.param(C2SP_NOTE.replace(b"aQM=", b"aQN="), id="bits in the padding"),
        pytest.param(C2SP_NOTE.replace(b"aQM=", b"aQM=="), id="too much padding"),
        pytest.param(C2SP_NOTE.replace(b"/foo Uw2QOkn8", b"/foo Uw2QO\nkn8"), id="a line break in base64"),
        pytest.param(C2SP_NOTE.replace(b"kn8srV1", b"kn8-rV1"), id="URL-safe base64"),
        pytest.param(C2SP_NOTE.replace(b"example.com/foo Uw", b"example.com+foo Uw"), id="plus in the name"),
        pytest.param(C2SP_NOTE.replace(b"example.com/foo Uw", b" Uw"), id="no name"),
        pytest.param(C2SP_NOTE + "— no\N{NO-BREAK SPACE}break AAAAAAA=\n".encode(), id="space in the name"),
        pytest.param(C2SP_NOTE + "— short AAAAAA==\n".encode(), id="a key id and nothing more"),
        pytest.param(C2SP_NOTE + "— none \n".encode(), id="no base64"),
        pytest.param(b"x" * NOTE_BYTES_MAX + C2SP_NOTE, id="too long"),
    ],
)
def test_what_the_specification_forbids_is_refused_whoever_signed_it(note: bytes) -> None:
    with pytest.raises(NoteInvalidError):
        split_note(note)


def test_at_least_sixteen_large_signatures_are_read_and_an_attackers_flood_is_not() -> None:
    note = SIGNER.sign(b"text\n")
    large = [Signature("witness.example", b"%4d" % number, bytes(5_000)) for number in range(16)]
    assert len(open_note(add_signatures(note, large), [SIGNER.verifier]).unknown) == 16
    flood = [Signature("flood.example", b"%4d" % number, bytes(1)) for number in range(SIGNATURES_MAX)]
    with pytest.raises(NoteInvalidError):
        add_signatures(note, flood)


def test_the_lines_a_witness_answers_are_read_by_the_same_rules() -> None:
    (line,) = parse_signatures(C2SP_LINE.encode())
    assert line.name == "example.com/foo"
    for wrong in (b"", b"\n", C2SP_LINE.encode()[:-1], C2SP_LINE.encode() + b"\n", b"\xff\n"):
        with pytest.raises(NoteInvalidError):
            parse_signatures(wrong)


@pytest.mark.parametrize("text", [b"", b"no newline", b"a tab\t\n", b"\xff\n", b"a return\r\n"])
def test_a_text_that_is_no_notes_text_is_not_signed(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"note's text|decode"):
        SIGNER.sign(text)


@pytest.mark.parametrize(
    "vkey",
    [
        "", "+", "++", "example.com/foo", "example.com/foo+530d903a",
        C2SP_VKEY.replace("530d903a", "530D903A"), C2SP_VKEY.replace("530d903a", "530d903b"),
        C2SP_VKEY.replace("530d903a", "0530d903a"), C2SP_VKEY.replace("530d903a", ""),
        C2SP_VKEY.replace("example", "exemple"), C2SP_VKEY.replace("example", "exam ple"),
        C2SP_VKEY.replace("example.com/foo", ""), C2SP_VKEY + "\n", " " + C2SP_VKEY, C2SP_VKEY + "=",
        C2SP_VKEY.replace("+Aeky", "+Auky"), C2SP_VKEY.replace("+Aeky", "+Beky"), C2SP_VKEY[:-4], C2SP_VKEY + "AAAA",
        C2SP_VKEY.replace("/foo", "/foo+"), C2SP_VKEY.replace("3U2k", "3U2é"),
    ],
)  # fmt: skip
def test_a_verifier_key_with_a_wrong_character_is_refused(vkey: str) -> None:
    with pytest.raises(KeyInvalidError):
        Verifier.parse(vkey)


@pytest.mark.parametrize(
    "skey",
    [
        "", GO_VKEY, GO_SKEY[:-1], GO_SKEY + "\n",
        GO_SKEY.replace("c74f20a3", "c74f20a4"), GO_SKEY.replace("HKDFz", "HKDFy"),
    ],
)  # fmt: skip
def test_a_wrong_signing_key_is_refused_and_not_shown(skey: str) -> None:
    with pytest.raises(KeyInvalidError) as caught:
        Signer.parse(skey)
    assert "AYEKFALVFGyNhPJEMzD1QIDr" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\N{EN SPACE}b", "a\tb", "a\0b"])
def test_names_that_no_signature_line_could_hold_are_refused(name: str) -> None:
    with pytest.raises(KeyInvalidError):
        Signer(name, bytes(32))


def test_keys_of_another_length_are_refused() -> None:
    with pytest.raises(KeyInvalidError):
        Signer("name", bytes(31))
    with pytest.raises(KeyInvalidError):
        Verifier("name", bytes(33))


def test_two_verifiers_that_a_signature_could_not_tell_apart_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two verifiers"):
        open_note(C2SP_NOTE, [Verifier.parse(C2SP_VKEY), Verifier.parse(C2SP_VKEY)])
