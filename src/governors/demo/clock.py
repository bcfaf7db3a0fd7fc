"""The hour's clock. It stands still until it is stepped, so that an hour takes as long as its work takes."""

import asyncio
import heapq
from itertools import count


class SteppedClock:
    """A wall clock in microseconds since the epoch that somebody moves by hand."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def __call__(self) -> int:
        return self.now_us

    @property
    def sleepers(self) -> int:
        """How many wait for a time that has not come."""
        return len(self._sleepers)

    async def sleep_until(self, at_us: int) -> None:
        """Return once the clock shows `at_us`."""
        if at_us <= self.now_us:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (at_us, next(self._numbers), woken))
        await woken

    def step_to(self, at_us: int) -> None:
        """Move the clock forward and wake those whose time has come."""
        self.now_us = max(self.now_us, at_us)
        while self._sleepers and self._sleepers[0][0] <= self.now_us:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
