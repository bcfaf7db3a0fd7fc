"""Tell a repeated signal from a new one, exactly, in bounded memory.

The newest `capacity` signals are remembered by tenant, source and id. When one is forgotten, its machine's horizon
moves up to the time it was observed: from then on nothing observed at or before the horizon counts as new, because it
might be the forgotten one. So no signal is ever decided twice, whatever its age; the price is that one which arrives
for the first time, but later than `capacity` others of its partition, is refused as stale.
"""

import heapq
from collections import deque
from collections.abc import Iterable
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

    def state(self) -> "WindowState":
        """All of it, the same for the same receipts, whatever way it came to them."""
        tenants, machines = _Numbers(), _Numbers()
        names = {window: name for name, window in self._tenants.items()}

        def columns(entries: Iterable[_Entry]) -> Entries:
            rows = [
                (observed_us, tenants[names[window]], machines[machine], key, window.seen[key])
                for observed_us, _, window, key, machine in entries
            ]
            observed, owners, owned, keys, indices = (
                map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], [])
            )
            return Entries(observed, owners, owned, keys, indices)

        ahead = sorted(self._ahead)
        newest, aside = columns(self._newest), columns(ahead)
        horizons = [
            (tenants[name], machines[machine], observed_us)
            for name, window in sorted(self._tenants.items())
            for machine, observed_us in sorted(window.horizons.items())
        ]
        return WindowState(
            self.capacity, self._count, newest, aside, [entry[1] for entry in ahead], horizons, tenants.names,
            machines.names,
        )  # fmt: skip

    def restore(self, state: "WindowState") -> None:
        """Be as the window that had this state. Raises ValueError or IndexError for one that no window had."""
        windows = [TenantWindow() for _ in state.tenants]

        def entries(columns: Entries, counts: Iterable[int]) -> list[_Entry]:
            owners = map(windows.__getitem__, columns.tenants)
            machines = map(state.machines.__getitem__, columns.machines)
            found = list(zip(columns.observed_us, counts, owners, columns.keys, machines, strict=True))
            for (_, _, window, key, _), index in zip(found, columns.indices, strict=True):
                window.seen[key] = index
            return found

        first = state.count - len(state.newest.keys) + 1
        newest = deque(entries(state.newest, range(first, state.count + 1)))
        ahead = entries(state.ahead, state.ahead_counts)
        for tenant, machine, observed_us in state.horizons:
            windows[tenant].horizons[state.machines[machine]] = observed_us
        self.capacity, self._count, self._newest, self._ahead = state.capacity, state.count, newest, ahead
        self._tenants = dict(zip(state.tenants, windows, strict=True))

    def _retire(self, oldest: _Entry, now_us: int) -> None:
        if oldest[0] <= now_us:
            _forget(oldest)
        else:
            heapq.heappush(self._ahead, oldest)
        while self._ahead and (self._ahead[0][0] <= now_us or len(self._ahead) > self.capacity):
            _forget(heapq.heappop(self._ahead))


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


def _forget(entry: _Entry) -> None:
    observed_us, _, window, key, machine = entry
    del window.seen[key]
    if observed_us > window.horizons.get(machine, 0):
        window.horizons[machine] = observed_us
