"""The generic cell rate algorithm (ITU-T I.371, virtual scheduling): a rate with a burst for each of many keys.

What a key may take at a moment follows from one number, its theoretical arrival time: when all that it took would have
come in at the rate. All in integers, so that nothing is gained or lost by rounding: a tick is the part of a
microsecond that one microsecond brings in of one unit, and a unit is a million ticks, whatever the rate.
"""

from collections import OrderedDict
from typing import Final

_UNIT_TICKS: Final = 1_000_000
# More than one, so that keys that came at once also leave.
_FORGOTTEN_AT_ONCE: Final = 2


class Rates:
    """In any time of t seconds a key takes at most `burst + rate_per_s * t` units.

    A key is remembered until its burst is whole again, and at most `keys_max` are: those that come when there are as
    many share one allowance, which is less than each should have, never more. Times are µs of a clock that mostly goes
    forward: set back, it can cost a key its burst, and give it nothing.
    """

    def __init__(self, rate_per_s: int, burst: int, keys_max: int) -> None:
        self._rate = rate_per_s
        self._burst_ticks = burst * _UNIT_TICKS
        self._keys_max = keys_max
        self._arrivals: OrderedDict[str, int] = OrderedDict()
        """By key, the one that took last at the end: its theoretical arrival time, in ticks."""
        self._crowd = 0
        """The same for all other keys together; what each of them begins with once it has a place of its own."""

    def __len__(self) -> int:
        return len(self._arrivals)

    def left(self, key: str, now_us: int) -> int:
        """How many units the key may take now."""
        now = now_us * self._rate
        return (now + self._burst_ticks - self._arrival(key, now)) // _UNIT_TICKS

    def take(self, key: str, units: int, now_us: int) -> int:
        """Take as many of `units` as are left; returns how many."""
        # `_arrival`, spelled out: this runs for every batch and each of its tenants.
        arrivals = self._arrivals
        now = now_us * self._rate
        last = now + self._burst_ticks
        known = arrivals.get(key)
        arrival = self._crowd if known is None else known
        if arrival < now:
            arrival = now
        elif arrival > last:
            arrival = last
        granted = min(units, (last - arrival) // _UNIT_TICKS)
        arrival += granted * _UNIT_TICKS
        if known is not None:
            arrivals[key] = arrival
            arrivals.move_to_end(key)
            return granted
        self._forget(now)
        if len(arrivals) < self._keys_max:
            arrivals[key] = arrival
        else:
            self._crowd = arrival
        return granted

    def wait_us(self, key: str, units: int, now_us: int) -> int:
        """How long until `units`, or the whole burst if that is less, can be taken, if nobody takes any meanwhile."""
        now = now_us * self._rate
        ahead = min(units * _UNIT_TICKS, self._burst_ticks)
        missing = self._arrival(key, now) + ahead - now - self._burst_ticks
        return max(0, -(-missing // self._rate))

    def _arrival(self, key: str, now: int) -> int:
        """When all that the key took would have come in at the rate, or now if that is past."""
        arrivals, last = self._arrivals, now + self._burst_ticks
        arrival = arrivals.get(key)
        # Further ahead than a burst it can only be where the clock was set back: then nothing is left, from now on.
        if arrival is None:
            arrival = self._crowd = min(self._crowd, last)
        elif arrival > last:
            arrival = arrivals[key] = last
        return max(now, arrival)

    def _forget(self, now: int) -> None:
        """Forget those whose burst is whole again, from the one on that took longest ago."""
        arrivals = self._arrivals
        for _ in range(min(_FORGOTTEN_AT_ONCE, len(arrivals))):
            key = next(iter(arrivals))
            if self._arrival(key, now) > now:
                return
            del arrivals[key]
