"""Copies what a log has published of itself into another store: the tree, the receipts in bundles, what was dropped.

Needed with segments that do not begin with the first receipt: the tiles are what their roots are derived from then,
the bundles are where receipts without payloads are kept, and a replay begins with a snapshot.
"""

from collections.abc import Callable
from typing import Final

from ledger.backoff import PATIENCE_S, Backoff, with_patience
from ledger.errors import RestoreError, StoreUnavailableError
from ledger.format.retention import RETENTION_KEY
from ledger.in_turns import in_turns
from ledger.publisher import CHECKPOINT_KEY
from ledger.store.object_store import CREATE, Object, ObjectStore
from ledger.store.settled import put_settled

COPIED: Final = ("tile/", "snap/")
AT_ONCE: Final = 16
ROUNDS_MAX: Final = 10
_RETRY_S: Final = 5.0


async def mirror(source: ObjectStore, target: ObjectStore, backoff: Callable[[], Backoff]) -> int:
    """Copy what `target` does not have yet; how many bytes that were. The checkpoint comes last, so what it covers is
    there. A log may go on publishing meanwhile.

    Raises RestoreError if `target` has something else, StoreUnavailableError, StoreRefusedError.
    """
    return await _Mirror(source, target, backoff).run()


class _Mirror:
    def __init__(self, source: ObjectStore, target: ObjectStore, backoff: Callable[[], Backoff]) -> None:
        self._source = source
        self._target = target
        self._backoff = backoff
        self._copied = 0

    async def run(self) -> int:
        for _ in range(ROUNDS_MAX):
            checkpoint = await self._get(CHECKPOINT_KEY)
            for prefix in COPIED:
                present = set(await self._list(self._target, prefix))
                missing = [key for key in await self._list(self._source, prefix) if key not in present]
                await in_turns(self._copy, missing, AT_ONCE)
            said = await self._get(RETENTION_KEY)
            # A newer checkpoint covers partial tiles that were not listed, and those of this one may be gone by now.
            if checkpoint is not None and checkpoint == await self._get(CHECKPOINT_KEY):
                if said is not None:
                    await self._replace(RETENTION_KEY, said.data)
                await self._replace(CHECKPOINT_KEY, checkpoint.data)
                return self._copied
        raise StoreUnavailableError("it publishes faster than that can be copied", _RETRY_S)

    async def _copy(self, key: str) -> None:
        found = await self._get(key)
        if found is None:
            return  # a partial tile that has become full, or a bundle that was dropped
        if not await put_settled(self._target, key, found.data, if_generation=CREATE, backoff=self._backoff()):
            raise RestoreError(f"{key} is there already, with other bytes than in the store")
        self._copied += len(found.data)

    async def _replace(self, key: str, data: bytes) -> None:
        there = await with_patience(lambda: self._target.get(key), self._backoff(), PATIENCE_S)
        generation = CREATE if there is None else there.generation
        if not await put_settled(self._target, key, data, if_generation=generation, backoff=self._backoff()):
            raise RestoreError(f"somebody else writes {key} meanwhile")

    async def _get(self, key: str) -> Object | None:
        return await with_patience(lambda: self._source.get(key), self._backoff(), PATIENCE_S)

    async def _list(self, store: ObjectStore, prefix: str) -> list[str]:
        return await with_patience(lambda: store.list(prefix), self._backoff(), PATIENCE_S)
