"""Takes over a log: brings the folder in line with what is committed, then raises the epoch in the head.

Everything that only reads, fetches or puts aside comes first, and the compare-and-swap last: if somebody else has
written the head meanwhile, it starts again, and a writer that could not go on anyway never fences one that can. From
the swap on the writer before is fenced, and the folder holds the committed log and perhaps a tail that extends it.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ledger import local_log
from ledger.authority import HEAD_KEY, Authority, HeadTerms
from ledger.backoff import PATIENCE_S, Backoff, with_patience
from ledger.disk import Disk
from ledger.errors import (
    HeadInvalidError,
    LogForkedError,
    NoteInvalidError,
    RestoreError,
    RetentionInvalidError,
    WriterFencedError,
)
from ledger.fetch import Fetcher, OnProgress
from ledger.format import checkpoint as checkpoints
from ledger.format import retention
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.merkle import EMPTY_ROOT
from ledger.format.note import Signer, Verifier, open_note
from ledger.format.retention import RETENTION_KEY
from ledger.index import SegmentKey
from ledger.layout import SegmentName
from ledger.local_log import FoundSegment
from ledger.protocol.head import Head, SegmentRef, decode_head
from ledger.protocol.takeover import Adopt, Fork, Quarantine, judge_log, wait_s
from ledger.public_tree import published_root
from ledger.snapshots import find_standing, may_go_below
from ledger.store.object_store import CREATE, ObjectStore

T = TypeVar("T")

LOOK_S: Final = 1.0
"""While a lease is waited out: an owner that hands over is followed within this."""
HURRIED_LOOK_S: Final = 0.2
"""The same, where somebody says that it may be handed over by now."""
DROP_S: Final = 3_600.0
"""From one look for what the log has dropped to the next."""
GIVE_BACK_S: Final = 3.0
"""Longer than two writes of a head take."""


@dataclass(frozen=True, slots=True)
class Place:
    """One partition: its part of the object store, and its folder (which the caller has locked)."""

    store: ObjectStore
    disk: Disk
    folder: Path
    origin: str


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who wants to write. `owner` is told to people; `lock` names the lock that it holds on its folder, such that a
    head with the same one was written under that very lock, by a process that has ended.

    `verifiers` are of keys that may have signed what is committed; the signer's own is among them anyway.
    """

    owner: str
    lock: str
    signer: Signer
    terms: HeadTerms
    verifiers: Sequence[Verifier] = ()


@dataclass(slots=True)
class TakenOver:
    """`authority` to write, under `epoch`. The folder holds the committed log and `adopted` receipts that extend it;
    `lost` receipts that were only local are in quarantine, in the files `put_aside`; `fetched` bytes came from the
    store. `waited_s` is how long the last owner's lease had to be waited for.
    """

    authority: Authority
    epoch: int
    adopted: int = 0
    lost: int = 0
    put_aside: Sequence[Path] = ()
    fetched: int = 0
    waited_s: float = 0.0


async def take_over(
    place: Place,
    claimant: Claimant,
    *,
    entropy: Callable[[int], bytes],
    rng: random.Random,
    executor: Executor | None = None,
    on_waiting: Callable[[str, float], None] | None = None,
    on_progress: OnProgress | None = None,
    on_followed: Callable[[int], None] | None = None,
    hurry: asyncio.Event | None = None,
) -> TakenOver:
    """Wait until the log is free, and take it. `on_followed` is told how many receipts of it are here by now. `hurry`
    is set by whoever has reason to believe that it is free, and cleared here.

    Raises StoreRefusedError, StoreUnavailableError, HeadInvalidError, NoteInvalidError (who
    signed the log?), LogForkedError, RestoreError, SegmentCorruptError, OSError; the log still belongs to whom it
    belonged then.
    """
    return await _Takeover(place, claimant, entropy, rng, executor, on_waiting, on_progress, on_followed, hurry).run()


class _Takeover:
    def __init__(
        self,
        place: Place,
        claimant: Claimant,
        entropy: Callable[[int], bytes],
        rng: random.Random,
        executor: Executor | None,
        on_waiting: Callable[[str, float], None] | None,
        on_progress: OnProgress | None,
        on_followed: Callable[[int], None] | None,
        hurry: asyncio.Event | None,
    ) -> None:
        self._on_followed = on_followed
        self._hurry = hurry or asyncio.Event()
        self._place = place
        self._claimant = claimant
        self._entropy = entropy
        self._rng = rng
        self._executor = executor
        self._on_waiting = on_waiting
        self._on_progress = on_progress
        self._lost = 0
        self._put_aside: list[Path] = []
        self._fetched = 0
        self._waited_s = 0.0
        self._followed: SegmentRef | None = None
        """The last segment in the folder, where that is the one that a head has named."""
        self._drop_s = 0.0
        """When to look next for what the log has dropped."""
        self._met: tuple[Head | None, int] | None = None
        """The head that ended the wait for another one, with its generation."""

    async def run(self) -> TakenOver:
        loop = asyncio.get_running_loop()
        self._drop_s = loop.time() + DROP_S
        while True:
            head, generation = self._met or await self._read_head()
            self._met, seen_s = None, loop.time()
            if head is None:
                if not await self._is_new():
                    continue  # somebody has begun the log meanwhile
                local = await self._blocking(self._find)
                head, adopted = self._first_head(), _end_of(local)
            else:
                self._check_signature(head)
                # The disk agrees with the head after this, whoever gets it: a crash leaves a part of it done.
                # While another has the log, each commit is fetched as it comes, so that nothing is left to fetch when
                # it goes.
                in_line = await self._try_to_follow(head, generation)
                if in_line is not None and self._on_followed is not None:
                    self._on_followed(head.size)
                if in_line is not None and loop.time() >= self._drop_s:
                    await self._drop()
                if not await self._wait(head, generation, seen_s):
                    continue  # the owner has renewed its lease, or committed, or it hands over
                in_line = in_line or await self._try_to_follow(head, generation)
                if in_line is None:
                    continue
                local, adopted = in_line
            epoch = max(head.epoch, local[-1].name.epoch if local else 0) + 1
            authority = Authority(
                self._place.store, self._claimant.terms, None, generation, entropy=self._entropy, rng=self._rng
            )
            mine = msgspec.structs.replace(head, epoch=epoch, owner=self._owner, lease_us=self._claimant.terms.lease_us)
            try:
                await authority.claim(mine)
            except WriterFencedError:
                continue  # the owner has renewed its lease or committed, or another claimant was faster
            except asyncio.CancelledError:  # others shall have it
                await authority.give_back(GIVE_BACK_S)
                raise
            # The log is ours from here on. A crash leaves a head whose owner is gone, which the next start sees.
            await self._send_quarantined()
            return TakenOver(authority, epoch, adopted, self._lost, self._put_aside, self._fetched, self._waited_s)

    @property
    def _owner(self) -> str:
        return f"{self._claimant.owner} {self._claimant.lock}"

    async def _read_head(self) -> tuple[Head | None, int]:
        found = await with_patience(lambda: self._place.store.get(HEAD_KEY), Backoff(self._rng), PATIENCE_S)
        return (None, CREATE) if found is None else (decode_head(found.data), found.generation)

    async def _is_new(self) -> bool:
        """Whether the store has nothing of the log. The head comes first and nobody ever deletes it, so a store with
        segments and no head is damaged. Raises HeadInvalidError.
        """
        segments = await with_patience(lambda: self._place.store.list("seg/"), Backoff(self._rng), PATIENCE_S)
        if segments and (await self._read_head())[0] is None:
            raise HeadInvalidError(f"it is gone, and {len(segments)} segments of the log are there: bring it back")
        return not segments

    def _first_head(self) -> Head:
        signer = self._claimant.signer
        note = sign_checkpoint(Checkpoint(self._place.origin, 0, EMPTY_ROOT), signer)
        return Head(
            checkpoint=note.decode(), epoch=0, lease_us=0, nonce="", owner="", root=EMPTY_ROOT.hex(), segment=None,
            size=0, vkey=signer.verifier.vkey,
        )  # fmt: skip

    def _check_signature(self, head: Head) -> None:
        own = self._claimant.signer.verifier
        known = {(one.name, one.key_id): one for one in (own, *self._claimant.verifiers)}
        try:
            note = open_note(head.checkpoint.encode(), list(known.values()))
        except NoteInvalidError as error:
            raise NoteInvalidError(
                f"the log {self._place.origin} in the store was not signed by a key that is known here ({error}): "
                "bring its signing key here, or name its verifier key as one that is trusted"
            ) from error
        if checkpoints.decode(note.text).origin != self._place.origin:
            raise HeadInvalidError(f"it is of the log {checkpoints.decode(note.text).origin}, not {self._place.origin}")

    async def _wait(self, head: Head, generation: int, seen_s: float) -> bool:
        """Wait out the lease; False as soon as there is another head."""
        loop = asyncio.get_running_loop()
        is_gone = head.owner.rpartition(" ")[2] == self._claimant.lock
        is_told = False
        while (left_s := wait_s(head, seen_s=seen_s, now_s=loop.time(), owner_is_gone=is_gone)) > 0:
            if not is_told and self._on_waiting is not None:
                self._on_waiting(head.owner, left_s)
            is_told = True
            await self._pause(left_s)
            found = await self._read_head()
            if found[1] != generation:
                self._met = found
                return False
        return True

    async def _pause(self, left_s: float) -> None:
        """Until the next look at the head."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await asyncio.sleep(min(left_s, HURRIED_LOOK_S))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(begun_s + min(left_s, LOOK_S)):
                await self._hurry.wait()
        self._hurry.clear()
        self._waited_s += loop.time() - begun_s

    async def _try_to_follow(self, head: Head, generation: int) -> tuple[list[FoundSegment], int] | None:
        """What `_bring_in_line` does; None where there is another head by now, and it could not be done for that."""
        try:
            in_line = await self._bring_in_line(head)
        except RestoreError:
            if (await self._read_head())[1] == generation:
                raise
            return None  # it is the log of a while ago, and retention has dropped some of it since
        local, adopted = in_line
        last = local[-1].key if local and not adopted else None
        self._followed = head.segment if head.segment is not None and last == head.segment.place() else None
        return in_line

    async def _follow(self, head: Head, last: SegmentRef) -> list[FoundSegment] | None:
        """The head's own segment, fetched if need be; None if that is neither the segment `last`, behind which there is
        nothing in the folder, nor the one after it. Looks at no others, so that it costs the same however many there
        are.
        """
        if head.segment is None:
            return None
        if head.segment != last:
            fetcher = self._fetcher()
            following = await fetcher.fetch_next(head, last)
            if following is None:
                return None
            await self._blocking(lambda: fetcher.put_in_place(following))
            self._fetched += following.bytes
        name = SegmentName(*head.segment.place(), sealed=True)
        return [FoundSegment(name, head.size, bytes.fromhex(head.segment.sha256))]

    async def _bring_in_line(self, head: Head) -> tuple[list[FoundSegment], int]:
        """Make the folder hold all that is committed; also, how many receipts it has beyond that."""
        place = self._place
        if self._followed is not None and (followed := await self._follow(head, self._followed)) is not None:
            return followed, 0
        if head.segment is not None:
            # Nearly always the head's own segment is here, and with it, by the chain of hashes, all before it.
            last_key = SegmentKey(*head.segment.place())
            tail = await self._blocking(lambda: local_log.find_segments(place.disk, place.folder, last_key))
            if tail and tail[0].sha256.hex() == head.segment.sha256:
                return tail, _end_of(tail) - head.size
        fetcher = self._fetcher()
        local = await self._blocking(self._find)
        begin = local[-1].name.first_index if local else 0
        fetched = await fetcher.fetch(head, {one.sha256 for one in local}, begin)
        digests = [one.sha256 for one in local]
        common = digests.index(fetched.common) + 1 if fetched.common is not None else 0
        dropped = await self._count_dropped(local) if fetched.snapshots else 0
        verdict = judge_log([one.as_local() for one in local], common or dropped, head, has_all=not fetched.names)
        match verdict:
            case Fork(message):
                raise LogForkedError(message)
            case Adopt(receipts):
                return local, receipts
            case Quarantine(first, receipts):
                names = [one.name for one in local[first:]]
                put_aside = await self._blocking(
                    lambda: local_log.quarantine(place.disk, place.folder, names, head.epoch)
                )
                self._put_aside += put_aside
                self._lost += receipts
        if dropped:
            gone = [one.name for one in local[:dropped]]
            await self._blocking(lambda: local_log.remove(place.disk, place.folder, gone))
        await self._blocking(lambda: fetcher.put_in_place(fetched))
        self._fetched += fetched.bytes
        return await self._blocking(self._find), 0

    def _fetcher(self) -> Fetcher:
        place = self._place
        return Fetcher(
            place.store, place.disk, place.folder, place.origin, lambda: Backoff(self._rng),
            executor=self._executor, on_progress=self._on_progress,
        )  # fmt: skip

    async def _drop(self) -> None:
        """Remove here what the log has dropped, as whoever has it does on its own disk: who only follows it must not
        keep payloads for longer, nor need more of a disk.
        """
        place = self._place
        self._drop_s = asyncio.get_running_loop().time() + DROP_S
        found = await with_patience(lambda: place.store.get(RETENTION_KEY), Backoff(self._rng), PATIENCE_S)
        with suppress(RetentionInvalidError):  # its owner says so
            segments_from = 0 if found is None else retention.decode(found.data).segments_from
            await self._blocking(lambda: self._drop_below(segments_from))

    def _drop_below(self, segments_from: int) -> None:
        place = self._place
        below = may_go_below(segments_from, find_standing(place.folder, place.origin, place.disk))
        local_log.remove_below(place.disk, place.folder, below)

    async def _count_dropped(self, local: Sequence[FoundSegment]) -> int:
        """How many of these segments were in the committed log until retention dropped them: those up to the last one
        that ends with a root which that log had. Tiles are never dropped, so it can be told.
        """
        place = self._place
        for count in range(len(local), 0, -1):
            name, size = local[count - 1].name, local[count - 1].end_index
            root = await self._blocking(partial(local_log.root_at_end, place.disk, place.folder, name))
            if root is not None and root == await published_root(place.store, size, Backoff(self._rng)):
                return count
        return 0

    async def _send_quarantined(self) -> None:
        """For the record: one attempt each, for the files stay here too. Those that are there already are not new."""
        place = self._place
        for path, key in await self._blocking(lambda: list(local_log.quarantined(place.disk, place.folder))):
            await place.store.put_file(key, path)

    def _find(self) -> list[FoundSegment]:
        return local_log.find_segments(self._place.disk, self._place.folder)

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _end_of(local: Sequence[FoundSegment]) -> int:
    return local[-1].end_index if local else 0
