"""1,000 signals a second while Google's emulator is frozen, unreachable and restarted: the service sees to itself.

The service is one real process from begin to end. The emulator keeps nothing across a restart, so whoever publishes
does what a sender with an outbox does: it sends again what it cannot know to be kept; the service tells repetitions.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.emulator import skip_or_fail
from support.load import Sender
from support.proxy import CuttableProxy
from support.pubsub import PROJECT, Bench, clock_us
from support.service import ServiceProcess, decided_ids

from benchmarks.pubsub import count_receipts, make_load
from benchmarks.support_emulator import EmulatorMissingError, PubSubEmulator, find_jar
from benchmarks.support_scrape import Scrape
from ingest.dead_letter import read_letters
from ingest.pubsub import open_channel
from ledger.fsck import verify_log

RATE_PER_S = 1_000.0
TENANTS = 100
SIGNALS = 60_000
FROZEN_S = 4.0
RECEIPTS = "governors_ledger_durable_size"


class Service:
    """What a running service says of itself."""

    def __init__(self, process: ServiceProcess, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def metrics(self) -> Scrape:
        return Scrape.parse((await self.client.get("/metrics")).text)

    async def reached(self, metric: str, value: float) -> None:
        async with asyncio.timeout(90.0):
            while (await self.metrics()).total(metric) < value:  # noqa: ASYNC110 - it cannot call us
                await asyncio.sleep(0.05)

    async def goes_on(self, receipts: int = 1_000) -> None:
        """Signals that were published are being decided."""
        await self.reached(RECEIPTS, (await self.metrics()).total(RECEIPTS) + receipts)

    async def warns(self, word: str) -> None:
        """It warns of a Pub/Sub that is away and says why; without a word, it warns of nothing. It is ready throughout:
        HTTP needs no Pub/Sub.
        """
        async with asyncio.timeout(60.0):
            while True:
                response = await self.client.get("/readyz")
                assert response.status_code == 200
                warnings = response.json()["warnings"]
                if word in " ".join(warnings) if word else not warnings:
                    return
                await asyncio.sleep(0.05)

    async def decided(self, ids: set[str]) -> None:
        """All of these have a receipt, and nothing is left to acknowledge."""
        async with asyncio.timeout(60.0):
            while not ids <= await decided_ids(self.client):  # noqa: ASYNC110 - it cannot call us
                await asyncio.sleep(0.5)
            while (await self.metrics()).total("governors_pull_held_messages"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.1)


@asynccontextmanager
async def serving(folder: Path, host: str, subscription: str) -> AsyncIterator[Service]:
    config = folder / "governors.yaml"
    config.write_text(f"tenants: {{auto_create: true}}\npubsub: {{project: {PROJECT}, subscription: {subscription}}}\n")
    env = {"PUBSUB_EMULATOR_HOST": host}
    # Off the loop, which the proxy needs meanwhile.
    process = await asyncio.to_thread(ServiceProcess, folder / "data", "--config", str(config), env=env)
    with process:
        async with httpx.AsyncClient(base_url=process.url, timeout=30.0) as client:
            yield Service(process, client)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.timeout(300)
async def test_an_emulator_that_is_frozen_cut_off_and_restarted_costs_no_signal(tmp_path: Path) -> None:
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    load = make_load("outage", SIGNALS, TENANTS, 0.0, RATE_PER_S, clock_us())
    with PubSubEmulator() as emulator:
        channel = await open_channel(emulator.host)
        bench = Bench(channel, "signals")
        await bench.set_up(exactly_once=True)
        sender = Sender(bench, load.payloads, RATE_PER_S)
        async with CuttableProxy(emulator.host) as proxy, serving(tmp_path, proxy.host, bench.name) as service:
            publishing = asyncio.create_task(sender.run(), name="publisher")
            await service.goes_on()

            os.kill(emulator.pid, signal.SIGSTOP)
            await asyncio.sleep(FROZEN_S)
            os.kill(emulator.pid, signal.SIGCONT)
            await service.goes_on()
            assert sender.failures, "it was frozen"

            await proxy.cut()
            await service.warns("UNAVAILABLE")
            headers = {"Content-Type": "application/json"}
            by_http = await service.client.post("/v1/signals", content=load.payloads[-1], headers=headers)
            assert by_http.status_code == 200
            await proxy.mend()
            await service.warns("")
            await service.goes_on()

            await asyncio.to_thread(emulator.stop)
            await asyncio.to_thread(emulator.start)
            await service.warns("NOT_FOUND")
            await bench.set_up_when_back(exactly_once=True)
            await sender.again()
            await service.goes_on()

            publishing.cancel()
            await asyncio.wait([publishing])
            await sender.again()
            sent = {json.loads(payload)["id"] for payload in [*load.payloads[: sender.sent], load.payloads[-1]]}
            await service.decided(sent)
            metrics = await service.metrics()
            assert await asyncio.to_thread(service.process.stop) == 0
        await channel.close()

    kept = count_receipts(tmp_path / "data")
    assert sent - kept.keys() == set(), "nothing is lost"
    assert [one for one, count in kept.items() if count > 1] == [], "nothing is decided twice"
    assert verify_log(tmp_path / "data").ok
    assert list(read_letters(tmp_path / "data" / "dead-letter")) == []
    assert metrics.total("governors_pull_pull_errors_total") > 0
    assert metrics.total("governors_pull_backoff_seconds_total") > 0
    assert metrics.total("governors_child_restarts_total") == 0, "it recovered by itself"
