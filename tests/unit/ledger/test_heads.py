"""The end of every tenant's chain under one root, and what one tenant can check with it."""

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import ProofInvalidError
from ledger.format import canonical
from ledger.format.chain import LEDGER_TENANT
from ledger.format.heads import (
    FSM,
    RULE,
    Head,
    HeadList,
    HeadsStatement,
    encode_head,
    evidence,
    read_statement,
    verify_head,
)
from ledger.format.merkle import EMPTY_ROOT, inclusion_proof, leaf_hash, root_of
from ledger.format.receipt import Receipt

HEADS = [Head(f"{number * 7919:032x}", number + 1, leaf_hash(b"%d" % number)) for number in range(600)]
PSEUDONYMS = st.text("0123456789abcdef", min_size=32, max_size=32)
ANY_HEADS = st.lists(
    st.builds(Head, PSEUDONYMS, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32)),
    max_size=30,
    unique_by=lambda head: head.tenant,
)


def receipt_of(heads: HeadList, size: int = 100_000, **changes: Any) -> Receipt:
    sound = Receipt(
        actions=(), decision="none", epoch=1, event_id="heads-1",
        evidence=evidence(HeadsStatement(len(heads), size, heads.root())), fsm=FSM, inputs_commit="", log="l",
        observed_us=1, outcome="decided", policy_digest="", prev="", rule=RULE, source="", tenant=LEDGER_TENANT,
        ts_us=1, tseq=0, v=1, writer="w",
    )  # fmt: skip
    return msgspec.structs.replace(sound, **changes)


@settings(max_examples=50)
@given(ANY_HEADS)
def test_each_tenants_head_is_proven_by_the_receipt(some: list[Head]) -> None:
    heads = HeadList.of(reversed(some))
    assert list(heads) == sorted(some)
    assert heads.root() == root_of([leaf_hash(encode_head(head)) for head in sorted(some)])
    assert HeadList(heads.encoded).root() == heads.root()
    receipt = canonical.check_receipt(canonical.encode(receipt_of(heads)))
    for head in some:
        proof = heads.prove(head.tenant)
        assert proof.head == head
        assert verify_head(proof.head, proof.index, proof.path, receipt) == read_statement(receipt)


def test_a_list_of_several_tiles_gives_the_paths_over_its_entries() -> None:
    heads = HeadList.of(HEADS)
    hashes = [leaf_hash(encode_head(head)) for head in HEADS]
    for index in (0, 255, 256, 599):
        assert heads.prove(HEADS[index].tenant).path == inclusion_proof(hashes, index)


def test_an_entry_is_pseudonym_then_next_sequence_number_then_hash() -> None:
    entry = encode_head(HEADS[3])
    assert entry == HEADS[3].tenant.encode() + struct.pack(">Q", 4) + HEADS[3].leaf_hash
    assert len(entry) == 72


def test_a_head_that_is_older_newer_or_anothers_is_refused() -> None:
    heads = HeadList.of(HEADS)
    receipt, proof = receipt_of(heads), heads.prove(HEADS[70].tenant)
    verify_head(proof.head, proof.index, proof.path, receipt)
    for wrong in (
        proof.head._replace(next_tseq=70),
        proof.head._replace(next_tseq=72),
        proof.head._replace(next_tseq=-1),
        proof.head._replace(tenant=HEADS[71].tenant),
        proof.head._replace(tenant="x" * 32),
        proof.head._replace(leaf_hash=HEADS[69].leaf_hash),
        proof.head._replace(leaf_hash=b""),
        HEADS[71],
    ):
        with pytest.raises(ProofInvalidError):
            verify_head(wrong, proof.index, proof.path, receipt)
    for index in (69, 71, -1, 600):
        with pytest.raises(ProofInvalidError):
            verify_head(proof.head, index, proof.path, receipt)
    with pytest.raises(ProofInvalidError):
        verify_head(proof.head, proof.index, proof.path[:-1], receipt)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "1" * 32}, {"rule": "cost.warn"}, {"fsm": msgspec.structs.replace(FSM, machine="cost_guard")},
        {"fsm": msgspec.structs.replace(FSM, event="head")}, {"evidence": {}},
        *({"evidence": {"count": 2, "size": 3, "root": "ab" * 32} | wrong} for wrong in (
            {"count": 4}, {"count": -1}, {"count": "2"}, {"size": "3"}, {"root": 1}, {"root": "ab" * 31},
            {"root": "AB" * 32}, {"root": "zz" * 32}, {"root": "ab" * 31 + " a"}, {"root": "é" * 64},
        )),
    ],
)  # fmt: skip
def test_another_receipt_is_not_taken_for_a_heads_receipt(changes: dict[str, Any]) -> None:
    with pytest.raises(ProofInvalidError):
        read_statement(receipt_of(HeadList.of(HEADS), **changes))


def test_a_list_that_is_not_sorted_or_has_a_tenant_twice_is_refused() -> None:
    first, second = encode_head(HEADS[0]), encode_head(HEADS[1])
    again = encode_head(HEADS[1]._replace(next_tseq=9))
    for wrong in (second + first, first + first, first + second + again, first + second[:-1]):
        with pytest.raises(ProofInvalidError):
            HeadList(wrong)
    with pytest.raises(ValueError, match="two heads"):
        HeadList.of([HEADS[1], HEADS[1]._replace(next_tseq=9)])
    with pytest.raises(ValueError, match="not the end of a chain"):
        HeadList.of([HEADS[1]._replace(next_tseq=0)])


def test_a_tenant_without_receipts_has_no_head() -> None:
    heads = HeadList.of(HEADS)
    for unknown in (f"{1:032x}", "f" * 32, "", "0" * 31, HEADS[0].tenant + "0"):
        with pytest.raises(KeyError):
            heads.prove(unknown)
    assert HeadList(b"").root() == EMPTY_ROOT
    with pytest.raises(KeyError):
        HeadList(b"").prove(HEADS[0].tenant)
