"""One store in two places: what is written once lies in one, what is replaced or removed in the other.

For buckets whose objects are kept by a retention policy. `ledger.protocol.places` has the rule.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ledger.protocol.places import ONCE, PARTIAL, is_written_once
from ledger.store.object_store import Object, ObjectStore, PutOutcome


class SplitStore:
    """`once` has the keys that are written once, `control` all others. It owns both, and closes them."""

    def __init__(self, once: ObjectStore, control: ObjectStore) -> None:
        self.once: Final = once
        self.control: Final = control

    async def get(self, key: str) -> Object | None:
        return await self._place(key).get(key)

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        return await self._place(key).put(key, data, if_generation=if_generation)

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        return await self._place(key).put_file(key, path)

    async def list(self, prefix: str, after: str = "") -> list[str]:
        places = self._places(prefix)
        found = await asyncio.gather(*(place.list(prefix, after) for place in places))
        # A place may hold what a log of before has left there: the other one's word counts for that.
        return sorted(
            key for place, keys in zip(places, found, strict=True) for key in keys if self._place(key) is place
        )

    async def delete(self, key: str) -> None:
        await self._place(key).delete(key)

    async def close(self) -> None:
        await self.once.close()
        await self.control.close()

    def _place(self, key: str) -> ObjectStore:
        return self.once if is_written_once(key) else self.control

    def _places(self, prefix: str) -> Sequence[ObjectStore]:
        """Those that can have a key with this prefix: each list is paid for."""
        partition, _, rest = prefix.partition("/")
        kind, slash, _ = rest.partition("/")
        if not slash:
            return [self.once, self.control]
        if not (partition.isdecimal() and kind in ONCE) or PARTIAL in rest:
            return [self.control]
        return [self.once, self.control] if kind == "tile" else [self.once]
