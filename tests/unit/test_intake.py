"""What a pull loop is told of its deliveries: from bytes to dispositions, over a real runtime."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from support.runtime import World, running

from governors.api.service import NotAcceptingError
from governors.intake import Intake
from governors.runtime import Runtime
from governors.service import GovernorService, Watchers
from governors.supervision.report import State, TreeNode
from governors.telemetry.metrics import Metrics
from ingest.decode.limits import DecodeLimits
from ingest.signals import format_time
from ingest.source import ACK, Batch, DeadLetter, Delivery


def make(runtime: Runtime, world: World, missing: Callable[[], list[str]]) -> tuple[Intake, Metrics]:
    metrics = Metrics("test")
    tree = TreeNode("test", "supervisor", State.RUNNING)
    service = GovernorService(runtime, metrics, Watchers(), tree=lambda: tree, missing=missing)
    return Intake(service, metrics, DecodeLimits(), "pubsub", lambda: world.now_us), metrics


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
        with pytest.raises(NotAcceptingError):
            await intake.handle(batch(world, delivery(world, 1)))
