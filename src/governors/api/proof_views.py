"""What the routes of auditors answer with, beside the documents that `ledger.verify` reads."""

from typing import Any

from msgspec import Struct


class ReceiptProof(Struct, frozen=True):
    """A receipt and its audit path to `root` (hex) at `size`, deepest first; `text` is the same as a proof file."""

    id: str
    index: int
    leaf: bytes
    path: list[bytes]
    size: int
    root: str
    checkpoint: str
    text: str


class VerifyAnswer(Struct, frozen=True, kw_only=True):
    """The verdict on a document. `error` says what is wrong with it, `found` and `says` what it shows if nothing is."""

    ok: bool
    error: str | None = None
    origin: str | None = None
    size: int | None = None
    root: str | None = None
    found: dict[str, Any] = {}
    says: list[str] = []
