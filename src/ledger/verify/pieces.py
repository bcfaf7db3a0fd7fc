"""The pieces that a log is verified in: each is read and looked at apart, in whatever process."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import ProofInvalidError, SegmentFormatError
from ledger.format import segment
from ledger.format.merkle import leaf_hash
from ledger.format.segment import Corrupt, Intact, SegmentHeader, Verdict
from ledger.format.tiles import TILE_WIDTH
from ledger.index import SegmentKey
from ledger.layout import SEALED_SUFFIX
from ledger.reader import read_segment
from ledger.verify import facts
from ledger.verify.facts import Facts
from ledger.verify.published import Published


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """A segment to look at. `log` is the origin, if it is known."""

    folder: Path
    key: SegmentKey
    log: str | None


@dataclass(frozen=True, slots=True)
class SeenSegment:
    """A segment, looked at apart from the others. Without a header it has none that is valid."""

    path: Path
    sealed: bool
    header: SegmentHeader | None
    verdict: Verdict
    facts: Facts
    sha256: bytes
    data: bytes
    """The segment, if something is wrong with it."""


def look_at_segment(task: SegmentTask) -> SeenSegment:
    """Raises OSError."""
    path, data = read_segment(task.folder, task.key)
    return look_into(path, data, task.log)


def look_into(path: Path, data: bytes, log: str | None, *, skip: int = 0) -> SeenSegment:
    """What a segment shows, apart from its first `skip` batches."""
    sealed = path.suffix == SEALED_SUFFIX
    try:
        scan = segment.scan(data, sealed=sealed)
    except SegmentFormatError as error:
        return SeenSegment(
            path,
            sealed,
            None,
            Corrupt(error.offset, error.message),
            Facts(log, [], {}, {}, [], [], [], True),
            b"",
            data,
        )
    found = facts.of_segment(data, scan, log, skip)
    intact = isinstance(scan.verdict, Intact)
    sha256 = hashlib.sha256(data).digest() if intact else b""
    return SeenSegment(path, sealed, scan.header, scan.verdict, found, sha256, b"" if intact else data)


@dataclass(frozen=True, slots=True)
class BundlesTask:
    """Entry bundles in a row: number and width of each."""

    published: Published
    widths: list[tuple[int, int]]
    log: str | None


def look_at_bundles(task: BundlesTask) -> Facts | str:
    """What the leaves show, or why they cannot be read. Raises OSError."""
    leaves = _read_bundles(task)
    return leaves if isinstance(leaves, str) else facts.of_leaves(leaves, task.widths[0][0] * TILE_WIDTH, task.log)


def hash_bundles(task: BundlesTask) -> tuple[int, bytes] | str:
    """The number of the first bundle and the leaf hashes of all, or why they cannot be read. Raises OSError."""
    leaves = _read_bundles(task)
    return leaves if isinstance(leaves, str) else (task.widths[0][0], b"".join(map(leaf_hash, leaves)))


def _read_bundles(task: BundlesTask) -> list[bytes] | str:
    leaves: list[bytes] = []
    for number, width in task.widths:
        try:
            bundle = task.published.entries(number, width)
        except ProofInvalidError as error:
            return f"entry bundle {number}: {error}"
        if bundle is None:
            return f"entry bundle {number} is missing"
        leaves += bundle
    return leaves
