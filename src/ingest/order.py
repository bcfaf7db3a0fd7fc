"""Messages of one ordering key, kept in order where the handler fails on one of them.

A broker may have later messages of a key out, and more on their way, when an earlier one is given back. Those are given
back as well, until the earlier one has come again: else it would be handled after them. No I/O, no clock.
"""

from collections.abc import Iterable
from typing import Final

from ingest.source import Delivery

# The earlier one may never come again: another worker may have it, or the broker put it aside.
FENCE_S: Final = 10.0


class Fences:
    """For each key that waits: the message that has to come first, and until when that is waited for."""

    def __init__(self) -> None:
        self._fences: dict[str, tuple[str, float]] = {}

    def fail(self, deliveries: Iterable[Delivery], now_s: float) -> None:
        """These are given back: nothing later of their keys is admitted before the first of each key."""
        self._fences = {key: fence for key, fence in self._fences.items() if fence[1] > now_s}
        for delivery in deliveries:
            if delivery.ordering_key:
                self._fences.setdefault(delivery.ordering_key, (delivery.message_id, now_s + FENCE_S))

    def admit(self, deliveries: list[Delivery], now_s: float) -> tuple[list[Delivery], list[Delivery]]:
        """Those that may be handled now, in order, and those that come too early."""
        if not self._fences:
            return deliveries, []
        admitted: list[Delivery] = []
        early: list[Delivery] = []
        for delivery in deliveries:
            fence = self._fences.get(delivery.ordering_key)
            if fence is not None and (fence[0] == delivery.message_id or fence[1] <= now_s):
                del self._fences[delivery.ordering_key]
                fence = None
            (admitted if fence is None else early).append(delivery)
        return admitted, early
