"""How long to wait before trying again: longer with each failure, and never in step with others."""

import random
from typing import Final

FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0


class Backoff:
    """Doubles from `FIRST_S` to `LONGEST_S`, and takes a random part of that (between half and all of it)."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ceiling_s = FIRST_S

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait now; `at_least_s` is what the other side asked for."""
        ceiling_s, self._ceiling_s = self._ceiling_s, min(2 * self._ceiling_s, LONGEST_S)
        return max(at_least_s, ceiling_s * self._rng.uniform(0.5, 1.0))
