"""What a log has dropped and what it goes on from: said in an object beside its checkpoint, and in a receipt. Pure.

The object says it for everybody who looks. The receipt says it under the log's root, and names the SHA-256 of the
snapshot that stands for what was dropped, so that whoever has the log's newer part can check both. Both are public
before anything goes. Formats: docs/formats/retention.md.
"""

import re
from typing import Final

import msgspec
from msgspec import Struct

from ledger.errors import ProofInvalidError, RetentionInvalidError
from ledger.format.chain import LEDGER_TENANT
from ledger.format.checkpoint import SIZE_LIMIT
from ledger.format.receipt import Fsm, Receipt
from ledger.format.tiles import TILE_WIDTH

RETENTION_KEY: Final = "retention"
SNAPSHOTS_MAX: Final = 2
EVENT: Final = "retention"
MACHINE: Final = "ledger"
RULE: Final = "ledger.retention"
FSM: Final = Fsm(event=EVENT, from_="", machine=MACHINE, subject="", to="", version=1)

_HEX_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SNAPSHOT_KEY: Final = re.compile(r"snap/(\d{20})-(\d{10})-([0-9a-f]{64})")


# In this order, so that the encoding is canonical.
class NamedSnapshot(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A snapshot in the store. `size` and `epoch` are those of its name, `sha256` (hex) of all its bytes;
    `first_index` is that of the last segment in it, which is kept as all behind it are; receipt `receipt` names it.
    """

    epoch: int
    first_index: int
    receipt: int
    sha256: str
    size: int

    def key(self) -> str:
        """Where it is stored."""
        return snapshot_key(self.size, self.epoch, self.sha256)


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    """Segments that begin below receipt `segments_from` are dropped, with the payloads in them, and entry bundles with
    leaves below `entries_from`, so those receipts. Tiles stay. `snapshots`, the oldest first, stand for the rest.
    """

    entries_from: int = 0
    segments_from: int = 0
    snapshots: tuple[NamedSnapshot, ...] = ()


class RetentionStatement(Struct, frozen=True):
    """What a retention receipt says: the two bounds, and the SHA-256 (hex) of the newest snapshot."""

    entries_from: int
    segments_from: int
    snapshot: str


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Retention).decode


def encode(retention: Retention) -> bytes:
    """The object's bytes."""
    return _encode(retention)


def decode(data: bytes) -> Retention:
    """Raises RetentionInvalidError."""
    try:
        found = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RetentionInvalidError(f"the object {RETENTION_KEY} cannot be read: {error}") from error
    _check_bounds(found.entries_from, found.segments_from, RetentionInvalidError)
    sizes = [one.size for one in found.snapshots]
    if len(sizes) > SNAPSHOTS_MAX or sizes != sorted(set(sizes)):
        raise RetentionInvalidError(f"the object {RETENTION_KEY} names snapshots of {sizes} receipts")
    for one in found.snapshots:
        if not _HEX_HASH.fullmatch(one.sha256) or not found.segments_from <= one.first_index < one.size <= one.receipt:
            raise RetentionInvalidError(f"the object {RETENTION_KEY} names a snapshot that cannot be: {one}")
    return found


def snapshot_key(size: int, epoch: int, sha256: str) -> str:
    """The key of a snapshot in the store: other bytes have another one."""
    return f"snap/{size:020d}-{epoch:010d}-{sha256}"


def parse_snapshot_key(key: str) -> tuple[int, int, str] | None:
    """Size, epoch and SHA-256 (hex); None for a key that is none."""
    match = _SNAPSHOT_KEY.fullmatch(key)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def evidence(statement: RetentionStatement) -> dict[str, int | str]:
    """What a retention receipt has as evidence; `FSM`, `RULE` and the decision `none` stand beside it."""
    return msgspec.structs.asdict(statement)


def read_statement(receipt: Receipt) -> RetentionStatement:
    """What a retention receipt says. That the receipt is the log's is proven apart. Raises ProofInvalidError."""
    if (receipt.tenant, receipt.fsm.machine, receipt.fsm.event, receipt.rule) != (LEDGER_TENANT, MACHINE, EVENT, RULE):
        raise ProofInvalidError("not a retention receipt")
    try:
        said = msgspec.convert(receipt.evidence, RetentionStatement)
    except msgspec.ValidationError as error:
        raise ProofInvalidError(f"a retention receipt without its evidence: {error}") from error
    _check_bounds(said.entries_from, said.segments_from, ProofInvalidError)
    if not _HEX_HASH.fullmatch(said.snapshot):
        raise ProofInvalidError(f"a retention receipt names the snapshot {said.snapshot[:100]!r}")
    return said


def _check_bounds(entries_from: int, segments_from: int, error: type[Exception]) -> None:
    if not 0 <= entries_from <= segments_from < SIZE_LIMIT or entries_from % TILE_WIDTH:
        raise error(f"bundles from {entries_from} on and segments from {segments_from} on cannot be what is kept")
