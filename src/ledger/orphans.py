"""Collects segments that no head ever named: a crash between an upload and its commit leaves one, a fenced writer too.

A name in the store is no fence, so this must not race with anybody who still wants to use one. An object goes only if
it was an orphan in a listing a day ago, is one still, and the head was written by us in between and again right before
it goes: so whoever else might name it was fenced all along, and whoever takes over later uploads under names of its
own, with fresh random digits. In doubt an object stays: it costs little.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final, Protocol

from ledger.errors import StoreLockedError, StoreUnavailableError
from ledger.index import SealedSegments, SegmentKey
from ledger.protocol.head import Head, parse_segment_key
from ledger.store.object_store import ObjectStore

GRACE_S: Final = 86_400.0
SWEEP_S: Final = 6 * 3_600.0


class Log(Protocol):
    """What the collector needs of `appender.Ledger`: the segments of the log that are on the disk."""

    @property
    def sealed(self) -> SealedSegments: ...


class OrphanCollector:
    """One partition's. `confirm` writes a head and raises if that is not ours any more. The store's listing is
    gone through in `executor`: it may be long.
    """

    def __init__(
        self,
        store: ObjectStore,
        confirm: Callable[[], Awaitable[Head]],
        log: Log,
        *,
        executor: Executor | None = None,
        on_locked: Callable[[StoreLockedError], None] | None = None,
    ) -> None:
        """`on_locked` is called with why the store keeps an object that is to go: the next sweep tries again."""
        self._executor = executor
        self._on_locked = on_locked
        self._store = store
        self._confirm = confirm
        self._log = log
        self._seen_s: dict[str, float] = {}
        """Since when an object is known to be an orphan."""

    async def run(self) -> None:
        """Sweep four times a day. Raises what the head's writing raises.

        Never at once: a sweep writes the head, and whoever has just taken over has a commit that waits for its turn.
        """
        while True:
            await asyncio.sleep(SWEEP_S)
            with suppress(StoreUnavailableError):
                await self.sweep()

    async def sweep(self) -> list[str]:
        """Delete what has been an orphan for a day, as far as the store lets it go; the keys of those. Raises
        StoreUnavailableError too.
        """
        head = await self._confirm()
        loop = asyncio.get_running_loop()
        now_s, listed = loop.time(), await self._store.list("seg/")
        orphans = await loop.run_in_executor(self._executor, self._orphans, head, listed)
        self._seen_s = {key: self._seen_s.get(key, now_s) for key in orphans}
        ripe = [key for key, since_s in self._seen_s.items() if now_s - since_s >= GRACE_S]
        if ripe:
            await self._confirm()
        gone: list[str] = []
        for key in ripe:
            try:
                await self._store.delete(key)
            except StoreLockedError as error:
                if self._on_locked is not None:
                    self._on_locked(error)
                break  # the others are no older
            gone.append(key)
            del self._seen_s[key]
        return gone

    def _orphans(self, head: Head, listed: Iterable[str]) -> list[str]:
        """Objects below the head whose place in the log another segment has, or none: their writers were fenced.

        Of several copies of one segment it cannot be told which one the log's readers will use, so all stay. So does
        what lies before the first segment on this disk: it may have been dropped here and kept there.
        """
        own = list(self._log.sealed.keys())
        if not own:
            return []
        ours = set(own)
        return [
            key
            for key in listed
            if (at := parse_segment_key(key)) is not None
            and SegmentKey(*at) not in ours
            and own[0].first_index <= at[0] < head.size
            and at[1] < head.epoch
        ]
