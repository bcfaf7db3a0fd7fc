"""Deadlines of all machines in one heap. They are durable because every machine's record holds its own.

A deadline that moves later costs nothing: the queued entry fires early and the tenant sets it anew. Only one that
moves earlier is queued again.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

# How long the loop may sleep in one go: a wall clock that is stepped is noticed by then.
RECHECK_S: Final = 1.0
FIRED_PER_TURN: Final = 256


RETRY_FIRST_US: Final = 60_000_000
RETRY_LAST_US: Final = 3_600_000_000


def retry_after_us(failures: int, pseudonym: str) -> int:
    """How long after its so many-th failed timeout a machine is asked again: a minute, doubled up to an hour.

    Up to half of that is added by who the tenant is: what all tenants fail on must not come back for all at once.
    """
    backoff_us = min(RETRY_FIRST_US << min(failures - 1, 16), RETRY_LAST_US)
    return backoff_us + backoff_us // 2 * int(pseudonym[:4], 16) // 0xFFFF


class Timers:
    """`on_due(tenant, key)` is called for each machine whose queued deadline has passed."""

    def __init__(self, clock_us: Callable[[], int], on_due: Callable[[str, str], None]) -> None:
        self._clock_us = clock_us
        self._on_due = on_due
        self._heap: list[tuple[int, str, str]] = []
        self._queued: dict[tuple[str, str], int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queued)

    def arm(self, tenant: str, key: str, deadline_us: int) -> None:
        """Make sure that the machine is looked at no later than `deadline_us`."""
        queued_us = self._queued.get((tenant, key))
        if queued_us is not None and queued_us <= deadline_us:
            return
        self._queued[tenant, key] = deadline_us
        heapq.heappush(self._heap, (deadline_us, tenant, key))
        if self._heap[0][0] == deadline_us:
            self._wake.set()

    def recheck(self) -> None:
        """Look now: whoever moves the clock by hand does not wait for the loop to notice."""
        self._wake.set()

    def is_due(self) -> bool:
        """Whether a queued deadline has passed and was not fired yet."""
        return bool(self._heap) and self._heap[0][0] <= self._clock_us()

    def fire_due(self) -> float:
        """Call `on_due` for what is due, a bounded number at once; returns the seconds until the next look."""
        now_us = self._clock_us()
        for _ in range(FIRED_PER_TURN):
            if not self._heap:
                return RECHECK_S
            deadline_us, tenant, key = self._heap[0]
            if deadline_us > now_us:
                return min((deadline_us - now_us) / 1_000_000, RECHECK_S)
            heapq.heappop(self._heap)
            # An entry that was queued again for an earlier time leaves its later one behind.
            if self._queued.get((tenant, key)) == deadline_us:
                del self._queued[tenant, key]
                self._on_due(tenant, key)
        return 0.0

    async def run(self) -> None:
        """Fire deadlines as they come."""
        while True:
            self._wake.clear()
            pause_s = self.fire_due()
            if pause_s <= 0:
                await asyncio.sleep(0)
                continue
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
