"""A supervisor of very many children of one kind, each a failure domain of its own.

A child is one asyncio task and one small record: nothing polls, nothing waits per child, an exit costs the same
however many there are. It is OTP's simple_one_for_one with transient children, but for two things: children have
names, and the restart intensity is each child's own. A child that passes it is given up alone, and no other one
notices.
"""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

from governors.supervision.child import PERMANENT, Child, Restart, Started
from governors.supervision.errors import AlreadyStartedError, NotRunningError, SupervisionError
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

T = TypeVar("T")

Life = Callable[[], Coroutine[Any, Any, None]]
OnGivenUp = Callable[[str, BaseException], None]

# What the tree shows of those in trouble, the newest first. All of them are counted.
TROUBLED_SHOWN_MAX: Final = 20
GIVEN_UP_KEPT_MAX: Final = 1_000


class _Member:
    """One child. Small on purpose: there are as many as there are tenants."""

    __slots__ = ("budget", "error", "error_at_s", "life", "name", "owner", "restarts", "since_s", "state", "task")

    def __init__(self, owner: "DynamicSupervisor", name: str, life: Life, budget: RestartBudget) -> None:
        self.owner = owner
        self.name = name
        self.life = life
        self.budget = budget
        self.restarts = 0
        self.error: ErrorReport | None = None
        self.error_at_s = 0.0
        self.task: Task | None = None
        self.state = State.RUNNING
        self.since_s = 0.0

    def task_done(self, task: Task) -> None:
        self.owner._task_done(self, task)  # noqa: SLF001 - a record of this module; a bound method is the cheapest callback


class _Lost(NamedTuple):
    """A child that was given up or abandoned."""

    name: str
    restarts: int
    since_s: float
    error: ErrorReport | None


class DynamicSupervisor:
    """Starts children on demand; restarts one at once when it raises, until it does so too often.

    A child may be started again `intensity` times within `period_s` seconds; at the next failure it is removed, and
    `on_given_up(name, error)` is called (in the event loop, so it must be quick; it may start the child anew). A child
    that returns is removed. Ending one, or all, takes `shutdown_s` at most.
    """

    def __init__(
        self,
        name: str,
        *,
        intensity: int = 3,
        period_s: float = 60.0,
        shutdown_s: float = 5.0,
        on_given_up: OnGivenUp | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.name = name
        self._fresh_budget = RestartBudget(intensity, period_s)
        self._shutdown_s = shutdown_s
        self._on_given_up = on_given_up
        self._on_event = on_event
        self._now: Callable[[], float] = lambda: 0.0  # the loop's clock, once there is a loop
        self._state = State.STOPPED
        self._since_s = 0.0
        self._members: dict[str, _Member] = {}
        self._troubled: dict[str, _Member] = {}  # those that were restarted, the latest last
        self._given_up: dict[str, _Lost] = {}
        self._abandoned: dict[Task, _Lost] = {}
        self._given_up_total = 0
        self._restarts_total = 0

    def as_child(self, restart: Restart = PERMANENT) -> Child:
        """This supervisor as a child of a static one."""
        return Child(self.name, self.run, restart, shutdown_s=None, start_s=None, subtree=self.tree)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    async def run(self, started: Started) -> None:
        """Accept children until cancelled, then end them all, side by side, and raise CancelledError.

        A child that raises KeyboardInterrupt or SystemExit ends the supervisor with the same.
        """
        if self._state is not State.STOPPED:
            raise SupervisionError(f"supervisor {self.name!r} is running already")
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self._fatal: asyncio.Future[None] = loop.create_future()
        self._enter(State.RUNNING)
        try:
            started()
            await self._fatal
        finally:
            self._enter(State.STOPPING)
            interrupted = await self._stop_all()
            self._enter(State.STOPPED)
            if interrupted is not None:
                raise interrupted

    def start_child(self, name: str, life: Life) -> None:
        """Start a child; `life()` is its whole life, and is called again for each restart.

        Raises NotRunningError before `run` has begun and once it ends, AlreadyStartedError while a child of that name
        is there, and what `life()` raises at once.
        """
        if self._state is not State.RUNNING:
            raise NotRunningError(f"supervisor {self.name!r} is {self._state}: it starts no child {name!r}")
        if name in self._members:
            raise AlreadyStartedError(f"supervisor {self.name!r} has a child {name!r} already")
        member = _Member(self, name, life, self._fresh_budget)
        self._launch(member, life())
        self._members[name] = member
        self._given_up.pop(name, None)
        self._emit(EventKind.STARTED, name)

    async def terminate_child(self, name: str) -> bool:
        """End a child and wait until it is gone, or `shutdown_s` has passed and it is abandoned.

        False when there is none of that name. A child cannot do this to itself: it returns instead.
        """
        member = self._members.get(name)
        if member is None or member.task is None:
            return False
        task = member.task
        if task is asyncio.current_task():
            raise SupervisionError(f"child {name!r} cannot wait for its own end: let it return")
        self._cancel(member, task)
        interrupted = await see_out((task,), self._shutdown_s)
        self._conclude(member, task)
        if interrupted is not None:
            raise interrupted
        return True

    async def _stop_all(self) -> asyncio.CancelledError | None:
        members = [(member, member.task) for member in reversed(self._members.values()) if member.task is not None]
        for member, task in members:
            self._cancel(member, task)
        interrupted = await see_out([task for _, task in members], self._shutdown_s)
        for member, task in members:
            self._conclude(member, task)
        return interrupted

    def _launch(self, member: _Member, life: Coroutine[Any, Any, None]) -> None:
        member.task = asyncio.get_running_loop().create_task(life, name=member.name)
        member.task.add_done_callback(member.task_done)
        member.since_s = self._now()

    def _task_done(self, member: _Member, task: Task) -> None:
        """Every exit comes through here; a fixed amount of work."""
        if member.task is not task:
            if (lost := self._abandoned.pop(task, None)) is not None:
                reason, error = exit_of(task, asked=True)
                self._emit(EventKind.ABANDONED_ENDED, lost.name, reason, None if error is None else describe(error))
            return
        member.task = None
        asked = member.state is State.STOPPING
        reason, error = exit_of(task, asked=asked)
        if error is not None:
            member.error = describe(error)
            member.error_at_s = self._now()
        self._emit(EventKind.EXITED, member.name, reason, None if error is None else member.error)
        if error is None or asked:
            self._remove(member)
        elif ends_process(error):
            self._remove(member)
            if not self._fatal.done():
                self._fatal.set_exception(error)
        else:
            self._restart(member, error)

    def _restart(self, member: _Member, error: BaseException) -> None:
        while True:
            outcome = record(member.budget, self._now())
            if isinstance(outcome, Exhausted):
                self._give_up(member, error)
                return
            member.budget = outcome
            member.restarts += 1
            self._restarts_total += 1
            try:
                life = member.life()
            except Exception as failure:  # noqa: BLE001 - to fail at once is to fail: it counts as another restart
                error = failure
                member.error = describe(failure)
                self._emit(EventKind.START_FAILED, member.name, error=member.error)
                continue
            self._launch(member, life)
            self._troubled.pop(member.name, None)
            self._troubled[member.name] = member
            self._emit(EventKind.RESTARTED, member.name)
            return

    def _give_up(self, member: _Member, error: BaseException) -> None:
        self._remove(member)
        self._given_up_total += 1
        self._given_up[member.name] = _Lost(member.name, member.restarts, self._now(), member.error)
        if len(self._given_up) > GIVEN_UP_KEPT_MAX:
            del self._given_up[next(iter(self._given_up))]
        self._emit(EventKind.GIVEN_UP, member.name, error=member.error)
        if self._on_given_up is not None:
            call_hook(self._on_given_up, member.name, error)

    def _cancel(self, member: _Member, task: Task) -> None:
        # Only once: a second cancel would break off the clean-up that the first one began.
        if member.state is not State.STOPPING:
            member.state = State.STOPPING
            member.since_s = self._now()
            task.cancel()

    def _conclude(self, member: _Member, task: Task) -> None:
        """After the wait for a child's end: it has ended, or it is abandoned."""
        if member.task is not task:
            return
        if task.done():
            self._task_done(member, task)
            return
        member.task = None
        self._remove(member)
        self._abandoned[task] = _Lost(member.name, member.restarts, self._now(), member.error)
        self._emit(EventKind.ABANDONED, member.name)

    def _remove(self, member: _Member) -> None:
        del self._members[member.name]
        self._troubled.pop(member.name, None)

    def _enter(self, state: State) -> None:
        self._state = state
        self._since_s = self._now()

    def _emit(
        self, kind: EventKind, child: str, reason: ExitReason | None = None, error: ErrorReport | None = None
    ) -> None:
        if self._on_event is not None:
            call_hook(self._on_event, SupervisionEvent(kind, self.name, child, reason, error))

    def tree(self) -> TreeNode:
        """Counts of all children, and the newest of those in trouble: given up, abandoned, restarted."""
        now_s = self._now()
        given_up = [_lost_node(lost, State.GIVEN_UP, now_s) for lost in _newest(self._given_up)]
        abandoned = [_lost_node(lost, State.ABANDONED, now_s) for lost in _newest(self._abandoned)]
        troubled = [_member_node(member, now_s) for member in _newest(self._troubled)]
        counts = {
            "children": len(self._members),
            "troubled": len(self._troubled),
            "abandoned": len(self._abandoned),
            "given_up_total": self._given_up_total,
            "restarts_total": self._restarts_total,
        }
        return TreeNode(
            self.name,
            "supervisor",
            self._state,
            since_s=now_s - self._since_s,
            counts=counts,
            children=(*given_up, *abandoned, *troubled)[:TROUBLED_SHOWN_MAX],
        )


def _newest(entries: dict[Any, T]) -> list[T]:
    return list(islice(reversed(entries.values()), TROUBLED_SHOWN_MAX))


def _lost_node(lost: _Lost, state: State, now_s: float) -> TreeNode:
    return TreeNode(
        lost.name,
        "worker",
        state,
        restarts=lost.restarts,
        since_s=now_s - lost.since_s,
        last_error=lost.error,
    )


def _member_node(member: _Member, now_s: float) -> TreeNode:
    return TreeNode(
        member.name,
        "worker",
        member.state,
        restarts=member.restarts,
        since_s=now_s - member.since_s,
        last_error=member.error,
        last_error_ago_s=None if member.error is None else now_s - member.error_at_s,
    )
