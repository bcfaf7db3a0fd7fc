"""Waiting until a partition is somewhere: for the moments in which one is handed over, and nobody has it."""

import asyncio
from collections.abc import Callable


class Moves:
    """Whoever takes or leaves a partition, or hears that another worker did, tells of it here."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """A partition may be somewhere else now."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait_until(self, holds: Callable[[], bool], limit_s: float) -> bool:
        """Whether it holds, within so many seconds; it is looked at after each move."""
        try:
            async with asyncio.timeout(limit_s):
                while not holds():
                    await self._next.wait()
        except TimeoutError:
            return holds()
        return True
