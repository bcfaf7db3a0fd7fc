"""Receipts as canonical bytes: RFC 8785 (JCS) in a strict profile, where two fast encoders agree with it byte for byte.

The profile: ASCII keys, integers of less than 2**53 in magnitude, no floats, no lone surrogates, no duplicate keys.
Inside it, sorting keys by code point is sorting them by UTF-16 unit, and number formatting is trivial. The writer
(`encode`) spends its checks only on what a caller can get wrong; the verifier (`check`) trusts nothing.
"""

from collections.abc import Collection
from typing import Any, Final

import msgspec
import orjson

from ledger.errors import NotCanonicalError, ReceiptInvalidError
from ledger.format.receipt import INT_LIMIT, LEAF_BYTES_MAX, Fsm, Receipt

# Of everything that senders and operators write; a character takes six bytes at the most, so a leaf never overflows.
TEXT_CHARS_MAX: Final = 8_000

# `Receipt` declares its fields in order, so only the evidence needs sorting ("deterministic" sorts dicts).
encode_checked = msgspec.json.Encoder(order="deterministic").encode
"""`encode_checked(receipt)`: the leaf of a receipt whose draft was checked; its length is not."""
_decode = msgspec.json.Decoder(Receipt).decode
# The second encoder serves to check what the first one shall write.
_write = orjson.dumps
_STRICT: Final = orjson.OPT_STRICT_INTEGER  # TypeError for integers of 2**53 and more, in magnitude
_plain = frozenset((int, str)).issuperset  # exactly these: a bool is an int too, and JSON would say `true`


def encode(receipt: Receipt) -> bytes:
    """The leaf of a receipt. Raises ReceiptInvalidError for what the profile has no bytes for."""
    check_draft(receipt.evidence, receipt.ts_us, receipt.observed_us, receipt.event_id, receipt.source, receipt.fsm)
    leaf = encode_checked(receipt)
    check_lengths((leaf,))
    return leaf


def check_draft(
    evidence: dict[str, int | str], ts_us: int, observed_us: int, event_id: str, source: str, fsm: Fsm
) -> None:
    """Raise ReceiptInvalidError for what only a caller can get wrong.

    Apart from encoding, so that an invalid receipt is refused before it has an index, and encoded later.
    """
    try:
        # An encoder looks at everything in a third of the time that Python needs: it refuses lone surrogates and
        # integers out of bounds. What it lets pass that the profile may not, the conditions below leave to `_judge`.
        written = _write((evidence, ts_us, observed_us, event_id, source, fsm.subject), None, _STRICT)
        plain = written.isascii() and len(written) <= TEXT_CHARS_MAX and _plain(map(type, evidence.values()))
    except TypeError:
        plain = False
    if not (plain and type(ts_us) is type(observed_us) is int):
        _judge(evidence, ts_us, observed_us, (event_id, source, fsm.subject))


def _judge(evidence: dict[str, int | str], ts_us: int, observed_us: int, texts: tuple[str, ...]) -> None:
    """The rules of `check_draft` in full, for the few receipts that do not meet them at first sight."""
    for value in evidence.values():
        # `type() is`, because a bool is an int too, and JSON would say `true`.
        if type(value) is int:
            if not -INT_LIMIT < value < INT_LIMIT:
                raise ReceiptInvalidError(f"the evidence {value} is not below 2**53 in magnitude")
        elif isinstance(value, str):
            texts = (*texts, value)
        else:
            raise ReceiptInvalidError(f"the evidence {value!r} is a {type(value).__name__}, not an int or a str")
    if not "".join(evidence).isascii():
        raise ReceiptInvalidError(f"the evidence has a key that is not ASCII: {list(evidence)}")
    if not (type(ts_us) is type(observed_us) is int and -INT_LIMIT < ts_us < INT_LIMIT > observed_us > -INT_LIMIT):
        raise ReceiptInvalidError(f"the times {ts_us!r} and {observed_us!r} are not integers below 2**53 in magnitude")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ReceiptInvalidError(f"a text holds a lone surrogate: {text[:64]!r}") from error
    chars = sum(map(len, texts))
    if chars > TEXT_CHARS_MAX:
        raise ReceiptInvalidError(f"the texts have {chars} characters; a receipt has room for {TEXT_CHARS_MAX}")


def check_lengths(leaves: Collection[bytes]) -> None:
    """Raise ReceiptInvalidError for a leaf that is too long."""
    longest = max(map(len, leaves))
    if longest > LEAF_BYTES_MAX:
        raise ReceiptInvalidError(f"the receipt takes {longest} bytes; a leaf has room for {LEAF_BYTES_MAX}")


def decode(leaf: bytes) -> Receipt:
    """The receipt in a leaf, its types checked but not its form. Raises NotCanonicalError."""
    try:
        return _decode(leaf)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotCanonicalError(f"not a receipt: {error}") from error


def check(leaf: bytes) -> dict[str, Any]:
    """The object in a leaf, if the leaf is its one canonical form: parse, write again, compare.

    Deliberately another parser and encoder than the writer's. Raises NotCanonicalError.
    """
    parsed = _check_form(leaf)
    _check_profile(parsed)
    return parsed


def check_receipt(leaf: bytes) -> Receipt:
    """`check` and `decode` in one, at a third of the cost for receipts that have just the fields known here."""
    receipt = decode(leaf)
    # Where no string needs an escape and decoding has bounded the numbers, there is nothing that two encoders could
    # disagree about: the writer's own will do. It shows fields that it does not know by leaving them out.
    if leaf.isascii() and b"\\" not in leaf and len(leaf) <= LEAF_BYTES_MAX and encode_checked(receipt) == leaf:
        return receipt
    check(leaf)
    return receipt


def _check_form(leaf: bytes) -> dict[str, Any]:
    """The object in a leaf, if writing it again gives the same bytes."""
    if len(leaf) > LEAF_BYTES_MAX:
        raise NotCanonicalError(f"{len(leaf)} bytes; a leaf has at most {LEAF_BYTES_MAX}")
    try:
        parsed = orjson.loads(leaf)
    except orjson.JSONDecodeError as error:
        raise NotCanonicalError(f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise NotCanonicalError("not a JSON object")
    if orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS) != leaf:
        raise NotCanonicalError("not the canonical form of its content")
    return parsed


def _check_profile(value: Any) -> None:
    """Hold a parsed value to the strict profile. Depth is bounded by the parser."""
    kind = type(value)
    if kind is str:
        return
    if kind is int:
        if not -INT_LIMIT < value < INT_LIMIT:
            raise NotCanonicalError(f"the integer {value} is not below 2**53 in magnitude")
    elif kind is dict:
        for key, item in value.items():
            if not key.isascii():
                raise NotCanonicalError(f"the key {key!r} is not ASCII")
            if type(item) is not str:
                _check_profile(item)
    elif kind is list:
        for item in value:
            _check_profile(item)
    elif kind is float:
        raise NotCanonicalError(f"{value} is a float; only integers are allowed")
