"""What an operator can set about the Cost Guard: every default with its unit and its why."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from governors.numerics.periods import DAY_US, MONTH, QUARTER, WEEK_US, YEAR

FULL_PPM: Final = 1_000_000

Share = Annotated[int, Meta(ge=1, le=1_000_000)]
Odds = Annotated[int, Meta(ge=10_000, le=990_000)]
Limit = Annotated[int, Meta(ge=1, le=100_000_000)]
Span = Annotated[int, Meta(ge=1, le=366 * 86_400)]
Interval = Literal["day", "week", "month", "quarter", "year"]

INTERVALS: Final[dict[str, int]] = {"day": DAY_US, "week": WEEK_US, "month": MONTH, "quarter": QUARTER, "year": YEAR}


class CostPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits are parts per million of the period's budget, times whole seconds. Reached means at or over."""

    warn_ppm: Limit = 500_000
    """Notice at half the budget: the first rule of the usual 50/90/100 set of cloud budgets."""
    warn_high_ppm: Limit = 900_000
    """A second notice within WARN, for policies that throttle later than this."""
    throttle_ppm: Limit = 900_000
    """Throttle from here: the last tenth is spent at the rate that makes it last."""
    stop_ppm: Limit = 1_000_000
    """Stop when the budget is used up. Only measured cost stops a tenant, a forecast never does."""

    warn_clear_ppm: Limit = 450_000
    """WARN ends below this: credits that move the cost around a limit must not repeat the notice."""
    throttle_clear_ppm: Limit = 850_000
    """THROTTLE ends below this, a step under its limit for the same reason."""
    clear_dwell_s: Span = 21_600
    """Six hours below the clearing limit, with no overrun in sight, before a status relaxes."""

    pace_overrun_ppm: Limit = 1_000_000
    """WARN when the period would end at or over this by linear pace (or by the feed's own forecast)."""
    pace_clear_ppm: Limit = 950_000
    """The overrun is gone once the pace points below this."""
    pace_min_elapsed_ppm: Share = 250_000
    """No pace before a quarter of the period: about a week of a month, so that weekdays and weekends are both in."""

    forecast_history_s: Span = 864_000
    """No forecast before ten days were seen: until then the linear pace is all there is, and warns at most."""
    overrun_warn_ppm: Odds = 500_000
    """WARN when an overrun is at least this likely."""
    overrun_throttle_ppm: Odds = 900_000
    """THROTTLE when an overrun is at least this likely, and so much is spent that it is no mere guess:"""
    overrun_used_ppm: Limit = 500_000
    """half of the budget."""

    anomaly_z_milli: Annotated[int, Meta(ge=1_000, le=1_000_000)] = 3_500
    """A rate is unusual from this modified z-score on, in two of three buckets: the usual limit of the usual test."""
    anomaly_over_ppm: Annotated[int, Meta(ge=0, le=100_000_000)] = 400_000
    """And only when it is over what was expected by so much: AWS' default for an anomaly of cost."""
    anomaly_record_ppm: Annotated[int, Meta(ge=FULL_PPM, le=100_000_000)] = 1_100_000
    """And by so much over the largest that the spend has shown by itself: some are wild by habit."""
    anomaly_raise_ppm: Annotated[int, Meta(ge=FULL_PPM, le=100_000_000)] = 2_000_000
    """After an anomaly the next one must be so many times as large; this fades with a half-life of 2,700 buckets."""
    anomaly_drift_milli: Annotated[int, Meta(ge=1_000, le=20_000)] = 5_000
    """Days are unusual together when the sum of their z-scores beyond a half comes to this."""
    anomaly_share_ppm: Share = 50_000
    """What is unusual matters when, going on to the period's end, it would cost a twentieth of the budget"""
    anomaly_least_micros: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 100_000_000
    """and a hundred units of the currency: below that nobody wants to be woken."""

    feed_lag_s: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 86_400
    """Billing feeds may be a day behind: that much spend is taken as made already. Metered cost has none."""
    lag_margin_stops: bool = False
    """Whether cost plus lag reaching the budget stops, as a hard cap needs. Off: it throttles. See cost_rules."""
    feed_period_s: Span = 28_800
    """How often a billing feed is due. It comes several times a day; three missed in a row, a day, is BLIND."""
    feed_interval: Interval = "month"
    """The period of a feed that names its period's start only, until it shows another (see cost_booking)."""
    feed_settle_s: Span = 259_200
    """A feed that still names the old period three days after its supposed end has a longer period than supposed."""
    period_skew_s: Span = 86_400
    """Period starts this close (or an eighth of the period, if less) are one: clocks, time zones, summer time."""
    future_skew_s: Annotated[int, Meta(ge=0, le=86_400)] = 3_600
    """Usage and periods further ahead than this are refused: they would roll the period over before its time."""

    bucket_s: Span = 900
    """Spend is sampled, and the throttled fraction is moved, at most this often."""
    throttle_floor_ppm: Share = 50_000
    """The least that THROTTLE admits: enough to see whether demand is still there."""
    throttle_step_ppm: Share = 200_000
    """The most by which the fraction changes at once, in parts of full admission: no cliff for the tenant's users."""
    throttle_quantum_ppm: Share = 50_000
    """Fractions are multiples of this, so that small changes of the rate are not new actions."""
    forced_throttle_ppm: Share = 500_000
    """What THROTTLE admits when an operator forces it and the spend itself names no fraction."""

    recover_start_ppm: Share = 100_000
    """Where RECOVERING starts after STOP: caches are cold and every client retries at once."""
    recover_ramp_s: Span = 3_600
    """How long RECOVERING takes from its start to full admission."""
    recover_steps: Annotated[int, Meta(ge=1, le=100)] = 12
    """In how many equal steps: every five minutes by default."""

    def __post_init__(self) -> None:
        if not self.warn_ppm <= self.throttle_ppm <= self.stop_ppm:
            raise ValueError("warn_ppm, throttle_ppm and stop_ppm must not fall in this order")
        if self.warn_clear_ppm > self.warn_ppm:
            raise ValueError("warn_clear_ppm: must not be over warn_ppm")
        if self.throttle_clear_ppm > self.throttle_ppm:
            raise ValueError("throttle_clear_ppm: must not be over throttle_ppm")
        if self.pace_clear_ppm > self.pace_overrun_ppm:
            raise ValueError("pace_clear_ppm: must not be over pace_overrun_ppm")
        if self.overrun_warn_ppm > self.overrun_throttle_ppm:
            raise ValueError("overrun_warn_ppm: must not be over overrun_throttle_ppm")
        if self.recover_start_ppm < self.throttle_floor_ppm:
            raise ValueError("recover_start_ppm: must not be under throttle_floor_ppm")
        if self.throttle_quantum_ppm > self.throttle_step_ppm:
            raise ValueError("throttle_quantum_ppm: must not be over throttle_step_ppm")
        if self.ramp_step_ppm > self.throttle_step_ppm:
            raise ValueError("recover_steps: too few, one step would pass throttle_step_ppm")
        if self.recover_ramp_s < self.recover_steps:
            raise ValueError("recover_ramp_s: shorter than a second a step")

    @property
    def ramp_step_ppm(self) -> int:
        """By how much one step of RECOVERING raises the fraction."""
        return -(-(1_000_000 - self.recover_start_ppm) // self.recover_steps)

    @property
    def ramp_step_us(self) -> int:
        """How long one step of RECOVERING lasts."""
        return self.recover_ramp_s * 1_000_000 // self.recover_steps
