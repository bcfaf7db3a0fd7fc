"""A machine that writes a log into a store: ledger and committer on the simulated loop, on real files, to be killed."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.ledger_scenes import NAME, Events, draft, encode_text

from ledger.appender import Ledger
from ledger.authority import HEAD_KEY, HeadTerms
from ledger.committer import Cadence, Committer
from ledger.disk import SegmentFile
from ledger.draft import Limits
from ledger.durable import PosixDisk
from ledger.errors import LedgerError
from ledger.format.note import Signer, Verifier
from ledger.identity import open_identity, partition_folder
from ledger.identity_object import install_identity, read_identity, share_identity
from ledger.protocol.head import Head, decode_head
from ledger.store.object_store import Object, ObjectStore, PutOutcome
from ledger.store.prefixed import PrefixedStore
from ledger.takeover import Claimant, Place, TakenOver, take_over

SEED = bytes(range(32))
TERMS = HeadTerms(lease_s=5.0, margin_s=1.0)
CADENCE = Cadence()
LIMITS = Limits()


class InlineExecutor(Executor):
    """Runs what it is given at once, where it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as every executor does
            done.set_exception(error)
        return done


class MortalDisk(PosixDisk):
    """Once `dead`, nothing reaches it any more; after so many renames it dies by itself."""

    dead = False
    renames_left: int | None = None
    lists = 0

    def names(self, folder: Path) -> list[str]:
        self.lists += 1
        return super().names(folder)

    def create(self, path: Path, head: bytes) -> SegmentFile:
        self.check()
        return _MortalFile(super().create(path, head), self)

    def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        self.check()
        super().replace(path, data, mode)

    def rename(self, path: Path, new: Path) -> None:
        if self.renames_left is not None:
            self.dead = self.renames_left == 0
            self.renames_left -= 1
        self.check()
        super().rename(path, new)

    def check(self) -> None:
        if self.dead:
            raise OSError(5, "this machine is dead")


class _MortalFile:
    def __init__(self, file: SegmentFile, disk: MortalDisk) -> None:
        self._file = file
        self._disk = disk

    def append(self, data: bytes) -> None:
        self._disk.check()
        self._file.append(data)

    def rename(self, path: Path) -> None:
        self._disk.check()
        self._file.rename(path)

    def close(self) -> None:
        self._file.close()


class Link:
    """A machine's way to the store. Once `cut`, nothing gets through, in either direction."""

    cut = False

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.lists = 0

    async def get(self, key: str) -> Object | None:
        await self._pass()
        return await self._store.get(key)

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        await self._pass()
        outcome = await self._store.put(key, data, if_generation=if_generation)
        await self._pass()
        return outcome

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        await self._pass()
        return await self._store.put_file(key, path)

    async def list(self, prefix: str, after: str = "") -> list[str]:
        self.lists += 1
        await self._pass()
        return await self._store.list(prefix, after)

    async def delete(self, key: str) -> None:
        await self._store.delete(key)

    async def close(self) -> None: ...

    async def _pass(self) -> None:
        while self.cut:  # noqa: ASYNC110 - a wire has no event to wait for
            await asyncio.sleep(0.1)


class Machine:
    """`start` takes over and serves; `stop` ends in order, `kill` at once."""

    def __init__(
        self, name: str, data_dir: Path, store: ObjectStore, *, seed: int = 0, terms: HeadTerms = TERMS,
        cadence: Cadence = CADENCE, limits: Limits = LIMITS, signing_seed: bytes = SEED,
        verifiers: tuple[Verifier, ...] = (), lock: str | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.data_dir = data_dir
        self.folder = partition_folder(data_dir, 0)
        self.link = Link(store)
        self.whole_store = self.link
        self.store = PrefixedStore(self.link, "0")
        self.rng = random.Random(f"{name} {seed}")
        self.disk = MortalDisk()
        self.terms = terms
        self.cadence = cadence
        self.limits = limits
        self.signing_seed = signing_seed
        self.verifiers = verifiers
        self.app = Events()
        self.now_us = 1_700_000_000_000_000
        self.lock = lock or f"lock-of-{name}"
        self.waited: list[str] = []
        self.followed: list[int] = []
        self.hurry = asyncio.Event()
        self.appended = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.taken: TakenOver
        self.ledger: Ledger
        self.committer: Committer

    async def start(self, *, run: bool = True) -> "Machine":
        known = await read_identity(self.whole_store, self.rng)
        if known is not None and not (self.data_dir / "ledger" / "origin").exists():
            install_identity(self.data_dir, known)
        identity = open_identity(self.data_dir, self.rng.randbytes, NAME)
        await share_identity(self.whole_store, identity, self.rng)
        self.folder.mkdir(parents=True, exist_ok=True)
        inline = InlineExecutor()
        signer = Signer(identity.origin(0), self.signing_seed)
        self.taken = await take_over(
            Place(self.store, self.disk, self.folder, identity.origin(0)),
            Claimant(self.name, self.lock, signer, self.terms, self.verifiers),
            entropy=self.rng.randbytes,
            rng=self.rng,
            executor=inline,
            on_waiting=lambda owner, seconds: self.waited.append(owner),
            on_followed=self.followed.append,
            hurry=self.hurry,
        )
        self.ledger = Ledger.open(
            self.data_dir, entropy=self.rng.randbytes, writer=self.name, encode_state=encode_text, name=NAME,
            limits=self.limits, disk=self.disk, epoch=self.taken.epoch, commits_elsewhere=True, app=self.app,
            may_answer=self.taken.authority.may_answer,
        )  # fmt: skip
        self.ledger._writing.shutdown()
        self.ledger._writing = self.ledger._indexing = self.ledger._reading = inline
        self.committer = Committer(
            self.ledger, self.store, self.taken.authority, signer, self.disk, entropy=self.rng.randbytes,
            rng=self.rng, cadence=self.cadence, executor=inline,
        )  # fmt: skip
        if run:
            self.tasks = [asyncio.create_task(self.ledger.run()), asyncio.create_task(self.committer.run())]
        return self

    @property
    def authority_says(self) -> bool:
        return self.taken.authority.may_answer()

    async def append(self, count: int = 1, tenant: str = "acme") -> int:
        """The index of the last of these receipts, which is on the disk then."""
        for _ in range(count):
            self.appended += 1
            now_us = self.now_us + self.appended
            index = self.ledger.append(draft(self.appended, tenant, payload=self.name.encode(), ts_us=now_us))
        await self.ledger.wait_local(index)
        return index

    async def commit(self, count: int = 1) -> int:
        index = await self.append(count)
        await self.ledger.wait_committed(index)
        return index

    async def stop(self) -> None:
        """As a supervisor does: what stands above the ledger first."""
        for task in reversed(self.tasks):
            task.cancel()
            await asyncio.wait({task})

    async def kill(self) -> None:
        """Nothing more reaches the disk or the store from here."""
        self.disk.dead = True
        self.link.cut = True
        await self.taken.authority.close()
        for task in reversed(self.tasks):
            task.cancel()
            await asyncio.wait({task}, timeout=60.0)
            with suppress(asyncio.CancelledError, LedgerError, OSError):
                task.result()
        self.ledger.close()

    async def ended(self) -> BaseException | None:
        """What the committer's task ended with."""
        await asyncio.wait({self.tasks[1]}, timeout=600.0)
        error = self.tasks[1].exception()
        await asyncio.wait({self.tasks[0]}, timeout=60.0)
        with suppress(LedgerError):
            self.tasks[0].result()
        return error


async def stored_head(store: ObjectStore) -> Head:
    found = await store.get(f"0/{HEAD_KEY}")
    assert found is not None
    return decode_head(found.data)
