import asyncio

import msgspec
import pytest
from simulation.loop import SimLoop, simulated
from simulation.stage import Stage, by_name, settle

from governors.supervision.child import Child, Started
from governors.supervision.dynamic import DynamicSupervisor
from governors.supervision.report import (
    TRACEBACK_CHARS_MAX,
    EventKind,
    ExitReason,
    State,
    SupervisionEvent,
    TreeNode,
    describe,
)
from governors.supervision.supervisor import Supervisor


@simulated
async def test_the_tree_shows_every_child_below_in_start_order() -> None:
    stage = Stage()
    tenants = DynamicSupervisor("tenants")
    below = Supervisor("edges", children=[stage.child("pull"), stage.child("http")])
    supervisor = Supervisor("root", children=[stage.child("ledger"), tenants.as_child(), below.as_child()])
    async with stage.play(supervisor):
        tree = supervisor.tree()
        assert [(node.name, node.kind) for node in tree.children] == [
            ("ledger", "worker"),
            ("tenants", "supervisor"),
            ("edges", "supervisor"),
        ]
        assert [node.name for node in tree.children[2].children] == ["pull", "http"]
        assert {node.state for node in by_name(tree).values()} == {State.RUNNING}
        assert tree.children[1].counts["children"] == 0


@simulated
async def test_the_tree_can_be_read_before_anything_runs_and_after_all_is_over() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a")])
    assert supervisor.tree().state is State.STOPPED
    async with stage.play(supervisor):
        assert supervisor.tree().state is State.RUNNING
    assert supervisor.tree().state is State.STOPPED


@simulated
async def test_the_tree_says_since_when_and_how_long_ago() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a"), stage.child("b")])
    async with stage.play(supervisor):
        await asyncio.sleep(60.0)
        await stage.crash("a")
        await asyncio.sleep(15.0)
        a, b = supervisor.tree().children
        assert a.since_s == pytest.approx(15.0, abs=0.01)
        assert a.last_error_ago_s == pytest.approx(15.0, abs=0.01)
        assert b.since_s == pytest.approx(75.0, abs=0.01)
        assert b.last_error_ago_s is None


@simulated
async def test_a_starting_child_and_those_that_wait_behind_it_can_be_told_apart() -> None:
    stage = Stage()

    async def hang(started: Started) -> None:
        await asyncio.Event().wait()

    supervisor = Supervisor("root", children=[stage.child("a"), Child("slow", hang), stage.child("c")])
    async with stage.play(supervisor):
        states = [node.state for node in supervisor.tree().children]
        assert states == [State.RUNNING, State.STARTING, State.STOPPED]
        assert supervisor.tree().state is State.STARTING


@simulated
async def test_a_tree_becomes_json_and_comes_back() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a"), DynamicSupervisor("tenants").as_child()])
    async with stage.play(supervisor):
        await stage.crash("a")
        tree = supervisor.tree()
        assert msgspec.json.decode(msgspec.json.encode(tree), type=TreeNode) == tree


@simulated
async def test_every_step_of_a_childs_life_is_told() -> None:
    stage = Stage()
    supervisor = Supervisor("root", children=[stage.child("a")], intensity=2, on_event=stage.events.append)
    async with stage.play(supervisor):
        stage.failing_starts["a"] = 1
        await stage.crash("a")
    assert [(event.kind, event.reason, event.error is not None) for event in stage.events] == [
        (EventKind.STARTED, None, False),
        (EventKind.EXITED, ExitReason.ERROR, True),
        (EventKind.START_FAILED, None, True),
        (EventKind.RESTARTED, None, False),
        (EventKind.EXITED, ExitReason.SHUTDOWN, False),
    ]
    assert {(event.supervisor, event.child) for event in stage.events} == {("root", "a")}


@simulated
async def test_a_hook_that_raises_is_reported_and_changes_nothing() -> None:
    def raise_always(event: SupervisionEvent) -> None:
        raise RuntimeError("the log is full")

    stage = Stage()
    async with stage.play(Supervisor("root", children=[stage.child("a")], on_event=raise_always)):
        assert await stage.crash("a") == ["!a", "+a"]
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    assert [str(context["exception"]) for context in loop.failures] == ["the log is full"] * 4
    loop.failures.clear()


def test_a_very_long_traceback_keeps_its_first_cause_and_its_last_frame() -> None:
    def fall(depth: int) -> None:
        if depth:
            try:
                fall(depth - 1)
            except ValueError as error:
                raise ValueError(f"level {depth} " + "x" * 500) from error
        raise ValueError("the root of it")

    with pytest.raises(ValueError, match="level 40") as caught:
        fall(40)
    report = describe(caught.value)
    assert len(report.traceback) < TRACEBACK_CHARS_MAX + 100
    assert "the root of it" in report.traceback
    assert report.traceback.rstrip().endswith("x")
    assert len(report.message) <= 500


def test_an_exception_that_cannot_even_be_printed_is_described() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "UnprintableError" in describe(UnprintableError()).message


@simulated
async def test_the_tree_of_a_child_given_as_a_plain_coroutine_function_is_a_worker() -> None:
    stage = Stage()
    inner = Supervisor("inner", children=[stage.child("a")])
    supervisor = Supervisor("root", children=[Child("inner", inner.run)])
    async with stage.play(supervisor):
        await settle()
        (node,) = supervisor.tree().children
        assert (node.kind, node.children) == ("worker", ())
        assert stage.script == ["+a"]
