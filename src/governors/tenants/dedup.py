"""Tell a repeated signal from a new one, exactly, in bounded memory.

The newest `capacity` signals are remembered by tenant, source and id. When one is forgotten, its machine's horizon
moves up to the time it was observed: from then on nothing observed at or before the horizon counts as new, because it
might be the forgotten one. So no signal is ever decided twice, whatever its age; the price is that one which arrives
for the first time, but later than `capacity` others of its partition, is refused as stale.
"""

import heapq
from collections import deque
from typing import Final

from governors.tenants.decide import window_key
from governors.tenants.records import SEPARATOR
from ledger.format.receipt import Receipt

# What is decided once is decided: repetitions of these are told from new ones. A refused signal may come again.
REMEMBERED: Final = frozenset({"decided", "stale", "rejected", "dead_lettered"})


class TenantWindow:
    """One tenant's part: `seen` maps a signal's key to its receipt's index, `horizons` a machine's key to µs."""

    __slots__ = ("horizons", "seen")

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.horizons: dict[str, int] = {}


def signal_key(source: str, signal_id: str) -> str:
    """A signal's key within its tenant."""
    return source + SEPARATOR + signal_id


# Observed at (µs), a count that makes entries of the same time comparable, and where to find it. A plain tuple: one is
# made for every signal, and a named one takes five times as long.
_Entry = tuple[int, int, TenantWindow, str, str]


class DedupWindow:
    """All tenants' windows, and the order in which their entries are forgotten.

    Entries dated ahead of the clock are kept aside until it passes them: as horizons they would refuse honest
    signals. There are at most `capacity` of those too.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tenants: dict[str, TenantWindow] = {}
        self._newest: deque[_Entry] = deque()
        self._ahead: list[_Entry] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._newest) + len(self._ahead)

    def tenant(self, pseudonym: str) -> TenantWindow:
        """The window of one tenant; made empty when it is new."""
        window = self._tenants.get(pseudonym)
        if window is None:
            window = self._tenants[pseudonym] = TenantWindow()
        return window

    def remember(self, window: TenantWindow, key: str, machine: str, observed_us: int, index: int, now_us: int) -> None:
        """Note that a signal has its receipt; forget the oldest when there are too many."""
        window.seen[key] = index
        self._count += 1
        self._newest.append((observed_us, self._count, window, key, machine))
        if len(self._newest) > self.capacity:
            self._retire(self._newest.popleft(), now_us)

    def resize(self, capacity: int, now_us: int) -> None:
        """Remember more signals from now on, or fewer; what was forgotten stays so."""
        self.capacity = capacity
        while len(self._newest) > capacity:
            self._retire(self._newest.popleft(), now_us)

    def _retire(self, oldest: _Entry, now_us: int) -> None:
        if oldest[0] <= now_us:
            _forget(oldest)
        else:
            heapq.heappush(self._ahead, oldest)
        while self._ahead and (self._ahead[0][0] <= now_us or len(self._ahead) > self.capacity):
            _forget(heapq.heappop(self._ahead))


def recall(window: DedupWindow, index: int, receipt: Receipt) -> None:
    """Remember a signal from its receipt, as it was remembered when it was decided."""
    if receipt.source and receipt.outcome in REMEMBERED:
        tenant = window.tenant(receipt.tenant)
        key = signal_key(receipt.source, receipt.event_id)
        if key not in tenant.seen:
            machine = window_key(receipt.fsm.machine, receipt.fsm.subject)
            window.remember(tenant, key, machine, receipt.observed_us, index, receipt.ts_us)


def _forget(entry: _Entry) -> None:
    observed_us, _, window, key, machine = entry
    del window.seen[key]
    if observed_us > window.horizons.get(machine, 0):
        window.horizons[machine] = observed_us
