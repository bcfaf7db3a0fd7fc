"""An object store across a network that delays, loses and repeats nothing it should not, and everything it may.

A request arrives after a while or never, what it asks is done at one moment, and the reply arrives after a while or
never. The client gives up at its deadline and then knows nothing. What has been sent cannot be called back: a request
of a process that is dead still lands.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from simulation.faults import StoreFate
from simulation.processes import Cluster, Process
from simulation.sim_disk import SimFiles

from ledger.errors import StoreUnavailableError
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won, check_key, check_prefix

DEADLINE_S: Final = 4.0
RETRY_AFTER_S: Final = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Landed:
    """A write that changed something: `process` had sent it."""

    process: str
    key: str
    data: bytes
    generation: int


class SimStore:
    """The store itself. `on_landed` hears of each write when it takes effect, `on_gone` of each key that is removed."""

    def __init__(self, on_landed: Callable[[Landed], None], on_gone: Callable[[str, str], None]) -> None:
        self.objects: dict[str, Object] = {}
        self._on_landed = on_landed
        self._on_gone = on_gone
        self._generation = 0

    def put(self, process: str, key: str, data: bytes, if_generation: int) -> Won | Lost:
        here = self.objects.get(key)
        generation = CREATE if here is None else here.generation
        if generation != if_generation:
            return Lost(generation)
        # Never one that a key had before, also after it was deleted.
        self._generation += 1
        self.objects[key] = Object(data, self._generation)
        self._on_landed(Landed(process, key, data, self._generation))
        return Won(self._generation)

    def delete(self, process: str, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self._on_gone(process, key)


class Link:
    """One machine's way to the store. `calls` counts its requests; `faults` says which of them go wrong, until
    `is_sound`. While there are `cuts` nothing arrives at either end; each way takes up to `slow_s` more than usual.
    """

    def __init__(self, cluster: Cluster, store: SimStore, rng: random.Random, log: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.store = store
        self.calls = 0
        self.faults: dict[int, tuple[StoreFate, float]] = {}
        self.is_sound = False
        self.cuts = 0
        self.slow_s = 0.0
        self._rng = rng
        self._log = log

    def open(self, process: Process, files: SimFiles) -> "SimStoreClient":
        return SimStoreClient(self, process, files)

    async def ask(self, process: Process, what: str, do: Callable[[], T]) -> T | Unknown:
        """One request: what the store does, or Unknown."""
        process.check_alive()
        self.calls += 1
        fate, late_s = (None, 0.0) if self.is_sound else self.faults.get(self.calls, (None, 0.0))
        if fate is not None:
            self._log(f"{process.name}: {what}: {fate.value}")
        reply = process.create_future()

        def tell(outcome: object) -> None:
            if process.alive and not reply.done():
                reply.set_result(outcome)

        def come_back(outcome: object) -> None:
            if not self.cuts:
                tell(outcome)

        def arrive() -> None:
            if self.cuts and fate is not StoreFate.LATE:
                return
            outcome: object
            match fate:
                case StoreFate.TOO_MANY:
                    outcome = Unknown("429", RETRY_AFTER_S)
                case StoreFate.BROKEN:
                    outcome = Unknown("503", RETRY_AFTER_S)
                case StoreFate.BROKEN_LANDED:
                    do()
                    outcome = Unknown("503", RETRY_AFTER_S)
                case _:
                    outcome = do()
            if fate is not StoreFate.LANDED:
                self.cluster.after(self._latency_s(), partial(come_back, outcome))

        delay_s = self._latency_s()
        if fate is StoreFate.SLOW:
            delay_s = DEADLINE_S * 0.95
        elif fate is StoreFate.LATE:
            delay_s = DEADLINE_S + late_s
        if fate is not StoreFate.LOST:
            self.cluster.after(delay_s, arrive)
        deadline = process.call_later(DEADLINE_S, tell, Unknown("no reply in time", RETRY_AFTER_S))
        try:
            outcome: T | Unknown = await reply
        finally:
            deadline.cancel()
        return outcome

    def _latency_s(self) -> float:
        """Mostly 5 ms, rarely half a second: requests overtake each other."""
        usual_s = 0.005 + 0.5 * self._rng.random() ** 8
        return usual_s + self.slow_s * self._rng.random() if self.slow_s else usual_s


class SimStoreClient:
    """The store as one process has it: a `ledger.store.object_store.ObjectStore`."""

    def __init__(self, link: Link, process: Process, files: SimFiles) -> None:
        self._link = link
        self._process = process
        self._files = files

    async def get(self, key: str) -> Object | None:
        check_key(key)
        return await self._read(f"get {key}", lambda: self._link.store.objects.get(key))

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        check_key(key)
        store, name = self._link.store, self._process.name
        return await self._link.ask(self._process, f"put {key}", lambda: store.put(name, key, data, if_generation))

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        return await self.put(key, self._files.read(path), if_generation=CREATE)

    async def list(self, prefix: str, after: str = "") -> list[str]:
        check_prefix(prefix)
        objects = self._link.store.objects
        return await self._read(
            f"list {prefix}", lambda: sorted(key for key in objects if key.startswith(prefix) and key > after)
        )

    async def delete(self, key: str) -> None:
        check_key(key)
        store, name = self._link.store, self._process.name
        await self._read(f"delete {key}", lambda: store.delete(name, key))

    async def close(self) -> None:
        """What was sent may still land."""

    async def _read(self, what: str, do: Callable[[], T]) -> T:
        outcome = await self._link.ask(self._process, what, do)
        if isinstance(outcome, Unknown):
            raise StoreUnavailableError(outcome.reason, outcome.retry_after_s)
        return outcome
