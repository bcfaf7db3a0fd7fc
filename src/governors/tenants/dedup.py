"""Tell a repeated signal from a new one, exactly, in bounded memory.

The newest `capacity` signals are remembered by tenant, source and id. When one is forgotten, its machine's horizon
moves up to the time it was observed: from then on nothing observed at or before the horizon counts as new, because it
might be the forgotten one. So no signal is ever decided twice, whatever its age; the price is that one which arrives
for the first time, but later than `capacity` others of its partition, is refused as stale.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from sys import intern
from typing import Final

from msgspec import Struct

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


# Observed at (µs), which of all it was, so that entries of the same time can be compared, and where to find it.
_Ahead = tuple[int, int, TenantWindow, str, str]


class DedupWindow:
    """All tenants' windows, and the order in which their entries are forgotten.

    Entries dated ahead of the clock are kept aside until it passes them: as horizons they would refuse honest
    signals. There are at most `capacity` of those too.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tenants: dict[str, TenantWindow] = {}
        # In columns, for there are many: half of what a tuple for each takes, and nothing for the collector to look at.
        self._keys: deque[str] = deque()
        self._windows: deque[TenantWindow] = deque()
        self._machines: deque[str] = deque()
        self._observed_us: deque[int] = deque()
        self._ahead: list[_Ahead] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._keys) + len(self._ahead)

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
        self._keys.append(key)
        self._windows.append(window)
        self._machines.append(intern(machine))
        self._observed_us.append(observed_us)
        if len(self._keys) > self.capacity:
            self._retire_oldest(now_us)

    def resize(self, capacity: int, now_us: int) -> None:
        """Remember more signals from now on, or fewer; what was forgotten stays so."""
        self.capacity = capacity
        while len(self._keys) > capacity:
            self._retire_oldest(now_us)

    def state(self) -> "WindowState":
        """All of it, the same for the same receipts, whatever way it came to them."""
        tenants, machines = _Numbers(), _Numbers()
        names = {window: name for name, window in self._tenants.items()}

        def entries(
            observed_us: Iterable[int], windows: Sequence[TenantWindow], keys: Sequence[str], owned: Iterable[str]
        ) -> Entries:
            indices = [window.seen[key] for window, key in zip(windows, keys, strict=True)]
            owners = [tenants[names[window]] for window in windows]
            return Entries(list(observed_us), owners, [machines[each] for each in owned], list(keys), indices)

        newest = entries(self._observed_us, self._windows, self._keys, self._machines)
        ahead = sorted(self._ahead)
        observed_us, counts, windows, keys, owned = zip(*ahead, strict=True) if ahead else ((), (), (), (), ())
        aside = entries(observed_us, windows, keys, owned)
        horizons = [
            (tenants[name], machines[machine], observed_us)
            for name, window in sorted(self._tenants.items())
            for machine, observed_us in sorted(window.horizons.items())
        ]
        return WindowState(
            self.capacity, self._count, newest, aside, list(counts), horizons, tenants.names, machines.names,
        )  # fmt: skip

    def restore(self, state: "WindowState") -> None:
        """Be as the window that had this state. Raises ValueError or IndexError for one that no window had."""
        windows = [TenantWindow() for _ in state.tenants]
        machines = [intern(machine) for machine in state.machines]

        def entries(columns: Entries) -> tuple[deque[int], deque[TenantWindow], deque[str], deque[str]]:
            owners = deque(map(windows.__getitem__, columns.tenants))
            owned = deque(map(machines.__getitem__, columns.machines))
            if not len(columns.observed_us) == len(owners) == len(owned):
                raise ValueError("the columns of a window are not equally long")
            for window, key, index in zip(owners, columns.keys, columns.indices, strict=True):
                window.seen[key] = index
            return deque(columns.observed_us), owners, deque(columns.keys), owned

        newest = entries(state.newest)
        observed_us, owners, keys, owned = entries(state.ahead)
        ahead = list(zip(observed_us, state.ahead_counts, owners, keys, owned, strict=True))
        for tenant, machine, observed in state.horizons:
            windows[tenant].horizons[machines[machine]] = observed
        self._tenants = dict(zip(state.tenants, windows, strict=True))
        self.capacity, self._count, self._ahead = state.capacity, state.count, ahead
        self._observed_us, self._windows, self._keys, self._machines = newest

    def _retire_oldest(self, now_us: int) -> None:
        observed_us, window = self._observed_us.popleft(), self._windows.popleft()
        key, machine = self._keys.popleft(), self._machines.popleft()
        if observed_us <= now_us:
            _forget(observed_us, window, key, machine)
        else:
            heapq.heappush(self._ahead, (observed_us, self._count - len(self._keys), window, key, machine))
        while self._ahead and (self._ahead[0][0] <= now_us or len(self._ahead) > self.capacity):
            observed_us, _, window, key, machine = heapq.heappop(self._ahead)
            _forget(observed_us, window, key, machine)


class Entries(Struct, array_like=True):
    """Signals that are remembered, in columns. `tenants` and `machines` are positions in the state's lists."""

    observed_us: list[int]
    tenants: list[int]
    machines: list[int]
    keys: list[str]
    indices: list[int]


class WindowState(Struct, array_like=True):
    """A window as plain data. `count` is how many signals were ever remembered; `newest` are in order, `ahead` by
    time and `ahead_counts`. A horizon is a tenant's position, a machine's, and µs.
    """

    capacity: int
    count: int
    newest: Entries
    ahead: Entries
    ahead_counts: list[int]
    horizons: list[tuple[int, int, int]]
    tenants: list[str]
    machines: list[str]


class _Numbers(dict[str, int]):
    """Numbers names from 0, in the order in which they are asked for."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number

    @property
    def names(self) -> list[str]:
        return list(self)


def recall(window: DedupWindow, index: int, receipt: Receipt) -> None:
    """Remember a signal from its receipt, as it was remembered when it was decided."""
    if receipt.source and receipt.outcome in REMEMBERED:
        tenant = window.tenant(receipt.tenant)
        key = signal_key(receipt.source, receipt.event_id)
        if key not in tenant.seen:
            machine = window_key(receipt.fsm.machine, receipt.fsm.subject)
            window.remember(tenant, key, machine, receipt.observed_us, index, receipt.ts_us)


def _forget(observed_us: int, window: TenantWindow, key: str, machine: str) -> None:
    del window.seen[key]
    if observed_us > window.horizons.get(machine, 0):
        window.horizons[machine] = observed_us
