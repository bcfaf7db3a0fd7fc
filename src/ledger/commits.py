"""What a log's committer needs of its writer: who waits for a commit, and the leaf hashes that are new on the disk."""

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable
from typing import Final

from ledger.format.merkle import HASH_BYTES

HASHES_KEPT_MAX: Final = 1 << 18
"""8 MiB of them. Who comes too late for one finds its receipt in the segments."""


class Commits:
    """How many receipts are committed, and those who wait for more. Lives on one event loop."""

    def __init__(self) -> None:
        self.size = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        """A heap: index, a number that keeps equal ones apart, and who waits."""
        self._count = 0

    async def wait(self, index: int) -> None:
        """Return when receipt `index` is committed."""
        if index >= self.size:
            committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._count += 1
            heapq.heappush(self._waiting, (index, self._count, committed))
            await committed

    def mark(self, size: int) -> None:
        """The first `size` receipts are committed: wake those who wait for them."""
        self.size = size
        while self._waiting and self._waiting[0][0] < size:
            _, _, waiter = heapq.heappop(self._waiting)
            if not waiter.done():
                waiter.set_result(None)

    def dismiss(self, error: Exception) -> None:
        """Nobody will ever know: everyone who waits gets the error."""
        waiting, self._waiting = self._waiting, []
        for _, _, waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)


class FreshHashes:
    """Leaf hashes of durable receipts until somebody takes them. `first_index` is that of the first one kept."""

    def __init__(self, first_index: int, pieces: Iterable[bytes] = ()) -> None:
        self.first_index = first_index
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self.add(pieces)

    def add(self, pieces: Iterable[bytes]) -> None:
        """Keep the hashes of receipts that became durable, a bytes object for many; forget the oldest if there are
        too many.
        """
        for piece in pieces:
            self._pieces.append(piece)
            self._kept += len(piece) // HASH_BYTES
        while self._kept > HASHES_KEPT_MAX:
            self._drop(len(self._pieces.popleft()) // HASH_BYTES)

    def take(self) -> bytes:
        """All that are kept, 32 bytes each."""
        hashes = b"".join(self._pieces)
        self._pieces.clear()
        self._drop(self._kept)
        return hashes

    def _drop(self, count: int) -> None:
        self._kept -= count
        self.first_index += count
