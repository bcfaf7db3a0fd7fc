"""Publishes what is committed: tiles and entry bundles, lists of heads, and last the checkpoint that covers them.

Only what the head names is published, so nothing here can be taken back, and a writer that was fenced has nothing to
publish that the log does not contain. Tiles never change: one that is there already must have the same bytes. The
checkpoint is replaced only where the one there is not newer, so a late write never rolls it back.

Formats: C2SP tlog-tiles and tlog-checkpoint (docs/formats/tiles.md, checkpoint.md).
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from ledger.authority import HEAD_KEY
from ledger.backoff import Backoff, with_patience
from ledger.chains import ChainHead
from ledger.disk import Disk
from ledger.draft import Draft
from ledger.errors import (
    LedgerClosedError,
    LogForkedError,
    NoteInvalidError,
    PushbackError,
    StoreUnavailableError,
    WriterFencedError,
)
from ledger.format import checkpoint as checkpoints
from ledger.format import heads as heads_format
from ledger.format.checkpoint import Checkpoint
from ledger.format.heads import HeadList, HeadsStatement
from ledger.format.note import split_note
from ledger.format.tiles import (
    ENTRIES,
    TILE_WIDTH,
    TileId,
    TileTree,
    bundles_between,
    decode_entries,
    edge_tiles,
    encode_entries,
    tile_path,
    tiles_between,
)
from ledger.in_turns import in_turns
from ledger.index import SealedSegment
from ledger.leaves import read_leaves
from ledger.own_receipts import own_draft
from ledger.protocol.head import Head, decode_head
from ledger.store.object_store import CREATE, Lost, ObjectStore, Unknown, Won

CHECKPOINT_KEY: Final = "checkpoint"
PUTS_AT_ONCE: Final = 16
T = TypeVar("T")


class Log(Protocol):
    """What the publisher needs of `appender.Ledger`."""

    @property
    def origin(self) -> str: ...
    @property
    def local_size(self) -> int: ...
    def sealed_since(self, first_index: int) -> Sequence[SealedSegment]: ...
    def chain_heads(self) -> tuple[int, list[ChainHead]]: ...
    def append(self, draft: Draft) -> int: ...
    def fail(self, error: BaseException) -> None: ...


class Commits(Protocol):
    """What the publisher needs of `committer.Committer`."""

    @property
    def head(self) -> Head: ...
    async def wait_beyond(self, size: int) -> Head: ...


@dataclass(frozen=True, slots=True)
class PublishCadence:
    """`interval_s`: from one checkpoint to the next (Cloud Storage takes one write a second of an object).
    `heads_every`: after so many checkpoints comes a heads receipt, if the log has grown; 0 for never.
    """

    interval_s: float = 30.0
    heads_every: int = 20


def heads_key(index: int) -> str:
    """Where the list is stored over which heads receipt `index` has its root."""
    return f"heads/{index:020d}"


class Publisher:
    """One partition's. What blocks runs in `executor`. Without `entries` there are no entry bundles: the receipts are
    in the segments, which are in the store too, and whoever drops these (`pruner`) writes the bundles first.

    `on_published(size)` is called for each new checkpoint.
    """

    def __init__(
        self,
        log: Log,
        store: ObjectStore,
        commits: Commits,
        disk: Disk,
        *,
        clock_us: Callable[[], int],
        rng: random.Random,
        cadence: PublishCadence = PublishCadence(),
        entries: bool = True,
        executor: Executor | None = None,
        on_published: Callable[[int], None] | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._commits = commits
        self._disk = disk
        self._clock_us = clock_us
        self._rng = rng
        self._cadence = cadence
        self._entries = entries
        self._executor = executor
        self._on_published = on_published
        self._tree: TileTree | None = None
        self._written = 0
        """All full tiles and bundles of the tree of this size are in the store."""
        self._tail: list[bytes] = []
        """The leaves after the last full bundle, up to there, where there are bundles."""
        self._partial: dict[tuple[int, int], set[int]] = {}
        """Of tiles and bundles by level and number: how wide they were written while they were not full."""
        self._known_from = 0
        """Of those that begin here or later, nobody else has written any."""
        self._published = 0
        self._published_s = 0.0
        """When the public checkpoint was last found to cover what is committed."""
        self._generation = CREATE
        self._count = 0
        self._heads: tuple[int, bytes] | None = None
        """Index of the last heads receipt, and the list it speaks of, while that is not in the store."""
        self._spoken_of = 0
        """The size after the last heads receipt."""

    @property
    def published_size(self) -> int:
        """How many receipts the public checkpoint covers."""
        return self._published

    def waited_s(self) -> float:
        """How long receipts have waited for a public checkpoint, about; 0 if it covers all that is committed."""
        if self._tree is None or self._commits.head.size == self._published:
            return 0.0
        return asyncio.get_running_loop().time() - self._published_s

    async def run(self) -> None:
        """Publish whenever there is something, until cancelled.

        Raises WriterFencedError and LogForkedError: the process must end then. The ledger has been told already, and
        answers nobody. Raises StoreRefusedError, SegmentCorruptError, and what ended the committer.
        """
        try:
            while True:
                await self._commits.wait_beyond(self._published)
                with suppress(StoreUnavailableError):
                    if await self.publish():
                        await self._speak_of_heads()
                await asyncio.sleep(self._cadence.interval_s)
        except (WriterFencedError, LogForkedError) as error:
            # What is public is not this log. No new attempt can change that, and each answer would make it worse.
            self._log.fail(error)
            raise

    async def publish(self) -> bool:
        """Publish what is committed; false if it is published already. Each step's comment says what a crash after it
        leaves. Raises as `run` does, and StoreUnavailableError.
        """
        head = self._commits.head
        if self._tree is None:
            self._published_s = asyncio.get_running_loop().time()
            await self._resume(head)
        if head.size == self._published:
            self._published_s = asyncio.get_running_loop().time()
            return False
        for one in self._log.sealed_since(self._written):
            if one.first_index >= head.size:
                break
            await self._write_full(one)
            # Full tiles that every later tree has: whoever comes next writes the same bytes and finds them there.
        await self._write_edge(head.size)
        # Partial tiles of a size that nobody was told of.
        await self._write_heads(head.size)
        await self._replace_checkpoint(head)
        # All of it is public.
        before, self._published, self._published_s = self._published, head.size, asyncio.get_running_loop().time()
        if self._on_published is not None:
            self._on_published(head.size)
        await self._remove_partial(before, head.size)
        return True

    async def _resume(self, head: Head) -> None:
        """Read the right edge of what was published: from there on the tree is extended."""
        found = await self._read(CHECKPOINT_KEY)
        self._known_from = head.size
        if found is None:
            self._tree = TileTree()
            return
        data, self._generation = found
        published = self._read_checkpoint(data)
        if published.size > head.size:
            raise await self._explain(published.size, head)
        tiles = {tile: await self._read(tile_path(tile)) for tile in edge_tiles(published.size)}
        missing = [tile_path(tile) for tile, data_ in tiles.items() if data_ is None]
        if missing:
            now = await self._read(CHECKPOINT_KEY)
            if now is not None and now[1] != self._generation:
                # A late write of the last owner, who has removed partial tiles since that are full by now.
                await self._resume(head)
                return
            raise LogForkedError(f"{missing[0]} was published and is not in the store any more")
        edge = {tile: data_[0] for tile, data_ in tiles.items() if data_ is not None}
        tree = TileTree.from_edge(published.size, edge.__getitem__)
        if tree.root() != published.root:
            raise LogForkedError(f"the published tiles of {published.size} receipts have another root")
        if self._entries:
            self._tail = await self._read_tail(published.size)
        self._tree, self._written, self._published = tree, published.size, published.size

    async def _read_tail(self, size: int) -> list[bytes]:
        """The leaves after the last full bundle of the log of this size: it may have published none until now."""
        begin = size - size % TILE_WIDTH
        bundle = TileId(ENTRIES, begin // TILE_WIDTH, size - begin)
        if not bundle.width:
            return []
        if (found := await self._read(tile_path(bundle))) is not None:
            return decode_entries(found[0], bundle.width)
        leaves: list[bytes] = []
        for one in self._log.sealed_since(begin):
            if one.first_index > begin + len(leaves) or len(leaves) >= bundle.width:
                break
            leaves += (await self._blocking(partial(read_leaves, self._disk, one, begin)))[0]
        if len(leaves) < bundle.width:
            raise LogForkedError(f"{tile_path(bundle)} was published and is not in the store any more")
        return leaves[: bundle.width]

    async def _explain(self, published: int, head: Head) -> Exception:
        """Why more is published than we know to be committed: mostly because the log is another writer's by now."""
        found = await self._read(HEAD_KEY)
        if found is not None and (epoch := decode_head(found[0]).epoch) > head.epoch:
            return WriterFencedError(
                f"another writer has published {published} receipts under epoch {epoch}, and this one has {head.epoch}"
            )
        return LogForkedError(f"{published} receipts were published, and {head.size} are committed")

    async def _write_full(self, one: SealedSegment) -> None:
        """Extend the tree by a segment, and write the tiles and bundles that it fills."""
        tree, old = self._tree, self._written
        assert tree is not None  # noqa: S101 - publish() has made it
        if one.first_index > old:
            raise LogForkedError(
                f"receipts from {old} on are to be published, and the segments here begin at {one.first_index}: bring "
                "back the public checkpoint, or the segments before"
            )
        leaves, hashes = await self._blocking(lambda: read_leaves(self._disk, one, old))
        new = old + len(leaves)
        tree.extend(hashes[(tree.size - old) * 32 :])  # an attempt before this one may have got so far
        writes = [(tile, tree.tile(tile)) for tile in tiles_between(old, new) if tile.width == TILE_WIDTH]
        tail: list[bytes] = []
        if self._entries:
            entries, base = self._tail + leaves, old - len(self._tail)
            writes += [
                (tile, encode_entries(entries[(start := tile.number * TILE_WIDTH - base) : start + TILE_WIDTH]))
                for tile in bundles_between(old, new)
                if tile.width == TILE_WIDTH
            ]
            tail = entries[new - new % TILE_WIDTH - base :]
        await self._put_all((tile_path(tile), data) for tile, data in writes)
        tree.forget_below(new)
        self._tail, self._written = tail, new

    async def _write_edge(self, size: int) -> None:
        """Write the partial tiles and the partial bundle of the tree of `size`, unless they are as they were."""
        tree = self._tree
        assert tree is not None  # noqa: S101 - publish() has made it
        if self._written != size:
            raise LogForkedError(f"the segments here end at receipt {self._written}, and {size} are committed")
        edge = [*edge_tiles(size)]
        if self._tail:
            edge.append(TileId(ENTRIES, size // TILE_WIDTH, len(self._tail)))
        new = [one for one in edge if one.width not in self._partial.get((one.level, one.number), ())]
        await self._put_all(
            (tile_path(one), encode_entries(self._tail) if one.level == ENTRIES else tree.tile(one)) for one in new
        )
        for one in new:
            self._partial.setdefault((one.level, one.number), set()).add(one.width)

    async def _speak_of_heads(self) -> None:
        """Append a heads receipt, if it is time and there is something new to say."""
        self._count += 1
        every = self._cadence.heads_every
        if not every or self._count % every or self._log.local_size <= self._spoken_of:
            return
        size, chains = self._log.chain_heads()
        heads = await self._blocking(
            lambda: HeadList.of((one.pseudonym, one.next_tseq, one.leaf_hash) for one in chains)
        )
        statement = HeadsStatement(len(heads), size, heads.root())
        with suppress(PushbackError, LedgerClosedError):  # then it is for the next time
            index = self._log.append(
                own_draft(
                    f"heads-{statement.size}",
                    heads_format.FSM,
                    heads_format.RULE,
                    heads_format.evidence(statement),
                    self._clock_us(),
                )
            )
            self._heads = (index, heads.encoded)
            self._spoken_of = index + 1

    async def _write_heads(self, size: int) -> None:
        if self._heads is not None and self._heads[0] < size:
            index, encoded = self._heads
            await self._put_once(heads_key(index), encoded)
            self._heads = None

    async def _replace_checkpoint(self, head: Head) -> None:
        """Put the head's checkpoint in the place of an older one, never of a newer one."""
        data = head.checkpoint.encode()
        backoff = Backoff(self._rng)
        while True:
            match await self._store.put(CHECKPOINT_KEY, data, if_generation=self._generation):
                case Won(generation):
                    self._generation = generation
                    return
                case Unknown(_, retry_after_s):
                    await backoff.wait(retry_after_s)
                case Lost():
                    await backoff.wait()
            # Lost or unknown: what is there now decides.
            found = await self._read(CHECKPOINT_KEY)
            self._generation = CREATE if found is None else found[1]
            if found is None:
                continue
            if found[0] == data:
                return
            there = self._read_checkpoint(found[0])
            if there.size > head.size:
                raise WriterFencedError(f"another writer has published {there.size} receipts, and this one {head.size}")

    async def _remove_partial(self, old: int, new: int) -> None:
        """Remove the partial tiles of tiles that are full by now: whoever looks for one takes the full one."""
        bundle = TileId(ENTRIES, old // TILE_WIDTH, old % TILE_WIDTH if self._entries else 0)
        for level, number, width in (*edge_tiles(old), bundle):
            per_tile = TILE_WIDTH ** (max(level, 0) + 1)
            if width and (number + 1) * per_tile <= new:
                widths = self._partial.pop((level, number), set())
                keys = [tile_path(TileId(level, number, one)) for one in sorted(widths)]
                if number * per_tile < self._known_from:
                    keys = await self._store.list(f"{tile_path(TileId(level, number, TILE_WIDTH))}.p/")
                for key in keys:
                    await self._store.delete(key)

    async def _put_all(self, writes: Iterable[tuple[str, bytes]]) -> None:
        await in_turns(lambda one: self._put_once(*one), list(writes), PUTS_AT_ONCE)

    async def _put_once(self, key: str, data: bytes) -> None:
        """Create an object that never changes."""
        backoff = Backoff(self._rng)
        while True:
            match await self._store.put(key, data, if_generation=CREATE):
                case Won():
                    return
                case Unknown(_, retry_after_s):
                    await backoff.wait(retry_after_s)
                case Lost():
                    found = await self._read(key)
                    if found is not None and found[0] != data:
                        raise LogForkedError(f"{key} in the store has other bytes than this log gives it")
                    if found is not None:
                        return

    async def _read(self, key: str) -> tuple[bytes, int] | None:
        found = await with_patience(lambda: self._store.get(key), Backoff(self._rng))
        return None if found is None else (found.data, found.generation)

    def _read_checkpoint(self, note: bytes) -> Checkpoint:
        """What the public checkpoint says. The head vouches for what is committed, so its signature is not asked."""
        try:
            found = checkpoints.decode(split_note(note)[0])
        except NoteInvalidError as error:
            raise LogForkedError(f"the public checkpoint is not one: {error}") from error
        if found.origin != self._log.origin:
            raise LogForkedError(f"the public checkpoint is of the log {found.origin!r}, not {self._log.origin!r}")
        return found

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
