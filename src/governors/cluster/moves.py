"""Waiting until a partition is somewhere: for the moments in which one is handed over, and nobody has it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from ledger.backoff import Backoff

T = TypeVar("T")

OWNER_WAIT_S: Final = 5.0
"""How long a request waits for a partition that nobody has, as while it is handed over."""
RETRY_S: Final = 1.0
"""When whoever is sent away may come again."""


class NobodyHasItError(Exception):
    """No worker is known to have a partition, for as long as that was waited for."""


class Moves:
    """Whoever takes or leaves a partition, or hears that another worker did, tells of it here. `look` has the others
    looked at soon, and what they say told here: it is asked for as long as somebody waits.
    """

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self._look = look
        self._next = asyncio.Event()
        self._waiting = Counter[int]()
        self.missed = asyncio.Event()
        """Set while somebody waits."""

    @property
    def waited_for(self) -> list[int]:
        """The partitions that somebody waits for."""
        return list(self._waiting)

    def tell(self) -> None:
        """A partition may be somewhere else now."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait_until(self, holds: Callable[[], bool], limit_s: float) -> bool:
        """Whether it holds, within so many seconds; it is looked at after each move."""
        try:
            async with asyncio.timeout(limit_s):
                while not holds():
                    self._look()
                    await self._next.wait()
        except TimeoutError:
            return holds()
        return True

    async def wait_for(self, partition: int, is_somewhere: Callable[[], bool], limit_s: float) -> bool:
        """The same for a partition, which others are asked for meanwhile."""
        self._waiting[partition] += 1
        self.missed.set()
        try:
            return await self.wait_until(is_somewhere, limit_s)
        finally:
            self._waiting[partition] -= 1
            if not self._waiting[partition]:
                del self._waiting[partition]
            if not self._waiting:
                self.missed.clear()

    async def carry_out(
        self,
        partition: int,
        do: Callable[[], Awaitable[T]],
        is_somewhere: Callable[[], bool],
        undone: type[Exception] | tuple[type[Exception], ...],
        backoff: Backoff,
        limit_s: float,
    ) -> T:
        """What comes of `do`, begun where a partition is somewhere, and once more after each `undone`, as soon as it
        may be somewhere else. After `limit_s` raises that, or NobodyHasItError.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + limit_s
        while True:
            if not await self.wait_for(partition, is_somewhere, give_up_s - loop.time()):
                raise NobodyHasItError
            try:
                return await do()
            except undone:
                if loop.time() > give_up_s:
                    raise
            self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_s()):
                    await self._next.wait()
