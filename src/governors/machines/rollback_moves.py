"""The ways from one status of the Rollback Guard to the next: what is set, kept and forgotten on each."""

from typing import Final

from msgspec.structs import replace

from governors.fsm.table import Evidence as Numbers
from governors.fsm.table import Verdict
from governors.machines.governor import SECOND_US
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Arm, Before, Cause, Deploy, Evidence, Pending, RollbackState, Status

DAY_US: Final = 86_400 * SECOND_US
ALERTS_MAX: Final = 32


def stay(state: RollbackState, rule: str, numbers: Numbers) -> Verdict[RollbackState]:
    """Nothing is decided; the state may still have learnt something."""
    return Verdict(state, "none", rule, numbers)


def deploy_of(state: RollbackState) -> Deploy:
    """The deploy; every status but IDLE has one."""
    if state.deploy is None:
        raise ValueError(f"{state.status} without a deploy")
    return state.deploy


def due(state: RollbackState, now_us: int) -> bool:
    """Whether the deadline has passed. A Timeout that was sent before the deadline moved is early."""
    return state.deadline_us is not None and now_us >= state.deadline_us


def watch(state: RollbackState, deploy: Deploy, before: Before | None) -> RollbackState:
    """Begin anew with `deploy`. Alerts that fire already are not its doing; what the tenant's past says stays."""
    return RollbackState(
        status=Status.WATCHING,
        deadline_us=deploy.watch_until_us,
        deploy=deploy,
        evidence=Evidence(weighed_us=deploy.started_us, before=before),
        known_alerts=newest_alerts({**state.known_alerts, **state.blamed_alerts}),
        resolved_alerts=state.resolved_alerts,
        refused_revision=state.refused_revision,
        refused_until_us=state.refused_until_us,
        rollbacks=state.rollbacks,
        past=state.past,
    )


def hold(state: RollbackState, cause: Cause, policy: RollbackPolicy, now_us: int) -> RollbackState:
    """Pause the rollout, or go on holding it for another cause.

    Evidence that joins a mere alert begins the hold anew: until then nothing was going to act, so nobody had to veto.
    """
    if state.status is Status.HOLD and state.cause is not Cause.ALERT:
        return replace(state, cause=cause)
    return replace(state, status=Status.HOLD, cause=cause, deadline_us=now_us + policy.hold_s * SECOND_US)


def resume(state: RollbackState) -> RollbackState:
    """Back to the watch, until its own end; that may have passed, and comes at once then."""
    return replace(
        state, status=Status.WATCHING, cause=Cause.NONE, deadline_us=deploy_of(state).watch_until_us, blamed_alerts={}
    )


def spend(state: RollbackState) -> RollbackState:
    """What was seen counts no more, and the alerts that fire are known: a person has looked at it."""
    spent = Evidence(
        weighed_us=state.evidence.weighed_us,
        spent_requests=state.evidence.spent_requests + state.evidence.canary.requests,
        before=state.evidence.before,
    )
    known = newest_alerts({**state.known_alerts, **state.blamed_alerts})
    return replace(state, evidence=spent, pending=Pending(), known_alerts=known)


def roll_back(state: RollbackState, policy: RollbackPolicy, now_us: int) -> RollbackState:
    """Ask for the rollback, for the first time."""
    return replace(
        state,
        status=Status.ROLLING_BACK,
        cause=Cause.NONE,
        deadline_us=now_us + policy.rollback_s * SECOND_US,
        pending=Pending(),
        attempt=1,
        late_result=False,
        rollbacks=_with_rollback(state, policy, now_us),
    )


def verify(state: RollbackState, policy: RollbackPolicy, now_us: int) -> RollbackState:
    """Watch whether the rollback helped. Of the evidence only the two arms' counts are needed any more."""
    rollbacks = state.rollbacks if state.status is Status.ROLLING_BACK else _with_rollback(state, policy, now_us)
    return replace(
        state,
        status=Status.VERIFYING,
        cause=Cause.NONE,
        deadline_us=now_us + policy.verify_s * SECOND_US,
        pending=Pending(),
        evidence=Evidence(canary=state.evidence.canary, baseline=state.evidence.baseline, before=state.evidence.before),
        after=Arm(),
        verify_from_us=now_us + policy.settle_s * SECOND_US,
        attempt=0,
        late_result=False,
        rollbacks=rollbacks,
    )


def cool_down(state: RollbackState, policy: RollbackPolicy, now_us: int) -> RollbackState:
    """Refuse the revision for a while."""
    until_us = now_us + policy.cooldown_s * SECOND_US
    refusing = replace(state, refused_revision=deploy_of(state).revision, refused_until_us=until_us)
    return _without_evidence(replace(refusing, status=Status.COOLDOWN, deadline_us=until_us))


def end(state: RollbackState, status: Status, cause: Cause = Cause.NONE) -> RollbackState:
    """One of the ends, or IDLE: nothing is due any more, and IDLE forgets the deploy."""
    deploy = None if status is Status.IDLE else state.deploy
    return _without_evidence(replace(state, status=status, cause=cause, deadline_us=None, deploy=deploy))


def needs_person(state: RollbackState, policy: RollbackPolicy, now_us: int) -> bool:
    """Whether a rollback is not the guard's to decide: too many in a day, or nothing else to go back to."""
    deploy = deploy_of(state)
    return len(recent_rollbacks(state, now_us)) >= policy.rollbacks_per_day_max or (
        deploy.revision == deploy.previous_revision
    )


def recent_rollbacks(state: RollbackState, now_us: int) -> tuple[int, ...]:
    """When the rollbacks of the last 24 h began."""
    return tuple(started_us for started_us in state.rollbacks if now_us - started_us < DAY_US)


def newest_alerts(alerts: dict[str, int]) -> dict[str, int]:
    """At most ALERTS_MAX, those last spoken of; one that is forgotten can only hold a rollout again."""
    if len(alerts) <= ALERTS_MAX:
        return alerts
    return dict(sorted(alerts.items(), key=lambda alert: (alert[1], alert[0]))[-ALERTS_MAX:])


def _with_rollback(state: RollbackState, policy: RollbackPolicy, now_us: int) -> tuple[int, ...]:
    return (*recent_rollbacks(state, now_us), now_us)[-policy.rollbacks_per_day_max :]


def _without_evidence(state: RollbackState) -> RollbackState:
    return replace(
        state, pending=Pending(), evidence=Evidence(), after=Arm(), verify_from_us=0, attempt=0, late_result=False
    )
