"""OTP, "Supervision Principles": started from left to right, terminated in reverse order, each by its `shutdown`."""

import asyncio

import pytest
from simulation.loop import simulated
from simulation.stage import CrashError, Stage, be_started, by_name, settle, stop

from governors.supervision.child import ONE_FOR_ONE, PERMANENT, TEMPORARY, Child, Restart, Started
from governors.supervision.errors import ChildStartError, ExitedBeforeStartedError, StartTimeoutError, SupervisionError
from governors.supervision.report import EventKind, ExitReason, State
from governors.supervision.supervisor import Supervisor


def now_s() -> float:
    return asyncio.get_running_loop().time()


@simulated
async def test_children_are_started_from_left_to_right_and_stopped_from_right_to_left() -> None:
    stage = Stage()
    names = [str(n) for n in range(12)]
    async with stage.play(Supervisor("root", children=[stage.child(name) for name in names])):
        assert stage.script == [f"+{name}" for name in names]
        stage.script.clear()
    assert stage.script == [f"-{name}" for name in reversed(names)]


@simulated
async def test_a_child_is_started_only_when_the_one_before_it_says_that_it_has_started() -> None:
    stage = Stage()
    recovered = asyncio.Event()

    async def recover_then_serve(started: Started) -> None:
        await recovered.wait()
        started()
        await asyncio.Event().wait()

    async with stage.play(Supervisor("root", children=[Child("ledger", recover_then_serve), stage.child("sources")])):
        await asyncio.sleep(3.0)
        assert stage.script == []
        recovered.set()
        await settle()
        assert stage.script == ["+sources"]


@simulated
async def test_the_supervisor_says_that_it_has_started_when_its_last_child_has() -> None:
    stage = Stage()
    said: list[list[str]] = []
    supervisor = Supervisor("root", children=[stage.child("a"), stage.child("b")])
    task = asyncio.create_task(supervisor.run(lambda: said.append(list(stage.script))))
    await settle()
    assert said == [["+a", "+b"]]
    await stop(task)


@pytest.mark.parametrize("restart", list(Restart))
def test_a_child_that_fails_to_start_fails_the_start_and_those_before_it_are_stopped(restart: Restart) -> None:
    """OTP: whatever its restart type, "the supervisor terminates all already started child processes"."""

    @simulated
    async def scenario() -> None:
        stage = Stage(failing_starts={"c": 1})
        children = [stage.child("a"), stage.child("b"), stage.child("c", restart), stage.child("d")]
        supervisor = Supervisor("root", children=children, intensity=10)
        with pytest.raises(ChildStartError) as failed:
            await supervisor.run(be_started)
        assert failed.value.child == "c"
        assert isinstance(failed.value.__cause__, CrashError)
        assert stage.script == ["+a", "+b", "?c", "-b", "-a"]
        error = by_name(supervisor.tree())["c"].last_error
        assert error is not None
        assert "c cannot start" in error.traceback

    scenario()


@simulated
async def test_a_child_that_returns_before_it_has_started_has_failed_to_start() -> None:
    async def forget(started: Started) -> None:
        pass

    with pytest.raises(ChildStartError) as failed:
        await Supervisor("root", children=[Child("a", forget)]).run(be_started)
    assert isinstance(failed.value.__cause__, ExitedBeforeStartedError)


@simulated
async def test_a_start_function_that_raises_before_there_is_a_coroutine_is_a_failure_to_start() -> None:
    def explode(started: Started) -> asyncio.Future[None]:
        raise CrashError("at once")

    with pytest.raises(ChildStartError) as failed:
        await Supervisor("root", children=[Child("a", explode)]).run(be_started)
    assert isinstance(failed.value.__cause__, CrashError)


@simulated
async def test_a_child_that_does_not_start_within_its_deadline_is_ended_and_has_failed_to_start() -> None:
    stage = Stage()

    async def hang(started: Started) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stage.script.append("-hanging")

    supervisor = Supervisor("root", children=[stage.child("a"), Child("hanging", hang, start_s=7.0)])
    begun_s = now_s()
    with pytest.raises(ChildStartError) as failed:
        await supervisor.run(be_started)
    assert isinstance(failed.value.__cause__, StartTimeoutError)
    assert now_s() - begun_s == pytest.approx(7.0)
    assert stage.script == ["+a", "-hanging", "-a"]


@simulated
async def test_a_child_that_says_twice_that_it_started_or_too_late_does_no_harm() -> None:
    late: list[Started] = []

    async def live(started: Started) -> None:
        started()
        started()
        late.append(started)
        await asyncio.Event().wait()

    supervisor = Supervisor("root", children=[Child("a", live)])
    task = asyncio.create_task(supervisor.run(be_started))
    await settle()
    await stop(task)
    late[0]()
    assert by_name(supervisor.tree())["a"].state is State.STOPPED


@simulated
async def test_a_supervisor_cancelled_while_a_child_is_starting_stops_that_one_too() -> None:
    stage = Stage()

    async def hang(started: Started) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stage.script.append("-hanging")

    supervisor = Supervisor("root", children=[stage.child("a"), Child("hanging", hang), stage.child("c")])
    async with stage.play(supervisor) as task:
        assert isinstance(await stop(task), asyncio.CancelledError)
    assert stage.script == ["+a", "-hanging", "-a"]


@simulated
async def test_a_child_is_told_to_end_only_when_the_one_after_it_is_gone() -> None:
    stage = Stage()

    async def flush_slowly(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3.0)
            stage.script.append("flushed")

    supervisor = Supervisor("root", children=[stage.child("a"), Child("slow", flush_slowly, shutdown_s=4.0)])
    async with stage.play(supervisor) as task:
        begun_s = now_s()
        await stop(task)
        assert now_s() - begun_s == pytest.approx(3.0)
    assert stage.script == ["+a", "flushed", "-a"]


def stubborn(release: asyncio.Event, cancels: list[float] | None = None) -> Child:
    """A child that nothing can end but `release`."""

    async def live(started: Started) -> None:
        started()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if cancels is not None:
                    cancels.append(now_s())

    return Child("stubborn", live, shutdown_s=2.0)


@simulated
async def test_a_child_that_outlives_its_deadline_is_abandoned_and_the_others_are_stopped_all_the_same() -> None:
    stage = Stage()
    release = asyncio.Event()
    cancels: list[float] = []
    children = [stage.child("a"), stubborn(release, cancels), stage.child("c")]
    supervisor = Supervisor("root", children=children, on_event=stage.events.append)
    async with stage.play(supervisor) as task:
        begun_s = now_s()
        await stop(task)
        assert now_s() - begun_s == pytest.approx(2.0)
    assert stage.script == ["+a", "+c", "-c", "-a"]
    assert [at_s - begun_s for at_s in cancels] == pytest.approx([0.0, 2.0])

    await asyncio.sleep(5.0)
    stub, lost = [node for node in supervisor.tree().children if node.name == "stubborn"]
    assert (stub.state, lost.state) == (State.STOPPED, State.ABANDONED)
    assert lost.since_s == pytest.approx(5.0)

    release.set()
    await settle()
    assert [node.name for node in supervisor.tree().children] == ["a", "stubborn", "c"]
    about_it = [event.kind for event in stage.events if event.child == "stubborn"]
    assert about_it == [EventKind.STARTED, EventKind.ABANDONED, EventKind.ABANDONED_ENDED]


@simulated
async def test_the_deadline_breaks_off_a_clean_up_that_hangs() -> None:
    async def hang_in_clean_up(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    stage = Stage()
    supervisor = Supervisor("root", children=[Child("a", hang_in_clean_up, shutdown_s=2.0)])
    async with stage.play(supervisor) as task:
        begun_s = now_s()
        await stop(task)
        assert now_s() - begun_s == pytest.approx(2.0)
    assert by_name(supervisor.tree())["a"].state is State.STOPPED


@simulated
async def test_a_deadline_of_zero_cancels_and_does_not_wait() -> None:
    cleaned_up = asyncio.Event()

    async def clean_up(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1.0)
            cleaned_up.set()

    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a", shutdown_s=0), Child("b", clean_up, shutdown_s=0)])
    async with stage.play(supervisor) as task:
        begun_s = now_s()
        await stop(task)
        assert now_s() == begun_s
    assert stage.script == ["+a", "-a"]
    assert [node.state for node in supervisor.tree().children] == [State.STOPPED, State.STOPPED, State.ABANDONED]
    await cleaned_up.wait()


@simulated
async def test_a_supervisor_below_is_waited_for_until_its_own_children_are_gone() -> None:
    stage = Stage()
    release = asyncio.Event()
    below = Supervisor("below", children=[stubborn(release), stage.child("b")])
    supervisor = Supervisor("root", children=[stage.child("a"), below.as_child()])
    async with stage.play(supervisor) as task:
        begun_s = now_s()
        await stop(task)
        assert now_s() - begun_s == pytest.approx(2.0)
    assert stage.script == ["+a", "+b", "-b", "-a"]
    release.set()
    await settle()


@simulated
async def test_a_supervisor_cancelled_again_while_it_stops_finishes_in_order() -> None:
    stage = Stage()

    async def flush_slowly(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3.0)
            stage.script.append("flushed")

    supervisor = Supervisor("root", children=[stage.child("a"), Child("slow", flush_slowly), stage.child("c")])
    async with stage.play(supervisor) as task:
        begun_s = now_s()
        task.cancel()
        for _ in range(4):
            await asyncio.sleep(0.5)
            task.cancel()
        assert isinstance(await stop(task), asyncio.CancelledError)
        assert now_s() - begun_s == pytest.approx(3.0)
    assert stage.script == ["+a", "+c", "-c", "flushed", "-a"]


@simulated
async def test_a_timeout_around_a_supervisor_stops_it_in_order_and_is_a_timeout() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a"), stage.child("b")])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10.0):
            await supervisor.run(be_started)
    assert stage.script == ["+a", "+b", "-b", "-a"]


@simulated
async def test_a_child_inside_a_timeout_of_its_own_ends_as_told() -> None:
    async def live(started: Started) -> None:
        started()
        async with asyncio.timeout(3600.0):
            await asyncio.Event().wait()

    stage = Stage()
    supervisor = Supervisor("root", children=[Child("a", live)], on_event=stage.events.append)
    async with stage.play(supervisor):
        pass
    assert [event.reason for event in stage.events] == [None, ExitReason.SHUTDOWN]


@simulated
async def test_a_child_that_crashes_while_the_others_are_being_stopped_is_not_restarted_and_not_forgotten() -> None:
    stage = Stage()

    async def flush_slowly(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3.0)

    supervisor = Supervisor("root", children=[stage.child("a"), Child("slow", flush_slowly)], intensity=10)
    async with stage.play(supervisor) as task:
        task.cancel()
        await asyncio.sleep(1.0)
        await stage.crash("a")
        await stop(task)
    assert stage.script == ["+a", "!a"]
    error = by_name(supervisor.tree())["a"].last_error
    assert error is not None
    assert error.message.endswith("CrashError: a")


@simulated
async def test_what_a_child_raises_while_it_is_told_to_end_is_kept() -> None:
    async def fail_in_clean_up(started: Started) -> None:
        started()
        try:
            await asyncio.Event().wait()
        finally:
            raise CrashError("while flushing")

    stage = Stage()
    supervisor = Supervisor("root", children=[Child("a", fail_in_clean_up)], on_event=stage.events.append)
    async with stage.play(supervisor):
        pass
    node = by_name(supervisor.tree())["a"]
    assert node.state is State.STOPPED
    assert node.last_error is not None
    assert "while flushing" in node.last_error.message
    assert stage.events[-1].reason is ExitReason.ERROR


@simulated
async def test_a_supervisor_that_has_stopped_can_be_run_again_with_fresh_children_and_budget() -> None:
    stage = Stage()
    supervisor = Supervisor("root", ONE_FOR_ONE, children=[stage.child("a", PERMANENT), stage.child("b", TEMPORARY)])
    for _ in range(2):
        async with stage.play(supervisor) as task:
            assert await stage.crash("a") == ["!a", "+a"]
            assert await stage.finish("b") == [".b"]
            assert not task.done()
            stage.script.clear()


@simulated
async def test_a_supervisor_runs_only_once_at_a_time() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a")])
    async with stage.play(supervisor):
        with pytest.raises(SupervisionError, match="running already"):
            await supervisor.run(be_started)
        assert stage.script == ["+a"]
