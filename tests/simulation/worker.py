"""What a process of a machine does: it takes the log over, serves callers, and makes snapshots, as the service does."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from simulation.observer import Observer, ViolationError
from simulation.processes import Process, Thread
from simulation.schedule import Mode
from simulation.sim_disk import SimFiles
from simulation.sim_store import SimStoreClient

from ledger import recovery, snapshots
from ledger.appender import Ledger
from ledger.archive import Archive
from ledger.authority import HeadTerms
from ledger.committer import Cadence, Committer
from ledger.draft import Draft, Limits
from ledger.errors import ReceiptDroppedError
from ledger.format.note import Signer
from ledger.format.receipt import Fsm, Receipt
from ledger.identity import Identity
from ledger.kept import KeptReceipts
from ledger.orphans import OrphanCollector
from ledger.pruner import Pruner, RetentionPolicy
from ledger.publisher import PublishCadence, Publisher
from ledger.recovery import Recovered
from ledger.restore import restore_partition
from ledger.takeover import Claimant, Place, TakenOver, take_over

IDENTITY: Final = Identity("sim.test/log", bytes(range(32)))
ORIGIN: Final = IDENTITY.origin(0)
SIGNING_SEED: Final = bytes(range(32))
FOLDER: Final = Path("/data/ledger/0")
FSM: Final = Fsm(event="e", from_="A", machine="m", subject="s", to="B", version=1)
LIMITS: Final = Limits(batch_bytes=2_000, batch_receipts=4, segment_bytes=6_000)
CADENCE: Final = Cadence(interval_s=2.0, hand_over_s=8.0)
PUBLISH_CADENCE: Final = PublishCadence(interval_s=3.0, heads_every=2)
LEASE: Final = HeadTerms(lease_s=6.0, margin_s=0.9, spacing_s=1.1)
LOCK: Final = HeadTerms(spacing_s=1.1)
SNAPSHOT_PAUSE_S: Final = 2.0
POLICY: Final = RetentionPolicy(payloads_days=12.0 / 86_400, receipts_days=16.0 / 86_400, receipts_min=20)
"""Seconds instead of months."""
ARCHIVES: Final = 0.1
"""How often an index of segments is kept."""


class Seen:
    """An application that remembers all events: a `snapshots.AppFold`."""

    def __init__(self) -> None:
        self.event_ids: list[str] = []

    def on_receipt(self, index: int, receipt: Receipt) -> None:
        assert index == len(self.event_ids)
        self.event_ids.append(receipt.event_id)

    def encode(self) -> bytes:
        return json.dumps(self.event_ids).encode()

    def decode(self, data: bytes) -> None:
        self.event_ids = json.loads(data)


class NoRows(Archive):
    """All places come from the segments, as where SQLite fails: that takes a quarter less time."""

    def _open(self) -> Any:
        self._closed = True

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Worker:
    """`on_serving` hears of the ledger once callers may come. `forgets`: what is old may be dropped."""

    mode: Mode
    forgets: bool
    machine: int
    process: Process
    files: SimFiles
    store: SimStoreClient
    observer: Observer
    rng: random.Random
    clock_us: Callable[[], int]
    signer: Signer
    log: Callable[[str], None]
    on_serving: Callable[[Ledger | None], None]
    committer: Committer | None = None
    kept: KeptReceipts | None = None

    @property
    def is_shared(self) -> bool:
        return self.mode is Mode.SHARED

    async def live(self) -> None:
        """From its start to its end."""
        if self.mode is Mode.LOCAL:
            ledger = self._open()
            self._serve(ledger)
            await ledger.run()
            return
        thread, rng = Thread(), self.rng
        taken = await take_over(
            Place(self.store, self.files, FOLDER, ORIGIN),
            Claimant(self.process.name, f"lock-{self.machine}", self.signer, LEASE if self.is_shared else LOCK),
            entropy=rng.randbytes, rng=rng, executor=thread,
        )  # fmt: skip
        self.log(f"{self.process.name} took over: epoch {taken.epoch}, {taken.adopted} adopted, {taken.lost} lost")
        ledger = self._open(taken)
        committer = self.committer = Committer(
            ledger, self.store, taken.authority, self.signer, self.files,
            entropy=rng.randbytes, rng=rng, cadence=CADENCE, executor=thread,
        )  # fmt: skip
        publisher = Publisher(
            ledger, self.store, committer, self.files,
            clock_us=self.clock_us, rng=rng, cadence=PUBLISH_CADENCE, executor=thread,
            entries=self.machine % 2 == 0,  # so that each has to go on from what the other did not do
        )  # fmt: skip
        parts = {"ledger": ledger.run, "committer": committer.run, "publisher": publisher.run}
        if self.is_shared:
            collector = OrphanCollector(self.store, taken.authority.replace, ledger, executor=thread)
            parts["orphans"] = collector.run
        if self.forgets:
            parts["pruner"] = self._pruner(ledger, committer, publisher, thread).run
        tasks = [asyncio.create_task(run(), name=name) for name, run in parts.items()]
        self._serve(ledger)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.on_serving(None)
            for task in reversed(tasks):
                task.cancel()
                await asyncio.wait({task})
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _pruner(self, ledger: Ledger, committer: Committer, publisher: Publisher, thread: Thread) -> Pruner:
        kept = self.kept = KeptReceipts(ledger, self.store)

        async def read_leaf(index: int) -> bytes:
            return (await kept.read(index)).leaf

        return Pruner(
            ledger, self.store, committer, self.files, FOLDER, POLICY,
            read_leaf=read_leaf, published=lambda: publisher.published_size, clock_us=self.clock_us, rng=self.rng,
            executor=thread, on_failed=lambda error: self.log(f"{self.process.name}: nothing dropped: {error}"),
        )  # fmt: skip

    async def make_snapshot(self) -> None:
        """What a process of its own does, which may outlive the one that began it."""
        made = await self.process.run_in_executor(None, recovery.fold, FOLDER, ORIGIN, Seen(), self.files)
        if made is not None:
            await asyncio.sleep(SNAPSHOT_PAUSE_S * self.rng.random() ** 2)
            await self.process.run_in_executor(None, snapshots.write_snapshot, FOLDER, made, self.files)
            self.log(f"{self.process.name}: a snapshot of {made.size} receipts")

    async def restore(self) -> None:
        """What a person does on an empty disk."""
        committed = len(self.observer.event_ids)
        place = Place(self.store, self.files, FOLDER, ORIGIN)
        await restore_partition(place, 0, self.signer.verifier.vkey, rng=self.rng, executor=Thread())
        app = Seen()
        recovery.recover(FOLDER, ORIGIN, app=app, on_state=lambda _key, _value: None, disk=self.files)
        self.observer.check_restored(self.files.disk.contents(), app.event_ids, committed)

    async def ask(self, ledger: Ledger, tenant: int, event_ids: list[str]) -> None:
        """What a caller does: hand receipts over, wait, and look. Raises ViolationError, LedgerError."""
        name, told = self.process.name, self.observer
        asked = [(ledger.append(self._draft(tenant, event_id)), event_id) for event_id in event_ids]
        ledger.put_state(f"t{tenant}", event_ids[-1])
        for index, event_id in asked:
            await ledger.wait_local(index)
            told.told_local(name, index, event_id, alone=not self.is_shared)
        index, event_id = asked[-1]
        if (committer := self.committer) is not None:
            told.told_checkpoint(name, committer.head.checkpoint, 0)
            if index % 3 == 0:  # somebody wants a proof right away
                told.told_checkpoint(name, (await committer.commit_now()).checkpoint, index + 1)
        stored = await ledger.read(index)
        told.told_leaf(name, index, event_id, stored.leaf, committed=stored.committed and self.is_shared)
        await ledger.wait_committed(index)
        if self.is_shared:
            for index, event_id in asked:
                told.told_committed(name, index, event_id)
        if self.kept is not None:
            await self._read_an_old_one(self.kept, index)

    async def _read_an_old_one(self, kept: KeptReceipts, below: int) -> None:
        index = int(below * self.rng.random() ** 2)
        try:
            leaf = (await kept.read(index)).leaf
        except ReceiptDroppedError:
            self.observer.told_dropped(self.process.name, index)
        else:
            self.observer.told_old_leaf(self.process.name, index, leaf)

    def _open(self, taken: TakenOver | None = None) -> Ledger:
        """Recover the log and hold what came back against what is on the disk."""
        app, states = Seen(), dict[str, bytes]()
        recovered = recovery.recover(FOLDER, ORIGIN, app=app, on_state=states.__setitem__, disk=self.files)
        if self._is_legible():
            self.observer.check_recovered(self.files.disk.contents(), app.event_ids, states)
        self._say_notes(recovered)
        return Ledger(
            FOLDER, recovered, identity=IDENTITY, partition=0, entropy=self.rng.randbytes, writer=self.process.name,
            encode_state=str.encode, limits=LIMITS, disk=self.files, writing=Thread(), reading=Thread(),
            indexing=Thread(), epoch=None if taken is None else taken.epoch, commits_elsewhere=self.is_shared,
            may_answer=None if taken is None else taken.authority.may_answer,
            archive=None if self.rng.random() < ARCHIVES else NoRows(None, FOLDER, self.files),
        )  # fmt: skip

    def _say_notes(self, recovered: Recovered) -> None:
        if recovered.snapshot_size:
            self.log(f"{self.process.name} began at a snapshot of {recovered.snapshot_size} receipts")
        for note in recovered.notes:
            self.log(f"{self.process.name}: {note}")

    def _serve(self, ledger: Ledger) -> None:
        name, files = self.process.name, self.files.disk.contents()
        self.log(f"{name} serves: epoch {ledger.epoch}, {ledger.local_size} receipts")
        if self._is_legible():
            self.observer.check_disk(self.machine, files, with_store=self.mode is not Mode.LOCAL)
            self.observer.check_serving(name, files, with_store=self.mode is not Mode.LOCAL)
        self.on_serving(ledger)

    def _is_legible(self) -> bool:
        """A snapshot may stand for segments that the disk has spoilt since. That is found when they are read."""
        if self.files.disk.is_spoilt:
            try:
                self.observer.read_log(self.files.disk.contents())
            except ViolationError:
                return False
        return True

    def _draft(self, tenant: int, event_id: str) -> Draft:
        now_us, number = self.clock_us(), int(event_id.removeprefix("e-"))
        return Draft(
            tenant=f"t{tenant}", event_id=event_id, source="sim", observed_us=now_us, ts_us=now_us,
            outcome="decided", decision="none", rule="r", evidence={"n": number}, fsm=FSM, policy_digest="d",
            actions=(), payload=b"x" * (number * 37 % 600),
        )  # fmt: skip
