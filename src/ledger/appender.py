"""The ledger of one partition: append in memory, commit in groups, answer when durable.

    append() ... append()      on the event loop, no I/O: chain, leaf, hash, frame
      -> cut                   on the loop, in one go: what is pending becomes a batch, with the states as they are now
      -> write + fdatasync     in the writing thread, one batch at a time; the next one gathers meanwhile
      -> landed                on the loop: the waiters of that batch are woken

A batch is written only after the one before is durable; the torn-write rule of the format rests on that. An I/O error
is final: nobody knows what reached the disk, so the ledger takes nothing more and the process should end.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from msgspec import Struct

from ledger.archive import INDEX_FILE, Archive
from ledger.batch import Batch, SealedTo
from ledger.chains import ChainHead, Chains
from ledger.commits import Commits, FreshHashes
from ledger.disk import Disk
from ledger.draft import DEFAULT_LIMITS, Draft, Limits
from ledger.durable import POSIX
from ledger.errors import (
    LeaseLostError,
    LedgerClosedError,
    LedgerFailedError,
    PushbackError,
    ReceiptInvalidError,
    ReceiptNotFoundError,
)
from ledger.format.tiles import TileTree
from ledger.gathering import Gathering
from ledger.identity import Identity, PartitionLock, open_identity, partition_folder
from ledger.index import SealedSegment, SealedSegments, SegmentKey
from ledger.log_index import LogIndex
from ledger.reader import Stored
from ledger.recovery import OnReceipt, OnState, Recovered, TornTail, recover
from ledger.snapshots import AppFold
from ledger.writer import CutBatch, SegmentWriter, Written

STATE_KEY_CHARS_MAX: Final = 16_000  # four bytes each at most, and a frame has room for 65,535


OnCommit = Callable[[float, int], None]
"""`on_commit(seconds, receipts)`, for each batch that became durable."""


class StoredReceipt(Struct, frozen=True, gc=False):
    """A durable receipt: the exact bytes of its leaf, and whether it is committed."""

    index: int
    leaf: bytes
    committed: bool


class Opened(NamedTuple):
    """What there is to know of a ledger's start. `torn` was cut off, `notes` are for an operator to read, the first
    `snapshot_size` receipts were not read; `edge` is the tree's right edge as of the `hashes_from` of that moment.
    """

    torn: TornTail | None
    notes: list[str]
    snapshot_size: int
    edge: TileTree


class Ledger:
    """One partition, one writer. Everything but `run`'s thread happens on the event loop."""

    def __init__(
        self,
        folder: Path,
        recovered: Recovered,
        *,
        identity: Identity,
        partition: int,
        entropy: Callable[[int], bytes],
        writer: str,
        encode_state: Callable[[Any], bytes],
        limits: Limits = DEFAULT_LIMITS,
        lock: PartitionLock | None = None,
        disk: Disk = POSIX,
        epoch: int | None = None,
        commits_elsewhere: bool = False,
        may_answer: Callable[[], bool] | None = None,
        archive: Archive | None = None,
        writing: Executor | None = None,
        reading: Executor | None = None,
        indexing: Executor | None = None,
        on_commit: OnCommit | None = None,
    ) -> None:
        """`open` is the usual way and says what the arguments mean. `lock` and `archive` (by default in memory) are
        let go of when `run` ends. `writing` and `indexing` must run one call at a time (threads of their own by
        default), `reading` may be anything (the loop's default executor by default).
        """
        self.origin: Final = identity.origin(partition)
        self.epoch: Final = recovered.epoch + 1 if epoch is None else epoch
        if self.epoch <= recovered.epoch:
            raise ValueError(f"epoch {epoch} has been: the log's last one is {recovered.epoch}")
        self.recovered: Final = Opened(recovered.torn, recovered.notes, recovered.snapshot_size, recovered.edge)
        self._encode_state = encode_state
        self._limits = limits
        self._lock = lock
        self._disk = disk
        self._index = LogIndex(archive or Archive(None, folder, disk), recovered.sealed, folder, disk)
        self._local_size = recovered.size
        self._local_root = recovered.tree.root()
        self._segments = SegmentWriter(
            folder, self.origin, self.epoch, recovered.previous_sha256, limits.segment_bytes, disk
        )
        self._writing = writing or ThreadPoolExecutor(1, thread_name_prefix="ledger-write")
        self._reading = reading
        self._indexing = indexing or ThreadPoolExecutor(1, thread_name_prefix="ledger-index")
        self._on_commit = on_commit
        self._write_begun_s = 0.0
        self._commits_elsewhere = commits_elsewhere
        self._may_answer = may_answer
        self._commits = Commits()
        self._hashes = FreshHashes(recovered.edge.size, recovered.hashes)
        self._growing: list[asyncio.Future[None]] = []
        self._hurry: Callable[[], None] = _nobody_to_hurry
        """Who waits for anything more to be durable."""

        self._chains = Chains(identity.key, self.origin, recovered.chains)
        self._gathering = Gathering(self.origin, self.epoch, writer, self._chains, recovered.tree, entropy, limits)
        self._cut: deque[Batch] = deque()
        """Batches that wait for the disk; the first is being written if `_write` is set."""
        self._cut_bytes = 0
        """Of their bodies."""
        self._write: asyncio.Future[Written] | None = None
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cut_is_due = False
        self._stopped: str | None = None
        """Why nothing more is taken."""
        self._failed: BaseException | None = None

    @classmethod
    def open(
        cls,
        data_dir: Path,
        partition: int = 0,
        *,
        entropy: Callable[[int], bytes],
        writer: str,
        encode_state: Callable[[Any], bytes],
        on_receipt: OnReceipt | None = None,
        on_state: OnState | None = None,
        app: AppFold | None = None,
        name: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        lock: PartitionLock | None = None,
        disk: Disk = POSIX,
        epoch: int | None = None,
        commits_elsewhere: bool = False,
        may_answer: Callable[[], bool] | None = None,
        on_commit: OnCommit | None = None,
    ) -> Self:
        """Lock and recover a partition of a data folder, creating both if need be. Blocking: takes some seconds for
        a million receipts, unless there is a snapshot and an `app` to begin with it.

        What `app`, `on_receipt` and `on_state` get is said at `recover`. `name` is the log's origin without the
        partition. `epoch` is the writer's number, larger than any in the log (default: by one). With
        `commits_elsewhere` a receipt is committed when `mark_committed` says so, else when it is on the disk.
        `may_answer` says whether this writer may still tell anybody that a receipt is on the disk. A `lock` that the
        caller has already is let go of with the ledger.

        Raises LedgerLockedError, IdentityError, SegmentCorruptError, OSError.
        """
        identity = open_identity(data_dir, entropy, name)
        folder = partition_folder(data_dir, partition)
        lock = lock or PartitionLock.acquire(folder)
        archive: Archive | None = None
        try:
            archive = Archive(folder / INDEX_FILE, folder, disk)
            recovered = recover(
                folder, identity.origin(partition), on_receipt=on_receipt, on_state=on_state, on_segment=archive.add,
                app=app, disk=disk,
            )  # fmt: skip
            return cls(
                folder, recovered, identity=identity, partition=partition, entropy=entropy, writer=writer,
                encode_state=encode_state, limits=limits, lock=lock, disk=disk, archive=archive, epoch=epoch,
                commits_elsewhere=commits_elsewhere, may_answer=may_answer, on_commit=on_commit,
            )  # fmt: skip
        except BaseException:
            if archive is not None:
                archive.close()
            lock.release()
            raise

    @property
    def torn(self) -> TornTail | None:
        """What the start cut off the log, if anything."""
        return self.recovered.torn

    @property
    def size(self) -> int:
        """How many receipts there are, durable or not."""
        return self._gathering.size

    @property
    def local_size(self) -> int:
        """How many are on this machine's disk."""
        return self._local_size

    @property
    def committed_size(self) -> int:
        """How many are committed: without an object store, those on the disk."""
        return self._commits.size if self._commits_elsewhere else self._local_size

    @property
    def sealed_size(self) -> int:
        """How many are in sealed segments."""
        return self._index.sealed[-1].end if self._index.sealed else 0

    @property
    def kept_from(self) -> int:
        """The index of the first receipt whose segment is here; 0 in a log of which nothing was dropped."""
        return self._index.sealed[0].first_index if self._index.sealed else 0

    @property
    def root(self) -> bytes:
        """The tree's root over the first `local_size` receipts: never one that a crash could take back."""
        return self._local_root

    @property
    def pending_bytes(self) -> int:
        """What waits for the disk."""
        return self._cut_bytes + self._gathering.waiting_bytes

    @property
    def failed(self) -> BaseException | None:
        """What ended the ledger, if something did."""
        return self._failed

    def pseudonym(self, tenant: str) -> str:
        """The tenant's name in receipts."""
        return self._chains.pseudonym(tenant)

    def next_tseq(self, tenant: str) -> int:
        """The sequence number that the tenant's next receipt will have."""
        self._gathering.encode()
        found = self._chains.find(tenant)
        return found.count if found is not None else 0

    def append(self, draft: Draft) -> int:
        """Add a receipt and return its index. No I/O; wait with `wait_local` before telling anybody.

        Raises ReceiptInvalidError (nothing changed), PushbackError (nothing changed), LedgerClosedError.
        """
        if self._stopped is not None:
            raise LedgerClosedError(self._stopped)
        gathering, limits = self._gathering, self._limits
        if self._cut_bytes + gathering.waiting_bytes >= limits.pending_bytes:
            raise PushbackError(self.pending_bytes, limits.retry_after_s)
        index = gathering.append(draft)
        drafts = len(gathering.drafts)
        if drafts <= 1:
            self._work.set()
            if not drafts and gathering.is_full:  # none: they have just been encoded
                self._cut_soon()
        return index

    def put_state(self, key: str, value: object) -> None:
        """Keep `value` as the latest state under `key`; it goes into the same batch as the receipts before it.

        Call it before giving up the event loop after `append`: a cut takes receipts and states together. The value
        is encoded at the cut, so it must not change until then. Raises ReceiptInvalidError for a key that is too
        long, LedgerClosedError.
        """
        if self._stopped is not None:
            raise LedgerClosedError(self._stopped)
        if len(key) > STATE_KEY_CHARS_MAX:
            raise ReceiptInvalidError(f"the state key {key[:64]!r}… has {len(key)} characters")
        states = self._gathering.batch.states
        if not states:
            self._work.set()
        states[key] = value

    def may_answer(self) -> bool:
        """Whether what is on this disk alone may be told of: not where another writer may have the log by now."""
        return self._may_answer is None or self._may_answer()

    async def wait_local(self, index: int) -> None:
        """Return when receipt `index` is on this machine's disk. The caller sets the deadline.

        Raises LedgerFailedError if that cannot be known any more, LeaseLostError if nobody may be told of it,
        ReceiptNotFoundError if it was never appended.
        """
        if index >= self._local_size:
            self._check_waitable(index)
            landed = asyncio.get_running_loop().create_future()
            self._batch_of(index).waiters.append(landed)
            await landed
        if not self.may_answer():
            raise LeaseLostError(f"receipt {index} is on this disk, but another writer may have the log by now")

    async def wait_committed(self, index: int) -> None:
        """Return when receipt `index` is committed: without an object store, when it is on the disk.

        Raises as `wait_local` does; not LeaseLostError where commits happen elsewhere, for a commit is one whoever
        writes the log.
        """
        if not self._commits_elsewhere:
            await self.wait_local(index)
        elif index >= self._commits.size:
            self._check_waitable(index)
            await self._commits.wait(index)

    def hurry(self, index: int) -> None:
        """Whoever waits until receipt `index` is committed cannot wait long."""
        if index >= self._commits.size:
            self._hurry()

    def when_hurried(self, hurry: Callable[[], None]) -> None:
        """For whoever commits the log elsewhere: what `hurry` does."""
        self._hurry = hurry

    async def wait_beyond(self, size: int) -> int:
        """Return the local size once it is more than `size`. Raises LedgerFailedError, LedgerClosedError."""
        while self._local_size <= size:
            if self._stopped is not None:
                raise LedgerClosedError(self._stopped)
            grown = asyncio.get_running_loop().create_future()
            self._growing.append(grown)
            await grown
        return self._local_size

    # For whoever commits the log elsewhere

    async def seal(self) -> SealedTo:
        """Write what is pending and seal the segment, if it holds a receipt: it can be committed now.

        Raises LedgerFailedError, LedgerClosedError.
        """
        if self._stopped is not None:
            raise LedgerClosedError(self._stopped)
        if self._gathering or not self._cut:
            self._cut_now()
        sealed: asyncio.Future[SealedTo] = asyncio.get_running_loop().create_future()
        if self._write is not None and len(self._cut) == 1:
            self._cut.append(Batch(self._cut[-1].end))  # the last batch is being written, and its seal decided
            self._cut[-1].root = self._cut[0].root
        self._cut[-1].sealing.append(sealed)
        self._work.set()
        return await sealed

    @property
    def sealed(self) -> SealedSegments:
        """The sealed segments on this disk, in order, as long as nothing of them is dropped."""
        return self._index.sealed

    def sealed_since(self, first_index: int) -> list[SealedSegment]:
        """The sealed segments that hold receipts from `first_index` on, in order; none of them is empty."""
        sealed = self._index.sealed
        begin = bisect_right(sealed, first_index, key=lambda one: one.end)
        return [one for one in sealed[begin:] if one.count]

    def sealed_behind(self, key: SegmentKey | None) -> list[SealedSegment]:
        """The sealed segments behind this one in the log (all for None), those without receipts too: each names the
        one before it, so a copy of the log needs all of them.
        """
        sealed = self._index.sealed
        return sealed[0 if key is None else bisect_right(sealed, key, key=lambda one: one.key) :]

    async def drop_below(self, first_index: int) -> int:
        """Remove the sealed segments that begin below this receipt from the disk, oldest first; how many those were.

        The caller sees to it that a start finds what it needs. Raises OSError: then the next call removes the rest.
        """
        self._index.drop_below(first_index)
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._index.remove_below, first_index)

    def mark_committed(self, size: int) -> None:
        """The first `size` receipts are committed. Wakes those who wait for them; never goes back."""
        if not self._commits.size <= size <= self._local_size:
            raise ValueError(f"{size} receipts cannot be committed after {self._commits.size}, of {self._local_size}")
        self._commits.mark(size)

    @property
    def hashes_from(self) -> int:
        """The index of the first receipt whose leaf hash `take_hashes` will give."""
        return self._hashes.first_index

    def take_hashes(self) -> bytes:
        """The leaf hashes (32 bytes each) of receipts that became durable since this was called last.

        If nobody takes them for long, the oldest are forgotten, and `hashes_from` moves past them: the segments have
        them still.
        """
        return self._hashes.take()

    def chain_heads(self) -> tuple[int, list[ChainHead]]:
        """How many receipts there are, durable or not, and where each tenant's chain stands after them.

        A receipt that is appended right now and says so becomes durable after all that it speaks of.
        """
        self._gathering.encode()
        return self.size, self._chains.heads()

    def fail(self, error: BaseException) -> None:
        """Take nothing more, because of something outside: another writer has the log, say. `run` raises."""
        if self._failed is None:
            self._fail(error)
            self._work.set()

    # Reading

    async def read(self, index: int) -> StoredReceipt:
        """A receipt below `local_size`. Raises ReceiptNotFoundError, SegmentCorruptError."""
        stored = await self._read(index)
        return StoredReceipt(index, stored.leaf, index < self.committed_size)

    async def payload(self, index: int) -> tuple[bytes, bytes]:
        """The commitment key (32 bytes) and the sender's bytes of a receipt. Raises as `read` does."""
        return (await self._read(index)).split_payload()

    async def tenant_receipts(self, tenant: str, after: int, limit: int) -> list[StoredReceipt]:
        """At most `limit` receipts of a tenant in order, beginning after index `after` (-1: from its first).

        Raises SegmentCorruptError.
        """
        known = self._chains.find(tenant)
        if known is None:
            return []
        read, loop = self._index.read_chain, asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._reading, read, known.pseudonym, after, limit, self._local_size
        )  # fmt: skip
        committed = self.committed_size
        return [StoredReceipt(one.index, one.leaf, one.index < committed) for one in found]

    async def _read(self, index: int) -> Stored:
        if not 0 <= index < self._local_size:
            raise ReceiptNotFoundError(f"no receipt {index}: the log has {self._local_size}")
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._index.read, index)

    # Writing

    async def run(self) -> None:
        """Commit in groups until cancelled; then write what is pending, seal the segment, unlock and end.

        Raises LedgerFailedError after an I/O error: end the process.
        """
        if self._loop is not None or self._stopped is not None:
            raise LedgerClosedError("a ledger runs once; open it anew")
        self._loop = asyncio.get_running_loop()
        self._index.start(self._indexing)
        try:
            while True:
                await self._work.wait()
                if self._failed is not None:
                    raise self._failed  # noqa: TRY301 - what `fail` was told ends this as an error of the disk does
                await self._write_next()
        except asyncio.CancelledError:
            self._stopped = "the ledger was closed: open it anew"
            await self._drain()
            raise
        except Exception as error:
            raise self._fail(error) from error
        finally:
            await self._release()

    def close(self) -> None:
        """Let go of a ledger whose `run` never began, because a start was cancelled, say; otherwise `run` does it.

        What was appended is forgotten: nobody can have been told of it.
        """
        if self._loop is None and self._stopped is None:
            self._fail(LedgerClosedError("closed before it ran"))
            self._writing.shutdown(wait=False)
            self._indexing.shutdown(wait=False)
            self._index.close()
            self._let_go()

    async def _drain(self) -> None:
        """Write everything and seal: after this a start finds nothing to repair."""
        try:
            while self._has_work():
                await self._write_next()
            assert self._loop is not None  # noqa: S101 - run() has set it
            await asyncio.shield(self._loop.run_in_executor(self._writing, self._segments.seal))
        except Exception as error:
            raise self._fail(error) from error

    async def _write_next(self) -> None:
        """Write one batch and wake those who wait for it. A cancelled call leaves the write under way in `_write`;
        the next call goes on waiting for it.
        """
        assert self._loop is not None  # noqa: S101 - run() has set it
        if self._write is None:
            if not self._cut:
                self._cut_now()
            batch = self._cut[0]
            cut = CutBatch(batch.first_index, batch.count, batch.body, batch.root, seal=bool(batch.sealing))
            self._write = self._loop.run_in_executor(self._writing, self._segments.write, cut)
            self._write_begun_s = self._loop.time()
        written = await asyncio.shield(self._write)
        self._write = None
        batch = self._cut.popleft()
        if batch.count and written.place is not None:
            self._index.add_batch(batch.first_index, written.place, batch.offsets, batch.tenants)
        if written.sealed:
            self._index.add_sealed(written.sealed)
        self._local_size = batch.end
        self._local_root = batch.root
        self._cut_bytes -= batch.body_bytes
        self._hashes.add(batch.hashes)
        if self._on_commit is not None and batch.body:
            self._on_commit(self._loop.time() - self._write_begun_s, batch.count)
        growing, self._growing = self._growing, []
        for waiter in (*batch.waiters, *growing):
            if not waiter.done():
                waiter.set_result(None)
        for sealing in batch.sealing:
            if not sealing.done():
                sealing.set_result(SealedTo(batch.end, batch.root, self.epoch))
        if not self._has_work():
            self._work.clear()

    def _has_work(self) -> bool:
        return bool(self._cut or self._gathering)

    def _cut_soon(self) -> None:
        """Cut when the caller gives up the loop: only then do the states fit the receipts."""
        if self._loop is not None and not self._cut_is_due:
            self._cut_is_due = True
            self._loop.call_soon(self._cut_if_due)

    def _cut_if_due(self) -> None:
        if self._cut_is_due and self._stopped is None:
            # A state that cannot be encoded leaves everything as it was: run() comes to the same cut and raises.
            with suppress(Exception):
                self._cut_now()

    def _cut_now(self) -> None:
        """Make a batch of what is pending, with the states as they are."""
        self._cut_is_due = False
        batch = self._gathering.cut(self._encode_state)
        self._cut.append(batch)
        self._cut_bytes += batch.body_bytes

    def _batch_of(self, index: int) -> Batch:
        """The batch that a receipt which is not durable waits in."""
        if index >= self._gathering.batch.first_index:
            return self._gathering.batch
        return next(batch for batch in self._cut if index < batch.end)

    def _check_waitable(self, index: int) -> None:
        if index >= self.size:
            raise ReceiptNotFoundError(f"receipt {index} was never appended: there are {self.size}")
        if self._failed is not None:
            raise LedgerFailedError(str(self._failed)) from self._failed

    def _fail(self, error: BaseException) -> LedgerFailedError:
        """Take nothing more, and tell everybody who waits that nobody knows."""
        message = f"writing the ledger failed: {error!r}"
        self._failed, self._stopped = error, message
        self._dismiss(LedgerFailedError(message))
        return LedgerFailedError(message)

    def _dismiss(self, error: Exception) -> None:
        """Nobody waits any longer."""
        self._commits.dismiss(error)
        waiting: list[asyncio.Future[Any]] = list(self._growing)
        for batch in (*self._cut, self._gathering.batch):
            waiting += batch.waiters
            waiting += batch.sealing
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)

    async def _release(self) -> None:
        """Close the file and unlock, behind whatever the writing thread still does: nobody else may write before."""
        assert self._loop is not None  # noqa: S101 - run() has set it
        if self._failed is None and self._has_work():
            self._fail(LedgerClosedError("stopped before everything was written"))
        self._dismiss(LedgerClosedError(self._stopped or "closed"))
        await asyncio.shield(asyncio.ensure_future(self._let_go_behind()))

    async def _let_go_behind(self) -> None:
        """The lock goes last: until then index and segment are this process's."""
        assert self._loop is not None  # noqa: S101 - run() has set it
        await self._index.stop()
        self._indexing.shutdown(wait=False)
        letting_go = self._loop.run_in_executor(self._writing, self._let_go)
        self._writing.shutdown(wait=False)
        await letting_go

    def _let_go(self) -> None:
        self._segments.close()
        if self._lock is not None:
            self._lock.release()


def _nobody_to_hurry() -> None:
    """What is on the disk is committed."""
