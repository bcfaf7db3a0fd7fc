"""What a worker's process does: it beats, listens, and has whatever partitions it should, as the service does.

Real are the heartbeat, the choice of owners, the holders, takeover, ledger and committer, and the window by which a
repeated signal is told from a new one. What a partition does between them is told once more, without HTTP, machines
and outbox.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from simulation.observer import Observer
from simulation.processes import Process, Thread
from simulation.sim_disk import SimFiles
from simulation.sim_store import SimStoreClient
from simulation.worker import CADENCE, FSM, LEASE, LIMITS, NoRows

from governors.cluster.heartbeat import Heartbeat
from governors.cluster.holder import Assignment, Holder
from governors.cluster.ownership import partition_of
from governors.cluster.whereabouts import Whereabouts
from governors.tenants.decide import window_key
from governors.tenants.dedup import signal_key
from governors.tenants.fold import WindowFold
from ledger import recovery
from ledger.appender import Ledger
from ledger.committer import Committer
from ledger.draft import Draft
from ledger.errors import LedgerError, LedgerFailedError, LedgerLockedError, StoreRefusedError, StoreUnavailableError
from ledger.format.note import Signer
from ledger.identity import Identity, partition_folder
from ledger.store.prefixed import PrefixedStore
from ledger.takeover import Claimant, Place, TakenOver, take_over

IDENTITY: Final = Identity("sim.test/log", bytes(range(32)))
DATA: Final = Path("/data")
SOURCE: Final = "sim"
GOODBYE_S: Final = 2.0
FOLLOW_EVERY_S: Final = 1.0
LOOK_AGAIN_S: Final = 0.2


class NotHereError(Exception):
    """The partition is not here, or not yet, or no more."""


@dataclass
class ClusterWorker:
    """One process on a machine. `locks` are those that it holds on the machine's folders; `observers` know what is
    committed in each partition, `signers` sign it.
    """

    machine: int
    url: str
    process: Process
    files: SimFiles
    store: SimStoreClient
    observers: list[Observer]
    signers: list[Signer]
    rng: random.Random
    clock_us: Callable[[], int]
    log: Callable[[str], None]
    answers: Callable[[str], bool]
    """Whether the worker at an address does, if it is asked now."""
    locks: set[int] = field(default_factory=set)
    here: "dict[int, Partition]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        name, count = self.process.name, len(self.observers)
        self._unreached: set[str] = set()
        self.heartbeat = Heartbeat(
            self.store, name, self.url, count, rng=self.rng,
            on_failed=lambda why: self.log(f"{name} hears nobody: {why}"), unreached=self._unreached,
        )  # fmt: skip
        self.holders = [
            Holder[Partition](
                number, partial(Partition.take, self, number), partial(self._have, number), self.heartbeat, self.rng,
                lambda number, error: self.log(f"{name} lost {number}: {type(error).__name__}"),
            )
            for number in range(count)
        ]  # fmt: skip
        self.assignment = Assignment(self.heartbeat, self.holders, lambda: None, self._until_taken)
        self.where = Whereabouts(self.here, self.heartbeat)

    async def live(self) -> None:
        """From its start to its end."""
        children = [lambda one=one: one.run(lambda: None) for one in self.holders]
        works = (*children, self.heartbeat.run, self.assignment.run, self._follow)
        tasks = [asyncio.create_task(run()) for run in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self.assignment.end()
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait({task})
            with suppress(StoreUnavailableError, StoreRefusedError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self.heartbeat.stop()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for holder in self.holders:
            if holder.failed is not None:
                raise holder.failed

    @property
    def is_handing_over(self) -> bool:
        """Whether something that is here is about to go."""
        return self.assignment.is_leaving or any(holder.is_going for holder in self.holders)

    async def _until_taken(self, partition: int, limit_s: float) -> None:
        """As far as heartbeats tell."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.where.candidates(partition) and self.where.url_of(partition) is None:
                    self.heartbeat.look_soon()
                    await self.heartbeat.changed.wait()
                    await asyncio.sleep(LOOK_AGAIN_S)

    async def _follow(self) -> None:
        """Ask those that have partitions for their admission, which shows who does not answer."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            before = frozenset(self._unreached)
            self._unreached.clear()
            self._unreached.update(url for url in self.where.everybody_else() if not self.answers(url))
            if self._unreached - before:
                self.heartbeat.look_soon()

    def owner_of(self, tenant: str) -> str | None:
        """Where else a tenant's signals are decided; None where nobody is known to have its partition."""
        return self.where.url_of(partition_of(tenant, len(self.observers)))

    def has(self, tenant: str) -> bool:
        return self.where.has(partition_of(tenant, len(self.observers)))

    async def decide(self, tenant: str, event_id: str) -> None:
        """Returns once the signal's receipt is committed. Raises NotHereError, LedgerError."""
        number = partition_of(tenant, len(self.observers))
        there = self.here.get(number)
        if there is None:
            raise NotHereError
        await there.decide(tenant, event_id)

    def _have(self, number: int, there: "Partition | None") -> None:
        if there is None:
            self.here.pop(number, None)
        else:
            self.here[number] = there
            self.log(f"{self.process.name} serves {number}: epoch {there.epoch}")


class Partition:
    """One that was taken: a `governors.cluster.holder.Tenure`."""

    def __init__(self, worker: ClusterWorker, number: int, taken: TakenOver) -> None:
        self.epoch = taken.epoch
        self._worker = worker
        self._number = number
        self._taken = taken
        self._fold = WindowFold()
        self._ledger: Ledger | None = None
        self._committer: Committer | None = None

    @classmethod
    async def take(
        cls, worker: ClusterWorker, number: int, on_standing_by: Callable[[], None], hurry: asyncio.Event
    ) -> "Partition":
        if number in worker.locks:
            raise LedgerLockedError(partition_folder(DATA, number))
        worker.locks.add(number)
        process, rng = worker.process, worker.rng
        try:
            taken = await take_over(
                Place(PrefixedStore(worker.store, str(number)), worker.files, partition_folder(DATA, number),
                      IDENTITY.origin(number)),
                Claimant(process.name, f"lock-{worker.machine}", worker.signers[number], LEASE),
                entropy=rng.randbytes, rng=rng, executor=Thread(), on_waiting=lambda _whose, _s: on_standing_by(),
                hurry=hurry,
            )  # fmt: skip
        except BaseException:
            worker.locks.discard(number)
            raise
        worker.log(
            f"{process.name} took {number} over: epoch {taken.epoch}, {taken.adopted} adopted, {taken.lost} lost"
        )
        return cls(worker, number, taken)

    async def open(self) -> None:
        keeping = asyncio.create_task(self._taken.authority.keep(), name="lease")
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._recover)
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
        if not keeping.cancelled():
            keeping.result()

    async def serve(self, on_ready: Callable[[], None]) -> None:
        worker, ledger, authority = self._worker, self.ledger, self._taken.authority
        committer = self._committer = Committer(
            ledger, PrefixedStore(worker.store, str(self._number)), authority, worker.signers[self._number],
            worker.files, entropy=worker.rng.randbytes, rng=worker.rng, cadence=CADENCE, executor=Thread(),
        )  # fmt: skip
        tasks = [asyncio.create_task(ledger.run(), name="ledger"), asyncio.create_task(committer.run(), name="commit")]
        on_ready()
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # the ledger has it
        failed = ledger.failed
        raise failed if isinstance(failed, LedgerError) else LedgerFailedError(str(failed or "it ended"))

    async def until_it_can_go(self) -> None:
        if self._committer is not None:
            await self._committer.hold_back()

    async def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        await self._taken.authority.close()
        self._worker.locks.discard(self._number)

    @property
    def ledger(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger

    def may_answer(self) -> bool:
        """Whether it can tell anybody of anything now. For whoever looks on from outside its process."""
        process = self._worker.process
        if process.frozen:
            return False
        with process.within():
            return self._taken.authority.may_answer()

    async def decide(self, tenant: str, event_id: str) -> None:
        worker, ledger = self._worker, self.ledger
        seen = self._fold.window.tenant(ledger.pseudonym(tenant))
        key = signal_key(SOURCE, event_id)
        index = seen.seen.get(key)
        if index is None:
            now_us = worker.clock_us()
            index = ledger.append(_draft(tenant, event_id, now_us))
            self._fold.window.remember(seen, key, window_key(FSM.machine, FSM.subject), now_us, index, now_us)
            await ledger.wait_local(index)
            worker.observers[self._number].told_local(worker.process.name, index, event_id, alone=False)
        await ledger.wait_committed(index)
        worker.observers[self._number].told_committed(worker.process.name, index, event_id)

    def _recover(self) -> None:
        worker, number = self._worker, self._number
        folder, origin = partition_folder(DATA, number), IDENTITY.origin(number)
        states = dict[str, bytes]()
        recovered = recovery.recover(folder, origin, app=self._fold, on_state=states.__setitem__, disk=worker.files)
        self._ledger = Ledger(
            folder, recovered, identity=IDENTITY, partition=number, entropy=worker.rng.randbytes,
            writer=worker.process.name, encode_state=str.encode, limits=LIMITS, disk=worker.files, writing=Thread(),
            reading=Thread(), indexing=Thread(), epoch=self.epoch, commits_elsewhere=True,
            may_answer=self._taken.authority.may_answer, archive=NoRows(None, folder, worker.files),
        )  # fmt: skip


def _draft(tenant: str, event_id: str, now_us: int) -> Draft:
    return Draft(
        tenant=tenant, event_id=event_id, source=SOURCE, observed_us=now_us, ts_us=now_us, outcome="decided",
        decision="none", rule="r", evidence={}, fsm=FSM, policy_digest="d", actions=(), payload=b"x",
    )  # fmt: skip
