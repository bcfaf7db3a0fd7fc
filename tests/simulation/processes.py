"""Several processes in one thread, each with an event loop of its own, on one virtual clock.

A process can be frozen and thawed (SIGSTOP, SIGCONT), and killed between any two steps (SIGKILL): nothing that it had
yet to do happens. Its monotonic clock has an offset and a rate of its own. What a process hands to an executor runs on
the same thread after a delay, so that nothing depends on the machine that runs the simulation.

The clock jumps from one event to the next.
"""

import random
from asyncio import AbstractEventLoop, Future, Task, TimerHandle, events
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

DISK_CALL_S: Final = (0.0002, 0.02)
"""How long a call in an executor takes: mostly near the first, rarely near the second."""
_CLOSINGS_MAX: Final = 50
_TASKS_KEPT: Final = 64


class Killed(BaseException):
    """Raised where a process is at work when it is killed, and wherever its remains try to do anything."""


class Call(TimerHandle):
    """A callback, with or without a time. Nothing here knows of contexts, so it is run without one."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback: Any = callback
        self._args: Any = args
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None


class Thread(Executor):
    """Runs one call at a time, in order, each taking a while. Give it to whoever wants an executor."""

    def __init__(self) -> None:
        self.busy_until_s = float("-inf")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to end."""


class Cluster:
    """All processes and the clock. `steps` counts the callbacks that were run."""

    def __init__(self, rng: random.Random) -> None:
        self.now_s = 0.0
        self.steps = 0
        self.rng = rng
        self._sequence = 0
        self._heap: list[tuple[float, int, Process | None, Call | Callable[[], object]]] = []
        self._runnable: deque[Process] = deque()

    def at(self, when_s: float, call: Callable[[], object]) -> None:
        """Something happens that belongs to no process."""
        self._sequence += 1
        heappush(self._heap, (max(when_s, self.now_s), self._sequence, None, call))

    def after(self, delay_s: float, call: Callable[[], object]) -> None:
        self.at(self.now_s + delay_s, call)

    def run(self, until_s: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Run until a time or a condition, which is looked at before each moment; says whether it came true."""
        heap, runnable = self._heap, self._runnable
        running: Process | None = None
        try:
            while True:
                while runnable:
                    process = runnable.popleft()
                    if process is not running:
                        running = process
                        events._set_running_loop(process)
                    process.step()
                if done():
                    return True
                if not heap or heap[0][0] > until_s:
                    self.now_s = until_s
                    return False
                when_s, _, owner, call = heappop(heap)
                if owner is None:
                    self.now_s = when_s
                    call()  # type: ignore[operator] # no process: no handle
                elif owner.alive and not call._cancelled:  # type: ignore[union-attr]
                    self.now_s = when_s
                    owner.make_ready(call)  # type: ignore[arg-type]
        finally:
            events._set_running_loop(None)

    def push(self, when_s: float, process: "Process", handle: Call) -> None:
        self._sequence += 1
        heappush(self._heap, (max(when_s, self.now_s), self._sequence, process, handle))

    def enqueue(self, process: "Process") -> None:
        self._runnable.append(process)


class Process(AbstractEventLoop):
    """A process, and the event loop that it runs. `failures` are the contexts that reached the exception handler.
    `steps` counts the callbacks that it ran; before number `kill_at_step` it is killed. `on_killed` hears of its end.
    """

    def __init__(self, cluster: Cluster, name: str, *, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.cluster = cluster
        self.name = name
        self.alive = True
        self.frozen = 0
        self.queued = False
        self.ready: deque[Call] = deque()
        self.failures: list[dict[str, Any]] = []
        self.steps = 0
        self.kill_at_step = -1
        self.on_killed: Callable[[], object] = lambda: None
        self._offset_s = offset_s
        self._rate = rate
        self._tasks: list[Task[Any]] = []
        """Those that have not ended, and perhaps some that have."""
        self._default_thread = Thread()

    # What the cluster does to it

    def start(self, main: Coroutine[Any, Any, T], name: str = "main") -> Task[T]:
        """Begin to run a program."""
        return self.create_task(main, name=name)

    def freeze(self) -> None:
        self.frozen += 1

    def thaw(self, *, for_good: bool = False) -> None:
        """As often as it was frozen; or for good."""
        self.frozen = 0 if for_good else max(0, self.frozen - 1)
        if not self.frozen and self.ready and not self.queued:
            self.queued = True
            self.cluster.enqueue(self)

    def kill(self) -> None:
        """It does nothing any more. What its code would do to clean up is undone by `Killed`."""
        if not self.alive:
            return
        self.alive = False
        self.ready.clear()
        self.on_killed()

    def bury(self) -> None:
        """Let go of a dead process's tasks without a word. Not to be called from within it."""
        with self.within():
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
        self._tasks.clear()

    @contextmanager
    def within(self) -> Iterator[None]:
        """For what asks which loop runs, and is called from outside."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)

    def make_ready(self, handle: Call) -> None:
        self.ready.append(handle)
        if not self.queued:
            self.queued = True
            self.cluster.enqueue(self)

    def step(self) -> None:
        """Run one callback, as the running loop; then it is another process's turn."""
        ready = self.ready
        self.queued = False
        if self.frozen or not ready:
            return
        handle = ready.popleft()
        if not handle._cancelled:
            self.steps += 1
            self.cluster.steps += 1
            if self.steps == self.kill_at_step:
                self.kill()
                return
            try:
                handle._callback(*handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as an event loop does
                self.call_exception_handler({"message": "a callback raised", "exception": error})
        if ready and not self.queued:
            self.queued = True
            self.cluster.enqueue(self)

    def die(self) -> NoReturn:
        """From within: this process ends here."""
        self.kill()
        raise Killed(self.name)

    def check_alive(self) -> None:
        if not self.alive:
            raise Killed(self.name)

    # What an event loop is to the code that runs on it

    def time(self) -> float:
        return self._offset_s + self.cluster.now_s * self._rate

    def call_soon(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None) -> Call:
        handle = Call(callback, args)
        if self.alive:
            self.ready.append(handle)
            if not self.queued:
                self.queued = True
                self.cluster.enqueue(self)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Call:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Call:
        handle = Call(callback, args)
        if self.alive:
            self.cluster.push((when - self._offset_s) / self._rate, self, handle)
        return handle

    def create_future(self) -> Future[Any]:
        return Future(loop=self)

    def create_task(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], *, name: str | None = None,
        context: Context | None = None,
    ) -> Task[T]:  # fmt: skip
        if not self.alive:
            _close(coro)
            raise Killed(self.name)
        task = Task(coro, loop=self, name=name, context=context)
        if len(self._tasks) >= _TASKS_KEPT:
            self._tasks = [one for one in self._tasks if not one.done()]
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> Future[T]:
        self.check_alive()
        thread: Thread = executor or self._default_thread
        done: Future[T] = self.create_future()
        low_s, high_s = DISK_CALL_S
        begin_s = max(self.cluster.now_s, thread.busy_until_s)
        thread.busy_until_s = begin_s + low_s + (high_s - low_s) * self.cluster.rng.random() ** 6

        def call() -> None:
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - an executor hands on whatever it is
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        self.cluster.push(thread.busy_until_s, self, Call(call, ()))
        return done

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.alive and not isinstance(context.get("exception"), Killed):
            self.failures.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self.alive

    def is_closed(self) -> bool:
        return not self.alive


def _close(coro: Any) -> None:
    """End a coroutine at the place where it waits, whatever it wants to wait for in its `finally`."""
    for _ in range(_CLOSINGS_MAX):
        try:
            coro.close()
        except BaseException:  # noqa: BLE001 - it waited again, or said that the process is dead
            continue
        return
