"""The same work for many items, some of them at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


async def in_turns(work: Callable[[Item], Coroutine[Any, Any, object]], items: Sequence[Item], at_once: int) -> None:
    """Call `work` for each item, `at_once` of them at a time. The first error ends it, and the calls beside it."""
    for start in range(0, len(items), at_once):
        try:
            async with asyncio.TaskGroup() as tasks:
                for item in items[start : start + at_once]:
                    tasks.create_task(work(item))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
