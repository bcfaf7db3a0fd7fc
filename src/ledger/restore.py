"""Brings a whole log back from an object store alone, onto a disk that has nothing of it.

Everything is checked on the way: the head's checkpoint has a signature, its size and root are those at the end of the
segment that it names, and from there SHA-256 leads from segment to segment to the first. Run `fsck.verify_log` on the
result to have every receipt hashed too.
"""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from ledger import durable, local_log
from ledger.authority import HEAD_KEY
from ledger.backoff import PATIENCE_S, Backoff, with_patience
from ledger.disk import Disk
from ledger.durable import POSIX
from ledger.errors import KeyInvalidError, NoteInvalidError, RestoreError
from ledger.fetch import Fetcher, OnProgress
from ledger.format.checkpoint import open_checkpoint
from ledger.format.note import Verifier
from ledger.format.retention import RETENTION_KEY
from ledger.identity import LEDGER_FOLDER, PartitionLock, partition_folder
from ledger.identity_object import install_identity, read_identity
from ledger.mirror import mirror
from ledger.protocol.head import Head, decode_head
from ledger.store.object_store import ObjectStore
from ledger.store.prefixed import PrefixedStore
from ledger.takeover import Place

TRUSTED_FILE: Final = "trusted.vkeys"
"""In the ledger folder: verifier keys, one a line, of whoever may have signed what is committed already."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestoredPartition:
    """`size` receipts with this root, of which `fetched` bytes came from the store; signed by the key `vkey`."""

    partition: int
    origin: str
    size: int
    root: bytes
    fetched: int
    vkey: str


def read_trusted(data_dir: Path) -> list[Verifier]:
    """The verifier keys that a data folder trusts besides its own. Raises KeyInvalidError, OSError."""
    path = data_dir / LEDGER_FOLDER / TRUSTED_FILE
    if not path.exists():
        return []
    return [Verifier.parse(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


async def restore(
    store: ObjectStore,
    data_dir: Path,
    *,
    rng: random.Random,
    vkey: str | None = None,
    copy: ObjectStore | None = None,
    disk: Disk = POSIX,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> list[RestoredPartition]:
    """Restore all partitions that the store has. One that was interrupted goes on where it was.

    `copy` gets what is published of a log whose first segments were dropped: to verify what is left takes that.
    `vkey` is the key that must have signed the log, from somewhere else than the store; without it the store's own word
    is taken. Raises RestoreError (also for a folder that holds another log), NoteInvalidError, HeadInvalidError,
    IdentityError, KeyInvalidError, LedgerLockedError, StoreUnavailableError, StoreRefusedError, OSError.
    """
    identity = await read_identity(store, rng)
    if identity is None:
        raise RestoreError("the store holds no log")
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(executor, install_identity, data_dir, identity)
    restored: list[RestoredPartition] = []
    for partition in range(identity.partitions):
        part = PrefixedStore(store, str(partition))
        said = await with_patience(partial(part.get, RETENTION_KEY), Backoff(rng), PATIENCE_S)
        if said is not None and copy is not None:
            # Before the head, which is never behind the public checkpoint.
            await mirror(part, PrefixedStore(copy, str(partition)), lambda: Backoff(rng))
        place = Place(part, disk, partition_folder(data_dir, partition), identity.origin(partition))
        if await _read_head(place, rng) is None:
            continue  # nobody has begun it yet
        lock = await loop.run_in_executor(executor, PartitionLock.acquire, place.folder)
        try:
            one = await restore_partition(place, partition, vkey, rng=rng, executor=executor, on_progress=on_progress)
        finally:
            lock.release()
        restored.append(one)
    trusted = "".join(f"{key}\n" for key in sorted({one.vkey for one in restored}))
    path = data_dir / LEDGER_FOLDER / TRUSTED_FILE
    await loop.run_in_executor(executor, durable.replace, path, trusted.encode())
    return restored


async def restore_partition(
    place: Place,
    partition: int,
    vkey: str | None,
    *,
    rng: random.Random,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> RestoredPartition:
    """Fetch what the log has and the folder, which the caller has locked, does not.

    Raises RestoreError, NoteInvalidError, HeadInvalidError, KeyInvalidError, StoreUnavailableError, StoreRefusedError,
    OSError.
    """
    while True:
        head = await _read_head(place, rng)
        if head is None:
            raise RestoreError("the store holds no log")
        signed_by = _verify(head, vkey, place.origin)
        try:
            fetched = await _fetch(place, head, rng, executor, on_progress)
        except RestoreError:
            if await _read_head(place, rng) == head:
                raise
            continue  # the log goes on, and retention has dropped some of what this head leads to
        return RestoredPartition(partition, place.origin, head.size, head.root_bytes(), fetched, signed_by)


async def _fetch(
    place: Place, head: Head, rng: random.Random, executor: Executor | None, on_progress: OnProgress | None
) -> int:
    """How many bytes that were. Raises RestoreError, having put nothing in place."""

    async def blocking(call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, call)

    disk, folder = place.disk, place.folder
    fetcher = Fetcher(
        place.store, disk, folder, place.origin, lambda: Backoff(rng), executor=executor, on_progress=on_progress
    )
    present = await blocking(lambda: local_log.find_segments(disk, folder))
    fetched = await fetcher.fetch(head, {one.sha256 for one in present})
    # Segments come in log order, so what an interrupted run has put in place is a beginning.
    if present and fetched.names and present[-1].sha256 != fetched.common:
        raise RestoreError(f"{folder} holds another log than the store: name an empty folder")
    await blocking(lambda: fetcher.put_in_place(fetched))
    await blocking(fetcher.discard)
    return fetched.bytes


async def _read_head(place: Place, rng: random.Random) -> Head | None:
    found = await with_patience(partial(place.store.get, HEAD_KEY), Backoff(rng), PATIENCE_S)
    return None if found is None else decode_head(found.data)


def _verify(head: Head, vkey: str | None, origin: str) -> str:
    """The verifier key that the head's checkpoint was checked with: a log has one key, under each partition's name."""
    try:
        verifier = Verifier(origin, Verifier.parse(vkey or head.vkey).public_key)
    except KeyInvalidError:
        if vkey is not None:
            raise
        raise NoteInvalidError("the head in the store names no key that it was signed with") from None
    open_checkpoint(head.checkpoint.encode(), verifier, origin)
    return verifier.vkey
