"""Actions to a Pub/Sub topic: one suite, for our fake and Google's emulator; what only the fake can do at the end."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import grpc
import httpx
import orjson
import pytest
from support.pubsub import PROJECT, Bench, clock_us
from support.service import ServiceProcess

from governors.machines.overlays import OpenAction
from governors.outbox.bodies import native
from governors.outbox.executors import Done, Order, Refused, TryAgain
from governors.outbox.selection import Selection
from governors.outbox.topic import TopicExecutor
from governors.tenants.tenant import OpenWork
from ingest.errors import SourceRefusedError
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import open_channel

_names = count(1)


def order(number: int, tenant: str = "acme", kind: str = "throttle") -> Order:
    action = OpenAction(f"act-3f9a2c1b7e5d4086-{number}", kind, {"fraction_ppm": number}, None)
    work = OpenWork(tenant, "cost_guard\x1fprod", "cost_guard", "prod", action, number)
    return Order(work, f"0:{number}", "9f2c" * 16, 1_795_348_800_000_000, "cost is at or over 90 %")


@pytest.fixture
async def fake() -> AsyncIterator[FakePubSub]:
    async with FakePubSub(clock_us=clock_us, pull_wait_s=0.3) as running:
        yield running


@pytest.fixture(params=["fake", pytest.param("emulator", marks=pytest.mark.emulator)])
async def bench(request: pytest.FixtureRequest, fake: FakePubSub) -> AsyncIterator[Bench]:
    """A topic and an ordered subscription nobody else uses, on each kind of broker in turn."""
    host = fake.host if request.param == "fake" else request.getfixturevalue("pubsub_emulator")
    async for one in _bench(host):
        yield one


@pytest.fixture
async def ours(fake: FakePubSub) -> AsyncIterator[Bench]:
    async for one in _bench(fake.host):
        yield one


async def _bench(host: str) -> AsyncIterator[Bench]:
    channel = await open_channel(host)
    bench = Bench(channel, f"actions-{clock_us()}-{next(_names)}")
    await bench.set_up(ordering=True)
    yield bench
    await channel.close()


def executor(bench: Bench, topic: str | None = None) -> TopicExecutor:
    async def channel() -> grpc.aio.Channel:
        return bench.channel

    name = f"projects/{PROJECT}/topics/{topic or bench.name}"
    return TopicExecutor("bus", Selection(kinds=("throttle",)), name, channel)


async def test_an_order_is_the_body_of_a_webhook_with_what_subscribers_filter_by(bench: Bench) -> None:
    answer = await executor(bench).execute(order(41))
    (got,) = await bench.pull(1)
    assert answer == Done(f"message {got.message_id}", "acknowledged")
    assert got.payload == native(order(41))
    assert got.ordering_key == "acme"
    assert got.attributes == {
        "action_id": "act-3f9a2c1b7e5d4086-41",
        "governor": "cost_guard",
        "receipt_sha256": "9f2c" * 16,
        "tenant": "acme",
    }


async def test_orders_of_one_tenant_come_in_the_order_in_which_they_were_published(bench: Bench) -> None:
    bus = executor(bench)
    for number in range(60):
        assert isinstance(await bus.execute(order(number, tenant=("acme", "globex")[number % 2])), Done)
    seen: dict[str, list[str]] = {"acme": [], "globex": []}
    while sum(map(len, seen.values())) < 60:
        deliveries = await bench.pull(1)
        for one in deliveries:
            seen[one.ordering_key].append(one.payload.decode())
        await bench.subscriber.acknowledge([one.ack_id for one in deliveries], 10.0)
    for first, tenant in enumerate(seen):
        expected = [native(order(number, tenant=tenant)).decode() for number in range(first, 60, 2)]
        assert list(dict.fromkeys(seen[tenant])) == expected, "delivered at least once, and in order"


async def test_the_same_order_again_is_the_same_message_for_who_keeps_ids(bench: Bench) -> None:
    bus = executor(bench)
    await bus.execute(order(7))
    await bus.execute(order(7))
    seen: set[tuple[str, bytes]] = set()
    taken = 0
    while taken < 2:
        deliveries = await bench.pull(1)
        taken += len({one.message_id for one in deliveries})
        seen |= {(one.attributes["action_id"], one.payload) for one in deliveries}
        await bench.subscriber.acknowledge([one.ack_id for one in deliveries], 10.0)
    assert len(seen) == 1


async def test_a_topic_that_is_not_there_is_a_refusal_that_says_what_to_do(bench: Bench) -> None:
    answer = await executor(bench, "nowhere").execute(order(1))
    assert isinstance(answer, Refused)
    assert "topics/nowhere: NOT_FOUND" in answer.detail


async def test_an_outage_is_no_answer_for_it_may_have_landed(fake: FakePubSub, ours: Bench) -> None:
    bus = executor(ours)
    fake.faults.fail("Publish", grpc.StatusCode.UNAVAILABLE, landed=True)
    answer = await bus.execute(order(1))
    assert isinstance(answer, TryAgain)
    assert (answer.maybe, answer.ails) == (True, True)
    assert isinstance(await bus.execute(order(1)), Done)
    assert {one.attributes["action_id"] for one in await ours.pull(2)} == {order(1).work.action.id}


async def test_who_may_not_publish_is_told_which_role_is_missing(fake: FakePubSub, ours: Bench) -> None:
    fake.faults.fail("Publish", grpc.StatusCode.PERMISSION_DENIED)
    answer = await executor(ours).execute(order(1))
    assert isinstance(answer, Refused)
    assert "roles/pubsub.publisher" in answer.detail


async def test_without_credentials_nothing_can_have_been_done() -> None:
    async def nobody() -> grpc.aio.Channel:
        raise SourceRefusedError("no credentials for Pub/Sub")

    bus = TopicExecutor("bus", Selection(), "projects/p/topics/t", nobody)
    assert await bus.execute(order(1)) == TryAgain("no credentials for Pub/Sub", maybe=False)


async def test_one_channel_is_kept_and_closed(fake: FakePubSub, ours: Bench) -> None:
    opened = []

    async def channel() -> grpc.aio.Channel:
        opened.append(await open_channel(fake.host))
        return opened[-1]

    bus = TopicExecutor("bus", Selection(), f"projects/{PROJECT}/topics/{ours.name}", channel)
    for number in range(3):
        assert isinstance(await bus.execute(order(number)), Done)
    assert len(opened) == 1
    await bus.close()
    assert opened[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN
    assert isinstance(await bus.execute(order(4)), Done), "a later attempt opens another"
    await bus.close()


async def test_a_service_publishes_what_it_decides(
    fake: FakePubSub, ours: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", fake.host)
    config = tmp_path / "governors.yaml"
    config.write_text(f"""
tenants: {{auto_create: true}}
actions:
  topics: [{{name: bus, project: {PROJECT}, topic: {ours.name}, kinds: [throttle]}}]
""")
    now = datetime.now(UTC)
    signal = {
        "id": "b-1", "source": "billing", "tenant": "acme", "kind": "cost.snapshot", "subject": "prod",
        "observed_at": now.isoformat().replace("+00:00", "Z"),
        "data": {"cost_amount": "910.25", "budget_amount": "1000.00", "currency": "USD",
                 "interval_start": now.strftime("%Y-%m-01T00:00:00Z")},
    }  # fmt: skip
    with ServiceProcess(tmp_path / "data", "--config", str(config)) as service:
        async with httpx.AsyncClient(timeout=60) as client:
            (decided,) = (await client.post(f"{service.url}/v1/signals", json=signal)).json()["results"]
        (got,) = await ours.pull(1)
        assert orjson.loads(got.payload)["data"]["receipt"] == decided["receipt"]
        assert got.attributes["action_id"] == orjson.loads(got.payload)["data"]["action_id"]
        assert service.stop() == 0
