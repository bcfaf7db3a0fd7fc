"""The tree as it is published in a store, read from outside."""

from functools import partial
from typing import Final

from ledger.backoff import Backoff, with_patience
from ledger.errors import NoteInvalidError, StoreUnavailableError
from ledger.format import checkpoint
from ledger.format.merkle import HASH_BYTES
from ledger.format.note import split_note
from ledger.format.tiles import TILE_BITS, TILE_WIDTH, TileId, needed_tiles, root_of, tile_path
from ledger.publisher import CHECKPOINT_KEY
from ledger.store.object_store import ObjectStore

_RETRY_S: Final = 1.0


async def published_root(store: ObjectStore, size: int, backoff: Backoff) -> bytes | None:
    """The root that the published log had at `size` receipts; None if fewer are published.

    Raises StoreUnavailableError (also while tiles are being replaced by fuller ones), TileInvalidError.
    """
    found = await with_patience(lambda: store.get(CHECKPOINT_KEY), backoff)
    try:
        published = 0 if found is None else checkpoint.decode(split_note(found.data)[0]).size
    except NoteInvalidError:
        published = 0
    if size > published:
        return None
    tiles = {}
    for tile in needed_tiles([(0, size)], size) if size else ():
        key = tile_path(_as_published(tile, published))
        held = await with_patience(partial(store.get, key), backoff)
        if held is None:
            raise StoreUnavailableError(f"{key} is not there any more", _RETRY_S)
        tiles[tile] = held.data[: tile.width * HASH_BYTES]
    return root_of(size, tiles.__getitem__)


def _as_published(tile: TileId, published: int) -> TileId:
    """The same tile, as wide as it is in the tree of that size."""
    return tile._replace(width=min(TILE_WIDTH, (published >> TILE_BITS * tile.level) - tile.number * TILE_WIDTH))
