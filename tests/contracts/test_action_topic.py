"""Actions to a Pub/Sub topic: one suite, for our fake and Google's emulator; what only the fake can do at the end."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import grpc
import httpx
import orjson
import pytest
from google.protobuf import empty_pb2
from google.pubsub_v1.types import pubsub as types
from msgspec.structs import replace
from support.pubsub import PROJECT, Bench, clock_us, soon
from support.service import ServiceProcess

from governors.app import worker_name
from governors.machines.overlays import OpenAction
from governors.outbox.arrivals import Arrivals
from governors.outbox.bodies import native
from governors.outbox.configured import Watching, executors_of, own_subscription
from governors.outbox.executors import Done, Order, Refused, TryAgain
from governors.outbox.selection import Selection
from governors.outbox.topic import TopicExecutor
from governors.outbox.topic_echo import Echo, mark_of
from governors.settings import ActionSettings, ActionTopicSettings, LedgerSettings, Settings, SettingsError
from governors.tenants.tenant import OpenWork
from ingest.errors import SourceRefusedError
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import PubsubMessage, PullRequest, PullResponse, open_channel, unary
from ingest.pubsub_setup import GetSubscriptionRequest, Subscription, Topic

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
def host(request: pytest.FixtureRequest, fake: FakePubSub) -> str:
    """Each kind of broker in turn."""
    return fake.host if request.param == "fake" else str(request.getfixturevalue("pubsub_emulator"))


@pytest.fixture
async def bench(host: str) -> AsyncIterator[Bench]:
    """A topic and an ordered subscription nobody else uses."""
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


def executor(bench: Bench, topic: str | None = None, echo: Echo | None = None) -> TopicExecutor:
    async def channel() -> grpc.aio.Channel:
        return bench.channel

    name = f"projects/{PROJECT}/topics/{topic or bench.name}"
    return TopicExecutor("bus", Selection(kinds=("throttle",)), name, echo, channel)


def own(bench: Bench, worker: str = "governors-0") -> str:
    return f"projects/{PROJECT}/subscriptions/{bench.name}-read-back-{worker}"


def echo_of(host: str, bench: Bench, worker: str = "governors-0", topic: str | None = None) -> Echo:
    name = f"projects/{PROJECT}/topics/{topic or bench.name}"
    return Echo("bus", name, own(bench, worker), partial(open_channel, host))


@asynccontextmanager
async def running(echo: Echo) -> AsyncIterator["asyncio.Task[None]"]:
    """It has started, as a child of a supervisor does."""
    started = asyncio.Event()

    async def live() -> None:
        await echo.child(Random(7)).start(started.set)

    task = asyncio.create_task(live())
    async with asyncio.timeout(30.0):
        await asyncio.wait({task, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def subscription_of(bench: Bench, name: str) -> Any:
    get = unary(bench.channel, "Subscriber/GetSubscription", GetSubscriptionRequest, Subscription)
    return await get(GetSubscriptionRequest(subscription=name), timeout=10.0)


async def delete(bench: Bench, kind: str, name: str) -> None:
    field, service = ("subscription", "Subscriber") if kind == "Subscription" else ("topic", "Publisher")
    request_type = getattr(types, f"Delete{kind}Request").pb()
    stub = unary(bench.channel, f"{service}/Delete{kind}", request_type, empty_pb2.Empty)
    await stub(request_type(**{field: name}), timeout=10.0)


async def until_done(bus: TopicExecutor, wanted: Order) -> Done:
    """As the outbox does: again under the same id, with what is known of the attempts before."""
    async with asyncio.timeout(60.0):
        while True:
            answer = await bus.execute(wanted)
            if isinstance(answer, Done):
                return answer
            assert isinstance(answer, TryAgain)
            wanted = replace(wanted, maybe=True, acknowledged=wanted.acknowledged or answer.acknowledged)
            await asyncio.sleep(0.05)


async def ids_seen(bench: Bench, count: int) -> list[str]:
    """The actions that a subscriber gets, one a message."""
    got: list[str] = []
    async with asyncio.timeout(30.0):
        while len(got) < count:
            deliveries = await bench.pull(1)
            await bench.subscriber.acknowledge([one.ack_id for one in deliveries], 10.0)
            got += [one.attributes["action_id"] for one in deliveries]
    return got


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

    bus = TopicExecutor("bus", Selection(), "projects/p/topics/t", None, nobody)
    assert await bus.execute(order(1)) == TryAgain("no credentials for Pub/Sub", maybe=False)


async def test_one_channel_is_kept_and_closed(fake: FakePubSub, ours: Bench) -> None:
    opened = []

    async def channel() -> grpc.aio.Channel:
        opened.append(await open_channel(fake.host))
        return opened[-1]

    bus = TopicExecutor("bus", Selection(), f"projects/{PROJECT}/topics/{ours.name}", None, channel)
    for number in range(3):
        assert isinstance(await bus.execute(order(number)), Done)
    assert len(opened) == 1
    await bus.close()
    assert opened[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN
    assert isinstance(await bus.execute(order(4)), Done), "a later attempt opens another"
    await bus.close()


async def test_an_order_is_done_once_it_has_come_back(host: str, bench: Bench) -> None:
    echo = echo_of(host, bench)
    async with running(echo):
        answer = await executor(bench, echo=echo).execute(order(41))
    (got,) = await bench.pull(1)
    assert answer == Done(f"message {got.message_id}, which came back", "read_back")


async def test_the_subscription_keeps_little_and_is_gone_a_day_after_its_worker(host: str, bench: Bench) -> None:
    async with running(echo_of(host, bench)):
        made = await subscription_of(bench, own(bench))
    assert made.topic == f"projects/{PROJECT}/topics/{bench.name}"
    assert made.message_retention_duration.seconds == 600
    assert made.expiration_policy.ttl.seconds == 86_400
    assert not made.HasField("dead_letter_policy")
    assert not made.filter


async def test_what_another_worker_publishes_disturbs_nobody_and_is_not_kept(host: str, bench: Bench) -> None:
    first, second = echo_of(host, bench), echo_of(host, bench, "governors-1")
    async with running(first), running(second):
        answers = await asyncio.gather(
            *(executor(bench, echo=first).execute(order(number)) for number in range(8)),
            *(executor(bench, echo=second).execute(order(number)) for number in range(8, 16)),
        )
        assert [one.proof for one in answers if isinstance(one, Done)] == ["read_back"] * 16
        marks = [mark_of(native(order(number))) for number in range(16)]
        await soon(lambda: all(echo.has(mark) for echo in (first, second) for mark in marks))
    # Somebody else's pulls get nothing more of it, once leases that nobody acknowledged would be over: at once here.
    for worker in ("governors-0", "governors-1"):
        assert await pulled_now(bench, own(bench, worker)) == []


async def pulled_now(bench: Bench, subscription: str) -> list[bytes]:
    stub = unary(bench.channel, "Subscriber/Pull", PullRequest, PullResponse)
    request = PullRequest(subscription=subscription, max_messages=1_000, return_immediately=True)
    return [received.message.data for received in (await stub(request, timeout=10.0)).received_messages]


async def test_what_was_published_before_a_restart_is_found_and_not_published_again(host: str, bench: Bench) -> None:
    async with running(echo_of(host, bench)):
        pass
    await executor(bench).execute(order(41))  # and nobody heard of it: the process was killed
    echo = echo_of(host, bench)
    async with running(echo):
        await soon(lambda: echo.has(mark_of(native(order(41)))))
        answer = await executor(bench, echo=echo).execute(replace(order(41), maybe=True))
    assert answer == Done("it had come back, and was not published again", "read_back")
    assert await ids_seen(bench, 1) == [order(41).work.action.id]


async def test_a_subscription_that_is_deleted_is_made_again(
    host: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("governors.outbox.topic.COMES_S", 1.0)
    echo = echo_of(host, bench)
    bus = executor(bench, echo=echo)
    async with running(echo):
        assert isinstance(await bus.execute(order(1)), Done)
        await delete(bench, "Subscription", own(bench))
        assert (await until_done(bus, order(2))).proof == "read_back"
        assert echo.why_away == ""
    assert set(await ids_seen(bench, 2)) == {order(1).work.action.id, order(2).work.action.id}


async def test_a_topic_that_is_made_anew_is_read_back_from_again(
    host: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("governors.outbox.topic.COMES_S", 0.5)
    monkeypatch.setattr("governors.outbox.topic_echo.LOOK_AGAIN_S", 0.0)
    echo = echo_of(host, bench)
    bus = executor(bench, echo=echo)
    async with running(echo):
        assert isinstance(await bus.execute(order(1)), Done)
        await delete(bench, "Topic", f"projects/{PROJECT}/topics/{bench.name}")
        assert isinstance(await bus.execute(order(2)), Refused)
        create = unary(bench.channel, "Publisher/CreateTopic", Topic, Topic)
        await create(Topic(name=f"projects/{PROJECT}/topics/{bench.name}"), timeout=10.0)
        assert (await until_done(bus, order(3))).proof == "read_back"


async def test_what_the_service_has_and_loses_is_no_success_and_is_published_again(
    fake: FakePubSub, ours: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("governors.outbox.topic.COMES_S", 0.3)
    echo = echo_of(fake.host, ours)
    bus = executor(ours, echo=echo)
    async with running(echo):
        fake.faults.lose(1)
        answer = await bus.execute(order(7))
        assert isinstance(answer, TryAgain)
        assert (answer.maybe, answer.ails, answer.acknowledged) == (True, False, True)
        assert answer.detail.endswith(", which did not come back")
        again = await bus.execute(replace(order(7), maybe=True, acknowledged=True))
        assert isinstance(again, Done)
        assert again.proof == "read_back"
    assert await ids_seen(ours, 1) == [order(7).work.action.id]


async def test_somebody_elses_message_under_the_same_id_proves_nothing(
    fake: FakePubSub, ours: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("governors.outbox.topic.COMES_S", 0.3)
    echo = echo_of(fake.host, ours)
    async with running(echo):
        fake.faults.lose(1)
        bus = executor(ours, echo=echo)
        attempt = asyncio.create_task(bus.execute(order(7)))
        await soon(lambda: fake.calls["Publish"] == 1)
        forged = PubsubMessage(data=b"{}", attributes={"action_id": order(7).work.action.id})
        await ours.publisher.publish([forged], 10.0)
        assert isinstance(await attempt, TryAgain)
        assert isinstance(await bus.execute(replace(order(7), acknowledged=True)), Done)


async def test_a_flood_of_foreign_messages_takes_no_room_and_hides_nothing(
    fake: FakePubSub, ours: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = echo_of(fake.host, ours)
    echo._arrivals = Arrivals(marks_max=50)
    async with running(echo):
        flood = [PubsubMessage(data=b"%d" % number, attributes={"action_id": f"x-{number}"}) for number in range(1_000)]
        await ours.publisher.publish(flood, 10.0)
        assert isinstance(await executor(ours, echo=echo).execute(order(1)), Done)
        await ours.publisher.publish([PubsubMessage(data=b"of no action")] * 500, 10.0)
        await ours.publisher.publish(flood, 10.0)
        await soon(lambda: fake.unacknowledged(own(ours)) == 0)
        assert len(echo._arrivals) == 50


async def test_while_nothing_can_be_read_back_orders_go_out_once_and_are_not_done(
    fake: FakePubSub, ours: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = echo_of(fake.host, ours)
    bus = executor(ours, echo=echo)
    async with running(echo):
        fake.faults.fail("Pull", grpc.StatusCode.PERMISSION_DENIED, times=100)
        await soon(lambda: echo.why_away != "")
        first = await bus.execute(order(1))
        assert isinstance(first, TryAgain)
        assert (first.maybe, first.ails, first.acknowledged) == (True, False, True)
        assert "which cannot be read back" in first.detail
        again = await bus.execute(replace(order(1), maybe=True, acknowledged=True))
        assert isinstance(again, TryAgain)
        assert again.acknowledged
        assert fake.calls["Publish"] == 1
        monkeypatch.setattr("governors.outbox.topic_echo._AWAY_S", 0.5)
        await soon(lambda: bool(echo.warnings()))
        (warning,) = echo.warnings()
        assert re.fullmatch(r"what bus publishes has not been read back for \d s: .*PERMISSION_DENIED.*", warning)
        fake.faults.forgive("Pull")
        await soon(lambda: echo.has(mark_of(native(order(1)))))
        assert isinstance(await bus.execute(replace(order(1), maybe=True, acknowledged=True)), Done)
        assert fake.calls["Publish"] == 1


@pytest.mark.parametrize("method", ["GetSubscription", "CreateSubscription", "Pull"])
async def test_a_permission_that_is_missing_at_the_start_ends_it_and_names_the_key(
    fake: FakePubSub, ours: Bench, method: str
) -> None:
    fake.faults.fail(method, grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(SettingsError, match=r"actions\.topics = 'bus' .*PERMISSION_DENIED.*`read_back: false`"):
        async with running(echo_of(fake.host, ours)):
            pass


async def test_a_topic_that_is_missing_at_the_start_ends_it_and_names_the_key(host: str, bench: Bench) -> None:
    with pytest.raises(SettingsError, match=r"actions\.topics = 'bus' .*NOT_FOUND.*create that topic.*read_back"):
        async with running(echo_of(host, bench, topic="nowhere")):
            pass


async def test_a_service_that_is_away_at_the_start_is_waited_for(fake: FakePubSub, ours: Bench) -> None:
    echo = echo_of(fake.host, ours)
    fake.faults.fail("GetSubscription", grpc.StatusCode.UNAVAILABLE, times=2)
    async with running(echo):
        assert (await until_done(executor(ours, echo=echo), order(1))).proof == "read_back"
        assert echo.warnings() == []


async def test_an_order_before_the_first_look_waits_for_it(fake: FakePubSub, ours: Bench) -> None:
    echo = echo_of(fake.host, ours)
    attempt = asyncio.create_task(executor(ours, echo=echo).execute(order(1)))
    async with running(echo):
        assert isinstance(await attempt, Done)
    assert fake.calls["Publish"] == 1


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
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            result = await _result(client)
        assert (result["evidence"]["result"], result["evidence"]["proof"]) == ("ok", "read_back")
        assert result["evidence"]["verified"] == 1
        assert service.stop() == 0


async def _result(client: httpx.AsyncClient) -> dict[str, Any]:
    """The receipt of how the action ended."""
    async with asyncio.timeout(30.0):
        while True:
            page = (await client.get("/v1/tenants/acme/receipts", params={"limit": 100})).json()["receipts"]
            found = [one["receipt"] for one in page if one["receipt"]["fsm"]["event"] == "action.result"]
            if found:
                return dict(found[0])
            await asyncio.sleep(0.05)


async def test_a_service_whose_topic_is_missing_does_not_start_and_says_which_key(
    fake: FakePubSub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", fake.host)
    config = tmp_path / "governors.yaml"
    config.write_text(f"actions: {{topics: [{{name: bus, project: {PROJECT}, topic: nowhere}}]}}")
    with pytest.raises(AssertionError, match=r"actions\.topics = 'bus' \(read_back\): .*NOT_FOUND"):
        await asyncio.to_thread(ServiceProcess, tmp_path / "data", "--config", str(config))


def test_a_worker_has_a_subscription_of_its_own_whatever_its_name() -> None:
    settings = ActionTopicSettings(name="bus", project="governors-test", topic="governors-actions")
    others = [replace(settings, name="other"), replace(settings, topic="another-topic")]
    names = [
        *(own_subscription(settings, worker) for worker in ("governors-0-1f2e", "governors-1-1f2e", "x" * 300, "ä/b")),
        *(own_subscription(other, "governors-0-1f2e") for other in others),
        own_subscription(replace(settings, topic="t" * 255), "w" * 255),
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}", name) for name in names)
    assert names[0].startswith("governors-actions-read-back-governors-0-1f2e-")
    assert own_subscription(settings, "governors-0-1f2e") == names[0], "after a restart it is the same"


def test_workers_of_one_machine_or_of_several_logs_have_names_of_their_own(tmp_path: Path) -> None:
    one = Settings(data_dir=tmp_path / "data")
    beside = Settings(data_dir=tmp_path / "data/worker-1")
    of_another_log = Settings(data_dir=tmp_path / "data", ledger=LedgerSettings(origin="governors.example.com/other"))
    assert len({worker_name(settings) for settings in (one, beside, of_another_log)}) == 3
    assert worker_name(Settings(data_dir=tmp_path / "data")) == worker_name(one)


@pytest.mark.parametrize(("read_back", "children"), [(True, 1), (False, 0)])
def test_one_key_switches_reading_back_off(read_back: bool, children: int) -> None:
    topic = ActionTopicSettings(name="bus", project="governors-test", topic="governors-actions", read_back=read_back)
    bus = executors_of(ActionSettings(topics=(topic,)), clock_us, "governors-0")[0]
    assert isinstance(bus, Watching)
    assert len(bus.children(Random(7))) == children
    dry = executors_of(ActionSettings(topics=(topic,), dry_run=True), clock_us, "governors-0")[0]
    assert not isinstance(dry, Watching), "what publishes nothing has nothing to read back"
