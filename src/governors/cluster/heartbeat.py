"""A worker's heartbeat: an object in the store that it writes again and again, and a look at those of the others."""

import asyncio
import random
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from governors.cluster.workers import BEAT_S, Beat, Member, Workers, decode_beat, encode_beat, holder_of
from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.object_store import CREATE, ObjectStore, Won

PREFIX: Final = "cluster/workers/"
WORKERS_MAX: Final = 100
"""More are not looked at: a store that somebody else fills must not fill this memory."""
LOOK_S: Final = 2.0
"""From one look at the others to the next: reads, which cost next to nothing."""
LIST_EVERY: Final = 10
"""Looks from one list of who is there to the next: that costs as much as a write."""
_PAUSE_S: Final = 0.5
"""Between two rounds at least. Cloud Storage takes one write a second of an object, and a little more at times."""


class Heartbeat:
    """Of the worker that is called `worker` and reached at `url`; `key` is what it says its tokens are checked with. It
    never stops trying: while the store is away nothing is heard, and after a time everybody is taken for gone.

    `changed` is set after each look, and whenever this worker has something new to say.
    """

    def __init__(
        self,
        store: ObjectStore,
        worker: str,
        url: str,
        partitions: int,
        *,
        rng: random.Random,
        on_failed: Callable[[str], None],
        key: str = "",
        unreached: Collection[str] = (),
    ) -> None:
        """`unreached` are the addresses of workers that do not answer this one, at any moment."""
        self.worker = worker
        self.url = url
        self._store = store
        self._partitions = partitions
        self._run = f"{rng.getrandbits(64):016x}"
        self._rng = rng
        self._on_failed = on_failed
        self._unreached = unreached
        self._workers = Workers()
        self._number = 0
        self._key = key
        self._owns: dict[int, int] = {}
        self._stands_by: set[int] = set()
        self._leaving = False
        self._news = True
        self.changed = asyncio.Event()
        self.has_looked = False
        self._said: Beat | None = None
        """The last beat that is known to be in the store."""
        self._generation: int | None = None
        self._keys: list[str] = []
        self._looks = 0
        self._soon = asyncio.Event()
        self._failing = False

    def own(self, partition: int, epoch: int) -> None:
        """Say from now on, and at once, that this worker has a partition."""
        self._owns[partition] = epoch
        self._stands_by.discard(partition)
        self._say_soon()

    def disown(self, partition: int) -> None:
        """Say no longer, at once, that it has a partition or stands by for it."""
        known = self._owns.pop(partition, None) is not None or partition in self._stands_by
        self._stands_by.discard(partition)
        if known:
            self._say_soon()

    def stand_by(self, partition: int) -> None:
        """Say from now on that it could take a partition."""
        if partition not in self._stands_by and partition not in self._owns:
            self._stands_by.add(partition)
            self._say_soon()

    def leave(self, *, leaving: bool) -> None:
        """Say from now on, and at once, whether it is about to go."""
        self._leaving = leaving
        self._say_soon()

    def look_soon(self) -> None:
        """What was heard last seems to be no longer true."""
        self._soon.set()

    def list_soon(self) -> None:
        """Somebody seems to be there who was not heard of. However often this is said, a round lists once."""
        self._looks = 0
        self._soon.set()

    def members(self) -> list[Member]:
        """Everybody, this one included once it was heard."""
        return self._workers.members(asyncio.get_running_loop().time(), self._unreached)

    def holder(self, partition: int) -> Member | None:
        """The *other* worker that has a partition."""
        return holder_of(partition, [one for one in self.members() if one.beat.worker != self.worker])

    async def run(self) -> None:
        """Beat and look until cancelled."""
        loop = asyncio.get_running_loop()
        beat_s = float("-inf")
        while True:
            try:
                if self._news or loop.time() >= beat_s + BEAT_S:
                    beat_s = loop.time()
                    await self._beat()
                await self._look()
                self._failing = False
                self.has_looked = True
            except (StoreUnavailableError, StoreRefusedError) as error:
                if not self._failing:
                    self._on_failed(str(error))
                self._failing = self._news = True
            self.changed.set()
            await asyncio.sleep(_PAUSE_S)
            with suppress(TimeoutError):
                # Spread out, so that workers that were started together do not all ask at once.
                async with asyncio.timeout(LOOK_S * self._rng.uniform(0.8, 1.0) - _PAUSE_S):
                    await self._soon.wait()
            self._soon.clear()

    async def stop(self) -> None:
        """Say no more. The others need not wait until they miss it. Raises StoreUnavailableError, StoreRefusedError."""
        await self._store.delete(self._place(self.worker))

    async def _beat(self) -> None:
        key = self._place(self.worker)
        if self._generation is None:
            found = await self._store.get(key)
            self._generation = CREATE if found is None else found.generation
        self._news = False
        self._number += 1
        owns, stands_by = dict(self._owns), sorted(self._stands_by)
        beat = Beat(
            self.worker, self.url, self._run, self._number, owns, stands_by, self._leaving, self._key,
            int(asyncio.get_running_loop().time() * 1_000),
        )  # fmt: skip
        outcome = await self._store.put(key, encode_beat(beat), if_generation=self._generation)
        # Lost: an earlier beat landed late, or somebody took it for forgotten. Unknown: it may have landed.
        self._generation = outcome.generation if isinstance(outcome, Won) else None
        if isinstance(outcome, Won):
            self._said = beat

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        # A newcomer matters where nobody has a partition.
        if self._looks % LIST_EVERY == 0 or self._is_vacant():
            self._keys = (await self._store.list(PREFIX))[:WORKERS_MAX]
        self._looks += 1
        # Its own it knows without asking.
        others = [key for key in self._keys if key != self._place(self.worker)]
        found = await asyncio.gather(*map(self._store.get, others))
        beats = [self._said, *(decode_beat(one.data) for one in found if one is not None)]
        self._workers.hear({beat.worker: beat for beat in beats if beat is not None}, loop.time())
        for worker in self._workers.forgotten(loop.time()):
            await self._store.delete(self._place(worker))

    def _is_vacant(self) -> bool:
        members = self.members()
        return any(holder_of(partition, members) is None for partition in range(self._partitions))

    def _say_soon(self) -> None:
        self._news = True
        self._soon.set()
        self.changed.set()

    def _place(self, worker: str) -> str:
        return f"{PREFIX}{worker}"
