"""The Backlog Valve's policy: each key with its unit, its default and why."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

Ppm = Annotated[int, Meta(ge=0, le=1_000_000)]
PositivePpm = Annotated[int, Meta(ge=1, le=1_000_000)]
DAY_S: Final = 86_400


class ValvePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one queue is judged and relieved.

    Keys whose default is 0 take their value from the profile; a policy always holds the values in force.
    """

    profile: Literal["queue", "rpc"] = "queue"
    """`queue`: work that may wait, judged by its age objective. `rpc`: callers are waiting, judged in milliseconds."""
    age_slo_s: Annotated[float, Meta(gt=0, le=DAY_S)] = 60.0
    """Seconds within which work should be done; the `queue` profile derives target and interval from it."""
    target_ms: Annotated[int, Meta(ge=0, le=DAY_S * 1000)] = 0
    """A wait at or over this is too long. 0: a tenth of the age objective (RFC 8289 wants a target of 5-10 % of what is
    tolerable), or 20 ms for `rpc` (DAGOR's queueing threshold)."""
    interval_ms: Annotated[int, Meta(ge=0, le=DAY_S * 1000)] = 0
    """A wait must stay too long for this long before anything is shed: bursts shorter than it are let be. 0: half the
    age objective, or 1 s for `rpc` (DAGOR's window)."""
    interval_messages: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    """So many messages make an interval whole however short it was: they say as much as a longer one. 0: 2,000 for
    `rpc` (DAGOR's window), as good as never for `queue`."""
    samples_min: Annotated[int, Meta(ge=0, le=1_000)] = 0
    """Samples that an interval needs before it is judged. 0: 3, or 1 for `rpc`, whose windows hold many requests."""
    drain_s: Annotated[float, Meta(ge=0, le=DAY_S)] = 0.0
    """Seconds in which a backlog shall be gone at the latest while shedding. 0: 300 (KEDA's cooldown; consumers have
    time to scale), or 10 for `rpc`, where a minute-old request has no caller left. It is drained as soon as the
    critical reserve leaves room for; one too large for this time closes the valve."""
    sample_period_s: Annotated[float, Meta(gt=0, le=DAY_S)] = 10.0
    """Seconds between samples as the sender promises them; three missing ones and the valve is blind."""
    trim_gain_ppm: Ppm = 50_000
    """Proportional part: the limit moves by this share of capacity for each 100 % that the queue is off its plan."""
    trim_integral_ppm: Ppm = 20_000
    """Integral part, per interval: corrects what the estimate of capacity gets wrong all the time."""
    trim_max_ppm: Ppm = 200_000
    """Bound of both together. Past it the estimate of capacity is wrong, not the trim."""
    limit_step_ppm: Ppm = 20_000
    """A limit is changed only when the new one is at least this share away from it: each is an action outside.
    2 %: a backlog that drains over five minutes leaves ten times that between limit and capacity."""
    climb_max_ppm: Ppm = 250_000
    """Largest step, as a share of the limit, by which it climbs in one interval while the queue is empty and the limit
    alone holds work back: steps double up to this. A quarter too much for an interval is a queue a quarter of an
    interval long, and it is noticed sooner."""
    decrease_ppm: Ppm = 50_000
    """Without rates: share taken off what is admitted in each bad interval (DAGOR's 5 %), unless the backlog already
    falls fast enough to be gone in `drain_s`."""
    increase_ppm: Ppm = 10_000
    """Without rates: share given back in each good interval (DAGOR's 1 %)."""
    floor_ppm: PositivePpm = 50_000
    """Shedding never admits less than this share (of capacity, or of requests without rates): a trickle shows whether
    things got better."""
    low_water_ppm: Ppm = 300_000
    """Low water as a share of high water, the depth at which the wait reaches the target. The gap between the two is
    the hysteresis."""
    high_water_min: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 10
    """High water is never under this depth: a handful of messages is no backlog, however slow the consumer."""
    calm_intervals: Annotated[int, Meta(ge=1, le=100)] = 3
    """Intervals in a row with waits under half the target and depths under low water before reopening begins."""
    dwell_intervals: Annotated[int, Meta(ge=1, le=100)] = 3
    """Intervals that a status is kept before it is left, except for a stricter one."""
    turn_intervals: Annotated[int, Meta(ge=1, le=100)] = 2
    """Intervals between two changes of direction: what was tightened is not loosened sooner, nor the reverse."""
    probe_start_ppm: PositivePpm = 100_000
    """Share of requests that a closed valve lets through at first; doubled after each clean interval."""
    probe_wait_s: Annotated[float, Meta(ge=0, le=DAY_S)] = 0.0
    """Seconds before the next probe after a failed one, doubled each time. 0: two intervals."""
    probe_wait_max_s: Annotated[float, Meta(gt=0, le=DAY_S)] = 600.0
    """Longest such wait; as long an open valve makes the failed probes forgotten."""
    stuck_after_s: Annotated[float, Meta(gt=0, le=DAY_S)] = 300.0
    """A depth that has not moved for this long, with nothing coming in and nothing done, is stuck (a poison message, a
    dead partition): it is flagged and left out of the reckoning, or it would keep the valve shut for ever."""
    critical_reserve_ppm: Ppm = 200_000
    """Share of what is admitted that is kept for the class `critical` (Stripe's reserve)."""
    forced_ppm: PositivePpm = 500_000
    """Share admitted when an operator forces SHEDDING on a valve that has not yet had a limit of its own."""

    def __post_init__(self) -> None:
        rpc = self.profile == "rpc"
        slo_ms = int(self.age_slo_s * 1000)
        self._default("target_ms", 20 if rpc else max(1, slo_ms // 10))
        self._default("interval_ms", 1000 if rpc else max(1, slo_ms // 2))
        self._default("interval_messages", 2_000 if rpc else 2**53 - 1)
        self._default("samples_min", 1 if rpc else 3)
        self._default("drain_s", 10.0 if rpc else 300.0)
        self._default("probe_wait_s", min(2 * self.interval_ms / 1000, self.probe_wait_max_s))
        if self.probe_wait_s > self.probe_wait_max_s:
            raise ValueError("probe_wait_s: more than probe_wait_max_s")

    def _default(self, key: str, value: Any) -> None:
        if not getattr(self, key):
            force_setattr(self, key, value)


def interval_us(policy: ValvePolicy) -> int:
    """The interval in µs."""
    return policy.interval_ms * 1000


def drain_us(policy: ValvePolicy) -> int:
    """The longest time to drain in µs."""
    return max(int(policy.drain_s * 1_000_000), shortest_promise_us(policy))


def shortest_promise_us(policy: ValvePolicy) -> int:
    """Two intervals, within which a limit can be corrected a few times."""
    return 2 * interval_us(policy)
