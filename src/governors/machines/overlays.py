"""What stands above every machine: staleness, BLIND, OVERRIDE, and one action in flight at a time.

The core decides a natural status. The status in force is the natural one seen through an operator's override. What
shall be true outside (`Governor.effect`) follows the status in force, and is reconciled with what was last carried
out: where they differ and nothing is in flight, one action is asked for. Signals that come while an action is in
flight are decided as ever; what they want is asked for when the result is in.

What stands between wanting an action and asking for it is `conduct.py`, and of the tenant's other machines
`conflicts.py`.

BLIND: after three expected periods without a signal the machine's own timeouts are withheld, so it keeps what is in
force and escalates nothing; the next signal ends it, and so does a status in which none is due.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from governors.fsm.table import Evidence, Verdict, permitted, step
from governors.machines.conduct import (
    ACTS,
    ASK_AGAIN_US,
    EXPIRED,
    FREE,
    NOTICES,
    REFUSED,
    Conduct,
    Restraint,
    again,
    answer,
    calm,
    due_us,
    lift,
    permit,
    told,
)
from governors.machines.conflicts import NOTICES as TELLS
from governors.machines.conflicts import Fellow, hindrance
from governors.machines.events import (
    ActionAttempt,
    ActionResult,
    Event,
    EventBody,
    OverrideEnded,
    OverrideGranted,
    Reconsider,
    Timeout,
)
from governors.machines.governor import Effect, Governor

S = TypeVar("S")

BLIND_AFTER_PERIODS: Final = 3
# A failed action was already retried by its executor until its own deadline; ask again, but not in a storm.
FAILED_RETRY_US: Final = 60_000_000
MASKS: Final = frozenset({"hold", "release", "force"})
DETAIL_CHARS_MAX: Final = 200
ACTOR_CHARS: Final = 16  # 64 bits of the pseudonym: enough to tell the tenants of a log apart

OVERLAY_RULES: Final = {
    "overlay.blind": "no signal for {silent_ms:duration}, one was due every {expected_ms:duration}: keeping {status}",
    "overlay.override": "{by} set {mode} until {until_us:time}: {reason}",
    "overlay.override_ended": "the override {mode} by {by} has ended",
    "overlay.nothing_asked": "nothing is asked that {by} could {mode}",
    "overlay.no_override": "there is no override to end",
    "overlay.action_result": "action {action_id} ({kind}) ended: {result}",
    "overlay.action_attempt": "attempt {attempt} at action {action_id} ({kind}) by {executor}: {outcome}",
    "overlay.unknown_action": "result of action {action_id}, which is not in flight",
    "overlay.retry": "action {kind} failed before and is asked for again",
    "overlay.approval": "{by} answered {mode} until {until_us:time} where {kind} was asked about: {reason}",
    "overlay.approval_expired": "nobody answered in time whether to {kind}: {then}",
    "overlay.again": "{kind} may be asked for again",
    "overlay.lifted": "{by} lets the machine act again, which a storm had frozen: {reason}",
    "overlay.waiting": "{kind} waits for a person's word until {until_us:time}",
    "overlay.reconsidered": "the terms have changed on which actions are asked for",
    "overlay.stale": "observed {behind_ms:duration} before the newest applied signal of its kind",
}


class OpenAction(Struct, frozen=True, gc=False):
    """An action that was asked for and has not ended. `establishes` is what is true outside once it succeeds.

    `attempts` have been made in vain; where it is `doubtful`, one of them may have done it without an answer. `status`
    is the one in force when it was asked for.
    """

    id: str
    kind: str
    params: dict[str, int | str]
    establishes: Effect | None
    attempts: int = 0
    doubtful: bool = False
    status: str = ""

    @property
    def tells_only(self) -> bool:
        """Whether it is a word to people beside what the machine wants outside, which stays as it is."""
        return self.kind in TELLS and self.establishes != Effect(self.kind, self.params)


class MachineState(Struct, Generic[S], frozen=True, gc=False):
    """A core with its overlays: everything a machine is, and all that recovery needs.

    `status` is the one in force since `since_us`; `observed` the newest applied sender's time by signal type;
    `signal_us` when the last signal was applied, by our clock; `applied_status` the status that `applied` came with.
    `doubt` is an effect of which nobody knows whether it stands instead of `applied`: the action that was to establish
    it, or to take it back, got no answer. While there is one, what is wanted outside is asked for even where it is
    `applied`.
    """

    core: S
    status: str
    since_us: int
    signal_us: int
    observed: dict[str, int] = {}
    override: OverrideGranted | None = None
    blind: bool = False
    in_flight: OpenAction | None = None
    applied: Effect | None = None
    applied_status: str = ""
    failed: Effect | None = None
    retry_us: int | None = None
    restraint: Restraint = FREE
    doubt: Effect | None = None


class Advance(Struct, frozen=True, gc=False):
    """One event's whole consequence. `action` is the one to carry out now, `deadline_us` when to send a Timeout."""

    state: MachineState[Any]
    outcome: str
    decision: str
    rule: str
    evidence: Evidence
    action: OpenAction | None
    deadline_us: int | None


def initial(governor: Governor, now_us: int) -> MachineState[Any]:
    """A machine that has seen nothing."""
    core = governor.initial()
    return MachineState(core=core, status=str(core.status), since_us=now_us, signal_us=now_us)


def deadline(governor: Governor, state: MachineState[Any], policy: Any) -> int | None:
    """When the machine next wants a Timeout, in µs."""
    soonest_us = state.retry_us
    if not state.blind:
        # While a person is asked the time of what waits for the answer does not run.
        is_asking = state.restraint is not FREE and _is_asking(governor, state)
        core_us = None if is_asking else governor.deadline(state.core, policy)
        if core_us is not None and (soonest_us is None or core_us < soonest_us):
            soonest_us = core_us
        period_us = governor.expected_period_us(state.core, policy)
        if period_us is not None:
            blind_us = state.signal_us + BLIND_AFTER_PERIODS * period_us
            if soonest_us is None or blind_us < soonest_us:
                soonest_us = blind_us
    if state.override is not None and (soonest_us is None or state.override.until_us < soonest_us):
        soonest_us = state.override.until_us
    if state.restraint is not FREE:
        restraint_us = due_us(state.restraint)
        if restraint_us is not None and (soonest_us is None or restraint_us < soonest_us):
            soonest_us = restraint_us
    return soonest_us


class Turn(Struct, frozen=True, gc=False):
    """One event at one machine: what it is decided under.

    `actor` (the tenant's pseudonym) and `sequence` (of the receipt to come) name the action that may come of it;
    `conduct` says on what terms. `fellows` are all machines of the tenant, this one (of `subject`) among them.
    """

    governor: Governor
    event: Event
    policy: Any
    now_us: int
    actor: str
    sequence: int
    conduct: Conduct = ACTS
    subject: str = ""
    fellows: Mapping[str, Fellow] = MappingProxyType({})

    @property
    def action_id(self) -> str:
        """The same for the same receipt, whoever derives it."""
        return f"act-{self.actor[:ACTOR_CHARS]}-{self.sequence}"


def advance(turn: Turn, state: MachineState[Any]) -> Advance:
    """Decide one event. Reads nothing but its arguments."""
    body = turn.event.body
    match body:
        case Timeout():
            return _on_timeout(turn, state)
        case OverrideGranted():
            return _on_override(turn, state, body)
        case OverrideEnded():
            return _on_override_end(turn, state)
        case ActionResult():
            return _on_result(turn, state, body)
        case ActionAttempt():
            return _on_attempt(turn, state, body)
        case Reconsider():
            return _settle(turn, state, "none", "overlay.reconsidered", {})
        case _:
            return on_signal(turn, state)


def on_signal(turn: Turn, state: MachineState[Any]) -> Advance:
    """Decide a signal: `advance` without asking what kind of event it is."""
    event = turn.event
    kind = type(event.body)
    observed = state.observed
    tolerance_us = turn.governor.stale_tolerance_us.get(kind)
    if tolerance_us is not None:
        name = kind.__name__
        newest_us = observed.get(name, event.observed_us)
        if event.observed_us < newest_us - tolerance_us:
            behind_ms = (newest_us - event.observed_us) // 1000
            evidence: Evidence = {"behind_ms": behind_ms, "tolerance_ms": tolerance_us // 1000}
            return _unmoved(turn, state, "stale", "none", "overlay.stale", evidence)
        if event.observed_us >= newest_us:
            observed = {**observed, name: event.observed_us}
    verdict = step(turn.governor.table, state.core, event, turn.policy, turn.now_us)
    if verdict.refused:
        return _unmoved(turn, state, "rejected", verdict.decision, verdict.rule, verdict.evidence)
    # Spelled out, and by position: this is the hot path, structs.replace costs twice as much, and names as much again.
    moved = MachineState(
        verdict.state,
        state.status,
        state.since_us,
        turn.now_us,
        observed,
        state.override,
        False,  # no longer blind
        state.in_flight,
        state.applied,
        state.applied_status,
        state.failed,
        state.retry_us,
        state.restraint,
        state.doubt,
    )
    return _settle(turn, moved, verdict.decision, verdict.rule, verdict.evidence)


def _on_timeout(turn: Turn, state: MachineState[Any]) -> Advance:
    """One cause at a time; what else is due brings the next Timeout at once."""
    now_us, override = turn.now_us, state.override
    if override is not None and now_us >= override.until_us:
        return _on_override_end(_instead(turn, OverrideEnded(by=override.by)), state)
    if state.retry_us is not None and now_us >= state.retry_us:
        kind = state.failed.kind if state.failed is not None else ""
        return _settle(turn, replace(state, failed=None, retry_us=None), "none", "overlay.retry", {"kind": kind})
    restraint = state.restraint
    awaited, again_us = restraint.awaited, restraint.again_us
    if awaited is not None and now_us >= awaited.until_us:
        return _on_silence(turn, state, awaited.kind, acts=awaited.then == "act")
    if restraint.withheld and again_us is not None and now_us >= again_us:
        evidence: Evidence = {"kind": restraint.withheld}
        return _settle(turn, replace(state, restraint=again(restraint, now_us)), "none", "overlay.again", evidence)
    blind_us = None if state.blind else _blind_us(turn.governor, state, turn.policy)
    if blind_us is not None and now_us >= blind_us:
        return _go_blind(turn, state)
    if awaited is not None and _is_asking(turn.governor, state):
        evidence = {"kind": awaited.kind, "until_us": awaited.until_us}
        return _settle(turn, state, "none", "overlay.waiting", evidence)
    due_core_us = turn.governor.deadline(state.core, turn.policy)
    if due_core_us is not None and now_us >= due_core_us and _is_in_vain(turn.governor, state):
        return _give_up_asking(turn, state, restraint.why)
    verdict = _step(turn, state.core)
    moved = replace(state, core=verdict.state)
    return _settle(turn, moved, verdict.decision, verdict.rule, verdict.evidence)


def _on_silence(turn: Turn, state: MachineState[Any], kind: str, *, acts: bool) -> Advance:
    """Nobody answered in time."""
    until_us = None if acts else turn.now_us + ASK_AGAIN_US
    answered = replace(state, restraint=answer(state.restraint, approved=acts, why=EXPIRED, until_us=until_us))
    if not acts and _is_in_vain(turn.governor, answered):
        return _give_up_asking(turn, answered, EXPIRED)
    evidence: Evidence = {"kind": kind, "then": "act" if acts else "drop"}
    return _settle(turn, answered, "expire", "overlay.approval_expired", evidence)


def _give_up_asking(turn: Turn, state: MachineState[Any], why: str) -> Advance:
    """The core's own time is over, and what it wants was not asked for."""
    patience = turn.governor.patience
    assert patience is not None  # noqa: S101 - whoever calls has looked
    verdict = permitted(
        turn.governor.table, state.core, turn.event, patience.vain(state.core, turn.policy, turn.now_us)
    )
    evidence = {**verdict.evidence, "action": state.restraint.withheld, "why": why}
    return _settle(turn, replace(state, core=verdict.state), verdict.decision, verdict.rule, evidence)


def _is_in_vain(governor: Governor, state: MachineState[Any]) -> bool:
    """Whether the core waits for the result of an action that is withheld."""
    patience, in_flight = governor.patience, state.in_flight
    return (
        patience is not None
        and bool(state.restraint.withheld)
        and (in_flight is None or in_flight.kind in TELLS)
        and patience.waits(state.core)
    )


def _is_asking(governor: Governor, state: MachineState[Any]) -> bool:
    """Whether the core waits for an action that a person is asked about."""
    return state.restraint.awaited is not None and _is_in_vain(governor, state)


def _go_blind(turn: Turn, state: MachineState[Any]) -> Advance:
    period_us = turn.governor.expected_period_us(state.core, turn.policy) or 0
    evidence: Evidence = {
        "expected_ms": period_us // 1000,
        "silent_ms": (turn.now_us - state.signal_us) // 1000,
        "status": state.status,
    }
    blind = replace(state, blind=True)
    notice = None
    if blind.in_flight is None and not turn.conduct.observes:
        # A notice establishes nothing: what is true outside stays as it was.
        params: dict[str, int | str] = {"rule": "overlay.blind", "status": state.status}
        notice = OpenAction(turn.action_id, "notify", params, establishes=state.applied)
        blind = replace(blind, in_flight=notice)
    due_us = deadline(turn.governor, blind, turn.policy)
    return Advance(blind, "decided", "blind", "overlay.blind", evidence, notice, due_us)


def _on_override(turn: Turn, state: MachineState[Any], granted: OverrideGranted) -> Advance:
    if granted.mode in {"approve", "veto"} and state.restraint.awaited is not None:
        return _on_answer(turn, state, granted, state.restraint.awaited.kind)
    if granted.mode == "approve" and state.restraint.frozen_us is not None:
        evidence: Evidence = {"by": granted.by, "mode": granted.mode, "reason": granted.reason}
        return _settle(turn, replace(state, restraint=lift(state.restraint)), "approve", "overlay.lifted", evidence)
    if granted.mode == "hold":
        granted = replace(granted, status=state.status)
    answers = granted.mode in {"approve", "veto"}
    core = state.core
    if state.override is not None and not answers:
        core = _step(_instead(turn, OverrideEnded(by=granted.by)), core).state
    verdict = _step(turn, core)
    if verdict.refused:
        return _unmoved(turn, state, "rejected", verdict.decision, verdict.rule, verdict.evidence)
    if answers and verdict.decision == "none":
        evidence = {"by": granted.by, "mode": granted.mode, "reason": granted.reason}
        return _unmoved(turn, state, "rejected", "none", "overlay.nothing_asked", evidence)
    evidence = {
        **verdict.evidence,
        "by": granted.by,
        "mode": granted.mode,
        "reason": granted.reason,
        "until_us": granted.until_us,
    }
    if granted.status:
        evidence["status"] = granted.status
    lasting = granted if granted.mode in MASKS or granted.mode == "extra_budget" else None
    moved = replace(state, core=verdict.state, override=state.override if answers else lasting)
    decision = "override" if verdict.decision == "none" else verdict.decision
    return _settle(turn, moved, decision, "overlay.override", evidence)


def _on_answer(turn: Turn, state: MachineState[Any], granted: OverrideGranted, kind: str) -> Advance:
    approved, until_us = granted.mode == "approve", granted.until_us
    evidence: Evidence = {
        "by": granted.by, "kind": kind, "mode": granted.mode, "reason": granted.reason, "until_us": until_us
    }  # fmt: skip
    answered = replace(state, restraint=answer(state.restraint, approved=approved, why=REFUSED, until_us=until_us))
    patience = turn.governor.patience
    if not approved and patience is not None and _is_in_vain(turn.governor, answered):
        verdict = patience.refused(state.core, turn.policy, turn.now_us)
        core = permitted(turn.governor.table, state.core, turn.event, verdict).state
        evidence = {**verdict.evidence, **evidence}
        return _settle(turn, replace(answered, core=core), verdict.decision, verdict.rule, evidence)
    return _settle(turn, answered, granted.mode, "overlay.approval", evidence)


def _on_override_end(turn: Turn, state: MachineState[Any]) -> Advance:
    override = state.override
    if override is None:
        return _unmoved(turn, state, "rejected", "none", "overlay.no_override", {})
    verdict = _step(turn, state.core)
    evidence: Evidence = {**verdict.evidence, "by": override.by, "mode": override.mode}
    moved = replace(state, core=verdict.state, override=None)
    decision = "override_end" if verdict.decision == "none" else verdict.decision
    return _settle(turn, moved, decision, "overlay.override_ended", evidence)


def _on_attempt(turn: Turn, state: MachineState[Any], attempt: ActionAttempt) -> Advance:
    """Nothing is decided on it; the machine knows how its action fares, also after a crash."""
    asked = state.in_flight
    evidence: Evidence = {
        "action_id": attempt.action_id,
        "attempt": attempt.number,
        "executor": attempt.executor,
        "kind": attempt.kind,
        "next_ms": attempt.next_ms,
        "outcome": attempt.outcome,
    }
    if attempt.detail:
        evidence["detail"] = attempt.detail[:DETAIL_CHARS_MAX]
    if asked is None or asked.id != attempt.action_id:
        return _unmoved(turn, state, "stale", "none", "overlay.unknown_action", evidence)
    doubtful = asked.doubtful or attempt.outcome == "unanswered"
    moved = replace(state, in_flight=replace(asked, attempts=attempt.number, doubtful=doubtful))
    return _unmoved(turn, moved, "decided", "none", "overlay.action_attempt", evidence)


def _on_result(turn: Turn, state: MachineState[Any], result: ActionResult) -> Advance:
    asked = state.in_flight
    is_doubtful = not result.ok and (result.maybe or (asked is not None and asked.doubtful))
    evidence: Evidence = {
        "action_id": result.action_id,
        "kind": result.kind,
        "result": _word(result, is_doubtful=is_doubtful),
    }
    if result.detail:
        evidence["detail"] = result.detail[:DETAIL_CHARS_MAX]
    if result.ended:
        # Receipts of before there were these say nothing of them, and must come out of a replay as they are.
        evidence["attempts"] = result.attempts
        evidence["ended"] = result.ended
        evidence["executor"] = result.executor
        evidence["verified"] = int(result.verified)
    if result.proof:
        evidence["proof"] = result.proof
    if asked is None or asked.id != result.action_id:
        return _unmoved(turn, state, "stale", "none", "overlay.unknown_action", evidence)
    verdict = _step(turn, state.core)
    moved = replace(state, core=verdict.state, in_flight=None)
    if asked.kind in TELLS and state.restraint.withheld:
        moved = replace(moved, restraint=told(state.restraint, ok=result.ok))
    if result.ok:
        moved = replace(moved, applied=asked.establishes, failed=None, retry_us=None)
        if not asked.tells_only:
            moved = replace(moved, applied_status=asked.status or state.applied_status, doubt=None)
    else:
        if is_doubtful and asked.kind not in TELLS:
            moved = _in_doubt(turn.governor, moved, asked)
        if result.ended != "withdrawn":
            moved = replace(moved, failed=asked.establishes, retry_us=turn.now_us + FAILED_RETRY_US)
    if verdict.decision == "none":
        return _settle(turn, moved, "none", "overlay.action_result", evidence)
    return _settle(turn, moved, verdict.decision, verdict.rule, {**evidence, **verdict.evidence})


def _word(result: ActionResult, *, is_doubtful: bool) -> str:
    if result.ok:
        return "ok"
    if is_doubtful:
        return "unknown"
    return "withdrawn" if result.ended == "withdrawn" else "failed"


def _in_doubt(governor: Governor, state: MachineState[Any], asked: OpenAction) -> MachineState[Any]:
    """After an action that got no answer: what it was to establish may stand, or, where it was to take something back,
    that may be gone. What has an undo is not forgotten over what has none.
    """
    new, old = asked.establishes or state.applied or state.doubt, state.doubt
    if old is not None and (new is None or (old.kind in governor.undo and new.kind not in governor.undo)):
        new = old
    severer = max(state.applied_status, asked.status, key=lambda status: _severity(governor, status))
    return replace(state, doubt=new, applied_status=severer)


def _step(turn: Turn, core: Any) -> Verdict[Any]:
    return step(turn.governor.table, core, turn.event, turn.policy, turn.now_us)


def _instead(turn: Turn, body: EventBody) -> Turn:
    event = Event(turn.event.id, turn.event.observed_us, body)
    return Turn(
        turn.governor, event, turn.policy, turn.now_us, turn.actor, turn.sequence, turn.conduct, turn.subject,
        turn.fellows,
    )  # fmt: skip


def _unmoved(
    turn: Turn, state: MachineState[Any], outcome: str, decision: str, rule: str, evidence: Evidence
) -> Advance:
    return Advance(state, outcome, decision, rule, evidence, None, deadline(turn.governor, state, turn.policy))


def _settle(turn: Turn, state: MachineState[Any], decision: str, rule: str, evidence: Evidence) -> Advance:
    """Bring the status in force and the effects outside into line with the core."""
    governor = turn.governor
    if state.blind and governor.expected_period_us(state.core, turn.policy) is None:
        # As of a rollback that a person forced meanwhile: no signal is due now, and its own deadlines count again.
        state = replace(state, blind=False)
    override = state.override
    status = state.core.status if override is None else _in_force(governor, state.core.status, override)
    if status != state.status:
        state = replace(state, status=str(status), since_us=turn.now_us)
    if override is not None and override.mode in MASKS:
        evidence = {**evidence, "natural": str(state.core.status)}
    action = None
    if state.in_flight is None:
        desired = governor.effect(state.core, status, turn.policy)
        if desired != state.applied or state.doubt is not None:
            state, action = _reconcile(turn, state, desired)
            if state.restraint.withheld:
                evidence = {**evidence, "withheld": state.restraint.withheld, "withheld_why": state.restraint.why}
        elif state.restraint is not FREE:
            calmed = calm(state.restraint, desired.kind if desired is not None else "", turn.now_us)
            state = replace(state, restraint=FREE if calmed == FREE else calmed)
    next_us = deadline(governor, state, turn.policy)
    return Advance(state, "decided", decision, rule, evidence, action, next_us)


def wanted_action(
    governor: Governor, state: MachineState[Any], desired: Effect | None, action_id: str = ""
) -> OpenAction | None:
    """What is to be done so that outside it is as `desired`; None where nothing is: a notice needs no taking back."""
    stands = state.applied
    if state.doubt is not None and (stands is None or stands.kind not in governor.undo):
        stands = state.doubt
    undo = governor.undo.get(stands.kind) if stands is not None else None
    if (
        stands is not None
        and undo is not None
        and (desired is None or (desired.kind in NOTICES and _is_relaxed(governor, state)))
    ):
        return OpenAction(action_id, undo, stands.params, establishes=None, status=state.status)
    if desired is None:
        return None
    return OpenAction(action_id, desired.kind, desired.params, establishes=desired, status=state.status)


def _is_relaxed(governor: Governor, state: MachineState[Any]) -> bool:
    return _severity(governor, state.status) < _severity(governor, state.applied_status)


def _reconcile(
    turn: Turn, state: MachineState[Any], desired: Effect | None
) -> tuple[MachineState[Any], OpenAction | None]:
    governor = turn.governor
    action = wanted_action(governor, state, desired, turn.action_id)
    if action is None:
        restraint = calm(state.restraint, "", turn.now_us)
        return replace(state, applied=None, applied_status="", restraint=restraint, doubt=None), None
    if state.retry_us is not None and action.establishes == state.failed:
        return state, None
    what = Effect(action.kind, action.params)
    hindered = hindrance(
        governor.name, turn.subject, what, turn.fellows.values(), state.restraint.asked, turn.now_us,
        relaxes=desired is None or _is_relaxed(governor, state),
    )  # fmt: skip
    restraint, acts, notice = permit(state.restraint, turn.conduct, what, turn.now_us, hindered)
    if acts:
        core, patience = state.core, governor.patience
        if patience is not None and state.restraint.withheld and patience.waits(core):
            core = patience.begun(core, turn.policy, turn.now_us)
        return replace(state, core=core, in_flight=action, restraint=restraint), action
    if not notice or state.retry_us is not None:
        return replace(state, restraint=restraint if not notice else replace(restraint, untold=True)), None
    restraint = replace(restraint, untold=False)
    params: dict[str, int | str] = {"action": restraint.withheld, "status": state.status, "why": restraint.why}
    if restraint.awaited is not None:
        params["until_us"] = restraint.awaited.until_us
    kind = "page" if restraint.awaited is None else "ask"
    action = OpenAction(turn.action_id, kind, params, establishes=state.applied)
    return replace(state, in_flight=action, restraint=restraint), action


def _in_force(governor: Governor, natural: Any, override: OverrideGranted) -> Any:
    match override.mode:
        case "hold" | "force":
            return governor.status(override.status)
        case "release":
            return governor.released.get(natural, natural)
        case _:
            return natural


def _severity(governor: Governor, status: str) -> int:
    return governor.severity[governor.status(status)] if status else 0


def _blind_us(governor: Governor, state: MachineState[Any], policy: Any) -> int | None:
    period_us = governor.expected_period_us(state.core, policy)
    return None if period_us is None else state.signal_us + BLIND_AFTER_PERIODS * period_us
