"""The Rollback Guard while a deploy is watched or held: samples, alerts, operators, and the ends of both.

What a hold does when its time is over, by what it then knows: against the canary, compared since the hold began with a
baseline or convicted by what was before the deploy, and with enough bad requests, it rolls back; for both arms, for an
alert that still fires, without anything to compare with (unless the policy takes that risk) and without a fresh
comparison it calls a person; without evidence the watch goes on.
"""

from typing import Final

from msgspec.structs import replace

from governors.fsm.table import Evidence as Numbers
from governors.fsm.table import Verdict
from governors.machines.events import ActionResult, Event, OverrideGranted
from governors.machines.governor import SECOND_US
from governors.machines.rollback_evidence import (
    CONVICTED,
    Finding,
    Reading,
    add_sample,
    faded,
    is_due,
    is_proven,
    numbers,
    read,
    weigh,
)
from governors.machines.rollback_moves import (
    DAY_US,
    deploy_of,
    due,
    end,
    hold,
    needs_person,
    newest_alerts,
    recent_rollbacks,
    resume,
    roll_back,
    spend,
    stay,
    verify,
)
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Cause, Pending, RollbackState, Status
from ingest.signals import Alert, DeployFinished, DeploySample

Decided = Verdict[RollbackState]

ALERT_NAME_CHARS_MAX: Final = 128
CAUSES: Final = {
    Finding.BURNING: Cause.CANARY,
    Finding.SUSPECT: Cause.CANARY,
    Finding.UNCONFIRMED: Cause.CANARY,
    Finding.SUSPECT_ALONE: Cause.ALONE,
    Finding.BOTH: Cause.BOTH,
    Finding.UNPAIRED: Cause.UNPAIRED,
}
FINDING_RULES: Final = {
    Finding.CLEAR: "rollback.clear",
    Finding.BURNING: "rollback.burning",
    Finding.SUSPECT: "rollback.suspect",
    Finding.UNCONFIRMED: "rollback.unconfirmed",
    Finding.BOTH: "rollback.both",
    Finding.UNPAIRED: "rollback.unpaired",
    Finding.SUSPECT_ALONE: "rollback.suspect_alone",
    Finding.BY_PAST: "rollback.past",
    Finding.BY_ERRORS: "rollback.errors",
    Finding.BY_SLOW: "rollback.slow",
    Finding.BY_BURN: "rollback.burn",
}


def take_sample(state: RollbackState, event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """Count a sample in WATCHING or HOLD, and decide when its interval is due."""
    sample: DeploySample = event.body  # type: ignore[assignment] # the table's row says so
    if sample.deploy_id != deploy_of(state).deploy_id:
        return stay(state, "rollback.other_deploy", {"deploy_id": sample.deploy_id})
    pending = add_sample(state.pending, sample, event.observed_us, now_us)
    if not is_due(pending, state.evidence, policy, now_us):
        counted: Numbers = {
            "arm": sample.arm,
            "errors": sample.errors,
            "requests": sample.requests,
            "slow": sample.slow,
        }
        return Verdict(replace(state, pending=pending), "none", "rollback.sample", counted)
    state, reading = _weigh(state, pending, policy, now_us)
    compared = numbers(state.evidence, reading, policy)
    if reading.finding is Finding.CLEAR:
        if state.status is Status.HOLD:
            return _fade(state, reading, compared)
        return _prove(state, compared, policy)
    return _accuse(state, reading, compared, policy, now_us)


def _weigh(
    state: RollbackState, pending: Pending, policy: RollbackPolicy, now_us: int
) -> tuple[RollbackState, Reading]:
    evidence, reopened, reading = weigh(state.evidence, pending, policy, now_us)
    return replace(state, evidence=evidence, pending=reopened), reading


def _weigh_rest(state: RollbackState, policy: RollbackPolicy, now_us: int) -> tuple[RollbackState, Reading]:
    """Weigh what is pending, however little time it covers: the end of a watch or a hold does not wait for more."""
    if state.pending.waiting_since_us:
        return _weigh(state, state.pending, policy, now_us)
    return state, read(state.evidence, policy)


def _fade(state: RollbackState, reading: Reading, compared: Numbers) -> Decided:
    if not faded(reading) or state.cause is Cause.ALERT:
        return stay(state, "rollback.still_held", compared)
    if state.blamed_alerts:
        return stay(replace(state, cause=Cause.ALERT), "rollback.still_held", compared)
    return Verdict(resume(state), "resume", "rollback.faded", compared)


def _prove(state: RollbackState, compared: Numbers, policy: RollbackPolicy) -> Decided:
    watched_us = state.evidence.weighed_us - deploy_of(state).started_us
    if watched_us >= policy.proven_after_s * SECOND_US and is_proven(state.evidence, policy):
        return _promote(state, compared, policy)
    return stay(state, "rollback.clear", compared)


def _promote(state: RollbackState, compared: Numbers, policy: RollbackPolicy) -> Decided:
    rule = "rollback.proven" if is_proven(state.evidence, policy) else "rollback.unproven"
    compared = {**compared, "proven_ratio_milli": policy.proven_ratio_milli}
    return Verdict(end(state, Status.PROMOTED), "promote", rule, compared)


def _accuse(state: RollbackState, reading: Reading, compared: Numbers, policy: RollbackPolicy, now_us: int) -> Decided:
    """Roll back where that is the guard's to decide, else hold."""
    rule = FINDING_RULES[reading.finding]
    if reading.finding not in CONVICTED:
        cause = CAUSES[reading.finding]
    elif needs_person(state, policy, now_us):
        cause, rule = Cause.MANUAL, "rollback.needs_approval"
        rollbacks = len(recent_rollbacks(state, now_us))
        compared = {**compared, "rollbacks": rollbacks, "rollbacks_max": policy.rollbacks_per_day_max}
    else:
        return Verdict(roll_back(state, policy, now_us), "rollback", rule, compared)
    decision = "none" if state.status is Status.HOLD else "hold"
    return Verdict(hold(state, cause, policy, now_us), decision, rule, compared)


def end_watch(state: RollbackState, _event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """The watch is over: promoted, unless something speaks against it or nobody came."""
    if not due(state, now_us):
        return stay(state, "rollback.not_due", {})
    state, reading = _weigh_rest(state, policy, now_us)
    compared = numbers(state.evidence, reading, policy)
    if reading.finding is not Finding.CLEAR:
        return _accuse(state, reading, compared, policy, now_us)
    watched = state.evidence.canary.requests + state.evidence.spent_requests
    if watched < policy.canary_requests_min:
        compared = {**compared, "requests_min": policy.canary_requests_min, "watched_requests": watched}
        ended = end(state, Status.INCONCLUSIVE, Cause.NO_TRAFFIC)
        return Verdict(ended, "inconclusive", "rollback.no_traffic", compared)
    return _promote(state, compared, policy)


def end_hold(state: RollbackState, _event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """Nobody vetoed. Act on what is known now, not on what began the hold."""
    if not due(state, now_us):
        return stay(state, "rollback.not_due", {})
    held_from_us = (state.deadline_us or 0) - policy.hold_s * SECOND_US
    state, reading = _weigh_rest(state, policy, now_us)
    compared = {**numbers(state.evidence, reading, policy), "hold_ms": policy.hold_s * 1000}
    acts = not needs_person(state, policy, now_us)
    match reading.finding:
        case Finding.CLEAR if state.blamed_alerts:
            compared["alerts"] = len(state.blamed_alerts)
            return _escalate(state, Cause.ALERT, "rollback.hold_alert", compared)
        case Finding.CLEAR:
            return Verdict(resume(state), "resume", "rollback.hold_gone", compared)
        case Finding.BOTH:
            return _escalate(state, Cause.BOTH, "rollback.hold_both", compared)
        case Finding.UNPAIRED if policy.unpaired == "escalate" or state.evidence.canary.errors < policy.bad_events_min:
            return _escalate(state, Cause.UNPAIRED, "rollback.hold_unheard", compared)
        case Finding.UNPAIRED:
            rule = "rollback.hold_unpaired"
        case Finding.SUSPECT_ALONE if policy.unpaired == "escalate":
            return _escalate(state, Cause.ALONE, "rollback.hold_alone", compared)
        case _ if not reading.enough_events:
            return _escalate(state, Cause.FEW_EVENTS, "rollback.hold_few_events", compared)
        case _ if state.evidence.paired_us <= held_from_us:
            # An outage may have silenced the sensors as well: what was true before the hold need not be true now.
            return _escalate(state, Cause.UNPAIRED, "rollback.hold_unheard", compared)
        case _:
            rule = "rollback.hold_elapsed"
    if not acts:
        return _escalate(state, Cause.MANUAL, "rollback.hold_manual", compared)
    return Verdict(roll_back(state, policy, now_us), "rollback", rule, compared)


def _escalate(state: RollbackState, cause: Cause, rule: str, compared: Numbers) -> Decided:
    return Verdict(end(state, Status.ESCALATED, cause), "escalate", rule, compared)


def watch_alert(state: RollbackState, event: Event, policy: RollbackPolicy, _now_us: int) -> Decided:
    """In WATCHING an alert that begins to fire holds the rollout. It never rolls back."""
    alert: Alert = event.body  # type: ignore[assignment] # the table's row says so
    if _is_late(state, alert, event.observed_us):
        return stay(state, "rollback.alert_late", _about(alert))
    noted = _note(state, alert, policy, event.observed_us, blame=True)
    if not noted.blamed_alerts:
        return stay(noted, "rollback.alert_noted", _about(alert))
    evidence = {**_about(alert), "revision": deploy_of(state).revision}
    return Verdict(hold(noted, Cause.ALERT, policy, _now_us), "hold", "rollback.alert_hold", evidence)


def hold_alert(state: RollbackState, event: Event, policy: RollbackPolicy, _now_us: int) -> Decided:
    """In HOLD alerts come and go; when only alerts held the rollout and all are resolved, the watch goes on."""
    alert: Alert = event.body  # type: ignore[assignment] # the table's row says so
    if _is_late(state, alert, event.observed_us):
        return stay(state, "rollback.alert_late", _about(alert))
    noted = _note(state, alert, policy, event.observed_us, blame=True)
    if state.cause is Cause.ALERT and not noted.blamed_alerts:
        return Verdict(resume(noted), "resume", "rollback.alert_resolved", _about(alert))
    return stay(noted, "rollback.alert_noted", _about(alert))


def note_alert(state: RollbackState, event: Event, policy: RollbackPolicy, _now_us: int) -> Decided:
    """Without a watch an alert is only remembered: a later deploy is not to blame for it."""
    alert: Alert = event.body  # type: ignore[assignment] # the table's row says so
    if _is_late(state, alert, event.observed_us):
        return stay(state, "rollback.alert_late", _about(alert))
    return stay(_note(state, alert, policy, event.observed_us, blame=False), "rollback.alert_noted", _about(alert))


def _is_late(state: RollbackState, alert: Alert, at_us: int) -> bool:
    """Whether something newer was said of the same alert. Brokers deliver in any order, and what overtook its end would
    fire on for ever.
    """
    key = alert.fingerprint
    said_us = (state.known_alerts.get(key), state.blamed_alerts.get(key), state.resolved_alerts.get(key))
    return any(newer_us is not None and at_us < newer_us for newer_us in said_us)


def _note(state: RollbackState, alert: Alert, policy: RollbackPolicy, at_us: int, *, blame: bool) -> RollbackState:
    if not policy.hold_on_alert or alert.severity.lower() not in policy.alert_severities:
        return state
    key = alert.fingerprint
    if alert.status == "resolved":
        return replace(
            state,
            known_alerts={name: seen_us for name, seen_us in state.known_alerts.items() if name != key},
            blamed_alerts={name: seen_us for name, seen_us in state.blamed_alerts.items() if name != key},
            resolved_alerts=newest_alerts({**state.resolved_alerts, key: at_us}),
        )
    # Monitoring repeats a firing alert every few hours; one not repeated for a day was resolved without our hearing.
    known = key in state.known_alerts and at_us - state.known_alerts[key] < DAY_US
    if blame and not known:
        return replace(state, blamed_alerts=newest_alerts({**state.blamed_alerts, key: at_us}))
    return replace(state, known_alerts=newest_alerts({**state.known_alerts, key: at_us}))


def _about(alert: Alert) -> Numbers:
    return {
        "alert": alert.name[:ALERT_NAME_CHARS_MAX],
        "alert_status": alert.status,
        "fingerprint": alert.fingerprint,
        "severity": alert.severity,
    }


def answer_hold(state: RollbackState, event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """An operator approves the rollback, or vetoes it: then what was seen is spent and counting begins anew."""
    granted: OverrideGranted = event.body  # type: ignore[assignment] # the table's row says so
    if granted.mode == "approve":
        return Verdict(roll_back(state, policy, now_us), "rollback", "rollback.approved", {})
    if granted.mode != "veto":
        return stay(state, "rollback.override_noted", {})
    return Verdict(resume(spend(state)), "resume", "rollback.vetoed", {})


def finish_deploy(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """What the deploy system says ends a watch only where there is nothing left to watch.

    Cancelled: it is gone. Failed: nobody knows how much of it is out, so a person is told; but a hold has evidence
    and acts on it. Succeeded: it is out, and watched to the end.
    """
    finished: DeployFinished = event.body  # type: ignore[assignment] # the table's row says so
    deploy = deploy_of(state)
    if finished.deploy_id != deploy.deploy_id:
        return stay(state, "rollback.other_deploy", {"deploy_id": finished.deploy_id})
    evidence: Numbers = {"deploy_id": finished.deploy_id, "result": finished.result}
    if finished.result == "cancelled":
        return Verdict(end(state, Status.IDLE), "end", "rollback.cancelled", evidence)
    if finished.result == "failed" and state.status is Status.WATCHING:
        ended = end(state, Status.INCONCLUSIVE, Cause.DEPLOY_FAILED)
        return Verdict(ended, "inconclusive", "rollback.deploy_failed", evidence)
    return stay(replace(state, deploy=replace(deploy, finished=True)), "rollback.finished", evidence)


def note_operators_rollback(state: RollbackState, event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """An operator forced a rollback past the guard: whether it helped is worth knowing all the same."""
    result: ActionResult = event.body  # type: ignore[assignment] # the table's row says so
    if result.kind != "rollback" or not result.ok:
        return stay(state, "rollback.result_noted", {"kind": result.kind})
    evidence: Numbers = {"verify_ms": policy.verify_s * 1000}
    return Verdict(verify(state, policy, now_us), "verify", "rollback.by_operator", evidence)
