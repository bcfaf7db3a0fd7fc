"""What no broker does on demand, against the fake: each fault as if it had landed and as if it had not."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from support.pubsub import PROJECT, Bench, Recorder, clock_us, running, soon

from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import DeadLetterTopic, PubSubSubscriber, open_channel
from ingest.source import NACK, Batch, Disposition

TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)
PERMANENT = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
)


@pytest.fixture
async def fake() -> AsyncIterator[FakePubSub]:
    async with FakePubSub(clock_us=clock_us, pull_wait_s=0.1) as fake:
        yield fake


@pytest.fixture
async def bench(fake: FakePubSub) -> AsyncIterator[Bench]:
    channel = await open_channel(fake.host)
    bench = Bench(channel, "signals")
    await bench.set_up()
    yield bench
    await channel.close()


def waiting(fake: FakePubSub, bench: Bench) -> int:
    return fake.unacknowledged(bench.subscriber.name)


@pytest.mark.parametrize("code", TRANSIENT, ids=lambda code: code.name)
async def test_a_failure_that_may_pass_is_tried_again(fake: FakePubSub, bench: Bench, code: grpc.StatusCode) -> None:
    published = await bench.publish(10)
    fake.faults.fail("Pull", code, times=3)
    fake.faults.fail("Acknowledge", code, times=3)
    recorder = Recorder()
    loop = bench.loop(recorder, backoff_base_s=0.01, pulls_in_flight=1)
    async with running(loop):
        await soon(lambda: waiting(fake, bench) == 0)
    assert recorder.payloads == published
    assert loop.metrics.pull_errors == 3
    assert loop.metrics.ack_errors == 3
    assert loop.metrics.backoff_s > 0


@pytest.mark.parametrize("code", PERMANENT, ids=lambda code: code.name)
async def test_a_failure_that_stays_ends_the_loop_and_names_the_subscription(
    fake: FakePubSub, bench: Bench, code: grpc.StatusCode
) -> None:
    fake.faults.fail("Pull", code)
    with pytest.raises(SourceRefusedError, match=f"{bench.subscriber.name}: {code.name}"):
        await bench.loop(Recorder()).run()


@pytest.mark.parametrize("landed", [False, True], ids=["not landed", "landed"])
async def test_an_acknowledgement_without_an_answer_is_sent_again(fake: FakePubSub, bench: Bench, landed: bool) -> None:
    await bench.publish(10)
    fake.faults.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE, landed=landed)
    recorder = Recorder()
    loop = bench.loop(recorder, backoff_base_s=0.01)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 10)
    assert waiting(fake, bench) == 0
    assert len(recorder.payloads) == 10


@pytest.mark.parametrize("landed", [False, True], ids=["not landed", "landed"])
async def test_a_pull_without_an_answer_loses_nothing(fake: FakePubSub, bench: Bench, landed: bool) -> None:
    published = await bench.publish(10)
    fake.faults.fail("Pull", grpc.StatusCode.UNAVAILABLE, landed=landed)
    with pytest.raises(SourceUnavailableError):
        await bench.subscriber.pull(10, 5.0)
    assert waiting(fake, bench) == 10
    # Where it landed the messages are leased to nobody, until their deadline.
    assert await bench.pull_now() == ([] if landed else published)


async def test_an_acknowledgement_that_the_broker_forgets_brings_the_message_again(
    fake: FakePubSub, bench: Bench
) -> None:
    await bench.publish(5)
    fake.faults.drop_acks(1)
    recorder = Recorder()
    loop = bench.loop(recorder)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 5)
        assert waiting(fake, bench) == 5
        await bench.subscriber.modify_ack_deadline(recorder.ack_ids, 0, 5.0)
        await soon(lambda: waiting(fake, bench) == 0)
    assert Counter(recorder.payloads) == Counter(recorder.payloads[:5] * 2)


async def test_duplicates_are_handed_over_and_acknowledged_one_by_one(fake: FakePubSub, bench: Bench) -> None:
    published = await bench.publish(5)
    fake.faults.duplicate(2)
    recorder = Recorder()
    loop = bench.loop(recorder)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 7)
    assert sorted(recorder.payloads) == sorted([*published, *published[:2]])
    assert len(set(recorder.ack_ids)) == 7
    assert waiting(fake, bench) == 0


async def test_acknowledgements_stay_below_the_bound_of_a_request(fake: FakePubSub) -> None:
    channel = await open_channel(fake.host)
    # The longest of names, and so of ack ids: 10,000 of these pass 512 KiB several times over.
    bench = Bench(channel, "s" * 250)
    await bench.set_up()
    await bench.publish(10_000)
    recorder = Recorder()
    loop = bench.loop(recorder)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 10_000)
    assert sum(map(len, recorder.ack_ids)) > 4 * 512 * 1024
    assert loop.metrics.ack_errors == 0
    await channel.close()


async def test_what_is_delivered_too_often_goes_to_the_dead_letter_topic(fake: FakePubSub, bench: Bench) -> None:
    poisoned = Bench(bench.channel, "poisoned")
    await poisoned.set_up(dead_letter_topic="letters", delivery_attempts_max=5)
    await poisoned.publish(1)
    attempts: list[int] = []

    async def handle(batch: Batch) -> Sequence[Disposition]:
        attempts.extend(delivery.delivery_attempt for delivery in batch.deliveries)
        return [NACK] * len(batch.deliveries)

    async with running(poisoned.loop(handle)):
        await soon(lambda: waiting(fake, poisoned) == 0)
    assert attempts == [1, 2, 3, 4, 5]
    letters = PubSubSubscriber(bench.channel, f"projects/{PROJECT}/subscriptions/letters")
    (letter,) = await letters.pull(10, 5.0)
    assert letter.payload == b"0"
    assert letter.attributes["CloudPubSubDeadLetterSourceSubscription"] == "poisoned"
    assert letter.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"


async def test_a_retry_policy_spaces_redeliveries(bench: Bench) -> None:
    patient = Bench(bench.channel, "patient")
    await patient.set_up(retry_min_s=1)
    await patient.publish(1)
    (first,) = await patient.pull(1)
    await patient.subscriber.modify_ack_deadline([first.ack_id], 0, 5.0)
    assert await patient.pull_now() == []
    (again,) = await patient.pull(1)
    assert again.message_id == first.message_id


async def test_a_backlog_without_bounds_is_refused(fake: FakePubSub) -> None:
    async with FakePubSub(clock_us=clock_us, messages_max=10) as small:
        channel = await open_channel(small.host)
        bench = Bench(channel, "signals")
        await bench.set_up()
        await bench.publish(8)
        with pytest.raises(SourceUnavailableError, match="RESOURCE_EXHAUSTED"):
            await bench.publish(3)
        assert waiting(small, bench) == 8
        await channel.close()


async def test_an_update_brings_a_subscription_into_line(fake: FakePubSub, bench: Bench) -> None:
    changes = {"ack_deadline_s": 30, "dead_letter_topic": "letters", "exactly_once": True}
    *_, step = await bench.set_up(**changes)
    assert str(step) == (
        f"updated subscription {bench.subscriber.name}: ack_deadline_seconds from 10 to 30,"
        " dead_letter_policy from not set to {dead_letter_topic 'projects/governors-test/topics/letters',"
        " max_delivery_attempts 100}, enable_exactly_once_delivery from false to true"
    )
    assert {step.did for step in await bench.set_up(**changes)} == {"found"}
    assert {step.did for step in await bench.set_up()} == {"updated", "found"}, "the deadline alone goes back"


async def test_acknowledgements_that_exactly_once_delivery_does_not_take_are_sent_again(fake: FakePubSub) -> None:
    channel = await open_channel(fake.host)
    bench = Bench(channel, "exact")
    await bench.set_up(exactly_once=True)
    await bench.publish(2_000)
    fake.faults.take_no_ids(3)
    recorder = Recorder()
    loop = bench.loop(recorder, backoff_base_s=0.01)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 2_000)
    assert waiting(fake, bench) == 0
    assert len(recorder.payloads) == 2_000
    assert loop.metrics.acks_retried > 0
    assert loop.metrics.ack_errors == 0
    await channel.close()


async def test_a_deadline_that_the_broker_answers_at_once_is_a_failure_not_an_empty_pull(
    fake: FakePubSub, bench: Bench
) -> None:
    fake.faults.fail("Pull", grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(SourceUnavailableError, match="DEADLINE_EXCEEDED"):
        await bench.subscriber.pull(10, 10.0)


async def test_an_empty_pull_is_an_empty_list(bench: Bench) -> None:
    assert await bench.subscriber.pull(10, 10.0) == []


async def test_a_dead_letter_topic_takes_the_message_with_the_reason(bench: Bench) -> None:
    sink = DeadLetterTopic(bench.publisher)
    where = await sink.put(
        reason="bad_json",
        tenant="acme",
        payload=b"\xff",
        attributes={"k": "v", "googclient_schemaencoding": "JSON"},
        error="ü" * 1_000,
        now_us=1_795_341_600_000_000,
    )
    (letter,) = await bench.pull(1)
    assert where == f"{bench.publisher.name}:{letter.message_id}"
    assert letter.payload == b"\xff"
    assert letter.attributes == {
        "k": "v",
        "original-googclient_schemaencoding": "JSON",
        "governors-dead-letter-reason": "bad_json",
        "governors-dead-letter-tenant": "acme",
        "governors-dead-letter-error": "ü" * 512,
        "governors-dead-letter-at-us": "1795341600000000",
    }


async def test_a_dead_letter_topic_that_is_away_says_so(fake: FakePubSub, bench: Bench) -> None:
    fake.faults.fail("Publish", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(SourceUnavailableError):
        await DeadLetterTopic(bench.publisher).put(
            reason="bad_json", tenant=None, payload=b"x", attributes={}, error="", now_us=0
        )


async def test_a_server_that_forgot_the_subscription_may_get_it_back(fake: FakePubSub, bench: Bench) -> None:
    await bench.publish(5)
    recorder = Recorder()
    loop = bench.loop(recorder)
    async with running(loop):
        await soon(lambda: loop.metrics.acked == 5)
        fake.forget()
        await soon(lambda: loop.metrics.pull_errors > 0)
        await bench.set_up()
        await bench.publish(5)
        await soon(lambda: loop.metrics.acked == 10)


async def test_without_a_server_there_is_an_error_in_time_and_no_hang() -> None:
    async with FakePubSub(clock_us=clock_us) as fake:
        host = fake.host
    channel = await open_channel(host)
    with pytest.raises(SourceUnavailableError, match="UNAVAILABLE"):
        await PubSubSubscriber(channel, f"projects/{PROJECT}/subscriptions/signals").pull(1, 10.0)
    await channel.close()


async def test_every_fault_at_once_still_loses_nothing(fake: FakePubSub, bench: Bench) -> None:
    published: set[bytes] = set()
    recorder = Recorder()
    loop = bench.loop(recorder, backoff_base_s=0.005, backoff_cap_s=0.05, messages_per_pull=50)
    async with running(loop):
        for round_number in range(10):
            fake.faults.fail("Pull", grpc.StatusCode.UNAVAILABLE, times=round_number % 3)
            fake.faults.fail("Acknowledge", grpc.StatusCode.INTERNAL, landed=bool(round_number % 2))
            fake.faults.duplicate(round_number)
            if round_number == 5:
                await fake.stop()
                await fake.start()
            published.update(await bench.publish_when_back(100))
        await soon(lambda: waiting(fake, bench) == 0)
        await soon(lambda: loop.metrics.held_messages == 0)
    assert published <= set(recorder.payloads)
