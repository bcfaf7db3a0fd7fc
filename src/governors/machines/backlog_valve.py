"""Backlog Valve: keeps the wait in one queue short by admitting less, and promises when the backlog will be gone.

    OPEN -> SHEDDING -> DRAINING (closed) -> PROBING -> OPEN

Depths: messages. Waits: ms. Rates: thousandths a second. Times: µs UTC. Shares: ppm.
Sources: minimum wait over an interval, CoDel (RFC 8289); intervals cut short by enough messages, and steps without
rates, DAGOR (Zhou et al., SoCC 2018); no growth of a limit that is not used, Netflix concurrency-limits; doubling steps
up from a limit that starves its queue, TCP's slow start (RFC 5681); as much left standing as chance moves, the
square-root rule of staffing (Halfin and Whitt 1981); stuck lag left out, KEDA's Kafka scaler.
A number that cannot be (nothing measured, a clock ahead of ours) changes nothing or is capped, never raised.

Waits are judged in the sender's time, so that late samples still tell how long a wait lasted; statuses are kept in our
own, so that a heap of late samples cannot rush the valve through its statuses.
"""

from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from governors.fsm.table import Evidence, Row, Table, Verdict
from governors.machines.events import ActionResult, Event, OverrideEnded, OverrideGranted, Timeout
from governors.machines.governor import FULL_PPM, Governor
from governors.machines.valve_control import (
    LOOSER,
    TIGHTER,
    Control,
    Judgement,
    back_off,
    believe,
    count,
    falls_in_time,
    first_limit_milli,
    first_promise_us,
    floor_milli,
    has_overshot,
    high_water,
    in_use,
    is_binding,
    is_step,
    judge,
    low_water,
    may_turn,
    must_close,
    pace_milli,
    promise,
    reckon_limit,
    short_depth,
    shortest_drain_us,
    turn,
)
from governors.machines.valve_effects import RESTRICTED, admit, deadline, effect, expected_period_us
from governors.machines.valve_policy import ValvePolicy, drain_us, interval_us
from governors.machines.valve_rules import RULES
from governors.machines.valve_sensor import Sensor, backlog, lasted_ms, rates, reading, restart, sense
from governors.machines.valve_state import ValveState, ValveStatus
from governors.numerics.codel import is_whole
from ingest.signals import QueueSample, WorkDone

NAME: Final = "backlog_valve"
# Finished work adds up in any order within its windows; a queue's sample replaces the one before it.
WORK_TOLERANCE_US: Final = 30_000_000

OPEN, SHEDDING, DRAINING, PROBING = ValveStatus
Decision = Verdict[ValveState]


def watch(state: ValveState, event: Event, policy: ValvePolicy, now_us: int) -> Decision:
    """OPEN: let everything in until the wait has stood over the target for a whole interval."""
    sensor = sense(state.sensor, event, policy, now_us, is_open=True)
    if sensor is None:
        return _unmeasured(state)
    seen = ValveState(OPEN, state.since_us, sensor, state.control)
    if sensor.wait_ms < policy.target_ms:
        return Verdict(seen, "none", "valve.flowing", reading(sensor, policy))
    if not _is_whole(sensor, policy):
        return Verdict(seen, "none", "valve.standing", {**reading(sensor, policy), "standing_ms": lasted_ms(sensor)})
    if not _has_dwelt(seen, policy, now_us) or not may_turn(seen.control, TIGHTER, policy, now_us):
        return _waits(seen, policy, now_us)
    control = seen.control
    if now_us - seen.since_us >= policy.probe_wait_max_s * 1_000_000:
        control = replace(control, failed_wait_us=0)
    high = high_water(sensor, policy)
    control = replace(control, high_depth=high, retry_us=0)
    return _restrict(seen, control, policy, now_us, {"standing_ms": lasted_ms(sensor)})


def hold_back(state: ValveState, event: Event, policy: ValvePolicy, now_us: int) -> Decision:
    """SHEDDING: admit what lets the backlog drain as promised; give way when nothing needs holding back any more."""
    sensor = sense(state.sensor, event, policy, now_us, is_open=False)
    if sensor is None:
        return _unmeasured(state)
    control = state.control
    if isinstance(event.body, QueueSample) and sensor.has_rates:
        sensor, control = believe(state.sensor, sensor, control, policy, event.body)
    seen = ValveState(SHEDDING, state.since_us, sensor, control)
    if _is_drained(seen):
        return _drained(seen, policy, now_us)
    if not _is_whole(sensor, policy) and not _may_step_back(sensor, state.control, policy, now_us):
        return Verdict(seen, "none", "valve.shedding", _shedding(seen, policy))
    judgement = judge(sensor, seen.control, policy)
    judged = ValveState(SHEDDING, state.since_us, restart(sensor), count(seen.control, judgement))
    if judgement is Judgement.BAD and _has_new_backlog(judged):
        return _promise_again(judged, policy, now_us, lasted_ms(sensor))
    if judged.control.limit_milli and is_binding(sensor, judged.control, policy):
        # Calm under a limit that holds work back does not speak for letting everything through.
        held = replace(judged, control=replace(judged.control, calm_intervals=0))
        return _adjust_rate(held, policy, now_us)
    if _may_probe(judged, policy, now_us):
        # A limit that held nobody back let everything through already: probing starts from there, never below.
        passing = FULL_PPM if judged.control.limit_milli else judged.control.share_ppm
        return _probe(judged, max(passing, policy.probe_start_ppm), policy, now_us)
    if judged.control.limit_milli and judgement is Judgement.CALM:
        # Tightened, it would hold work back again, and never be calm for long enough.
        return Verdict(judged, "none", "valve.shedding", _shedding(judged, policy))
    if judged.control.limit_milli:
        return _adjust_rate(judged, policy, now_us)
    return _adjust_share(judged, judgement, policy, now_us)


def stay_closed(state: ValveState, event: Event, policy: ValvePolicy, now_us: int) -> Decision:
    """DRAINING: let nothing but critical work in until the queue has been low for long enough to try again."""
    sensor = sense(state.sensor, event, policy, now_us, is_open=False)
    if sensor is None:
        return _unmeasured(state)
    seen = ValveState(DRAINING, state.since_us, sensor, state.control)
    if _is_drained(seen):
        return _drained(seen, policy, now_us)
    if _is_whole(sensor, policy):
        control = count(seen.control, judge(sensor, seen.control, policy))
        seen = ValveState(DRAINING, state.since_us, restart(sensor), control)
        if _may_probe(seen, policy, now_us):
            return _probe(seen, policy.probe_start_ppm, policy, now_us)
    evidence = {**reading(sensor, policy), **rates(sensor), "low_water": low_water(sensor, seen.control, policy)}
    evidence["calm_intervals"] = seen.control.calm_intervals
    return Verdict(seen, "none", "valve.draining", evidence)


def try_out(state: ValveState, event: Event, policy: ValvePolicy, now_us: int) -> Decision:
    """PROBING: let twice as many in after each calm interval; one bad interval and the valve goes back."""
    sensor = sense(state.sensor, event, policy, now_us, is_open=False)
    if sensor is None:
        return _unmeasured(state)
    seen = ValveState(PROBING, state.since_us, sensor, state.control)
    judgement = Judgement.FAIR
    if _is_whole(sensor, policy):
        judgement = judge(sensor, seen.control, policy)
        seen = ValveState(PROBING, state.since_us, restart(sensor), count(seen.control, judgement))
    control = seen.control
    evidence = {
        **reading(sensor, policy),
        "fraction_ppm": control.probe_ppm,
        "low_water": low_water(sensor, control, policy),
    }
    if control.bad_intervals:
        if not may_turn(control, TIGHTER, policy, now_us):
            return Verdict(seen, "none", "valve.probe_bad", evidence)
        failed = back_off(control, policy, now_us)
        wait_ms = failed.failed_wait_us // 1000
        tried: Evidence = {"fraction_ppm": control.probe_ppm, "probe_wait_ms": wait_ms}
        return _restrict(seen, failed, policy, now_us, tried)
    if judgement is not Judgement.CALM:
        return Verdict(seen, "none", "valve.probing", evidence)
    if control.probe_ppm < FULL_PPM:
        doubled = replace(control, probe_ppm=min(2 * control.probe_ppm, FULL_PPM))
        more = {**evidence, "fraction_ppm": doubled.probe_ppm, "previous_ppm": control.probe_ppm}
        return Verdict(replace(seen, control=doubled), "adjust", "valve.probe_doubled", more)
    if not _has_dwelt(seen, policy, now_us):
        return Verdict(seen, "none", "valve.probing", evidence)
    opened = ValveState(OPEN, now_us, seen.sensor, _fresh(turn(control, LOOSER, now_us)))
    return Verdict(opened, "reopen", "valve.reopen", {**evidence, "calm_intervals": control.calm_intervals})


def check_promise(state: ValveState, event: Event, policy: ValvePolicy, now_us: int) -> Decision:  # noqa: ARG001 - a row's shape
    """SHEDDING, DRAINING: the promised time is over and the backlog is not gone; the limit now aims at the soonest."""
    control, sensor = state.control, state.sensor
    if not control.due_us or now_us < control.due_us:
        return Verdict(state, "none", "valve.not_due", {})
    if backlog(sensor) < short_depth(sensor, control):
        done = replace(state, control=replace(control, due_us=0))
        return Verdict(done, "none", "valve.only_stuck", {"depth": sensor.depth, "stuck_depth": sensor.stuck_depth})
    # As soon as can be, or as long as it takes closed: then the limit comes out at nothing, and the valve closes.
    renewed = promise(control, sensor, shortest_drain_us(sensor, control, policy), now_us)
    renewed = replace(renewed, missed=control.missed + 1)
    evidence = {
        **reading(sensor, policy),
        "drain_ms": renewed.promise_us // 1000,
        "promised_ms": control.promise_us // 1000,
        "short_depth": short_depth(sensor, control),
    }
    return Verdict(replace(state, control=renewed), "adjust", "valve.promise_missed", evidence)


def keep(state: ValveState, event: Event, policy: ValvePolicy, now_us: int) -> Decision:  # noqa: ARG001 - a row's shape
    """Overrides and results of actions are the overlays' business: the queue is judged as before."""
    return Verdict(state, "none", "valve.unconcerned", {})


def _unmeasured(state: ValveState) -> Decision:
    return Verdict(state, "none", "valve.no_work_done", {})


def _is_whole(sensor: Sensor, policy: ValvePolicy) -> bool:
    return is_whole(sensor.interval, sensor.at_us, interval_us(policy), policy.samples_min, policy.interval_messages)


def _has_dwelt(state: ValveState, policy: ValvePolicy, now_us: int) -> bool:
    return now_us - state.since_us >= policy.dwell_intervals * interval_us(policy)


def _is_drained(state: ValveState) -> bool:
    return state.control.due_us > 0 and state.sensor.depth < short_depth(state.sensor, state.control)


def _may_probe(state: ValveState, policy: ValvePolicy, now_us: int) -> bool:
    control = state.control
    return (
        control.calm_intervals >= policy.calm_intervals
        and now_us >= control.retry_us
        and _has_dwelt(state, policy, now_us)
        and may_turn(control, LOOSER, policy, now_us)
    )


def _may_step_back(sensor: Sensor, control: Control, policy: ValvePolicy, now_us: int) -> bool:
    return has_overshot(sensor, control, policy) and may_turn(control, TIGHTER, policy, now_us)


def _has_new_backlog(state: ValveState) -> bool:
    control, sensor = state.control, state.sensor
    return control.limit_milli > 0 and not control.due_us and backlog(sensor) >= short_depth(sensor, control)


def _waits(state: ValveState, policy: ValvePolicy, now_us: int) -> Decision:
    evidence = {**reading(state.sensor, policy), "since_ms": (now_us - state.since_us) // 1000}
    evidence["dwell_ms"] = policy.dwell_intervals * policy.interval_ms
    return Verdict(state, "none", "valve.dwell", evidence)


def _drained(state: ValveState, policy: ValvePolicy, now_us: int) -> Decision:
    control = state.control
    made_us = control.due_us - control.promise_us
    evidence = {
        **reading(state.sensor, policy),
        "drain_ms": control.promise_us // 1000,
        "drained_ms": (now_us - made_us) // 1000,
        "short_depth": short_depth(state.sensor, control),
    }
    return Verdict(replace(state, control=replace(control, due_us=0)), "none", "valve.drained", evidence)


def _restrict(state: ValveState, control: Control, policy: ValvePolicy, now_us: int, why: Evidence) -> Decision:
    """Shed or close, whichever drains the queue in time. `why` is what a failed probe tried, or how long waits were."""
    sensor = state.sensor
    control = _fresh(turn(control, TIGHTER, now_us))
    evidence = {**reading(sensor, policy), **why, "high_water": control.high_depth}
    tried = "probe_wait_ms" in why
    if not sensor.has_rates:
        share_ppm = max(FULL_PPM - policy.decrease_ppm, policy.floor_ppm)
        control = replace(control, limit_milli=0, share_ppm=share_ppm, promised_depth=backlog(sensor), due_us=0)
        evidence["fraction_ppm" if not tried else "admit_ppm"] = share_ppm
        rule = "valve.back_off_share" if tried else "valve.shed_share"
        shed = ValveState(SHEDDING, now_us, restart(sensor), control)
        return Verdict(shed, "back_off" if tried else "shed", rule, evidence)

    rate_milli = first_limit_milli(sensor, control, policy)
    if rate_milli <= 0:
        return _close(replace(state, control=control), policy, now_us, evidence, tried=tried)
    control = promise(control, sensor, first_promise_us(sensor, control, policy), now_us)
    control = replace(control, limit_milli=max(rate_milli, floor_milli(sensor, policy)), share_ppm=0)
    evidence |= rates(sensor)
    evidence |= {"admit_rate_milli_per_s": control.limit_milli, "drain_ms": control.promise_us // 1000}
    shed = ValveState(SHEDDING, now_us, restart(sensor), control)
    return Verdict(
        shed, "back_off" if tried else "shed", "valve.back_off_rate" if tried else "valve.shed_rate", evidence
    )


def _promise_again(state: ValveState, policy: ValvePolicy, now_us: int, standing_ms: int) -> Decision:
    """While shedding waits were too long for an interval, as when consumers leave: another backlog, another promise."""
    control, sensor = state.control, state.sensor
    if not may_turn(control, TIGHTER, policy, now_us):
        return Verdict(state, "none", "valve.shedding", _shedding(state, policy))
    rate_milli = first_limit_milli(sensor, control, policy)
    if rate_milli <= 0:
        return _close(state, policy, now_us, _shedding(state, policy), tried=False)
    control = promise(turn(control, TIGHTER, now_us), sensor, first_promise_us(sensor, control, policy), now_us)
    # Never looser by a promise: that has its own time and rule.
    limit_milli = min(max(rate_milli, floor_milli(sensor, policy)), control.limit_milli)
    control = replace(control, limit_milli=limit_milli, missed=0)
    moved = replace(state, control=control)
    evidence = {**_shedding(moved, policy), "drain_ms": control.promise_us // 1000, "standing_ms": standing_ms}
    return Verdict(moved, "adjust", "valve.promise_again", evidence)


def _close(state: ValveState, policy: ValvePolicy, now_us: int, evidence: Evidence, *, tried: bool) -> Decision:
    sensor = state.sensor
    control = _fresh(turn(state.control, TIGHTER, now_us))
    control = promise(control, sensor, shortest_drain_us(sensor, control, policy), now_us)
    evidence = {**evidence, **rates(sensor), "drain_ms": control.promise_us // 1000}
    evidence["drain_limit_ms"] = drain_us(policy) // 1000
    closed = ValveState(DRAINING, now_us, restart(sensor), control)
    return Verdict(
        closed, "back_off" if tried else "close", "valve.back_off_closed" if tried else "valve.close", evidence
    )


def _probe(state: ValveState, share_ppm: int, policy: ValvePolicy, now_us: int) -> Decision:
    control = state.control
    evidence = {
        **reading(state.sensor, policy),
        "calm_intervals": control.calm_intervals,
        "fraction_ppm": share_ppm,
        "low_water": low_water(state.sensor, control, policy),
    }
    control = replace(_fresh(turn(control, LOOSER, now_us)), probe_ppm=share_ppm, due_us=0)
    return Verdict(ValveState(PROBING, now_us, state.sensor, control), "probe", "valve.probe", evidence)


def _adjust_rate(state: ValveState, policy: ValvePolicy, now_us: int) -> Decision:
    control, sensor = state.control, state.sensor
    limit = reckon_limit(sensor, control, policy, now_us)
    control = replace(control, integral_ppm=limit.integral_ppm)
    state = replace(state, control=control)
    evidence = {**_shedding(state, policy), **limit.evidence}
    old_milli = control.limit_milli
    if limit.rate_milli <= 0 and must_close(sensor, control, policy) and may_turn(control, TIGHTER, policy, now_us):
        return _close(state, policy, now_us, evidence, tried=False)
    new_milli = max(limit.rate_milli, floor_milli(sensor, policy))
    direction = LOOSER if new_milli > old_milli else TIGHTER
    if not is_step(old_milli, new_milli, policy) or not may_turn(control, direction, policy, now_us):
        return Verdict(state, "none", "valve.shedding", evidence)
    if direction == LOOSER and not in_use(sensor, control):
        return Verdict(state, "none", "valve.limit_unused", evidence)
    moved = replace(turn(control, direction, now_us), limit_milli=new_milli)
    evidence |= {"admit_rate_milli_per_s": new_milli, "previous_milli_per_s": old_milli}
    rule = "valve.climb" if control.climb_ppm and direction == LOOSER else "valve.adjust_rate"
    return Verdict(replace(state, control=moved), "adjust", rule, evidence)


def _adjust_share(state: ValveState, judgement: Judgement, policy: ValvePolicy, now_us: int) -> Decision:
    control = state.control
    old_ppm = control.share_ppm
    was_deep, control = control.promised_depth, replace(control, promised_depth=backlog(state.sensor))
    state = replace(state, control=control)
    if judgement is Judgement.BAD and falls_in_time(was_deep, backlog(state.sensor), policy):
        return Verdict(state, "none", "valve.shedding", _shedding(state, policy))
    if judgement is Judgement.BAD:
        direction, new_ppm = TIGHTER, max(old_ppm - old_ppm * policy.decrease_ppm // FULL_PPM, policy.floor_ppm)
    else:
        direction, new_ppm = LOOSER, min(old_ppm + policy.increase_ppm, FULL_PPM)
    evidence = _shedding(state, policy)
    if new_ppm == old_ppm or not may_turn(control, direction, policy, now_us):
        return Verdict(state, "none", "valve.shedding", evidence)
    moved = replace(turn(control, direction, now_us), share_ppm=new_ppm)
    evidence |= {"fraction_ppm": new_ppm, "previous_ppm": old_ppm}
    return Verdict(replace(state, control=moved), "adjust", "valve.adjust_share", evidence)


def _shedding(state: ValveState, policy: ValvePolicy) -> Evidence:
    control, sensor = state.control, state.sensor
    evidence = {**reading(sensor, policy), "calm_intervals": control.calm_intervals}
    evidence["low_water"] = low_water(sensor, control, policy)
    if control.limit_milli:
        evidence["admit_rate_milli_per_s"] = control.limit_milli
        evidence["pace_milli_per_s"] = pace_milli(sensor, control, policy)
        evidence |= rates(sensor)
    else:
        evidence["fraction_ppm"] = control.share_ppm
    return evidence


def _fresh(control: Control) -> Control:
    return replace(control, calm_intervals=0, bad_intervals=0, climb_ppm=0, missed=0)


_ANSWERS: Final = {
    (OPEN, watch): frozenset({OPEN, SHEDDING, DRAINING}),
    (SHEDDING, hold_back): frozenset({SHEDDING, DRAINING, PROBING}),
    (DRAINING, stay_closed): frozenset({DRAINING, PROBING}),
    (PROBING, try_out): frozenset({PROBING, SHEDDING, DRAINING, OPEN}),
}

TABLE: Final[Table] = MappingProxyType(
    {
        **{(status, kind): Row(row, to) for (status, row), to in _ANSWERS.items() for kind in (QueueSample, WorkDone)},
        **{(status, Timeout): Row(check_promise, frozenset({status})) for status in RESTRICTED},
        **{(status, Timeout): Row(keep, frozenset({status})) for status in (OPEN, PROBING)},
        **{
            (status, kind): Row(keep, frozenset({status}))
            for status in ValveStatus
            for kind in (OverrideGranted, OverrideEnded, ActionResult)
        },
    }
)


BACKLOG_VALVE: Final = Governor(
    name=NAME,
    version=3,
    status=ValveStatus,
    state=ValveState,
    policy=ValvePolicy,
    kinds=frozenset({QueueSample, WorkDone}),
    table=TABLE,
    initial=ValveState,
    deadline=deadline,
    effect=effect,
    admit=admit,
    expected_period_us=expected_period_us,
    undo=MappingProxyType({"shed": "reopen", "close": "reopen", "probe": "reopen"}),
    released=MappingProxyType(dict.fromkeys(ValveStatus, OPEN)),
    severity=MappingProxyType({OPEN: 0, PROBING: 1, SHEDDING: 2, DRAINING: 3}),
    stale_tolerance_us=MappingProxyType({QueueSample: 0, WorkDone: WORK_TOLERANCE_US}),
    rules=RULES,
)
