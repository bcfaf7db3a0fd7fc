"""A supervisor of few, named children: started from left to right, stopped from right to left.

Everything happens in the one task that runs `Supervisor.run`: exits arrive in a mailbox, in the order in which they
happened, and are handled one after the other, as OTP's supervisor process does it. So while a child is starting or
ending, the exits of others wait. Why this is not `asyncio.TaskGroup`: that keeps its tasks in a set, and order is
half of what a supervisor promises.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from governors.supervision.child import (
    ONE_FOR_ONE,
    PERMANENT,
    TEMPORARY,
    TRANSIENT,
    AutoShutdown,
    Child,
    Restart,
    Started,
    Strategy,
    check_specs,
    restart_group,
)
from governors.supervision.errors import (
    ChildStartError,
    ExitedBeforeStartedError,
    IntensityExceededError,
    StartTimeoutError,
    SupervisionError,
)
from governors.supervision.intensity import Exhausted, RestartBudget, record
from governors.supervision.report import (
    ErrorReport,
    EventKind,
    ExitReason,
    OnEvent,
    State,
    SupervisionEvent,
    TreeNode,
    describe,
)
from governors.supervision.tasks import Task, call_hook, ends_process, exit_of, see_out


class _Slot:
    """The place of one child: its specification, and the task that lives it now, if any does."""

    __slots__ = ("child", "error", "error_at_s", "restarts", "since_s", "started", "state", "task")

    def __init__(self, child: Child, now_s: float) -> None:
        self.child = child
        self.task: Task | None = None
        self.started: asyncio.Future[bool] | None = None  # True: it said so; False: it ended first
        self.restarts = 0
        self.error: ErrorReport | None = None
        self.error_at_s = now_s
        self.state = State.STOPPED
        self.since_s = now_s


class _Exit(NamedTuple):
    slot: _Slot
    task: Task


class _TryAgain(NamedTuple):
    """A restart failed. It is tried again through the mailbox, so that whatever came first is handled first."""

    slot: _Slot
    error: BaseException


class _Abandoned(NamedTuple):
    name: str
    since_s: float


class Supervisor:
    """Keeps its children alive by their specifications, and gives up as a whole when that fails too often.

    `intensity` restarts within `period_s` seconds are made; at the next one the supervisor stops its children and
    raises IntensityExceededError out of `run`. Cancelling the task that runs it is the orderly way to stop it.
    Raises BadChildSpecError for specifications that cannot be meant.
    """

    def __init__(
        self,
        name: str,
        strategy: Strategy = ONE_FOR_ONE,
        *,
        children: Sequence[Child],
        intensity: int = 1,
        period_s: float = 5.0,
        auto_shutdown: AutoShutdown = AutoShutdown.NEVER,
        on_event: OnEvent | None = None,
    ) -> None:
        check_specs(children, auto_shutdown)
        self.name = name
        self._strategy = strategy
        self._children = tuple(children)
        self._fresh_budget = RestartBudget(intensity, period_s)
        self._auto_shutdown = auto_shutdown
        self._on_event = on_event
        self._running = False
        self._now: Callable[[], float] = lambda: 0.0  # the loop's clock, once there is a loop
        self._abandoned: dict[Task, _Abandoned] = {}
        self._reset()

    def _reset(self) -> None:
        now_s = self._now()
        self._budget = self._fresh_budget
        self._slots = [_Slot(child, now_s) for child in self._children]
        self._mailbox: deque[_Exit | _TryAgain] = deque()
        self._wake = asyncio.Event()
        self._state = State.STOPPED
        self._since_s = now_s

    def as_child(self, restart: Restart = PERMANENT, *, significant: bool = False) -> Child:
        """This supervisor as a child of another one."""
        return Child(
            self.name,
            self.run,
            restart,
            shutdown_s=None,
            start_s=None,
            significant=significant,
            subtree=self.tree,
        )

    async def run(self, started: Started) -> None:
        """Start the children, call `started`, supervise until the end; no child is alive when this is over.

        Returns after an automatic shutdown. Raises ChildStartError when a child failed at the first start,
        IntensityExceededError when restarts did not help, CancelledError when it was told to stop. A child that raises
        KeyboardInterrupt or SystemExit ends the supervisor with the same.
        """
        if self._running:
            raise SupervisionError(f"supervisor {self.name!r} is running already")
        self._running = True
        self._now = asyncio.get_running_loop().time
        self._reset()
        outcome = State.STOPPED
        try:
            self._enter(State.STARTING)
            await self._start_all()
            self._enter(State.RUNNING)
            started()
            await self._supervise()
        except IntensityExceededError:
            outcome = State.GIVEN_UP
            raise
        finally:
            self._enter(State.STOPPING)
            interrupted = await self._stop_all()
            self._enter(outcome)
            self._mailbox.clear()
            self._running = False
            if interrupted is not None:
                raise interrupted

    async def _start_all(self) -> None:
        for slot in self._slots:
            error = await self._start(slot, State.STARTING)
            if error is not None:
                raise ChildStartError(self.name, slot.child.name) from error

    async def _supervise(self) -> None:
        """Handle exits in the order in which they happened, until an automatic shutdown is due."""
        while True:
            while self._mailbox:
                match self._mailbox.popleft():
                    # Mail about a task or a restart that a sibling's restart has overtaken is out of date.
                    case _Exit(slot, task) if slot.task is task:
                        if await self._handle_exit(slot, task):
                            return
                    case _TryAgain(slot, error) if slot.task is None and slot.state is State.RESTARTING:
                        await self._restart(slot, error)
            self._wake.clear()
            await self._wake.wait()

    async def _handle_exit(self, slot: _Slot, task: Task) -> bool:
        """Restart the child or let it rest, by its specification. True when the supervisor shall end by itself."""
        slot.task = None
        reason, error = self._note_exit(slot, task, asked=False)
        if error is not None and ends_process(error):
            raise error
        restart = slot.child.restart
        if restart is PERMANENT or (restart is TRANSIENT and reason is not ExitReason.NORMAL):
            await self._restart(slot, error)
            return False
        self._set(slot, State.STOPPED)
        return self._ends_with(slot)

    def _ends_with(self, ended: _Slot) -> bool:
        if not ended.child.significant:
            return False
        if self._auto_shutdown is AutoShutdown.ANY_SIGNIFICANT:
            return True
        return all(slot.state is State.STOPPED for slot in self._slots if slot.child.significant)

    async def _restart(self, failed: _Slot, error: BaseException | None) -> None:
        """One restart by the strategy. Raises IntensityExceededError when it would be one too many."""
        outcome = record(self._budget, self._now())
        if isinstance(outcome, Exhausted):
            self._set(failed, State.GIVEN_UP)
            self._emit(EventKind.GIVEN_UP, failed.child.name, error=failed.error)
            raise IntensityExceededError(self.name, failed.child.name, outcome.restarts, outcome.period_s) from error
        self._budget = outcome

        group = restart_group(self._strategy, self._slots, failed)
        for slot in reversed(group):
            await self._terminate(slot)
        for slot in group:
            if slot.child.restart is TEMPORARY:
                continue  # ended by a sibling's restart, and stays so
            failure = await self._start(slot, State.RESTARTING)
            if failure is not None:
                # Those to the right of it stay stopped until it has started: trying it again starts them too.
                self._set(slot, State.RESTARTING)
                self._mailbox.append(_TryAgain(slot, failure))
                return

    async def _start(self, slot: _Slot, phase: State) -> BaseException | None:
        """Start one child and wait until it says that it has started; else what kept it from that."""
        self._set(slot, phase)
        loop = asyncio.get_running_loop()
        slot.started = started = loop.create_future()
        slot.task = task = loop.create_task(_live(slot.child, started), name=f"{self.name}/{slot.child.name}")
        task.add_done_callback(partial(self._task_done, slot))
        await asyncio.wait([started], timeout=slot.child.start_s)

        if started.done() and started.result():
            self._set(slot, State.RUNNING)
            slot.restarts += phase is State.RESTARTING
            self._emit(EventKind.STARTED if phase is State.STARTING else EventKind.RESTARTED, slot.child.name)
            return None
        error = await self._failure_to_start(slot, task)
        self._note_error(slot, error)
        self._emit(EventKind.START_FAILED, slot.child.name, error=slot.error)
        if ends_process(error):
            raise error
        return error

    async def _failure_to_start(self, slot: _Slot, task: Task) -> BaseException:
        if not task.done():
            await self._terminate(slot)
            return StartTimeoutError(f"child {slot.child.name!r} did not start within {slot.child.start_s} s")
        slot.task = None
        _, error = exit_of(task, asked=False)
        return error or ExitedBeforeStartedError(f"child {slot.child.name!r} returned before it had started")

    async def _terminate(self, slot: _Slot) -> None:
        """End one child, within its deadline. A cancellation of the supervisor is raised when that is done."""
        task = slot.task
        interrupted = None
        if task is not None:
            self._set(slot, State.STOPPING)
            asked = not task.done()
            if asked:
                task.cancel()
                interrupted = await see_out((task,), slot.child.shutdown_s)
            slot.task = None
            if task.done():
                self._note_exit(slot, task, asked=asked)
            else:
                self._abandon(slot, task)
        if slot.state is not State.GIVEN_UP:
            self._set(slot, State.STOPPED)
        if interrupted is not None:
            raise interrupted

    async def _stop_all(self) -> asyncio.CancelledError | None:
        """End all children from the right. The first cancellation began this; others change nothing about it."""
        interrupted = None
        for slot in reversed(self._slots):
            try:
                await self._terminate(slot)
            except asyncio.CancelledError as cancelled:
                interrupted = cancelled
        return interrupted

    def _task_done(self, slot: _Slot, task: Task) -> None:
        if slot.task is not task:
            if (abandoned := self._abandoned.pop(task, None)) is not None:
                reason, error = exit_of(task, asked=True)
                report = None if error is None else describe(error)
                self._emit(EventKind.ABANDONED_ENDED, abandoned.name, reason, report)
        elif slot.started is not None and not slot.started.done():
            slot.started.set_result(False)
        else:
            self._mailbox.append(_Exit(slot, task))
            self._wake.set()

    def _abandon(self, slot: _Slot, task: Task) -> None:
        # OTP would kill it. A task can only be asked; so it is kept in sight, and the tree goes on without it.
        self._abandoned[task] = _Abandoned(slot.child.name, self._now())
        self._emit(EventKind.ABANDONED, slot.child.name)

    def _note_exit(self, slot: _Slot, task: Task, *, asked: bool) -> tuple[ExitReason, BaseException | None]:
        reason, error = exit_of(task, asked=asked)
        if error is not None:
            self._note_error(slot, error)
        self._emit(EventKind.EXITED, slot.child.name, reason, slot.error if error is not None else None)
        return reason, error

    def _note_error(self, slot: _Slot, error: BaseException) -> None:
        slot.error = describe(error)
        slot.error_at_s = self._now()

    def _set(self, slot: _Slot, state: State) -> None:
        if slot.state is not state:
            slot.state = state
            slot.since_s = self._now()

    def _enter(self, state: State) -> None:
        self._state = state
        self._since_s = self._now()

    def _emit(
        self, kind: EventKind, child: str, reason: ExitReason | None = None, error: ErrorReport | None = None
    ) -> None:
        if self._on_event is not None:
            call_hook(self._on_event, SupervisionEvent(kind, self.name, child, reason, error))

    def tree(self) -> TreeNode:
        """This supervisor and everything below it, as it is now."""
        now_s = self._now()
        abandoned = [
            TreeNode(lost.name, "worker", State.ABANDONED, since_s=now_s - lost.since_s)
            for lost in self._abandoned.values()
        ]
        return TreeNode(
            self.name,
            "supervisor",
            self._state,
            since_s=now_s - self._since_s,
            children=(*(_node(slot, now_s) for slot in self._slots), *abandoned),
        )


async def _live(child: Child, started: asyncio.Future[bool]) -> None:
    """The task of a child. What `start` raises already when it is called is a failure like any other."""

    def say_started() -> None:
        if not started.done():
            started.set_result(True)

    await child.start(say_started)


def _node(slot: _Slot, now_s: float) -> TreeNode:
    below = slot.child.subtree() if slot.child.subtree is not None else None
    return TreeNode(
        slot.child.name,
        "worker" if below is None else "supervisor",
        slot.state,
        restart=slot.child.restart.value,
        restarts=slot.restarts,
        since_s=now_s - slot.since_s,
        last_error=slot.error,
        last_error_ago_s=None if slot.error is None else now_s - slot.error_at_s,
        counts={} if below is None else below.counts,
        children=() if below is None else below.children,
    )
