"""The pull loop against a scripted broker, on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace
from simulation.loop import simulated
from support.broker import FORBIDDEN, NAME, UNAVAILABLE, VANISHED, ScriptedBroker, delivery, now_s, until

from ingest.errors import DeadLetterFullError, HandlerBusyError, SourceRefusedError
from ingest.pull import PullLoop
from ingest.pull_settings import PullSettings
from ingest.source import ACK, NACK, AckResult, Batch, DeadLetter, Delivery, Disposition, Handle

CLOCK_US = 1_795_341_600_000_000


class Letters:
    def __init__(self, failures: int = 0) -> None:
        self.kept: list[tuple[str, str | None, bytes, str]] = []
        self.failures = failures

    async def put(self, *, reason: str, tenant: str | None, payload: bytes, error: str, **_: object) -> str:
        if self.failures:
            self.failures -= 1
            raise DeadLetterFullError("no room")
        self.kept.append((reason, tenant, payload, error))
        return str(len(self.kept))


async def ack_all(batch: Batch) -> Sequence[Disposition]:
    return [ACK] * len(batch.deliveries)


class Gate:
    """A handler that keeps every batch until the test opens it."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.open = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, batch: Batch) -> Sequence[Disposition]:
        self.batches.append(batch)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [ACK] * len(batch.deliveries)


def ids(*batches: list[Delivery]) -> list[str]:
    return [each.ack_id for batch in batches for each in batch]


def make(
    broker: ScriptedBroker,
    handle: Handle = ack_all,
    letters: Letters | None = None,
    settings: PullSettings | None = None,
) -> PullLoop:
    return PullLoop(
        broker,
        handle,
        letters or Letters(),
        settings or PullSettings(),
        clock_us=lambda: CLOCK_US,
        rng=Random(7),
    )


@asynccontextmanager
async def running(loop: PullLoop) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(loop.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


# Acknowledging


@simulated
async def test_nothing_is_acknowledged_before_the_handler_answers() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery() for _ in range(10)]
    async with running(make(broker, gate)):
        broker.give(batch)
        await until(lambda: bool(gate.batches))
        await asyncio.sleep(20.0)
        assert broker.ack_requests == []
        gate.open.set()
        await until(lambda: len(broker.acked) == 10)
    assert broker.acked == ids(batch)
    assert broker.nacked == []


@simulated
async def test_a_batch_comes_whole_with_the_time_of_its_receipt_and_its_size() -> None:
    broker, gate = ScriptedBroker(), Gate()
    gate.open.set()
    batch = [delivery(b"12345"), delivery(b"678")]
    async with running(make(broker, gate)):
        broker.give(batch)
        await until(lambda: bool(gate.batches))
    assert gate.batches == [Batch(batch, CLOCK_US, 8)]


@simulated
async def test_each_delivery_gets_what_the_handler_said_of_it() -> None:
    broker, letters = ScriptedBroker(), Letters()
    batch = [delivery(b"good"), delivery(b"later"), delivery(b"never"), delivery(b"good")]

    async def handle(_: Batch) -> Sequence[Disposition]:
        return [ACK, NACK, DeadLetter("bad_json", "not JSON", "acme"), ACK]

    loop = make(broker, handle, letters)
    async with running(loop):
        broker.give(batch)
        await until(lambda: len(broker.acked) == 3)
    assert sorted(broker.acked) == sorted([batch[0].ack_id, batch[2].ack_id, batch[3].ack_id])
    assert broker.nacked == [batch[1].ack_id]
    assert letters.kept == [("bad_json", "acme", b"never", "not JSON")]
    metrics = loop.metrics
    assert (metrics.received, metrics.acked, metrics.nacked, metrics.dead_lettered) == (4, 3, 1, 1)


@simulated
async def test_a_dead_letter_that_could_not_be_kept_stays_with_the_broker() -> None:
    broker, letters = ScriptedBroker(), Letters(failures=1)

    async def handle(batch: Batch) -> Sequence[Disposition]:
        return [DeadLetter("bad_json", "not JSON")] * len(batch.deliveries)

    first, second = [delivery(b"1")], [delivery(b"2")]
    loop = make(broker, handle, letters)
    async with running(loop):
        broker.give(first)
        await until(lambda: bool(broker.nacked))
        broker.give(second)
        await until(lambda: bool(broker.acked))
    assert broker.nacked == ids(first)
    assert broker.acked == ids(second)
    assert loop.metrics.dead_letter_errors == 1
    assert loop.metrics.handler_errors == 0


@simulated
async def test_a_handler_that_raises_gets_its_batch_again() -> None:
    broker = ScriptedBroker()

    async def handle(batch: Batch) -> Sequence[Disposition]:
        raise RuntimeError("a bug")

    batch = [delivery() for _ in range(3)]
    loop = make(broker, handle)
    async with running(loop):
        broker.give(batch)
        await until(lambda: len(broker.nacked) == 3)
    assert broker.nacked == ids(batch)
    assert broker.acked == []
    assert loop.metrics.handler_errors == 1
    assert loop.metrics.held_messages == 0


@simulated
async def test_an_answer_of_the_wrong_length_acknowledges_nothing() -> None:
    broker = ScriptedBroker()

    async def handle(batch: Batch) -> Sequence[Disposition]:
        return [ACK]

    batch = [delivery(), delivery()]
    async with running(make(broker, handle)):
        broker.give(batch)
        await until(lambda: len(broker.nacked) == 2)
    assert broker.acked == []


@simulated
async def test_a_handler_that_keeps_failing_is_asked_less_and_less() -> None:
    broker = ScriptedBroker()
    handled_s: list[float] = []

    async def handle(batch: Batch) -> Sequence[Disposition]:
        handled_s.append(now_s())
        raise RuntimeError("broken")

    async with running(make(broker, handle, settings=PullSettings(pulls_in_flight=4, backoff_cap_s=10.0))):
        broker.give(*([delivery()] for _ in range(400)))
        await asyncio.sleep(300.0)
    # Capped at 10 s with full jitter: about one in 5 s, and never a burst.
    assert 30 <= len(handled_s) <= 120


@simulated
async def test_dead_letters_that_cannot_be_kept_slow_the_pulling_down() -> None:
    broker, letters = ScriptedBroker(), Letters(failures=1_000)
    handled_s: list[float] = []

    async def handle(batch: Batch) -> Sequence[Disposition]:
        handled_s.append(now_s())
        return [DeadLetter("bad_json", "not JSON")] * len(batch.deliveries)

    async with running(make(broker, handle, letters, PullSettings(pulls_in_flight=4, backoff_cap_s=10.0))):
        broker.give(*([delivery()] for _ in range(400)))
        await asyncio.sleep(300.0)
    assert 30 <= len(handled_s) <= 120


@simulated
async def test_a_handler_that_recovered_has_its_failures_forgotten() -> None:
    broker = ScriptedBroker()
    outcomes = iter([False] * 20 + [True] + [False] + [True])

    async def handle(batch: Batch) -> Sequence[Disposition]:
        if not next(outcomes):
            raise RuntimeError("broken now and then")
        return [ACK] * len(batch.deliveries)

    async with running(make(broker, handle, settings=PullSettings(backoff_base_s=0.1))):
        broker.give(*([delivery()] for _ in range(21)))
        await until(lambda: len(broker.acked) == 1)
        well_s = now_s()
        broker.give([delivery()], [delivery()])
        await until(lambda: len(broker.acked) == 2)
        assert now_s() - well_s < 0.2


@simulated
async def test_acknowledgements_that_gather_during_a_request_go_together_in_the_next() -> None:
    broker = ScriptedBroker(ack_takes_s=1.0)
    batches = [[delivery() for _ in range(100)] for _ in range(21)]
    async with running(make(broker)):
        broker.give(*batches)
        await until(lambda: len(broker.acked) == 2_100)
    assert sorted(broker.acked) == sorted(ids(*batches))
    assert len(broker.ack_requests) <= 3


@simulated
async def test_an_acknowledgement_that_fails_is_sent_again() -> None:
    broker = ScriptedBroker()
    broker.ack_failures.extend([UNAVAILABLE] * 4)
    batch = [delivery()]
    loop = make(broker)
    async with running(loop):
        broker.give(batch)
        await until(lambda: bool(broker.acked))
    assert broker.acked == ids(batch)
    assert loop.metrics.ack_errors == 4
    assert loop.metrics.acks_given_up == 0
    waits = [after[0] - before[0] for before, after in pairwise(broker.ack_requests)]
    assert all(wait_s > 0 for wait_s in waits)


@simulated
async def test_an_acknowledgement_is_given_up_once_its_lease_is_over() -> None:
    broker = ScriptedBroker()
    loop = make(broker)
    async with running(loop):
        broker.ack_failures.extend([UNAVAILABLE] * 1_000)
        broker.modify_failures.extend([UNAVAILABLE] * 1_000)
        broker.give([delivery(), delivery()])
        await until(lambda: loop.metrics.acks_given_up == 2)
        assert loop.metrics.held_messages == 0
        broker.ack_failures.clear()
        after = [delivery()]
        broker.give(after)
        await until(lambda: broker.acked == ids(after))


# Exactly-once delivery: the broker says what became of each id


@simulated
async def test_ids_that_are_not_taken_yet_are_sent_again_alone_and_hold_up_no_others() -> None:
    broker = ScriptedBroker()
    batch, later = [delivery() for _ in range(3)], [delivery()]
    broker.ack_failures.extend([AckResult(failed=frozenset({batch[1].ack_id}))] * 3)
    loop = make(broker, settings=PullSettings(backoff_base_s=5.0))
    async with running(loop):
        broker.give(batch)
        await until(lambda: len(broker.acked) == 2)
        broker.give(later)
        await until(lambda: set(ids(later)) <= set(broker.acked), within_s=0.1)
        await until(lambda: len(broker.acked) == 4)
        assert loop.metrics.held_messages == 0
    assert set(broker.acked) == set(ids(batch, later))
    assert [sent for _, sent in broker.ack_requests if sent == [batch[1].ack_id]]
    metrics = loop.metrics
    assert (metrics.acked, metrics.acks_retried, metrics.acks_lost, metrics.ack_errors) == (4, 2, 0, 0)


@simulated
async def test_ids_whose_lease_is_over_are_counted_and_not_sent_again() -> None:
    broker = ScriptedBroker()
    batch = [delivery() for _ in range(3)]
    broker.ack_failures.append(AckResult(lost=frozenset({batch[0].ack_id})))
    loop = make(broker)
    async with running(loop):
        broker.give(batch)
        await until(lambda: len(broker.acked) == 2)
        await asyncio.sleep(100.0)
    assert len(broker.ack_requests) == 1
    assert (loop.metrics.acked, loop.metrics.acks_lost) == (2, 1)
    assert loop.metrics.held_messages == 0


@simulated
async def test_an_id_that_is_never_taken_is_given_up_once_its_lease_is_over() -> None:
    broker = ScriptedBroker()
    stubborn = delivery()
    broker.ack_failures.extend([AckResult(failed=frozenset({stubborn.ack_id}))] * 10_000)
    broker.modify_failures.extend([UNAVAILABLE] * 10_000)
    loop = make(broker, settings=PullSettings(ack_deadline_s=60))
    async with running(loop):
        broker.give([stubborn])
        begun_s = now_s()
        await until(lambda: loop.metrics.acks_given_up == 1)
        assert 30.0 < now_s() - begun_s < 90.0
        assert loop.metrics.held_messages == 0


@simulated
async def test_a_lease_that_was_lost_is_extended_no_more() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery() for _ in range(3)]
    broker.modify_failures.append(AckResult(lost=frozenset({batch[2].ack_id})))
    loop = make(broker, gate)
    async with running(loop):
        broker.give(batch)
        await until(lambda: len(broker.extended) == 3)
        gate.open.set()
        await until(lambda: len(broker.acked) == 3)
    assert [extended for _, extended in broker.extended] == [ids(batch[:2])] * 3
    assert loop.metrics.leases_lost == 1


@simulated
async def test_a_lease_that_was_not_extended_is_asked_for_again_at_the_next_look() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery() for _ in range(2)]
    broker.modify_failures.append(AckResult(failed=frozenset({batch[0].ack_id})))
    async with running(make(broker, gate, settings=PullSettings(ack_deadline_s=60))):
        broker.give(batch)
        await until(lambda: len(broker.extended) == 2)
        gate.open.set()
    (first_s, _), (second_s, second) = broker.extended
    assert second == ids(batch)
    assert second_s - first_s < 10.0


@simulated
async def test_a_nack_that_fails_is_sent_again() -> None:
    broker = ScriptedBroker()
    broker.modify_failures.extend([UNAVAILABLE] * 3)

    async def handle(batch: Batch) -> Sequence[Disposition]:
        return [NACK] * len(batch.deliveries)

    batch = [delivery(), delivery()]
    loop = make(broker, handle)
    async with running(loop):
        broker.give(batch)
        await until(lambda: broker.nacked == ids(batch))
    assert loop.metrics.ack_errors == 3


# Poison


class Redelivering:
    """Gives back to the broker's supply what is nacked, as a broker does, until the test is over."""

    def __init__(self, broker: ScriptedBroker, handle: Handle, letters: Letters | None = None) -> None:
        self.deliveries: dict[str, Delivery] = {}
        self.handled: list[list[bytes]] = []
        self._broker = broker
        self._handle = handle
        self.loop = make(broker, self, letters, PullSettings(backoff_base_s=0.01, backoff_cap_s=0.1))

    async def __call__(self, batch: Batch) -> Sequence[Disposition]:
        self.handled.append([each.payload for each in batch.deliveries])
        return await self._handle(batch)

    def give(self, deliveries: list[Delivery]) -> None:
        self.deliveries.update({each.ack_id: each for each in deliveries})
        self._broker.give(deliveries)

    async def redeliver(self) -> None:
        """Forever: what was given back comes again, in order, under ids of its own."""
        while True:
            await until(lambda: bool(self._broker.nacked))
            back, self._broker.nacked = self._broker.nacked, []
            self.give([again(self.deliveries[ack_id]) for ack_id in sorted(back, key=lambda ack_id: int(ack_id[1:]))])


def again(earlier: Delivery) -> Delivery:
    fresh = delivery(earlier.payload, earlier.delivery_attempt + 1)
    return replace(fresh, message_id=earlier.message_id, ordering_key=earlier.ordering_key)


async def fail_on_poison(batch: Batch) -> Sequence[Disposition]:
    await asyncio.sleep(0.001)
    if any(each.payload == b"poison" for each in batch.deliveries):
        raise ValueError("a bug")
    return [ACK] * len(batch.deliveries)


@simulated
async def test_a_message_on_which_the_handler_fails_is_found_and_put_aside_while_all_others_pass() -> None:
    broker, letters = ScriptedBroker(), Letters()
    world = Redelivering(broker, fail_on_poison, letters)
    batch = [delivery(b"poison" if number == 123 else b"%d" % number) for number in range(400)]
    async with running(world.loop):
        back = asyncio.create_task(world.redeliver())
        world.give(batch)
        await until(lambda: len(broker.acked) == 399)
        while not letters.kept:
            world.give([delivery(b"good")])
            await asyncio.sleep(0.2)
        await until(lambda: not world.loop.metrics.held_messages)
        back.cancel()
    ((reason, tenant, payload, error),) = letters.kept
    assert (reason, tenant, payload) == ("handler_failed", None, b"poison")
    assert error == "failed 3 times by itself, while others passed: ValueError: a bug"
    assert world.loop.metrics.poison == 1
    assert len(world.handled) < 60


@simulated
async def test_while_the_handler_fails_on_everything_nothing_is_put_aside() -> None:
    broker, letters = ScriptedBroker(), Letters()

    async def handle(batch: Batch) -> Sequence[Disposition]:
        if now_s() < well_s:
            raise ValueError("all of it is broken")
        return [ACK] * len(batch.deliveries)

    well_s = now_s() + 10.0
    world = Redelivering(broker, handle, letters)
    async with running(world.loop):
        back = asyncio.create_task(world.redeliver())
        world.give([delivery() for _ in range(20)])
        await until(lambda: len(broker.acked) == 20)
        back.cancel()
    assert letters.kept == []
    assert world.loop.metrics.handler_errors > 50


@simulated
async def test_a_handler_that_is_busy_makes_no_message_suspect() -> None:
    broker, letters = ScriptedBroker(), Letters()
    answers = iter([True, False] * 1_000)

    async def handle(batch: Batch) -> Sequence[Disposition]:
        if any(each.payload == b"late" for each in batch.deliveries) and now_s() < well_s and next(answers):
            raise HandlerBusyError("not now")
        return [ACK] * len(batch.deliveries)

    well_s = now_s() + 60.0
    world = Redelivering(broker, handle, letters)
    async with running(world.loop):
        back = asyncio.create_task(world.redeliver())
        world.give([delivery(b"late") for _ in range(20)])
        await until(lambda: len(broker.acked) == 20)
        back.cancel()
    assert letters.kept == []
    assert {len(handled) for handled in world.handled} == {20}


@simulated
async def test_poison_that_cannot_be_kept_stays_with_the_broker() -> None:
    broker, letters = ScriptedBroker(), Letters(failures=2)
    world = Redelivering(broker, fail_on_poison, letters)
    async with running(world.loop):
        back = asyncio.create_task(world.redeliver())
        world.give([delivery(b"poison")])
        while world.loop.metrics.poison == 0:
            world.give([delivery(b"good")])
            await asyncio.sleep(0.2)
        await until(lambda: not world.loop.metrics.held_messages)
        back.cancel()
    assert len(letters.kept) == 1
    assert world.loop.metrics.dead_letter_errors == 2


@simulated
async def test_where_a_part_fails_nothing_later_of_its_keys_is_handled_before_it() -> None:
    broker, letters = ScriptedBroker(), Letters()
    world = Redelivering(broker, fail_on_poison, letters)
    batch = [
        replace(delivery(b"poison" if number == 30 else b"%d" % number), ordering_key="ab"[number % 2])
        for number in range(60)
    ]
    passed: list[int] = []

    async def note_passed(part: Batch) -> Sequence[Disposition]:
        dispositions = await fail_on_poison(part)
        passed.extend(int(each.payload) for each in part.deliveries)
        return dispositions

    world._handle = note_passed
    async with running(world.loop):
        back = asyncio.create_task(world.redeliver())
        world.give(batch)
        while not letters.kept:
            world.give([delivery(b"1000")])
            await asyncio.sleep(0.2)
        await until(lambda: not world.loop.metrics.held_messages)
        back.cancel()
    evens, odds = [number for number in passed if number < 60 and not number % 2], [n for n in passed if n % 2]
    assert evens == [number for number in range(0, 60, 2) if number != 30]
    assert odds == list(range(1, 60, 2))


@simulated
async def test_nothing_later_of_a_key_is_handled_before_what_the_handler_gave_back() -> None:
    broker = ScriptedBroker()
    passed: list[int] = []
    is_away = True

    async def handle(batch: Batch) -> Sequence[Disposition]:
        nonlocal is_away
        await asyncio.sleep(0.001)
        given_back, is_away = is_away, False
        answers = [NACK if given_back and each.ordering_key == "a" else ACK for each in batch.deliveries]
        passed.extend(int(each.payload) for each, said in zip(batch.deliveries, answers, strict=True) if said is ACK)
        return answers

    world = Redelivering(broker, handle)
    async with running(world.loop):
        back = asyncio.create_task(world.redeliver())
        world.give([replace(delivery(b"%d" % number), ordering_key="ab"[number % 2]) for number in range(10)])
        await until(lambda: len(world.handled) == 1)
        world.give([replace(delivery(b"%d" % number), ordering_key="ab"[number % 2]) for number in range(10, 20)])
        await until(lambda: len(passed) == 20 and not world.loop.metrics.held_messages)
        back.cancel()
    assert passed[:5] == [1, 3, 5, 7, 9]
    assert [number for number in passed if not number % 2] == list(range(0, 20, 2))
    assert world.loop.metrics.handled == 20


# Bounds


@simulated
async def test_no_pull_starts_while_too_much_waits_for_the_processor() -> None:
    broker = ScriptedBroker()
    waiting = [5_000]
    loop = PullLoop(
        broker, ack_all, Letters(), PullSettings(), clock_us=lambda: CLOCK_US, rng=Random(7), backlog=lambda: waiting[0]
    )
    async with running(loop):
        broker.give([delivery()])
        await asyncio.sleep(60.0)
        assert broker.pulls == []
        waiting[0] = 1_500
        await until(lambda: bool(broker.acked), within_s=1.0)
    assert {asked for _, asked in broker.pulls} == {500}


@simulated
async def test_no_more_is_pulled_than_may_be_held() -> None:
    broker, gate = ScriptedBroker(), Gate()
    loop = make(broker, gate, settings=PullSettings(messages_per_pull=100, messages_max=250, held_s_max=60.0))
    async with running(loop):
        broker.give([delivery() for _ in range(1_000)])
        await until(lambda: loop.metrics.held_messages == 250)
        await asyncio.sleep(10.0)
        assert sum(len(batch.deliveries) for batch in gate.batches) == 250
        gate.open.set()
        await until(lambda: len(broker.acked) == 1_000)


@simulated
async def test_pulls_in_flight_count_as_held() -> None:
    broker = ScriptedBroker()
    async with running(make(broker, settings=PullSettings(pulls_in_flight=4, messages_per_pull=100, messages_max=250))):
        await asyncio.sleep(1.0)
        assert [asked for _, asked in broker.pulls] == [100, 100, 50]


@simulated
async def test_no_pull_starts_while_too_many_bytes_are_held() -> None:
    broker, gate = ScriptedBroker(), Gate()
    loop = make(broker, gate, settings=PullSettings(pulls_in_flight=1, messages_per_pull=10, bytes_max=10_000))
    async with running(loop):
        broker.give([delivery(b"x" * 1_000) for _ in range(100)])
        await until(lambda: loop.metrics.held_bytes >= 10_000)
        await asyncio.sleep(10.0)
        assert loop.metrics.held_bytes == 10_000
        gate.open.set()
        await until(lambda: len(broker.acked) == 100)
    # Once the size of messages is known, a pull asks for what fits.
    assert all(asked <= 10 for _, asked in broker.pulls)


@simulated
async def test_room_counts_as_free_only_when_the_acknowledgement_was_answered() -> None:
    broker = ScriptedBroker(ack_takes_s=5.0)
    settings = PullSettings(pulls_in_flight=1, messages_per_pull=10, messages_max=10)
    async with running(make(broker, settings=settings)):
        broker.give([delivery() for _ in range(20)])
        await until(lambda: len(broker.acked) == 20)
    first_s, second_s = (when for when, _ in broker.pulls[:2])
    assert second_s - first_s >= 5.0


# Trouble with the broker


@simulated
async def test_a_broker_that_is_away_is_asked_again_ever_more_slowly_and_found_when_it_is_back() -> None:
    broker = ScriptedBroker()
    loop = make(broker, settings=PullSettings(pulls_in_flight=1, backoff_base_s=0.1, backoff_cap_s=10.0))
    async with running(loop):
        broker.give(*[UNAVAILABLE] * 40)
        await until(lambda: loop.metrics.pull_errors == 40)
        assert not loop.metrics.connected
        assert "UNAVAILABLE" in loop.metrics.last_error
        batch = [delivery()]
        broker.give(batch)
        await until(lambda: bool(broker.acked))
        await until(lambda: loop.metrics.connected)
    asked_s = [when for when, _ in broker.pulls[:40]]
    assert asked_s[5] - asked_s[0] < 5.0
    assert asked_s[39] - asked_s[10] > 60.0
    assert all(after > before for before, after in pairwise(asked_s))


@simulated
async def test_a_subscription_that_never_was_ends_the_loop_and_names_it() -> None:
    broker = ScriptedBroker()
    broker.give(VANISHED)
    with pytest.raises(SourceRefusedError, match=NAME):
        await make(broker).run()


@simulated
@pytest.mark.parametrize("refusal", [FORBIDDEN, VANISHED], ids=["forbidden", "vanished"])
async def test_a_refusal_of_what_was_granted_before_is_waited_out(refusal: Exception) -> None:
    broker = ScriptedBroker()
    loop = make(broker)
    async with running(loop):
        broker.give([delivery()])
        await until(lambda: len(broker.acked) == 1)
        await until(lambda: loop.metrics.pulls > 4)
        refused_s = now_s()
        broker.give(*[refusal] * 100)
        await until(lambda: loop.metrics.pull_errors == 100)
        assert now_s() - refused_s > 100.0
        assert not loop.metrics.connected
        assert loop.metrics.away_since_s is not None
        broker.give([delivery()])
        await until(lambda: len(broker.acked) == 2)
        assert loop.metrics.away_since_s is None


@simulated
@pytest.mark.parametrize("refusal", [FORBIDDEN, VANISHED], ids=["forbidden", "vanished"])
async def test_a_refused_acknowledgement_is_given_up_without_an_end(refusal: Exception) -> None:
    broker = ScriptedBroker()
    broker.ack_failures.append(refusal)
    loop = make(broker)
    async with running(loop):
        broker.give([delivery()])
        await until(lambda: loop.metrics.acks_given_up == 1)
        broker.give([delivery()])
        await until(lambda: len(broker.acked) == 1)


# Leases


@simulated
async def test_a_slow_batch_keeps_its_lease() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery() for _ in range(3)]
    async with running(make(broker, gate, settings=PullSettings(ack_deadline_s=60, held_s_max=600.0))):
        broker.give(batch)
        await until(lambda: bool(gate.batches))
        received_s = now_s()
        await asyncio.sleep(300.0)
        gate.open.set()
        await until(lambda: len(broker.acked) == 3)
    leased_s = received_s
    for extended_s, extended in broker.extended:
        assert extended == ids(batch)
        assert extended_s - leased_s < 60.0
        leased_s = extended_s
    assert leased_s > received_s + 240.0
    assert len(broker.extended) <= 10


@simulated
async def test_a_quick_batch_costs_no_extension() -> None:
    broker = ScriptedBroker()
    async with running(make(broker)):
        broker.give([delivery()])
        await asyncio.sleep(300.0)
    assert broker.extended == []


@simulated
async def test_an_extension_that_fails_is_tried_again_before_the_lease_is_over() -> None:
    broker, gate = ScriptedBroker(), Gate()
    broker.modify_failures.extend([UNAVAILABLE] * 3)
    loop = make(broker, gate, settings=PullSettings(ack_deadline_s=60))
    async with running(loop):
        broker.give([delivery()])
        await until(lambda: bool(gate.batches))
        received_s = now_s()
        await until(lambda: bool(broker.extended))
        assert now_s() - received_s < 60.0
        gate.open.set()
    assert loop.metrics.lease_errors == 3


@simulated
async def test_a_handler_that_hangs_is_cancelled_and_its_batch_given_back() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery()]
    loop = make(broker, gate, settings=PullSettings(held_s_max=120.0))
    async with running(loop):
        broker.give(batch)
        await until(lambda: broker.nacked == ids(batch))
        assert gate.cancelled == 1
        assert loop.metrics.held_too_long == 1
        assert loop.metrics.held_messages == 0


# Stopping


@simulated
async def test_a_stop_waits_for_handed_over_batches_and_acknowledges_them() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery()]
    task = asyncio.create_task(make(broker, gate, settings=PullSettings(drain_s=4.0)).run())
    broker.give(batch)
    await until(lambda: bool(gate.batches))
    task.cancel()
    await asyncio.sleep(1.0)
    pulls = len(broker.pulls)
    broker.give([delivery()])
    await asyncio.sleep(1.0)
    assert not task.done()
    assert len(broker.pulls) == pulls
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert broker.acked == ids(batch)
    assert gate.cancelled == 0


@simulated
async def test_a_stop_gives_back_what_is_not_done_by_its_deadline() -> None:
    broker, gate = ScriptedBroker(), Gate()
    batch = [delivery(), delivery()]
    task = asyncio.create_task(make(broker, gate, settings=PullSettings(drain_s=4.0)).run())
    broker.give(batch)
    await until(lambda: bool(gate.batches))
    asked_s = now_s()
    task.cancel()
    await asyncio.wait([task])
    assert 4.0 <= now_s() - asked_s < 6.0
    assert broker.nacked == ids(batch)
    assert broker.acked == []


@simulated
async def test_what_a_pull_in_flight_brings_after_the_stop_is_given_back_unseen() -> None:
    broker, gate = ScriptedBroker(pull_takes_s=0.3), Gate()
    batch = [delivery()]
    broker.give(batch)
    task = asyncio.create_task(make(broker, gate, settings=PullSettings(pulls_in_flight=1, pull_grace_s=0.5)).run())
    await until(lambda: bool(broker.pulls))
    task.cancel()
    await asyncio.wait([task])
    assert broker.nacked == ids(batch)
    assert gate.batches == []


@simulated
async def test_room_that_comes_free_during_a_stop_starts_no_pull() -> None:
    broker, gate = ScriptedBroker(), Gate()
    settings = PullSettings(pulls_in_flight=1, messages_per_pull=1, messages_max=1, pull_grace_s=0.5)
    broker.give([delivery(), delivery()])
    task = asyncio.create_task(make(broker, gate, settings=settings).run())
    await until(lambda: bool(gate.batches))
    task.cancel()
    asyncio.get_running_loop().call_later(0.1, gate.open.set)
    await asyncio.wait([task])
    assert len(broker.pulls) == 1
    assert len(broker.acked) == 1


@simulated
async def test_a_second_cancellation_stops_at_once() -> None:
    broker, gate = ScriptedBroker(), Gate()
    task = asyncio.create_task(make(broker, gate, settings=PullSettings(drain_s=1_000.0)).run())
    broker.give([delivery()])
    await until(lambda: bool(gate.batches))
    task.cancel()
    await asyncio.sleep(10.0)
    asked_s = now_s()
    task.cancel()
    await asyncio.wait([task])
    assert now_s() - asked_s < 1.0
    assert gate.cancelled == 1


@simulated
async def test_a_stop_during_an_outage_ends_within_its_deadlines() -> None:
    broker = ScriptedBroker()
    broker.ack_failures.extend([UNAVAILABLE] * 1_000)
    loop = make(broker)
    task = asyncio.create_task(loop.run())
    broker.give([delivery()])
    await until(lambda: loop.metrics.ack_errors > 8)
    asked_s = now_s()
    task.cancel()
    await asyncio.wait([task])
    assert now_s() - asked_s < 20.0


@simulated
async def test_a_loop_can_run_again_after_its_end() -> None:
    broker = ScriptedBroker()
    loop = make(broker)
    for number in (1, 2):
        async with running(loop):
            broker.give([delivery()])
            await until(lambda number=number: len(broker.acked) == number)  # type: ignore[misc] # a default is typed


@simulated
async def test_started_is_said_without_waiting_for_the_broker() -> None:
    broker = ScriptedBroker()
    broker.give(*[UNAVAILABLE] * 1_000)
    started = asyncio.Event()
    task = asyncio.create_task(make(broker).run(started.set))
    await asyncio.wait_for(started.wait(), 0.01)
    task.cancel()
    await asyncio.wait([task])


@simulated
async def test_batches_are_counted_by_size() -> None:
    broker = ScriptedBroker()
    loop = make(broker)
    async with running(loop):
        broker.give([delivery()], [delivery() for _ in range(10)], [delivery() for _ in range(11)])
        await until(lambda: len(broker.acked) == 22)
        broker.give([delivery(attempt=2) for _ in range(1_000)])
        await until(lambda: len(broker.acked) == 1_022)
    assert loop.metrics.batches_by_size == [1, 1, 1, 0, 0, 0, 1, 0]
    assert loop.metrics.redelivered == 1_000
