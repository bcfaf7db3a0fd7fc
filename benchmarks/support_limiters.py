"""The valve's peers, each written from its published description, with the parameters published there.

- CoDel, RFC 8289 (section 5, the pseudocode's rules): a target of 5 ms, an interval of 100 ms; drops at the head.
- AIMD on latency, as TCP: one more for each window of timely answers, a tenth less at most once a round trip for a late
  one. Bounds and ratio of Netflix concurrency-limits' AIMDLimit; late is what the caller says, its 5 s being far away.
- Gradient2, Netflix concurrency-limits (Gradient2Limit under WindowedLimit): limits of 20 to 200, smoothing 0.2, 600
  windows of memory, a tolerance of 1.5, windows of 1 s.
- DAGOR, Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018: windows of 1 s or 2,000 requests,
  overloaded at a mean queueing time of 20 ms; 5 % fewer or 1 % more of what was let in, by class and 128 user levels.

`scale` stretches their times for queues that are judged in seconds; 1 is as published.
"""

import math
from hashlib import blake2b
from typing import Final

from benchmarks.support_queue import CLASSES, Reading, Request

LIMIT_MIN: Final = 20
LIMIT_MAX: Final = 200
USER_LEVELS: Final = 128


class Open:
    """Lets everything in. What the others share."""

    look_s = 0.0

    def admit(self, request: Request, inflight: int) -> bool:  # noqa: ARG002 - a gate's shape
        return True

    def start(self, at: float, waited_s: float, queued: int) -> bool:  # noqa: ARG002 - a gate's shape
        return True

    def done(self, at: float, sojourn_s: float, inflight: int) -> None: ...
    def look(self, at: float, reading: Reading) -> None: ...


class CoDel(Open):
    """Drops at the head, ever sooner, once the wait has been over the target for an interval."""

    def __init__(self, scale: float) -> None:
        self._target_s = 0.005 * scale
        self._interval_s = 0.1 * scale
        self._over_at = 0.0
        self._next_at = 0.0
        self._count = 0
        self._last_count = 0
        self._is_dropping = False

    def start(self, at: float, waited_s: float, queued: int) -> bool:
        stands = self._stands(at, waited_s, queued)
        if self._is_dropping:
            if not stands:
                self._is_dropping = False
            elif at >= self._next_at:
                self._count += 1
                self._next_at += self._interval_s / math.sqrt(self._count)
                return False
            return True
        if not stands:
            return True
        self._is_dropping = True
        since = self._count - self._last_count
        recently = at - self._next_at < 16 * self._interval_s
        self._count = since if since > 1 and recently else 1
        self._next_at = at + self._interval_s / math.sqrt(self._count)
        self._last_count = self._count
        return False

    def _stands(self, at: float, waited_s: float, queued: int) -> bool:
        if waited_s < self._target_s or not queued:
            self._over_at = 0.0
            return False
        if not self._over_at:
            self._over_at = at + self._interval_s
            return False
        return at >= self._over_at


class Aimd(Open):
    """Bounds what is in flight."""

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self._limit = float(LIMIT_MIN)
        self._cut_at = -math.inf

    def admit(self, request: Request, inflight: int) -> bool:  # noqa: ARG002 - a gate's shape
        return inflight < int(self._limit)

    def done(self, at: float, sojourn_s: float, inflight: int) -> None:
        if sojourn_s > self._late_s:
            if at - sojourn_s >= self._cut_at:  # it came after the last cut, which so has not been enough
                self._limit = max(self._limit * 0.9, LIMIT_MIN)
                self._cut_at = at
        elif 2 * inflight >= self._limit:
            self._limit = min(self._limit + 1 / self._limit, LIMIT_MAX)


class Gradient2(Open):
    """Bounds what is in flight by how the mean time of a window compares with that of a long while."""

    WINDOW_SAMPLES: Final = 10
    WARMUP: Final = 10
    LONG: Final = 600

    def __init__(self, scale: float) -> None:
        self._window_s = scale
        self._limit = float(LIMIT_MIN)
        self._long_s = 0.0
        self._windows = 0
        self._ends_at = self._window_s
        self._sum_s, self._samples, self._inflight = 0.0, 0, 0

    def admit(self, request: Request, inflight: int) -> bool:  # noqa: ARG002 - a gate's shape
        return inflight < int(self._limit)

    def done(self, at: float, sojourn_s: float, inflight: int) -> None:
        self._sum_s += sojourn_s
        self._samples += 1
        self._inflight = max(self._inflight, inflight)
        if at < self._ends_at or self._samples < self.WINDOW_SAMPLES:
            return
        self._update(self._sum_s / self._samples, self._inflight)
        self._ends_at = at + self._window_s
        self._sum_s, self._samples, self._inflight = 0.0, 0, 0

    def _update(self, short_s: float, inflight: int) -> None:
        self._windows += 1
        if self._windows <= self.WARMUP:
            self._long_s += (short_s - self._long_s) / self._windows
        else:
            self._long_s += (short_s - self._long_s) * 2 / (self.LONG + 1)
        if self._long_s > 2 * short_s:
            self._long_s *= 0.95
        if inflight < self._limit / 2:
            return
        gradient = max(0.5, min(1.0, 1.5 * self._long_s / short_s))
        wanted = self._limit * gradient + 4
        self._limit = max(LIMIT_MIN, min(LIMIT_MAX, 0.8 * self._limit + 0.2 * wanted))


class Dagor(Open):
    """Admits by class and hashed user, down to a level that follows the mean queueing time of each window."""

    WINDOW_REQUESTS: Final = 2_000

    def __init__(self, scale: float) -> None:
        self._window_s = scale
        self._threshold_s = 0.02 * scale
        self._levels = len(CLASSES) * USER_LEVELS
        self._level = self._levels  # requests under it are let in
        self._users: dict[str, int] = {}
        self._ends_at = self._window_s
        self._begin()

    def _begin(self) -> None:
        self._arrived = [0] * self._levels
        self._requests = self._let_in = self._started = 0
        self._waited_s = 0.0

    def admit(self, request: Request, inflight: int) -> bool:  # noqa: ARG002 - a gate's shape
        if request.at >= self._ends_at or self._requests >= self.WINDOW_REQUESTS:
            self._adjust(request.at)
        level = request.rank * USER_LEVELS + self._user_level(request.user)
        self._arrived[level] += 1
        self._requests += 1
        passes = level < self._level
        self._let_in += passes
        return passes

    def start(self, at: float, waited_s: float, queued: int) -> bool:  # noqa: ARG002 - a gate's shape
        self._started += 1
        self._waited_s += waited_s
        return True

    def _adjust(self, at: float) -> None:
        overloaded = self._started > 0 and self._waited_s > self._threshold_s * self._started
        expected = self._let_in * (0.95 if overloaded else 1.01)
        prefix = self._let_in
        if overloaded:
            while self._level > 1 and prefix > expected:
                self._level -= 1
                prefix -= self._arrived[self._level]
        else:
            while self._level < self._levels and prefix < expected:
                prefix += self._arrived[self._level]
                self._level += 1
        self._ends_at = at + self._window_s
        self._begin()

    def _user_level(self, user: str) -> int:
        level = self._users.get(user)
        if level is None:
            level = self._users[user] = blake2b(user.encode(), digest_size=1).digest()[0] % USER_LEVELS
        return level
