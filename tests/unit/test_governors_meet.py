"""Three governors of one tenant, in a running service: what waits for what, with receipts that a replay agrees with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runtime import NOON_US, World, quiet, running, send, until

from governors.machines.conduct import APPROVAL, EXPIRED
from governors.machines.events import Event, OverrideGranted
from governors.outbox.executors import Answer, Order
from governors.policies import Policies
from governors.replay.folder import replay_folder
from governors.runtime import Runtime
from governors.tenants.policy import Stop
from governors.tenants.records import machine_key
from governors.tenants.windows import Approval, Window
from ingest.signals import Signal

GUARD, COST, VALVE = (machine_key(name, "default") for name in ("rollback_guard", "cost_guard", "backlog_valve"))


class Shop(World):
    """Its executor answers each kind of action when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()

    async def execute(self, order: Order) -> Answer:
        work = order.work
        self.executed.append(work)
        await until(lambda: work.action.kind not in self.held)
        return self.answer

    def deploy(self, number: int = 1) -> list[Signal]:
        """A deploy that fails far more than its baseline, as two intervals show."""
        data = {"deploy_id": f"d{number}", "revision": f"v{number + 1}", "previous_revision": "v1"}
        signals = [self.signal("deploy.started", data)]
        for _ in range(2):
            self.now_us += 15_000_000
            for arm, requests, errors in (("baseline", 1_000, 5), ("canary", 100, 60)):
                sample = {"deploy_id": f"d{number}", "arm": arm, "requests": requests, "errors": errors, "slow": 0}
                signals.append(self.signal("deploy.sample", {**sample, "window_s": 15}))
        return signals

    def backlog(self) -> Signal:
        data = {"depth": 500_000, "oldest_age_s": 900.0, "in_rate_per_s": 900.0, "done_rate_per_s": 1.0}
        return self.signal("queue.sample", data)


def state_of(runtime: Runtime, key: str) -> Any:
    view = runtime.registry.view("acme")
    assert view is not None
    return view[1][key].state


def kinds(world: World) -> list[str]:
    return [work.action.kind for work in world.executed]


def why(world: World, governor: str) -> str:
    """What the last receipt of a governor says of what was not asked for."""
    evidence = [decided.evidence for _, decided, _ in world.decided if decided.governor == governor][-1]
    return str(evidence.get("withheld_why", ""))


async def pass_time(runtime: Runtime, world: World, seconds: float) -> None:
    world.now_us += int(seconds * 1e6)
    while runtime.timers.fire_due() == 0.0:
        pass
    await until(lambda: runtime.registry.is_idle)


async def roll_back(runtime: Runtime, world: Shop, number: int = 1) -> None:
    await send(runtime, *world.deploy(number))
    assert state_of(runtime, GUARD).core.status == "ROLLING_BACK"


@pytest.mark.parametrize(
    ("other", "governor", "wanted"),
    [(lambda world: world.spend("1000.00"), "cost_guard", "stop"), (Shop.backlog, "backlog_valve", "shed")],
)
async def test_nothing_cuts_into_a_rollback_that_is_under_way(
    tmp_path: Path, other: Callable[[Shop], Signal], governor: str, wanted: str
) -> None:
    world = Shop()
    world.held.add("rollback")
    async with running(tmp_path, world) as runtime:
        await roll_back(runtime, world)
        await until(lambda: kinds(world) == ["rollback"])
        for _ in range(12):
            world.now_us += 20_000_000
            await send(runtime, other(world))
        assert kinds(world) == ["rollback"]
        assert why(world, governor) == "rollback_guard/default has rollback in flight on the same target"
        assert runtime.admission.admit("acme", "normal", "ana", 1, world.now_us) is not None
        world.held.clear()
        await until(lambda: len(world.executed) > 1)
        await quiet(runtime)
        assert kinds(world)[1] in {wanted, "close", "throttle"}
    assert replay_folder(tmp_path).ok


async def test_a_rollback_waits_for_what_is_in_flight_and_no_longer(tmp_path: Path) -> None:
    world = Shop()
    world.held.add("stop")
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1000.00"))
        await until(lambda: kinds(world) == ["stop"])
        await roll_back(runtime, world)
        assert why(world, "rollback_guard") == "cost_guard/default has stop in flight on the same target"
        world.held.clear()
        await until(lambda: kinds(world) == ["stop", "rollback"])
        await quiet(runtime)
        assert state_of(runtime, GUARD).core.status == "VERIFYING"
    assert replay_folder(tmp_path).ok


async def test_nothing_is_given_back_before_it_is_known_whether_the_rollback_helped(tmp_path: Path) -> None:
    world = Shop()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1000.00"))
        await quiet(runtime)
        await roll_back(runtime, world)
        await quiet(runtime)
        await send(runtime, world.spend("1000.00", "5000.00"))
        assert state_of(runtime, COST).status != "STOP"
        await pass_time(runtime, world, 1)
        assert kinds(world) == ["stop", "rollback"]
        assert state_of(runtime, COST).restraint.why == "rollback_guard/default is VERIFYING"
        await pass_time(runtime, world, 301)
        await quiet(runtime)
        assert state_of(runtime, GUARD).core.status == "ESCALATED"
        assert set(kinds(world)[2:]) >= {"page"}
        assert state_of(runtime, COST).restraint.withheld == ""
    assert replay_folder(tmp_path).ok


async def test_who_waits_is_remembered_over_a_restart(tmp_path: Path) -> None:
    world = Shop()
    world.held.add("stop")
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1000.00"))
        await until(lambda: kinds(world) == ["stop"])
        await roll_back(runtime, world)
    world.held.clear()
    async with running(tmp_path, world) as runtime:
        await until(lambda: "rollback" in kinds(world))
        await quiet(runtime)
    assert kinds(world) == ["stop", "stop", "rollback"], "the open action is sent again under its id"
    assert world.executed[0].action.id == world.executed[1].action.id
    assert replay_folder(tmp_path).ok


# A rollback that may not be asked for


def asks(then: Any = "drop", wait_s: int = 3_600) -> Policies:
    return Policies(windows=(Window(name="ask", approval=Approval(("rollback",), wait_s, then)),))


async def answer(runtime: Runtime, world: World, mode: Any) -> None:
    body = OverrideGranted(mode=mode, until_us=world.now_us + 3_600_000_000, by="ana", reason="looked at it")
    told = await runtime.registry.tell("acme", GUARD, Event("answer", world.now_us, body))
    assert told is not None
    assert told[0].outcome == "decided"
    await quiet(runtime)


async def test_the_time_of_a_rollback_does_not_run_while_a_person_is_asked(tmp_path: Path) -> None:
    world = Shop()
    async with running(tmp_path, world) as runtime:
        await runtime.reload(asks())
        await roll_back(runtime, world)
        await quiet(runtime)
        await pass_time(runtime, world, 3_000)
        assert kinds(world) == ["ask"]
        assert state_of(runtime, GUARD).restraint.why == APPROVAL
        world.held.add("rollback")
        body = OverrideGranted(mode="approve", until_us=world.now_us + 10**9, by="ana", reason="yes")
        await runtime.registry.tell("acme", GUARD, Event("answer", world.now_us, body))
        await until(lambda: kinds(world) == ["ask", "rollback"])
        await pass_time(runtime, world, 599)
        assert state_of(runtime, GUARD).core.attempt == 1, "its time began with the answer"
        world.held.clear()
        await quiet(runtime)
    assert replay_folder(tmp_path).ok


async def test_without_an_answer_a_rollback_follows_where_the_policy_says_so_also_after_a_restart(
    tmp_path: Path,
) -> None:
    world = Shop()
    async with running(tmp_path, world, policies=asks("act")) as runtime:
        await roll_back(runtime, world)
        await quiet(runtime)
    async with running(tmp_path, world, policies=asks("act")) as runtime:
        await pass_time(runtime, world, 3_599)
        assert kinds(world) == ["ask"]
        await pass_time(runtime, world, 1)
        await quiet(runtime)
        assert kinds(world) == ["ask", "rollback"]
    assert replay_folder(tmp_path).ok


async def test_a_refused_rollback_is_a_veto(tmp_path: Path) -> None:
    world = Shop()
    async with running(tmp_path, world) as runtime:
        await runtime.reload(asks())
        await roll_back(runtime, world)
        await quiet(runtime)
        await answer(runtime, world, "veto")
        assert state_of(runtime, GUARD).core.status == "WATCHING"
        assert state_of(runtime, GUARD).restraint.withheld == ""
        assert "rollback" not in kinds(world)
        assert [decided.rule for _, decided, _ in world.decided][-1] == "rollback.refused"
    assert replay_folder(tmp_path).ok


async def test_a_rollback_that_nobody_approves_calls_a_person(tmp_path: Path) -> None:
    world = Shop()
    async with running(tmp_path, world) as runtime:
        await runtime.reload(asks(wait_s=900))
        await roll_back(runtime, world)
        await quiet(runtime)
        await pass_time(runtime, world, 900)
        await quiet(runtime)
        assert state_of(runtime, GUARD).core.status == "ESCALATED"
        assert kinds(world) == ["ask", "page"]
        assert world.decided[-2][1].evidence["why"] == EXPIRED
    assert replay_folder(tmp_path).ok


async def test_a_rollback_that_an_emergency_stop_outlasts_is_not_made_up_for(tmp_path: Path) -> None:
    """What convicted the deploy is an hour old by then: a person looks at it."""
    world = Shop()
    async with running(tmp_path, world) as runtime:
        await runtime.stop_everybody(Stop(by="ana", reason="drill", stopped=True))
        await roll_back(runtime, world)
        await pass_time(runtime, world, 3_600)
        await quiet(runtime)
        assert kinds(world) == []
        await runtime.stop_everybody(Stop(by="ana", reason="over", stopped=False))
        await until(lambda: bool(world.executed))
        await quiet(runtime)
        assert kinds(world) == ["page"]
        assert world.executed[0].action.params["cause"] == "rollback_not_asked"
    assert replay_folder(tmp_path).ok


async def test_a_short_stop_only_delays_a_rollback(tmp_path: Path) -> None:
    world = Shop()
    async with running(tmp_path, world) as runtime:
        window = Window(name="night", until_us=NOON_US + 60_000_000, observe=True)
        await runtime.reload(Policies(windows=(window,)))
        await roll_back(runtime, world)
        await pass_time(runtime, world, 60)
        await until(lambda: kinds(world) == ["rollback"])
        await quiet(runtime)
    assert replay_folder(tmp_path).ok


async def test_an_emergency_stop_is_for_what_waits_in_the_outbox_as_well(tmp_path: Path) -> None:
    world = Shop()
    async with running(tmp_path, world) as runtime:
        ticket = await runtime.registry.submit([world.spend("1000.00")])
        await ticket.decided()
        index = runtime.registry.set_emergency_stop("acme", stopped=True, why="ana: at once")
        assert index is not None
        await quiet(runtime)
        assert world.executed == [], "it was decided, and not begun"
        assert state_of(runtime, COST).restraint.withheld in {"", "stop"}
        runtime.registry.set_emergency_stop("acme", stopped=False, why="ana: over")
        await pass_time(runtime, world, 60)
        await until(lambda: kinds(world) == ["stop"])
        await quiet(runtime)
    assert replay_folder(tmp_path).ok
