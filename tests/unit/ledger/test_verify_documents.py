import msgspec
import pytest
from support.auditing import ORIGIN, VERIFIER, Log, pseudonym

from ledger.errors import NoteInvalidError, ProofInvalidError
from ledger.format import proof
from ledger.format.canonical import decode
from ledger.format.note import Signer, Verifier
from ledger.format.proof import TlogProof
from ledger.verify.documents import (
    Consistency,
    TenantBundle,
    TenantVerdict,
    check_consistency,
    check_proof,
    check_tenant,
    note_of,
    read_document,
)
from ledger.verify.judge import judge
from ledger.verify.memory import Memory

MEMORY = Memory(ORIGIN, VERIFIER)


@pytest.fixture
def log() -> Log:
    """Acme's receipts at 0, 3, 6, 9 and 13, bazaar's between, heads at 10."""
    log = Log()
    for number in range(10):
        log.add("acme" if number % 3 == 0 else "bazaar", decision=f"d{number}")
    log.add_heads()
    log.add("bazaar")
    log.add("courier")
    log.add("acme")
    return log


def verdict(bundle: TenantBundle) -> TenantVerdict:
    """As a stranger comes to it: by way of the bytes."""
    read = read_document(msgspec.json.encode(bundle))
    assert isinstance(read, TenantBundle)
    return check_tenant(read, MEMORY.open(note_of(read)))


def test_a_bundle_says_how_far_it_is_complete(log: Log) -> None:
    found = verdict(log.bundle("acme", heads_at=10))
    assert found == TenantVerdict(pseudonym("acme"), 0, 5, 10, 1)
    assert found.sentences()[1:] == [
        "complete up to the heads receipt at index 10",
        "then 1 more receipts, of which completeness is not shown",
    ]


def test_without_heads_a_bundle_does_not_claim_to_be_complete(log: Log) -> None:
    found = verdict(log.bundle("courier"))
    assert found.complete_to is None
    assert "completeness is not shown" in found.sentences()[-1]


def test_a_part_of_a_bundle_says_that_it_is_one(log: Log) -> None:
    first = verdict(log.bundle("acme", only=[0, 3], heads_at=10, more=True))
    assert (first.first_tseq, first.next_tseq, first.complete_to) == (0, 2, None)
    rest = verdict(log.bundle("acme", only=[6, 9, 13], heads_at=10))
    assert (rest.first_tseq, rest.next_tseq, rest.complete_to, rest.after) == (2, 5, 10, 1)
    assert "begins with number 2" in rest.sentences()[1]
    assert verdict(log.bundle("acme", only=[13], heads_at=10)).complete_to == 10


def test_receipts_held_back_are_missed(log: Log) -> None:
    with pytest.raises(ProofInvalidError, match=r"^withheld: the tenant had 4 .* the last 2 are missing"):
        verdict(log.bundle("acme", only=[0, 3], heads_at=10))
    with pytest.raises(ProofInvalidError, match=r"^withheld: receipt 9 is .* number 3, where 2 must come: 1 are"):
        verdict(log.bundle("acme", only=[0, 3, 9], heads_at=10))


def test_receipts_in_another_order_are_seen(log: Log) -> None:
    whole = log.bundle("acme", heads_at=10)
    swapped = msgspec.structs.replace(whole, receipts=[*whole.receipts[:2][::-1], *whole.receipts[2:]])
    with pytest.raises(ProofInvalidError, match=r"^reordered"):
        verdict(swapped)


def test_a_changed_receipt_is_seen(log: Log) -> None:
    whole = log.bundle("acme", heads_at=10)
    for at in range(len(whole.receipts)):
        changed = list(whole.receipts)
        leaf = changed[at].leaf.replace(b'"decided"', b'"refused"')
        changed[at] = msgspec.structs.replace(changed[at], leaf=leaf)
        with pytest.raises(ProofInvalidError, match="another root"):
            verdict(msgspec.structs.replace(whole, receipts=changed))


def test_a_log_that_signs_a_broken_chain_is_seen(log: Log) -> None:
    at = 3
    log.leaves[at] = log.leaves[at].replace(b'"decision":"d3"', b'"decision":"d4"')
    with pytest.raises(ProofInvalidError, match="tampered: receipt 6"):
        verdict(log.bundle("acme"))


def test_a_log_that_signs_heads_of_another_history_is_seen(log: Log) -> None:
    other = Log()
    for number in range(10):
        other.add("acme" if number % 3 == 0 else "bazaar", decision=f"d{number + (number == 9)}")
    forged = other.add_heads()
    log.leaves[10], log.heads[10] = other.leaves[forged], other.heads[forged]
    with pytest.raises(ProofInvalidError, match="fork: number 3"):
        verdict(log.bundle("acme", heads_at=10))


def test_heads_that_contradict_the_log_are_seen(log: Log) -> None:
    late = Log(leaves=log.leaves[:10], ends={pseudonym("acme"): (5, log.ends[pseudonym("acme")][1])})
    index = late.add_heads()
    log.leaves[10], log.heads[10] = late.leaves[index], late.heads[index]
    with pytest.raises(ProofInvalidError, match="the log contradicts itself"):
        verdict(log.bundle("acme", heads_at=10))


def test_another_tenants_receipts_and_heads_do_not_pass(log: Log) -> None:
    mixed = log.bundle("acme", only=[0, 1, 3])
    with pytest.raises(ProofInvalidError, match="is of tenant"):
        verdict(mixed)
    borrowed = msgspec.structs.replace(log.bundle("bazaar", heads_at=10), tenant=pseudonym("acme"))
    with pytest.raises(ProofInvalidError):
        verdict(borrowed)


def test_a_leaf_that_two_places_claim_is_not_taken_from_the_wrong_one(log: Log) -> None:
    """The proof covers one leaf for each index: another one may not slip in beside it."""
    whole = log.bundle("acme", only=[0], heads_at=10)
    assert whole.heads is not None
    lying = msgspec.structs.replace(whole.heads, index=0)
    with pytest.raises(ProofInvalidError, match="two leaves at index 0"):
        verdict(msgspec.structs.replace(whole, heads=lying, more=True))


def test_a_bundle_without_receipts_shows_nothing(log: Log) -> None:
    with pytest.raises(ProofInvalidError, match="no receipt"):
        verdict(msgspec.structs.replace(log.bundle("acme"), receipts=[]))


def test_a_proof_file_gives_its_receipt(log: Log) -> None:
    for index in range(len(log.leaves)):
        read = read_document(proof.encode(log.proof(index)))
        assert isinstance(read, TlogProof)
        assert check_proof(read, MEMORY.open(note_of(read))) == decode(log.leaves[index])
    with pytest.raises(ProofInvalidError, match="holds no leaf"):
        check_proof(msgspec.structs.replace(log.proof(3), extra=None), log.checkpoint())
    with pytest.raises(ProofInvalidError, match="another root"):
        check_proof(msgspec.structs.replace(log.proof(3), extra=log.leaves[4]), log.checkpoint())


def test_a_proof_stays_below_two_kilobytes_and_its_leaf(log: Log) -> None:
    deepest = TlogProof(2**24 - 1, (bytes(32),) * 24, log.note(), log.leaves[3])
    assert len(proof.encode(deepest)) < 2_000 + len(log.leaves[3]) * 4 / 3 + 4


def test_consistency_gives_the_trees_that_were_shown(log: Log) -> None:
    for old, size, signed in ((3, 10, 14), (0, 7, 9), (14, 14, 14), (7, 14, 14)):
        read = read_document(msgspec.json.encode(log.consistency(old, size, signed)))
        assert isinstance(read, Consistency)
        assert check_consistency(read, MEMORY.open(note_of(read))) == {
            old: log.checkpoint(old).root,
            size: log.checkpoint(size).root,
        }
    wrong = msgspec.structs.replace(log.consistency(3, 10, 14), proof=log.consistency(4, 10, 14).proof)
    with pytest.raises(ProofInvalidError):
        check_consistency(wrong, log.checkpoint())


def test_nobody_else_signs_for_the_log(log: Log) -> None:
    stranger = Signer(ORIGIN, bytes(32))
    with pytest.raises(NoteInvalidError):
        Memory(ORIGIN, Verifier(ORIGIN, stranger.public_key)).open(log.note())
    with pytest.raises(NoteInvalidError):
        Memory("ledger.test/log/1", VERIFIER).open(log.note())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"type":"governors-consistency@v1"}',
        b'{"type":"x"}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"type":"governors-consistency@v1","other":' + b"[" * 10_000,
    ],
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(ProofInvalidError):
        read_document(data)


@pytest.mark.parametrize("kind", ["bundle", "consistency", "proof"])
def test_no_changed_byte_makes_a_document_say_something_else(log: Log, kind: str) -> None:
    document = {
        "bundle": lambda: msgspec.json.encode(log.bundle("acme", heads_at=10)),
        "consistency": lambda: msgspec.json.encode(log.consistency(3, 10, 14)),
        "proof": lambda: proof.encode(log.proof(6)),
    }[kind]()
    honest = judged(document)
    refused = 0
    for at in range(len(document)):
        for flip in (0x01, 0x20):
            changed = document[:at] + bytes((document[at] ^ flip,)) + document[at + 1 :]
            try:
                assert judged(changed) == honest  # a name that is not known, say: nothing is lost with it
            except ProofInvalidError:
                refused += 1
    assert refused > 1.8 * len(document)


def judged(document: bytes) -> dict[str, object]:
    read = read_document(document)
    return judge(read, MEMORY.open(note_of(read))).found
