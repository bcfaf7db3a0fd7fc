"""Three workers over one bucket and one subscription, each with cables of its own that can be cut."""

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import httpx
from support.proxy import CuttableProxy
from support.pubsub import PROJECT
from support.service import ServiceProcess
from support.sim_gcs import SimGcs

from ledger.format.note import SEED_BYTES, Signer

ORIGIN = "ledger.test/fleet"
BUCKET = "logs"
STORE = f"gs://{BUCKET}/ours"
HEAD = "ours/0/ctl/head"


def write_config(folder: Path, subscription: str) -> Path:
    """The file that all workers of a fleet are configured by, and the key that they sign with."""
    key = folder / "signing.key"
    key.write_text(Signer(ORIGIN, os.urandom(SEED_BYTES)).skey)
    config = {
        "tenants": {"auto_create": True},
        "ledger": {"origin": ORIGIN, "signing_key": str(key)},
        "store": {"url": STORE},
        "pubsub": {"project": PROJECT, "subscription": subscription},
    }
    path = folder / "governors.json"
    path.write_text(json.dumps(config))
    return path


class Committed(NamedTuple):
    """What the head says."""

    epoch: int
    size: int


@dataclass
class Worker:
    """A process, where its data is, and its cables to the bucket and to Pub/Sub."""

    folder: Path
    store: CuttableProxy
    pubsub: CuttableProxy
    process: ServiceProcess

    @property
    def url(self) -> str:
        return self.process.url


class Fleet:
    """`start` makes a worker, or starts one again on the disk that it had. Whatever still runs at the end is killed."""

    def __init__(self, folder: Path, gcs: SimGcs, pubsub: str, subscription: str) -> None:
        self.workers: dict[str, Worker] = {}
        self._folder = folder
        self._gcs = gcs
        self._pubsub = pubsub
        self._stack = AsyncExitStack()
        self._config = write_config(folder, subscription)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers.values():
            with worker.process:
                pass
        await self._stack.aclose()

    async def start(self, name: str, event: str = "standby") -> Worker:
        """Returns once it waits for the log, or with `event="ready"` has it."""
        folder, before = self._folder / name, self.workers.get(name)
        store = before.store if before else await self._cable(urlsplit(self._gcs.url).netloc)
        pubsub = before.pubsub if before else await self._cable(self._pubsub)
        env = {"STORAGE_EMULATOR_HOST": f"http://{store.host}", "PUBSUB_EMULATOR_HOST": pubsub.host}
        # Off the loop, which the cables need meanwhile.
        process = await asyncio.to_thread(ServiceProcess, folder, "--config", str(self._config), env=env, event=event)
        worker = self.workers[name] = Worker(folder, store, pubsub, process)
        return worker

    async def _cable(self, target: str) -> CuttableProxy:
        return await self._stack.enter_async_context(CuttableProxy(target))

    def committed(self) -> Committed:
        """What everybody can see to be committed."""
        data = self._gcs.objects(BUCKET).get(HEAD)
        if data is None:
            return Committed(0, 0)
        head = json.loads(data)
        return Committed(head["epoch"], head["size"])

    async def commits(self, more: int = 1, *, after_epoch: int = 0, within_s: float = 120.0) -> float:
        """Wait until so many more receipts are committed, under a later epoch; how long that took, in seconds."""
        begun_s, before = time.monotonic(), self.committed()
        while (now := self.committed()).size < before.size + more or now.epoch <= after_epoch:
            assert now >= before, "a head went back"
            if time.monotonic() - begun_s > within_s:
                raise AssertionError(f"{now} after {within_s:g} s, {before} before\n" + self.said())
            await asyncio.sleep(0.05)
        return time.monotonic() - begun_s

    async def owner(self) -> Worker:
        """The worker that the others hand on to."""
        async with asyncio.timeout(60.0), httpx.AsyncClient(timeout=5.0) as client:
            while True:
                for worker in self.workers.values():
                    try:
                        cluster = (await client.get(f"{worker.url}/v1/cluster")).json()
                    except httpx.TransportError:
                        continue
                    owners = {one["url"] for one in cluster["workers"] if one["state"] == "owner"}
                    for one in self.workers.values():
                        if one.url in owners:
                            return one
                await asyncio.sleep(0.1)

    def said(self) -> str:
        """The last lines of everybody's log, for whoever reads a failure."""
        lines = [f"{name}: {line}" for name, one in self.workers.items() for line in list(one.process.log)[-15:]]
        return "\n".join(lines)
