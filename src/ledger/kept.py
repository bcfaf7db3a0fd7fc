"""Reads receipts wherever they are kept: in a segment on the disk or, once that is dropped, in a published bundle."""

from typing import Protocol

from ledger.appender import StoredReceipt
from ledger.errors import ReceiptDroppedError, ReceiptNotFoundError
from ledger.format import retention
from ledger.format.retention import RETENTION_KEY
from ledger.format.tiles import ENTRIES, TILE_WIDTH, TileId, decode_entries, tile_path
from ledger.store.object_store import ObjectStore


class Log(Protocol):
    """What is needed of `appender.Ledger`."""

    @property
    def kept_from(self) -> int: ...
    async def read(self, index: int) -> StoredReceipt: ...


class KeptReceipts:
    """Of one partition, whose part of the object store this is."""

    def __init__(self, log: Log, store: ObjectStore) -> None:
        self._log = log
        self._store = store

    async def read(self, index: int) -> StoredReceipt:
        """A durable receipt. Raises ReceiptDroppedError, ReceiptNotFoundError, SegmentCorruptError, TileInvalidError,
        RetentionInvalidError, StoreUnavailableError.
        """
        try:
            return await self._log.read(index)
        except ReceiptNotFoundError:
            if not 0 <= index < self._log.kept_from:
                raise
        # Segments are dropped only once all their receipts are in full bundles.
        bundle = TileId(ENTRIES, index // TILE_WIDTH, TILE_WIDTH)
        found = await self._store.get(tile_path(bundle))
        if found is not None:
            return StoredReceipt(index, decode_entries(found.data, TILE_WIDTH)[index % TILE_WIDTH], committed=True)
        said = await self._store.get(RETENTION_KEY)
        if said is not None and index < (kept_from := retention.decode(said.data).entries_from):
            raise ReceiptDroppedError(index, kept_from)
        raise ReceiptNotFoundError(f"receipt {index} is in no segment here, and its bundle is not in the store")
