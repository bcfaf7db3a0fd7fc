"""An event loop whose clock moves only when nothing else can: hours of timers pass in milliseconds, and a program
that waits for nothing at all fails instead of hanging.

Everything that waits by the loop's clock (`asyncio.sleep`, `asyncio.timeout`, `asyncio.wait`) is virtual under it. No
threads: time would jump past them.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from selectors import SelectSelector
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Far from the wall clock and from zero, so that a clock that got mixed in shows at once.
START_S = 1_000_000.0


class DeadlockError(Exception):
    """Nothing is ready and nothing is scheduled: this program would wait for ever."""


class LeftoverTasksError(Exception):
    """The program ended and left tasks behind that nobody owns."""


class SimSelector(SelectSelector):
    """A selector that lets time pass instead of waiting."""

    now_s = START_S

    def select(self, timeout: float | None = None) -> list[Any]:
        if ready := super().select(0):
            return ready
        if timeout is None:
            raise DeadlockError(f"at {self.now_s} s")
        self.now_s += max(0.0, timeout)
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """The stock loop on a virtual clock. `failures` are the contexts that reached the exception handler."""

    def __init__(self, start_s: float = START_S) -> None:
        self._sim_selector = SimSelector()
        self._sim_selector.now_s = start_s
        self.failures: list[dict[str, Any]] = []
        super().__init__(self._sim_selector)
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        return self._sim_selector.now_s


def run_simulated(main: Coroutine[Any, Any, T], *, start_s: float = START_S) -> T:
    """Run to the end on a loop of its own. Raises LeftoverTasksError when tasks are left, and what failed unheard."""
    loop = SimLoop(start_s)
    try:
        result = loop.run_until_complete(main)
        left = sorted(task.get_name() for task in asyncio.all_tasks(loop))
        if left:
            raise LeftoverTasksError(", ".join(left))
        if loop.failures:
            raise AssertionError(loop.failures)
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1.0))  # a stubborn one gets this long, then the loop is closed over it
        loop.close()


def simulated(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async test a plain one that runs on virtual time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_simulated(test(*args, **kwargs))

    return run
