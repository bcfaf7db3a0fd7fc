"""The index of sealed segments, on disk, so that memory does not grow with the log. Blocking: it runs in threads.

SQLite, one row in each of three tables for a segment, so that adding one costs the same whatever the log's size. All of
it is derived data: a row counts only if it names the SHA-256 of the segment that is there, what is missing or damaged
is made anew from the segment, and where SQLite fails altogether the segments themselves give every answer. So nothing
here can make an answer wrong, only slow.

Finding a tenant's receipts means looking for his tag among those of each segment that is passed.
"""

import hashlib
import sqlite3
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import google_crc32c
from msgspec import DecodeError, Struct, json

from ledger.disk import Disk
from ledger.errors import ReceiptNotFoundError, SegmentCorruptError, SegmentFormatError
from ledger.format import segment
from ledger.format.segment import Intact, Kind
from ledger.index import TAG_BYTES, Batches, BatchPlace, Chain, ReceiptPlace, SealedSegment, SegmentIndex, tag_of
from ledger.reader import read_segment

INDEX_FILE: Final = "index.db"
# Numbers are stored as the machine has them: another machine makes its own.
_VERSION: Final = {"little": 1, "big": 2}[sys.byteorder]
# Pages of which few are looked at twice: without a bound there would be 2 MB of them for each partition, after an hour.
_CACHE_KIB: Final = 512
_SCHEMA: Final = f"""
PRAGMA page_size = 65536;
PRAGMA cache_size = -{_CACHE_KIB};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 64;
CREATE TABLE IF NOT EXISTS segments (
    first_index INTEGER PRIMARY KEY, epoch INTEGER, count INTEGER, bytes INTEGER, sha256 BLOB
);
CREATE TABLE IF NOT EXISTS places (first_index INTEGER PRIMARY KEY, crc INTEGER, batches BLOB, offsets BLOB);
CREATE TABLE IF NOT EXISTS owners (first_index INTEGER PRIMARY KEY, crc INTEGER, tags BLOB);
PRAGMA user_version = {_VERSION};
"""
_RECEIPT: Final = int(Kind.RECEIPT)
T = TypeVar("T")


class Owner(Struct, gc=False):
    """Of a receipt, no more than whose it is and which of his."""

    tenant: str
    tseq: int


_owner = json.Decoder(Owner).decode


class Archive:
    """Where receipts of sealed segments stand. Safe for several threads.

    Without a path the rows are kept in memory.
    """

    def __init__(self, path: Path | None, folder: Path, disk: Disk) -> None:
        self._path = path
        self._folder = folder
        self._sealed: Sequence[SealedSegment] = ()
        self._disk = disk
        self._lock = Lock()
        self._building = Lock()
        self._closed = False
        self._connection = self._open()

    def settle(self, sealed: Sequence[SealedSegment]) -> list[SealedSegment]:
        """Say which segments there are; the caller goes on appending to them. Forgets rows of others, and returns the
        segments that have to be added.
        """
        self.keep(sealed)
        columns = "SELECT first_index, sha256 FROM segments"
        known: dict[int, bytes] = self._ask(lambda db: dict(db.execute(columns)), {})
        missing = [one for one in sealed if one.count and known.pop(one.first_index, None) != one.sha256]
        for first_index in known:
            self._forget(first_index)
        return missing

    def keep(self, sealed: Sequence[SealedSegment]) -> None:
        """The segments are these from now on; the caller goes on appending to them."""
        self._sealed = sealed

    def forget(self, dropped: Iterable[SealedSegment]) -> None:
        """Remove the rows of segments that are no more."""
        for one in dropped:
            self._forget(one.first_index)

    def add(self, sealed: SealedSegment, index: SegmentIndex | None = None) -> None:
        """Index a segment, from its file if the index is not at hand. Raises SegmentCorruptError, OSError."""
        with self._building:
            if sealed.count and not self._has(sealed):
                self._store(sealed, index or read_index(self._disk, self._folder, sealed))

    def place_of(self, index: int) -> ReceiptPlace:
        """Where a receipt stands. Raises ReceiptNotFoundError for one that is in no sealed segment."""
        sealed = self._sealed
        at = bisect_right(sealed, index, key=_end)
        one = sealed[at] if at < len(sealed) else None
        if one is None or one.first_index > index:
            raise ReceiptNotFoundError(f"receipt {index} is in no sealed segment that is still here")
        return self._batches(one).place_of(index)

    def places_of(self, pseudonym: str, after: int, limit: int, end: int) -> list[ReceiptPlace]:
        """Where a tenant's receipts with `after < index < end` stand: the first `limit` of them, in order."""
        found: list[ReceiptPlace] = []
        sealed = self._sealed
        for at in range(bisect_right(sealed, after + 1, key=_end), len(sealed)):
            one = sealed[at]
            if len(found) >= limit or one.first_index >= end:
                break
            if one.count:
                found += self._places_in(one, pseudonym, after, limit - len(found))
        return found

    def distrust(self, places: Iterable[ReceiptPlace]) -> None:
        """Forget the rows that gave these places: something else stands there."""
        for first_index in {place.batch.key.first_index for place in places}:
            self._forget(first_index)

    def close(self) -> None:
        """Let go of the file. Answers still come, from the segments."""
        with self._lock, suppress(sqlite3.Error):
            self._closed = True
            self._connection.close()

    # Rows

    def _has(self, one: SealedSegment) -> bool:
        return self._row("SELECT count FROM segments", one) is not None

    def _row(self, select: str, one: SealedSegment) -> tuple[Any, ...] | None:
        """Of what this selects, that which was made of this very segment."""
        query = f"{select} WHERE first_index = ? AND sha256 = ?"
        row: tuple[Any, ...] | None
        row = self._ask(lambda db: db.execute(query, (one.first_index, one.sha256)).fetchone(), None)
        return row

    def _batches(self, one: SealedSegment) -> Batches:
        row = self._row("SELECT crc, batches, offsets FROM places NATURAL JOIN segments", one)
        if row is not None:
            crc, batches, offsets = row
            if crc == google_crc32c.extend(google_crc32c.value(batches), offsets):
                return _decode_batches(one, batches, offsets)
            self._forget(one.first_index)
        return self._rebuild(one).batches

    def _places_in(self, one: SealedSegment, pseudonym: str, after: int, limit: int) -> list[ReceiptPlace]:
        first = one.first_index
        row = self._row("SELECT crc, tags FROM owners NATURAL JOIN segments", one)
        if row is not None:
            crc, tags = row
            if crc == google_crc32c.value(tags):
                positions = _find(tags, tag_of(pseudonym), max(0, after + 1 - first), limit)
                batches = self._batches(one) if positions else None
                return [batches.place_of(first + each) for each in positions] if batches is not None else []
            self._forget(first)
        index = self._rebuild(one)
        return [index.batches.place_of(each) for each in index.indices_of(pseudonym, after, one.end)[:limit]]

    def _rebuild(self, one: SealedSegment) -> SegmentIndex:
        index = read_index(self._disk, self._folder, one)
        self.add(one, index)
        return index

    def _store(self, one: SealedSegment, index: SegmentIndex) -> None:
        batches, offsets = _encode_batches(index.batches), index.batches.offsets.tobytes()
        crc = google_crc32c.extend(google_crc32c.value(batches), offsets)
        tags = b"".join([chain.tag for chain in index.tenants])
        row = (one.key.epoch, one.count, one.bytes, one.sha256)

        def write(db: sqlite3.Connection) -> None:
            with db:  # one transaction
                db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)", (one.first_index, *row))
                db.execute(
                    "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?)", (one.first_index, crc, batches, offsets)
                )
                db.execute(
                    "INSERT OR REPLACE INTO owners VALUES (?, ?, ?)",
                    (one.first_index, google_crc32c.value(tags), tags),
                )

        self._ask(write, None)

    def _forget(self, first_index: int) -> None:
        def write(db: sqlite3.Connection) -> None:
            with db:
                for table in ("segments", "places", "owners"):
                    db.execute(f"DELETE FROM {table} WHERE first_index = ?", (first_index,))  # noqa: S608 - ours

        self._ask(write, None)

    # The file

    def _ask(self, ask: Callable[[sqlite3.Connection], T], default: T) -> T:
        """What the database says; `default` where it cannot say anything, after which it is a new, empty one."""
        with self._lock:
            if self._closed:
                return default
            try:
                return ask(self._connection)
            except sqlite3.Error:
                with suppress(sqlite3.Error):
                    self._connection.close()
                self._remove()
                self._connection = self._open()
                return default

    def _open(self) -> sqlite3.Connection:
        if self._path is not None:
            for _ in range(2):
                try:
                    return _connect(str(self._path))
                except sqlite3.Error:
                    self._remove()
        return _connect(":memory:")

    def _remove(self) -> None:
        if self._path is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):
                with suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink()


def is_chain(leaves: Iterable[bytes], pseudonym: str) -> bool:
    """Are these receipts of one tenant, without a gap?"""
    try:
        owners = [_owner(leaf) for leaf in leaves]
    except DecodeError:
        return False
    first = owners[0].tseq if owners else 0
    return all(one.tenant == pseudonym and one.tseq == tseq for tseq, one in enumerate(owners, first))


def read_index(disk: Disk, folder: Path, one: SealedSegment) -> SegmentIndex:
    """The index of a sealed segment, from its bytes. Raises SegmentCorruptError, OSError."""
    path, data = read_segment(folder, one.key, disk=disk)
    try:
        scan = segment.scan(data, sealed=True)
        if not isinstance(scan.verdict, Intact):
            raise SegmentCorruptError(path, scan.verdict.offset, one.first_index, scan.verdict.reason)
        if hashlib.sha256(data).digest() != one.sha256:
            raise SegmentCorruptError(path, 0, one.first_index, "it is not the segment that was sealed")
        index = SegmentIndex(one.key)
        chains: dict[str, Chain] = {}
        for batch in scan.batches:
            receipts = [(start, end) for kind, start, end in segment.frames(data, batch) if kind == _RECEIPT]
            if receipts:
                place = BatchPlace(one.key, batch.body, batch.body_end - batch.body, batch.seed)
                names = [_owner(data[start:end]).tenant for start, end in receipts]
                tenants = [chains.setdefault(name, Chain(name, b"")) for name in names]
                offsets = [start - segment.FRAME_HEAD_BYTES - batch.body for start, _ in receipts]
                index.add(batch.first_index, place, offsets, tenants)
    except (SegmentFormatError, DecodeError) as error:
        raise SegmentCorruptError(path, 0, one.first_index, str(error)) from error
    return index


def _find(tags: bytes, tag: bytes, begin: int, limit: int) -> list[int]:
    """The positions from `begin` on at which a tag stands, at most `limit`."""
    found: list[int] = []
    at = tags.find(tag, begin * TAG_BYTES)
    while at >= 0 and len(found) < limit:
        if at % TAG_BYTES:
            at = tags.find(tag, at + 1)
        else:
            found.append(at // TAG_BYTES)
            at = tags.find(tag, at + TAG_BYTES)
    return found


def _end(one: SealedSegment) -> int:
    return one.end


def _connect(path: str) -> sqlite3.Connection:
    # Calls come from several threads, one at a time.
    connection = sqlite3.connect(path, check_same_thread=False, timeout=0.0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version in {0, _VERSION}:
            connection.executescript(_SCHEMA)
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    raise sqlite3.DatabaseError(f"an index of another version: {version}")


def _encode_batches(batches: Batches) -> bytes:
    return b"".join(column.tobytes() for column in (batches.first, batches.body, batches.length, batches.seed))


def _decode_batches(one: SealedSegment, columns: bytes, offsets: bytes) -> Batches:
    batches = Batches(one.key)
    count = len(columns) // 20  # one of 8 bytes and three of 4
    batches.first.frombytes(columns[: 8 * count])
    for number, column in enumerate((batches.body, batches.length, batches.seed), 2):
        column.frombytes(columns[4 * count * number : 4 * count * (number + 1)])
    batches.offsets.frombytes(offsets)
    return batches
