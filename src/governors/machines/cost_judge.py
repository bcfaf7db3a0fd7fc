"""The Cost Guard's judgement: what the numbers call for, seen from the status that is there.

`read` says what the numbers alone would have; this adds history: dwells, ramps, and what only a fresh cause may leave.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from governors.fsm.table import Evidence, Verdict
from governors.machines.cost_booking import Booked, Cause
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_rules import (
    NOTICE_LIMIT,
    SECOND_US,
    Reading,
    is_calm,
    louder,
    notice_level,
    read,
    step_fraction,
    target_fraction,
)
from governors.machines.cost_state import (
    FULL_PPM,
    NORMAL,
    RECOVERING,
    STOP,
    THROTTLE,
    UNBUDGETED,
    WARN,
    CostState,
    CostStatus,
)

CostVerdict = Verdict[CostState]


def judge(booked: Booked, policy: CostPolicy, now_us: int) -> CostVerdict:
    """Decide on the books as they are now."""
    state, cause = booked
    if not state.budget.amount_micros:
        evidence: Evidence = {"cost_micros": state.cost_micros, "currency": state.budget.currency}
        return Verdict(state, "none", "cost.unbudgeted", evidence)
    return _JUDGES[state.status](state, read(state, policy, now_us), policy, now_us, cause)


def _judge_open(state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause) -> CostVerdict:
    """UNBUDGETED and NORMAL: nothing is held against the tenant, the numbers alone decide."""
    if now.natural is NORMAL:
        if state.status is not NORMAL:
            state = replace(state, status=NORMAL)
        return _quiet(state, now, cause)
    return _tighten(state, now, policy, now_us, FULL_PPM)


def _judge_warn(state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause) -> CostVerdict:
    if now.natural is STOP or now.natural is THROTTLE:
        return _tighten(state, now, policy, now_us, FULL_PPM)
    if now.natural is WARN:
        if louder(state.notice, notice_level(now, policy)) != state.notice:
            return _warn(state, now, policy, "warn", now.rule)
        return _quiet(replace(state, calm_since_us=0) if state.calm_since_us else state, now, cause)
    if cause.fresh:
        return _normal(state, now, _word(cause), cause.rule)
    return _wait_for_calm(state, now, policy, now_us, cause)


def _judge_throttle(state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause) -> CostVerdict:
    if now.natural is STOP:
        return _tighten(state, now, policy, now_us, FULL_PPM)
    if cause.fresh and now.natural is not THROTTLE:
        if state.fraction_ppm < FULL_PPM:
            return _recover(state, now, policy, now_us, cause, state.fraction_ppm)
        return _open(state, now, policy, _word(cause), cause.rule)
    if now_us >= state.step_due_us:
        target_ppm = target_fraction(state, now, now_us)
        fraction_ppm = step_fraction(state.fraction_ppm, target_ppm, policy)
        moved = fraction_ppm != state.fraction_ppm
        state = replace(state, fraction_ppm=fraction_ppm, step_due_us=now_us + policy.bucket_s * SECOND_US)
        if moved:
            calm = is_calm(now, policy, policy.throttle_clear_ppm)
            state = replace(state, calm_since_us=(state.calm_since_us or now_us) if calm else 0)
            evidence = _evidence(state, now)
            evidence["target_ppm"] = target_ppm
            return Verdict(state, "throttle", "cost.throttle_step", evidence)
    if now.natural is THROTTLE:
        return _quiet(replace(state, calm_since_us=0) if state.calm_since_us else state, now, cause)
    return _wait_for_calm(state, now, policy, now_us, cause)


def _judge_stop(state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause) -> CostVerdict:
    if now.natural is STOP:
        return _quiet(state, now, cause)
    if cause.fresh:
        return _recover(state, now, policy, now_us, cause, policy.recover_start_ppm)
    return Verdict(state, cause.decision, cause.rule or "cost.stopped", _evidence(state, now))


def _judge_recovering(state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause) -> CostVerdict:
    if now.natural is STOP or now.natural is THROTTLE:
        return _tighten(state, now, policy, now_us, state.fraction_ppm)
    if now_us < state.step_due_us:
        return _quiet(state, now, cause)
    # One step at a time even when the timer was late: the ramp protects what is behind it, not a schedule.
    fraction_ppm = min(FULL_PPM, state.fraction_ppm + policy.ramp_step_ppm)
    if fraction_ppm == FULL_PPM:
        return _open(state, now, policy, "recovered", "cost.recovered")
    state = replace(state, fraction_ppm=fraction_ppm, step_due_us=now_us + policy.ramp_step_us)
    return Verdict(state, "ramp", "cost.ramp", _evidence(state, now))


_Judge = Callable[[CostState, Reading, CostPolicy, int, Cause], CostVerdict]
_JUDGES: Final[dict[CostStatus, _Judge]] = {
    UNBUDGETED: _judge_open,
    NORMAL: _judge_open,
    WARN: _judge_warn,
    THROTTLE: _judge_throttle,
    STOP: _judge_stop,
    RECOVERING: _judge_recovering,
}


# The moves: each leaves the fields of the status that it leads to as that status needs them.


def _quiet(state: CostState, now: Reading, cause: Cause) -> CostVerdict:
    return Verdict(state, cause.decision, cause.rule or now.rule, _evidence(state, now))


def _word(cause: Cause) -> str:
    """What a cause is called once it has cleared something."""
    return "clear" if cause.decision == "none" else cause.decision


def _tighten(state: CostState, now: Reading, policy: CostPolicy, now_us: int, from_ppm: int) -> CostVerdict:
    """A limit is reached: go where it says, from admitting `from_ppm`."""
    if now.natural is WARN:
        return _warn(state, now, policy, "warn", now.rule)
    if now.natural is STOP:
        state = replace(state, status=STOP, step_due_us=0, calm_since_us=0)
        return Verdict(state, "stop", now.rule, _evidence(state, now))
    state = replace(state, fraction_ppm=from_ppm)
    state = replace(
        state,
        status=THROTTLE,
        fraction_ppm=step_fraction(from_ppm, target_fraction(state, now, now_us), policy),
        step_due_us=now_us + policy.bucket_s * SECOND_US,
        calm_since_us=0,
    )
    return Verdict(state, "throttle", now.rule, _evidence(state, now))


def _warn(state: CostState, now: Reading, policy: CostPolicy, decision: str, rule: str) -> CostVerdict:
    notice = notice_level(now, policy)
    if state.status is WARN:
        notice = louder(state.notice, notice)
    state = replace(state, status=WARN, step_due_us=0, calm_since_us=0, notice=notice)
    return Verdict(state, decision, rule, _evidence(state, now))


def _normal(state: CostState, now: Reading, decision: str, rule: str) -> CostVerdict:
    state = replace(state, status=NORMAL, fraction_ppm=FULL_PPM, step_due_us=0, calm_since_us=0, notice=0)
    return Verdict(state, decision, rule, _evidence(state, now))


def _open(state: CostState, now: Reading, policy: CostPolicy, decision: str, rule: str) -> CostVerdict:
    """Nothing is held back any more: to NORMAL, or to WARN where the numbers still call for it."""
    if now.natural is NORMAL:
        return _normal(state, now, decision, rule)
    return _warn(state, now, policy, decision, rule)


def _recover(
    state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause, from_ppm: int
) -> CostVerdict:
    state = replace(
        state,
        status=RECOVERING,
        fraction_ppm=from_ppm,
        step_due_us=now_us + policy.ramp_step_us,
        calm_since_us=0,
        notice=0,
    )
    return Verdict(state, "recover", cause.rule, _evidence(state, now))


def _wait_for_calm(state: CostState, now: Reading, policy: CostPolicy, now_us: int, cause: Cause) -> CostVerdict:
    """WARN or THROTTLE under its limit: relax by one status once it has been calm for the whole dwell."""
    throttled = state.status is THROTTLE
    clear_ppm = policy.throttle_clear_ppm if throttled else policy.warn_clear_ppm
    evidence = _evidence(state, now)
    evidence["clear_ppm"] = clear_ppm
    # A warning ends only once an overrun is unlikely: a forecast that trembles about the budget must not warn daily.
    if not is_calm(now, policy, clear_ppm) or (not throttled and now.forecast_high_micros >= now.budget_micros):
        if state.calm_since_us:
            state = replace(state, calm_since_us=0)
        return Verdict(state, cause.decision, cause.rule or "cost.not_clear", evidence)
    evidence["dwell_ms"] = policy.clear_dwell_s * 1000
    if not state.calm_since_us:
        state = replace(state, calm_since_us=now_us)
    if now_us - state.calm_since_us < policy.clear_dwell_s * SECOND_US:
        return Verdict(state, cause.decision, cause.rule or "cost.dwell", evidence)
    if throttled:
        # A notice that says what was: it is under the limits now.
        relaxed = _warn(state, now, policy, "relax", "cost.clear").state
        return Verdict(replace(relaxed, notice=louder(relaxed.notice, NOTICE_LIMIT)), "relax", "cost.clear", evidence)
    return Verdict(_normal(state, now, "clear", "cost.clear").state, "clear", "cost.clear", evidence)


def _evidence(state: CostState, now: Reading) -> Evidence:
    evidence: Evidence = {
        "cost_micros": now.cost_micros,
        "budget_micros": now.budget_micros,
        "currency": state.budget.currency,
        "utilisation_ppm": now.used_ppm,
        "limit_ppm": now.limit_ppm,
    }
    if now.forecast_micros:
        evidence["forecast_micros"] = now.forecast_micros
    if now.forecast_low_micros:
        evidence["forecast_low_micros"] = now.forecast_low_micros
    learnt = state.learnt
    if now.impact_micros and learnt is not None:
        evidence["impact_micros"] = now.impact_micros
        evidence["rate_per_h"] = learnt.rate_per_h
        evidence["expected_per_h"] = learnt.expected_per_h
        evidence["z_milli"] = sorted(learnt.z_milli)[-2]
        evidence["drift_milli"] = learnt.outlook.drift_milli
    if now.lag_micros:
        evidence["lag_micros"] = now.lag_micros
    if state.budget.extra_micros:
        evidence["extra_micros"] = state.budget.extra_micros
    if state.status is THROTTLE or state.status is RECOVERING:
        evidence["fraction_ppm"] = state.fraction_ppm
    return evidence
