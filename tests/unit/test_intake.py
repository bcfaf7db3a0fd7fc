"""What a pull loop is told of its deliveries: from bytes to dispositions, over a real runtime."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import orjson
import pytest
from support import foreign
from support.runtime import World, running
from support.switched import switchboard_of

from governors.api.service import Wait
from governors.intake import Intake
from governors.runtime import Runtime
from governors.telemetry.metrics import Metrics
from ingest.decode.limits import DecodeLimits
from ingest.decode.tenants import Routing, Rule
from ingest.errors import HandlerBusyError
from ingest.signals import Signal, format_time
from ingest.source import ACK, NACK, Batch, DeadLetter, Delivery

ROUTING = Routing([Rule(when={"budget": foreign.BUDGET_ID}, tenant="acme"), Rule(tenant_from="attribute.team")])


def make(runtime: Runtime, world: World, missing: Callable[[], list[str]]) -> tuple[Intake, Metrics]:
    metrics = Metrics("test")
    service = switchboard_of(runtime, metrics=metrics, missing=missing)
    return Intake(service, metrics, DecodeLimits(), "pubsub", lambda: world.now_us, ROUTING), metrics


def delivery(world: World, number: int, payload: bytes | None = None) -> Delivery:
    signal = {
        "id": f"s{number}",
        "source": "test",
        "tenant": "acme",
        "kind": "queue.sample",
        "observed_at": format_time(world.now_us),
        "data": {"depth": 1, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1},
    }
    return Delivery(payload or orjson.dumps(signal), {}, f"m{number}", world.now_us - 5_000, 1, "", f"ack-{number}")


def batch(world: World, *deliveries: Delivery) -> Batch:
    return Batch(list(deliveries), world.now_us, sum(len(one.payload) for one in deliveries))


async def test_what_is_decided_is_acknowledged_once_it_is_committed(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, _ = make(runtime, world, list)
        answers = await intake.handle(batch(world, delivery(world, 1), delivery(world, 2)))
        assert answers == [ACK, ACK]
        assert runtime.ledger.committed_size >= 2


async def test_a_repeated_delivery_is_acknowledged_and_decides_nothing(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, _ = make(runtime, world, list)
        await intake.handle(batch(world, delivery(world, 1)))
        size = runtime.ledger.size
        assert await intake.handle(batch(world, delivery(world, 1))) == [ACK]
        assert runtime.ledger.size == size


async def test_what_can_never_be_read_is_put_aside_and_the_rest_of_the_batch_goes_on(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, metrics = make(runtime, world, list)
        good, bad = await intake.handle(batch(world, delivery(world, 1), delivery(world, 2, b"{")))
        assert good is ACK
        assert isinstance(bad, DeadLetter)
        exposition, _ = metrics.render("")
        assert b'governors_dead_letters_total{reason="bad_json"} 1.0' in exposition


async def test_while_the_service_takes_nothing_the_loop_is_told_by_an_error(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, _ = make(runtime, world, lambda: ["stopping"])
        with pytest.raises(HandlerBusyError):
            await intake.handle(batch(world, delivery(world, 1)))


async def test_what_nobody_could_decide_is_given_back_and_the_rest_acknowledged() -> None:
    class Half:
        async def decide(
            self, signals: Sequence[Signal], wait: Wait, *, source: str, patience_s: float
        ) -> Collection[int]:
            assert (wait, source, patience_s) == ("committed", "pubsub", 15.0)
            return [place for place, signal in enumerate(signals) if signal.id in {"s2", "s4"}]

    world, metrics = World(), Metrics("test")
    intake = Intake(Half(), metrics, DecodeLimits(), "pubsub", lambda: world.now_us, ROUTING, 15.0)
    unreadable = delivery(world, 1, b"{")
    answers = await intake.handle(batch(world, unreadable, *(delivery(world, number) for number in (2, 3, 4, 5))))
    assert isinstance(answers[0], DeadLetter)
    assert answers[1:] == [NACK, ACK, NACK, ACK]
    assert b'governors_publish_to_commit_seconds_count{source="pubsub"} 2.0' in metrics.render("")[0]


async def test_a_budgets_notification_is_decided_for_the_tenant_that_a_rule_names(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, metrics = make(runtime, world, list)
        month = {"costIntervalStart": "2026-11-01T08:00:00Z", "costAmount": 140.321, "budgetAmount": 152.557}
        answers = await intake.handle(batch(world, foreign.budget_of(**month), foreign.budget_of(**month)))
        assert answers == [ACK, ACK]
        assert [(tenant, one.governor, one.to_status) for tenant, one, _ in world.decided] == [
            ("acme", "cost_guard", "THROTTLE")
        ]
        assert b'governors_signals_received_total{kind="cost.snapshot",source="pubsub"} 2.0' in metrics.render("")[0]


async def test_what_no_rule_knows_is_put_aside_and_counted(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, metrics = make(runtime, world, list)
        (answer,) = await intake.handle(batch(world, foreign.budget(budgetId="another")))
        assert isinstance(answer, DeadLetter)
        assert answer.reason == "no_tenant"
        assert answer.error.startswith("no rule matches in ingest.routing: format budget")
        assert "budget another" in answer.error
        exposition, _ = metrics.render("")
        assert b'governors_dead_letters_total{reason="no_tenant"} 1.0' in exposition
        assert b'governors_rejected_total{reason="no_tenant",source="pubsub"} 1.0' in exposition


async def test_what_tells_of_nothing_governed_is_acknowledged_and_counted(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        intake, metrics = make(runtime, world, list)
        size = runtime.ledger.size
        assert await intake.handle(batch(world, foreign.rollout(Action="Update"))) == [ACK]
        assert runtime.ledger.size == size
        assert b'governors_unheard_messages_total{form="cloud_deploy",source="pubsub"} 1.0' in metrics.render("")[0]
