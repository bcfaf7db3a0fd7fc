"""OTP, "Automatic Shutdown": a supervisor ends by itself when significant children have ended by themselves."""

from simulation.loop import simulated
from simulation.stage import Stage, by_name

from governors.supervision.child import ONE_FOR_ALL, TEMPORARY, TRANSIENT, AutoShutdown, Strategy
from governors.supervision.report import State
from governors.supervision.supervisor import Supervisor


def work_unit(stage: Stage, auto_shutdown: AutoShutdown, strategy: Strategy = Strategy.ONE_FOR_ONE) -> Supervisor:
    return Supervisor(
        "unit",
        strategy,
        children=[
            stage.child("p"),
            stage.child("tr", TRANSIENT, significant=True),
            stage.child("te", TEMPORARY, significant=True),
            stage.child("insignificant", TRANSIENT),
        ],
        intensity=5,
        auto_shutdown=auto_shutdown,
    )


@simulated
async def test_any_significant_transient_child_that_returns_ends_the_supervisor_normally() -> None:
    stage = Stage()
    async with stage.play(work_unit(stage, AutoShutdown.ANY_SIGNIFICANT)) as task:
        assert await stage.finish("tr") == [".tr", "-insignificant", "-te", "-p"]
        assert task.done()
        assert task.exception() is None


@simulated
async def test_any_significant_temporary_child_that_crashes_ends_the_supervisor_too() -> None:
    stage = Stage()
    async with stage.play(work_unit(stage, AutoShutdown.ANY_SIGNIFICANT)) as task:
        assert await stage.crash("te") == ["!te", "-insignificant", "-tr", "-p"]
        assert task.exception() is None


@simulated
async def test_a_significant_transient_child_that_crashes_is_restarted_and_ends_nothing() -> None:
    stage = Stage()
    async with stage.play(work_unit(stage, AutoShutdown.ANY_SIGNIFICANT)) as task:
        assert await stage.crash("tr") == ["!tr", "+tr"]
        assert not task.done()


@simulated
async def test_an_insignificant_child_that_returns_ends_nothing() -> None:
    stage = Stage()
    async with stage.play(work_unit(stage, AutoShutdown.ANY_SIGNIFICANT)) as task:
        assert await stage.finish("insignificant") == [".insignificant"]
        assert not task.done()


@simulated
async def test_all_significant_waits_for_the_last_of_them() -> None:
    stage = Stage()
    async with stage.play(work_unit(stage, AutoShutdown.ALL_SIGNIFICANT)) as task:
        await stage.finish("te")
        assert not task.done()
        assert await stage.finish("tr") == [".tr", "-insignificant", "-p"]
        assert task.exception() is None


@simulated
async def test_never_lets_the_supervisor_run_on_without_any_child() -> None:
    stage = Stage()
    supervisor = Supervisor("unit", children=[stage.child("a", TRANSIENT)])
    async with stage.play(supervisor) as task:
        await stage.finish("a")
        assert not task.done()
        assert by_name(supervisor.tree())["a"].state is State.STOPPED


@simulated
async def test_a_significant_child_ended_by_a_siblings_restart_ends_nothing() -> None:
    """OTP: automatic shutdown "only applies when significant children terminate by themselves"."""
    stage = Stage()
    async with stage.play(work_unit(stage, AutoShutdown.ANY_SIGNIFICANT, ONE_FOR_ALL)) as task:
        assert await stage.crash("p") == ["!p", "-insignificant", "-te", "-tr", "+p", "+tr", "+insignificant"]
        assert not task.done()


@simulated
async def test_a_transient_supervisor_that_shut_itself_down_is_not_restarted() -> None:
    stage = Stage()
    unit = work_unit(stage, AutoShutdown.ANY_SIGNIFICANT)
    supervisor = Supervisor("root", children=[unit.as_child(TRANSIENT)])
    async with stage.play(supervisor) as task:
        assert await stage.finish("tr") == [".tr", "-insignificant", "-te", "-p"]
        assert by_name(supervisor.tree())["unit"].state is State.STOPPED
        assert not task.done()
