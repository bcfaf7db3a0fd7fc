"""How much one token may send and ask for, and how much may be sent about one tenant: the limits, as HTTP tells them.

What comes in within `WINDOW_S` at the configured rate may come at once. A token pays for everything that it sends, also
for what cannot be read or is refused: whoever sends nonsense is slowed down by it. A tenant pays for what is taken in,
so nobody without a right to it can use it up.

Header fields: draft-ietf-httpapi-ratelimit-headers-11. `r` is what is left; `t` when what was refused can be taken, or
else when all is there again. The partition key (`pk`) is the tenant's name; a token's own limits have none. The draft
knows no unit for signals, so `governors-qu` says it.
"""

import math
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from governors.api.problem import ProblemError, spread
from governors.auth.principal import LOCAL, Principal
from governors.numerics.gcra import Rates
from governors.settings import LimitSettings
from governors.telemetry.metrics import Metrics
from ingest.decode.body import Rejected
from ingest.errors import Reason
from ingest.signals import Signal

WINDOW_S: Final = 10
# Those that sent something within the last 10 s; beyond, they share. Some 20 MB at the most.
KEYS_MAX: Final = 65_536

TOKEN: Final = "token"  # noqa: S105 - the name of a policy
TENANT: Final = "tenant"
REQUESTS: Final = "requests"


class Throttled(Struct, frozen=True):
    """What takes the place of a signal that came too soon: it was not taken in, and may come again."""

    signal: Signal
    detail: str
    retry_after_s: int


class Charged(Struct, frozen=True):
    """A batch with those replaced that came too soon, and what the answer tells of the limits."""

    entries: Sequence[Signal | Rejected | Throttled]
    headers: dict[str, str]


class _Limit:
    """One policy: what everybody who is under it has left, and how that is told."""

    def __init__(self, name: str, per_s: int, unit: str) -> None:
        self.name = name
        self.burst = per_s * WINDOW_S
        self.rates = Rates(per_s, self.burst, KEYS_MAX)
        self._per_s = per_s
        self._unit = unit
        others = "" if unit == "requests" else f';governors-qu="{unit}"'
        self._policy = f'"{name}";q={self.burst};w={WINDOW_S}{others}'

    def policy(self, key: str) -> str:
        """An item of RateLimit-Policy."""
        return self._policy + self._partition(key)

    def state(self, key: str, now_us: int, wait_us: int = 0) -> str:
        """An item of RateLimit. `wait_us` is when what was refused can be taken, 0 where nothing was."""
        t = math.ceil((wait_us or self.rates.wait_us(key, self.burst, now_us)) / 1e6)
        return f'"{self.name}";r={self.rates.left(key, now_us)};t={t}{self._partition(key)}'

    def words(self, key: str) -> str:
        """What the limit is, for people."""
        whose = f" about tenant {key}" if self.name == TENANT else " of this token"
        return f"{self._per_s:,} {self._unit}{whose} may come a second, and {self.burst:,} at once"

    def _partition(self, key: str) -> str:
        return f";pk=:{b64encode(key.encode()).decode()}:" if self.name == TENANT else ""


class RateLimits:
    """All limits of one worker. For the event loop's thread alone."""

    def __init__(
        self, settings: LimitSettings, metrics: Metrics, clock_us: Callable[[], int], rng: random.Random
    ) -> None:
        self._metrics = metrics
        self._clock_us = clock_us
        self._rng = rng
        self._token = self._limit(TOKEN, settings.token_signals_per_s, "signals")
        self._tenant = self._limit(TENANT, settings.tenant_signals_per_s, "signals")
        self._requests = self._limit(REQUESTS, settings.token_requests_per_s, "requests")

    def request(self, principal: Principal) -> None:
        """Count a request for anything but signals and admission. Raises ProblemError for one that comes too soon."""
        if self._requests is not None and principal is not LOCAL:
            now_us = self._clock_us()
            if not self._requests.rates.take(principal.name, 1, now_us):
                raise self._too_soon(self._requests, principal.name, now_us)

    def before_body(self, principal: Principal) -> None:
        """Raise ProblemError where nothing could be taken in, whatever the body says: it is not even read."""
        if self._token is not None and principal is not LOCAL:
            now_us = self._clock_us()
            if not self._token.rates.left(principal.name, now_us):
                raise self._too_soon(self._token, principal.name, now_us)

    def unreadable(self, principal: Principal) -> None:
        """Charge for a body of which not even the signals can be told apart."""
        if self._token is not None and principal is not LOCAL:
            self._token.rates.take(principal.name, 1, self._clock_us())

    def charge(self, principal: Principal, entries: Sequence[Signal | Rejected]) -> Charged:
        """Take in as much of a batch as may come now, its beginning first: of no tenant a later signal overtakes an
        earlier one. Raises ProblemError where there are signals, and none of them may.
        """
        now_us, name = self._clock_us(), principal.name
        token, tenant = None if principal is LOCAL else self._token, self._tenant
        told: list[tuple[_Limit, str, int]] = []
        in_time = len(entries)
        if token is not None:
            in_time = token.rates.take(name, in_time, now_us)
            told.append((token, name, 0))
        room: dict[str, int] = {}
        short = False
        if tenant is not None:
            # What passes the token's limit does not come to the tenant's.
            counts = Counter([entry.tenant for entry in entries[:in_time] if isinstance(entry, Signal)])
            for one, count in counts.items():
                room[one] = granted = tenant.rates.take(one, count, now_us)
                short = short or granted < count
            if len(counts) == 1:
                told += [(tenant, one, 0) for one in counts]
        if in_time == len(entries) and not short:
            return Charged(entries, self._headers(told, now_us))
        return self._refuse_late(principal, entries, _find_late(entries, in_time, room, token, tenant), now_us)

    def charge_whole(self, principal: Principal, signals: Sequence[Signal], entries: int) -> None:
        """Take in all of a message of so many entries, or nothing: for senders that can only send it all again, and
        give up at 4xx. One that is larger than a burst costs a burst. Raises ProblemError, a 503.
        """
        now_us = self._clock_us()
        owed: list[tuple[_Limit, str, int]] = []
        if self._token is not None and principal is not LOCAL:
            owed.append((self._token, principal.name, min(entries, self._token.burst)))
        if self._tenant is not None:
            counts = Counter([signal.tenant for signal in signals])
            owed += [(self._tenant, one, min(units, self._tenant.burst)) for one, units in counts.items()]
        limit, key, units = max(
            owed, key=lambda one: one[0].rates.wait_us(one[1], one[2], now_us), default=(None, "", 0)
        )
        if limit is not None and units > limit.rates.left(key, now_us):
            self._metrics.rate_limited(limit.name, entries)
            raise self._refusal("not-accepting", limit, key, units, now_us)
        for limit, key, units in owed:
            limit.rates.take(key, units, now_us)

    def _limit(self, name: str, per_s: int | None, unit: str) -> _Limit | None:
        if per_s is None:
            return None
        limit = _Limit(name, per_s, unit)
        self._metrics.rate_limit_keys.labels(name).set_function(limit.rates.__len__)
        return limit

    def _refuse_late(
        self, principal: Principal, entries: Sequence[Signal | Rejected], late: Mapping[int, _Limit], now_us: int
    ) -> Charged:
        """Replace what came too soon. Raises ProblemError where that is every signal."""
        # By when all that is refused now can be taken, by its sender and by its tenant: what is told must be enough.
        refused = Counter([entry.tenant for number in late if isinstance(entry := entries[number], Signal)])
        waits: list[tuple[_Limit, str, int]] = []
        if self._token is not None and principal is not LOCAL and late:
            waits.append((self._token, principal.name, len(late)))
        if self._tenant is not None:
            waits += [(self._tenant, one, count) for one, count in refused.items()]
        waits = [(limit, key, limit.rates.wait_us(key, units, now_us)) for limit, key, units in waits]
        passed = {limit.name for limit in late.values()}
        # Told is only what refused something, or somebody would wait for the other; of the tenants the last with room.
        told = {limit.name: (limit, key, us) for limit, key, us in sorted(waits, key=lambda one: one[2])}
        headers = self._headers([one for name, one in told.items() if name in passed], now_us)
        for name, count in Counter([limit.name for limit in late.values()]).items():
            self._metrics.rate_limited(name, count)
        if late and len(late) == sum(isinstance(entry, Signal) for entry in entries):
            number, limit = next(iter(late.items()))
            detail = "nothing was taken in: " + limit.words(entries[number].tenant or "")
            retry_s = spread(max(us for _, _, us in waits) / 1e6, self._rng)
            raise _problem("quota-exceeded", detail, sorted(passed), retry_s, headers)
        token_us = max((us for limit, _, us in waits if limit.name == TOKEN), default=0)
        tenants_us = {key: us for limit, key, us in waits if limit.name == TENANT}
        retries_s = {one: spread(max(token_us, tenants_us.get(one, 0)) / 1e6, self._rng) for one in refused}
        replaced = [
            Throttled(entry, late[number].words(entry.tenant), retries_s[entry.tenant])
            if number in late and isinstance(entry, Signal)
            else entry
            for number, entry in enumerate(entries)
        ]
        return Charged(replaced, headers)

    def _headers(self, limits: Sequence[tuple[_Limit, str, int]], now_us: int) -> dict[str, str]:
        """What is told of these limits, each with its key and when what was refused can be taken."""
        if not limits:
            return {}
        policies = ", ".join([limit.policy(key) for limit, key, _ in limits])
        return {
            "RateLimit-Policy": policies,
            "RateLimit": ", ".join([limit.state(key, now_us, wait_us) for limit, key, wait_us in limits]),
        }

    def _too_soon(self, limit: _Limit, key: str, now_us: int) -> ProblemError:
        self._metrics.rate_limited(limit.name, 1)
        return self._refusal("quota-exceeded", limit, key, 1, now_us)

    def _refusal(self, problem: str, limit: _Limit, key: str, units: int, now_us: int) -> ProblemError:
        wait_us = limit.rates.wait_us(key, units, now_us)
        headers = self._headers([(limit, key, wait_us)], now_us)
        return _problem(problem, limit.words(key), [limit.name], spread(wait_us / 1e6, self._rng), headers)


def _find_late(
    entries: Sequence[Signal | Rejected],
    in_time: int,
    room: dict[str, int],
    token: _Limit | None,
    tenant: _Limit | None,
) -> dict[int, _Limit]:
    """The signals that came too soon, by position, with the limit that they passed. Uses up the tenants' `room`."""
    late: dict[int, _Limit] = {}
    for number, entry in enumerate(entries):
        if isinstance(entry, Rejected):
            continue
        if number >= in_time and token is not None:
            late[number] = token
        elif tenant is not None:
            room[entry.tenant] -= 1
            if room[entry.tenant] < 0:
                late[number] = tenant
    return late


def _problem(
    problem: str, detail: str, policies: list[str], retry_after_s: int, headers: Mapping[str, str]
) -> ProblemError:
    members = {"violated-policies": policies, "reason": Reason.RATE_LIMITED}
    return ProblemError(problem, detail, headers={**headers, "Retry-After": str(retry_after_s)}, members=members)
