"""One subscription of the fake Pub/Sub: what is ready, what is leased to whom and until when, and in which order.

No I/O, no clock: the time comes as `now_s`, on the event loop's clock.
"""

import asyncio
from bisect import insort
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from google.pubsub_v1.types import pubsub as types

ReceivedMessage: Final[Any] = types.ReceivedMessage.pb()
PULL_BYTES_MAX: Final = 10 * 1024 * 1024


class _Entry:
    """One message in one subscription."""

    __slots__ = ("attempts", "failures", "message", "outstanding", "sequence")

    def __init__(self, sequence: int, message: Any) -> None:
        self.sequence = sequence
        self.message = message
        self.attempts = 0
        self.failures = 0
        self.outstanding: set[str] = set()


class _Key:
    """The messages of one ordering key that are not out, in order, and how many are."""

    __slots__ = ("out", "waiting")

    def __init__(self) -> None:
        self.waiting: list[_Entry] = []
        self.out = 0


class Backlog:
    """The state of one subscription. `give_up(message, attempts)` moves a message elsewhere and says whether it did.

    `changed` is set when something may have become ready.
    """

    def __init__(self, config: Any, messages_max: int, give_up: Callable[[Any, int], bool]) -> None:
        self.config = config
        self.changed = asyncio.Event()
        self._messages_max = messages_max
        self._give_up = give_up
        self._ready: list[tuple[int, _Entry | str]] = []
        self._later: list[tuple[float, int, _Entry]] = []
        self._keys: dict[str, _Key] = {}
        self._leases: dict[str, tuple[_Entry, float]] = {}
        self._expiries: list[tuple[float, str]] = []
        self._size = 0
        self._sequence = 0
        self._ack_number = 0

    @property
    def size(self) -> int:
        """Messages not yet acknowledged."""
        return self._size

    def has_room(self, messages: int) -> bool:
        return self._size + messages <= self._messages_max

    def add(self, message: Any) -> None:
        self._sequence += 1
        self._size += 1
        self._make_ready(_Entry(self._sequence, message))

    def take(self, messages_max: int, now_s: float, takes_duplicate: Callable[[], bool]) -> list[Any]:
        """Lease what is ready, oldest first, as ReceivedMessages; twice where `takes_duplicate` says so."""
        self._bring_back(now_s)
        taken: list[Any] = []
        size_bytes = 0
        while self._ready and len(taken) < messages_max and size_bytes < PULL_BYTES_MAX:
            run = self._pop_run(messages_max - len(taken))
            room = messages_max - len(taken) - len(run)
            for entry in run:
                size_bytes += len(entry.message.data)
                taken.append(self._lease(entry, now_s))
                if room and takes_duplicate():
                    room -= 1
                    taken.append(self._lease(entry, now_s))
        return taken

    def next_change_s(self) -> float | None:
        """When a lease or a retry's wait ends, if nothing else happens before."""
        times = [heap[0][0] for heap in (self._expiries, self._later) if heap]
        return min(times, default=None)

    def acknowledge(self, ack_id: str, now_s: float) -> bool:
        """Whether it was leased; if not, it lapsed or was acknowledged before, and nothing happens."""
        self._bring_back(now_s)
        lease = self._leases.pop(ack_id, None)
        if lease is None:
            return False
        entry, _ = lease
        for other in entry.outstanding - {ack_id}:
            del self._leases[other]
        entry.outstanding.clear()
        self._size -= 1
        self._leave_key(entry)
        return True

    def modify_deadline(self, ack_id: str, deadline_s: int, now_s: float) -> bool:
        """Whether it was leased, as for `acknowledge`."""
        self._bring_back(now_s)
        lease = self._leases.get(ack_id)
        if lease is None:
            return False
        entry, _ = lease
        if deadline_s == 0:
            self._end_lease(ack_id, entry, now_s)
        else:
            self._leases[ack_id] = (entry, now_s + deadline_s)
            heappush(self._expiries, (now_s + deadline_s, ack_id))
        return True

    def _lease(self, entry: _Entry, now_s: float) -> Any:
        self._ack_number += 1
        ack_id = f"{self.config.name}:{entry.sequence}:{self._ack_number}"
        expires_s = now_s + self.config.ack_deadline_seconds
        self._leases[ack_id] = (entry, expires_s)
        heappush(self._expiries, (expires_s, ack_id))
        if not entry.outstanding:
            entry.attempts += 1
            if self._is_ordered(entry):
                self._keys[entry.message.ordering_key].out += 1
        entry.outstanding.add(ack_id)
        counts = self.config.HasField("dead_letter_policy")
        return ReceivedMessage(ack_id=ack_id, message=entry.message, delivery_attempt=entry.attempts if counts else 0)

    def _pop_run(self, messages_max: int) -> list[_Entry]:
        """The oldest message that is ready, with those that follow it under its key."""
        _, item = heappop(self._ready)
        if isinstance(item, _Entry):
            return [item]
        waiting = self._keys[item].waiting
        run = waiting[:messages_max]
        del waiting[:messages_max]
        return run

    def _bring_back(self, now_s: float) -> None:
        while self._expiries and self._expiries[0][0] <= now_s:
            expires_s, ack_id = heappop(self._expiries)
            lease = self._leases.get(ack_id)
            if lease is not None and lease[1] <= expires_s:
                self._end_lease(ack_id, lease[0], now_s)
        while self._later and self._later[0][0] <= now_s:
            self._make_ready(heappop(self._later)[2])

    def _end_lease(self, ack_id: str, entry: _Entry, now_s: float) -> None:
        del self._leases[ack_id]
        entry.outstanding.discard(ack_id)
        if entry.outstanding:  # a duplicate of it is still out
            return
        entry.failures += 1
        if self._give_up(entry.message, entry.attempts):
            self._size -= 1
            self._leave_key(entry)
            return
        wait_s = self._retry_wait_s(entry)
        if wait_s:
            heappush(self._later, (now_s + wait_s, entry.sequence, entry))
        else:
            self._make_ready(entry)
        self.changed.set()

    def _retry_wait_s(self, entry: _Entry) -> float:
        if not self.config.HasField("retry_policy"):
            return 0.0
        policy = self.config.retry_policy
        least_s = policy.minimum_backoff.ToTimedelta().total_seconds()
        most_s = policy.maximum_backoff.ToTimedelta().total_seconds() or 600.0
        return float(min(most_s, least_s * 2.0 ** min(entry.failures - 1, 32)))

    def _is_ordered(self, entry: _Entry) -> bool:
        return bool(self.config.enable_message_ordering and entry.message.ordering_key)

    def _make_ready(self, entry: _Entry) -> None:
        self.changed.set()
        if not self._is_ordered(entry):
            heappush(self._ready, (entry.sequence, entry))
            return
        name = entry.message.ordering_key
        key = self._keys.setdefault(name, _Key())
        is_offered = bool(key.waiting) and not key.out
        if entry.attempts:  # it counted as out until here, so that nothing later of its key overtook it
            key.out -= 1
        insort(key.waiting, entry, key=lambda each: each.sequence)
        if not key.out and not is_offered:
            heappush(self._ready, (key.waiting[0].sequence, name))

    def _leave_key(self, entry: _Entry) -> None:
        if not self._is_ordered(entry):
            return
        name = entry.message.ordering_key
        key = self._keys[name]
        key.out -= 1
        if key.out:
            return
        if key.waiting:
            heappush(self._ready, (key.waiting[0].sequence, name))
            self.changed.set()
        else:
            del self._keys[name]
