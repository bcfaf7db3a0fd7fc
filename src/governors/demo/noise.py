"""Believable disorder: counts, drifting levels and bursts, all drawn from one seeded generator."""

import math
from random import Random
from typing import Final

_KNUTH_MEAN_MAX: Final = 30.0


def poisson(rng: Random, mean: float) -> int:
    """How often something happened that happens `mean` times on average."""
    if mean <= 0.0:
        return 0
    if mean > _KNUTH_MEAN_MAX:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    # Knuth: uniform numbers are multiplied until the product falls under e^-mean.
    limit, product, number = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        number += 1
    return number


class Trickle:
    """Rare events that come one by one: irregular, but never a heap of them at once, as chance alone would have it.

    A thousand hours of pure chance hold one in which a good deploy looks bad. It is the guard's business to live with
    that; an hour that is to show something is better without.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._due = rng.random()

    def take(self, mean: float) -> int:
        """How many came, where `mean` come on average."""
        self._due += mean * self._rng.uniform(0.3, 1.7)
        came = int(self._due)
        self._due -= came
        return came


class Level:
    """A level that moves as real ones do: it drifts with the time of day, wanders, and has short bursts.

    Multiply a rate with it. The mean is about 1; `wander` is its standard deviation, `bursts_per_h` come on average and
    last 5 to 20 s each.
    """

    def __init__(
        self, rng: Random, *, drift_per_h: float = 0.1, wander: float = 0.04, bursts_per_h: float = 0.0
    ) -> None:
        self._rng = rng
        self._drift_per_h = drift_per_h
        self._wander = wander
        self._bursts_per_h = bursts_per_h
        self._walk = 0.0
        self._burst = 1.0
        self._burst_until_s = -1.0

    def at(self, second: float, passed_s: float) -> float:
        """The level `second` seconds into the hour, `passed_s` after the last look."""
        rng = self._rng
        # An Ornstein-Uhlenbeck step: it forgets where it was within a minute or so.
        keep = math.exp(-passed_s / 60.0)
        self._walk = self._walk * keep + rng.gauss(0.0, self._wander) * math.sqrt(1.0 - keep * keep)
        if second >= self._burst_until_s:
            self._burst = 1.0
            if rng.random() < self._bursts_per_h * passed_s / 3_600.0:
                self._burst = rng.uniform(1.2, 1.5)
                self._burst_until_s = second + rng.uniform(5.0, 20.0)
        morning = 1.0 + self._drift_per_h * (second / 3_600.0 - 0.5)
        return max(0.0, morning * (1.0 + self._walk) * self._burst)
