"""1,000 signals a second for 100 tenants through a Pub/Sub, a SIGKILL in the middle: none lost, none decided twice.

The service is a real process. Against Google's emulator it runs as it would in earnest; our fake adds what the emulator
never does: acknowledgements that are lost, messages delivered twice, requests that fail with and without effect.
LOAD_TEST_SECONDS sets how long signals are published, 10 s by default (4 s at the fake). Latencies are printed; only
`benchmarks/pubsub.py` judges them: a test must not fail because a machine is busy.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from support.pubsub import PROJECT, Bench, clock_us
from support.service import ServiceProcess, decided_ids

from benchmarks.pubsub import count_receipts, make_load
from benchmarks.support_pubsub import publish_at_rate
from benchmarks.support_scrape import Scrape
from ingest.dead_letter import StoredLetter, read_letters
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import PubsubMessage, open_channel
from ledger.fsck import verify_log

SECONDS = os.environ.get("LOAD_TEST_SECONDS")
RATE_PER_S = 1_000.0
TENANTS = 100
# So many of the signals are published a second time, by a publisher that never got its answer.
REPEATED = 0.02
UNREADABLE = [b"", b"{", b'{"id": "s", "kind": "nonsense"}']
# The shortest that Pub/Sub has; what a killed service held comes back after it.
LEASE_S = 10
FAKE_LEASE_S = 2
# While frozen, the service has pulls at the broker, and gets messages lent that it never sees.
FROZEN_S = 0.3


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the service finds its messages: a topic and a subscription at `host`. `fake` is None for the emulator."""

    host: str
    bench: Bench
    fake: FakePubSub | None

    @property
    def seconds(self) -> float:
        return float(SECONDS or (4 if self.fake is not None else 10))


@pytest.fixture(params=["fake", pytest.param("emulator", marks=pytest.mark.emulator)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    fake = FakePubSub(clock_us=clock_us) if request.param == "fake" else None
    if fake is not None:
        await fake.start()
    host = fake.host if fake is not None else request.getfixturevalue("pubsub_emulator")
    channel = await open_channel(host)
    bench = Bench(channel, f"load-{clock_us()}")
    # Only a subscription with dead letters counts deliveries.
    await bench.set_up(ack_deadline_s=LEASE_S, dead_letter_topic=f"{bench.name}-dead")
    if fake is not None:
        fake._backlogs[bench.subscriber.name].config.ack_deadline_seconds = FAKE_LEASE_S
    yield Broker(host, bench, fake)
    await channel.close()
    if fake is not None:
        await fake.stop()


class Service:
    """`governors serve` on one folder, again and again."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.data_dir = folder / "data"
        self._config = folder / "governors.yaml"
        self._config.write_text(
            "tenants: {auto_create: true}\n"
            f"pubsub: {{project: {PROJECT}, subscription: {broker.bench.name}, ack_deadline_s: {LEASE_S}}}\n"
        )
        self._env = {"PUBSUB_EMULATOR_HOST": broker.host}

    async def start(self) -> ServiceProcess:
        # Off the loop, which the fake needs meanwhile.
        return await asyncio.to_thread(ServiceProcess, self.data_dir, "--config", str(self._config), env=self._env)


async def scrape(process: ServiceProcess) -> Scrape:
    async with httpx.AsyncClient(base_url=process.url, timeout=30.0) as client:
        return Scrape.parse((await client.get("/metrics")).text)


async def reached(process: ServiceProcess, metric: str, value: float) -> None:
    """Wait until a metric of the service is at least so high."""
    async with asyncio.timeout(60.0 + float(SECONDS or 0)):
        while (await scrape(process)).total(metric) < value:  # noqa: ASYNC110 - it cannot call us
            await asyncio.sleep(0.05)


async def all_decided(process: ServiceProcess, ids: set[str]) -> None:
    """Wait until every one of these signals has a receipt, and nothing is left to acknowledge."""
    async with asyncio.timeout(6 * LEASE_S):
        await reached(process, "governors_ledger_durable_size", len(ids))
        async with httpx.AsyncClient(base_url=process.url, timeout=60.0) as client:
            while not ids <= await decided_ids(client):  # noqa: ASYNC110 - it cannot call us
                await asyncio.sleep(0.5)
        while (await scrape(process)).total("governors_pull_held_messages"):  # noqa: ASYNC110 - it cannot call us
            await asyncio.sleep(0.1)


def misbehave(fake: FakePubSub) -> None:
    """All that a broker may do to one that acknowledges after the commit."""
    fake.faults.duplicate(200)
    fake.faults.drop_acks(5)
    fake.faults.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE, times=3)
    fake.faults.fail("Acknowledge", grpc.StatusCode.DEADLINE_EXCEEDED, times=3, landed=True)
    fake.faults.fail("Pull", grpc.StatusCode.UNAVAILABLE, times=3)
    fake.faults.fail("Pull", grpc.StatusCode.UNAVAILABLE, times=1, landed=True)


@pytest.mark.slow
@pytest.mark.timeout(300 + 2 * float(SECONDS or 0))
async def test_nothing_is_lost_and_nothing_is_decided_twice_across_a_kill(tmp_path: Path, broker: Broker) -> None:
    bench, service = broker.bench, Service(tmp_path, broker)
    load = make_load("load", int(broker.seconds * RATE_PER_S), TENANTS, REPEATED, RATE_PER_S, clock_us())
    process = await service.start()
    await bench.publisher.publish([PubsubMessage(data=data, attributes={"n": "1"}) for data in UNREADABLE], 10.0)
    await reached(process, "governors_pull_acked_total", len(UNREADABLE))
    publishing = asyncio.create_task(
        publish_at_rate(broker.host, bench.publisher.name, load.payloads, RATE_PER_S), name="publisher"
    )
    if broker.fake is not None:
        misbehave(broker.fake)

    # By receipts, not by acknowledgements, which the faults hold up: what is decided but not acknowledged comes again.
    await reached(process, "governors_ledger_durable_size", 0.4 * len(load.ids))
    before = await scrape(process)
    os.kill(process.pid, signal.SIGSTOP)
    await asyncio.sleep(FROZEN_S)
    process.kill()
    process = await service.start()
    receipts_at_restart = process.receipts_at_start
    await publishing
    await all_decided(process, load.ids)
    after = await scrape(process)
    assert await asyncio.to_thread(process.stop) == 0

    kept = count_receipts(service.data_dir)
    assert load.ids - kept.keys() == set(), "nothing is lost"
    assert [one for one, count in kept.items() if count > 1] == [], "nothing is decided twice"
    assert kept.keys() == load.ids
    assert verify_log(service.data_dir).ok
    assert 0 < receipts_at_restart < len(load.ids), "the kill came in the middle"
    duplicates = [at.total("governors_signal_outcomes_total", outcome="duplicate") for at in (before, after)]
    assert sum(duplicates) > 0.5 * REPEATED * len(load.ids), "some came again"
    letters = list(read_letters(service.data_dir / "dead-letter"))
    assert Counter(one.payload for one in letters if isinstance(one, StoredLetter)) == Counter(UNREADABLE)
    assert after.total("governors_pull_redelivered_total") > 0, "what the killed one held was delivered again"
    print_latencies(before, after)


def print_latencies(before: Scrape, after: Scrape) -> None:
    for when, at in (("before the kill", before), ("after it, backlog included", after)):
        name = "governors_publish_to_commit_seconds"
        p50, p99 = (at.quantile(name, share, source="pubsub") * 1e3 for share in (0.5, 0.99))
        print(  # noqa: T201 - shown with -s, for whoever looks after a change of the path
            f"publish to committed {when}: p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )
