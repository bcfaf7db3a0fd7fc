"""Custody of a log: the store it is committed to, the right to write a partition, and those who commit and publish it.

Taking it comes before the ledger is opened, since what lies on the disk may be behind, or have been overtaken.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from governors.runtime import Tenure, ready_at_once
from governors.settings import RetentionSettings, Settings
from governors.snapshotter import Snapshotter, every_s
from governors.supervision.child import TEMPORARY, Child
from ledger.appender import Ledger
from ledger.authority import HeadTerms
from ledger.committer import Cadence, Committer
from ledger.durable import POSIX
from ledger.errors import StoreLockedError
from ledger.format.note import Signer
from ledger.format.retention import Retention
from ledger.identity import (
    LEDGER_FOLDER,
    ORIGIN_FILE,
    STORE_FOLDER,
    Identity,
    PartitionLock,
    lock_name,
    open_identity,
    partition_folder,
)
from ledger.identity_object import agree_on_place, install_identity, read_identity, share_identity
from ledger.orphans import OrphanCollector
from ledger.prover import Prover
from ledger.pruner import Pruner, RetentionPolicy
from ledger.publisher import PublishCadence, Publisher
from ledger.restore import read_trusted
from ledger.signing import open_signing_key
from ledger.store.object_store import ObjectStore
from ledger.store.opening import open_store
from ledger.store.prefixed import PrefixedStore
from ledger.takeover import Claimant, Place, TakenOver, take_over

HEAD_SPACING_S: Final = 1.1
"""Cloud Storage takes one write a second of an object."""
MARGIN: Final = 0.15
"""Share of the lease that is left for clocks that run at different rates, a hundred times what they do, and for an
answer that is slow to leave."""
SHUTDOWN_S: Final = 10.0
PROGRESS_S: Final = 5.0


class Custodian:
    """Of a log: the store that its partitions are committed to, and the keys that they are written and signed with.
    Needs `close`.
    """

    def __init__(
        self, settings: Settings, store: ObjectStore, url: str, identity: Identity, seed: bytes,
        *, clock_us: Callable[[], int], entropy: Callable[[int], bytes], rng: random.Random, owner: str,
    ) -> None:  # fmt: skip
        """`owner` is told to people."""
        self.identity = identity
        self.store = store
        self.is_elsewhere = settings.store.url is not None
        """Whether the store is more than a folder beside the log: then others may want to write it too."""
        self._settings = settings
        self._url = url
        self._seed = seed
        self._clock_us = clock_us
        self._entropy = entropy
        self._rng = rng
        self._owner = owner

    @classmethod
    async def open(
        cls,
        settings: Settings,
        *,
        clock_us: Callable[[], int],
        entropy: Callable[[int], bytes],
        rng: random.Random,
        owner: str,
    ) -> "Custodian":
        """Raises LedgerError and what it stands for, OSError."""
        url = settings.store.url or (settings.data_dir.absolute() / STORE_FOLDER).as_uri()
        store = await asyncio.to_thread(open_store, url, settings.store.control_url)
        try:
            identity = await _agree_on_identity(store, settings, entropy, rng)
            key_path = settings.ledger.signing_key
            seed = await asyncio.to_thread(open_signing_key, settings.data_dir, identity.name, entropy, key_path)
        except BaseException:
            await store.close()
            raise
        return cls(settings, store, url, identity, seed, clock_us=clock_us, entropy=entropy, rng=rng, owner=owner)

    async def take(
        self,
        partition: int,
        snapshotting: asyncio.Lock,
        on_standing_by: Callable[[], None] = lambda: None,
        hurry: asyncio.Event | None = None,
    ) -> "Custody":
        """Wait until a partition is free and take it over. `snapshotting` is held by the partition that has a snapshot
        made. `on_standing_by` is called once what is committed of it is here too, and only its owner is waited for.
        `hurry` is set when it may be free by now. Raises LedgerError and what it stands for, OSError.
        """
        log = structlog.get_logger("governors.custody")
        settings = self._settings
        folder = partition_folder(settings.data_dir, partition)
        lock = await asyncio.to_thread(PartitionLock.acquire, folder)

        is_told = False

        def on_waiting(whose: str, seconds: float) -> None:
            nonlocal is_told
            on_standing_by()
            if is_told:
                return
            is_told = True
            log.info(
                "waiting for another machine's lease to end",
                partition=partition, owner=whose, seconds=round(seconds, 1),
            )  # fmt: skip

        followed = _Followed()
        # Whoever takes a long log over would have to read all of it, were there no snapshot of what it followed.
        snapshotter = Snapshotter(settings.data_dir, partition, followed, 0, self._rng, snapshotting, every_s(settings))
        keeping_up = asyncio.create_task(snapshotter.run(), name=f"snapshots-{partition}")
        try:
            signer = Signer(self.identity.origin(partition), self._seed)
            lease_s = settings.store.lease_s if self.is_elsewhere else 0.0
            heads_at = settings.store.control_url or self._url
            spacing_s = HEAD_SPACING_S if heads_at.startswith("gs:") else 0.0
            taken = await take_over(
                Place(PrefixedStore(self.store, str(partition)), POSIX, folder, signer.name),
                Claimant(
                    self._owner,
                    lock_name(folder, self._entropy),
                    signer,
                    HeadTerms(lease_s, lease_s * MARGIN, spacing_s),
                    await asyncio.to_thread(read_trusted, settings.data_dir),
                ),
                entropy=self._entropy,
                rng=self._rng,
                on_waiting=on_waiting,
                on_progress=_Progress(log).tell,
                on_followed=followed.tell,
                hurry=hurry,
            )
        except BaseException:
            lock.release()
            raise
        finally:
            keeping_up.cancel()
            await asyncio.wait({keeping_up})
        _tell(log, taken)
        tenure = Tenure(lock, taken.epoch, self.is_elsewhere, taken.authority.may_answer)
        entries = settings.store.publish_entries
        return Custody(
            settings, partition, PrefixedStore(self.store, str(partition)), taken, tenure, signer,
            entries=not self._url.startswith("gs:") if entries is None else entries,
            clock_us=self._clock_us, entropy=self._entropy, rng=self._rng,
        )  # fmt: skip

    async def close(self) -> None:
        """Let go of the store."""
        await self.store.close()


class Custody:
    """Of one partition. Open the ledger with its `tenure`, then `entrust` that to it. Needs `close`."""

    def __init__(
        self, settings: Settings, partition: int, store: ObjectStore, taken: TakenOver, tenure: Tenure, signer: Signer,
        *, entries: bool, clock_us: Callable[[], int], entropy: Callable[[int], bytes], rng: random.Random,
    ) -> None:  # fmt: skip
        self.taken = taken
        self.tenure = tenure
        self.signer = signer
        self.committer: Committer | None = None
        self.publisher: Publisher | None = None
        self.prover: Prover | None = None
        self.dropped = Retention()
        """What retention has dropped so far."""
        self._is_locked_told = False
        self._store = store
        self._entries = entries
        self._settings = settings.store
        self._retention = settings.retention
        self._folder = partition_folder(settings.data_dir, partition)
        self._clock_us = clock_us
        self._entropy = entropy
        self._rng = rng

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep the lease meanwhile: recovery may take longer than it lasts. Raises WriterFencedError at the end."""
        keeping = asyncio.create_task(self.taken.authority.keep(), name="lease")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
        if not keeping.cancelled():
            keeping.result()

    def entrust(
        self, ledger: Ledger, on_committed: Callable[[float, int], None], on_published: Callable[[int], None]
    ) -> list[Child]:
        """Those who commit and publish the ledger, in the order in which they start."""
        store, authority, settings = self._store, self.taken.authority, self._settings
        elsewhere = self.tenure.commits_elsewhere
        committer = self.committer = Committer(
            ledger,
            store,
            authority,
            self.signer,
            POSIX,
            entropy=self._entropy,
            rng=self._rng,
            cadence=Cadence(settings.commit_interval_s if elsewhere else settings.publish_interval_s),
            on_committed=on_committed,
        )
        publisher = self.publisher = Publisher(
            ledger,
            store,
            committer,
            POSIX,
            clock_us=self._clock_us,
            rng=self._rng,
            cadence=PublishCadence(settings.publish_interval_s),
            entries=self._entries,
            on_published=on_published,
        )
        prover = self.prover = Prover(ledger, committer, store, lambda: publisher.published_size, ledger.recovered.edge)
        orphans = OrphanCollector(store, authority.replace, ledger, on_locked=self._on_locked)
        return [
            # Whoever has lost the log must not go on with it: this ends the partition as a failure of the disk does.
            Child("committer", ready_at_once(committer.run), TEMPORARY, shutdown_s=SHUTDOWN_S, significant=True),
            Child("publisher", ready_at_once(publisher.run)),
            Child("proofs", ready_at_once(prover.run)),
            *([Child("orphans", ready_at_once(orphans.run))] if elsewhere else []),
            *([Child("pruner", ready_at_once(self._pruner(ledger, self._retention).run))] if self._retention else []),
        ]

    def _pruner(self, ledger: Ledger, settings: RetentionSettings) -> Pruner:
        committer, publisher, prover = self.committer, self.publisher, self.prover
        assert committer is not None  # noqa: S101 - entrust() has just made them
        assert publisher is not None  # noqa: S101 - as above
        assert prover is not None  # noqa: S101 - as above
        log = structlog.get_logger("governors.custody")

        async def read_leaf(index: int) -> bytes:
            return (await prover.receipts.read(index)).leaf

        def on_dropped(dropped: Retention) -> None:
            self.dropped = dropped
            log.info("dropped what is old", segments_from=dropped.segments_from, entries_from=dropped.entries_from)

        return Pruner(
            ledger,
            self._store,
            committer,
            POSIX,
            self._folder,
            RetentionPolicy(settings.payloads_days, settings.receipts_days, settings.receipts_min),
            read_leaf=read_leaf,
            published=lambda: publisher.published_size,
            clock_us=self._clock_us,
            rng=self._rng,
            on_dropped=on_dropped,
            on_locked=self._on_locked,
            on_failed=lambda error: log.warning(
                "what is old was not dropped: trying again in an hour", reason=str(error)
            ),
        )

    def _on_locked(self, error: StoreLockedError) -> None:
        if not self._is_locked_told:
            self._is_locked_told = True
            structlog.get_logger("governors.custody").info(
                "the store keeps what was to be removed: it goes once its retention policy lets it", reason=str(error)
            )

    async def close(self) -> None:
        """Let go of the partition, if nobody was entrusted with it."""
        if self.committer is None:
            await self.taken.authority.give_back(SHUTDOWN_S)
            self.tenure.lock.release()
        else:
            await self.taken.authority.close()


class _Followed:
    """What is here of a log that another worker has."""

    def __init__(self) -> None:
        self.sealed_size = 0

    def tell(self, size: int) -> None:
        self.sealed_size = size


class _Progress:
    """Says now and then how far fetching a log has come."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._next_s = 0.0

    def tell(self, receipts_left: int, fetched_bytes: int) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_S
            self._log.info("fetching the log from the store", receipts_to_go=receipts_left, bytes=fetched_bytes)


async def _agree_on_identity(
    store: ObjectStore, settings: Settings, entropy: Callable[[int], bytes], rng: random.Random
) -> Identity:
    """The identity of folder and store: whichever has a log gives it to the other."""
    data_dir: Path = settings.data_dir
    control_url = settings.store.control_url
    if control_url is not None:
        await agree_on_place(store, control_url, rng)
    if not (data_dir / LEDGER_FOLDER / ORIGIN_FILE).exists():
        known = await read_identity(store, rng)
        if known is not None:
            await asyncio.to_thread(install_identity, data_dir, known)
    identity = await asyncio.to_thread(
        open_identity, data_dir, entropy, settings.ledger.origin, settings.cluster.partitions
    )
    await share_identity(store, identity, rng)
    if control_url is None:
        await agree_on_place(store, None, rng)
    return identity


def _tell(log: structlog.stdlib.BoundLogger, taken: TakenOver) -> None:
    if taken.fetched:
        log.info("fetched what is committed from the store", bytes=taken.fetched)
    if taken.adopted:
        log.info("receipts on this disk extend what is committed: they are committed next", receipts=taken.adopted)
    if taken.put_aside:
        log.error(
            "receipts that were never committed are lost: another writer went on without them. Signals whose senders "
            "waited for a commit come again",
            receipts=taken.lost,
            files=[str(path) for path in taken.put_aside],
        )
