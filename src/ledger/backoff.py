"""How long to wait before trying again: longer with each failure, and never in step with others."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ledger.errors import StoreUnavailableError

FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0
PATIENCE_S: Final = 60.0
"""How long a start waits for a store that cannot be reached."""
T = TypeVar("T")


class Backoff:
    """Doubles from `FIRST_S` to `LONGEST_S`, and takes a random part of that (between half and all of it)."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ceiling_s = FIRST_S

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait now; `at_least_s` is what the other side asked for."""
        ceiling_s, self._ceiling_s = self._ceiling_s, min(2 * self._ceiling_s, LONGEST_S)
        return max(at_least_s, ceiling_s * self._rng.uniform(0.5, 1.0))

    async def wait(self, at_least_s: float = 0.0) -> None:
        await asyncio.sleep(self.next_s(at_least_s))


async def with_patience(read: Callable[[], Awaitable[T]], backoff: Backoff, patience_s: float = float("inf")) -> T:
    """What an object store answers. Asks again for as long as it cannot be reached, but no longer than `patience_s`.

    Raises StoreUnavailableError then, StoreRefusedError at once.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + patience_s
    while True:
        try:
            return await read()
        except StoreUnavailableError as error:
            wait_s = backoff.next_s(error.retry_after_s)
            if loop.time() + wait_s > until_s:
                raise
            await asyncio.sleep(wait_s)
