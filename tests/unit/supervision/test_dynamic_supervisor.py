import asyncio
import gc
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import repeat
from typing import Any

import pytest
from simulation.loop import SimLoop, run_simulated, simulated
from simulation.stage import CrashError, Stage, be_started, by_name, settle, stop

from governors.supervision.dynamic import GIVEN_UP_KEPT_MAX, TROUBLED_SHOWN_MAX, DynamicSupervisor
from governors.supervision.errors import AlreadyStartedError, NotRunningError, SupervisionError
from governors.supervision.report import EventKind, ExitReason, State
from governors.supervision.supervisor import Supervisor


@asynccontextmanager
async def running(supervisor: DynamicSupervisor) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(supervisor.run(be_started), name=supervisor.name)
    await settle()
    try:
        yield task
    finally:
        await stop(task)


def start(supervisor: DynamicSupervisor, stage: Stage, *names: str) -> None:
    for name in names:
        supervisor.start_child(name, stage.member_life(name))


@simulated
async def test_children_are_started_on_demand_and_a_child_that_returns_is_gone() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor):
        start(supervisor, stage, "acme", "globex")
        await settle()
        assert len(supervisor) == 2
        assert await stage.finish("acme") == [".acme"]
        assert "acme" not in supervisor
        assert "globex" in supervisor
        start(supervisor, stage, "acme")
        assert len(supervisor) == 2


@simulated
async def test_a_child_that_raises_is_restarted_at_once_and_alone() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor):
        start(supervisor, stage, "acme", "globex")
        await settle()
        begun_s = asyncio.get_running_loop().time()
        assert await stage.crash("acme") == ["!acme", "+acme"]
        assert asyncio.get_running_loop().time() - begun_s < 1e-3
        assert by_name(supervisor.tree())["acme"].restarts == 1


@simulated
async def test_a_child_that_passes_its_own_intensity_is_given_up_and_no_other_notices() -> None:
    stage = Stage()
    given_up: list[tuple[str, BaseException]] = []
    supervisor = DynamicSupervisor(
        "tenants", intensity=2, period_s=10.0, on_given_up=lambda name, error: given_up.append((name, error))
    )
    async with running(supervisor) as task:
        start(supervisor, stage, "acme", "globex")
        await settle()
        globex = stage.tasks["globex"]
        for _ in range(2):
            assert await stage.crash("acme") == ["!acme", "+acme"]
        assert given_up == []
        assert await stage.crash("acme") == ["!acme"]
        assert [(name, type(error)) for name, error in given_up] == [("acme", CrashError)]
        assert "acme" not in supervisor
        assert stage.tasks["globex"] is globex
        assert not globex.done()
        assert not task.done()
        node = by_name(supervisor.tree())["acme"]
        assert (node.state, node.restarts) == (State.GIVEN_UP, 2)
        assert node.last_error is not None
        assert "CrashError: acme" in node.last_error.traceback


@simulated
async def test_the_budget_is_each_childs_own() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=1, period_s=10.0)
    async with running(supervisor):
        names = [f"t{n}" for n in range(50)]
        start(supervisor, stage, *names)
        await settle()
        await stage.crash(*names)
        assert len(supervisor) == 50
        assert supervisor.tree().counts["restarts_total"] == 50


@simulated
async def test_crashes_further_apart_than_the_period_never_give_a_child_up() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=1, period_s=10.0)
    async with running(supervisor):
        start(supervisor, stage, "acme")
        for _ in range(20):
            await asyncio.sleep(10.1)
            assert await stage.crash("acme") == ["!acme", "+acme"]


@simulated
async def test_a_given_up_child_can_be_started_anew_with_a_whole_budget() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=1)
    async with running(supervisor):
        start(supervisor, stage, "acme")
        await settle()
        await stage.crash("acme")
        await stage.crash("acme")
        assert by_name(supervisor.tree())["acme"].state is State.GIVEN_UP
        start(supervisor, stage, "acme")
        await settle()
        assert supervisor.tree().children == ()
        assert await stage.crash("acme") == ["!acme", "+acme"]
        assert [node.state for node in supervisor.tree().children] == [State.RUNNING]


@simulated
async def test_the_hook_may_start_the_child_that_was_given_up() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=0, on_given_up=lambda name, _: start(supervisor, stage, name))
    async with running(supervisor):
        start(supervisor, stage, "acme")
        await settle()
        assert await stage.crash("acme") == ["!acme", "+acme"]
        assert "acme" in supervisor


@simulated
async def test_a_hook_that_raises_is_reported_and_changes_nothing() -> None:
    def fail(name: str, error: BaseException) -> None:
        raise RuntimeError("the pager is down")

    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=0, on_given_up=fail)
    async with running(supervisor) as task:
        start(supervisor, stage, "acme", "globex")
        await settle()
        await stage.crash("acme")
        assert await stage.finish("globex") == [".globex"]
        assert not task.done()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    assert [str(context["exception"]) for context in loop.failures] == ["the pager is down"]
    loop.failures.clear()


@simulated
async def test_a_name_is_taken_until_its_child_is_gone() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor):
        start(supervisor, stage, "acme")
        with pytest.raises(AlreadyStartedError):
            start(supervisor, stage, "acme")
        await supervisor.terminate_child("acme")
        start(supervisor, stage, "acme")


@simulated
async def test_nothing_is_started_before_the_supervisor_runs_while_it_stops_and_after() -> None:
    stage = Stage()
    refused: list[str] = []
    supervisor = DynamicSupervisor("tenants")

    async def start_another_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                start(supervisor, stage, "other")
            except NotRunningError as error:
                refused.append(str(error))

    with pytest.raises(NotRunningError):
        start(supervisor, stage, "acme")
    async with running(supervisor):
        supervisor.start_child("acme", start_another_at_the_end)
        await settle()
    assert len(refused) == 1
    with pytest.raises(NotRunningError):
        start(supervisor, stage, "acme")
    assert stage.script == []


@simulated
async def test_terminate_waits_until_the_child_is_gone_and_does_not_restart_it() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor):
        start(supervisor, stage, "acme", "globex")
        await settle()
        assert await supervisor.terminate_child("acme") is True
        assert stage.script == ["+acme", "+globex", "-acme"]
        assert "acme" not in supervisor
        assert await supervisor.terminate_child("acme") is False


@simulated
async def test_two_who_end_the_same_child_both_wait_and_its_clean_up_is_left_in_peace() -> None:
    flushed: list[float] = []

    async def flush_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(3.0)
            flushed.append(asyncio.get_running_loop().time())

    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor) as task:
        supervisor.start_child("acme", flush_slowly)
        await settle()
        first = asyncio.create_task(supervisor.terminate_child("acme"))
        await asyncio.sleep(1.0)
        second = asyncio.create_task(supervisor.terminate_child("acme"))
        await asyncio.sleep(1.0)
        await stop(task)
        assert len(flushed) == 1
        assert [await first, await second] == [True, True]


@simulated
async def test_a_child_cannot_wait_for_its_own_end() -> None:
    said: list[str] = []
    supervisor = DynamicSupervisor("tenants")

    async def end_myself() -> None:
        try:
            await supervisor.terminate_child("acme")
        except SupervisionError as error:
            said.append(str(error))

    async with running(supervisor):
        supervisor.start_child("acme", end_myself)
        await settle()
        assert len(said) == 1
        assert "acme" not in supervisor


@simulated
async def test_a_child_that_fails_while_it_is_told_to_end_is_gone_and_its_error_is_told() -> None:
    async def fail_in_clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise CrashError("while flushing")

    stage = Stage()
    supervisor = DynamicSupervisor("tenants", on_event=stage.events.append)
    async with running(supervisor):
        supervisor.start_child("acme", fail_in_clean_up)
        await settle()
        assert await supervisor.terminate_child("acme") is True
        assert "acme" not in supervisor
    last = stage.events[-1]
    assert (last.kind, last.reason) == (EventKind.EXITED, ExitReason.ERROR)
    assert last.error is not None
    assert "while flushing" in last.error.message


@simulated
async def test_a_child_that_crashed_a_moment_before_it_was_told_to_end_is_gone() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor):
        start(supervisor, stage, "acme")
        await settle()
        stage.tell("acme", CrashError("acme"))
        await asyncio.sleep(0)
        assert stage.tasks["acme"].done()
        assert "acme" in supervisor, "the supervisor is yet to hear of it"
        await supervisor.terminate_child("acme")
        await settle()
        assert "acme" not in supervisor
        assert stage.script == ["+acme", "!acme"]


def stubborn(release: asyncio.Event) -> Callable[[], Coroutine[Any, Any, None]]:
    async def live() -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    return live


@simulated
async def test_a_child_that_ignores_its_end_is_abandoned_after_the_deadline_and_its_name_is_free() -> None:
    stage = Stage()
    release = asyncio.Event()
    supervisor = DynamicSupervisor("tenants", shutdown_s=2.0, on_event=stage.events.append)
    async with running(supervisor):
        supervisor.start_child("acme", stubborn(release))
        await settle()
        begun_s = asyncio.get_running_loop().time()
        await supervisor.terminate_child("acme")
        assert asyncio.get_running_loop().time() - begun_s == pytest.approx(2.0)
        assert supervisor.tree().counts["abandoned"] == 1
        assert by_name(supervisor.tree())["acme"].state is State.ABANDONED
        start(supervisor, stage, "acme")
        release.set()
        await settle()
        assert supervisor.tree().counts["abandoned"] == 0
        assert "acme" in supervisor
    kinds = [event.kind for event in stage.events]
    assert EventKind.ABANDONED in kinds
    assert EventKind.ABANDONED_ENDED in kinds


@simulated
async def test_two_who_end_the_same_stubborn_child_abandon_it_once() -> None:
    stage = Stage()
    release = asyncio.Event()
    supervisor = DynamicSupervisor("tenants", shutdown_s=2.0, on_event=stage.events.append)
    async with running(supervisor):
        supervisor.start_child("acme", stubborn(release))
        await settle()
        ended = await asyncio.gather(supervisor.terminate_child("acme"), supervisor.terminate_child("acme"))
        assert list(ended) == [True, True]
        assert [event.kind for event in stage.events] == [EventKind.STARTED, EventKind.ABANDONED]
        release.set()
        await settle()


@simulated
async def test_who_is_cancelled_while_ending_a_child_still_sees_it_out() -> None:
    stage = Stage()
    release = asyncio.Event()
    supervisor = DynamicSupervisor("tenants", shutdown_s=2.0)
    async with running(supervisor):
        supervisor.start_child("acme", stubborn(release))
        await settle()
        ending = asyncio.create_task(supervisor.terminate_child("acme"))
        await asyncio.sleep(1.0)
        assert isinstance(await stop(ending), asyncio.CancelledError)
        assert "acme" not in supervisor
        start(supervisor, stage, "acme")
        release.set()
        await settle()


@simulated
async def test_stopping_ends_all_children_side_by_side_within_one_deadline() -> None:
    release = asyncio.Event()

    async def flush_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1.0)

    supervisor = DynamicSupervisor("tenants", shutdown_s=2.0)
    async with running(supervisor) as task:
        for n in range(100):
            supervisor.start_child(f"slow{n}", flush_slowly)
            supervisor.start_child(f"stubborn{n}", stubborn(release))
        await settle()
        begun_s = asyncio.get_running_loop().time()
        task.cancel()
        await asyncio.sleep(0.5)
        assert isinstance(await stop(task), asyncio.CancelledError)
        assert asyncio.get_running_loop().time() - begun_s == pytest.approx(2.0)
        assert len(supervisor) == 0
        assert supervisor.tree().counts["abandoned"] == 100
    release.set()
    await settle()


@simulated
async def test_a_child_that_crashes_while_all_are_ended_is_not_restarted() -> None:
    stage = Stage()

    async def crash_when_told_to_end() -> None:
        stage.script.append("+")
        try:
            await asyncio.Event().wait()
        finally:
            raise CrashError

    supervisor = DynamicSupervisor("tenants")
    async with running(supervisor):
        supervisor.start_child("acme", crash_when_told_to_end)
        await settle()
    assert stage.script == ["+"]
    assert len(supervisor) == 0


@simulated
async def test_a_cancel_by_a_stranger_is_a_failure() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=1, on_event=stage.events.append)
    async with running(supervisor):
        start(supervisor, stage, "acme")
        await settle()
        assert await stage.cancel_from_outside("acme") == ["-acme", "+acme"]
        assert await stage.cancel_from_outside("acme") == ["-acme"]
        assert "acme" not in supervisor
    assert [event.reason for event in stage.events if event.kind is EventKind.EXITED] == [ExitReason.CANCELLED] * 2


@simulated
async def test_a_life_that_cannot_even_begin_again_counts_as_failing_again() -> None:
    stage = Stage()
    given_up: list[str] = []
    lives = 0

    def life() -> Coroutine[Any, Any, None]:
        nonlocal lives
        lives += 1
        if lives > 1:
            raise RuntimeError("no state to begin with")
        return stage.member_life("acme")()

    supervisor = DynamicSupervisor("tenants", intensity=3, on_given_up=lambda _, error: given_up.append(str(error)))
    async with running(supervisor):
        supervisor.start_child("acme", life)
        await settle()
        await stage.crash("acme")
        assert given_up == ["no state to begin with"]
        assert lives == 1 + 3
        with pytest.raises(RuntimeError, match="no state"):
            supervisor.start_child("acme", life)
        assert "acme" not in supervisor


@simulated
async def test_the_tree_counts_all_and_shows_a_bounded_number_of_the_troubled_newest_first() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=1)
    names = [f"t{n:03}" for n in range(100)]
    async with running(supervisor):
        start(supervisor, stage, *names)
        await settle()
        assert supervisor.tree().children == ()
        await stage.crash(*names[:50])
        await stage.crash("t007")
        tree = supervisor.tree()
        assert tree.counts == {
            "children": 99,
            "troubled": 49,
            "abandoned": 0,
            "given_up_total": 1,
            "restarts_total": 50,
        }
        assert len(tree.children) == TROUBLED_SHOWN_MAX
        assert [(node.name, node.state) for node in tree.children[:3]] == [
            ("t007", State.GIVEN_UP),
            ("t049", State.RUNNING),
            ("t048", State.RUNNING),
        ]
        await supervisor.terminate_child("t049")
        assert "t049" not in by_name(supervisor.tree())


@simulated
async def test_who_was_restarted_last_is_shown_first() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=5)
    async with running(supervisor):
        start(supervisor, stage, "acme", "globex", "initech")
        await settle()
        await stage.crash("acme", "globex", "initech")
        await stage.crash("acme")
        assert [node.name for node in supervisor.tree().children] == ["acme", "initech", "globex"]


@simulated
async def test_no_more_than_a_bounded_number_of_given_up_children_is_remembered() -> None:
    async def crash() -> None:
        raise CrashError

    supervisor = DynamicSupervisor("tenants", intensity=0)
    async with running(supervisor):
        for n in range(GIVEN_UP_KEPT_MAX + 50):
            supervisor.start_child(f"t{n}", crash)
        await settle()
        assert supervisor.tree().counts["given_up_total"] == GIVEN_UP_KEPT_MAX + 50
        assert len(supervisor._given_up) == GIVEN_UP_KEPT_MAX


@simulated
async def test_under_a_static_supervisor_it_is_stopped_and_restarted_like_any_child() -> None:
    stage = Stage()
    tenants = DynamicSupervisor("tenants")
    supervisor = Supervisor("root", children=[stage.child("ledger"), tenants.as_child(), stage.child("sources")])
    async with stage.play(supervisor):
        start(tenants, stage, "acme", "globex")
        await settle()
        assert by_name(supervisor.tree())["tenants"].counts["children"] == 2
        stage.script.clear()
    assert stage.script == ["-sources", "-globex", "-acme", "-ledger"]
    stage.script.clear()
    async with stage.play(supervisor):
        assert stage.script == ["+ledger", "+sources"], "its children are started by whoever wants them"


def test_a_child_that_wants_the_process_to_end_ends_the_supervisor() -> None:
    loop = asyncio.new_event_loop()
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=10)

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(supervisor.run(be_started))
        await asyncio.sleep(0)
        start(supervisor, stage, "acme", "globex")
        await asyncio.sleep(0.01)
        return task

    task = loop.run_until_complete(begin())
    stage.tell("acme", SystemExit(3))
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    assert stage.script == ["+acme", "+globex", "!acme", "-globex"]
    loop.close()


def test_two_children_that_want_the_process_to_end_end_the_supervisor_once() -> None:
    loop = asyncio.new_event_loop()
    unheard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=10)

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(supervisor.run(be_started))
        await asyncio.sleep(0)
        start(supervisor, stage, "acme", "globex")
        await asyncio.sleep(0.01)
        return task

    task = loop.run_until_complete(begin())
    stage.tell("acme", SystemExit(3))
    stage.tell("globex", SystemExit(3))
    while not task.done():
        with pytest.raises(SystemExit):
            loop.run_until_complete(task)
    assert sorted(stage.script) == ["!acme", "!globex", "+acme", "+globex"]
    assert unheard == []
    loop.close()


def test_asyncio_run_that_ends_by_an_interrupt_leaves_no_child_behind() -> None:
    stage = Stage()
    supervisor = DynamicSupervisor("tenants", intensity=10)

    async def main() -> None:
        task = asyncio.create_task(supervisor.run(be_started))
        await asyncio.sleep(0)
        start(supervisor, stage, *(f"t{n}" for n in range(20)))
        asyncio.get_running_loop().call_later(0.02, stage.tell, "t3", KeyboardInterrupt())
        await task

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert len(supervisor) == 0
    assert sum(line.startswith("+") for line in stage.script) == 20


def test_thousands_of_children_are_as_many_tasks_and_less_than_a_kilobyte_each_beside_them() -> None:
    count = 5_000

    async def live() -> None:
        await asyncio.Event().wait()

    async def bytes_of(start_all: Callable[[], Any]) -> tuple[int, Any]:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        kept = start_all()
        await asyncio.sleep(0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before, kept

    async def scenario() -> None:
        supervisor = DynamicSupervisor("tenants")
        names = [f"tenant-{n:05}" for n in range(count)]
        runner = asyncio.create_task(supervisor.run(be_started))
        await asyncio.sleep(0)

        tracemalloc.start()
        bare, tasks = await bytes_of(lambda: [asyncio.create_task(live(), name=name) for name in names])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        del tasks

        others = len(asyncio.all_tasks())
        supervised, _ = await bytes_of(lambda: deque(map(supervisor.start_child, names, repeat(live)), maxlen=0))
        tracemalloc.stop()
        assert len(asyncio.all_tasks()) - others == count
        assert (supervised - bare) / count < 1024
        await stop(runner)
        assert len(supervisor) == 0

    run_simulated(scenario())
