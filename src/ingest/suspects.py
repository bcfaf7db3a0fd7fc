"""Which message is it that the handler fails on? Found step by step, so that one bad message holds up no others.

A batch that failed comes again; its messages are then handed over in parts of a tenth of its size, in the end each by
itself. One that fails alone, while others pass, is the poison. No I/O, no clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ingest.source import Delivery

PARTS: Final = 10
SUSPECTS_MAX: Final = 50_000


@dataclass(slots=True)
class _Suspect:
    """`part_max`: the most messages to hand over together with it; `passed`: how many others had passed when it last
    failed.
    """

    part_max: int
    passed: int
    attempts: int = 0


class Suspects:
    """Messages of failed parts, by message id; the oldest are forgotten first, which costs only a longer search."""

    def __init__(self, suspects_max: int = SUSPECTS_MAX) -> None:
        self._suspects: dict[str, _Suspect] = {}
        self._suspects_max = suspects_max

    def __len__(self) -> int:
        return len(self._suspects)

    def parts(self, deliveries: list[Delivery]) -> list[list[Delivery]]:
        """Cut a batch into what may be handed over together, in its order."""
        if not self._suspects:
            return [deliveries]
        parts: list[list[Delivery]] = []
        part_max = 0
        for delivery in deliveries:
            suspect = self._suspects.get(delivery.message_id)
            size_max = len(deliveries) if suspect is None else suspect.part_max
            if not parts or size_max != part_max or len(parts[-1]) >= size_max:
                parts.append([])
                part_max = size_max
            parts[-1].append(delivery)
        return parts

    def fail(self, part: list[Delivery], passed: int) -> int:
        """A part failed, after `passed` messages in all had been handled well. Returns how often its only message has
        failed by itself while others passed; 0 where it has several, or where none passed since the last failure: then
        it may not be the message that is broken.
        """
        part_max = max(1, len(part) // PARTS)
        suspects = [self._suspect(delivery, part_max, passed) for delivery in part]
        for suspect in suspects:
            suspect.part_max = min(suspect.part_max, part_max)
        only = suspects[0]
        if len(part) > 1 or passed == only.passed:
            return 0
        only.attempts += 1
        only.passed = passed
        return only.attempts

    def _suspect(self, delivery: Delivery, part_max: int, passed: int) -> _Suspect:
        suspect = self._suspects.get(delivery.message_id)
        if suspect is None:
            while len(self._suspects) >= self._suspects_max:
                del self._suspects[next(iter(self._suspects))]
            suspect = self._suspects[delivery.message_id] = _Suspect(part_max, passed)
        return suspect

    def clear(self, deliveries: Iterable[Delivery]) -> None:
        """These were handled, or put aside."""
        if self._suspects:
            for delivery in deliveries:
                self._suspects.pop(delivery.message_id, None)
