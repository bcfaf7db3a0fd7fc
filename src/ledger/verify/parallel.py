"""Work on many pieces in several processes, its results in order, never far ahead of whoever takes them."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

_AHEAD: Final = 2
"""Pieces under way for each process: one it works on, and one that waits."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """`work(item)` for each item. With one process, here and now; with more, in forks of this one, which must not have
    threads then: a fork copies their locks and not them.

    Raises what `work` raises, and OSError if a process ends before its work.
    """
    if processes <= 1:
        yield from map(work, items)
        return
    under_way: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                if len(under_way) > _AHEAD * processes:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise OSError("a process that verified a part of the log ended before it was done") from error
        finally:
            for future in under_way:
                future.cancel()
