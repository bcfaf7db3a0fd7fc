import json
from typing import Any

import msgspec
import pytest
import rfc8785
from support.auditing import Log

from ledger.errors import ProofInvalidError, RetentionInvalidError
from ledger.format import canonical, chain, retention
from ledger.format.receipt import Receipt
from ledger.format.retention import NamedSnapshot, Retention, RetentionStatement

OLDER = NamedSnapshot(1, 600, 812, "a" * 64, 810)
NEWER = NamedSnapshot(2, 900, 1_003, "b" * 64, 1_000)
WHOLE = Retention(256, 512, (OLDER, NEWER))


@pytest.mark.parametrize("said", [Retention(), Retention(0, 7), Retention(256, 512, (OLDER,)), WHOLE])
def test_an_object_is_canonical_json_and_comes_back(said: Retention) -> None:
    data = retention.encode(said)
    assert data == rfc8785.dumps(json.loads(data))
    assert retention.decode(data) == said


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"entries_from": 255}, "bundles from 255"),
        ({"entries_from": 768}, "bundles from 768"),
        ({"entries_from": -256}, "bundles from -256"),
        ({"segments_from": 2**63}, "segments from"),
        ({"segments_from": 601}, "first_index=600"),
        ({"segments_from": "512"}, "segments_from"),
        ({"snapshots": [NEWER, OLDER]}, "1000, 810"),
        ({"snapshots": [OLDER, OLDER]}, "810, 810"),
        ({"snapshots": [OLDER, NEWER, NamedSnapshot(2, 900, 2_000, "b" * 64, 2_000)]}, "2000"),
        ({"snapshots": [NamedSnapshot(1, 600, 809, "a" * 64, 810)]}, "receipt=809"),
        ({"snapshots": [NamedSnapshot(1, 810, 812, "a" * 64, 810)]}, "size=810"),
        ({"snapshots": [NamedSnapshot(1, 600, 812, "A" * 64, 810)]}, "sha256='AAA"),
        ({"more": 1}, "more"),
    ],
)
def test_an_object_that_cannot_be_is_refused_and_the_field_named(change: dict[str, Any], blamed: str) -> None:
    data = msgspec.json.encode(msgspec.to_builtins(WHOLE) | change)
    with pytest.raises(RetentionInvalidError, match=blamed):
        retention.decode(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(RetentionInvalidError, match="cannot be read"):
        retention.decode(data)


def test_a_snapshot_s_key_names_its_bytes() -> None:
    key = OLDER.key()
    assert key == f"snap/00000000000000000810-0000000001-{'a' * 64}"
    assert retention.parse_snapshot_key(key) == (810, 1, "a" * 64)
    assert retention.parse_snapshot_key(f"{key}.tmp") is None


def receipt_of(statement: RetentionStatement, **change: Any) -> Receipt:
    log = Log()
    index = log.append(chain.LEDGER_TENANT, "none", retention.FSM, retention.evidence(statement), retention.RULE)
    return msgspec.structs.replace(canonical.decode(log.leaves[index]), **change)


def test_a_receipt_says_the_same() -> None:
    statement = RetentionStatement(256, 512, "b" * 64)
    assert retention.read_statement(receipt_of(statement)) == statement


@pytest.mark.parametrize(
    ("statement", "change"),
    [
        (RetentionStatement(256, 512, "b" * 64), {"tenant": "1" * 32}),
        (RetentionStatement(256, 512, "b" * 64), {"rule": "ledger.heads"}),
        (RetentionStatement(256, 512, "b" * 64), {"evidence": {"entries_from": 0}}),
        (RetentionStatement(255, 512, "b" * 64), {}),
        (RetentionStatement(512, 256, "b" * 64), {}),
        (RetentionStatement(256, 512, "b" * 63), {}),
    ],
)
def test_a_receipt_that_says_something_else_is_none(statement: RetentionStatement, change: dict[str, Any]) -> None:
    with pytest.raises(ProofInvalidError):
        retention.read_statement(receipt_of(statement, **change))
