"""What both supervisors need of asyncio tasks: how one ended, and seeing some out within a deadline."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, ParamSpec

from governors.supervision.report import ExitReason

P = ParamSpec("P")
Task = asyncio.Task[None]


def exit_of(task: Task, *, asked: bool) -> tuple[ExitReason, BaseException | None]:
    """How a finished task ended. `asked` says that its supervisor had told it to.

    Reading the exception here is also what keeps asyncio from complaining that nobody did.
    """
    try:
        error = task.exception()
    except asyncio.CancelledError as cancelled:
        # A CancelledError that nobody here asked for (a library that leaks one, a stranger's cancel) is a failure: as
        # an orderly end it would make a transient child vanish without a word.
        return (ExitReason.SHUTDOWN, None) if asked else (ExitReason.CANCELLED, cancelled)
    return (ExitReason.NORMAL, None) if error is None else (ExitReason.ERROR, error)


def ends_process(error: BaseException | None) -> bool:
    """Whether the error asks for the end of the process: no supervisor may answer that with a restart."""
    return isinstance(error, KeyboardInterrupt | SystemExit)


async def see_out(tasks: "Collection[asyncio.Future[Any]]", shutdown_s: float | None) -> asyncio.CancelledError | None:
    """Wait up to `shutdown_s` (None: without limit) until tasks that were cancelled have ended.

    At the deadline the rest is cancelled once more, which breaks off a clean-up that hangs; whoever survives that is
    not done() when this returns. A cancellation of the caller does not shorten the wait: it is returned, to be raised
    when everything is in order.
    """
    interrupted = await _outlast(tasks, shutdown_s)
    if shutdown_s and any(not task.done() for task in tasks):
        for task in tasks:
            task.cancel()
        interrupted = await _outlast(tasks, 0.0) or interrupted
    return interrupted


async def _outlast(tasks: "Collection[asyncio.Future[Any]]", timeout_s: float | None) -> asyncio.CancelledError | None:
    """Wait until all are done or the time is over, whatever cancellations arrive meanwhile; returns the last one."""
    loop = asyncio.get_running_loop()
    deadline_s = None if timeout_s is None else loop.time() + timeout_s
    interrupted = None
    while pending := [task for task in tasks if not task.done()]:
        left_s = None if deadline_s is None else max(0.0, deadline_s - loop.time())
        try:
            _, still = await asyncio.wait(pending, timeout=left_s)
        except asyncio.CancelledError as cancelled:
            interrupted = cancelled
            continue
        if still:
            break
    return interrupted


def call_hook(hook: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a hook that others wrote. Its failure is reported by the loop and breaks nothing here."""
    try:
        hook(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whatever a hook raises, supervision goes on
        context = {"message": f"supervision hook {hook!r} failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
