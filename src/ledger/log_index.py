"""Where every durable receipt stands: the newest segments' places in memory, all others in the archive.

What happens, happens on the event loop: batches are added as they become durable, and a sealed segment is handed to
the indexing thread, so that no batch waits for the archive. The reading methods block and are for other threads.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Executor
from itertools import takewhile
from pathlib import Path
from typing import Final

from ledger import local_log
from ledger.archive import Archive, is_chain
from ledger.disk import Disk
from ledger.errors import SegmentCorruptError
from ledger.index import BatchPlace, Chain, ReceiptPlace, SealedSegment, SealedSegments, SegmentIndex
from ledger.reader import Stored, read_receipts

_WAITING_MAX: Final = 4
"""Sealed segments that may wait with their places in memory; those of others are read from the segment again."""


class LogIndex:
    """The segments of a log and the places of their receipts. `sealed` is in order; it only grows at its end, and one
    that is shorter at its beginning takes its place, so that a thread can go on with the one that it has.
    """

    def __init__(self, archive: Archive, sealed: Iterable[SealedSegment], folder: Path, disk: Disk) -> None:
        self.sealed = SealedSegments(folder, sealed)
        self._archive = archive
        self._folder = folder
        self._disk = disk
        self._live: list[SegmentIndex] = []
        """Of segments that are not in the archive yet, in order."""
        self._waiting = deque[tuple[SealedSegment, SegmentIndex | None]](
            (one, None) for one in archive.settle(self.sealed)
        )
        self._indexing: Executor | None = None
        self._busy = False

    def start(self, indexing: Executor) -> None:
        """From now on the archive is kept up to date, by one call at a time to this executor."""
        self._indexing = indexing
        self._archive_next()

    def add_batch(self, first_index: int, place: BatchPlace, offsets: Iterable[int], tenants: Iterable[Chain]) -> None:
        """A batch with receipts is on the disk."""
        if not self._live or self._live[-1].key != place.key:
            self._live.append(SegmentIndex(place.key))
        self._live[-1].add(first_index, place, offsets, tenants)

    def add_sealed(self, segments: Iterable[SealedSegment]) -> None:
        """Segments that have their final names."""
        for one in segments:
            self.sealed.append(one)
            index = next((each for each in self._live if each.key == one.key), None)
            if index is not None and len(self._waiting) >= _WAITING_MAX:
                self._live.remove(index)
                index = None
            self._waiting.append((one, index))
        self._archive_next()

    def drop_below(self, first_index: int) -> None:
        """Forget the segments that begin below this receipt. Their files are the caller's."""
        dropped = list(takewhile(lambda one: one.first_index < first_index, self.sealed))
        self.sealed = self.sealed.without_first(len(dropped))
        self._waiting = deque(each for each in self._waiting if each[0].first_index >= first_index)
        self._live = [one for one in self._live if one.key.first_index >= first_index]
        self._archive.keep(self.sealed)
        if self._indexing is not None:
            asyncio.get_running_loop().run_in_executor(self._indexing, self._archive.forget, dropped)

    async def stop(self) -> None:
        """Finish the segment under way and let go of the archive: the next start does the rest."""
        self._waiting.clear()
        await asyncio.get_running_loop().run_in_executor(self._indexing, self._archive.close)

    def close(self) -> None:
        """`stop`, for an index that was not started."""
        self._archive.close()

    # Blocking

    def remove_below(self, first_index: int) -> int:
        """Remove the files of what was dropped, also by calls that failed; how many those were. Raises OSError."""
        return local_log.remove_below(self._disk, self._folder, first_index)

    def read(self, index: int) -> Stored:
        """A durable receipt. Raises ReceiptNotFoundError for one that is not here any more, SegmentCorruptError."""
        try:
            (stored,) = read_receipts(self._folder, [self._place_of(index)], self._disk)
        except FileNotFoundError:
            self._place_of(index)  # raises, if its segment was dropped meanwhile
            raise
        return stored

    def read_chain(self, pseudonym: str, after: int, limit: int, end: int) -> list[Stored]:
        """The first `limit` of a tenant's receipts with `after < index < end`; all of them are durable.

        Raises SegmentCorruptError.
        """
        places: list[ReceiptPlace] = []
        for _ in range(2):
            live = tuple(self._live)  # before the archive: what leaves it meanwhile is there
            places = self._archive.places_of(pseudonym, after, limit, live[0].key.first_index if live else end)
            for one in live:
                mine = one.indices_of(pseudonym, after, end)[: limit - len(places)]
                places += [one.batches.place_of(index) for index in mine]
            try:
                found = read_receipts(self._folder, places, self._disk)
            except FileNotFoundError:
                continue  # its segment was dropped meanwhile: look again
            if is_chain((stored.leaf for stored in found), pseudonym):
                return found
            self._archive.distrust(places)
        raise SegmentCorruptError(self._folder, 0, places[0].index, "a tenant's chain is broken")

    def _place_of(self, index: int) -> ReceiptPlace:
        live = tuple(self._live)
        at = bisect_right(live, index, key=lambda one: one.key.first_index)
        return live[at - 1].batches.place_of(index) if at else self._archive.place_of(index)

    # The archive

    def _archive_next(self) -> None:
        if self._waiting and self._indexing is not None and not self._busy:
            self._busy = True
            one, index = self._waiting.popleft()
            adding = asyncio.get_running_loop().run_in_executor(self._indexing, self._archive.add, one, index)
            adding.add_done_callback(lambda done: self._archived(one, done))

    def _archived(self, one: SealedSegment, done: "asyncio.Future[None]") -> None:
        # A segment that cannot be read is an error of whoever asks for its receipts, not of the archive.
        done.cancelled() or done.exception()
        self._live = [each for each in self._live if each.key != one.key]
        self._busy = False
        self._archive_next()
