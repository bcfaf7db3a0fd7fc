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

from ledger.errors import NotALedgerError, NotCanonicalError, SegmentFormatError
from ledger.format import canonical, chain, damage, segment
from ledger.format.merkle import CompactRange, leaf_hash
from ledger.format.segment import COMMITMENT_KEY_BYTES, Batch, Corrupt, Intact, Kind, Scan, SegmentHeader, Torn
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE
from ledger.index import SegmentKey
from ledger.layout import SEALED_SUFFIX, list_segments
from ledger.reader import read_segment

_ERRORS_MAX: Final = 100
"""Of one partition: one cause may show in every receipt behind it."""
_LISTINGS_MAX: Final = 10
_RECEIPT: Final = int(Kind.RECEIPT)
_PAYLOAD: Final = int(Kind.PAYLOAD)
_STATE: Final = int(Kind.STATE)

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


def verify_log(folder: Path, progress: Progress | None = None) -> LogReport:
    """Verify every partition in a data folder, its `ledger` folder, or one partition's folder.

    Raises NotALedgerError if there is none to verify, OSError if a file cannot be read: then nothing was found out.
    """
    started = time.monotonic()
    checks = [_PartitionCheck(number, path, origin) for number, path, origin in _partitions(folder)]
    for check in checks:
        check.run(progress)
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


class _PartitionCheck:
    """One partition, verified segment by segment."""

    def __init__(self, partition: int, folder: Path, origin: str | None) -> None:
        self.partition = partition
        self.tree = CompactRange()
        self.chains: dict[str, tuple[int, bytes]] = {}
        """By pseudonym: how many receipts, and the leaf hash of the last."""
        self.errors: list[LogError] = []
        self.notes: list[str] = []
        self._folder = folder
        self._log = origin
        self._epoch = 0
        self._previous_sha256 = segment.NO_SEGMENT_SHA256
        self._path = folder

    def run(self, progress: Progress | None) -> None:
        """Stops at what makes everything behind it unknowable, or after too many errors."""
        keys = self._list_keys()
        for number, key in enumerate(keys, 1):
            self._path, data = read_segment(self._folder, key)
            sealed = self._path.suffix == SEALED_SUFFIX
            if not sealed and number < len(keys):
                self._error("missing", 0, "it is unsealed, but another segment follows: a sealed one was replaced")
            if not self._check_segment(key, data, sealed=sealed):
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

    def _check_segment(self, key: SegmentKey, data: bytes, *, sealed: bool) -> bool:
        """Can what follows be judged?"""
        try:
            scan = segment.scan(data, sealed=sealed)
        except SegmentFormatError as error:
            mended = self._mend(data, error.offset, error.message, sealed=sealed)
            return mended is not None and self._check_segment(key, mended, sealed=sealed)
        if not self._check_header(key, scan.header):
            return False
        return self._check_scan(data, scan, sealed=sealed)

    def _check_scan(self, data: bytes, scan: Scan, *, sealed: bool, done: int = 0) -> bool:
        """The batches from number `done` on, then what the scan stopped at."""
        for batch in scan.batches[done:]:
            if not self._check_batch(data, batch) or len(self.errors) >= _ERRORS_MAX:
                return False
        match scan.verdict:
            case Intact():
                self._previous_sha256 = hashlib.sha256(data).digest()
                return True
            case Torn(offset, reason):
                mended = self._mend(data, offset, reason, sealed=sealed, quiet=True)
                if mended is None:
                    self.notes.append(
                        f"{self._path}: the last {len(data) - offset} bytes, from {offset} on, are an unfinished batch "
                        f"({reason}): one that is being written, or that a crash interrupted. The next start cuts it"
                    )
                    return True
            case Corrupt(offset, reason):
                mended = self._mend(data, offset, reason, sealed=sealed)
                if mended is None:
                    return False
        again = segment.scan(mended, sealed=sealed)
        return self._check_scan(mended, again, sealed=sealed, done=len(scan.batches))

    def _mend(self, data: bytes, offset: int, reason: str, *, sealed: bool, quiet: bool = False) -> bytes | None:
        """Report damage, by the byte if one byte explains it; the bytes as they were, if so.

        `quiet`: say nothing of what no single byte explains.
        """
        repairs = [one for one in damage.explain(data, sealed=sealed) if self._is_sound(one, offset)]
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

    def _check_header(self, key: SegmentKey, header: SegmentHeader) -> bool:
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
        if self._log is not None and header.log_hash != segment.log_hash(self._log):
            self._error("foreign", 0, f"it belongs to another log than {self._log}")
            return False
        self._epoch = header.epoch
        return True

    def _check_batch(self, data: bytes, batch: Batch) -> bool:
        """False if the tree cannot go on."""
        hashes: list[bytes] = []
        commitment: str | None = None
        index = batch.first_index
        try:
            for kind, start, end in segment.frames(data, batch):
                content = data[start:end]
                if kind == _RECEIPT:
                    digest = leaf_hash(content)
                    hashes.append(digest)
                    commitment = self._check_receipt(content, digest, batch, index, start)
                    index += 1
                elif kind == _PAYLOAD:
                    key, payload = content[:COMMITMENT_KEY_BYTES], content[COMMITMENT_KEY_BYTES:]
                    if len(key) < COMMITMENT_KEY_BYTES or commitment != chain.commitment(key, payload):
                        self._error("commitment", start, "a payload is not the one its receipt commits to", index - 1)
                    commitment = None
                elif kind == _STATE:
                    segment.decode_state(content)
                else:
                    self._error("frame", start, f"a frame of the unknown kind {kind}", index)
        except SegmentFormatError as error:
            self._error("frame", error.offset, error.message, index)
            return False
        if len(hashes) != batch.count:
            self._error(
                "frame", batch.offset, f"a batch of {batch.count} receipts has {len(hashes)}", batch.first_index
            )
            return False
        self.tree.extend(hashes)
        if self.tree.root() != batch.root:
            self._error("root", batch.offset, "a batch's receipts do not give its root", batch.first_index)
            return False
        return True

    def _check_receipt(self, leaf: bytes, digest: bytes, batch: Batch, index: int, start: int) -> str | None:
        """What the receipt commits to as its payload."""
        try:
            receipt = canonical.check_receipt(leaf)
        except NotCanonicalError as error:
            self._error("canonical", start, str(error), index)
            return None
        if self._log is None:
            self._log = receipt.log
        if receipt.log != self._log or receipt.epoch != batch.epoch:
            self._error("foreign", start, f"a receipt of {receipt.log!r}, epoch {receipt.epoch}", index)
        known = self.chains.get(receipt.tenant)
        count, head = known if known is not None else (0, chain.genesis(receipt.log, receipt.tenant))
        if receipt.tseq != count or receipt.prev != head.hex():
            self._error(
                "tenant_chain", start, f"tenant {receipt.tenant}: {receipt.tseq} does not follow {count - 1}", index
            )
        self.chains[receipt.tenant] = (receipt.tseq + 1, digest)
        return receipt.inputs_commit

    def _error(self, kind: str, offset: int, message: str, index: int | None = None) -> None:
        at = self.tree.size if index is None else index
        place = f"{self._path} at byte {offset}, receipt {at}: {message}"
        self.errors.append(LogError(self.partition, at, kind, place, str(self._path), offset))
