"""What can go wrong in a ledger, each error saying what to do next."""

from pathlib import Path


class LedgerError(Exception):
    """Root of everything this package raises."""


class ReceiptInvalidError(LedgerError):
    """A receipt cannot be written in the strict profile. Correct the draft: the ledger has not changed."""


class NotCanonicalError(LedgerError):
    """A leaf is not canonical JSON of the strict profile. Reject it: no honest writer made it."""


class ProofInvalidError(LedgerError):
    """A Merkle proof does not prove what it should. Reject what it came with."""


class NoteInvalidError(ProofInvalidError):
    """A signed note, checkpoint or proof file is malformed or no trusted key signed it. Reject what it came with."""


class TileInvalidError(ProofInvalidError):
    """A tile or entry bundle does not hold what its name says. Fetch it again, from another copy of the log."""


class RollbackError(ProofInvalidError):
    """A log shows fewer receipts than it has shown before. Keep both checkpoints: together they are the evidence."""


class ForkError(ProofInvalidError):
    """A log has shown two histories, both signed. Keep both checkpoints: together they are the evidence."""


class TrustFileError(LedgerError):
    """What an auditor keeps about a log cannot be used. Nothing was checked: mend the file, or name the key again."""


class KeyInvalidError(LedgerError):
    """A verifier key or signing key cannot be read. Correct it where it is configured."""


class PushbackError(LedgerError):
    """More is pending than the disk keeps up with. Slow down and try again after `retry_after_s` seconds."""

    def __init__(self, pending_bytes: int, retry_after_s: float) -> None:
        super().__init__(f"{pending_bytes} bytes wait to be written; try again in {retry_after_s} s")
        self.pending_bytes = pending_bytes
        self.retry_after_s = retry_after_s


class LedgerClosedError(LedgerError):
    """The ledger takes nothing more, because it was closed or has failed. Open it anew (which recovers it)."""


class LedgerFailedError(LedgerError):
    """Writing failed, so nobody knows what is on the disk. End the process; the next start recovers what is durable."""


class LeaseLostError(LedgerError):
    """This writer may not answer any more: another one may have taken the log over. Tell nobody that the receipt is
    there; whoever sent it has to send it again, and gets the answer of whoever writes the log now.
    """


class LedgerLockedError(LedgerError):
    """Another process has the partition open. Stop that one, or name another data folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} is in use by another process: stop it first, or start this one with another data folder"
        )
        self.folder = folder


class IdentityError(LedgerError):
    """The files that say which log this is cannot be used. Restore them: new ones would break every chain."""


class NotALedgerError(LedgerError):
    """A folder holds no ledger. Name the data folder, its `ledger` folder or one partition's folder."""


class ReceiptNotFoundError(LedgerError):
    """No durable receipt (or no payload) has this index. Ask for an index below `local_size`."""


class ReceiptDroppedError(ReceiptNotFoundError):
    """The receipt was in the log, and retention has dropped it: its hash is in the tree still. Ask for an index from
    `kept_from` on.
    """

    def __init__(self, index: int, kept_from: int) -> None:
        super().__init__(f"receipt {index} was dropped by retention: receipts from {kept_from} on are kept")
        self.index = index
        self.kept_from = kept_from


class SegmentFormatError(LedgerError):
    """Bytes break the segment format at `offset`. The caller decides whether that means a torn write or damage."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.offset = offset
        self.message = message


class SegmentCorruptError(LedgerError):
    """A durable part of the log is damaged. Nothing was changed: restore the file from a copy, then start again.

    `path` is the file, `offset` the byte where the damaged part begins, `index` the first receipt that cannot be
    trusted.
    """

    def __init__(self, path: Path, offset: int, index: int, message: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset} ({message}): receipts from {index} on cannot be trusted. "
            "Nothing was changed. Restore this file from a backup or another copy of the log and start again; "
            "do not delete or cut it, since acknowledged receipts would be lost"
        )
        self.path = path
        self.offset = offset
        self.index = index
        self.message = message


class SnapshotInvalidError(LedgerError):
    """A snapshot cannot be used. Pass over it: the segments have everything that it said."""


class RetentionInvalidError(LedgerError):
    """What a log says of what it dropped cannot be. Nothing was dropped or fetched: restore the object it stands in."""


class StoreUnavailableError(LedgerError):
    """The object store cannot be read now. Try again after `retry_after_s` seconds; nothing was changed."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"the object store cannot be reached: {reason}")
        self.reason = reason
        self.retry_after_s = retry_after_s


class StoreRefusedError(LedgerError):
    """The object store answered no, and no retry mends that: rights, a missing bucket or folder, a broken disk. An
    operator has to change something.
    """


class StoreLockedError(StoreRefusedError):
    """A retention policy of the store keeps an object that was to go. Not yet: try again in some hours or days."""


class WriterFencedError(LedgerError):
    """Another writer has taken this log over. Answer nobody any more and end the process."""


class HeadInvalidError(LedgerError):
    """The head in the object store is not one that this program writes. Do nothing: find out who wrote it."""

    def __init__(self, message: str) -> None:
        super().__init__(f"the head is invalid: {message}")


class LogForkedError(LedgerError):
    """Two logs exist under one name. Nothing was changed: find out which is the true one, and move the other away."""


class RestoreError(LedgerError):
    """The object store does not hold the log that its head names. Nothing was put in place."""
