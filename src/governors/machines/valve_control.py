"""How much the Backlog Valve lets in: limits, the promise to drain, turns and waits. Arithmetic on its own state.

The limit is the capacity less what the backlog needs to be gone in time, trimmed by how far the queue is off its plan.
The time left is reckoned anew each interval, so that what was lost is made up for, up to closing altogether. The limit
is what is told outside, and changes seldom. Admission, which is asked here, follows each sample (`pace_milli`): within
an interval a queue moves by more than the target allows.
"""

from enum import IntEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from governors.fsm.table import Evidence
from governors.machines.valve_policy import DAY_S, ValvePolicy, drain_us, interval_us, shortest_promise_us
from governors.machines.valve_sensor import NUMBER_MAX, Sensor, backlog, by_chance
from governors.numerics.fluid import (
    FULL_PPM,
    admissible_rate_milli,
    drain_time_us,
    error_ppm,
    integrate_ppm,
    planned_depth,
    trim_ppm,
)
from ingest.signals import QueueSample

TIGHTER: Final = -1
LOOSER: Final = 1
DAY_US: Final = DAY_S * 1_000_000
# Inflow at four fifths of the limit or more is held back by it; below that the limit takes nothing from anybody.
BINDING_PPM: Final = 800_000
# The first step of a climb, where a policy allows smaller ones.
CLIMB_MIN_PPM: Final = 10_000
# An empty queue: under an eighth of what shall stand.
EMPTY_PARTS: Final = 8


class Control(Struct, frozen=True, array_like=True, gc=False):
    """What the valve does about its queue.

    `limit_milli` is the rate admitted while shedding (thousandths a second), `share_ppm` the share of requests where
    the sender knows no rates; the one that is not used is 0, and both keep their last value. `probe_ppm` is the share
    while probing. `high_depth` was fixed when shedding began. The promise: from `promised_depth` down to the goal in
    `promise_us`, by `due_us` (0 once kept); without rates there is none, and `promised_depth` is the depth an interval
    ago. `direction` and `turned_us` say which way the limit last moved and since when that way. `failed_wait_us` is
    the newest wait after a failed probe, over at `retry_us`. `climb_ppm` is the newest step up from a limit that
    starves its queue, 0 once there is a queue. `missed` counts the promises missed since the newest one was made for
    another reason.
    """

    limit_milli: int = 0
    share_ppm: int = 0
    probe_ppm: int = 0
    integral_ppm: int = 0
    high_depth: int = 0
    promised_depth: int = 0
    promise_us: int = 0
    due_us: int = 0
    direction: int = LOOSER
    turned_us: int = 0
    failed_wait_us: int = 0
    retry_us: int = 0
    calm_intervals: int = 0
    bad_intervals: int = 0
    climb_ppm: int = 0
    missed: int = 0


class Judgement(IntEnum):
    """Of an interval: the wait never fell under the target; it did; waits and depths were low throughout."""

    BAD = 0
    FAIR = 1
    CALM = 2


class Limit(Struct, frozen=True, gc=False):
    """A reckoned limit with the numbers it came from. At or under zero only closing drains the queue in time."""

    rate_milli: int
    integral_ppm: int
    evidence: Evidence


def judge(sensor: Sensor, control: Control, policy: ValvePolicy) -> Judgement:
    """Judge the sensor's interval, which must be whole."""
    interval = sensor.interval
    if interval.wait_min_ms >= policy.target_ms:
        return Judgement.BAD
    if 2 * interval.wait_min_ms < policy.target_ms and interval.depth_max < low_water(sensor, control, policy):
        return Judgement.CALM
    return Judgement.FAIR


def count(control: Control, judgement: Judgement) -> Control:
    """One more interval judged. Calm ones count in a row."""
    return replace(
        control,
        calm_intervals=control.calm_intervals + 1 if judgement is Judgement.CALM else 0,
        bad_intervals=control.bad_intervals + (judgement is Judgement.BAD),
    )


def may_turn(control: Control, direction: int, policy: ValvePolicy, now_us: int) -> bool:
    """Whether the limit may move this way now."""
    return direction == control.direction or now_us - control.turned_us >= policy.turn_intervals * interval_us(policy)


def turn(control: Control, direction: int, now_us: int) -> Control:
    """The control after the limit moved this way."""
    return control if direction == control.direction else replace(control, direction=direction, turned_us=now_us)


def high_water(sensor: Sensor, policy: ValvePolicy) -> int:
    """The depth at which the wait reaches the target: rate times wait (Little's law).

    Without rates, the depth seen scaled to the target: the oldest message's age is the time the depth took to come in.
    """
    if sensor.has_rates:
        depth = max(sensor.done_milli, sensor.good_milli) * policy.target_ms // 1_000_000
    else:
        depth = backlog(sensor) * policy.target_ms // max(sensor.wait_ms, 1)
    return min(max(depth, policy.high_water_min), NUMBER_MAX)


def low_water(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """Reopening begins under this depth; what chance alone makes of a queue is no reason to wait."""
    return max(control.high_depth * policy.low_water_ppm // FULL_PPM, rest_depth(sensor, policy))


def allowed_depth(sensor: Sensor, policy: ValvePolicy) -> int:
    """The depth at which the wait reaches the target, by what is known now: rate times wait (Little's law)."""
    return max(1, max(sensor.done_milli, sensor.good_milli) * policy.target_ms // 1_000_000)


def rest_depth(sensor: Sensor, policy: ValvePolicy) -> int:
    """What shall stand while work is held back, so that consumers do not run dry by chance between two samples.

    As much as chance moves a queue meanwhile; less where four times that on top would be twice what the target allows.
    """
    chance = by_chance(max(sensor.done_milli, sensor.good_milli), sensor.period_us)
    allowed = allowed_depth(sensor, policy)
    return max(1, min(chance, max(2 * allowed - 4 * chance, allowed // 4)))


def goal_depth(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """What the limit aims at: while a backlog drains, so far under high water that chance does not lift it over."""
    rest = rest_depth(sensor, policy)
    if not control.due_us:
        return rest
    return max(rest, control.high_depth - 3 * by_chance(sensor.done_milli, sensor.period_us))


def short_depth(sensor: Sensor, control: Control) -> int:
    """A backlog under this depth is drained: no more stands than the target allows, or than chance makes of nothing."""
    return max(control.high_depth, 3 * by_chance(sensor.done_milli, sensor.period_us))


def excess(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """Messages beyond the goal."""
    return max(0, backlog(sensor) - goal_depth(sensor, control, policy))


def first_limit_milli(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """The rate that keeps the full promise; at or under zero the valve must close."""
    promised_us = first_promise_us(sensor, control, policy)
    return admissible_rate_milli(sensor.done_milli, excess(sensor, control, policy), planned_us(promised_us, sensor))


def first_promise_us(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """As soon as the critical reserve leaves room for, at most the policy's time: the same work is turned away either
    way, and the sooner the backlog is gone the less of it waits in vain.
    """
    spare_milli = sensor.done_milli * (FULL_PPM - policy.critical_reserve_ppm) // FULL_PPM
    needed_us = drain_time_us(excess(sensor, control, policy), spare_milli)
    if needed_us is None:
        return drain_us(policy)
    promised_us = max(needed_us * 10 // 9, needed_us + sensor.period_us, shortest_promise_us(policy))
    return min(promised_us, drain_us(policy))


def pace_milli(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """The rate that admission keeps until the next sample: what brings the queue to its goal in the time left.

    That is never less than one and a half samples: to mend all of what is off within one would double what chance made
    of it wherever a limit acts late.
    """
    soonest_us = (3 * sensor.period_us // 2) or interval_us(policy)
    due_us = control.due_us - control.promise_us + planned_us(control.promise_us, sensor)
    left_us = max(due_us - sensor.at_us, soonest_us)
    capacity = sensor.done_milli + sensor.done_milli * control.integral_ppm // FULL_PPM
    over = backlog(sensor) - goal_depth(sensor, control, policy)
    return min(max(admissible_rate_milli(capacity, over, left_us), floor_milli(sensor, policy)), NUMBER_MAX)


def planned_us(promised_us: int, sensor: Sensor) -> int:
    """A promise is planned to be kept a tenth early, a sample at the least: capacity is an estimate."""
    return max(promised_us - max(promised_us // 10, sensor.period_us), promised_us // 2)


def reckon_limit(sensor: Sensor, control: Control, policy: ValvePolicy, now_us: int) -> Limit:
    """The rate that brings the queue to where the promise says, trimmed by how far off its plan it is."""
    whole_us = planned_us(control.promise_us, sensor)
    left_us = max(control.due_us - control.promise_us + whole_us - now_us, 0)
    planned = planned_depth(control.promised_depth, goal_depth(sensor, control, policy), left_us, whole_us)
    # One interval is the soonest that a limit can act in; with no promise to keep there is time for a gentler one.
    left_us = max(left_us, (1 if control.due_us else 2) * interval_us(policy))
    # What chance alone makes of a queue is no error.
    is_chance = abs(planned - backlog(sensor)) <= 4 * rest_depth(sensor, policy)
    error = 0 if is_chance else error_ppm(planned, backlog(sensor), control.high_depth)
    integral = control.integral_ppm
    # A limit that takes nothing from anybody says nothing of what it could be raised to.
    if error < 0 or in_use(sensor, control):
        integral = integrate_ppm(integral, error, policy.trim_integral_ppm, policy.trim_max_ppm)
    trim = trim_ppm(integral, error, policy.trim_gain_ppm, policy.trim_max_ppm)
    capacity = sensor.done_milli
    rate = admissible_rate_milli(capacity, excess(sensor, control, policy), left_us) + capacity * trim // FULL_PPM
    evidence: Evidence = {"left_ms": left_us // 1000, "planned_depth": planned, "trim_ppm": trim}
    return Limit(min(rate, NUMBER_MAX), integral, evidence)


def floor_milli(sensor: Sensor, policy: ValvePolicy) -> int:
    """The least rate that shedding admits."""
    return max(1, sensor.done_milli * policy.floor_ppm // FULL_PPM)


def believe(
    before: Sensor, after: Sensor, control: Control, policy: ValvePolicy, sample: QueueSample
) -> tuple[Sensor, Control]:
    """Believe in more capacity while the limit starves its queue.

    Two samples in a row found consumers with hardly anything to do, though what was let in, and done, was what the
    limit allowed: so capacity lies above it, nobody knows how far. Steps double as long as that is so, and a queue
    that stands again ends them; a handful of messages may be chance and halves them.
    """
    rest = rest_depth(after, policy)
    if backlog(after) > rest:
        return after, replace(control, climb_ppm=0) if control.climb_ppm else control
    allowed_milli = pace_milli(before, control, policy)
    is_dry = (
        max(backlog(before), backlog(after)) <= rest // EMPTY_PARTS
        and sample.in_rate_per_s * 1000 * FULL_PPM >= allowed_milli * BINDING_PPM
        and sample.done_rate_per_s * FULL_PPM >= sample.in_rate_per_s * BINDING_PPM
    )
    if not is_dry:
        return after, replace(control, climb_ppm=fade(control.climb_ppm)) if control.climb_ppm else control
    step_ppm = next_climb_ppm(control, policy)
    more_milli = min(after.done_milli - (-after.done_milli * step_ppm // FULL_PPM), NUMBER_MAX)
    # The trim was learned from a queue that is gone.
    return replace(after, done_milli=more_milli), replace(control, climb_ppm=step_ppm, integral_ppm=0)


def next_climb_ppm(control: Control, policy: ValvePolicy) -> int:
    """The next step up from a limit that starves its queue: twice the one before (as TCP's slow start does)."""
    return max(min(2 * control.climb_ppm, policy.climb_max_ppm), policy.limit_step_ppm, CLIMB_MIN_PPM)


def fade(climb_ppm: int) -> int:
    """Half a step up, and none once that is too small to be one."""
    return climb_ppm // 2 if climb_ppm >= 2 * CLIMB_MIN_PPM else 0


def has_overshot(sensor: Sensor, control: Control, policy: ValvePolicy) -> bool:
    """Whether climbing went past capacity: a queue stands again. An interval is too long to wait then."""
    return control.climb_ppm > 0 and backlog(sensor) >= low_water(sensor, control, policy)


def in_use(sensor: Sensor, control: Control) -> bool:
    """Whether at least half of the limit is asked for; else it is not raised (Netflix concurrency-limits)."""
    return 2 * sensor.in_milli >= control.limit_milli


def is_binding(sensor: Sensor, control: Control, policy: ValvePolicy) -> bool:
    """Whether the limit holds anybody back, as it was told or as it is kept from sample to sample."""
    limit_milli = min(control.limit_milli, pace_milli(sensor, control, policy))
    return sensor.in_milli * FULL_PPM >= limit_milli * BINDING_PPM


def is_step(old: int, new: int, policy: ValvePolicy) -> bool:
    """Whether a limit moved enough to be changed outside."""
    return abs(new - old) * FULL_PPM >= old * policy.limit_step_ppm


def promise(control: Control, sensor: Sensor, duration_us: int, now_us: int) -> Control:
    """The control with a new promise to drain, made now; a day at most."""
    duration_us = min(duration_us, DAY_US)
    return replace(
        control, promised_depth=backlog(sensor), promise_us=duration_us, due_us=now_us + duration_us, integral_ppm=0
    )


def must_close(sensor: Sensor, control: Control, policy: ValvePolicy) -> bool:
    """Whether a limit that comes out at nothing is no passing lag: the policy's time is too short, or was over once."""
    return control.missed > 0 or shortest_drain_us(sensor, control, policy) > drain_us(policy)


def falls_in_time(was: int, depth: int, policy: ValvePolicy) -> bool:
    """Whether a backlog fell within one interval by the share of the drain time that the interval is."""
    return was > 0 and (was - depth) * drain_us(policy) >= was * interval_us(policy)


def shortest_drain_us(sensor: Sensor, control: Control, policy: ValvePolicy) -> int:
    """The time to drain with nothing let in; a day where nothing is served."""
    needed_us = drain_time_us(excess(sensor, control, policy), sensor.done_milli)
    return DAY_US if needed_us is None else max(needed_us, shortest_promise_us(policy))


def back_off(control: Control, policy: ValvePolicy, now_us: int) -> Control:
    """The control after a failed probe: the next one waits twice as long, up to the longest wait."""
    longest_us = int(policy.probe_wait_max_s * 1_000_000)
    wait_us = min(max(2 * control.failed_wait_us, int(policy.probe_wait_s * 1_000_000)), longest_us)
    return replace(control, failed_wait_us=wait_us, retry_us=now_us + wait_us)
