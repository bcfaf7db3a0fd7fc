"""A machine that publishes, proves, makes snapshots and drops what is old, each when a test says so."""

import asyncio
from pathlib import Path
from typing import Any

from support.ledger_scenes import Events
from support.machine import InlineExecutor, Machine

from ledger.committer import Cadence
from ledger.draft import Limits
from ledger.prover import Prover
from ledger.pruner import Pruner, RetentionPolicy
from ledger.publisher import PublishCadence, Publisher
from ledger.recovery import fold
from ledger.snapshots import write_snapshot
from ledger.store.object_store import ObjectStore
from ledger.verify.memory import Memory

DAY_US = 86_400_000_000
SMALL = Limits(segment_bytes=20_000)
AT_ONCE = Cadence(interval_s=0.0)
A_DAY = RetentionPolicy(1.0)


class Served(Machine):
    """`begin` it, as a service does."""

    publisher: Publisher
    prover: Prover
    pruner: Pruner

    def __init__(
        self, name: str, data_dir: Path, store: ObjectStore, *, limits: Limits = SMALL, cadence: Cadence = AT_ONCE,
        heads_every: int = 0, policy: RetentionPolicy = A_DAY, entries: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(name, data_dir, store, limits=limits, cadence=cadence, **options)
        self.heads_every = heads_every
        self.policy = policy
        self.entries = entries

    async def begin(self) -> "Served":
        await self.start()
        inline = InlineExecutor()
        self.publisher = Publisher(
            self.ledger, self.store, self.committer, self.disk, clock_us=lambda: self.now_us, rng=self.rng,
            cadence=PublishCadence(30.0, self.heads_every), entries=self.entries, executor=inline,
        )  # fmt: skip
        self.prover = Prover(
            self.ledger, self.committer, self.store, lambda: self.publisher.published_size, self.ledger.recovered.edge,
            executor=inline,
        )  # fmt: skip
        self.pruner = Pruner(
            self.ledger, self.store, self.committer, self.disk, self.folder, self.policy,
            read_leaf=self.read_leaf, published=lambda: self.publisher.published_size,
            clock_us=lambda: self.now_us, rng=self.rng, executor=inline,
        )  # fmt: skip
        self.tasks.append(asyncio.create_task(self.prover.run()))
        return self

    @property
    def memory(self) -> Memory:
        return Memory(self.ledger.origin, self.committer._signer.verifier)

    async def read_leaf(self, index: int) -> bytes:
        return (await self.prover.receipts.read(index)).leaf

    def pass_days(self, days: float) -> None:
        self.now_us += int(days * DAY_US)

    async def take_snapshot(self) -> bool:
        """Of all that is sealed, which is all that is there."""
        await self.ledger.seal()
        made = fold(self.folder, self.ledger.origin, Events(), self.disk)
        if made is not None:
            write_snapshot(self.folder, made, self.disk)
        return made is not None

    async def prune(self) -> bool:
        """One round, with a publisher that publishes meanwhile."""
        publishing = asyncio.create_task(self.publisher.run())
        try:
            return await self.pruner.prune()
        finally:
            publishing.cancel()
            await asyncio.wait({publishing})

    async def age(self, receipts: int = 400) -> None:
        """A day with so many receipts, committed and published, and a snapshot at its end."""
        self.pass_days(1.0)
        await self.commit(receipts)
        await self.publisher.publish()
        await self.take_snapshot()
