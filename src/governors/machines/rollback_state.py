"""What the Rollback Guard remembers. All of it goes into the ledger, so it is small and plain.

Times are µs since the epoch. `*_through_us` is the newest observation of an arm, never ahead of our own clock.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from ingest.signals import INTEGER_MAX, RollbackTarget


class Status(StrEnum):
    """The public names. PROMOTED, INCONCLUSIVE and ESCALATED are ends: only a new deploy leaves them."""

    IDLE = "IDLE"
    WATCHING = "WATCHING"
    HOLD = "HOLD"
    ROLLING_BACK = "ROLLING_BACK"
    VERIFYING = "VERIFYING"
    COOLDOWN = "COOLDOWN"
    PROMOTED = "PROMOTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    ESCALATED = "ESCALATED"


# By plain names, for what every signal asks: a look-up through the enumeration costs more than the comparison.
WATCHING: Final = Status.WATCHING
HOLD: Final = Status.HOLD
ROLLING_BACK: Final = Status.ROLLING_BACK
INCONCLUSIVE: Final = Status.INCONCLUSIVE
ESCALATED: Final = Status.ESCALATED


class Cause(StrEnum):
    """Why a rollout is held, or why a person was called."""

    NONE = ""
    CANARY = "canary_worse"
    BOTH = "not_the_deploy"
    UNPAIRED = "no_baseline"
    ALONE = "worse_than_before"
    ALERT = "alert"
    MANUAL = "needs_approval"
    FEW_EVENTS = "few_events"
    NO_TRAFFIC = "no_traffic"
    DEPLOY_FAILED = "deploy_failed"
    ROLLBACK_FAILED = "rollback_failed"
    NOT_ASKED = "rollback_not_asked"
    NOT_VERIFIED = "not_verified"
    RACE = "deploy_during_rollback"


class Deploy(Struct, frozen=True, gc=False):
    """The deploy under watch, or the last one."""

    deploy_id: str
    revision: str
    previous_revision: str
    watch_until_us: int
    started_us: int
    target: RollbackTarget | None = None
    finished: bool = False


class Arm(Struct, frozen=True, array_like=True, gc=False):
    """Requests of one arm and how many of them failed or were slow."""

    requests: int = 0
    errors: int = 0
    slow: int = 0

    def plus(self, requests: int, errors: int, slow: int) -> "Arm":
        """The sum; it stays below 2**53, so that a receipt can hold it."""
        return Arm(
            min(self.requests + requests, INTEGER_MAX),
            min(self.errors + errors, INTEGER_MAX),
            min(self.slow + slow, INTEGER_MAX),
        )


class Pending(Struct, frozen=True, array_like=True, gc=False):
    """The open interval: what came since the last weighing, and how far each arm has reported.

    `waiting_since_us` is when its first request came, by our clock; 0 while there is none.
    """

    canary_requests: int = 0
    canary_errors: int = 0
    canary_slow: int = 0
    canary_through_us: int = 0
    canary_window_us: int = 0
    baseline_requests: int = 0
    baseline_errors: int = 0
    baseline_slow: int = 0
    baseline_through_us: int = 0
    baseline_window_us: int = 0
    waiting_since_us: int = 0


class Slice(NamedTuple):
    """Requests and errors of one minute, for the five-minute burn rate."""

    from_us: int
    canary_requests: int
    canary_errors: int
    baseline_requests: int
    baseline_errors: int


class Hour(NamedTuple):
    """What came of a service in an hour (since the epoch) in which no deploy was judged, in so many samples.

    `squares` sums, over the samples, the square of the errors over the requests, in millionths.
    """

    hour: int
    requests: int
    errors: int
    slow: int
    samples: int
    squares: int


class Before(NamedTuple):
    """What is known of the time before a deploy: counts, the shares that are expected at most, and how far errors come
    in clumps (variance over mean).
    """

    requests: int
    errors: int
    slow: int
    errors_share: float
    slow_share: float
    dispersion: float


class Evidence(Struct, frozen=True, omit_defaults=True):
    """All that was weighed since the deploy began, or since an operator's veto declared it spent.

    `weighed_us` is how far the senders' time is weighed, `paired_us` when both arms were last compared, by our clock.
    `*_sums` are the running log-likelihood ratios against the deploy, `*_proof` those for it. `over` says that the
    last weighing was over the limit while the arms had not reported equally far. `spent_requests` are the canary's
    from before a veto. `before` is what is known from before the deploy, and `*_alone` are the sums against it, as long
    as no baseline has reported.
    """

    weighed_us: int = 0
    canary: Arm = Arm()
    baseline: Arm = Arm()
    minutes: tuple[Slice, ...] = ()
    errors_sums: tuple[float, ...] = ()
    slow_sums: tuple[float, ...] = ()
    errors_proof: tuple[float, ...] = ()
    slow_proof: tuple[float, ...] = ()
    paired_us: int = 0
    over: bool = False
    spent_requests: int = 0
    before: Before | None = None
    errors_alone: tuple[float, ...] = ()
    slow_alone: tuple[float, ...] = ()


class RollbackState(Struct, frozen=True, omit_defaults=True, gc=False):
    """One deploy target's guard.

    `cause` says why it holds or why it ended. `late_result` expects the failure of an attempt that was given up.
    `known_alerts` fire without blame (before the deploy, or vetoed), `blamed_alerts` began during the watch; both map
    a fingerprint to when it was last said to fire, `resolved_alerts` to when it was last said to be over. `after`
    counts requests since a rollback, `rollbacks` holds the starts of the last day's. `past` has the last week's hours
    in which no deploy was judged, oldest first.
    """

    status: Status = Status.IDLE
    deadline_us: int | None = None
    deploy: Deploy | None = None
    cause: Cause = Cause.NONE
    pending: Pending = Pending()
    evidence: Evidence = Evidence()
    after: Arm = Arm()
    verify_from_us: int = 0
    attempt: int = 0
    late_result: bool = False
    known_alerts: dict[str, int] = {}
    blamed_alerts: dict[str, int] = {}
    resolved_alerts: dict[str, int] = {}
    refused_revision: str = ""
    refused_until_us: int = 0
    rollbacks: tuple[int, ...] = ()
    past: tuple[Hour, ...] = ()
