"""What came back lately. Pure: times are seconds of one clock."""

from typing import Final

MARKS_MAX: Final = 8_192
"""Remembered at the most, some 2 MB; beyond, the oldest is forgotten. Who waits for one learns of it as it comes, so
this has to hold only what comes between two attempts."""
KEPT_S: Final = 600.0
"""How long each is remembered: longer than an action is tried for."""


class Arrivals:
    """The newest marks, whatever they stand for, each with when it came last."""

    def __init__(self, marks_max: int = MARKS_MAX, kept_s: float = KEPT_S) -> None:
        self._marks_max = marks_max
        self._kept_s = kept_s
        self._came_s: dict[bytes, float] = {}
        """In the order in which they came last."""

    def __len__(self) -> int:
        return len(self._came_s)

    def note(self, mark: bytes, now_s: float) -> None:
        """It has come."""
        self._came_s.pop(mark, None)
        self._came_s[mark] = now_s
        while (oldest := next(iter(self._came_s))) != mark and (
            len(self._came_s) > self._marks_max or self._came_s[oldest] <= now_s - self._kept_s
        ):
            del self._came_s[oldest]

    def has(self, mark: bytes, now_s: float) -> bool:
        """Whether it came lately."""
        came_s = self._came_s.get(mark)
        return came_s is not None and came_s > now_s - self._kept_s
