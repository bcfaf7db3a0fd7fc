"""Leaves against `rfc8785` and `jcs`, implementations of JCS that share no code with ours."""

import json
from typing import Any

import jcs  # type: ignore[import-untyped]
import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import NotCanonicalError, ReceiptInvalidError
from ledger.format import canonical
from ledger.format.receipt import Fsm, Receipt

INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
ASCII_TEXTS = st.text(st.characters(max_codepoint=127), max_size=12)
TEXT_FIELDS = (
    "decision", "event_id", "inputs_commit", "log", "outcome", "policy_digest", "prev", "rule", "source", "tenant",
    "writer",
)  # fmt: skip
RECEIPTS = st.builds(
    Receipt,
    actions=st.lists(TEXTS, max_size=3).map(tuple),
    evidence=st.dictionaries(ASCII_TEXTS, INTEGERS | TEXTS, max_size=6),
    fsm=st.builds(Fsm, event=TEXTS, from_=TEXTS, machine=TEXTS, subject=TEXTS, to=TEXTS, version=INTEGERS),
    **dict.fromkeys(("observed_us", "ts_us", "tseq", "epoch"), INTEGERS),
    v=st.just(1),
    **dict.fromkeys(TEXT_FIELDS, TEXTS),
)


@given(RECEIPTS)
def test_a_leaf_is_what_rfc_8785_makes_of_its_content(receipt: Receipt) -> None:
    leaf = canonical.encode(receipt)
    assert leaf == rfc8785.dumps(json.loads(leaf)) == jcs.canonicalize(json.loads(leaf))
    assert canonical.decode(leaf) == receipt
    assert canonical.check_receipt(leaf) == receipt
    assert canonical.check(leaf) == json.loads(leaf)


JSON = st.recursive(
    INTEGERS | TEXTS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ASCII_TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(ASCII_TEXTS, JSON, max_size=6))
def test_inside_the_profile_the_check_accepts_just_what_rfc_8785_writes(value: dict[str, Any]) -> None:
    assert rfc8785.dumps(value) == jcs.canonicalize(value)
    assert canonical.check(rfc8785.dumps(value)) == value
    other = json.dumps(value).encode()
    if other != rfc8785.dumps(value):
        with pytest.raises(NotCanonicalError):
            canonical.check(other)


@pytest.mark.parametrize(
    "leaf",
    [
        b'{"a":1.0}', b'{"a":-0}', b'{"a":1e3}', b'{"a":0.5}', b'{"a":9007199254740992}', b'{"a":-9007199254740992}',
        b'{"a":18446744073709551616}', b'{"b":1,"a":2}', b'{"a":1,"a":2}', b'{"a":1,"a":1}', b'{ "a":1}', b'{"a":1}\n',
        b'{"\xc3\xa9":1}', b'{"a":"\\u0041"}', b'{"a":"\\/"}', b'{"a":"\\u001F"}', b'{"a":"\\ud800"}',
        b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b"[]", b'"a"', b"", b'{"a":NaN}', b'\xef\xbb\xbf{"a":1}',
        b'{"a":{"b":[1.5]}}', b'{"a":[{"\xc3\xa9":1}]}',
    ],
)  # fmt: skip
def test_what_lies_outside_the_profile_is_refused(leaf: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        canonical.check(leaf)


def leaf_with(**changes: Any) -> bytes:
    """A sound receipt's leaf with some members replaced, in canonical form."""
    fsm = {"event": "e", "from": "A", "machine": "m", "subject": "s", "to": "B", "version": 1}
    members: dict[str, Any] = {
        "actions": [], "decision": "d", "epoch": 1, "event_id": "e", "evidence": {}, "fsm": fsm, "inputs_commit": "c",
        "log": "l", "observed_us": 1, "outcome": "decided", "policy_digest": "p", "prev": "q", "rule": "r",
        "source": "s", "tenant": "t", "ts_us": 2, "tseq": 0, "v": 1, "writer": "w",
    }  # fmt: skip
    return orjson.dumps(members | changes, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 2**53}, {"ts_us": -(2**53)}, {"evidence": {"a": 2**53}}, {"evidence": {"é": 1}}, {"tseq": "0"},
        {"actions": [1]}, {"extra": 1.5}, {"extra": {"é": 1}}, {"evidence": {"a": 1.5}}, {"fsm": {}},
        {"fsm": {"event": "e", "from": "A", "machine": "m", "subject": "s", "to": "B", "version": 1, "x": 0.5}},
        {"evidence": {"a": True}}, {"writer": "x" * 70_000},
    ],
)  # fmt: skip
def test_a_receipt_outside_the_profile_is_refused_by_the_faster_check_too(changes: dict[str, Any]) -> None:
    assert canonical.check_receipt(leaf_with()).tenant == "t"
    with pytest.raises(NotCanonicalError):
        canonical.check_receipt(leaf_with(**changes))


def test_a_receipt_of_a_later_version_may_have_more_members() -> None:
    assert canonical.check_receipt(leaf_with(extra="é", more=[1])).tenant == "t"


@given(RECEIPTS, st.sampled_from([2**53, -(2**53), 1.0, True, None]))
def test_the_writer_refuses_what_the_verifier_would(receipt: Receipt, value: Any) -> None:
    receipt.evidence["x"] = value
    with pytest.raises(ReceiptInvalidError):
        canonical.encode(receipt)
