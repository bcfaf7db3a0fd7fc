"""Terms that change while the service runs: what is withheld, what is asked for later, and that a replay knows."""

from pathlib import Path
from typing import Any

import pytest
from support.runtime import NOON_US, World, quiet, running, send, until

from governors.machines.conduct import STORM
from governors.machines.events import Event, OverrideGranted
from governors.outbox.executors import Done, Refused
from governors.policies import Policies
from governors.replay.folder import replay_folder
from governors.runtime import Runtime
from governors.settings import SettingsError
from governors.tenants.policy import PolicyUnknownError, Stop
from governors.tenants.records import machine_key
from governors.tenants.windows import Approval, Window

HOUR_US = 3_600_000_000
KEY = machine_key("cost_guard", "default")


def windows(*found: Window, **more: Any) -> Policies:
    return Policies(windows=found, **more)


def withheld(runtime: Runtime, tenant: str = "acme") -> str:
    view = runtime.registry.view(tenant)
    assert view is not None
    return str(view[1][KEY].state.restraint.withheld)


async def pass_time(runtime: Runtime, world: World, seconds: float) -> None:
    world.now_us += int(seconds * 1e6)
    while runtime.timers.fire_due() == 0.0:
        pass
    await until(lambda: runtime.registry.is_idle)
    await quiet(runtime)


async def pass_time_without_waiting(runtime: Runtime, world: World, seconds: float) -> None:
    world.now_us += int(seconds * 1e6)
    while runtime.timers.fire_due() == 0.0:
        pass


def kinds(world: World) -> list[str]:
    return [work.action.kind for work in world.executed]


async def test_who_observes_decides_and_acts_once_the_window_closes(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        assert await runtime.reload(windows(Window(name="night", until_us=NOON_US + HOUR_US, observe=True)))
        (outcome,) = await send(runtime, world.spend("1000.00"))
        await quiet(runtime)
        assert (outcome.decision, outcome.state) == ("stop", "STOP")
        assert outcome.evidence["withheld_why"] == "window night"
        assert world.executed == []
        assert runtime.admission.admit("acme", "normal", None, 1, world.now_us).basis == "unrestricted"  # type: ignore[union-attr]
        await pass_time(runtime, world, 3_601)
        assert kinds(world) == ["stop"]
    assert replay_folder(tmp_path).ok


async def test_an_emergency_stop_outlives_the_process_and_its_end_is_felt_at_once(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        assert await runtime.stop_everybody(Stop(by="ana", reason="drill", stopped=True)) is not None
        assert await runtime.stop_everybody(Stop(by="ana", reason="drill", stopped=True)) is None
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("950.00"), world.spend("950.00", tenant="other"))
        await quiet(runtime)
        assert world.executed == []
        await runtime.stop_everybody(Stop(by="ana", reason="over", stopped=False))
        await until(lambda: len(world.executed) == 2)
        await quiet(runtime)
        assert kinds(world) == ["throttle", "throttle"]
    assert replay_folder(tmp_path).ok


async def test_one_tenants_stop_is_its_own(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("10.00"), world.spend("10.00", tenant="other"))
        runtime.registry.set_emergency_stop("acme", stopped=True, why="ana: drill")
        await send(runtime, world.spend("950.00"), world.spend("950.00", tenant="other"))
        await quiet(runtime)
        assert [work.tenant for work in world.executed] == ["other"]
        assert withheld(runtime) == "throttle"
    assert replay_folder(tmp_path).ok


async def answer(runtime: Runtime, world: World, mode: Any) -> None:
    body = OverrideGranted(mode=mode, until_us=world.now_us + HOUR_US, by="ana", reason="looked at it")
    told = await runtime.registry.tell("acme", KEY, Event("answer", world.now_us, body))
    assert told is not None
    assert told[0].outcome == "decided"


@pytest.mark.parametrize(
    ("verdict", "then", "acts"),
    [("approve", "drop", True), ("veto", "act", False), (None, "act", True), (None, "drop", False)],
)
async def test_a_person_is_asked_first(tmp_path: Path, verdict: str | None, then: Any, acts: bool) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        await runtime.reload(windows(Window(name="ask", approval=Approval(("throttle",), 900, then))))
        await send(runtime, world.spend("950.00"))
        await quiet(runtime)
        assert kinds(world) == ["ask"]
        assert world.executed[0].action.params["action"] == "throttle"
        if verdict is None:
            await pass_time(runtime, world, 901)
        else:
            await answer(runtime, world, verdict)
            await quiet(runtime)
            await pass_time(runtime, world, 901)
        assert kinds(world).count("ask") == 1, "also where it is asked for again, with other numbers"
        assert ("throttle" in kinds(world)) == acts
    assert replay_folder(tmp_path).ok


async def test_an_action_that_fails_over_and_over_is_frozen_and_paged(tmp_path: Path) -> None:
    world = World()
    world.answer = Refused()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1000.00"))
        await quiet(runtime)
        for _ in range(3):
            await pass_time(runtime, world, 60)
        assert kinds(world) == ["stop", "stop", "page", "page"], "a page that failed is sent again"
        assert world.executed[-1].action.params["why"] == STORM
        world.answer = Done()
        await pass_time(runtime, world, 60)
        await pass_time(runtime, world, 600)
        assert kinds(world)[4:] == ["page"], "and one that was heard is not"
        await pass_time(runtime, world, 1_200)
        assert kinds(world)[5:] == ["stop"]
        assert withheld(runtime) == ""
    assert replay_folder(tmp_path).ok


async def test_policies_hold_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    world = World()
    tighter = {"acme": {"cost_guard": {"throttle_ppm": 600_000, "throttle_clear_ppm": 550_000}}}
    async with running(tmp_path, world) as runtime:
        before = runtime.policy.digest
        assert not await runtime.reload(Policies())
        with pytest.raises(PolicyUnknownError):
            await runtime.reload(windows(Window(name="w", profile="gold")))
        assert runtime.policy.digest == before
        assert await runtime.reload(Policies(profiles={"gold": {}}, tenants=tighter))
        outcomes = await send(runtime, world.spend("700.00"), world.spend("700.00", tenant="other"))
        assert [one.state for one in outcomes] == ["THROTTLE", "WARN"]
        data = {"status": "active", "profile": "gold"}
        await send(runtime, world.signal("tenant.entitlement", data))
        with pytest.raises(SettingsError) as caught:
            await runtime.reload(Policies())
        assert "profiles.gold" in str(caught.value)
        assert "acme" in str(caught.value)
        await quiet(runtime)
    assert replay_folder(tmp_path).ok


# Over a restart


ASKS = windows(Window(name="ask", approval=Approval(("throttle",), 900, "drop")))


async def test_an_open_question_outlives_the_process(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world, policies=ASKS) as runtime:
        await send(runtime, world.spend("950.00"))
        await quiet(runtime)
    async with running(tmp_path, world, policies=ASKS) as runtime:
        await pass_time(runtime, world, 30)
        assert kinds(world) == ["ask"], "who was asked is not asked again"
        await answer(runtime, world, "approve")
        await quiet(runtime)
        assert kinds(world) == ["ask", "throttle"]
    assert replay_folder(tmp_path).ok


async def test_a_question_on_its_way_when_the_process_ended_is_sent_again_under_its_id(tmp_path: Path) -> None:
    world = World()
    world.hold.clear()
    async with running(tmp_path, world, policies=ASKS) as runtime:
        await send(runtime, world.spend("950.00"))
        await until(lambda: kinds(world) == ["ask"])
    world.hold.set()
    async with running(tmp_path, world, policies=ASKS) as runtime:
        await quiet(runtime)
        assert kinds(world) == ["ask", "ask"]
        assert world.executed[0].action.id == world.executed[1].action.id
    assert replay_folder(tmp_path).ok


async def test_a_storm_is_remembered_over_a_restart(tmp_path: Path) -> None:
    world = World()
    world.answer = Refused()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1000.00"))
        await quiet(runtime)
        await pass_time(runtime, world, 60)
        world.hold.clear()
        await pass_time_without_waiting(runtime, world, 60)
        await until(lambda: kinds(world) == ["stop", "stop", "page"])
    world.answer = Done()
    world.hold.set()
    async with running(tmp_path, world) as runtime:
        await quiet(runtime)
        await send(runtime, world.spend("1001.00"))
        await pass_time(runtime, world, 600)
        assert kinds(world) == ["stop", "stop", "page", "page"], "frozen still, and the page was sent again"
        await pass_time(runtime, world, 1_200)
        assert kinds(world)[4:] == ["stop"]
    assert replay_folder(tmp_path).ok


async def test_a_person_lifts_what_a_storm_has_frozen(tmp_path: Path) -> None:
    world = World()
    world.answer = Refused()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1000.00"))
        await quiet(runtime)
        await pass_time(runtime, world, 60)
        await pass_time(runtime, world, 60)
        world.answer = Done()
        await pass_time(runtime, world, 60)
        assert withheld(runtime) == "stop"
        await answer(runtime, world, "approve")
        await quiet(runtime)
        assert kinds(world)[-1] == "stop"
        assert world.decided[-2][1].rule == "overlay.lifted"
    assert replay_folder(tmp_path).ok


async def test_an_answer_has_an_end(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world, policies=ASKS) as runtime:
        await send(runtime, world.spend("950.00"))
        await quiet(runtime)
        await answer(runtime, world, "veto")
        await pass_time(runtime, world, 3_599)
        assert kinds(world) == ["ask"]
        await pass_time(runtime, world, 1)
        assert kinds(world) == ["ask", "ask"], "a refusal holds as long as was said, then a person is asked anew"
    assert replay_folder(tmp_path).ok
