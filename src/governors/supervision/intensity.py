"""Restart intensity: at most so many restarts in so many seconds (OTP: `intensity` and `period`).

The window slides: what counts is how many restarts lie within the last `period_s` seconds, a restart exactly
`period_s` ago included, as in `supervisor.erl`. Any monotonic clock in seconds will do.
"""

import math

from msgspec import Struct

from governors.supervision.errors import BadChildSpecError


class RestartBudget(Struct, frozen=True, gc=False):
    """At most `intensity` restarts in `period_s`; `restarts_s` are the moments still in the window, oldest first."""

    intensity: int
    period_s: float
    restarts_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.intensity < 0:
            raise BadChildSpecError(f"intensity: {self.intensity}, expected 0 or more restarts")
        if not (math.isfinite(self.period_s) and self.period_s > 0):
            raise BadChildSpecError(f"period_s: {self.period_s}, expected a positive number of seconds")


class Exhausted(Struct, frozen=True, gc=False):
    """This restart would be number `restarts` within `period_s`: one too many. It must not happen."""

    restarts: int
    period_s: float


def record(budget: RestartBudget, now_s: float) -> RestartBudget | Exhausted:
    """The budget after one more restart at `now_s`, or that there is none left for it."""
    threshold_s = now_s - budget.period_s
    restarts_s = (*(at_s for at_s in budget.restarts_s if at_s >= threshold_s), now_s)
    if len(restarts_s) > budget.intensity:
        return Exhausted(len(restarts_s), budget.period_s)
    return RestartBudget(budget.intensity, budget.period_s, restarts_s)
