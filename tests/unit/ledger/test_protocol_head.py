from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest
import rfc8785

from ledger.errors import HeadInvalidError
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.merkle import EMPTY_ROOT
from ledger.format.note import Signer
from ledger.protocol.head import Head, SegmentRef, decode_head, encode_head, parse_segment_key, segment_key

ORIGIN = "ledger.test/log/0"
SIGNER = Signer(ORIGIN, bytes(32))
ROOT = bytes(range(32))
KEY = segment_key(90, 3, b"\1\2\3\4")


def head(**changes: Any) -> Head:
    note = sign_checkpoint(Checkpoint(ORIGIN, 100, ROOT), SIGNER).decode()
    whole = Head(
        checkpoint=note, epoch=3, lease_us=5_000_000, nonce="0f" * 16, owner="here", root=ROOT.hex(),
        segment=SegmentRef(KEY, "ab" * 32), size=100, vkey=SIGNER.verifier.vkey,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def test_a_head_comes_back_as_it_was_written() -> None:
    assert decode_head(encode_head(head())) == head()


def test_a_head_is_canonical_json_in_the_eyes_of_another_library() -> None:
    data = encode_head(head())
    assert rfc8785.dumps(orjson.loads(data)) == data


def test_the_first_head_has_no_segment() -> None:
    note = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), SIGNER).decode()
    first = head(checkpoint=note, segment=None, size=0, root=EMPTY_ROOT.hex())
    assert decode_head(encode_head(first)) == first


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "version 2"),
        ({"epoch": 0}, "epoch 0"),
        ({"epoch": 2**32}, "epoch"),
        ({"lease_us": -1}, "lease"),
        ({"root": ROOT.hex().upper()}, "lower case"),
        ({"nonce": "0f"}, "lower case"),
        ({"segment": None}, "no segment"),
        ({"segment": SegmentRef("seg/1", "ab" * 32)}, "can be called"),
        ({"segment": SegmentRef(KEY, "ab")}, "can be called"),
        ({"size": 101}, "checkpoint is of 100"),
        ({"root": "00" * 32}, "another root"),
        ({"checkpoint": "no note"}, "its checkpoint"),
        ({"owner": "x" * 70_000}, "at most"),
    ],
)
def test_a_head_that_cannot_be_is_neither_written_nor_read(change: dict[str, object], why: str) -> None:
    with pytest.raises(HeadInvalidError, match=why):
        encode_head(head(**change))
    with pytest.raises(HeadInvalidError, match=why):
        decode_head(msgspec.json.encode(head(**change)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b" ",
        lambda data: data.replace(b":3,", b": 3,", 1),
        lambda data: data.replace(b'{"checkpoint"', b'{"a":1,"checkpoint"', 1),
        lambda data: data.replace(b'"epoch":3', b'"epoch":3,"epoch":3', 1),
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"\xff",
        lambda data: orjson.dumps(dict(reversed(orjson.loads(data).items()))),
    ],
)
def test_other_bytes_for_the_same_head_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(HeadInvalidError):
        decode_head(spoil(encode_head(head())))


def test_segment_keys_sort_as_the_log_does_and_can_be_read_back() -> None:
    keys = [segment_key(*at, b"\xff\0\0\0") for at in [(0, 1), (9, 1), (9, 2), (10, 1), (100, 1)]]
    assert keys == sorted(keys)
    assert [parse_segment_key(key) for key in keys] == [(0, 1), (9, 1), (9, 2), (10, 1), (100, 1)]
    assert parse_segment_key("seg/9-1-ff000000.seg") is None
