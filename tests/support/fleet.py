"""Several workers over one store and one subscription, each with cables of its own that can be cut, and each in a
network namespace of its own on machines that allow it.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
from support.clocks import SteppedClock
from support.heads import NOTHING, Committed, Heads
from support.network import Namespace, Network
from support.proxy import CuttableProxy
from support.pubsub import PROJECT
from support.service import ServiceProcess

from governors.cluster.ownership import ranked
from ledger.format.note import SEED_BYTES, Signer

ORIGIN: Final = "ledger.test/fleet"
BUCKET: Final = "logs"
TOKEN: Final = "gov_" + "fleet" * 5
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
PARTITIONS: Final = 8
"""As many as a cluster is made with."""
LOOPBACK: Final = "127.0.0.1"
_POLL_S: Final = 0.1


def write_config(
    folder: Path, subscription: str, store: str, partitions: int = PARTITIONS, **others: Mapping[str, object]
) -> Path:
    """The file that all workers of a fleet are configured by, the key that they sign with, and who may ask them."""
    key, tokens = folder / "signing.key", folder / "tokens.yaml"
    key.write_text(Signer(ORIGIN, os.urandom(SEED_BYTES)).skey)
    entry = {
        "name": "fleet",
        "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "roles": ["read", "admit", "ingest"],
    }
    tokens.write_text(json.dumps({"tokens": [entry]}))
    config = {
        "auth": {"tokens_file": str(tokens)},
        "limits": {"token_requests_per_s": None},
        "tenants": {"auto_create": True},
        "ledger": {"origin": ORIGIN, "signing_key": str(key)},
        "store": {"url": store},
        "cluster": {"partitions": partitions},
        "pubsub": {"project": PROJECT, "subscription": subscription},
        **others,
    }
    path = folder / "governors.json"
    path.write_text(json.dumps(config))
    return path


@dataclass
class Worker:
    """A process, where its data is, its clock if that can be stepped, and its cables to the bucket and to Pub/Sub."""

    folder: Path
    store: CuttableProxy
    pubsub: CuttableProxy
    process: ServiceProcess
    space: Namespace | None
    clock: SteppedClock | None
    was_harmed: bool = False
    """It may find out that another has what it had, and end because of that."""

    @property
    def url(self) -> str:
        return self.process.url


class Fleet:
    """`start` makes a worker, or starts one again on the disk that it had. Whatever still runs at the end is killed.

    `store` is the address of the object store's server and `prefix` the log's place in the bucket, `pubsub` is
    "host:port". Without a `network` all of it is on the loopback device. With `clocks` each worker's can be stepped.
    """

    def __init__(
        self,
        folder: Path,
        store: str,
        prefix: str,
        pubsub: str,
        subscription: str,
        *,
        network: Network | None = None,
        clocks: bool = False,
        partitions: int = PARTITIONS,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.heads = Heads(store, BUCKET, prefix)
        self.client = httpx.AsyncClient(timeout=10.0, headers=BEARER)
        self._folder = folder
        self._store = urlsplit(store).netloc
        self._pubsub = pubsub
        self._network = network
        self._clocks = clocks
        self._stack = AsyncExitStack()
        self._config = write_config(folder, subscription, f"gs://{BUCKET}/{prefix}", partitions)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self.heads.watch(), name="heads")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers.values():
            with worker.process:
                pass
        await self.client.aclose()
        await self.stop_watching()
        await self.heads.close()
        await self._stack.aclose()

    async def stop_watching(self) -> None:
        """Raises AssertionError where a head went back."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()

    async def start(self, name: str, event: str = "standby") -> Worker:
        """Returns once it serves, or with `event="ready"` has a log."""
        folder, before = self._folder / name, self.workers.get(name)
        space = before.space if before else self._join()
        store = before.store if before else await self._cable("store", self._store)
        pubsub = before.pubsub if before else await self._cable("pubsub", self._pubsub)
        clock = before.clock if before else SteppedClock(self._folder / f"{name}.clock") if self._clocks else None
        env = {"STORAGE_EMULATOR_HOST": f"http://{store.host}", "PUBSUB_EMULATOR_HOST": pubsub.host}
        env |= clock.env if clock is not None else {}
        # Off the loop, which the cables need meanwhile.
        process = await asyncio.to_thread(
            ServiceProcess,
            folder,
            *("--config", str(self._config), "--host", LOOPBACK if space is None else space.address),
            env=env,
            under=() if space is None else space.under,
            event=event,
        )
        worker = self.workers[name] = Worker(folder, store, pubsub, process, space, clock)
        self.heads.partitions |= {one["partition"] for one in (await self.cluster(worker))["partitions"]}
        return worker

    def address_of(self, service: str) -> str:
        """Where workers reach "store" or "pubsub"; there must be a network."""
        assert self._network is not None
        return self._network.address_of(service)

    def _join(self) -> Namespace | None:
        return None if self._network is None else self._network.join()

    async def _cable(self, service: str, target: str) -> CuttableProxy:
        address = LOOPBACK if self._network is None else self._network.address_of(service)
        return await self._stack.enter_async_context(CuttableProxy(target, address))

    # Who is there

    @property
    def living(self) -> dict[str, Worker]:
        """Those whose processes run, by name."""
        return {name: one for name, one in self.workers.items() if not one.process.has_ended}

    def name_of(self, worker: Worker) -> str:
        return next(name for name, one in self.workers.items() if one is worker)

    def others(self, worker: Worker) -> list[Worker]:
        return [one for one in self.living.values() if one is not worker]

    async def cluster(self, worker: Worker) -> dict[str, Any]:
        """As the worker sees it."""
        found: dict[str, Any] = (await self.client.get(f"{worker.url}/v1/cluster")).raise_for_status().json()
        return found

    async def held_by(self, worker: Worker) -> set[int]:
        """The partitions that it has, by its own word."""
        cluster = await self.cluster(worker)
        return {one["partition"] for one in cluster["partitions"] if one["owner"] == cluster["worker"]}

    async def owner(self) -> Worker:
        """The worker that has the most partitions by its own word; one at least."""
        async with asyncio.timeout(60.0):
            while True:
                held: dict[str, int] = {}
                for name, worker in self.living.items():
                    try:
                        held[name] = len(await self.held_by(worker))
                    except httpx.HTTPError:
                        continue
                most = max(held, key=lambda name: held[name], default=None)
                if most is not None and held[most]:
                    return self.workers[most]
                await asyncio.sleep(_POLL_S)

    async def settles(self) -> None:
        """Wait until every partition is where it should be, as it is some time after nobody came or went."""
        urls = [worker.url for worker in self.living.values()]
        async with asyncio.timeout(120.0):
            while True:
                view = await self.cluster(next(iter(self.living.values())))
                url_of = {one["worker"]: one["url"] for one in view["workers"]}
                owners = {one["partition"]: url_of.get(one["owner"]) for one in view["partitions"]}
                if all(url == ranked(partition, urls)[0] for partition, url in owners.items()):
                    return
                await asyncio.sleep(_POLL_S)

    async def recovers(self) -> None:
        """Start those again that ended because of harm, and wait until everybody says that it is ready."""
        async with asyncio.timeout(120.0):
            for name in list(self.workers):
                while not await self._is_ready(self.workers[name]):
                    if self.workers[name].process.has_ended:
                        await self.start(name)
                    await asyncio.sleep(_POLL_S)

    async def _is_ready(self, worker: Worker) -> bool:
        try:
            return (await self.client.get(f"{worker.url}/readyz")).is_success
        except httpx.TransportError:
            return False

    # What is committed

    async def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        """By partition, as everybody can see it."""
        found = await self.heads.look()
        return {one: found.get(one, NOTHING) for one in partitions}

    async def commits(
        self, more: int = 1, *, since: Mapping[int, Committed] | None = None, within_s: float = 120.0
    ) -> float:
        """Wait until so many more receipts are committed, and in each of the partitions of `since` some under a later
        epoch than then; how long that took, in seconds.
        """
        begun_s, before = time.monotonic(), await self.heads.look()
        size = sum(one.size for one in before.values())
        while True:
            now = await self.heads.look()
            grown = sum(one.size for one in now.values()) - size
            behind = [
                partition
                for partition, then in (since or {}).items()
                if now[partition].epoch <= then.epoch or now[partition].size <= then.size
            ]
            if grown >= more and not behind:
                return time.monotonic() - begun_s
            if time.monotonic() - begun_s > within_s:
                raise AssertionError(f"{grown} more after {within_s:g} s, nothing in {behind}\n{now}\n" + self.said())
            await asyncio.sleep(_POLL_S)

    def keep_logs(self) -> None:
        """Beside each one's data, for whoever reads a failure."""
        for name, one in self.workers.items():
            (self._folder / f"{name}.log").write_text("\n".join(one.process.log))

    def said(self) -> str:
        """The last lines of everybody's log, for whoever reads a failure."""
        lines = [f"{name}: {line}" for name, one in self.workers.items() for line in list(one.process.log)[-15:]]
        return "\n".join(lines)
