"""A part of a store: everything below one prefix. Each partition of a log has one."""

from pathlib import Path

from ledger.store.object_store import Object, ObjectStore, PutOutcome


class PrefixedStore:
    """Passes everything on, with `prefix` and a slash before each key. Who owns `store` closes it."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = f"{prefix}/"

    async def get(self, key: str) -> Object | None:
        return await self._store.get(self._prefix + key)

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        return await self._store.put(self._prefix + key, data, if_generation=if_generation)

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        return await self._store.put_file(self._prefix + key, path)

    async def list(self, prefix: str, after: str = "") -> list[str]:
        found = await self._store.list(self._prefix + prefix, self._prefix + after if after else "")
        return [key.removeprefix(self._prefix) for key in found]

    async def delete(self, key: str) -> None:
        await self._store.delete(self._prefix + key)

    async def close(self) -> None:
        """Nothing: the store has other parts."""
