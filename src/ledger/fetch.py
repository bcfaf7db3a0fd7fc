"""Brings segments of a committed log from the object store to the disk, each checked before anything is put in place.

The head names the last segment by its SHA-256, and each segment's header names the one before it. So the walk goes
backwards, from the head to a segment that the disk has or to the first; then what was fetched gets its names in log
order, so that a crash leaves a shorter log, never one with a hole.

Where retention has dropped the first segments the walk ends before them, and snapshots stand for what is gone. One is
believed if its SHA-256 is in a receipt of the log that was fetched, and its last segment is one of those.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from ledger.backoff import PATIENCE_S, Backoff, with_patience
from ledger.disk import Disk
from ledger.errors import (
    NotCanonicalError,
    ProofInvalidError,
    RestoreError,
    SegmentFormatError,
    SnapshotInvalidError,
)
from ledger.format import canonical, retention, segment
from ledger.format.retention import RETENTION_KEY, NamedSnapshot
from ledger.format.segment import Intact, SegmentHeader
from ledger.index import SegmentKey
from ledger.layout import SegmentName
from ledger.local_log import FETCHED_SUFFIX
from ledger.protocol.head import Head, SegmentRef, parse_segment_key, segment_key_prefix
from ledger.snapshots import SnapshotName, open_snapshot
from ledger.store.object_store import Object, ObjectStore

AHEAD: Final = 8
"""Objects that are fetched at a time, 16 MiB each."""

T = TypeVar("T")

OnProgress = Callable[[int, int], None]
"""`on_progress(receipts_left, bytes)`: how many receipts lie before what was fetched, and how much was."""


@dataclass(slots=True)
class Fetched:
    """Segments that are on the disk under provisional names, the last one first; `common` is the SHA-256 of the
    segment before them that the disk has, None if they begin with the first that the store has. `snapshots` stand for
    what retention has dropped before them; none where nothing was dropped.
    """

    names: list[SegmentName] = field(default_factory=list)
    snapshots: list[SnapshotName] = field(default_factory=list)
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

    async def fetch(self, head: Head, known: Collection[bytes], begin: int = 0) -> Fetched:
        """Fetch what lies between the head and the segments whose SHA-256 is in `known`. Where the last one known most
        likely begins at receipt `begin`, nothing before that is listed unless it has to be.

        Raises RestoreError if the store does not hold it, RetentionInvalidError, StoreUnavailableError,
        StoreRefusedError, OSError.
        """
        fetched = Fetched()
        if head.segment is None:
            return fetched
        if (digest := bytes.fromhex(head.segment.sha256)) in known:
            fetched.common = digest
            return fetched
        try:
            await self._walk(head, known, begin, fetched)
        finally:
            for task in self._loading.values():
                task.cancel()
            if self._loading:
                await asyncio.wait(self._loading.values())
            self._loading.clear()
        return fetched

    async def fetch_next(self, head: Head, last: SegmentRef) -> Fetched | None:
        """Fetch the head's own segment if it follows the segment `last`, which takes no list. None where there is more
        between them. Raises as `fetch` does.
        """
        if head.segment is None:
            return None
        found = await self._get(head.segment.key)
        if found is None or hashlib.sha256(found.data).hexdigest() != head.segment.sha256:
            return None
        header = _header_of(head.segment.key, found.data, self._log)
        if header.previous_sha256.hex() != last.sha256:
            return None
        _check_end(head, found.data)
        fetched = Fetched(common=header.previous_sha256)
        await self._keep(header, found.data, fetched)
        return fetched

    def put_in_place(self, fetched: Fetched) -> None:
        """Give what was fetched its names. Blocking."""
        for name in (*fetched.snapshots, *reversed(fetched.names)):
            self._disk.rename(self._folder / f"{name}{FETCHED_SUFFIX}", self._folder / str(name))

    def discard(self) -> None:
        """Remove what an earlier walk has left. Blocking."""
        for name in self._disk.names(self._folder):
            if name.endswith(FETCHED_SUFFIX):
                self._disk.unlink(self._folder / name)

    async def _walk(self, head: Head, known: Collection[bytes], begin: int, fetched: Fetched) -> None:
        assert head.segment is not None  # noqa: S101 - there is something to walk from
        keys = await self._list(begin)
        wanted, end_index = bytes.fromhex(head.segment.sha256), head.size
        while keys and keys[-1][0] > head.segment.place():
            keys.pop()  # on its way when its writer was fenced
        while True:
            # The nearest before it is the one, unless a fenced writer left others in between: those lead nowhere.
            found = await self._find(keys, wanted)
            if found is None and begin:
                keys = [one for one in await self._list(0) if one[0].first_index < begin]
                found, begin = await self._find(keys, wanted), 0
            if found is None:
                await self._end_with_snapshots(wanted, end_index, fetched)
                return
            header, data = found
            if not fetched.names:
                _check_end(head, data)
            await self._keep(header, data, fetched)
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

    async def _keep(self, header: SegmentHeader, data: bytes, fetched: Fetched) -> None:
        name = SegmentName(header.first_index, header.epoch, sealed=True)
        await self._blocking(self._disk.replace, self._folder / f"{name}{FETCHED_SUFFIX}", data)
        fetched.names.append(name)
        fetched.bytes += len(data)

    async def _list(self, begin: int) -> list[tuple[SegmentKey, str]]:
        """The segments from this receipt on, in order."""
        after = segment_key_prefix(begin) if begin else ""
        listed = await with_patience(lambda: self._store.list("seg/", after), self._backoff(), PATIENCE_S)
        return sorted((SegmentKey(*at), key) for key in listed if (at := parse_segment_key(key)) is not None)

    async def _find(self, keys: list[tuple[SegmentKey, str]], wanted: bytes) -> tuple[SegmentHeader, bytes] | None:
        """The last of these objects that has this SHA-256; takes those behind it off the list."""
        while keys:
            for _, ahead in keys[: -AHEAD - 1 : -1]:
                if ahead not in self._loading:
                    self._loading[ahead] = asyncio.create_task(self._get(ahead))
            _, key = keys.pop()
            found = await self._loading.pop(key)
            if found is not None and hashlib.sha256(found.data).digest() == wanted:
                return _header_of(key, found.data, self._log), found.data
        return None

    async def _end_with_snapshots(self, wanted: bytes, end_index: int, fetched: Fetched) -> None:
        """The segment that ends before this receipt is not in the store: was it dropped, and what stands for it?

        Looked up last, for retention may have gone on during the walk.
        """
        found = await self._get(RETENTION_KEY)
        said = None if found is None else retention.decode(found.data)
        if said is None or end_index > said.segments_from:
            raise RestoreError(
                f"the segment that ends before receipt {end_index} is missing from the store: none there has the "
                f"SHA-256 {wanted.hex()}"
            )
        doubts = []
        for one in said.snapshots:
            try:
                await self._fetch_snapshot(one, fetched)
            except (NotCanonicalError, ProofInvalidError, SegmentFormatError, SnapshotInvalidError) as error:
                doubts.append(f"{one.key()}: {error}")
        if not fetched.snapshots:
            raise RestoreError(
                f"receipts below {end_index} were dropped, and no snapshot can stand for them: "
                f"{'; '.join(doubts) or 'none is named'}"
            )

    async def _fetch_snapshot(self, one: NamedSnapshot, fetched: Fetched) -> None:
        """Raises SnapshotInvalidError, ProofInvalidError for one that does not stand for the log that was fetched."""
        found = await self._get(one.key())
        if found is None:
            raise SnapshotInvalidError("it is missing from the store")
        if hashlib.sha256(found.data).hexdigest() != one.sha256:
            raise SnapshotInvalidError("it has another SHA-256 than its name")
        name = SnapshotName(one.size, one.epoch)
        last = open_snapshot(found.data, name, self._log).segments[-1]
        data = await self._blocking(self._read_fetched, fetched, last.first_index, last.epoch)
        if hashlib.sha256(data).digest() != last.sha256:
            raise SnapshotInvalidError("its last segment is another one in the log")
        leaf = await self._blocking(self._leaf_of, fetched, one.receipt)
        if retention.read_statement(canonical.decode(leaf)).snapshot != one.sha256:
            raise ProofInvalidError(f"receipt {one.receipt} names another snapshot")
        await self._blocking(self._disk.replace, self._folder / f"{name}{FETCHED_SUFFIX}", found.data)
        fetched.snapshots.append(name)
        fetched.bytes += len(found.data)

    def _read_fetched(self, fetched: Fetched, first_index: int, epoch: int) -> bytes:
        name = SegmentName(first_index, epoch, sealed=True)
        if name not in fetched.names:
            raise SnapshotInvalidError(f"its last segment, {name}, is not in the log")
        return self._disk.read(self._folder / f"{name}{FETCHED_SUFFIX}")

    def _leaf_of(self, fetched: Fetched, index: int) -> bytes:
        """A receipt's leaf, from what was fetched. Raises ProofInvalidError."""
        name = next((name for name in fetched.names if name.first_index <= index), None)
        if name is not None:
            data = self._disk.read(self._folder / f"{name}{FETCHED_SUFFIX}")
            leaf = segment.find_leaf(data, segment.scan(data, sealed=True), index)
            if leaf is not None:
                return leaf
        raise ProofInvalidError(f"there is no receipt {index}")

    def _forget(self, key: str) -> None:
        if (loading := self._loading.pop(key, None)) is not None:
            loading.cancel()

    async def _get(self, key: str) -> Object | None:
        return await with_patience(lambda: self._store.get(key), self._backoff(), PATIENCE_S)

    async def _blocking(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


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
