"""OTP, "Maximum Restart Intensity": more than MaxR restarts in MaxT seconds end the supervisor; the next one acts."""

import asyncio

import pytest
from simulation.loop import simulated
from simulation.stage import CrashError, Stage, be_started, by_name, stop

from governors.supervision.child import ONE_FOR_ALL, REST_FOR_ONE, TEMPORARY, TRANSIENT, Child, Restart, Started
from governors.supervision.errors import ChildStartError, IntensityExceededError
from governors.supervision.report import EventKind, State
from governors.supervision.supervisor import Supervisor


@simulated
async def test_one_restart_too_many_stops_all_children_from_the_right_and_raises() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child(name) for name in "abc"], intensity=2, period_s=5.0)
    async with stage.play(supervisor) as task:
        await stage.crash("b")
        await stage.crash("b")
        assert await stage.crash("b") == ["!b", "-c", "-a"]
        error = task.exception()
        assert isinstance(error, IntensityExceededError)
        assert (error.supervisor, error.child, error.restarts, error.period_s) == ("root", "b", 3, 5.0)
        assert isinstance(error.__cause__, CrashError)
    states = {name: node.state for name, node in by_name(supervisor.tree()).items()}
    assert states == {"a": State.STOPPED, "b": State.GIVEN_UP, "c": State.STOPPED}
    assert supervisor.tree().state is State.GIVEN_UP


@simulated
async def test_restarts_of_different_children_count_together() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child(name) for name in "abc"], intensity=2)
    async with stage.play(supervisor) as task:
        await stage.crash("a")
        await stage.crash("b")
        assert not task.done()
        await stage.crash("c")
        assert task.done()


@simulated
async def test_restarts_further_apart_than_the_period_go_on_for_ever() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a")], intensity=1, period_s=5.0)
    async with stage.play(supervisor) as task:
        for _ in range(20):
            await asyncio.sleep(5.1)
            assert await stage.crash("a") == ["!a", "+a"]
        assert not task.done()
        await asyncio.sleep(4.9)
        await stage.crash("a")
        assert task.done()


@simulated
async def test_a_permanent_child_that_returns_again_and_again_exhausts_the_intensity_too() -> None:
    stage = Stage()
    async with stage.play(Supervisor("root", children=[stage.child("a")], intensity=1)) as task:
        await stage.finish("a")
        await stage.finish("a")
        error = task.exception()
        assert isinstance(error, IntensityExceededError)
        assert error.__cause__ is None


@simulated
async def test_a_child_that_cannot_be_restarted_exhausts_the_intensity() -> None:
    stage = Stage()
    supervisor = Supervisor("root", REST_FOR_ONE, children=[stage.child("a"), stage.child("b")], intensity=3)
    async with stage.play(supervisor) as task:
        stage.failing_starts["a"] = 100
        assert await stage.crash("a") == ["!a", "-b", "?a", "?a", "?a"]
        assert isinstance(task.exception(), IntensityExceededError)


def two_levels(stage: Stage, restart: Restart, intensity_below: int = 1) -> Supervisor:
    below = Supervisor(
        "below", ONE_FOR_ALL, children=[stage.child("b"), stage.child("c")], intensity=intensity_below, period_s=5.0
    )
    return Supervisor(
        "root", REST_FOR_ONE, children=[stage.child("a"), below.as_child(restart), stage.child("d")], intensity=1
    )


@pytest.mark.parametrize("restart", [Restart.PERMANENT, TRANSIENT])
def test_the_parent_handles_a_supervisor_that_gave_up_as_a_child_that_failed(restart: Restart) -> None:
    """A transient one too: OTP's supervisor exits with `shutdown` then, which its parent takes for normal."""

    @simulated
    async def scenario() -> None:
        stage = Stage()
        supervisor = two_levels(stage, restart)
        async with stage.play(supervisor) as task:
            assert await stage.crash("c") == ["!c", "-b", "+b", "+c"]
            assert await stage.crash("c") == ["!c", "-b", "-d", "+b", "+c", "+d"]
            node = by_name(supervisor.tree())["below"]
            assert (node.state, node.restarts) == (State.RUNNING, 1)
            assert node.last_error is not None
            assert "IntensityExceededError" in node.last_error.message
            assert "CrashError: c" in node.last_error.traceback
            assert not task.done()

    scenario()


@simulated
async def test_a_supervisor_that_was_restarted_has_its_whole_budget_again() -> None:
    stage = Stage()
    async with stage.play(two_levels(stage, Restart.PERMANENT)) as task:
        for _ in range(3):
            await stage.crash("c")
        assert not task.done()
        await stage.crash("c")
        assert isinstance(task.exception(), IntensityExceededError)
        assert stage.script[-4:] == ["!c", "-b", "-d", "-a"]


@simulated
async def test_restarts_multiply_over_the_levels() -> None:
    """OTP: "the product of the intensity values of all the supervisors above"; each level adds one."""
    stage = Stage()
    async with stage.play(two_levels(stage, Restart.PERMANENT, intensity_below=3)) as task:
        crashes = 0
        while not task.done():
            await stage.crash("c")
            crashes += 1
        assert crashes == (3 + 1) * (1 + 1)


@simulated
async def test_a_temporary_supervisor_that_gave_up_is_left_alone() -> None:
    stage = Stage()
    supervisor = two_levels(stage, TEMPORARY)
    async with stage.play(supervisor) as task:
        await stage.crash("c")
        assert await stage.crash("c") == ["!c", "-b"]
        assert not task.done()
        nodes = by_name(supervisor.tree())
        assert nodes["below"].state is State.STOPPED
        assert nodes["c"].state is State.GIVEN_UP


@simulated
async def test_a_supervisor_below_that_cannot_start_fails_the_start_of_the_tree() -> None:
    stage = Stage(failing_starts={"c": 1})
    with pytest.raises(ChildStartError) as failed:
        await two_levels(stage, Restart.PERMANENT).run(be_started)
    assert isinstance(failed.value.__cause__, ChildStartError)
    assert stage.script == ["+a", "+b", "?c", "-b", "-a"]


@simulated
async def test_giving_up_is_told_with_the_error_that_led_to_it() -> None:
    stage = Stage()
    children = [stage.child("a")]
    async with stage.play(Supervisor("root", children=children, intensity=0, on_event=stage.events.append)):
        await stage.crash("a")
    given_up = stage.events[-1]
    assert (given_up.kind, given_up.supervisor, given_up.child) == (EventKind.GIVEN_UP, "root", "a")
    assert given_up.error is not None
    assert "CrashError: a" in given_up.error.message


@simulated
async def test_a_supervisor_cancelled_while_it_gives_up_stops_in_order_and_obeys() -> None:
    """Whoever cancelled it (a timeout, its parent) is owed a CancelledError; the reason to give up was told already."""
    stage = Stage()

    async def flush_slowly(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3.0)
            stage.script.append("flushed")

    children = [stage.child("a"), Child("slow", flush_slowly), stage.child("c")]
    supervisor = Supervisor("root", children=children, intensity=0)
    async with stage.play(supervisor) as task:
        assert await stage.crash("c") == ["!c"]
        await asyncio.sleep(1.0)
        assert isinstance(await stop(task), asyncio.CancelledError)
    assert stage.script == ["+a", "+c", "!c", "flushed", "-a"]
    assert supervisor.tree().state is State.GIVEN_UP
