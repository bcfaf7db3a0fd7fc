"""A batch of the log: what gathers in memory, then waits for the disk, and who waits with it."""

import asyncio
from typing import NamedTuple

from ledger.index import Chain


class SealedTo(NamedTuple):
    """What the sealed segments hold: the first `size` receipts, and the tree's root over them."""

    size: int
    root: bytes
    epoch: int


class Batch:
    """Frames, where they stand, and who wants to know when they do."""

    __slots__ = (
        "body", "body_bytes", "count", "first_index", "hashes", "offsets", "root", "sealing", "states", "tenants",
        "waiters",
    )  # fmt: skip

    def __init__(self, first_index: int) -> None:
        self.first_index = first_index
        self.count = 0
        self.body: list[bytes] = []
        """A piece for many receipts, so that one receipt does not leave a handful of cold objects behind."""
        self.body_bytes = 0
        self.hashes: list[bytes] = []
        """Leaf hashes, joined as the body's pieces are."""
        self.offsets: list[int] = []
        self.tenants: list[Chain] = []
        """By receipt: where its frame begins in the body, and whose it is."""
        self.states: dict[str, object] = {}
        self.root = b""
        self.waiters: list[asyncio.Future[None]] = []
        self.sealing: list[asyncio.Future[SealedTo]] = []
        """Who wants the segment sealed behind this batch."""

    def __bool__(self) -> bool:
        return bool(self.count or self.states)

    @property
    def end(self) -> int:
        """The index after its last receipt."""
        return self.first_index + self.count

    def add(self, piece: bytes) -> None:
        """Append to the body."""
        self.body.append(piece)
        self.body_bytes += len(piece)
