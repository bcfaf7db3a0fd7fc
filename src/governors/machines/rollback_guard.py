"""Rollback Guard: watches one target's deploys and takes a bad one back, with a stated chance of error.

A deploy is watched by comparing the canary's requests with those of a concurrent baseline (`rollback_evidence.py`):
`errors` and `slow` ones each by an e-process that may be looked at after every interval, and a burn rate behind it.
At E >= 10 the rollout is held, at E >= 1/alpha with enough bad requests it is rolled back. Nothing is ever rolled back
without canary traffic, for an alert alone, or while both arms are bad. Without a baseline the canary is compared with
what was before the deploy, where samples of the baseline say what that was (`rollback_past.py`). Without either nothing
is known of what would have been without the deploy: a burning canary is then held, and a person called.

After a rollback the guard looks whether it helped, and refuses the revision for a while. Unknown is not success.
Counts: requests. Shares: ppm. Times: µs UTC, `now_us` comes as an argument.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from governors.fsm.table import Evidence as Numbers
from governors.fsm.table import Row, Table, Verdict
from governors.machines.events import ActionResult, Event, OverrideEnded, OverrideGranted, Timeout
from governors.machines.governor import ADMIT_ALL, SECOND_US, AdmitRule, Effect, Governor, Patience
from governors.machines.rollback_after import (
    awaits_rollback,
    begin_rollback,
    end_cooldown,
    end_verify,
    never_asked,
    refuse_rollback,
    rollback_overdue,
    take_result,
    take_verifying_sample,
)
from governors.machines.rollback_moves import deploy_of, end, stay, watch
from governors.machines.rollback_past import add_past, before_deploy
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_rules import RULES
from governors.machines.rollback_state import (
    ESCALATED,
    HOLD,
    INCONCLUSIVE,
    ROLLING_BACK,
    WATCHING,
    Cause,
    Deploy,
    RollbackState,
    Status,
)
from governors.machines.rollback_watch import (
    answer_hold,
    end_hold,
    end_watch,
    finish_deploy,
    hold_alert,
    note_alert,
    note_operators_rollback,
    take_sample,
    watch_alert,
)
from ingest.signals import Alert, DeployFinished, DeploySample, DeployStarted

Decided = Verdict[RollbackState]


def begin_watch(state: RollbackState, event: Event, policy: RollbackPolicy, now_us: int) -> Decided:
    """A deploy begins: watch it, unless it is known already, refused, or our own rollback as others see it."""
    started: DeployStarted = event.body  # type: ignore[assignment] # the table's row says so
    last = state.deploy
    evidence = _about(started)
    if last is not None and started.deploy_id == last.deploy_id:
        return stay(state, "rollback.known_deploy", evidence)
    if state.status in {Status.VERIFYING, Status.COOLDOWN}:
        if started.revision == deploy_of(state).previous_revision:
            return stay(state, "rollback.own_rollback", evidence)
        if state.status is Status.VERIFYING:
            # The fix comes before the rollback is verified: what was rolled back stays refused all the same.
            until_us = now_us + policy.cooldown_s * SECOND_US
            state = replace(state, refused_revision=deploy_of(state).revision, refused_until_us=until_us)
    if started.revision == state.refused_revision and now_us < state.refused_until_us:
        return Verdict(
            state,
            "refuse",
            "rollback.refused_revision",
            {**evidence, "refused_ms": (state.refused_until_us - now_us) // 1000},
        )
    deploy = Deploy(
        deploy_id=started.deploy_id,
        revision=started.revision,
        previous_revision=started.previous_revision,
        watch_until_us=now_us + policy.watch_s * SECOND_US,
        started_us=min(event.observed_us, now_us),
        target=started.target,
    )
    watched = watch(state, deploy, before_deploy(state.past, deploy.started_us, policy))
    if last is not None and state.status in {Status.WATCHING, Status.HOLD}:
        evidence["superseded"] = last.deploy_id
        return Verdict(watched, "watch", "rollback.supersedes", evidence)
    evidence["watch_ms"] = policy.watch_s * 1000
    return Verdict(watched, "watch", "rollback.watch", evidence)


def race_rollback(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """A deploy begins while a rollback is under way. A third revision means that two hands turn the wheel."""
    started: DeployStarted = event.body  # type: ignore[assignment] # the table's row says so
    deploy = deploy_of(state)
    evidence = _about(started)
    if started.deploy_id == deploy.deploy_id:
        return stay(state, "rollback.known_deploy", evidence)
    if started.revision == deploy.previous_revision:
        return stay(state, "rollback.own_rollback", evidence)
    if started.revision == deploy.revision:
        return Verdict(state, "refuse", "rollback.rolling_back_revision", evidence)
    evidence["rolled_back"] = deploy.revision
    return Verdict(end(state, Status.ESCALATED, Cause.RACE), "escalate", "rollback.race", evidence)


def _about(started: DeployStarted) -> Numbers:
    return {
        "deploy_id": started.deploy_id,
        "previous_revision": started.previous_revision,
        "revision": started.revision,
    }


def ignore_sample(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """Requests of a deploy that nobody watches say nothing."""
    sample: DeploySample = event.body  # type: ignore[assignment] # the table's row says so
    return stay(state, "rollback.unwatched_sample", {"deploy_id": sample.deploy_id})


def note_past(state: RollbackState, event: Event, _policy: RollbackPolicy, now_us: int) -> Decided:
    """While no deploy is judged, samples of the baseline say what is normal; those of a canary say nothing."""
    sample: DeploySample = event.body  # type: ignore[assignment] # the table's row says so
    if sample.arm != "baseline":
        return stay(state, "rollback.unwatched_sample", {"deploy_id": sample.deploy_id})
    counted: Numbers = {"errors": sample.errors, "requests": sample.requests, "slow": sample.slow}
    past = add_past(state.past, sample, event.observed_us, now_us)
    return stay(replace(state, past=past), "rollback.past_sample", counted)


def note_finish(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """Past the watch the deploy system's word changes nothing: only a result or a verification does."""
    finished: DeployFinished = event.body  # type: ignore[assignment] # the table's row says so
    return stay(state, "rollback.finish_noted", {"deploy_id": finished.deploy_id, "result": finished.result})


def note_result(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """A result that the machine does not wait for."""
    result: ActionResult = event.body  # type: ignore[assignment] # the table's row says so
    return stay(state, "rollback.result_noted", {"kind": result.kind})


def note_override(state: RollbackState, _event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """Only a hold asks an operator; what an override masks is not this machine's."""
    return stay(state, "rollback.override_noted", {})


def let_go(state: RollbackState, event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """A rollout that is paused because nobody used it: a person who vetoes the pause answers for it."""
    granted: OverrideGranted = event.body  # type: ignore[assignment] # the table's row says so
    if granted.mode != "veto":
        return stay(state, "rollback.override_noted", {})
    revision = deploy_of(state).revision
    return Verdict(end(state, Status.PROMOTED), "promote", "rollback.let_go", {"revision": revision})


def nothing_due(state: RollbackState, _event: Event, _policy: RollbackPolicy, _now_us: int) -> Decided:
    """A status without a deadline."""
    return stay(state, "rollback.not_due", {})


_RESTING: Final = (Status.IDLE, Status.PROMOTED, Status.INCONCLUSIVE, Status.ESCALATED)
_UNJUDGED: Final = (*_RESTING, Status.COOLDOWN)
_UNWATCHED: Final = (*_RESTING, Status.ROLLING_BACK, Status.VERIFYING, Status.COOLDOWN)


def _to(*statuses: Status) -> frozenset[Status]:
    return frozenset(statuses)


W, H, R = WATCHING, HOLD, ROLLING_BACK
TABLE: Final[Table] = MappingProxyType(
    {
        **{(status, DeployStarted): Row(begin_watch, _to(status, W)) for status in Status},
        **{(status, DeploySample): Row(note_past, _to(status)) for status in _UNJUDGED},
        **{(status, DeployFinished): Row(note_finish, _to(status)) for status in _UNWATCHED},
        **{(status, Alert): Row(note_alert, _to(status)) for status in _UNWATCHED},
        **{(status, Timeout): Row(nothing_due, _to(status)) for status in _RESTING},
        **{(status, ActionResult): Row(note_result, _to(status)) for status in _UNWATCHED},
        **{(status, OverrideGranted): Row(note_override, _to(status)) for status in Status},
        **{(status, OverrideEnded): Row(note_override, _to(status)) for status in Status},
        (Status.INCONCLUSIVE, OverrideGranted): Row(let_go, _to(Status.INCONCLUSIVE, Status.PROMOTED)),
        (W, DeploySample): Row(take_sample, _to(W, H, R, Status.PROMOTED)),
        (W, DeployFinished): Row(finish_deploy, _to(W, Status.IDLE, Status.INCONCLUSIVE)),
        (W, Alert): Row(watch_alert, _to(W, H)),
        (W, Timeout): Row(end_watch, _to(W, H, R, Status.PROMOTED, Status.INCONCLUSIVE)),
        (W, ActionResult): Row(note_operators_rollback, _to(W, Status.VERIFYING)),
        (H, DeploySample): Row(take_sample, _to(H, W, R)),
        (H, DeployFinished): Row(finish_deploy, _to(H, Status.IDLE)),
        (H, Alert): Row(hold_alert, _to(H, W)),
        (H, Timeout): Row(end_hold, _to(H, W, R, Status.ESCALATED)),
        (H, ActionResult): Row(note_operators_rollback, _to(H, Status.VERIFYING)),
        (H, OverrideGranted): Row(answer_hold, _to(H, W, R)),
        (R, DeploySample): Row(ignore_sample, _to(R)),
        (R, DeployStarted): Row(race_rollback, _to(R, Status.ESCALATED)),
        (R, ActionResult): Row(take_result, _to(R, Status.VERIFYING, Status.ESCALATED)),
        # A person's no to the rollback that the overlays withhold: `refuse_rollback`.
        (R, OverrideGranted): Row(note_override, _to(R, W)),
        (R, Timeout): Row(rollback_overdue, _to(R, Status.ESCALATED)),
        (Status.VERIFYING, DeploySample): Row(take_verifying_sample, _to(Status.VERIFYING)),
        (Status.VERIFYING, Timeout): Row(end_verify, _to(Status.VERIFYING, Status.COOLDOWN, Status.ESCALATED)),
        (Status.COOLDOWN, Timeout): Row(end_cooldown, _to(Status.COOLDOWN, Status.IDLE)),
    }
)


def deadline(state: RollbackState, _policy: RollbackPolicy) -> int | None:
    """When the watch, the hold, the rollback, the verification or the cooldown ends."""
    return state.deadline_us


_WANTING: Final = frozenset({HOLD, ROLLING_BACK, INCONCLUSIVE, ESCALATED})


def effect(state: RollbackState, status: Status, _policy: RollbackPolicy) -> Effect | None:
    """What a status wants outside. Names only, no numbers that move: an equal effect is carried out once.

    Without a deploy there is nothing to hold or to roll back, whatever an operator forces.
    """
    if status not in _WANTING:
        return None
    deploy = state.deploy
    if deploy is None:
        return Effect("page", {"cause": "forced"}) if status is ESCALATED else None
    params: dict[str, int | str] = {"deploy_id": deploy.deploy_id, "revision": deploy.revision}
    match status:
        case Status.HOLD:
            return Effect("hold_rollout", params)
        case Status.ROLLING_BACK:
            params["to"] = deploy.previous_revision
            params["attempt"] = max(1, state.attempt)
            if deploy.target is not None:
                params["kind"] = deploy.target.kind
                params["namespace"] = deploy.target.namespace
                params["name"] = deploy.target.name
            return Effect("rollback", params)
        case Status.ESCALATED:
            return Effect("page", {**params, "cause": str(state.cause) or "forced"})
        case Status.INCONCLUSIVE if state.cause is Cause.NO_TRAFFIC and not deploy.finished:
            # Nobody used the revision: it goes no further until a person lets it, or a new deploy begins.
            return Effect("hold_rollout", params)
        case Status.INCONCLUSIVE:
            return Effect("notify", {**params, "cause": str(state.cause) or "forced"})
        case _:
            return None


def admit(_state: RollbackState, _status: Status, _policy: RollbackPolicy) -> AdmitRule:
    """A deploy never costs a tenant its requests."""
    return ADMIT_ALL


def expected_period_us(state: RollbackState, policy: RollbackPolicy) -> int | None:
    """Samples are due in a watch, from the first one to the deploy's end.

    A feed that never spoke is no blind sensor but a deploy without traffic: the watch ends as inconclusive. While
    a rollback is verified silence is no reason to wait: the verification's own end calls a person.
    """
    deploy = state.deploy
    if state.status is not WATCHING or deploy is None or deploy.finished:
        return None
    if not state.pending.canary_through_us and not state.pending.baseline_through_us:
        return None
    return policy.sample_period_s * SECOND_US


_SEVERITY: Final[Mapping[Status, int]] = MappingProxyType(
    {
        Status.IDLE: 0,
        Status.PROMOTED: 0,
        Status.WATCHING: 1,
        Status.COOLDOWN: 2,
        Status.INCONCLUSIVE: 3,
        Status.VERIFYING: 4,
        Status.HOLD: 5,
        Status.ROLLING_BACK: 6,
        Status.ESCALATED: 7,
    }
)

ROLLBACK_GUARD: Final = Governor(
    name="rollback_guard",
    version=5,
    status=Status,
    state=RollbackState,
    policy=RollbackPolicy,
    kinds=frozenset({DeployStarted, DeploySample, DeployFinished, Alert}),
    table=TABLE,
    initial=RollbackState,
    deadline=deadline,
    effect=effect,
    admit=admit,
    expected_period_us=expected_period_us,
    undo=MappingProxyType({"hold_rollout": "resume_rollout"}),
    released=MappingProxyType(
        {Status.HOLD: Status.WATCHING, Status.ROLLING_BACK: Status.WATCHING, Status.INCONCLUSIVE: Status.PROMOTED}
    ),
    severity=_SEVERITY,
    # Samples and results add up in any order, and of each alert by itself the newest word counts
    # (`rollback.alert_late`); an old deploy must not supersede a newer one.
    stale_tolerance_us=MappingProxyType({DeployStarted: 0}),
    rules=RULES,
    lasting=frozenset({"rollback"}),
    patience=Patience(waits=awaits_rollback, begun=begin_rollback, vain=never_asked, refused=refuse_rollback),
)
