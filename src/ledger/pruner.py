"""Drops what a log need not keep any more, here and in the store: first the payloads, with the segments that they stand
in, later the receipts themselves, with their entry bundles. Their hashes stay, so whatever is kept can be proven.

`Pruner.prune` is one round, from top to bottom. What goes is said before it goes: by a receipt, which is committed and
public by then, and by the object `retention`. Whoever finds that object said may finish what it says, as often as he
likes; so a crash anywhere leaves nothing but work. What may go is for `ledger.protocol.pruning` to decide.
"""

import asyncio
import hashlib
import random
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from ledger.backoff import Backoff, with_patience
from ledger.disk import Disk
from ledger.draft import Draft
from ledger.errors import (
    LedgerClosedError,
    LedgerError,
    PushbackError,
    ReceiptNotFoundError,
    RetentionInvalidError,
    StoreLockedError,
    StoreUnavailableError,
    TileInvalidError,
)
from ledger.format import canonical
from ledger.format import retention as formats
from ledger.format.retention import (
    RETENTION_KEY,
    SNAPSHOTS_MAX,
    NamedSnapshot,
    Retention,
    RetentionStatement,
    parse_snapshot_key,
    snapshot_key,
)
from ledger.format.tiles import ENTRIES, TILE_WIDTH, TileId, encode_entries, parse_tile_path, tile_path
from ledger.in_turns import in_turns
from ledger.index import SealedSegments, SegmentKey
from ledger.leaves import read_leaves
from ledger.own_receipts import own_draft
from ledger.protocol.head import Head, parse_segment_key
from ledger.protocol.pruning import Candidate, Wanted, plan
from ledger.snapshots import Standing, find_standing, may_go_below
from ledger.store.object_store import CREATE, ObjectStore
from ledger.store.settled import put_settled

ROUND_S: Final = 3_600.0
LOOK_S: Final = 1.0
PUBLIC_WAIT_S: Final = 900.0
DELETES_AT_ONCE: Final = 16
PUTS_AT_ONCE: Final = 16
_DAY_US: Final = 86_400_000_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What must be kept: payloads for `payloads_days`, receipts for `receipts_days` (None: for ever), and of both at
    least the newest `receipts_min`, however old. A receipt is never dropped before its payload.
    """

    payloads_days: float
    receipts_days: float | None = None
    receipts_min: int = 0


class Log(Protocol):
    """What the pruner needs of `appender.Ledger`."""

    @property
    def origin(self) -> str: ...
    @property
    def sealed(self) -> SealedSegments: ...
    def append(self, draft: Draft) -> int: ...
    async def drop_below(self, first_index: int) -> int: ...


class Commits(Protocol):
    """What the pruner needs of `committer.Committer`."""

    @property
    def head(self) -> Head: ...


class Pruner:
    """One partition's. `read_leaf` gives a receipt that is kept, `published` is the size of the public checkpoint;
    what blocks runs in `executor`. `on_dropped` is called with what was dropped, whenever that was more than before,
    `on_locked` with why the store keeps some of it yet, and `on_failed` with why a round could not end.
    """

    def __init__(
        self,
        log: Log,
        store: ObjectStore,
        commits: Commits,
        disk: Disk,
        folder: Path,
        policy: RetentionPolicy,
        *,
        read_leaf: Callable[[int], Awaitable[bytes]],
        published: Callable[[], int],
        clock_us: Callable[[], int],
        rng: random.Random,
        executor: Executor | None = None,
        on_dropped: Callable[[Retention], None] | None = None,
        on_locked: Callable[[StoreLockedError], None] | None = None,
        on_failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._commits = commits
        self._disk = disk
        self._folder = folder
        self._policy = policy
        self._read_leaf = read_leaf
        self._published = published
        self._clock_us = clock_us
        self._rng = rng
        self._executor = executor
        self._on_dropped = on_dropped
        self._on_locked = on_locked
        self._on_failed = on_failed
        self._dropped: Retention | None = None
        """What the store holds nothing of any more."""
        self._told: Retention | None = None
        """What `on_dropped` was called with."""

    async def run(self) -> None:
        """Prune once an hour, until cancelled. A round that fails leaves more than was wanted, which hurts nobody."""
        while True:
            try:
                await self.prune()
            except (LedgerError, OSError) as error:
                if self._on_failed is not None:
                    self._on_failed(error)
            await asyncio.sleep(ROUND_S * self._rng.uniform(0.9, 1.1))

    async def prune(self) -> bool:
        """One round; false if nothing more may go. Comments say what a crash leaves there.

        Raises StoreUnavailableError, StoreRefusedError, RetentionInvalidError, ReceiptNotFoundError,
        SegmentCorruptError, TileInvalidError, OSError.
        """
        said, generation = await self._read_said()
        standing = await self._blocking(partial(find_standing, self._folder, self._log.origin, self._disk))
        await self._drop(said, standing)
        head = self._commits.head
        await self._wait_public(head.size - 1)
        newest = next((one for one in standing if self._is_of_log(one, head)), None)
        planned = plan(
            said,
            await self._wanted(said, head),
            segments=self._log.sealed.first_indices,
            published=self._published(),
            candidate=None if newest is None else Candidate(newest.name.size, newest.last.first_index),
        )
        if planned is None:
            return False
        if planned.takes_candidate and newest is not None:
            await self._upload(newest)
            # An object that nothing names, collected once it is older than those that are named.
            sha256 = newest.sha256
        else:
            sha256 = said.snapshots[-1].sha256
        await self._put_in_bundles(max(said.segments_from, planned.entries_from), planned.segments_from)
        # Bundles that may be there as well as their segments.
        index = self._state(RetentionStatement(planned.entries_from, planned.segments_from, sha256))
        if index is None:
            return False
        await self._wait_public(index)
        # A public word of what is to go, and nothing gone: the next round says it again.
        named = said.snapshots
        if planned.takes_candidate and newest is not None:
            name = newest.name
            added = NamedSnapshot(name.epoch, newest.last.first_index, index, newest.sha256, name.size)
            named = (*named, added)[-SNAPSHOTS_MAX:]
        saying = Retention(planned.entries_from, planned.segments_from, named)
        encoded, backoff = formats.encode(saying), Backoff(self._rng)
        if not await put_settled(self._store, RETENTION_KEY, encoded, if_generation=generation, backoff=backoff):
            return False  # somebody else has said something meanwhile
        # It holds, and whoever reads it may drop what it says.
        await self._drop(saying, standing)
        return True

    # What may go

    async def _read_said(self) -> tuple[Retention, int]:
        found = await with_patience(lambda: self._store.get(RETENTION_KEY), Backoff(self._rng))
        return (Retention(), CREATE) if found is None else (formats.decode(found.data), found.generation)

    def _is_of_log(self, one: Standing, head: Head) -> bool:
        """Is what it stands for committed? One that was made of a tail that got lost is not."""
        key = SegmentKey(one.last.first_index, one.last.epoch)
        sealed = self._log.sealed
        at = bisect_left(sealed, key, key=lambda each: each.key)
        is_here = at < len(sealed) and (sealed[at].key, sealed[at].sha256) == (key, one.last.sha256)
        return is_here and one.name.size <= head.size

    async def _wanted(self, said: Retention, head: Head) -> Wanted:
        policy, end = self._policy, max(0, head.size - self._policy.receipts_min)
        payloads = await self._older(policy.payloads_days, said.segments_from, end)
        if policy.receipts_days is None:
            return Wanted(payloads, 0)
        return Wanted(payloads, await self._older(policy.receipts_days, said.entries_from, end))

    async def _older(self, days: float, begin: int, end: int) -> int:
        """The index below which receipts are so old. Clocks that were set back make it inexact by as much."""
        cutoff_us = self._clock_us() - int(days * _DAY_US)
        while begin < end:
            middle = (begin + end) // 2
            if canonical.decode(await self._read_leaf(middle)).ts_us < cutoff_us:
                begin = middle + 1
            else:
                end = middle
        return begin

    async def _put_in_bundles(self, begin: int, end: int) -> None:
        """Put receipts whose segments are to go into bundles, as far as the log has not published them so already.
        Both are published as far as the last of these bundles goes.
        """
        numbers = range(begin // TILE_WIDTH, -(-end // TILE_WIDTH))
        present = set(await self._list("tile/entries/")) if numbers else set()
        missing = [number for number in numbers if tile_path(TileId(ENTRIES, number, TILE_WIDTH)) not in present]
        if not missing:
            return
        first, leaves, wanted = missing[0] * TILE_WIDTH, list[bytes](), set(missing)
        sealed = self._log.sealed
        for at in range(bisect_right(sealed, first, key=lambda one: one.end), len(sealed)):
            one = sealed[at]
            if not one.count:
                continue
            if one.first_index > first + len(leaves):
                raise ReceiptNotFoundError(f"receipt {first + len(leaves)} is in no segment here, and in no bundle")
            leaves += (await self._blocking(partial(read_leaves, self._disk, one, first + len(leaves))))[0]
            full = len(leaves) // TILE_WIDTH
            bundles = [
                (TileId(ENTRIES, first // TILE_WIDTH + at, TILE_WIDTH), leaves[at * TILE_WIDTH : (at + 1) * TILE_WIDTH])
                for at in range(full)
            ]
            await in_turns(self._put_bundle, [each for each in bundles if each[0].number in wanted], PUTS_AT_ONCE)
            first, leaves = first + full * TILE_WIDTH, leaves[full * TILE_WIDTH :]
            if first > missing[-1] * TILE_WIDTH:
                return
        raise ReceiptNotFoundError(f"receipts from {first} on are in no segment here, and in no bundle")

    async def _put_bundle(self, bundle: tuple[TileId, list[bytes]]) -> None:
        key, data = tile_path(bundle[0]), encode_entries(bundle[1])
        if not await put_settled(self._store, key, data, if_generation=CREATE, backoff=Backoff(self._rng)):
            raise TileInvalidError(f"{key} in the store has other bytes than this log gives it")

    # Saying it

    async def _upload(self, one: Standing) -> None:
        key = snapshot_key(*one.name, one.sha256)
        data = await self._blocking(lambda: self._disk.read(self._folder / str(one.name)))
        if hashlib.sha256(data).hexdigest() != one.sha256:
            raise StoreUnavailableError(f"{one.name} is another snapshot by now", 0.0)
        if not await put_settled(self._store, key, data, if_generation=CREATE, backoff=Backoff(self._rng)):
            raise RetentionInvalidError(f"{key} holds other bytes than its name says")

    def _state(self, statement: RetentionStatement) -> int | None:
        now_us = self._clock_us()
        draft = own_draft(f"retention-{now_us}", formats.FSM, formats.RULE, formats.evidence(statement), now_us)
        with suppress(PushbackError, LedgerClosedError):  # then it is for the next round
            return self._log.append(draft)
        return None

    async def _wait_public(self, index: int) -> None:
        give_up_s = asyncio.get_running_loop().time() + PUBLIC_WAIT_S
        while self._published() <= index:
            if asyncio.get_running_loop().time() > give_up_s:
                raise StoreUnavailableError(f"receipt {index} is not published", ROUND_S)
            await asyncio.sleep(LOOK_S)

    # Dropping it

    async def _drop(self, said: Retention, standing: Sequence[Standing]) -> None:
        """Remove what was said to be dropped. What is gone already is as good."""
        if said != self._dropped:
            kept = [await self._remove(keys) for keys in await self._dropped_keys(said)]
            if said != self._told and self._on_dropped is not None:
                self._on_dropped(said)
            self._told, self._dropped = said, None if any(kept) else said
        if below := may_go_below(said.segments_from, standing):
            await self._log.drop_below(below)

    async def _remove(self, keys: Sequence[str]) -> bool:
        """Whether the store keeps some of these: those that it has had for less than its retention policy wants."""
        try:
            await in_turns(self._store.delete, keys, DELETES_AT_ONCE)
        except StoreLockedError as error:
            if self._on_locked is not None:
                self._on_locked(error)
            return True
        return False

    async def _dropped_keys(self, said: Retention) -> list[list[str]]:
        """By what they are; the oldest first, so that who reads the log backwards comes as far as possible, and that
        nothing is tried behind one that the store keeps.
        """
        segments, bundles, snapshots = list[str](), list[str](), list[str]()
        if said.segments_from:
            found = ((parse_segment_key(key), key) for key in await self._list("seg/"))
            segments = sorted(key for place, key in found if place is not None and place[0] < said.segments_from)
        if said.entries_from:
            numbered = [(_bundle_number(key), key) for key in await self._list("tile/entries/")]
            bundles = [key for number, key in sorted(numbered) if 0 <= number < said.entries_from // TILE_WIDTH]
        if said.snapshots:
            names = ((parse_snapshot_key(key), key) for key in await self._list("snap/"))
            snapshots = [key for name, key in names if name is not None and name[0] < said.snapshots[0].size]
        return [segments, bundles, snapshots]

    async def _list(self, prefix: str) -> list[str]:
        return await with_patience(lambda: self._store.list(prefix), Backoff(self._rng))

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _bundle_number(key: str) -> int:
    """-1 for an object that is no entry bundle."""
    try:
        return parse_tile_path(key).number
    except ValueError:
        return -1
