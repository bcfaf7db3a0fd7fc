"""The right to write a log, as the head in the object store has it: held from a takeover until the first lost write."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ledger.backoff import Backoff, with_patience
from ledger.errors import HeadInvalidError, LedgerError, WriterFencedError
from ledger.protocol.commit import Committed, Fenced, HeadWrite, Lease, LookAgain, PutAgain
from ledger.protocol.head import Head, decode_head, encode_head
from ledger.store.object_store import Object, ObjectStore

HEAD_KEY: Final = "ctl/head"
NONCE_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class HeadTerms:
    """How a writer treats its head.

    `lease_s`: how long it may answer locally after it wrote a head, 0 if its lock on the disk is fence enough.
    `margin_s` is what it leaves for clocks that run at different rates, `spacing_s` the least time between two heads
    (Cloud Storage takes one write a second of an object).
    """

    lease_s: float = 0.0
    margin_s: float = 0.0
    spacing_s: float = 0.0

    @property
    def lease_us(self) -> int:
        return int(self.lease_s * 1e6)


class Authority:
    """Writes heads, one at a time, each in the place of the one before. `head` is the latest that is known to be in
    the store, `generation` its generation there.
    """

    def __init__(
        self, store: ObjectStore, terms: HeadTerms, head: Head | None, generation: int,
        *, entropy: Callable[[int], bytes], rng: random.Random,
    ) -> None:  # fmt: skip
        self._store = store
        self._terms = terms
        self._entropy = entropy
        self._rng = rng
        self._head = head
        self._generation = generation
        self._lease = Lease(terms.lease_s, terms.margin_s)
        self._next_s = float("-inf")
        self._lock = asyncio.Lock()
        self._writes: set[asyncio.Task[Head]] = set()
        self._commits = 0
        """Commits on their way, each of which will write a head."""
        self._over = False
        """Whether nothing may be answered any more."""
        self._refused: str | None = None
        """Why no head may be written any more."""

    @property
    def head(self) -> Head:
        """Raises LookupError before the first is written."""
        if self._head is None:
            raise LookupError("no head was written yet")
        return self._head

    def may_answer(self) -> bool:
        """Whether a receipt that is on this disk alone may be told of now."""
        if self._over:
            return False
        return not self._terms.lease_s or self._lease.may_answer(asyncio.get_running_loop().time())

    @property
    def due_s(self) -> float:
        """When the head has to be written again, whatever there is to say; the past where there is no lease."""
        return self._lease.renew_s if self._terms.lease_s else float("-inf")

    @property
    def sent_s(self) -> float:
        """When the latest head was sent."""
        return float("-inf") if self._lease.sent_s is None else self._lease.sent_s

    @contextmanager
    def committing(self) -> Iterator[None]:
        """While a head is prepared that will renew the lease: no other is written for that alone if there is time."""
        self._commits += 1
        try:
            yield
        finally:
            self._commits -= 1

    async def replace(self, **changes: Any) -> Head:
        """Write a head that differs from the last one in these fields, and return once it is in the store.

        Tries for as long as it takes to know, also when the caller is cancelled. Raises WriterFencedError,
        StoreRefusedError.
        """
        return await self._begin(lambda: msgspec.structs.replace(self.head, **changes))

    async def claim(self, head: Head) -> Head:
        """Write the first head of this authority. Raises as `replace` does."""
        return await self._begin(lambda: head)

    async def keep(self) -> None:
        """Renew the lease in time, for as long as this runs; without a lease there is nothing to do.

        Raises as `replace` does.
        """
        loop = asyncio.get_running_loop()
        while self._terms.lease_s:
            await asyncio.sleep(max(0.0, self._lease.renew_s - loop.time()))
            if self._commits:
                await asyncio.sleep(max(0.0, self._lease.last_call_s - loop.time()))
            await self._begin(lambda: self.head, only_if_due=True)

    async def hand_over(self, **changes: Any) -> Head:
        """Answer no more, and say so in the head: whoever comes next need not wait. Otherwise as `replace`."""
        self._over = True
        return await self.replace(lease_us=0, **changes)

    async def give_back(self, within_s: float) -> None:
        """Hand over what nobody here has use for, if that can be done in time, and write nothing more: whoever comes
        next need not wait for a lease that nobody uses.
        """
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(within_s):
                await self.hand_over()
        await self.close()

    async def settle(self) -> None:
        """Return when no write is under way."""
        async with self._lock:
            pass

    async def wait_turn(self) -> None:
        """Return when a head can be sent at once."""
        await self.settle()
        await asyncio.sleep(max(0.0, self._next_s - asyncio.get_running_loop().time()))

    async def close(self) -> None:
        """Give up writes that are under way. They may land at any time, so nothing is written any more."""
        self._over = True
        for task in self._writes:
            task.cancel()
        if self._writes:
            await asyncio.wait(self._writes)

    async def _begin(self, make: Callable[[], Head], *, only_if_due: bool = False) -> Head:
        # Apart from the caller, who may be cancelled: a write has to be seen through before the next one.
        write = asyncio.create_task(self._write(make, only_if_due), name="head")
        self._writes.add(write)
        write.add_done_callback(self._written)
        return await asyncio.shield(write)

    def _written(self, write: asyncio.Task[Head]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # a caller who was cancelled does not hear of it, and the next write says it again

    async def _write(self, make: Callable[[], Head], only_if_due: bool) -> Head:  # noqa: FBT001 - passed on
        async with self._lock:
            if only_if_due and asyncio.get_running_loop().time() < self._lease.renew_s:
                return self.head  # a commit that came first has renewed it
            if self._refused is not None:
                raise WriterFencedError(self._refused)
            head = msgspec.structs.replace(make(), nonce=self._entropy(NONCE_BYTES).hex())
            data = encode_head(head)
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._next_s - loop.time()))
            self._refused = "an earlier write of the head was given up, and may land at any time"
            generation, sent_s = await self._swap(HeadWrite(data, self._generation))
            self._refused = None
            self._head, self._generation = head, generation
            self._lease = self._lease.renewed(sent_s)
            self._next_s = loop.time() + self._terms.spacing_s
            return head

    async def _swap(self, write: HeadWrite) -> tuple[int, float]:
        """Put until the outcome is known: the generation that was won, and when what won it was sent."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._rng)
        first_sent_s = loop.time()
        while True:
            sent_s = loop.time()
            outcome: Committed | LookAgain | PutAgain | Fenced = write.after_put(
                await self._store.put(HEAD_KEY, write.data, if_generation=write.if_generation)
            )
            if isinstance(outcome, LookAgain):
                if outcome.after_s:
                    await backoff.wait(outcome.after_s)
                outcome = write.after_get(await with_patience(lambda: self._store.get(HEAD_KEY), backoff))
                sent_s = first_sent_s  # which attempt it was that landed cannot be told, so count from the first
            match outcome:
                case Committed(generation):
                    return generation, sent_s
                case Fenced(found):
                    self._over = True
                    self._refused = _by_whom(found)
                    raise WriterFencedError(self._refused)
                case PutAgain():
                    await backoff.wait()


def _by_whom(found: Object | None) -> str:
    if found is None:
        return "the head is gone from the store: nobody may delete it"
    try:
        head = decode_head(found.data)
    except HeadInvalidError as error:
        return f"another program has written the head ({error})"
    return f"{head.owner} has taken the log over: epoch {head.epoch}, {head.size} receipts"
