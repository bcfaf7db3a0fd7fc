"""The Rollback Guard from the rollback on: its result, its retry, whether it helped, and the cooldown."""

from msgspec.structs import replace

from governors.fsm.table import Evidence as Numbers
from governors.fsm.table import Verdict
from governors.machines.events import ActionResult, Event
from governors.machines.governor import SECOND_US
from governors.machines.rollback_evidence import PPM, share_ppm, within
from governors.machines.rollback_moves import cool_down, deploy_of, due, end, resume, spend, stay, verify
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Cause, RollbackState, Status
from ingest.signals import DeploySample

Decided = Verdict[RollbackState]


def take_result(state: RollbackState, event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """The rollback has ended, well or not."""
    result: ActionResult = event.body  # type: ignore[assignment] # the table's row says so
    if result.kind != "rollback":
        return stay(state, "rollback.result_noted", {"kind": result.kind})
    if result.ok:
        evidence: Numbers = {"verify_ms": policy.verify_s * 1000}
        return Verdict(verify(state, policy, now_us), "verify", "rollback.rolled_back", evidence)
    if state.late_result:
        # The retry could not be asked for before this result was in: its time begins now.
        waiting = replace(state, late_result=False, deadline_us=now_us + policy.rollback_s * SECOND_US)
        return stay(waiting, "rollback.late_failure", {"attempt": state.attempt})
    if result.ended == "withdrawn":
        # An emergency stop, mostly: nobody has failed at it, and it is asked for again once it may be.
        return stay(state, "rollback.withheld_result", {"kind": result.kind})
    return _try_again(state, policy, now_us, late_result=False)


def rollback_overdue(state: RollbackState, _event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """No result in time: unknown is not success."""
    if not due(state, now_us):
        return stay(state, "rollback.not_due", {})
    return _try_again(state, policy, now_us, late_result=True)


def _try_again(state: RollbackState, policy: RollbackPolicy, now_us: int, *, late_result: bool) -> Decided:
    if state.attempt >= policy.rollback_attempts:
        ended = end(state, Status.ESCALATED, Cause.ROLLBACK_FAILED)
        return Verdict(ended, "escalate", "rollback.failed", {"attempts": state.attempt})
    again = replace(
        state,
        attempt=state.attempt + 1,
        late_result=late_result,
        deadline_us=now_us + policy.rollback_s * SECOND_US,
    )
    return Verdict(again, "retry", "rollback.retry", {"failed_attempt": state.attempt})


def awaits_rollback(state: RollbackState) -> bool:
    """Whether a rollback is wanted whose result is not in."""
    return state.status is Status.ROLLING_BACK


def begin_rollback(state: RollbackState, policy: RollbackPolicy, now_us: int) -> RollbackState:
    """The rollback is asked for after all: its time begins now."""
    return replace(state, deadline_us=now_us + policy.rollback_s * SECOND_US)


def never_asked(state: RollbackState, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """Something withheld the rollback until its time was over. What convicted the deploy is old by now, so a person
    looks at it before anything is reverted.
    """
    revision = deploy_of(state).revision
    ended = end(state, Status.ESCALATED, Cause.NOT_ASKED)
    return Verdict(ended, "escalate", "rollback.not_asked", {"revision": revision})


def refuse_rollback(state: RollbackState, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """A person refused the rollback that they were asked about: as a veto of a hold."""
    revision = deploy_of(state).revision
    return Verdict(resume(spend(state)), "resume", "rollback.refused", {"revision": revision})


def take_verifying_sample(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """Count requests of either arm: after a rollback both are the previous revision. Whole windows only."""
    sample: DeploySample = event.body  # type: ignore[assignment] # the table's row says so
    if sample.deploy_id != deploy_of(state).deploy_id:
        return stay(state, "rollback.other_deploy", {"deploy_id": sample.deploy_id})
    if event.observed_us - int(sample.window_s * SECOND_US) < state.verify_from_us:
        return stay(state, "rollback.verify_too_early", {"arm": sample.arm, "requests": sample.requests})
    counted: Numbers = {
        "arm": sample.arm,
        "errors": sample.errors,
        "requests": sample.requests,
        "slow": sample.slow,
    }
    after = state.after.plus(sample.requests, sample.errors, sample.slow)
    return stay(replace(state, after=after), "rollback.verify_sample", counted)


def end_verify(state: RollbackState, _event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """It helped if errors and slow requests are no more than the baseline had, as tolerated, or the time before the
    deploy where there was no baseline; else call a person.
    """
    if not due(state, now_us):
        return stay(state, "rollback.not_due", {})
    after, baseline = state.after, state.evidence.baseline
    errors_ppm, slow_ppm = policy.error_budget_ppm, policy.slow_budget_ppm
    if baseline.requests >= policy.baseline_requests_min:
        errors_ppm = max(errors_ppm, _tolerated_ppm(baseline.requests, baseline.errors, policy))
        slow_ppm = _tolerated_ppm(baseline.requests, baseline.slow, policy)
    elif (before := state.evidence.before) is not None and before.requests >= policy.baseline_requests_min:
        errors_ppm = max(errors_ppm, _tolerated_ppm(before.requests, before.errors, policy))
        slow_ppm = _tolerated_ppm(before.requests, before.slow, policy)
    evidence: Numbers = {
        "after_errors": after.errors,
        "after_requests": after.requests,
        "after_slow": after.slow,
        "expected_error_ppm": errors_ppm,
        "expected_slow_ppm": slow_ppm,
        "requests_min": policy.verify_requests_min,
    }
    if after.requests < policy.verify_requests_min:
        return Verdict(
            end(state, Status.ESCALATED, Cause.NOT_VERIFIED), "escalate", "rollback.verify_unknown", evidence
        )
    if within(after.requests, after.errors, errors_ppm) and within(after.requests, after.slow, slow_ppm):
        return Verdict(cool_down(state, policy, now_us), "cooldown", "rollback.verified", evidence)
    return Verdict(end(state, Status.ESCALATED, Cause.NOT_VERIFIED), "escalate", "rollback.not_verified", evidence)


def _tolerated_ppm(requests: int, events: int, policy: RollbackPolicy) -> int:
    return min(share_ppm(requests, events) * policy.tolerated_ratio_milli // 1000, PPM)


def end_cooldown(state: RollbackState, _event: Event, _policy: RollbackPolicy, now_us: int) -> Decided:
    """The revision may be tried again."""
    if not due(state, now_us):
        return stay(state, "rollback.not_due", {})
    evidence: Numbers = {"revision": state.refused_revision}
    return Verdict(end(state, Status.IDLE), "end", "rollback.cooled_down", evidence)
