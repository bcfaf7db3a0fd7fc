"""A worker's heartbeat: an object in the store that it writes again and again, and a look at those of the others."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from governors.cluster.workers import BEAT_S, Beat, Member, Workers, decode_beat, encode_beat
from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.object_store import CREATE, ObjectStore, Won

PREFIX: Final = "cluster/workers/"
WORKERS_MAX: Final = 100
"""More are not looked at: a store that somebody else fills must not fill this memory."""
LIST_EVERY: Final = 4
"""Looks from one list of who is there to the next."""
_LOOK_S_MIN: Final = 0.5


class Heartbeat:
    """Of the worker that is called `worker` and reached at `url`. It never stops trying: while the store is away
    nothing is heard, and after a time everybody is taken for gone.
    """

    def __init__(
        self,
        store: ObjectStore,
        worker: str,
        url: str,
        *,
        rng: random.Random,
        on_failed: Callable[[str], None],
    ) -> None:
        self.worker = worker
        self.url = url
        self._store = store
        self._run = f"{rng.getrandbits(64):016x}"
        self._rng = rng
        self._on_failed = on_failed
        self._workers = Workers()
        self._number = 0
        self._epoch = 0
        self._generation: int | None = None
        self._keys: list[str] = []
        self._looks = 0
        self._soon = asyncio.Event()
        self._failing = False

    def own(self, epoch: int) -> None:
        """Say from now on, and at once, that this worker has the log."""
        self._epoch = epoch
        self._soon.set()

    def look_soon(self) -> None:
        """What was heard last seems to be no longer true."""
        self._soon.set()

    def members(self) -> list[Member]:
        """Everybody, this one included once it was heard."""
        return self._workers.members(asyncio.get_running_loop().time())

    def owner(self) -> Beat | None:
        """The *other* worker that has the log."""
        owner = self._workers.owner(asyncio.get_running_loop().time())
        return None if owner is None or owner.worker == self.worker else owner

    async def run(self) -> None:
        """Beat and look until cancelled."""
        while True:
            try:
                await self._beat()
                await self._look()
                self._failing = False
            except (StoreUnavailableError, StoreRefusedError) as error:
                if not self._failing:
                    self._on_failed(str(error))
                self._failing = True
            await asyncio.sleep(_LOOK_S_MIN)
            try:
                # Spread out, so that workers that were started together do not all ask at once.
                async with asyncio.timeout(BEAT_S * self._rng.uniform(0.8, 1.0) - _LOOK_S_MIN):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()

    async def stop(self) -> None:
        """Say no more. The others need not wait until they miss it. Raises StoreUnavailableError, StoreRefusedError."""
        await self._store.delete(self._key(self.worker))

    async def _beat(self) -> None:
        key = self._key(self.worker)
        if self._generation is None:
            found = await self._store.get(key)
            self._generation = CREATE if found is None else found.generation
        self._number += 1
        beat = Beat(self.worker, self.url, self._run, self._number, self._epoch)
        outcome = await self._store.put(key, encode_beat(beat), if_generation=self._generation)
        # Lost: an earlier beat landed late, or somebody took it for forgotten. Unknown: it may have landed.
        self._generation = outcome.generation if isinstance(outcome, Won) else None

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        # A list costs as much as a write, and a read next to nothing; a newcomer matters where nobody has the log.
        if self._looks % LIST_EVERY == 0 or self._workers.owner(loop.time()) is None:
            self._keys = (await self._store.list(PREFIX))[:WORKERS_MAX]
        self._looks += 1
        found = await asyncio.gather(*map(self._store.get, self._keys))
        beats = [decode_beat(one.data) for one in found if one is not None]
        self._workers.hear({beat.worker: beat for beat in beats if beat is not None}, loop.time())
        for worker in self._workers.forgotten(loop.time()):
            await self._store.delete(self._key(worker))

    def _key(self, worker: str) -> str:
        return f"{PREFIX}{worker}"
