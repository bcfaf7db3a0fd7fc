"""What an auditor remembers of a log: its key, and the checkpoints seen so far. Pure.

A signature shows who says something, not that they say the same to everybody, or today what they said yesterday. So
checkpoints are kept. A smaller one later is a rollback, one of another history a fork; both are signed, and together
they convict whoever signed them. Kept is each checkpoint of which no proof has shown that a later one continues it.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Self

from ledger.errors import ForkError, ProofInvalidError, RollbackError
from ledger.format.checkpoint import Checkpoint, open_checkpoint
from ledger.format.note import Verifier

UNPROVEN_MAX: Final = 64


class Seen(NamedTuple):
    """A checkpoint, and the signed note that it came in."""

    checkpoint: Checkpoint
    note: bytes


class Memory:
    """A log as one auditor knows it. Never changed: what is learned is a new one."""

    __slots__ = ("origin", "seen", "verifier")

    def __init__(self, origin: str, verifier: Verifier, seen: tuple[Seen, ...] = ()) -> None:
        self.origin = origin
        self.verifier = verifier
        self.seen = seen
        """By size. The last one is the newest."""

    @classmethod
    def of(cls, origin: str, verifier: Verifier, notes: list[bytes]) -> Self:
        """Raises NoteInvalidError for a note that this key did not sign for this log."""
        seen = [Seen(open_checkpoint(note, verifier, origin), note) for note in notes]
        return cls(origin, verifier, tuple(sorted(seen, key=lambda one: one.checkpoint.size)))

    @property
    def newest(self) -> Checkpoint | None:
        return self.seen[-1].checkpoint if self.seen else None

    def open(self, note: bytes) -> Checkpoint:
        """The checkpoint in a note, if this log's key signed it. Raises NoteInvalidError."""
        return open_checkpoint(note, self.verifier, self.origin)

    def learn(self, note: bytes, proven: Mapping[int, bytes] | None = None, *, older: bool = False) -> Self:
        """The memory with one more checkpoint.

        `proven`: sizes and roots of earlier trees that the checkpoint's tree was shown to continue. `older`: that it is
        an old one is known, so being smaller than the newest is no rollback, and it is not kept.

        Raises NoteInvalidError, RollbackError, ForkError.
        """
        now = self.open(note)
        known = {now.size: now.root, **(proven or {})}
        for before in self.seen:
            root = known.get(before.checkpoint.size)
            if root is not None and root != before.checkpoint.root:
                raise ForkError(_fork(before.checkpoint, root, now))
        newest = self.newest
        if newest is not None and now.size < newest.size:
            if older:
                return self
            raise RollbackError(_rollback(newest, now))
        kept = [one for one in self.seen if one.checkpoint.size not in known]
        if len(kept) >= UNPROVEN_MAX:
            raise ProofInvalidError(
                f"{len(kept)} checkpoints of {self.origin} were seen without a proof that one continues the other: "
                "check a consistency proof or the whole log before taking more"
            )
        return type(self)(self.origin, self.verifier, (*kept, Seen(now, note)))

    def unproven(self, size: int) -> list[int]:
        """The sizes seen that nothing shows the tree of `size` to continue."""
        return [one.checkpoint.size for one in self.seen if one.checkpoint.size < size]


def _rollback(newest: Checkpoint, now: Checkpoint) -> str:
    return (
        f"rollback: {now.origin} shows {now.size} receipts, but a checkpoint of {newest.size} was seen before, signed "
        f"by the same key. Either {newest.size - now.size} receipts that were in the log are gone, or this is an old "
        "copy. Keep both checkpoints: whoever holds the key signed them"
    )


def _fork(before: Checkpoint, root: bytes, now: Checkpoint) -> str:
    same = "this one" if before.size == now.size else f"the tree that this one of {now.size} continues"
    return (
        f"fork: {now.origin} had the root {before.root.hex()} at {before.size} receipts, signed and seen before; "
        f"{same} has the root {root.hex()} there. The log was written anew, or it shows different people different "
        "histories. Keep both checkpoints: whoever holds the key signed them"
    )
