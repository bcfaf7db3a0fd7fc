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

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ledger.errors import NotALedgerError, NoteInvalidError
from ledger.format import checkpoint as checkpoints
from ledger.format.checkpoint import Checkpoint
from ledger.format.note import split_note
from ledger.identity import LEDGER_FOLDER, ORIGIN_FILE, STORE_FOLDER
from ledger.layout import list_segments
from ledger.verify.memory import Memory
from ledger.verify.partition import PartitionCheck
from ledger.verify.published import Published
from ledger.verify.report import LogReport, PartitionReport, Progress

Recall = Callable[[str], Memory | None]
"""What is known of the log with this origin: its key, and what was seen of it."""


def verify_log(
    folder: Path,
    progress: Progress | None = None,
    *,
    processes: int = 1,
    store: Path | None = None,
    control: Path | None = None,
    recall: Recall = lambda _: None,
) -> LogReport:
    """Verify every partition in a data folder, its `ledger` folder, or one partition's folder.

    `store`: the folder that the log is published in; None: the one in the data folder. `control`: the folder of what is
    replaced there, if that is another one. With more than one process the
    work is shared out among forks of this one, which must not have threads then.

    Raises NotALedgerError if there is none to verify, OSError if a file cannot be read: then nothing was found out.
    """
    started = time.monotonic()
    audits = [_Audit(number, path, origin, store, control, recall) for number, path, origin in _partitions(folder)]
    for audit in audits:
        audit.run(progress, processes)
    checks = [audit.check for audit in audits]
    return LogReport(
        receipts=sum(check.tree.size for check in checks),
        tenants=len(set().union(*(check.chains for check in checks))),
        partitions=[PartitionReport(one.partition, one.tree.size, one.tree.root().hex()) for one in checks],
        seconds=time.monotonic() - started,
        errors=[error for check in checks for error in check.errors],
        notes=[note for check in checks for note in check.notes],
        learned=[audit.learned for audit in audits if audit.learned is not None],
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


class _Signed(NamedTuple):
    """A checkpoint, the note that it came in, and what to call it."""

    what: str
    note: bytes
    checkpoint: Checkpoint


class _Audit:
    """One partition: its log, held against what was published of it and against what was seen of it before."""

    def __init__(
        self, partition: int, folder: Path, origin: str | None, store: Path | None, control: Path | None, recall: Recall
    ) -> None:
        self._published = Published(
            (store or folder.parent.parent / STORE_FOLDER) / folder.name,
            None if control is None else control / folder.name,
        )
        self._memory = recall(origin) if origin is not None else None
        self._doubts: list[str] = []
        # Before the log is read: a live one may publish more meanwhile, never less.
        public = self._open("the published checkpoint", self._published.checkpoint())
        self._signed = [*public, *self._open("the committed head", self._published.committed())]
        seen = self._memory.seen if self._memory is not None else ()
        sizes = [one.checkpoint.size for one in seen] + [one.checkpoint.size for one in self._signed]
        published_size = public[0].checkpoint.size if public else 0
        self.check = PartitionCheck(partition, folder, origin, self._published, published_size, sizes)
        self.learned: Memory | None = None

    def run(self, progress: Progress | None, processes: int) -> None:
        check, memory = self.check, self._memory
        check.run(progress, processes)
        for doubt in self._doubts:
            self._wrong("checkpoint", doubt)
        for signed in self._signed:
            self._judge(signed.what, signed.checkpoint, "truncated")
        if memory is None:
            if self._signed:
                check.notes.append("whoever signed the published checkpoint was not checked: no key is known")
            return
        for seen in memory.seen:
            self._judge("a checkpoint seen before", seen.checkpoint, "rollback")
        if check.whole and not check.errors:
            self._learn(memory)

    def _open(self, what: str, note: bytes | None) -> list[_Signed]:
        """One, or none where there is no note or none that can be trusted."""
        if note is None:
            return []
        try:
            if self._memory is not None:
                return [_Signed(what, note, self._memory.open(note))]
            return [_Signed(what, note, checkpoints.decode(split_note(note)[0]))]
        except NoteInvalidError as error:
            self._doubts.append(f"{what} cannot be trusted: {error}")
            return []

    def _judge(self, what: str, checkpoint: Checkpoint, when_short: str) -> None:
        """Does the log that is here have the receipts that a checkpoint has?"""
        size, root = self.check.tree.size, self.check.roots.get(checkpoint.size)
        if root is None and self.check.whole:
            lost = f"receipts {size}..{checkpoint.size - 1} were in the log and are not here"
            self._wrong(when_short, f"{what} is of {checkpoint.size} receipts, and the log has {size}: {lost}", size)
        elif root is not None and root != checkpoint.root:
            message = (
                f"{what} has the root {checkpoint.root.hex()} at {checkpoint.size} receipts, and these receipts have "
                f"{root.hex()}: the log was written anew, or it shows different people different histories"
            )
            self._wrong("fork", message, 0)

    def _learn(self, memory: Memory) -> None:
        """Keep the newest checkpoint, which the log was found to continue all others of."""
        notes = {one.checkpoint.size: one.note for one in memory.seen}
        notes |= {one.checkpoint.size: one.note for one in self._signed}
        if not notes:
            return
        newest, size = max(notes), self.check.tree.size
        self.learned = memory.learn(notes[newest], self.check.roots)
        if newest < size:
            self.check.notes.append(f"receipts {newest}..{size - 1} are newer than the newest signed checkpoint")

    def _wrong(self, kind: str, message: str, index: int | None = None) -> None:
        self.check.error(kind, 0, message, index, self._published.folder)
