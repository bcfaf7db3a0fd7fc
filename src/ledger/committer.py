"""Commits one partition's log: what is on this machine's disk goes into the object store, and the head names it.

`Committer.commit` is one commit, from top to bottom; the rest of the module says when. A commit that was interrupted
anywhere is made good by the next start, which adopts what is on the disk and commits it first.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol, TypeVar

from ledger.authority import Authority
from ledger.backoff import Backoff, with_patience
from ledger.batch import SealedTo
from ledger.disk import Disk
from ledger.errors import LedgerClosedError, LedgerError, SegmentCorruptError, StoreRefusedError
from ledger.format import segment
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.merkle import HASH_BYTES
from ledger.format.note import Signer
from ledger.index import SealedSegment, SegmentKey
from ledger.protocol.head import Head, SegmentRef, segment_key
from ledger.store.object_store import Lost, ObjectStore, Unknown, Won

NONCE_BYTES: Final = 4
LEAD_MIN_S: Final = 0.1
"""So long before the lease falls due a commit begins at least, so that it is known to be on its way."""
LEAD_KEPT: Final = 0.7
"""Of what a slow commit took, the next one is taken to take so much still."""
BYTES_AT_ONCE: Final = 64 << 20
"""What one commit uploads at most, so that a long tail is committed piece by piece."""
T = TypeVar("T")


class Log(Protocol):
    """What the committer needs of `appender.Ledger`."""

    @property
    def origin(self) -> str: ...
    @property
    def local_size(self) -> int: ...
    async def seal(self) -> SealedTo: ...
    def sealed_behind(self, key: SegmentKey | None) -> Sequence[SealedSegment]: ...
    def mark_committed(self, size: int) -> None: ...
    def when_hurried(self, hurry: Callable[[], None]) -> None: ...
    async def wait_beyond(self, size: int) -> int: ...
    def fail(self, error: BaseException) -> None: ...


OnCommitted = Callable[[float, int], None]
"""`on_committed(seconds, receipts)`, for each commit."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """`interval_s`: least time from one commit to the next. `alarm_s`: from when on a receipt has waited too long for
    its commit. `hand_over_s`: how long the last commit may take when the committer is told to end.

    Where nobody is in a hurry and the head has to be written again soon anyway, to renew the lease, a commit waits for
    that, up to `interval_s` more: one write of the head does for both.
    """

    interval_s: float = 2.0
    alarm_s: float = 600.0
    hand_over_s: float = 8.0


class Committer:
    """One partition's. Everything happens on the event loop; what blocks runs in `executor`."""

    def __init__(
        self,
        log: Log,
        store: ObjectStore,
        authority: Authority,
        signer: Signer,
        disk: Disk,
        *,
        entropy: Callable[[int], bytes],
        rng: random.Random,
        cadence: Cadence = Cadence(),
        executor: Executor | None = None,
        on_committed: OnCommitted | None = None,
    ) -> None:
        self._log = log
        self._store = store
        self._authority = authority
        self._signer = signer
        self._disk = disk
        self._entropy = entropy
        self._rng = rng
        self._cadence = cadence
        self._executor = executor
        self._on_committed = on_committed
        self._next_s = -inf
        self._lead_s = LEAD_MIN_S
        """How long before its head is sent a commit begins, about."""
        self._is_asked = False
        """Whether somebody wants the next commit at once."""
        self._is_hurried = False
        """Whether somebody wants it as soon as its distance from the last one allows."""
        self._is_held_back = False
        """Whether the next commit is to be the last."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._woken = asyncio.Event()
        log.when_hurried(self._hurry)
        self._waiting: list[asyncio.Future[None]] = []
        self._pending_since_s: float | None = None
        self._is_behind = False
        """Whether the last commit left something out because it was long enough."""
        self._ended: BaseException | None = None

    @property
    def head(self) -> Head:
        """What is committed."""
        return self._authority.head

    @property
    def failed(self) -> BaseException | None:
        """Why nothing is committed any more, if that is so."""
        return self._ended

    def waited_s(self) -> float:
        """How long the oldest receipt that is not committed has waited, about; 0 if all are."""
        since_s = self._pending_since_s
        return 0.0 if since_s is None else asyncio.get_running_loop().time() - since_s

    def is_late(self) -> bool:
        """Whether a receipt has waited so long that somebody should be told: losing this machine loses it."""
        return self.waited_s() > self._cadence.alarm_s

    async def commit(self, *, is_last: bool = False) -> bool:
        """Commit what is on the disk, or the first 64 MiB of it; false if there was nothing. With `is_last` nothing is
        appended any more, and the head that names the end hands the log over too. Each step's comment says what a crash
        after it leaves.

        Raises WriterFencedError (another writer has the log), StoreRefusedError, LedgerFailedError.
        """
        self._log.mark_committed(self.head.size)
        sealed = await self._log.seal()
        # A sealed tail on the disk, which the next start adopts and commits first.
        head = self.head
        tail = _next_piece(self._log.sealed_behind(_last_key(head)), head.size, sealed.size)
        if not tail:
            return False
        self._is_behind = tail[-1].end < sealed.size
        for one in tail:
            last = await self._upload(one)
            # An object that no head names: nobody reads it, and it is collected later.
        # Only now, for a file that is sound still was so when it was read to be sent.
        size, root = tail[-1].end, await self._check(head, tail)
        if size == sealed.size and root != sealed.root:
            raise SegmentCorruptError(tail[-1].path, tail[-1].bytes, size, "its root is not the one that was sealed")
        note = sign_checkpoint(Checkpoint(self._log.origin, size, root), self._signer)
        # Signed bytes that nobody has seen. The next start signs the same, or another writer has taken over.
        write = self._authority.hand_over if is_last and not self._is_behind else self._authority.replace
        await write(checkpoint=note.decode(), root=root.hex(), segment=last, size=size, vkey=self._signer.verifier.vkey)
        # The head names the new tail, or will in a moment, or never: whoever reads it next finds out. This commits.
        self._log.mark_committed(size)
        # Nobody here was told. Whoever waited for it sends its signal again, and hears that it was decided before.
        return True

    async def commit_now(self) -> Head:
        """Return a head that has all receipts that are durable now; does not wait for the cadence.

        The caller sets the deadline. Raises what ended the committer.
        """
        size = self._log.local_size
        while self.head.size < size:
            self._is_asked = True
            self._woken.set()
            await self._next_commit()
        return self.head

    async def wait_beyond(self, size: int) -> Head:
        """Return a head that has more than `size` receipts, once there is one. Raises what ended the committer."""
        while self.head.size <= size:
            await self._next_commit()
        return self.head

    async def hold_back(self) -> None:
        """Begin no commit any more but the last, and return when that can be made at once. Whoever ends this only then
        has the log stand still for less long: heads keep their distance, and what is appended meanwhile goes along.

        The caller sets the deadline.
        """
        self._is_held_back = True
        self._woken.set()
        await self._idle.wait()
        await self._authority.wait_turn()

    async def run(self) -> None:
        """Commit whenever there is something, until cancelled; then commit what is left and hand the log over.

        Raises WriterFencedError, StoreRefusedError or what the ledger raised: the process must end then. The ledger has
        been told already, and answers nobody.
        """
        self._log.mark_committed(self.head.size)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work(), name="commit")
                tasks.create_task(self._authority.keep(), name="lease")
        except asyncio.CancelledError:
            await self._end_in_order()
            raise
        except BaseExceptionGroup as group:
            error = group.exceptions[0]
            self._end(error)
            self._log.fail(error)
            raise error from None
        finally:
            await self._authority.close()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._log.local_size <= self.head.size:
                self._pending_since_s = None
                await self._log.wait_beyond(self.head.size)
            if self._pending_since_s is None:
                self._pending_since_s = loop.time()
            await self._pause()
            self._is_asked = self._is_hurried = False
            begun_s, before = loop.time(), self.head.size
            self._next_s = begun_s + self._cadence.interval_s
            with self._authority.committing(), self._busy():
                if not await self.commit():
                    continue
            # The longest of late: a commit that comes a little early costs less than one that its lease cannot await.
            self._lead_s = max(self._authority.sent_s - begun_s, LEAD_KEPT * self._lead_s, LEAD_MIN_S)
            self._pending_since_s = begun_s
            if self._is_behind:
                self._is_asked = True
            if self._on_committed is not None:
                self._on_committed(loop.time() - begun_s, self.head.size - before)
            self._wake(None)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    async def _pause(self) -> None:
        """Return when the next commit is to begin."""
        loop = asyncio.get_running_loop()
        while (wait_s := self._begin_s() - loop.time()) > 0:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait_s == inf else wait_s):
                    await self._woken.wait()

    def _begin_s(self) -> float:
        if self._is_held_back:
            return inf
        if self._is_asked:
            return -inf
        if self._is_hurried:
            return self._next_s
        patient_s = self._next_s + self._cadence.interval_s
        return max(self._next_s, min(self._authority.due_s - self._lead_s, patient_s))

    def _hurry(self) -> None:
        self._is_hurried = True
        self._woken.set()

    async def _next_commit(self) -> None:
        if self._ended is not None:
            raise self._ended
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        await done

    async def _end_in_order(self) -> None:
        """Everything that appends has ended before: commit the rest, so that the next owner has it wherever it runs.
        What does not come to an end in time, the next start does.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._cadence.hand_over_s):
                await self._authority.settle()
                with suppress(LedgerError):  # the ledger may have failed, which is said elsewhere
                    while await self.commit(is_last=True):
                        pass
                with suppress(LedgerError):
                    if self.head.lease_us:  # there was nothing to commit
                        await self._authority.hand_over()
        self._end(LedgerClosedError("the committer was stopped"))

    def _end(self, error: BaseException) -> None:
        self._ended = error
        self._wake(error)

    def _wake(self, error: BaseException | None) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None) if error is None else one.set_exception(error)

    async def _check(self, head: Head, tail: Sequence[SealedSegment]) -> bytes:
        """The root after the last of these segments. Raises SegmentCorruptError if they do not continue the head's, or
        if the disk has spoilt one: what the head names must be in the store.
        """
        ends = await self._blocking(lambda: [_ends_of(self._disk, one) for one in tail])
        previous = bytes.fromhex(head.segment.sha256) if head.segment is not None else segment.NO_SEGMENT_SHA256
        first_index = head.size
        for one, (header, _) in zip(tail, ends, strict=True):
            if header.previous_sha256 != previous or header.first_index != first_index:
                raise SegmentCorruptError(one.path, 0, first_index, "it does not continue what is committed")
            previous, first_index = one.sha256, one.end
        return ends[-1][1]

    async def _upload(self, one: SealedSegment) -> SegmentRef:
        """Put a segment under a name that nothing else ever had."""
        key = segment_key(*one.key, self._entropy(NONCE_BYTES))
        backoff = Backoff(self._rng)
        while True:
            match await self._store.put_file(key, one.path):
                case Won():
                    return SegmentRef(key, one.sha256.hex())
                case Unknown(_, retry_after_s):
                    await backoff.wait(retry_after_s)
                case Lost():
                    found = await with_patience(lambda: self._store.get(key), backoff)
                    if found is not None and hashlib.sha256(found.data).digest() == one.sha256:
                        return SegmentRef(key, one.sha256.hex())  # an earlier attempt had landed
                    raise StoreRefusedError(f"{key} holds something else than was put there")

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _last_key(head: Head) -> SegmentKey | None:
    return None if head.segment is None else SegmentKey(*head.segment.place())


def _next_piece(tail: Sequence[SealedSegment], committed: int, size: int) -> list[SealedSegment]:
    """The segments of one commit: those below `size`, so many that they are not too long, and ending with a receipt.

    A segment without receipts is committed along with one that follows it.
    """
    piece: list[SealedSegment] = []
    length = 0
    for one in tail:
        if one.end > size or (length >= BYTES_AT_ONCE and piece[-1].end > committed):
            break
        piece.append(one)
        length += one.bytes
    while piece and not piece[-1].count:
        piece.pop()
    return piece


def _ends_of(disk: Disk, one: SealedSegment) -> tuple[segment.SegmentHeader, bytes]:
    """A segment's header, and the root at its end, if it holds a batch. Raises SegmentCorruptError."""
    data = disk.read(one.path)
    if hashlib.sha256(data).digest() != one.sha256:
        raise SegmentCorruptError(one.path, 0, one.first_index, "it is not what was sealed")
    return segment.decode_header(data), data[-HASH_BYTES:]
