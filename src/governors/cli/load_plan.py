"""What `governors loadtest` sends: which signal at which moment. Pure; the sender has the clock.

The signals of one tenant go over one connection in order, as a sender of its own would send them: a snapshot that was
overtaken would be stale, and that is not what is measured. Each tenant lives the same story in the time of the test, so
that machines move: spend runs from 40 to 110 % of the budget, a queue backs up at half time and drains, a deploy is
healthy.
"""

import math
from datetime import timedelta
from typing import Any, Final, NamedTuple

from ingest.signals import EPOCH, format_time

LANE_INTERVAL_S: Final = 0.1
"""How often a connection sends, where there is enough to send."""
NORMAL: Final = (50, 0.2)
BACKED_UP: Final = (40_000, 240.0)
_KINDS: Final = 4


class Load(NamedTuple):
    """What is asked for. `connections`: lanes, each of which has some of the tenants."""

    tenants: int
    rate_per_s: float
    seconds: float
    connections: int
    run: str
    prefix: str

    @property
    def lanes(self) -> int:
        """Connections that have a tenant."""
        return min(self.connections, self.tenants)

    @property
    def total(self) -> int:
        """Signals in all."""
        return sum(self.due(lane, self.seconds) for lane in range(self.lanes))

    @property
    def interval_s(self) -> float:
        """Seconds between two requests of a lane: long enough that each has a signal."""
        return max(LANE_INTERVAL_S, self.lanes / self.rate_per_s)

    def due(self, lane: int, at_s: float) -> int:
        """How many signals a lane has to have sent `at_s` seconds after the beginning."""
        share = self.rate_per_s * len(range(lane, self.tenants, self.lanes)) / self.tenants
        return math.floor(share * at_s + 1e-6)

    def name(self, tenant: int) -> str:
        """The tenant's name; the same in each run, so that a run leaves no more tenants behind than the one before."""
        return f"{self.prefix}{tenant:04d}"

    def event_id(self, lane: int, number: int) -> str:
        """Unlike any other's, in this run and all others."""
        return f"lt-{self.run}-{lane}-{number}"


def signal_of(load: Load, lane: int, number: int, now_us: int) -> dict[str, Any]:
    """Signal `number` of a lane, in the native form."""
    members = range(lane, load.tenants, load.lanes)
    tenant = members[number % len(members)]
    turn = number // len(members)
    share = min(1.0, number / max(1, load.due(lane, load.seconds)))
    kind, subject, data = _told(load, turn, share, now_us)
    return {
        "id": load.event_id(lane, number),
        "source": "loadtest",
        "tenant": load.name(tenant),
        "kind": kind,
        "subject": subject,
        "observed_at": format_time(now_us),
        "data": data,
    }


def _told(load: Load, turn: int, share: float, now_us: int) -> tuple[str, str, dict[str, Any]]:
    deploy = f"d-{load.run}"
    if turn == 0:
        return "deploy.started", "web", {"deploy_id": deploy, "revision": "r2", "previous_revision": "r1"}
    if turn % _KINDS == 1:
        return "cost.snapshot", "budget", _cost(share, now_us)
    if turn % _KINDS == 2:
        arm = "canary" if turn // _KINDS % 2 else "baseline"
        counts = {"requests": 100, "errors": 0, "slow": 1, "window_s": 1}
        return "deploy.sample", "web", {"deploy_id": deploy, "arm": arm, **counts}
    depth, age_s = BACKED_UP if 0.5 <= share < 0.75 else NORMAL
    return (
        "queue.sample",
        "queue",
        {"depth": depth, "oldest_age_s": age_s, "in_rate_per_s": 100, "done_rate_per_s": 100},
    )


def _cost(share: float, now_us: int) -> dict[str, str]:
    return {
        "cost_amount": f"{400 + 700 * share:.2f}",
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": _month_of(now_us),
    }


def _month_of(now_us: int) -> str:
    return (EPOCH + timedelta(microseconds=now_us)).strftime("%Y-%m-01T00:00:00Z")
