"""Reads the segments of a data folder for a replay: read-only, without lock or key, of a service that runs or not."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from governors.replay.beginning import read_beginning
from governors.replay.findings import Findings, Mismatch, Unknown, join
from governors.replay.fold import Replay, StoredReceipt
from ledger.errors import (
    NotALedgerError,
    NotCanonicalError,
    ProofInvalidError,
    RetentionInvalidError,
    SegmentCorruptError,
    SegmentFormatError,
    SnapshotInvalidError,
)
from ledger.format import canonical, retention, segment, snapshot
from ledger.format.retention import RETENTION_KEY
from ledger.format.segment import Batch, Corrupt, Kind, Torn
from ledger.format.snapshot import Snapshot
from ledger.identity import LEDGER_FOLDER, STORE_FOLDER
from ledger.index import SegmentKey
from ledger.layout import list_segments
from ledger.reader import read_segment
from ledger.verify.parallel import in_order
from ledger.verify.published import Published

Progress = Callable[[int, int, int], None]
"""`progress(partition, receipts, segments_left)`, after each segment."""

_RECEIPT: Final = int(Kind.RECEIPT)
_PAYLOAD: Final = int(Kind.PAYLOAD)
# So few that what is made of them stays in the processor's cache.
_TAKEN_AT_ONCE: Final = 128


class _Part(NamedTuple):
    """A segment as it was when the replay began: a live one grows, and all shares shall read the same."""

    key: SegmentKey
    length: int
    last: bool


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """What came of one partition; `notes` are worth reading and no mismatches."""

    partition: int
    receipts: int
    replayed: int
    mismatched: int
    mismatches: list[Mismatch]
    unknown: list[Unknown]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a data folder."""

    partitions: list[PartitionReport]
    seconds: float

    @property
    def ok(self) -> bool:
        """Every decision could be taken again, and came out as it is stored."""
        return not self.mismatched and not any(one.unknown for one in self.partitions)

    @property
    def mismatched(self) -> int:
        """Receipts that came out otherwise."""
        return sum(one.mismatched for one in self.partitions)

    @property
    def receipts(self) -> int:
        """All that were read."""
        return sum(one.receipts for one in self.partitions)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "receipts": self.receipts,
            "replayed": sum(one.replayed for one in self.partitions),
            "mismatched": self.mismatched,
            "mismatches": [
                {"partition": one.partition, **msgspec.to_builtins(found)}
                for one in self.partitions
                for found in one.mismatches
            ],
            "not_replayed": [
                {"partition": one.partition, **msgspec.to_builtins(lost)}
                for one in self.partitions
                for lost in one.unknown
            ],
            "notes": [note for one in self.partitions for note in one.notes],
            "seconds": round(self.seconds, 3),
        }


class _Anchor(NamedTuple):
    """A snapshot that stands for dropped segments, and the index of the log's own receipt that says so."""

    made: Snapshot
    receipt: int


def replay_folder(
    folder: Path, progress: Progress | None = None, *, processes: int = 1, store: Path | None = None
) -> Report:
    """Replay every partition of a data folder (or of the ledger folder in it).

    Where retention has dropped the first segments it begins with the snapshot that stands for them, which is in
    `store`, the folder in which the log is published (default: `store` in the data folder). With more than one process
    the tenants are shared out among forks of this one, which must not have threads then.

    Raises NotALedgerError, SegmentCorruptError (`governors verify log` says more), OSError: then nothing is known.
    """
    started = time.monotonic()
    root = folder / LEDGER_FOLDER if (folder / LEDGER_FOLDER).is_dir() else folder
    found = sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal() and path.is_dir())
    if not found:
        raise NotALedgerError(f"{folder} holds no ledger: name a data folder or its {LEDGER_FOLDER!r} folder")
    published = store or root.parent / STORE_FOLDER
    reports = [
        _replay_partition(number, root / str(number), Published(published / str(number)), progress, processes)
        for number in found
    ]
    return Report(reports, time.monotonic() - started)


def _replay_partition(
    number: int, folder: Path, published: Published, progress: Progress | None, processes: int
) -> PartitionReport:
    parts, notes, made = _list_parts(folder), [], None
    if parts and parts[0].key.first_index:
        anchor = _find_anchor(folder, published, parts)
        if isinstance(anchor, str):
            notes.append(
                f"receipts below {parts[0].key.first_index} were dropped, and no snapshot stands for them: {anchor}"
            )
        else:
            made = anchor.made
            parts = [one for one in parts if one.key.first_index >= made.size]
            notes.append(
                f"receipts below {made.size} were not replayed, for retention has dropped payloads of theirs; the "
                f"replay began with the snapshot that receipt {anchor.receipt} names"
            )
    work = partial(_replay_share, number, folder, parts, made, progress, processes)
    shares = list(in_order(work, range(processes), processes))
    found = join([findings for findings, _ in shares])
    return PartitionReport(
        number, found.receipts, found.replayed, found.mismatched, found.mismatches, found.unknown,
        notes + shares[0][1] + _notes(found),
    )  # fmt: skip


def _find_anchor(folder: Path, published: Published, parts: list[_Part]) -> _Anchor | str:
    """The oldest snapshot that the log itself says to stand for what was dropped; or why there is none."""
    doubts = []
    try:
        named = published.retention().snapshots
    except RetentionInvalidError as error:
        return str(error)
    for one in named:
        data = published.snapshot(one)
        if data is None:
            doubts.append(f"{one.key()} is missing")
        elif hashlib.sha256(data).hexdigest() != one.sha256:
            doubts.append(f"{one.key()} was changed")
        else:
            try:
                made = snapshot.decode(data)
                if _stated(folder, parts, one.receipt) == one.sha256 and made.size == one.size:
                    return _Anchor(made, one.receipt)
                doubts.append(f"receipt {one.receipt} does not name {one.key()}")
            except (SnapshotInvalidError, ProofInvalidError, NotCanonicalError) as error:
                doubts.append(f"{one.key()}: {error}")
    return "; ".join(doubts) or f"{published.folder / RETENTION_KEY} names none"


def _stated(folder: Path, parts: list[_Part], index: int) -> str:
    """The snapshot that a receipt names. Raises ProofInvalidError, NotCanonicalError, SegmentCorruptError."""
    part = next((one for one in reversed(parts) if one.key.first_index <= index), None)
    if part is not None:
        path, data = read_segment(folder, part.key, 0, part.length)
        try:
            leaf = segment.find_leaf(data, segment.scan(data), index)
        except SegmentFormatError as error:
            raise SegmentCorruptError(path, error.offset, part.key.first_index, error.message) from error
        if leaf is not None:
            return retention.read_statement(canonical.decode(leaf)).snapshot
    raise ProofInvalidError(f"there is no receipt {index}")


def _list_parts(folder: Path) -> list[_Part]:
    keys = sorted({SegmentKey(name.first_index, name.epoch) for name in list_segments(folder)})
    parts = [_Part(key, -1, last=False) for key in keys]
    if parts:
        _, data = read_segment(folder, keys[-1])
        parts[-1] = _Part(keys[-1], len(data), last=True)
    return parts


def _replay_share(
    number: int,
    folder: Path,
    parts: list[_Part],
    made: Snapshot | None,
    progress: Progress | None,
    shares: int,
    share: int,
) -> tuple[Findings, list[str]]:
    """All of the log behind the snapshot, if there is one, and again what one share of its tenants decided; with what
    there is to note of the files.
    """
    beginning = None if made is None else read_beginning(made)
    expected = made.size if made is not None else parts[0].key.first_index if parts else 0
    replay = Replay(expected, beginning, share=share, shares=shares)
    notes: list[str] = []
    for place, part in enumerate(parts, 1):
        path, data = read_segment(folder, part.key, 0, part.length)
        if part.key.first_index != expected:
            raise SegmentCorruptError(path, 0, expected, f"a segment is missing before it, from receipt {expected} on")
        try:
            scan = segment.scan(data)
            for batch in scan.batches:
                for taken in _receipts(data, batch):
                    replay.take(taken)
                expected = batch.first_index + batch.count
        except SegmentFormatError as error:
            raise SegmentCorruptError(path, error.offset, expected, error.message) from error
        match scan.verdict:
            case Torn(offset, reason) if part.last:
                notes.append(f"{path}: an unfinished batch from byte {offset} on was not looked at ({reason})")
            case Torn(offset, reason) | Corrupt(offset, reason):
                raise SegmentCorruptError(path, offset, expected, reason)
        if progress is not None and share == 0:
            progress(number, replay.found.receipts, len(parts) - place)
    return replay.found, notes


def _receipts(data: bytes, batch: Batch) -> Iterator[list[StoredReceipt]]:
    """The receipts of a batch, some at a time."""
    taken: list[StoredReceipt] = []
    leaf: bytes | None = None
    for kind, start, end in segment.frames(data, batch):
        if kind == _PAYLOAD and leaf is not None:
            taken.append(StoredReceipt(leaf, data[start:end]))
            leaf = None
        elif kind == _RECEIPT:
            if leaf is not None:
                taken.append(StoredReceipt(leaf, None))
            leaf = data[start:end]
            if len(taken) >= _TAKEN_AT_ONCE:
                yield taken
                taken = []
    if leaf is not None:
        taken.append(StoredReceipt(leaf, None))
    if taken:
        yield taken


def _notes(found: Findings) -> list[str]:
    notes = []
    if found.failed:
        notes.append(
            f"{found.failed} events were put aside because a machine failed on them; of these it fails again on "
            f"{found.failed_again}"
        )
    if found.of_ledger:
        notes.append(
            f"{found.of_ledger} receipts are the ledger's own and decide nothing: `governors verify log` checks them"
        )
    return notes
