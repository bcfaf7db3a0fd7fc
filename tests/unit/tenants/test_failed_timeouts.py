"""A machine that fails on its timeout is asked again, later and later; its time is over all the same."""

from pathlib import Path
from typing import Any

import pytest
from support.life import changed_valve
from support.runtime import World, running, send, until

from governors.fsm.table import Row
from governors.machines.events import Event, OverrideEnded, OverrideGranted
from governors.runtime import Runtime
from governors.tenants.records import machine_key
from governors.tenants.timers import RETRY_FIRST_US, RETRY_LAST_US, retry_after_us

VALVE = machine_key("backlog_valve", "default")
SECOND_US = 1_000_000


def fails_at_the_end_of_overrides(row: Row, state: Any, event: Event, policy: Any, now_us: int) -> Any:
    if isinstance(event.body, OverrideEnded):
        raise ZeroDivisionError("a defect of the machine")


async def hold_for_a_second(runtime: Runtime, world: World) -> None:
    await send(runtime, world.queue(1))
    granted = OverrideGranted(mode="hold", until_us=world.now_us + SECOND_US, by="ana", reason="drill")
    await runtime.registry.tell("acme", VALVE, Event("o1", world.now_us, granted))
    world.now_us += 2 * SECOND_US


def outcomes(world: World) -> list[str]:
    return [decided.outcome for _, decided, _ in world.decided if decided.event == "timeout"]


async def fire(runtime: Runtime, world: World, expected: int) -> None:
    runtime.timers.fire_due()
    await until(lambda: runtime.registry.is_idle and len(outcomes(world)) >= expected)


async def test_a_timeout_that_failed_comes_again_and_is_decided_when_the_defect_is_gone(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        with changed_valve(fails_at_the_end_of_overrides):
            await hold_for_a_second(runtime, world)
            await fire(runtime, world, 1)
            world.now_us += RETRY_FIRST_US - SECOND_US
            await fire(runtime, world, 1)
            assert outcomes(world) == ["dead_lettered"]
            world.now_us += RETRY_FIRST_US
            await fire(runtime, world, 2)
            assert outcomes(world) == ["dead_lettered"] * 2
        world.now_us += RETRY_FIRST_US
        await fire(runtime, world, 2)
        assert outcomes(world) == ["dead_lettered"] * 2
        world.now_us += 2 * RETRY_FIRST_US
        await fire(runtime, world, 3)
        assert outcomes(world)[2] == "decided"
        view = runtime.registry.view("acme")
        assert view is not None
        assert view[1][VALVE].state.override is None


async def test_events_in_between_do_not_bring_it_back_sooner(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        with changed_valve(fails_at_the_end_of_overrides):
            await hold_for_a_second(runtime, world)
            await fire(runtime, world, 1)
            for _ in range(20):
                await send(runtime, world.queue(1))
                await fire(runtime, world, 1)
        assert outcomes(world) == ["dead_lettered"]
        view = runtime.registry.view("acme")
        assert view is not None
        assert not view[0].quarantined, "each attempt costs three restarts, and too many of them quarantine"


@pytest.mark.parametrize("pseudonym", ["0000", "ffff", "8123"])
def test_the_time_until_then_grows_to_an_hour_and_differs_between_tenants(pseudonym: str) -> None:
    after_us = [retry_after_us(failures, pseudonym) for failures in range(1, 40)]
    assert after_us == sorted(after_us)
    assert RETRY_FIRST_US <= after_us[0] <= RETRY_FIRST_US * 3 // 2
    assert RETRY_LAST_US <= after_us[-1] <= RETRY_LAST_US * 3 // 2
    assert retry_after_us(1, "0000") != retry_after_us(1, "ffff")
