"""OTP, "Restart Strategies", and what supervisor.erl does when several things happen at once."""

import asyncio
from contextlib import suppress

from simulation.loop import simulated
from simulation.stage import CrashError, Stage, be_started, by_name, settle, stop

from governors.supervision.child import ONE_FOR_ALL, ONE_FOR_ONE, REST_FOR_ONE, TRANSIENT, Child, Started, Strategy
from governors.supervision.report import EventKind, ExitReason, State
from governors.supervision.supervisor import Supervisor


def abcd(stage: Stage, strategy: Strategy, intensity: int = 10) -> Supervisor:
    return Supervisor("root", strategy, children=[stage.child(name) for name in "abcd"], intensity=intensity)


@simulated
async def test_one_for_one_restarts_only_the_child_that_ended() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, ONE_FOR_ONE)):
        assert await stage.crash("b") == ["!b", "+b"]


@simulated
async def test_one_for_all_ends_all_others_from_the_right_and_starts_all_from_the_left() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, ONE_FOR_ALL)):
        assert await stage.crash("b") == ["!b", "-d", "-c", "-a", "+a", "+b", "+c", "+d"]


@simulated
async def test_rest_for_one_ends_those_after_it_from_the_right_and_starts_it_and_them_from_the_left() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, REST_FOR_ONE)):
        assert await stage.crash("b") == ["!b", "-d", "-c", "+b", "+c", "+d"]
        assert await stage.crash("d") == ["!d", "+d"]
        assert await stage.crash("a") == ["!a", "-d", "-c", "-b", "+a", "+b", "+c", "+d"]


@simulated
async def test_children_ended_by_a_siblings_restart_have_not_crashed_and_cost_no_restart_of_their_own() -> None:
    stage = Stage()
    supervisor = abcd(stage, ONE_FOR_ALL, intensity=1)
    async with stage.play(supervisor) as task:
        await stage.crash("b")
        assert not task.done()
        nodes = by_name(supervisor.tree())
        assert {name: node.restarts for name, node in nodes.items()} == {"a": 1, "b": 1, "c": 1, "d": 1}
        assert [name for name, node in nodes.items() if node.last_error is not None] == ["b"]


@simulated
async def test_simultaneous_crashes_are_handled_in_the_order_in_which_they_happened() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, ONE_FOR_ONE)):
        assert await stage.crash("c", "a", "d") == ["!c", "!a", "!d", "+c", "+a", "+d"]


@simulated
async def test_each_of_simultaneous_crashes_costs_a_restart_of_its_own_under_one_for_one() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, ONE_FOR_ONE, intensity=2)) as task:
        await stage.crash("c", "a", "d")
        assert task.done()


@simulated
async def test_all_children_crashing_at_once_are_one_restart_under_one_for_all() -> None:
    """The first exit restarts all; the other exits were swept up by that and count no more."""
    stage = Stage()
    supervisor = abcd(stage, ONE_FOR_ALL, intensity=1)
    async with stage.play(supervisor) as task:
        assert await stage.crash("a", "b", "c", "d") == ["!a", "!b", "!c", "!d", "+a", "+b", "+c", "+d"]
        assert not task.done()
        assert all(node.last_error is not None for node in supervisor.tree().children)


@simulated
async def test_a_sibling_cancelled_by_a_stranger_and_swept_up_is_not_told_of_as_an_orderly_end() -> None:
    stage = Stage()
    children = [stage.child("a"), stage.child("b")]
    supervisor = Supervisor("root", ONE_FOR_ALL, children=children, on_event=stage.events.append)
    async with stage.play(supervisor):
        stage.tell("a", CrashError("a"))
        stage.tasks["b"].cancel()
        await settle()
        exits = [(event.child, event.reason) for event in stage.events if event.kind is EventKind.EXITED]
        assert exits == [("a", ExitReason.ERROR), ("b", ExitReason.CANCELLED)]


@simulated
async def test_a_crash_to_the_left_sweeps_up_one_to_the_right_but_not_the_other_way_round_under_rest_for_one() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, REST_FOR_ONE, intensity=1)) as task:
        assert await stage.crash("b", "d") == ["!b", "!d", "-c", "+b", "+c", "+d"]
        assert not task.done()
    stage = Stage()
    async with stage.play(abcd(stage, REST_FOR_ONE, intensity=1)) as task:
        happened = await stage.crash("d", "b")
        assert happened[:3] == ["!d", "!b", "+d"]
        assert task.done()


@simulated
async def test_a_failed_restart_is_tried_again_and_counts_as_another_one() -> None:
    stage = Stage()
    supervisor = abcd(stage, ONE_FOR_ONE, intensity=3)
    async with stage.play(supervisor) as task:
        stage.failing_starts["b"] = 2
        assert await stage.crash("b") == ["!b", "?b", "?b", "+b"]
        assert by_name(supervisor.tree())["b"].restarts == 1
        await stage.crash("b")
        assert task.done(), "three restarts were made: two failed, one worked; the fourth is one too many"


@simulated
async def test_a_failed_restart_is_tried_again_only_after_what_happened_before_it() -> None:
    """supervisor.erl casts `try_again_restart` to itself, so that its inbox comes first."""
    stage = Stage()
    async with stage.play(abcd(stage, ONE_FOR_ONE)):
        stage.failing_starts["b"] = 1
        assert await stage.crash("b", "c") == ["!b", "!c", "?b", "+c", "+b"]


@simulated
async def test_rest_for_one_tries_again_from_the_child_that_failed_to_start() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, REST_FOR_ONE)):
        stage.failing_starts["c"] = 1
        assert await stage.crash("b") == ["!b", "-d", "-c", "+b", "?c", "+c", "+d"]


@simulated
async def test_one_for_all_tries_again_with_all() -> None:
    stage = Stage()
    async with stage.play(abcd(stage, ONE_FOR_ALL)):
        stage.failing_starts["c"] = 1
        expected = ["!b", "-d", "-c", "-a", "+a", "+b", "?c", "-b", "-a", "+a", "+b", "+c", "+d"]
        assert await stage.crash("b") == expected


@simulated
async def test_a_retry_that_a_restart_to_the_left_has_overtaken_is_dropped() -> None:
    """Else c would be started while b, on which it stands, is down."""
    stage = Stage()
    supervisor = abcd(stage, REST_FOR_ONE)
    async with stage.play(supervisor):
        stage.failing_starts.update(b=1, c=1)
        happened = await stage.crash("c", "b")
        assert happened == ["!c", "!b", "-d", "?c", "?b", "+b", "+c", "+d"]
        assert all(node.state is State.RUNNING for node in supervisor.tree().children)


@simulated
async def test_a_restart_that_does_not_start_in_time_is_a_failed_restart() -> None:
    stage = Stage()
    starts = 0

    async def hang_the_second_time(started: Started) -> None:
        nonlocal starts
        starts += 1
        if starts != 2:
            started()
        await stage.life("inner")(be_started)

    supervisor = Supervisor("root", children=[Child("a", hang_the_second_time, start_s=6.0)], intensity=2)
    async with stage.play(supervisor):
        await stage.crash("inner")
        node = by_name(supervisor.tree())["a"]
        assert node.state is State.RESTARTING
        await asyncio.sleep(7.0)
        node = by_name(supervisor.tree())["a"]
        assert (node.state, starts) == (State.RUNNING, 3)
        assert node.last_error is not None
        assert "did not start within 6.0 s" in node.last_error.message


@simulated
async def test_a_supervisor_cancelled_while_it_restarts_stops_everything_in_order() -> None:
    stage = Stage()
    starts = 0

    async def hang_the_second_time(started: Started) -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            started()
        await stage.life("b")(be_started)

    children = [stage.child("a"), Child("b", hang_the_second_time), stage.child("c")]
    async with stage.play(Supervisor("root", REST_FOR_ONE, children=children)) as task:
        assert await stage.crash("b") == ["!b", "-c", "+b"]
        assert isinstance(await stop(task), asyncio.CancelledError)
        assert stage.script[-2:] == ["-b", "-a"]


@simulated
async def test_a_supervisor_cancelled_while_it_ends_siblings_starts_none_of_them_again() -> None:
    stage = Stage()

    async def flush_slowly(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3.0)
            stage.script.append("flushed")

    children = [stage.child("a"), stage.child("b"), Child("slow", flush_slowly), stage.child("d")]
    async with stage.play(Supervisor("root", REST_FOR_ONE, children=children)) as task:
        assert await stage.crash("b") == ["!b", "-d"]
        await asyncio.sleep(1.0)
        assert isinstance(await stop(task), asyncio.CancelledError)
    assert stage.script == ["+a", "+b", "+d", "!b", "-d", "flushed", "-a"]


@simulated
async def test_a_restart_goes_on_without_a_sibling_that_ignores_its_end() -> None:
    stage = Stage()
    release = asyncio.Event()

    async def ignore(started: Started) -> None:
        stage.script.append("+stubborn")
        started()
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    children = [stage.child("a"), Child("stubborn", ignore, shutdown_s=2.0)]
    supervisor = Supervisor("root", ONE_FOR_ALL, children=children)
    async with stage.play(supervisor):
        await stage.crash("a")
        await asyncio.sleep(2.5)
        assert stage.script == ["+a", "+stubborn", "!a", "+a", "+stubborn"]
        states = [(node.name, node.state) for node in supervisor.tree().children]
        assert states == [("a", State.RUNNING), ("stubborn", State.RUNNING), ("stubborn", State.ABANDONED)]
        release.set()
        await settle()


@simulated
async def test_a_child_whose_exit_came_during_anothers_slow_restart_is_handled_afterwards() -> None:
    """A supervisor does one thing at a time: a child that starts slowly should say `started` early."""
    stage = Stage()
    gate = asyncio.Event()
    gate.set()

    async def start_behind_the_gate(started: Started) -> None:
        await gate.wait()
        await stage.life("slow")(started)

    children = [Child("slow", start_behind_the_gate), stage.child("b", TRANSIENT)]
    async with stage.play(Supervisor("root", children=children, intensity=5)):
        gate.clear()
        await stage.crash("slow")
        assert await stage.crash("b") == ["!b"]
        before = len(stage.script)
        gate.set()
        await settle()
        assert stage.script[before:] == ["+slow", "+b"]
