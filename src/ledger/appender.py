"""The ledger of one partition: append in memory, commit in groups, answer when durable.

    append() ... append()      on the event loop, no I/O: chain, leaf, hash, frame
      -> cut                   on the loop, in one go: what is pending becomes a batch, with the states as they are now
      -> write + fdatasync     in the writing thread, one batch at a time; the next one gathers meanwhile
      -> landed                on the loop: the waiters of that batch are woken

A batch is written only after the one before is durable; the torn-write rule of the format rests on that. An I/O error
is final: nobody knows what reached the disk, so the ledger takes nothing more and the process should end.
"""

import asyncio
import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from msgspec import Struct

from ledger.archive import INDEX_FILE, Archive
from ledger.commits import Commits, FreshHashes
from ledger.disk import Disk
from ledger.durable import POSIX
from ledger.errors import (
    LeaseLostError,
    LedgerClosedError,
    LedgerFailedError,
    PushbackError,
    ReceiptInvalidError,
    ReceiptNotFoundError,
)
from ledger.format import canonical, chain, segment
from ledger.format.receipt import RECEIPT_VERSION, Fsm, Receipt
from ledger.format.tiles import TileTree
from ledger.identity import Identity, PartitionLock, open_identity, partition_folder
from ledger.index import Chain, SealedSegment, SegmentKey
from ledger.log_index import LogIndex
from ledger.reader import Stored
from ledger.recovery import OnReceipt, OnState, Recovered, TornTail, recover
from ledger.snapshots import AppFold
from ledger.writer import CutBatch, SegmentWriter, Written

KEY_BYTES: Final = chain.KEY_BYTES
STATE_KEY_CHARS_MAX: Final = 16_000  # four bytes each at most, and a frame has room for 65,535
_ENCODED_AT_ONCE: Final = 128
_TENANTS_CACHED_MAX: Final = 131_072
_sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of memory and of files."""

    batch_bytes: int = 1 << 20
    """A batch is cut soon after it has this many bytes (a slow disk writes them in 10 ms), …"""
    batch_receipts: int = 10_000
    """… or this many receipts: what one fdatasync makes everybody in it wait for."""
    segment_bytes: int = 16 << 20
    """A segment is sealed before it passes this (one long batch alone may pass it)."""
    pending_bytes: int = 64 << 20
    """What may wait for the disk before append() pushes back."""
    retry_after_s: float = 0.25
    """What append() then asks for: the time a slow disk needs for a few batches."""


OnCommit = Callable[[float, int], None]
"""`on_commit(seconds, receipts)`, for each batch that became durable."""


class Draft(Struct, frozen=True, gc=False):
    """What the caller knows of a receipt; the ledger adds the rest. `tenant` is its name, `payload` the sender's
    bytes. Fields as in `Receipt`.
    """

    tenant: str
    event_id: str
    source: str
    observed_us: int
    ts_us: int
    outcome: str
    decision: str
    rule: str
    evidence: dict[str, int | str]
    fsm: Fsm
    policy_digest: str
    actions: tuple[str, ...]
    payload: bytes


class StoredReceipt(Struct, frozen=True, gc=False):
    """A durable receipt: the exact bytes of its leaf, and whether it is committed."""

    index: int
    leaf: bytes
    committed: bool


class SealedTo(NamedTuple):
    """What the sealed segments hold: the first `size` receipts, and the tree's root over them."""

    size: int
    root: bytes
    epoch: int


class Opened(NamedTuple):
    """What there is to know of a ledger's start. `torn` was cut off, `notes` are for an operator to read, the first
    `snapshot_size` receipts were not read; `edge` is the tree's right edge as of the `hashes_from` of that moment.
    """

    torn: TornTail | None
    notes: list[str]
    snapshot_size: int
    edge: TileTree


class ChainHead(NamedTuple):
    """Where a tenant's chain ends: the sequence number that its next receipt will have, and the last one's leaf hash.

    `pseudonym` is the tenant's name in receipts, 32 hex digits.
    """

    pseudonym: str
    next_tseq: int
    leaf_hash: bytes


class _Batch:
    """What gathers, then waits for the disk: frames, and who wants to know."""

    __slots__ = (
        "body", "body_bytes", "count", "first_index", "hashes", "offsets", "root", "sealing", "states", "tenants",
        "waiters",
    )  # fmt: skip

    def __init__(self, first_index: int) -> None:
        self.first_index = first_index
        self.count = 0
        self.body: list[bytes] = []
        """A piece for many receipts, so that one receipt does not leave a handful of cold objects behind."""
        self.body_bytes = 0
        self.hashes: list[bytes] = []
        """Leaf hashes, joined as the body's pieces are."""
        self.offsets: list[int] = []
        self.tenants: list[Chain] = []
        """By receipt: where its frame begins in the body, and whose it is."""
        self.states: dict[str, object] = {}
        self.root = b""
        self.waiters: list[asyncio.Future[None]] = []
        self.sealing: list[asyncio.Future[SealedTo]] = []
        """Who wants the segment sealed behind this batch."""

    def __bool__(self) -> bool:
        return bool(self.count or self.states)

    @property
    def end(self) -> int:
        """The index after its last receipt."""
        return self.first_index + self.count

    def add(self, piece: bytes) -> None:
        """Append to the body."""
        self.body.append(piece)
        self.body_bytes += len(piece)


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
        limits: Limits = Limits(),
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
        self._key = identity.key
        self._writer_name = writer
        self._entropy = entropy
        self._encode_state = encode_state
        self._limits = limits
        self._lock = lock
        self._disk = disk
        self._index = LogIndex(archive or Archive(None, folder, disk), recovered.sealed, folder, disk)
        self._all_chains = recovered.chains
        self._tree = recovered.tree
        self._size = self._local_size = recovered.size
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
        """Who waits for anything more to be durable."""

        self._chains: dict[str, Chain] = {}
        """By tenant's name: a cache that spares an HMAC. `_all_chains` has them by pseudonym."""
        self._drafts: list[Draft] = []
        self._draft_chains: list[Chain] = []
        """Receipts that have their index but no bytes yet, nor a place in their chains; those chains."""
        self._draft_bytes = 0
        """Of the drafts' payloads."""
        self._encoded_at_once = min(_ENCODED_AT_ONCE, limits.batch_receipts)
        self._gathering = _Batch(self._size)
        self._cut: deque[_Batch] = deque()
        """Batches that wait for the disk; the first is being written if `_write` is set."""
        self._write: asyncio.Future[Written] | None = None
        self._encoded_bytes = 0
        """Of all bodies, in `_cut` and gathering."""
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
        limits: Limits = Limits(),
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
        return self._size

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
        return self._encoded_bytes + self._draft_bytes

    @property
    def failed(self) -> BaseException | None:
        """What ended the ledger, if something did."""
        return self._failed

    def pseudonym(self, tenant: str) -> str:
        """The tenant's name in receipts."""
        cached = self._chains.get(tenant)
        return cached.pseudonym if cached is not None else chain.pseudonym(self._key, tenant)

    def next_tseq(self, tenant: str) -> int:
        """The sequence number that the tenant's next receipt will have."""
        self._encode_drafts()
        found = self._known_chain(tenant)
        return found.count if found is not None else 0

    def append(self, draft: Draft) -> int:
        """Add a receipt and return its index. No I/O; wait with `wait_local` before telling anybody.

        Raises ReceiptInvalidError (nothing changed), PushbackError (nothing changed), LedgerClosedError.
        """
        if self._stopped is not None:
            raise LedgerClosedError(self._stopped)
        limits, drafts, draft_bytes = self._limits, self._drafts, self._draft_bytes
        if self._encoded_bytes + draft_bytes >= limits.pending_bytes:
            raise PushbackError(self.pending_bytes, limits.retry_after_s)
        canonical.check_draft(
            draft.evidence, draft.ts_us, draft.observed_us, draft.event_id, draft.source, draft.fsm
        )  # fmt: skip
        self._draft_chains.append(self._chains.get(draft.tenant) or self._open_chain(draft.tenant))
        drafts.append(draft)
        self._draft_bytes = draft_bytes = draft_bytes + len(draft.payload)
        index = self._size
        self._size = index + 1
        if len(drafts) == 1:
            self._work.set()
        if len(drafts) >= self._encoded_at_once or draft_bytes >= limits.batch_bytes:
            self._encode_drafts()
            batch = self._gathering
            if batch.count >= limits.batch_receipts or batch.body_bytes >= limits.batch_bytes:
                self._cut_soon()
        return index

    def _encode_drafts(self) -> None:
        """Make leaves and frames of the drafts that wait, many in a row: the code of each step stays in the
        processor's cache, which makes a receipt twice as cheap as encoding it where it is decided.
        """
        drafts, batch = self._drafts, self._gathering
        if not drafts:
            return
        payloads = [draft.payload for draft in drafts]
        # Asked for together: each call of the kernel costs as much as a third of a receipt.
        keys = chain.split(self._entropy(KEY_BYTES * len(drafts)), KEY_BYTES)
        commitments = chain.commitments(keys, payloads)
        epoch, origin, writer, encode = self.epoch, self.origin, self._writer_name, canonical.encode_checked
        leaves, hashes = [], []
        for draft, tenant, commitment in zip(drafts, self._draft_chains, commitments, strict=True):
            tseq = tenant.count
            leaf = encode(
                # By position, which takes 0.1 µs where keywords take 0.6: the order is that of the fields.
                Receipt(
                    draft.actions,
                    draft.decision,
                    epoch,
                    draft.event_id,
                    draft.evidence,
                    draft.fsm,
                    commitment,
                    origin,
                    draft.observed_us,
                    draft.outcome,
                    draft.policy_digest,
                    tenant.head.hex(),
                    draft.rule,
                    draft.source,
                    tenant.pseudonym,
                    draft.ts_us,
                    tseq,
                    RECEIPT_VERSION,
                    writer,
                )
            )
            leaves.append(leaf)
            tenant.head = digest = _sha256(b"\0" + leaf).digest()
            hashes.append(digest)
            tenant.count = tseq + 1
        canonical.check_lengths(leaves)
        frames, offsets = segment.encode_receipts(batch.body_bytes, leaves, keys, payloads)
        batch.add(frames)
        batch.count += len(drafts)
        self._encoded_bytes += len(frames)
        batch.hashes.append(b"".join(hashes))
        batch.offsets += offsets
        batch.tenants += self._draft_chains
        self._tree.extend(hashes)
        self._drafts, self._draft_chains, self._draft_bytes = [], [], 0

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
        states = self._gathering.states
        if not states:
            self._work.set()
        states[key] = value

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
        if self._may_answer is not None and not self._may_answer():
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
        if self._drafts or self._gathering or not self._cut:
            self._cut_now()
        sealed: asyncio.Future[SealedTo] = asyncio.get_running_loop().create_future()
        if self._write is not None and len(self._cut) == 1:
            self._cut.append(_Batch(self._cut[-1].end))  # the last batch is being written, and its seal decided
            self._cut[-1].root = self._cut[0].root
        self._cut[-1].sealing.append(sealed)
        self._work.set()
        return await sealed

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
        self._encode_drafts()
        heads = [ChainHead(one.pseudonym, one.count, one.head) for one in self._all_chains.values()]
        return self._size, heads

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
        known = self._known_chain(tenant)
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
        self._encoded_bytes -= batch.body_bytes
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
        return bool(self._cut or self._drafts or self._gathering)

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
        self._encode_drafts()
        batch, encode = self._gathering, self._encode_state
        states = b"".join([segment.encode_state(key, encode(value)) for key, value in batch.states.items()])
        if states:
            batch.add(states)
            self._encoded_bytes += len(states)
        batch.root = self._tree.root()
        self._cut.append(batch)
        self._gathering = _Batch(self._size)

    def _known_chain(self, tenant: str) -> Chain | None:
        return self._chains.get(tenant) or self._all_chains.get(chain.pseudonym(self._key, tenant))

    def _open_chain(self, tenant: str) -> Chain:
        """The tenant's chain, begun if it has none."""
        try:
            found = self._known_chain(tenant)
        except UnicodeEncodeError as error:
            raise ReceiptInvalidError(f"the tenant's name {tenant!r} holds a lone surrogate") from error
        if found is None:
            pseudonym = chain.pseudonym(self._key, tenant)
            found = self._all_chains[pseudonym] = Chain(pseudonym, chain.genesis(self.origin, pseudonym))
        if len(self._chains) >= _TENANTS_CACHED_MAX:
            self._chains.clear()  # rare; filling it again costs 2 µs a tenant
        self._chains[tenant] = found
        return found

    def _batch_of(self, index: int) -> _Batch:
        """The batch that a receipt which is not durable waits in."""
        if index >= self._gathering.first_index:
            return self._gathering
        return next(batch for batch in self._cut if index < batch.end)

    def _check_waitable(self, index: int) -> None:
        if index >= self._size:
            raise ReceiptNotFoundError(f"receipt {index} was never appended: there are {self._size}")
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
        for batch in (*self._cut, self._gathering):
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
