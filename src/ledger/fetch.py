"""Brings segments of a committed log from the object store to the disk, each checked before anything is put in place.

The head names the last segment by its SHA-256, and each segment's header names the one before it. So the walk goes
backwards, from the head to a segment that the disk has or to the first; then what was fetched gets its names in log
order, so that a crash leaves a shorter log, never one with a hole.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.backoff import PATIENCE_S, Backoff, with_patience
from ledger.disk import Disk
from ledger.errors import RestoreError, SegmentFormatError
from ledger.format import segment
from ledger.format.segment import Intact, SegmentHeader
from ledger.index import SegmentKey
from ledger.layout import SegmentName
from ledger.local_log import FETCHED_SUFFIX
from ledger.protocol.head import Head, parse_segment_key
from ledger.store.object_store import Object, ObjectStore

AHEAD: Final = 8
"""Objects that are fetched at a time, 16 MiB each."""

OnProgress = Callable[[int, int], None]
"""`on_progress(receipts_left, bytes)`: how many receipts lie before what was fetched, and how much was."""


@dataclass(slots=True)
class Fetched:
    """Segments that are on the disk under provisional names, the last one first; `common` is the SHA-256 of the
    segment before them that the disk has, None if they begin with the log's first.
    """

    names: list[SegmentName] = field(default_factory=list)
    common: bytes | None = None
    bytes: int = 0


class Fetcher:
    """One walk from a head. `store` is the partition's part of the object store."""

    def __init__(
        self,
        store: ObjectStore,
        disk: Disk,
        folder: Path,
        log: str,
        backoff: Callable[[], Backoff],
        *,
        executor: Executor | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._store = store
        self._disk = disk
        self._folder = folder
        self._log = log
        self._backoff = backoff
        self._executor = executor
        self._on_progress = on_progress
        self._loading: dict[str, asyncio.Task[Object | None]] = {}

    async def fetch(self, head: Head, known: Collection[bytes]) -> Fetched:
        """Fetch what lies between the head and the segments whose SHA-256 is in `known`.

        Raises RestoreError if the store does not hold it, StoreUnavailableError, StoreRefusedError, OSError.
        """
        fetched = Fetched()
        if head.segment is None:
            return fetched
        if (digest := bytes.fromhex(head.segment.sha256)) in known:
            fetched.common = digest
            return fetched
        try:
            await self._walk(head, known, fetched)
        finally:
            for task in self._loading.values():
                task.cancel()
            if self._loading:
                await asyncio.wait(self._loading.values())
            self._loading.clear()
        return fetched

    def put_in_place(self, fetched: Fetched) -> None:
        """Give what was fetched its names. Blocking."""
        for name in reversed(fetched.names):
            self._disk.rename(self._folder / f"{name}{FETCHED_SUFFIX}", self._folder / str(name))

    def discard(self) -> None:
        """Remove what an earlier walk has left. Blocking."""
        for name in self._disk.list(self._folder):
            if name.endswith(FETCHED_SUFFIX):
                self._disk.unlink(self._folder / name)

    async def _walk(self, head: Head, known: Collection[bytes], fetched: Fetched) -> None:
        assert head.segment is not None  # noqa: S101 - there is something to walk from
        listed = await with_patience(lambda: self._store.list("seg/"), self._backoff(), PATIENCE_S)
        keys = sorted((SegmentKey(*at), key) for key in listed if (at := parse_segment_key(key)) is not None)
        wanted, end_index = bytes.fromhex(head.segment.sha256), head.size
        while keys and keys[-1][0] > head.segment.place():
            keys.pop()  # on its way when its writer was fenced
        while True:
            # The nearest before it is the one, unless a fenced writer left others in between: those lead nowhere.
            header, data = await self._find(keys, wanted, end_index)
            if not fetched.names:
                _check_end(head, data)
            name = SegmentName(header.first_index, header.epoch, sealed=True)
            await self._blocking(self._disk.replace, self._folder / f"{name}{FETCHED_SUFFIX}", data)
            fetched.names.append(name)
            fetched.bytes += len(data)
            if self._on_progress is not None:
                self._on_progress(header.first_index, fetched.bytes)
            wanted, end_index = header.previous_sha256, header.first_index
            if wanted == segment.NO_SEGMENT_SHA256 and not header.first_index:
                return
            if wanted in known:
                fetched.common = wanted
                return
            while keys and keys[-1][0] >= (header.first_index, header.epoch):
                self._forget(keys.pop()[1])

    async def _find(
        self, keys: list[tuple[SegmentKey, str]], wanted: bytes, end_index: int
    ) -> tuple[SegmentHeader, bytes]:
        """The last of these objects that has this SHA-256; takes those behind it off the list."""
        while keys:
            for _, ahead in keys[: -AHEAD - 1 : -1]:
                if ahead not in self._loading:
                    self._loading[ahead] = asyncio.create_task(self._get(ahead))
            _, key = keys.pop()
            found = await self._loading.pop(key)
            if found is not None and hashlib.sha256(found.data).digest() == wanted:
                return _header_of(key, found.data, self._log), found.data
        raise RestoreError(
            f"the segment that ends before receipt {end_index} is missing from the store: none there has the SHA-256 "
            f"{wanted.hex()}"
        )

    def _forget(self, key: str) -> None:
        if (loading := self._loading.pop(key, None)) is not None:
            loading.cancel()

    async def _get(self, key: str) -> Object | None:
        return await with_patience(lambda: self._store.get(key), self._backoff(), PATIENCE_S)

    async def _blocking(self, call: Callable[..., object], *args: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


def _header_of(key: str, data: bytes, log: str) -> SegmentHeader:
    try:
        header = segment.decode_header(data)
    except SegmentFormatError as error:
        raise RestoreError(f"{key} is not a segment: {error}") from error
    if header.log_hash != segment.log_hash(log):
        raise RestoreError(f"{key} belongs to another log than {log}")
    if (header.first_index, header.epoch) != parse_segment_key(key):
        raise RestoreError(f"{key} is called otherwise than its header says")
    return header


def _check_end(head: Head, data: bytes) -> None:
    """The head's own segment must end with the size and root that the head's checkpoint signs."""
    scan = segment.scan(data, sealed=True)
    last = scan.batches[-1] if scan.batches else None
    if not isinstance(scan.verdict, Intact) or last is None:
        raise RestoreError("the last segment is damaged")
    if (last.first_index + last.count, last.root) != (head.size, head.root_bytes()):
        raise RestoreError("the last segment ends with another size or root than the head")
