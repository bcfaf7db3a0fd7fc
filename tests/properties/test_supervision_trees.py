"""Random trees under random faults: what must hold whatever happens.

Under one_for_one a restart begins in the very moment of the exit, so that the restart intensity can be checked exactly
from outside; under the other two it comes after siblings have ended, and is checked where the period is endless.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from simulation.loop import run_simulated
from simulation.stage import CrashError, be_started, by_name

from governors.supervision.child import Child, Restart, Started, Strategy
from governors.supervision.errors import IntensityExceededError
from governors.supervision.report import EventKind, State, SupervisionEvent, TreeNode
from governors.supervision.supervisor import Supervisor

ENDLESS_S = 1e9
EPSILON_S = 1e-3


@dataclass(frozen=True)
class Worker:
    restart: Restart
    start_s: float
    clean_up_s: float
    fails_in_clean_up: bool
    name: str = ""


@dataclass(frozen=True)
class Tree:
    restart: Restart
    strategy: Strategy
    intensity: int
    period_s: float
    children: "tuple[Worker | Tree, ...]"
    name: str = ""


@dataclass(frozen=True)
class Fault:
    after_s: float
    victim: int
    kind: str  # crash, return, cancel, and cannot_start: crash and fail the next start


def named(tree: Tree, name: str) -> Tree:
    children: list[Worker | Tree] = []
    for n, child in enumerate(tree.children):
        below = f"{name}.{n}"
        children.append(named(child, below) if isinstance(child, Tree) else replace(child, name=below))
    return replace(tree, name=name, children=tuple(children))


def walk(tree: Tree) -> Iterator[tuple[Tree, Worker | Tree]]:
    """Every child with its parent, in start order."""
    for child in tree.children:
        yield tree, child
        if isinstance(child, Tree):
            yield from walk(child)


RESTARTS = st.sampled_from(list(Restart))
WORKERS = st.builds(
    Worker, RESTARTS, st.sampled_from([0.0, 0.0, 0.5]), st.sampled_from([0.0, 0.0, 1.0, 2.5]), st.booleans()
)


def trees(children: st.SearchStrategy[Worker | Tree]) -> st.SearchStrategy[Tree]:
    return st.builds(
        Tree,
        RESTARTS,
        st.sampled_from(list(Strategy)),
        st.integers(0, 3),
        st.sampled_from([5.0, ENDLESS_S]),
        st.lists(children, min_size=1, max_size=4).map(tuple),
    )


TREES = st.recursive(WORKERS, trees, max_leaves=10).filter(lambda node: isinstance(node, Tree))
FAULTS = st.lists(
    st.builds(
        Fault,
        st.sampled_from([0.0, 0.0, 0.2, 1.0, 4.0]),
        st.integers(0, 20),
        st.sampled_from(["crash", "crash", "return", "cancel", "cannot_start"]),
    ),
    max_size=20,
)


@dataclass
class World:
    """Brings a tree to life and watches it."""

    budgets: dict[str, tuple[Strategy, int, float]] = field(default_factory=dict)
    attempts: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    told_to_end: list[str] = field(default_factory=list)
    orders: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    cannot_start: set[str] = field(default_factory=set)

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def supervisor(self, tree: Tree) -> Supervisor:
        self.budgets[tree.name] = (tree.strategy, tree.intensity, tree.period_s)
        return Supervisor(
            tree.name,
            tree.strategy,
            children=[self.child(child, tree.name) for child in tree.children],
            intensity=tree.intensity,
            period_s=tree.period_s,
            on_event=self.check_giving_up,
        )

    def child(self, spec: Worker | Tree, parent: str) -> Child:
        if isinstance(spec, Worker):
            return Child(spec.name, lambda started: self.work(spec, parent, started), spec.restart)
        supervisor = self.supervisor(spec)

        async def run(started: Started) -> None:
            self.note_attempt(parent, spec.name)
            self.attempts[spec.name].clear()  # each life of a supervisor has its own budget
            await supervisor.run(started)

        return replace(supervisor.as_child(spec.restart), start=run)

    async def work(self, spec: Worker, parent: str, started: Started) -> None:
        self.note_attempt(parent, spec.name)
        task = asyncio.current_task()
        assert task is not None
        assert spec.name not in self.tasks, "never two of one child"
        self.tasks[spec.name] = task
        try:
            await asyncio.sleep(spec.start_s)
            if spec.name in self.cannot_start:
                self.cannot_start.discard(spec.name)
                raise CrashError("cannot start")
            self.orders[spec.name] = asyncio.get_running_loop().create_future()
            started()
            await self.orders[spec.name]
        except asyncio.CancelledError:
            self.told_to_end.append(spec.name)
            await asyncio.sleep(spec.clean_up_s)
            if spec.fails_in_clean_up:
                raise CrashError("in clean-up") from None
            raise
        finally:
            del self.tasks[spec.name]
            self.orders.pop(spec.name, None)

    def note_attempt(self, parent: str, name: str) -> None:
        """A child begins: in order at first, and never more restarts than the budget has."""
        attempts = self.attempts[parent]
        attempts.append((self.now_s(), name))
        strategy, intensity, period_s = self.budgets[parent]
        first_names = list(dict.fromkeys(attempted for _, attempted in attempts))
        assert first_names == sorted(first_names), "first starts are from left to right"
        assert self.restarts_in_window(parent, self.now_s(), longest=False) <= intensity, (strategy, period_s)

    def restarts_in_window(self, parent: str, now_s: float, *, longest: bool) -> int:
        strategy, _, period_s = self.budgets[parent]
        attempts = self.attempts[parent]
        if strategy is Strategy.ONE_FOR_ONE:
            seen: set[str] = set()
            moments_s = []
            for at_s, name in attempts:
                if name in seen:
                    moments_s.append(at_s)
                seen.add(name)
            slack_s = EPSILON_S if longest else -EPSILON_S
            return sum(at_s >= now_s - period_s - slack_s for at_s in moments_s)
        if period_s == ENDLESS_S:
            return max(sum(name == each for _, name in attempts) for each in {name for _, name in attempts}) - 1
        return 0

    def check_giving_up(self, event: SupervisionEvent) -> None:
        strategy, intensity, _ = self.budgets[event.supervisor]
        if event.kind is EventKind.GIVEN_UP and strategy is Strategy.ONE_FOR_ONE:
            assert self.restarts_in_window(event.supervisor, self.now_s(), longest=True) >= intensity, "too early"

    def strike(self, fault: Fault, workers: list[str]) -> None:
        name = workers[fault.victim % len(workers)]
        order = self.orders.get(name)
        if order is None or order.done():
            return
        match fault.kind:
            case "return":
                order.set_result(None)
            case "cancel":
                self.tasks[name].cancel()
            case kind:
                if kind == "cannot_start":
                    self.cannot_start.add(name)
                order.set_exception(CrashError(name))


async def play(tree: Tree, faults: list[Fault], *, stop_at_once: bool, cancels: int) -> None:
    world = World()
    workers = [child.name for _, child in walk(tree) if isinstance(child, Worker)]
    if not workers:
        return
    supervisor = world.supervisor(tree)
    root = asyncio.create_task(supervisor.run(be_started), name="root")
    await asyncio.sleep(20.0)
    for fault in faults:
        await asyncio.sleep(fault.after_s)
        world.strike(fault, workers)
    if not stop_at_once:
        await asyncio.sleep(200.0)
        check_calm(tree, supervisor.tree(), world, ended=root.done())

    world.told_to_end.clear()
    order = {name: n for n, name in enumerate(workers)}
    for _ in range(cancels):
        root.cancel()
        await asyncio.sleep(0.3)
    (outcome,) = await asyncio.gather(root, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError | IntensityExceededError)
    if not stop_at_once:
        told = [order[name] for name in world.told_to_end]
        assert told == sorted(told, reverse=True), "stopped from right to left"
    assert world.tasks == {}, "no child outlives its supervisor"
    assert all(node.state is not State.RUNNING for node in by_name(supervisor.tree()).values())


def check_calm(tree: Tree, node: TreeNode, world: World, *, ended: bool) -> None:
    """When nothing has happened for long: everything runs that should, and the tree says what is so."""
    if ended:
        assert not any(child.name in world.tasks for _, child in walk(tree))
        return
    assert [below.name for below in node.children] == [child.name for child in tree.children]
    for spec, below in zip(tree.children, node.children, strict=True):
        ended = below.state is State.STOPPED
        assert not (ended and spec.restart is Restart.PERMANENT)
        assert ended or below.state is State.RUNNING
        if isinstance(spec, Worker):
            assert ended == (spec.name not in world.tasks)
        else:
            check_calm(spec, below, world, ended=ended)


@settings(max_examples=150, deadline=None)
@given(tree=TREES, faults=FAULTS, stop_at_once=st.booleans(), cancels=st.integers(1, 3))
def test_whatever_happens_the_promises_of_the_tree_hold(
    tree: Tree, faults: list[Fault], stop_at_once: bool, cancels: int
) -> None:
    assert isinstance(tree, Tree)
    run_simulated(play(named(tree, "root"), faults, stop_at_once=stop_at_once, cancels=cancels))
