"""What the Backlog Valve makes true outside in each status, and when it wants to be called."""

from typing import Final

from governors.machines.governor import ADMIT_ALL, AdmitRule, Effect
from governors.machines.valve_control import allowed_depth, pace_milli
from governors.machines.valve_policy import ValvePolicy
from governors.machines.valve_state import ValveState, ValveStatus

# By a plain name: a look-up through the enumeration costs more than the comparison, and nearly all valves are open.
OPEN: Final = ValveStatus.OPEN
RESTRICTED: Final = frozenset({ValveStatus.SHEDDING, ValveStatus.DRAINING})


def deadline(state: ValveState, policy: ValvePolicy) -> int | None:  # noqa: ARG001 - the governor's shape
    """When the promise to drain is due."""
    due_us = state.control.due_us
    # The sample that shows whether it was kept has to be in.
    return due_us + state.sensor.period_us if due_us and state.status in RESTRICTED else None


def effect(state: ValveState, status: ValveStatus, policy: ValvePolicy) -> Effect | None:
    """The limit, the closing or the share of the status in force; an operator's SHEDDING uses the last limit."""
    if status is OPEN:
        return None
    rule = admit(state, status, policy)
    match status:
        case ValveStatus.DRAINING:
            return Effect("close")
        case ValveStatus.PROBING:
            return Effect("probe", {"fraction_ppm": rule.fraction_ppm})
        case ValveStatus.SHEDDING if rule.rate_milli_per_s is not None:
            return Effect("shed", {"rate_milli_per_s": state.control.limit_milli})
        case ValveStatus.SHEDDING:
            return Effect("shed", {"fraction_ppm": rule.fraction_ppm})


def admit(state: ValveState, status: ValveStatus, policy: ValvePolicy) -> AdmitRule:
    """The admission rule of the status in force."""
    if status is OPEN:
        return ADMIT_ALL
    control = state.control
    reserve_ppm = policy.critical_reserve_ppm
    match status:
        case ValveStatus.DRAINING:
            return AdmitRule(critical_only=True)
        case ValveStatus.PROBING:
            return AdmitRule(fraction_ppm=control.probe_ppm or policy.probe_start_ppm, critical_reserve_ppm=reserve_ppm)
        case ValveStatus.SHEDDING if control.limit_milli:
            return AdmitRule(
                rate_milli_per_s=pace_milli(state.sensor, control, policy),
                critical_reserve_ppm=reserve_ppm,
                burst=allowed_depth(state.sensor, policy),
            )
        case ValveStatus.SHEDDING:
            return AdmitRule(fraction_ppm=control.share_ppm or policy.forced_ppm, critical_reserve_ppm=reserve_ppm)


def expected_period_us(state: ValveState, policy: ValvePolicy) -> int | None:
    """How often a signal is due, once one was seen."""
    return int(policy.sample_period_s * 1_000_000) if state.sensor.at_us else None
