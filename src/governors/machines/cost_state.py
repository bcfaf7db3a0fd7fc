"""What the Cost Guard remembers: a few integers for each budget, encoded with every batch it took part in."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from governors.numerics.anomaly import Habit
from governors.numerics.outlook import Outlook
from governors.numerics.periods import MONTH
from ingest.signals import MICROS_MAX

FULL_PPM: Final = 1_000_000


class CostStatus(StrEnum):
    """The public states."""

    UNBUDGETED = "UNBUDGETED"
    NORMAL = "NORMAL"
    WARN = "WARN"
    THROTTLE = "THROTTLE"
    STOP = "STOP"
    RECOVERING = "RECOVERING"


# By plain names: a look-up through the enumeration costs more than the comparison it serves.
UNBUDGETED: Final = CostStatus.UNBUDGETED
NORMAL: Final = CostStatus.NORMAL
WARN: Final = CostStatus.WARN
THROTTLE: Final = CostStatus.THROTTLE
STOP: Final = CostStatus.STOP
RECOVERING: Final = CostStatus.RECOVERING


class Budget(Struct, frozen=True, gc=False, array_like=True):
    """What may be spent in each period. An `amount_micros` of 0 means that no budget was set yet.

    `feed_micros` is the budget that the billing feed named last (0: there is no feed): only a change of it changes
    the budget, so that a feed does not take back at every message what `budget.set` has said since. `interval` and
    `anchor_us` are those of `numerics.periods`. `extra_micros` are added until `extra_until_us`.
    """

    amount_micros: int = 0
    currency: str = ""
    feed_micros: int = 0
    interval: int = MONTH
    anchor_us: int = 0
    extra_micros: int = 0
    extra_until_us: int = 0


class Trend(Struct, frozen=True, gc=False, array_like=True):
    """The last few demand rates (micros an hour, newest last), and the cost at the mark where the next one begins."""

    mark_us: int = 0
    mark_micros: int = 0
    rates_per_h: tuple[int, ...] = ()


class Learnt(Struct, frozen=True, gc=False, array_like=True):
    """What a stream of rates has taught, a bucket at a time; the same object until a bucket has passed.

    `habit` and `outlook` are those of `numerics`. `z_milli` are the z-scores of the last three buckets, newest last,
    `record_milli` the largest that two of three came to, slowly fading; `reach_ppm` is how far the last bucket reached
    if it was an alarm, `bar_ppm` by how much both are to be surpassed, and `unusual_us` when that was last so.

    `rest_low_micros`, `rest_micros` and `rest_high_micros` are what will be spent from `at_us` to `end_us`, the end of
    the period: at least, likely, at most, with the odds of the policy (0 and `end_us` 0 while nothing is known).
    `excess_per_h` is by how much the last two rates were over what was expected, 0 where that is nothing unusual;
    `rate_per_h` and `expected_per_h` are the figures of the last bucket.
    """

    habit: Habit = Habit()
    outlook: Outlook = Outlook()
    z_milli: tuple[int, ...] = ()
    record_milli: int = 0
    reach_ppm: int = 0
    bar_ppm: int = FULL_PPM
    unusual_us: int = 0
    at_us: int = 0
    end_us: int = 0
    rest_low_micros: int = 0
    rest_micros: int = 0
    rest_high_micros: int = 0
    excess_per_h: int = 0
    rate_per_h: int = 0
    expected_per_h: int = 0


class CostState(Struct, frozen=True, gc=False, array_like=True):
    """One budget's machine.

    `start_us` to `end_us` is the period that the sums count, 0 before the first signal. `snapshot_micros` is the
    feed's latest word, `metered_micros` the sum of deltas, `ahead_micros` deltas of the next period that came early;
    `forecast_micros` the feed's own forecast or 0. `fraction_ppm` is the fraction last admitted under THROTTLE or
    RECOVERING, 1,000,000 when none was since NORMAL, and `step_due_us` when it may move next. `calm_since_us` is 0
    while not calm. `notice` is the highest notice level of this stay in WARN, and whether there was something unusual.
    `learnt` is None until a first bucket has brought a rate.
    """

    status: CostStatus = CostStatus.UNBUDGETED
    budget: Budget = Budget()
    start_us: int = 0
    end_us: int = 0
    snapshot_micros: int = 0
    metered_micros: int = 0
    ahead_micros: int = 0
    forecast_micros: int = 0
    trend: Trend = Trend()
    fraction_ppm: int = FULL_PPM
    step_due_us: int = 0
    calm_since_us: int = 0
    notice: int = 0
    learnt: Learnt | None = None

    @property
    def cost_micros(self) -> int:
        """What counts: the feed's word or our own meter, whichever is more. May fall, credits arrive late."""
        snapshot, metered = self.snapshot_micros, self.metered_micros
        # Not by `max`, whose call takes longer than all of this: every signal asks.
        return snapshot if snapshot > metered else metered


def within_receipt(number: int) -> int:
    """The nearest number that a receipt can hold exactly."""
    return max(-MICROS_MAX, min(MICROS_MAX, number))
