"""The Rollback Guard's policy: every number it compares with, its unit, and why it has its default."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Ppm = Annotated[int, Meta(ge=1, le=1_000_000)]
Ratio = Annotated[int, Meta(ge=100, le=1_000_000)]
Positive = Annotated[int, Meta(ge=1, le=86_400)]
NotNegative = Annotated[int, Meta(ge=0, le=86_400)]
Events = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class RollbackPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ratios, burn rates and dispersion are in thousandths, shares in ppm, times in seconds."""

    alpha_errors_ppm: Ppm = 5_000
    """How likely, at most, a deploy that is no worse than tolerated is convicted on its errors. 0.5 %; with the same
    for slow requests, 1 % of good deploys."""

    alpha_slow_ppm: Ppm = 5_000
    """The same for requests over the latency objective."""

    hold_e: Annotated[int, Meta(ge=2, le=1_000_000)] = 10
    """E-value at which the rollout is paused: 10 to 1 against the deploy. A pause costs minutes, so it may err more.

    A rollback at the end of a hold, or because the canary burns the error budget too, has these odds alone as its
    guarantee, not alpha. It asks for more than they say: evidence that lasts, or a service that is failing."""

    tolerated_ratio_milli: Ratio = 1_250
    """A canary this much worse than the baseline is still good: 1.25, as Kayenta tolerates 25 %."""

    ratio_low_milli: Ratio = 2_200
    """Mildest degradation that is bet on, 2.2 times the baseline: milder ones show slowly, whatever is bet on them."""

    ratio_high_milli: Ratio = 10_000
    """Worst degradation that is bet on, 10 times; a worse one is found just as fast."""

    proven_ratio_milli: Ratio = 1_500
    """A deploy is proven when a ratio of 1.5 or more has become unbelievable."""

    alpha_proof_ppm: Ppm = 10_000
    """How likely, at most, a deploy at or over that ratio is called proven: 1 %."""

    proven_after_s: NotNegative = 600
    """A proven deploy is promoted before the watch ends, but not before 10 minutes: leaks and cold caches take time."""

    dispersion_milli: Annotated[int, Meta(ge=1_000, le=1_000_000)] = 1_000
    """Variance of the errors of an interval over their mean, before deploys. 1 for independent errors; a service whose
    errors come in bursts of three wants 3."""

    interval_s: Positive = 15
    """Evidence is weighed over intervals of at least 15 s: what common exporters report in one or two windows."""

    bad_events_min: Events = 5
    """Never a rollback for fewer bad canary requests than 5, however unlikely they are."""

    canary_requests_min: Events = 50
    """With fewer canary requests than 50 a watch ends as inconclusive: nobody used the revision."""

    error_budget_ppm: Ppm = 1_000
    """The share of requests that may fail by the service's objective: 0.1 %."""

    slow_budget_ppm: Ppm = 10_000
    """The share that may be slow: 1 %. Only asked when verifying a rollback that had no baseline to compare with."""

    burn_milli: Annotated[int, Meta(ge=1_000, le=1_000_000)] = 14_400
    """The burn rate that pages in Google's SRE workbook: 14.4 budgets, 2 % of a month's budget in an hour."""

    baseline_requests_min: Events = 50
    """Under 50 baseline requests in five minutes the baseline is unknown, so the burn rate cannot blame the deploy."""

    unpaired: Literal["escalate", "rollback"] = "escalate"
    """What follows a hold for a burning canary without a baseline. A person is asked: whether the service burned
    before the deploy, which may be the fix, is unknown. `rollback` takes the risk."""

    hold_on_alert: bool = True
    """Whether an alert that begins to fire during the watch pauses the rollout. It alone never rolls back."""

    alert_severities: tuple[str, ...] = ("critical", "page")
    """Severities, in lower case, that count as such an alert."""

    watch_s: Annotated[int, Meta(ge=1, le=3_600)] = 1_800
    """A deploy is watched for 30 minutes. At most an hour, so that the burn rate since its start stays a recent one."""

    hold_s: Positive = 300
    """Time for a person to veto before a hold acts: 5 minutes."""

    rollback_s: Positive = 600
    """A rollback that is not known to have worked after 10 minutes has failed: the progress deadline of Kubernetes."""

    rollback_attempts: Annotated[int, Meta(ge=1, le=10)] = 2
    """One retry, then a person."""

    verify_s: Positive = 300
    """How long the service is observed after a rollback before it is said to have helped: 5 minutes."""

    settle_s: NotNegative = 30
    """Samples that began less than 30 s after the rollback still hold requests of the bad revision and do not count."""

    verify_requests_min: Events = 50
    """With fewer than 50 requests after a rollback nobody knows whether it helped."""

    cooldown_s: Positive = 1_800
    """A revision that was rolled back is refused for 30 minutes: whoever retries it does so with the same bytes."""

    rollbacks_per_day_max: Annotated[int, Meta(ge=1, le=100)] = 3
    """After 3 rollbacks in 24 h a person must approve the next: something else than the deploys is wrong."""

    sample_period_s: Positive = 30
    """How often a sample is due during a watch; after three periods of silence the guard knows that it is blind."""

    def __post_init__(self) -> None:
        if not self.tolerated_ratio_milli < self.ratio_low_milli < self.ratio_high_milli:
            raise ValueError("expected tolerated_ratio_milli < ratio_low_milli < ratio_high_milli")
        if self.proven_ratio_milli < self.tolerated_ratio_milli:
            raise ValueError("expected proven_ratio_milli >= tolerated_ratio_milli")
        if self.hold_e * max(self.alpha_errors_ppm, self.alpha_slow_ppm) > 1_000_000:
            raise ValueError("expected hold_e <= 1/alpha: a hold comes before a rollback")
