"""OTP, "Child specification", `restart`: permanent always, temporary never, transient when it terminates abnormally."""

import asyncio

import pytest
from simulation.loop import simulated
from simulation.stage import CrashError, Stage, by_name, settle

from governors.supervision.child import (
    ONE_FOR_ALL,
    PERMANENT,
    REST_FOR_ONE,
    TEMPORARY,
    TRANSIENT,
    Child,
    Restart,
    Started,
    Strategy,
)
from governors.supervision.report import EventKind, ExitReason, State
from governors.supervision.supervisor import Supervisor


@pytest.mark.parametrize(
    ("restart", "way", "restarted"),
    [
        (PERMANENT, "crash", True),
        (PERMANENT, "finish", True),
        (PERMANENT, "cancel_from_outside", True),
        (TRANSIENT, "crash", True),
        (TRANSIENT, "finish", False),
        (TRANSIENT, "cancel_from_outside", True),
        (TEMPORARY, "crash", False),
        (TEMPORARY, "finish", False),
        (TEMPORARY, "cancel_from_outside", False),
    ],
)
def test_whether_a_child_is_restarted_is_up_to_its_restart_type_and_how_it_ended(
    restart: Restart, way: str, restarted: bool
) -> None:
    @simulated
    async def scenario() -> None:
        stage = Stage()
        supervisor = Supervisor("root", children=[stage.child("a"), stage.child("b", restart), stage.child("c")])
        async with stage.play(supervisor) as task:
            happened = await getattr(stage, way)("b")
            assert happened[1:] == (["+b"] if restarted else [])
            node = by_name(supervisor.tree())["b"]
            assert node.state is (State.RUNNING if restarted else State.STOPPED)
            assert node.restarts == restarted
            assert not task.done()

    scenario()


@simulated
async def test_a_child_that_raises_a_cancelled_error_by_itself_has_ended_abnormally() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a", TRANSIENT)], on_event=stage.events.append)
    async with stage.play(supervisor):
        stage.tell("a", asyncio.CancelledError("leaked by a library"))
        await settle()
        assert stage.script == ["+a", "!a", "+a"]
        exited = next(event for event in stage.events if event.kind is EventKind.EXITED)
        assert exited.reason is ExitReason.CANCELLED
        assert exited.error is not None
        assert "leaked by a library" in exited.error.message


@simulated
async def test_a_child_that_cancels_itself_has_ended_abnormally() -> None:
    starts = 0

    async def live(started: Started) -> None:
        nonlocal starts
        starts += 1
        started()
        if starts == 1 and (task := asyncio.current_task()) is not None:
            task.cancel()
        await asyncio.Event().wait()

    async with Stage().play(Supervisor("root", children=[Child("a", live, TRANSIENT)])):
        assert starts == 2


@simulated
async def test_an_expired_timeout_of_the_childs_own_is_an_error_like_any_other() -> None:
    starts: list[float] = []

    async def live(started: Started) -> None:
        starts.append(asyncio.get_running_loop().time())
        started()
        async with asyncio.timeout(4.0):
            await asyncio.Event().wait()

    supervisor = Supervisor("root", children=[Child("a", live, TRANSIENT)])
    async with Stage().play(supervisor):
        await asyncio.sleep(5.0)
        assert starts[1] - starts[0] == pytest.approx(4.0)
        error = by_name(supervisor.tree())["a"].last_error
        assert error is not None
        assert error.message.startswith("TimeoutError")


@pytest.mark.parametrize("strategy", [ONE_FOR_ALL, REST_FOR_ONE])
def test_a_temporary_child_ended_by_a_siblings_restart_is_not_started_again(strategy: Strategy) -> None:
    @simulated
    async def scenario() -> None:
        stage = Stage()
        children = [stage.child("a"), stage.child("t", TEMPORARY), stage.child("c")]
        supervisor = Supervisor("root", strategy, children=children, intensity=5)
        async with stage.play(supervisor):
            assert await stage.crash("a") == ["!a", "-c", "-t", "+a", "+c"]
            assert await stage.crash("a") == ["!a", "-c", "+a", "+c"]
            assert by_name(supervisor.tree())["t"].state is State.STOPPED

    scenario()


@pytest.mark.parametrize("strategy", [ONE_FOR_ALL, REST_FOR_ONE])
def test_a_transient_child_that_had_returned_is_started_again_with_its_siblings(strategy: Strategy) -> None:
    """Its specification is kept, and restarting all means all: so OTP does it."""

    @simulated
    async def scenario() -> None:
        stage = Stage()
        children = [stage.child("a"), stage.child("t", TRANSIENT), stage.child("c")]
        async with stage.play(Supervisor("root", strategy, children=children)):
            assert await stage.finish("t") == [".t"]
            assert await stage.crash("a") == ["!a", "-c", "+a", "+t", "+c"]

    scenario()


@simulated
async def test_the_end_of_a_temporary_child_costs_no_restart() -> None:
    stage = Stage()
    children = [stage.child("a"), *(stage.child(f"t{n}", TEMPORARY) for n in range(5))]
    async with stage.play(Supervisor("root", children=children, intensity=0)) as task:
        for n in range(5):
            assert await stage.crash(f"t{n}") == [f"!t{n}"]
        assert not task.done()


@simulated
async def test_the_error_of_a_temporary_child_stays_readable() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("t", TEMPORARY)])
    async with stage.play(supervisor):
        await stage.crash("t")
        error = by_name(supervisor.tree())["t"].last_error
        assert error is not None
        assert error.message.endswith("CrashError: t")


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(3)])
def test_a_child_that_wants_the_process_to_end_is_not_restarted(signal: BaseException) -> None:
    """asyncio lets these two through to whoever runs the loop; when that goes on, the tree ends in order."""
    loop = asyncio.new_event_loop()
    stage = Stage()

    async def start() -> asyncio.Task[None]:
        children = [stage.child("a"), stage.child("b"), stage.child("c")]
        task = asyncio.create_task(Supervisor("root", children=children, intensity=10).run(lambda: None))
        await asyncio.sleep(0.01)
        return task

    task = loop.run_until_complete(start())
    stage.tell("b", signal)
    with pytest.raises(type(signal)):
        loop.run_until_complete(task)
    with pytest.raises(type(signal)):
        loop.run_until_complete(task)
    assert stage.script == ["+a", "+b", "+c", "!b", "-c", "-a"]
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_a_child_that_wants_the_process_to_end_while_it_starts_is_obeyed_too() -> None:
    loop = asyncio.new_event_loop()
    stage = Stage()

    async def refuse(started: Started) -> None:
        raise SystemExit(3)

    supervisor = Supervisor("root", children=[stage.child("a"), Child("b", refuse)])
    task = loop.create_task(supervisor.run(lambda: None))
    for _ in range(2):
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
    assert stage.script == ["+a", "-a"]
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_asyncio_run_that_ends_by_an_interrupt_leaves_no_child_behind() -> None:
    """`asyncio.run` cancels every task at once then, in no order: nobody may be restarted into that."""
    stage = Stage()

    async def main() -> None:
        below = Supervisor("below", children=[stage.child("b"), stage.child("c")], intensity=10)
        supervisor = Supervisor("root", children=[stage.child("a"), below.as_child()], intensity=10)
        asyncio.get_running_loop().call_later(0.02, stage.tell, "c", KeyboardInterrupt())
        await supervisor.run(lambda: None)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert stage.script[:3] == ["+a", "+b", "+c"]
    assert sorted(stage.script[3:]) == ["!c", "-a", "-b"]


def test_an_exception_is_kept_with_its_causes_and_its_place() -> None:
    @simulated
    async def scenario() -> None:
        async def live(started: Started) -> None:
            started()
            budgets: dict[str, int] = {}
            try:
                budgets["no such budget"] += 1
            except KeyError as error:
                raise CrashError("cannot decide") from error

        supervisor = Supervisor("root", children=[Child("a", live, TEMPORARY)])
        async with Stage().play(supervisor):
            report = by_name(supervisor.tree())["a"].last_error
            assert report is not None
            assert report.message == "simulation.stage.CrashError: cannot decide"
            assert "no such budget" in report.traceback
            assert "test_supervisor_restart_types.py" in report.traceback

    scenario()
