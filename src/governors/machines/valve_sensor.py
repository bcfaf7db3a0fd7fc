"""What the Backlog Valve knows of its queue: the wait, the depth, the rates, and the interval under judgement.

Two feeds are understood, alone or together. A queue sample shows the wait by the age of the oldest message, the depth,
and the rates. Finished work shows the wait by its smallest sojourn; its counts are one consumer's share of the whole,
so that they say nothing of the rates.

Every sample passes here, so bounds are written out: a call of `min` takes as long as ten comparisons.
"""

from math import isqrt
from typing import Final

from msgspec import Struct

from governors.fsm.table import Evidence
from governors.machines.events import Event
from governors.machines.valve_policy import ValvePolicy
from governors.numerics.codel import Interval, extend
from governors.numerics.fluid import moving_average
from ingest.signals import QueueSample, WorkDone

# Evidence is exact only below 2**53 (RFC 8785 section 3.2.2.3); what a sender claims beyond is capped.
NUMBER_MAX: Final = 2**53 - 1
WAIT_MS_MAX: Final = 10**13
COUNT: Final = 1_000_000_000  # a thousandth of a message a second, for a microsecond


class Sensor(Struct, frozen=True, array_like=True, gc=False):
    """The newest reading.

    `at_us` is the newest time of observation; it never runs backwards, nor ahead of our clock. `wait_ms` is the wait
    that the reading showed, `depth` the messages in the queue and `stuck_depth` those of them that do not move.
    `in_milli` and `done_milli` are moving averages of the rates (thousandths a second); the latter estimates capacity.
    `good_milli` is the completion rate of good times: it is not learned while waits are long or the valve restricts.
    `has_rates` says whether the sender knows rates at all. `period_us` is the usual time between two readings of them.
    """

    at_us: int = 0
    rated_us: int = 0
    wait_ms: int = 0
    depth: int = 0
    in_milli: int = 0
    done_milli: int = 0
    good_milli: int = 0
    has_rates: bool = False
    still_since_us: int = 0
    stuck_depth: int = 0
    interval: Interval = Interval()
    period_us: int = 0


def sense(sensor: Sensor, event: Event, policy: ValvePolicy, now_us: int, *, is_open: bool) -> Sensor | None:
    """The sensor after a signal; None when it measured nothing (no work finished).

    While open, a wait under the target begins the interval anew, so that it always is the unbroken run above the
    target, and the estimate of capacity follows the completion rate up and down; in such a run it is the rate of the
    run alone. While restricted it follows only what a queue proves that stands at both ends, as long as it moves: else
    the completion rate is our own limit looking back at us. It then remembers two intervals, but what chance does not
    explain (four standard deviations) is taken for a change of capacity, and counts half at once.
    """
    body = event.body
    at_us = event.observed_us if event.observed_us < now_us else now_us
    if at_us < sensor.at_us:
        at_us = sensor.at_us
    if isinstance(body, QueueSample):
        return _sense_queue(sensor, body, policy, at_us, is_open=is_open)
    if isinstance(body, WorkDone) and body.count:
        return _sense_work(sensor, body, policy, at_us, is_open=is_open)
    return None


def _sense_queue(sensor: Sensor, sample: QueueSample, policy: ValvePolicy, at_us: int, *, is_open: bool) -> Sensor:
    depth = sample.depth
    in_milli = _milli(sample.in_rate_per_s)
    done_milli = _milli(sample.done_rate_per_s)
    still_us, stuck = sensor.still_since_us, sensor.stuck_depth
    has_rates = sensor.has_rates or in_milli > 0 or done_milli > 0
    if has_rates and depth and depth == sensor.depth and not in_milli and not done_milli:
        still_us = still_us or at_us
        if at_us - still_us >= policy.stuck_after_s * 1_000_000:
            stuck = depth
    else:
        still_us = 0
        if depth < stuck:
            stuck = depth

    capacity = sensor.done_milli
    if depth == stuck:
        wait_ms = 0
    elif stuck and (pace := capacity or sensor.good_milli):
        # The oldest message is a stuck one and its age says nothing: the rest waits as long as it takes to be served.
        wait_ms = min((depth - stuck) * 1_000_000 // pace, WAIT_MS_MAX)
    else:
        wait_ms = _whole(sample.oldest_age_s * 1000.0, WAIT_MS_MAX)

    period_us, came = sensor.period_us, 0
    if not sensor.rated_us:
        in_average, capacity = in_milli, done_milli
    else:
        elapsed_us, memory_us = at_us - sensor.rated_us, policy.interval_ms * 500
        came = in_milli * elapsed_us // COUNT
        if came > NUMBER_MAX:
            came = NUMBER_MAX
        period_us = moving_average(period_us or elapsed_us, elapsed_us, 1, 3)
        in_average = moving_average(sensor.in_milli, in_milli, elapsed_us, memory_us)
        if is_open:
            if sensor.interval.samples and wait_ms >= policy.target_ms:
                # What was done before the queue stood says what was asked for, not what can be done.
                memory_us = max(sensor.at_us - sensor.interval.start_us, 1)
            capacity = moving_average(capacity, done_milli, elapsed_us, memory_us)
        elif done_milli > capacity or (not still_us and _stood(sensor, depth - stuck, capacity, period_us)):
            memory_us = 4 * memory_us
            off = abs(done_milli - capacity) * elapsed_us // COUNT
            if off > 4 * by_chance(max(capacity, done_milli), elapsed_us):
                memory_us = elapsed_us
            capacity = moving_average(capacity, done_milli, elapsed_us, memory_us)

    good, interval = sensor.good_milli, sensor.interval
    if is_open and wait_ms < policy.target_ms:
        good = capacity
        interval = Interval(at_us)
    else:
        if is_open and not interval.samples:
            interval, came = Interval(at_us), 0
        interval = extend(interval, wait_ms, depth - stuck, came)
    return Sensor(
        at_us, at_us, wait_ms, depth, in_average, capacity, good, has_rates, still_us, stuck, interval, period_us
    )


def _sense_work(sensor: Sensor, work: WorkDone, policy: ValvePolicy, at_us: int, *, is_open: bool) -> Sensor:
    wait_ms = _whole(work.sojourn_min_ms, WAIT_MS_MAX)
    interval = sensor.interval
    if is_open and wait_ms < policy.target_ms:
        interval = Interval(at_us)
    else:
        if is_open and not interval.samples:
            # The whole window had no shorter wait, so that the run above the target began with it at the latest.
            interval = Interval(at_us - int(work.window_s * 1_000_000))
        interval = extend(interval, wait_ms, sensor.depth - sensor.stuck_depth)
    return Sensor(
        at_us,
        sensor.rated_us,
        wait_ms,
        sensor.depth,
        sensor.in_milli,
        sensor.done_milli,
        sensor.good_milli,
        sensor.has_rates,
        sensor.still_since_us,
        sensor.stuck_depth,
        interval,
        sensor.period_us,
    )


def restart(sensor: Sensor) -> Sensor:
    """The sensor with a new interval beginning at its newest reading."""
    return Sensor(
        sensor.at_us,
        sensor.rated_us,
        sensor.wait_ms,
        sensor.depth,
        sensor.in_milli,
        sensor.done_milli,
        sensor.good_milli,
        sensor.has_rates,
        sensor.still_since_us,
        sensor.stuck_depth,
        Interval(sensor.at_us),
        sensor.period_us,
    )


def lasted_ms(sensor: Sensor) -> int:
    """How long the interval has lasted."""
    return (sensor.at_us - sensor.interval.start_us) // 1000


def by_chance(rate_milli: int, period_us: int) -> int:
    """By how many messages chance alone moves what is done in a while: the square root of their number (Poisson)."""
    return isqrt(max(rate_milli, 0) * period_us // COUNT)


def backlog(sensor: Sensor) -> int:
    """Messages that wait and move."""
    return sensor.depth - sensor.stuck_depth


def reading(sensor: Sensor, policy: ValvePolicy) -> Evidence:
    """The numbers that every decision compares."""
    evidence: Evidence = {
        "depth": sensor.depth,
        "interval_ms": policy.interval_ms,
        "sojourn_ms": sensor.wait_ms,
        "target_ms": policy.target_ms,
    }
    if sensor.stuck_depth:
        evidence["stuck_depth"] = sensor.stuck_depth
    return evidence


def rates(sensor: Sensor) -> Evidence:
    """The rates that a limit is reckoned from."""
    return {"done_rate_milli_per_s": sensor.done_milli, "in_rate_milli_per_s": sensor.in_milli}


def _stood(before: Sensor, standing: int, capacity: int, period_us: int) -> bool:
    """Whether a queue stands at both ends of a reading, by more than chance."""
    return min(backlog(before), standing) >= by_chance(capacity, period_us) // 2


def _milli(rate_per_s: float) -> int:
    return _whole(rate_per_s * 1000.0 + 0.5, NUMBER_MAX)


def _whole(number: float, at_most: int) -> int:
    return int(number) if number < at_most else at_most
