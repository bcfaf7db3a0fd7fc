"""Proofs of what a running log has committed: made from published tiles, and from memory where those are yet to come.

Everything is proven under the head's checkpoint, which is signed and committed, also while the public one lags behind.
A receipt that is newer still has the log committed at once, and waits for that: what is not committed can be lost, and
so is not proven.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from ledger.appender import StoredReceipt
from ledger.errors import ProofInvalidError, ReceiptDroppedError, ReceiptNotFoundError, StoreUnavailableError
from ledger.format import canonical
from ledger.format.batch_proof import batch_ranges
from ledger.format.heads import HeadList, read_statement
from ledger.format.merkle import EMPTY_ROOT, HASH_BYTES, consistency_ranges, inclusion_ranges
from ledger.format.proof import TlogProof
from ledger.format.tiles import (
    ENTRIES,
    TILE_BITS,
    TILE_WIDTH,
    Ranges,
    TileId,
    TileTree,
    encode_entries,
    needed_tiles,
    range_hashes,
    tile_path,
)
from ledger.kept import KeptReceipts
from ledger.protocol.head import Head
from ledger.publisher import heads_key
from ledger.store.object_store import ObjectStore
from ledger.verify.documents import BundledHeads, BundledReceipt, Consistency, TenantBundle, Tree

COMMIT_WAIT_S: Final = 5.0
TILES_CACHED_MAX: Final = 1_024
"""Full ones, of 8 kB."""
_TAKE_S: Final = 0.25
"""Well before the ledger forgets hashes that nobody takes."""
_RETRY_S: Final = 2.0
_AT_ONCE_MAX: Final = 128
"""Hashes of a proof that are computed on the event loop; a single receipt's has fewer, a tenant's bundle thousands."""
_HEADS_PREFIX: Final = "heads/"


class Log(Protocol):
    """What the prover needs of `appender.Ledger`."""

    @property
    def local_size(self) -> int: ...
    @property
    def kept_from(self) -> int: ...
    @property
    def hashes_from(self) -> int: ...
    def take_hashes(self) -> bytes: ...
    def pseudonym(self, tenant: str) -> str: ...
    async def read(self, index: int) -> StoredReceipt: ...
    async def tenant_receipts(self, tenant: str, after: int, limit: int) -> list[StoredReceipt]: ...


class Commits(Protocol):
    """What it needs of `committer.Committer`."""

    @property
    def head(self) -> Head: ...
    async def commit_now(self) -> Head: ...


class Prover:
    """One partition's. `edge` is the tree as of the log's `hashes_from`; `published` says how many receipts have all
    their tiles in the store, so that no more than those after them are kept here (32 bytes each). `executor` runs what
    blocks.
    """

    def __init__(
        self,
        log: Log,
        commits: Commits,
        store: ObjectStore,
        published: Callable[[], int],
        edge: TileTree,
        *,
        executor: Executor | None = None,
    ) -> None:
        self._log = log
        self._commits = commits
        self._store = store
        self._published = published
        self._executor = executor
        self.receipts: Final = KeptReceipts(log, store)
        self._tree = TileTree.from_state(edge.state())
        self._tiles: OrderedDict[TileId, bytes] = OrderedDict()
        self._last_heads = ""
        self._heads: tuple[str, HeadList] | None = None

    async def run(self) -> None:
        """Keep up with the log, until cancelled."""
        while True:
            self._keep_up()
            await asyncio.sleep(_TAKE_S)

    @property
    def head(self) -> Head:
        """What is committed."""
        return self._commits.head

    async def inclusion(self, index: int) -> tuple[TlogProof, Head]:
        """The proof of one receipt, with its leaf, and the head that it is proven under.

        Raises ReceiptNotFoundError, StoreUnavailableError.
        """
        head = await self._head_with(index)
        stored = await self.receipts.read(index)
        path = await self._hashes(inclusion_ranges(index, head.size), head.size)
        return TlogProof(index, tuple(path), head.checkpoint.encode(), stored.leaf), head

    async def consistency(self, old: int, size: int | None = None) -> Consistency:
        """That the log of `size` receipts (default: all that are committed) continues that of `old`.

        Raises ReceiptNotFoundError if the log does not go so far, IndexError if `old` is above `size`.
        """
        head = self.head
        new = head.size if size is None else size
        if max(old, new) > head.size:
            head = await self._head_with(max(old, new) - 1)
        proof = await self._hashes(consistency_ranges(old, new), new)
        rest = await self._hashes(consistency_ranges(new, head.size), head.size)
        before, after = Tree(old, await self.root(old)), Tree(new, await self.root(new))
        return Consistency(head.checkpoint, before, after, proof, rest)

    async def tenant_bundle(self, tenant: str, after: int, limit: int) -> TenantBundle | None:
        """At most `limit` of a tenant's receipts that are committed, from behind index `after` on; None if there are
        none. Raises StoreUnavailableError.
        """
        found = await self._log.tenant_receipts(tenant, after, limit + 1)
        if not found:
            return None
        page = found[:limit]
        head = await self._head_with(page[-1].index)
        pseudonym = self._log.pseudonym(tenant)
        shown = await self._heads_of(pseudonym, head.size)
        indices = sorted({*(one.index for one in page), *([shown.index] if shown is not None else [])})
        return TenantBundle(
            head.checkpoint,
            pseudonym,
            [BundledReceipt(one.index, one.leaf) for one in page],
            shown,
            await self._hashes(batch_ranges(indices, head.size), head.size),
            len(found) > limit,
        )

    async def tile(self, tile: TileId) -> bytes:
        """A tile, or an entry bundle, of the committed log. Raises ReceiptNotFoundError, StoreUnavailableError."""
        end = (tile.number * TILE_WIDTH + tile.width) << TILE_BITS * max(tile.level, 0)
        if end > self.head.size:
            raise ReceiptNotFoundError(f"{tile_path(tile)} goes beyond the {self.head.size} receipts of the log")
        if tile.level == ENTRIES:
            return await self._entries(tile)
        return await self._tile(tile)

    async def root(self, size: int) -> bytes:
        """The root that the log had at `size` receipts, all of them committed. Raises StoreUnavailableError."""
        return (await self._hashes([(0, size)], size))[0] if size else EMPTY_ROOT

    # The tree

    def _keep_up(self) -> None:
        if self._log.hashes_from != self._tree.size:
            raise AssertionError("leaf hashes were taken by somebody else, or too late")
        self._tree.extend(self._log.take_hashes())
        self._tree.forget_below(min(self._published(), self._tree.size))

    async def _head_with(self, index: int) -> Head:
        """A head that has this receipt."""
        if index < self.head.size:
            return self.head
        if index >= self._log.local_size:
            raise ReceiptNotFoundError(f"no receipt {index}: the log has {self._log.local_size}")
        try:
            async with asyncio.timeout(COMMIT_WAIT_S):
                return await self._commits.commit_now()
        except TimeoutError:
            raise StoreUnavailableError(f"receipt {index} is not committed yet", _RETRY_S) from None

    async def _hashes(self, ranges: Ranges, size: int) -> list[bytes]:
        """The roots over these ranges of the tree of `size`."""
        ranges = list(ranges)
        self._keep_up()
        wanted = list(needed_tiles(ranges, size))
        tiles = dict(zip(wanted, await asyncio.gather(*map(self._tile, wanted)), strict=True))
        if len(ranges) <= _AT_ONCE_MAX:
            return range_hashes(ranges, size, tiles.__getitem__)
        work = partial(range_hashes, ranges, size, tiles.__getitem__)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _tile(self, tile: TileId) -> bytes:
        """From memory if it is young, else from the store, where it is full by now."""
        with suppress(LookupError):
            return self._tree.tile(tile)
        full = tile._replace(width=TILE_WIDTH)
        data = self._tiles.get(full)
        if data is None:
            data = self._tiles[full] = await self._fetch(full, TILE_WIDTH * HASH_BYTES)
            while len(self._tiles) > TILES_CACHED_MAX:
                self._tiles.popitem(last=False)
        self._tiles.move_to_end(full)
        return data[: tile.width * HASH_BYTES]

    async def _entries(self, bundle: TileId) -> bytes:
        found = await self._store.get(tile_path(bundle))
        if found is not None:
            return found.data
        first = bundle.number * TILE_WIDTH
        return encode_entries([(await self.receipts.read(index)).leaf for index in range(first, first + bundle.width)])

    async def _fetch(self, tile: TileId, length: int) -> bytes:
        found = await self._store.get(tile_path(tile))
        if found is None or len(found.data) != length:
            raise StoreUnavailableError(f"{tile_path(tile)} is not published yet", _RETRY_S)
        return found.data

    # Heads

    async def _heads_of(self, pseudonym: str, size: int) -> BundledHeads | None:
        """What the newest heads receipt below `size` says of the tenant; None if there is none that speaks of it."""
        heads = await self._newest_heads(size)
        if heads is None:
            return None
        index, entries = heads
        try:
            proof = entries.prove(pseudonym)
        except KeyError:
            return None
        try:
            leaf = (await self.receipts.read(index)).leaf
        except ReceiptDroppedError:
            return None  # nothing was decided since, for as long as receipts are kept
        if read_statement(canonical.decode(leaf)).root != entries.root():
            raise ProofInvalidError(f"the list in {heads_key(index)} is not the one that receipt {index} speaks of")
        head = proof.head
        return BundledHeads(index, leaf, head.next_tseq, head.leaf_hash, proof.index, list(proof.path))

    async def _newest_heads(self, size: int) -> tuple[int, HeadList] | None:
        keys = await self._store.list(_HEADS_PREFIX, self._last_heads)
        known = [key for key in (self._last_heads, *keys) if key and _index_of(key) < size]
        if not known:
            return None
        self._last_heads = newest = known[-1]
        if self._heads is None or self._heads[0] != newest:
            found = await self._store.get(newest)
            if found is None:
                return None
            entries = await asyncio.get_running_loop().run_in_executor(self._executor, HeadList, found.data)
            self._heads = (newest, entries)
        return _index_of(newest), self._heads[1]


def _index_of(key: str) -> int:
    return int(key.removeprefix(_HEADS_PREFIX))
