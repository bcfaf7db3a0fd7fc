"""What we rely on in a Pub/Sub, and what the pull loop makes of it: one suite, for our fake and Google's emulator."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from itertools import count

import pytest
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient
from google.pubsub_v1 import PubsubMessage as StockMessage
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from support.emulator import skip_or_fail
from support.pubsub import PROJECT, Bench, Recorder, clock_us, running, soon

from benchmarks.support_emulator import EmulatorMissingError, PubSubEmulator, find_jar
from ingest.errors import SourceRefusedError
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import PubsubMessage, PubSubPublisher, PubSubSubscriber, open_channel
from ingest.pubsub_setup import setup
from ingest.source import ACK, TAKEN, AckResult, Batch, Disposition

_names = count(1)


@pytest.fixture(params=["fake", pytest.param("emulator", marks=pytest.mark.emulator)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A topic and a subscription nobody else uses, on each kind of broker in turn."""
    fake = FakePubSub(clock_us=clock_us, pull_wait_s=0.3)
    if request.param == "fake":
        await fake.start()
    host = fake.host if request.param == "fake" else request.getfixturevalue("pubsub_emulator")
    channel = await open_channel(host)
    # The emulator outlives a test and may outlive a run.
    bench = Bench(channel, f"signals-{clock_us()}-{next(_names)}")
    await bench.set_up()
    yield bench
    await channel.close()
    await fake.stop()


# The broker


async def test_a_message_comes_as_it_was_published(bench: Bench) -> None:
    before_us = clock_us()
    message = PubsubMessage(data=b"\x00\xff{}", attributes={"k": "v", "empty": ""}, ordering_key="acme")
    (message_id,) = await bench.publisher.publish([message], 10.0)
    (delivery,) = await bench.pull(1)
    assert delivery.payload == b"\x00\xff{}"
    assert delivery.attributes == {"k": "v", "empty": ""}
    assert delivery.message_id == message_id
    assert delivery.ordering_key == "acme"
    assert before_us - 5_000_000 <= delivery.publish_us <= clock_us() + 5_000_000


async def test_what_is_not_acknowledged_comes_again_under_another_id(bench: Bench) -> None:
    await bench.publish(1)
    (first,) = await bench.pull(1)
    await bench.subscriber.modify_ack_deadline([first.ack_id], 1, 10.0)
    assert await bench.pull_now() == []
    (second,) = await bench.pull(1)
    assert second.payload == first.payload
    assert second.message_id == first.message_id
    assert second.ack_id != first.ack_id


async def test_what_is_acknowledged_does_not_come_again(bench: Bench) -> None:
    await bench.publish(3)
    deliveries = await bench.pull(3)
    await bench.subscriber.acknowledge([delivery.ack_id for delivery in deliveries], 10.0)
    assert await bench.are_forgotten([delivery.ack_id for delivery in deliveries])


async def test_what_is_given_back_comes_again_at_once(bench: Bench) -> None:
    published = await bench.publish(3)
    deliveries = await bench.pull(3)
    await bench.subscriber.modify_ack_deadline([delivery.ack_id for delivery in deliveries], 0, 10.0)
    assert sorted(delivery.payload for delivery in await bench.pull(3)) == published


async def test_a_leased_message_is_out_of_sight(bench: Bench) -> None:
    await bench.publish(3)
    await bench.pull(3)
    assert await bench.pull_now() == []


async def test_a_pull_brings_no_more_than_was_asked_for(bench: Bench) -> None:
    await bench.publish(50)
    assert 1 <= len(await bench.subscriber.pull(7, 10.0)) <= 7


async def test_a_pull_that_waits_longer_than_we_do_is_an_empty_list(bench: Bench) -> None:
    assert await bench.subscriber.pull(10, 0.2) == []


async def test_a_waiting_pull_returns_when_something_is_published(bench: Bench) -> None:
    pulling = asyncio.create_task(bench.pull(1))
    await asyncio.sleep(0)
    await bench.publish(1)
    assert len(await pulling) == 1


async def test_messages_of_one_key_come_in_order(bench: Bench) -> None:
    ordered = Bench(bench.channel, f"{bench.name}-ordered")
    await ordered.set_up(ordering=True)
    await ordered.publish(300, keys=("acme", "globex", "initech"))
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    while sum(map(len, by_key.values())) < 300:
        deliveries = await ordered.pull(1)
        assert deliveries
        for delivery in deliveries:
            by_key[delivery.ordering_key].append(int(delivery.payload))
        await ordered.subscriber.acknowledge([delivery.ack_id for delivery in deliveries], 10.0)
    assert by_key == {
        "acme": list(range(0, 300, 3)),
        "globex": list(range(1, 300, 3)),
        "initech": list(range(2, 300, 3)),
    }


async def test_a_thousand_large_messages_pass_the_usual_bound_of_a_reply(bench: Bench) -> None:
    messages = [PubsubMessage(data=b"x" * 60_000) for _ in range(100)]
    await bench.publisher.publish(messages, 10.0)
    assert [len(delivery.payload) for delivery in await bench.pull(100)] == [60_000] * 100


async def test_acknowledging_twice_or_too_late_is_no_error(bench: Bench) -> None:
    await bench.publish(1)
    (delivery,) = await bench.pull(1)
    await bench.subscriber.acknowledge([delivery.ack_id], 10.0)
    await bench.subscriber.acknowledge([delivery.ack_id], 10.0)
    await bench.subscriber.modify_ack_deadline([delivery.ack_id], 10, 10.0)


async def test_what_does_not_exist_is_refused_by_name(bench: Bench) -> None:
    nowhere = f"projects/{PROJECT}/subscriptions/nowhere"
    for call in (
        PubSubSubscriber(bench.channel, nowhere).pull(1, 10.0),
        PubSubSubscriber(bench.channel, nowhere).acknowledge(["a"], 10.0),
        PubSubPublisher(bench.channel, "projects/p/topics/nowhere").publish([PubsubMessage(data=b"x")], 10.0),
    ):
        with pytest.raises(SourceRefusedError, match="nowhere: NOT_FOUND") as caught:
            await call
        assert caught.value.vanished


async def test_an_impossible_request_is_refused_for_good(bench: Bench) -> None:
    with pytest.raises(SourceRefusedError, match="INVALID_ARGUMENT") as caught:
        await bench.subscriber.pull(0, 10.0)
    assert not caught.value.vanished


async def test_the_stock_clients_work_too(bench: Bench) -> None:
    publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=bench.channel))
    subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=bench.channel))
    await publisher.publish(topic=bench.publisher.name, messages=[StockMessage(data=b"hello", attributes={"k": "v"})])
    response = await subscriber.pull(subscription=bench.subscriber.name, max_messages=10)
    (received,) = response.received_messages
    assert (received.message.data, dict(received.message.attributes)) == (b"hello", {"k": "v"})
    await subscriber.acknowledge(subscription=bench.subscriber.name, ack_ids=[received.ack_id])
    assert await bench.are_forgotten([received.ack_id])


# Set-up


async def test_setting_up_again_changes_nothing(bench: Bench) -> None:
    changes = {"dead_letter_topic": f"{bench.name}-letters", "exactly_once": True}
    checked = await setup(bench.channel, bench.plan(**changes), change=False)
    assert [step.did for step in checked] == ["found", "missing", "missing", "differs"]
    assert [step.did for step in await bench.set_up(**changes)] == ["found", "created", "created", "updated"]
    assert {step.did for step in await bench.set_up(**changes)} == {"found"}
    assert {step.did for step in await setup(bench.channel, bench.plan(**changes), change=False)} == {"found"}


async def test_each_setting_that_differs_is_named_with_both_values_and_brought_into_line(bench: Bench) -> None:
    changes = {"ack_deadline_s": 30, "retry_min_s": 2, "retry_max_s": 20, "retention_s": 3_600, "exactly_once": True}
    *_, step = await bench.set_up(**changes)
    assert {(one.key, one.has, one.wanted) for one in step.differences} == {
        ("ack_deadline_seconds", "10", "30"),
        ("enable_exactly_once_delivery", "false", "true"),
        ("message_retention_duration", "604800s", "3600s"),
        (
            "retry_policy",
            "{minimum_backoff 0s, maximum_backoff 60s}",
            "{minimum_backoff 2s, maximum_backoff 20s}",
        ),
    }
    *_, step = await bench.set_up(**(changes | {"exactly_once": None}))
    assert step.did == "found"


async def test_what_cannot_be_changed_is_not_passed_over(bench: Bench) -> None:
    with pytest.raises(SourceRefusedError, match="enable_message_ordering"):
        await bench.set_up(ordering=True)


# Exactly-once delivery


@pytest.fixture
async def exact(bench: Bench) -> Bench:
    """The same broker, another subscription."""
    exact = Bench(bench.channel, f"{bench.name}-exact")
    await exact.set_up(exactly_once=True, ordering=True)
    return exact


async def test_an_answer_names_the_ids_whose_lease_is_over_and_the_others_are_taken(exact: Bench) -> None:
    await exact.publish(3)
    deliveries = await exact.pull(3)
    first, second, third = [delivery.ack_id for delivery in deliveries]
    assert await exact.subscriber.acknowledge([first], 10.0) == TAKEN
    assert await exact.subscriber.acknowledge([first, second], 10.0) == AckResult(lost=frozenset({first}))
    extended = await exact.subscriber.modify_ack_deadline([second, third], 60, 10.0)
    assert extended == AckResult(lost=frozenset({second}))
    assert await exact.subscriber.modify_ack_deadline([third], 0, 10.0) == TAKEN
    assert await exact.subscriber.acknowledge([third], 10.0) == AckResult(lost=frozenset({third}))
    (again,) = await exact.pull(1)
    assert again.payload == deliveries[2].payload


async def test_an_answer_that_names_very_many_ids_is_read(exact: Bench) -> None:
    await exact.publish(2_500)
    ack_ids = [delivery.ack_id for delivery in await exact.pull(2_500)]
    assert await exact.subscriber.acknowledge(ack_ids, 10.0) == TAKEN
    assert await exact.subscriber.acknowledge(ack_ids, 10.0) == AckResult(lost=frozenset(ack_ids))


async def test_the_loop_counts_acknowledgements_that_came_too_late_and_the_message_comes_again(exact: Bench) -> None:
    published = await exact.publish(20, keys=("acme", "globex"))
    committed = asyncio.Event()
    recorder = Recorder(before=committed.wait)
    loop = exact.loop(recorder)
    async with running(loop):
        await soon(lambda: len(recorder.payloads) == 20)
        late = recorder.ack_ids[-2:]
        await exact.subscriber.modify_ack_deadline(late, 0, 10.0)
        committed.set()
        await soon(lambda: len(recorder.payloads) == 22 and loop.metrics.acked == 20)
    assert loop.metrics.acks_lost == 2
    assert loop.metrics.ack_errors == 0
    assert Counter(recorder.payloads) == Counter(published) + Counter(recorder.payloads[18:20])


async def test_order_holds_through_failures_of_the_handler(exact: Bench) -> None:
    await exact.publish(300, keys=("acme", "globex", "initech"))
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    failures = iter([False, True, True, False, True, *[False] * 10_000])

    async def handle(batch: Batch) -> Sequence[Disposition]:
        if next(failures):
            raise RuntimeError("now and then")
        for delivery in batch.deliveries:
            by_key[delivery.ordering_key].append(int(delivery.payload))
        return [ACK] * len(batch.deliveries)

    loop = exact.loop(handle, messages_per_pull=40, backoff_base_s=0.01)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 300)
    assert loop.metrics.handler_errors == 3
    assert by_key == {
        "acme": list(range(0, 300, 3)),
        "globex": list(range(1, 300, 3)),
        "initech": list(range(2, 300, 3)),
    }


# The pull loop


async def test_every_message_is_handled_and_acknowledged(bench: Bench) -> None:
    published = await bench.publish(2_500)
    recorder = Recorder()
    loop = bench.loop(recorder)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 2_500)
    assert sorted(recorder.payloads) == sorted(published)
    assert await bench.are_forgotten(recorder.ack_ids)


async def test_nothing_is_acknowledged_before_it_is_committed(bench: Bench) -> None:
    published = await bench.publish(250)
    uncommitted = Recorder(before=asyncio.Event().wait)
    async with running(bench.loop(uncommitted, drain_s=0.0)):
        await soon(lambda: len(uncommitted.payloads) == 250)
    assert sorted(delivery.payload for delivery in await bench.pull(250)) == sorted(published)


async def test_a_handler_that_crashes_gets_its_messages_again(bench: Bench) -> None:
    published = await bench.publish(250)
    crashes = iter([True, True])
    recorder = Recorder()

    async def handle(batch: Batch) -> Sequence[Disposition]:
        if next(crashes, False):
            raise RuntimeError("a bug that shows now and then")
        return await recorder(batch)

    loop = bench.loop(handle)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 250)
    assert Counter(recorder.payloads) == Counter(published)
    assert loop.metrics.handler_errors == 2
    assert await bench.are_forgotten(recorder.ack_ids)


async def test_a_stop_finishes_what_was_handed_over(bench: Bench) -> None:
    await bench.publish(50)
    committed = asyncio.Event()
    recorder = Recorder(before=committed.wait)
    loop = bench.loop(recorder, drain_s=20.0)
    task = asyncio.create_task(loop.run())
    await soon(lambda: len(recorder.payloads) == 50)
    task.cancel()
    asyncio.get_running_loop().call_soon(committed.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert loop.metrics.acked == 50
    assert await bench.are_forgotten(recorder.ack_ids)


async def test_a_stop_leaves_no_pull_behind_that_swallows_messages(bench: Bench) -> None:
    loop = bench.loop(Recorder())
    async with running(loop):
        await soon(lambda: loop.metrics.connected)
    published = await bench.publish(10)
    assert sorted(await bench.pull_now()) == published


async def test_a_slow_batch_does_not_come_a_second_time(bench: Bench) -> None:
    await bench.publish(1)
    committed = asyncio.Event()
    recorder = Recorder(before=committed.wait)
    # Looks every 0.3 s, extends from 1.5 s on. The test lets the lease run out after 3 s unless it is extended.
    loop = bench.loop(recorder, ack_deadline_s=3)
    async with running(loop):
        await soon(lambda: bool(recorder.batches))
        await bench.subscriber.modify_ack_deadline(recorder.ack_ids, 3, 10.0)
        await soon(lambda: loop.metrics.lease_extensions >= 2)
        assert await bench.pull_now() == []
        committed.set()
        await soon(lambda: loop.metrics.acked == 1)
    assert len(recorder.batches) == 1


async def test_a_missing_subscription_ends_the_loop(bench: Bench) -> None:
    missing = Bench(bench.channel, "missing")
    with pytest.raises(SourceRefusedError, match=f"projects/{PROJECT}/subscriptions/missing"):
        await missing.loop(Recorder()).run()


# Restarts, on servers of their own


async def test_the_fake_restarts_and_nothing_is_lost() -> None:
    async with FakePubSub(clock_us=clock_us) as fake:
        channel = await open_channel(fake.host)
        bench = Bench(channel, "signals")
        await bench.set_up()
        first = await bench.publish(500)
        recorder = Recorder()
        loop = bench.loop(recorder)
        async with running(loop):
            await soon(lambda: len(recorder.payloads) >= 500)
            await fake.stop()
            await soon(lambda: loop.metrics.pull_errors > 0)
            await fake.start()
            second = await bench.publish_when_back(500)
            await soon(lambda: fake.unacknowledged(bench.subscriber.name) == 0)
        assert set(recorder.payloads) == {*first, *second}
        await channel.close()


@pytest.mark.emulator
async def test_the_emulator_restarts_without_its_memory_and_the_loop_goes_on() -> None:
    try:
        find_jar()
    except EmulatorMissingError as error:
        skip_or_fail(error)
    with PubSubEmulator() as emulator:
        channel = await open_channel(emulator.host)
        bench = Bench(channel, "signals")
        await bench.set_up()
        await bench.publish(500)
        recorder = Recorder()
        loop = bench.loop(recorder)
        async with running(loop) as task:
            await soon(lambda: loop.metrics.acked == 500)
            await asyncio.to_thread(emulator.stop)
            await soon(lambda: loop.metrics.pull_errors > 0)
            await asyncio.to_thread(emulator.start)
            await soon(lambda: "NOT_FOUND" in loop.metrics.last_error)
            await bench.set_up()
            second = await bench.publish_when_back(500)
            await soon(lambda: set(second) <= set(recorder.payloads))
            assert not task.done()
        await channel.close()
