"""One partition on this disk alone, from its opening to its end."""

import asyncio
import random
from pathlib import Path

import msgspec
import pytest
from support.runtime import LAPTOP, World, until

from governors.partition import Partition, Surroundings
from governors.policies import NO_POLICIES
from governors.service import Watchers
from governors.telemetry.metrics import Metrics
from ledger.errors import LedgerClosedError


def around(folder: Path, world: World) -> Surroundings:
    rng = random.Random(1)
    return Surroundings(
        msgspec.structs.replace(LAPTOP, data_dir=folder), lambda: world.now_us, rng.randbytes, rng, [world], world,
        Metrics("0"), Watchers(), lambda: NO_POLICIES, world.events.append,
    )  # fmt: skip


async def test_one_told_to_end_once_more_while_it_becomes_quiet_ends_at_once_and_in_order(tmp_path: Path) -> None:
    world = World()
    partition = await Partition.take(0, around(tmp_path, world), None, lambda: None, asyncio.Event())
    await partition.open()
    ready = asyncio.Event()
    serving = asyncio.create_task(partition.serve(ready.set))
    await ready.wait()
    registry = partition.runtime.registry
    await registry.submit([world.queue(1, tenant=f"t{n % 10}") for n in range(5_000)])
    serving.cancel()
    await until(lambda: partition.missing() == ["stopping"])
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not any(task.get_name() == "partition-0" for task in asyncio.all_tasks())
    with pytest.raises(LedgerClosedError, match="not here any more"):
        await registry.submit([world.queue(1)])
    await partition.close()
