"""Verifies a whole log from its files alone: no secret, no lock, no write. Works on a dead folder and on a live one.

It derives everything again from the receipts' own bytes: every CRC, header, number and root, the chain of segment
hashes, the canonical form of each leaf, each tenant's chain, and the commitment to each payload that is still there.

Where a CRC does not match, the one changed byte that explains it is looked for. If there is one, it is named, put back
in memory, and the rest verified as if it had never changed; if not, the batch is named and the partition's later
receipts are not judged.

What it cannot say: more than one changed byte in the last batch of the one unsealed segment looks like a write that a
crash interrupted, and is noted, not counted as an error. A clean stop seals the segment, and so does the next start;
after that every byte counts. And a whole log that was written anew, CRCs and all, is as good as the first one, unless
somebody kept a root of it.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import NotALedgerError, SegmentFormatError
from ledger.format import chain, damage, segment
from ledger.format.merkle import HASH_BYTES, CompactRange
from ledger.format.segment import Corrupt, Intact, SegmentHeader, Torn, Verdict
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE
from ledger.index import SegmentKey
from ledger.layout import SEALED_SUFFIX, list_segments
from ledger.reader import read_segment
from ledger.verify import facts, parallel
from ledger.verify.facts import FINDINGS_MAX, Facts, Finding, SoundBatch

_LISTINGS_MAX: Final = 10

Progress = Callable[[int, int, int], None]
"""`progress(partition, receipts, segments_left)`, after each segment."""


@dataclass(frozen=True, slots=True)
class LogError:
    """Something that no honest writer leaves. `kind` is a stable word: `damaged` (bytes changed), `missing`, `header`,
    `sequence`, `frame`, `root`, `canonical`, `tenant_chain`, `commitment`, `foreign`. `index` is the first receipt
    concerned, `offset` the byte in `file` where it shows.
    """

    partition: int
    index: int
    kind: str
    message: str
    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """What was verified: the first `size` receipts, and their root (hex)."""

    partition: int
    size: int
    root: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """The verdict on a log. `notes` are worth reading and no errors."""

    receipts: int
    tenants: int
    partitions: list[PartitionReport]
    seconds: float
    errors: list[LogError]
    notes: list[str]

    @property
    def ok(self) -> bool:
        return not self.errors

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "receipts": self.receipts,
            "tenants": self.tenants,
            "partitions": [
                {"partition": one.partition, "size": one.size, "root": one.root} for one in self.partitions
            ],
            "seconds": round(self.seconds, 3),
            "errors": [
                {"partition": one.partition, "index": one.index, "kind": one.kind, "message": one.message,
                 "file": one.file, "offset": one.offset}
                for one in self.errors
            ],
            "notes": self.notes,
        }  # fmt: skip


def verify_log(folder: Path, progress: Progress | None = None, *, processes: int = 1) -> LogReport:
    """Verify every partition in a data folder, its `ledger` folder, or one partition's folder.

    With more than one process the segments are shared out among forks of this one, which must not have threads then.
    Raises NotALedgerError if there is none to verify, OSError if a file cannot be read: then nothing was found out.
    """
    started = time.monotonic()
    checks = [_PartitionCheck(number, path, origin) for number, path, origin in _partitions(folder)]
    for check in checks:
        check.run(progress, processes)
    return LogReport(
        receipts=sum(check.tree.size for check in checks),
        tenants=len(set().union(*(check.chains for check in checks))),
        partitions=[PartitionReport(one.partition, one.tree.size, one.tree.root().hex()) for one in checks],
        seconds=time.monotonic() - started,
        errors=[error for check in checks for error in check.errors],
        notes=[note for check in checks for note in check.notes],
    )


def _partitions(folder: Path) -> list[tuple[int, Path, str | None]]:
    """Number, folder and origin (if it stands beside) of each partition."""
    if not folder.is_dir():
        raise NotALedgerError(f"{folder} is not a folder")
    root = folder / LEDGER_FOLDER if (folder / LEDGER_FOLDER).is_dir() else folder
    found = sorted((int(path.name), path) for path in root.iterdir() if path.name.isdecimal() and path.is_dir())
    if not found and list_segments(folder):
        found, root = [(int(folder.name) if folder.name.isdecimal() else 0, folder)], folder.parent
    origin = root / ORIGIN_FILE
    if not found and not origin.exists():
        raise NotALedgerError(
            f"{folder} holds no ledger: name a data folder, its {LEDGER_FOLDER!r} folder or a partition's"
        )
    name = origin.read_text(encoding="utf-8", errors="replace").strip() if origin.exists() else None
    return [(number, path, None if name is None else f"{name}/{number}") for number, path in found]


@dataclass(frozen=True, slots=True)
class _Task:
    folder: Path
    key: SegmentKey
    log: str | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A segment, looked at apart from the others. Without a header it has none that is valid."""

    path: Path
    sealed: bool
    header: SegmentHeader | None
    verdict: Verdict
    facts: Facts
    sha256: bytes
    data: bytes
    """The segment, if something is wrong with it."""


def _look_at(task: _Task) -> _Seen:
    path, data = read_segment(task.folder, task.key)
    return _look_into(path, data, task.log)


def _look_into(path: Path, data: bytes, log: str | None, *, skip: int = 0) -> _Seen:
    """What a segment shows, apart from its first `skip` batches."""
    sealed = path.suffix == SEALED_SUFFIX
    try:
        scan = segment.scan(data, sealed=sealed)
    except SegmentFormatError as error:
        return _Seen(path, sealed, None, Corrupt(error.offset, error.message), Facts(log, [], {}, [], True), b"", data)
    found = facts.of_segment(data, scan, log, skip)
    intact = isinstance(scan.verdict, Intact)
    sha256 = hashlib.sha256(data).digest() if intact else b""
    return _Seen(path, sealed, scan.header, scan.verdict, found, sha256, b"" if intact else data)


class _PartitionCheck:
    """One partition: what its segments show, joined in order."""

    def __init__(self, partition: int, folder: Path, origin: str | None) -> None:
        self.partition = partition
        self.tree = CompactRange()
        self.chains: dict[str, tuple[int, str]] = {}
        """By pseudonym: how many receipts, and the leaf hash (hex) of the last."""
        self.errors: list[LogError] = []
        self.notes: list[str] = []
        self._folder = folder
        self._log = origin
        self._epoch = 0
        self._previous_sha256 = segment.NO_SEGMENT_SHA256
        self._path = folder

    def run(self, progress: Progress | None, processes: int) -> None:
        """Stops at what makes everything behind it unknowable, or after too many errors."""
        keys = self._list_keys()
        tasks = (_Task(self._folder, key, self._log) for key in keys)
        for number, seen in enumerate(parallel.in_order(_look_at, tasks, min(processes, len(keys))), 1):
            self._path = seen.path
            if not seen.sealed and number < len(keys):
                self._error("missing", 0, "it is unsealed, but another segment follows: a sealed one was replaced")
            if not self._join(keys[number - 1], seen):
                self.notes.append(f"{self._path}: receipts from {self.tree.size} on were not judged")
                return
            if progress is not None:
                progress(self.partition, self.tree.size, len(keys) - number)

    def _list_keys(self) -> list[SegmentKey]:
        """The segments, listed until two listings agree: a live one may be renamed while the folder is read."""
        listed: list[SegmentKey] | None = None
        for _ in range(_LISTINGS_MAX):
            keys = sorted({SegmentKey(name.first_index, name.epoch) for name in list_segments(self._folder)})
            if keys == listed:
                break
            listed = keys
        return listed or []

    def _join(self, key: SegmentKey, seen: _Seen) -> bool:
        """Can what follows be judged?"""
        if seen.header is not None:
            return self._check_header(key, seen.header, seen.facts.log) and self._join_batches(seen)
        assert isinstance(seen.verdict, Corrupt)  # noqa: S101 - no header is valid, so there is a reason
        mended = self._mend(seen, *seen.verdict)
        return mended is not None and self._join(key, _look_into(seen.path, mended, self._log))

    def _join_batches(self, seen: _Seen, done: int = 0) -> bool:
        """The batches that it shows, which come behind `done` others, then what the scan stopped at."""
        if not self._join_facts(seen.facts):
            return False
        match seen.verdict:
            case Intact():
                self._previous_sha256 = seen.sha256
                return True
            case Torn(offset, reason):
                mended = self._mend(seen, offset, reason, quiet=True)
                if mended is None:
                    self.notes.append(
                        f"{self._path}: the last {len(seen.data) - offset} bytes, from {offset} on, are an unfinished "
                        f"batch ({reason}): one that is being written, or that a crash interrupted. The next start "
                        "cuts it"
                    )
                    return True
            case Corrupt(offset, reason):
                mended = self._mend(seen, offset, reason)
                if mended is None:
                    return False
        done += len(seen.facts.batches)
        return self._join_batches(_look_into(seen.path, mended, self._log, skip=done), done)

    def _join_facts(self, found: Facts) -> bool:
        """Tree and chains go on with what a piece shows. False if they cannot, or after too many errors."""
        self._log = log = self._log or found.log
        findings = list(found.findings)
        for tenant, link in found.links.items():
            # Without an origin there is no receipt, so no link either.
            count, head = self.chains.get(tenant) or (0, chain.genesis(log or "", tenant).hex())
            if (link.tseq, link.prev) != (count, head):
                message = facts.chain_break(tenant, link.tseq, count)
                findings.append(Finding(link.index, link.offset, "tenant_chain", message))
            self.chains[tenant] = (link.next_tseq, link.head)
        stopped = found.broken
        for batch in found.batches:
            if not self._grow(batch):
                message = "a batch's receipts do not give its root"
                findings = [one for one in findings if one.index < batch.first_index + batch.count]
                findings.append(Finding(batch.first_index, batch.offset, "root", message))
                stopped = True
                break
        for finding in sorted(findings)[: FINDINGS_MAX - len(self.errors)]:
            self._error(finding.kind, finding.offset, finding.message, finding.index)
        return not stopped and len(self.errors) < FINDINGS_MAX

    def _grow(self, batch: SoundBatch) -> bool:
        """The tree with a batch's leaves, if that gives the batch's root."""
        self.tree.extend(chain.split(batch.hashes, HASH_BYTES))
        return self.tree.root() == batch.root

    def _mend(self, seen: _Seen, offset: int, reason: str, *, quiet: bool = False) -> bytes | None:
        """Report damage, by the byte if one byte explains it; the bytes as they were, if so.

        `quiet`: say nothing of what no single byte explains.
        """
        data = seen.data
        repairs = [one for one in damage.explain(data, sealed=seen.sealed) if self._is_sound(one, offset)]
        if len(repairs) != 1:
            if not quiet:
                self._error("damaged", offset, reason)
            return None
        change, mended, scan = repairs[0]
        batch = next((one for one in scan.batches if one.offset <= change.offset < one.end), None)
        index, part = damage.part_of(mended, batch, change.offset) if batch else (self.tree.size, "the segment header")
        was = f"{part} was changed: it is 0x{data[change.offset]:02x} and was 0x{change.original:02x}"
        self._error("damaged", change.offset, was, index)
        return mended

    def _is_sound(self, repair: damage.Repair, offset: int) -> bool:
        """Does the batch that the repair brings back give the root that it names?"""
        batch = next((one for one in repair.scan.batches if one.offset == offset), None)
        return batch is None or damage.is_sound(repair.data, batch, self.tree)

    def _check_header(self, key: SegmentKey, header: SegmentHeader, log: str | None) -> bool:
        if header.first_index != self.tree.size:
            missing = f"it begins at receipt {header.first_index}, not {self.tree.size}: a segment is missing before it"
            self._error("missing", 0, missing)
            return False
        if SegmentKey(header.first_index, header.epoch) != key:
            self._error("header", 0, "its name and its header differ")
        if header.epoch < self._epoch:
            self._error("sequence", 0, f"epoch {header.epoch} comes after {self._epoch}")
        if header.previous_sha256 != self._previous_sha256:
            self._error("sequence", 0, "the segment before it is not the one whose SHA-256 it names")
        named = self._log or log
        if named is not None and header.log_hash != segment.log_hash(named):
            self._error("foreign", 0, f"it belongs to another log than {named}")
            return False
        self._epoch = header.epoch
        return True

    def _error(self, kind: str, offset: int, message: str, index: int | None = None) -> None:
        at = self.tree.size if index is None else index
        place = f"{self._path} at byte {offset}, receipt {at}: {message}"
        self.errors.append(LogError(self.partition, at, kind, place, str(self._path), offset))
