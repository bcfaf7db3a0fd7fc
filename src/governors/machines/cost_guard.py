"""Cost Guard: keeps what a tenant spends in a period within its budget.

    UNBUDGETED -> NORMAL -> WARN -> THROTTLE -> STOP -> RECOVERING -> NORMAL

Cost is the more of two: the billing feed's latest snapshot, and our own sum of metered deltas. WARN notifies, THROTTLE
admits the share of demand that makes the rest of the budget last, STOP lets only critical requests through. A limit
is reached at or over it, and acts at once. What relaxes waits: WARN and THROTTLE for a calm of six hours, STOP for a
new period, a raised budget or an operator, and both THROTTLE and STOP ramp up through RECOVERING then.

Money: integer micros of the budget's currency. Times: µs UTC. Shares: ppm. Limits: `cost_policy.py`; what a number
means: `cost_rules.py`; sums, budgets and periods: `cost_booking.py`.

An event that cannot count (a foreign currency, a budget of nothing, usage from the future) is refused: the state stays
as it was, the evidence says why.
"""

from types import MappingProxyType
from typing import Final

from governors.fsm.table import Evidence, Row, Table, Verdict
from governors.machines import cost_booking as book
from governors.machines.cost_judge import CostVerdict, judge
from governors.machines.cost_policy import CostPolicy
from governors.machines.cost_rules import NOTICE_HIGH, NOTICE_LIMIT, NOTICE_PACE, NOTICE_UNUSUAL, RULES, SECOND_US
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
from governors.machines.events import ActionResult, Event, OverrideEnded, OverrideGranted, Timeout
from governors.machines.governor import ADMIT_ALL, AdmitRule, Effect, Governor
from ingest.signals import BudgetSet, CostDelta, CostSnapshot

# The handlers: refuse what cannot count, book the rest, judge the books.


def on_snapshot(state: CostState, event: Event, policy: CostPolicy, now_us: int) -> CostVerdict:
    """The billing feed speaks."""
    snapshot = event.body
    assert isinstance(snapshot, CostSnapshot)  # noqa: S101 - the table says so; narrows the type
    if refusal := _refuse_money(state, snapshot.currency, snapshot.budget_amount):
        return refusal
    if snapshot.interval_end is not None and snapshot.interval_end <= snapshot.interval_start:
        return Verdict(state, "refuse", "cost.refused_period", {}, refused=True)
    if snapshot.interval_start > now_us and (refusal := _refuse_future(state, snapshot.interval_start, policy, now_us)):
        return refusal
    return judge(book.book_snapshot(state, snapshot, event.observed_us, policy, now_us), policy, now_us)


def on_delta(state: CostState, event: Event, policy: CostPolicy, now_us: int) -> CostVerdict:
    """The tenant's own meter speaks."""
    delta = event.body
    assert isinstance(delta, CostDelta)  # noqa: S101 - as above
    currency = state.budget.currency
    if delta.currency != currency and currency:
        evidence: Evidence = {"currency": delta.currency, "budget_currency": currency}
        return Verdict(state, "refuse", "cost.refused_currency", evidence, refused=True)
    if delta.usage_at > now_us and (refusal := _refuse_future(state, delta.usage_at, policy, now_us)):
        return refusal
    return judge(book.book_delta(state, delta, policy, now_us), policy, now_us)


def on_budget(state: CostState, event: Event, policy: CostPolicy, now_us: int) -> CostVerdict:
    """Somebody sets the budget."""
    new = event.body
    assert isinstance(new, BudgetSet)  # noqa: S101 - as above
    if refusal := _refuse_money(state, new.currency, new.budget_amount):
        return refusal
    return judge(book.book_budget(state, new, policy, now_us), policy, now_us)


def on_timeout(state: CostState, _event: Event, policy: CostPolicy, now_us: int) -> CostVerdict:
    """Time alone: the end of a period or of extra budget, a step of a ramp, the end of a dwell."""
    due_us = deadline(state, policy)
    if due_us is None or now_us < due_us:
        return Verdict(state, "none", "cost.nothing_due", {})
    # No rate is read here: silence says nothing of a feed, and of a meter only what its next report will say.
    return judge(book.catch_up(state, policy, now_us), policy, now_us)


def on_override(state: CostState, event: Event, policy: CostPolicy, now_us: int) -> CostVerdict:
    """An operator speaks. What masks a status is none of the core's business; extra money and forgiveness are."""
    override = event.body
    assert isinstance(override, OverrideGranted)  # noqa: S101 - as above
    if override.mode == "release":
        state, cause = book.catch_up(state, policy, now_us)
        return judge((state, cause if cause.fresh else book.RELEASED), policy, now_us)
    if override.mode != "extra_budget":
        return Verdict(state, "none", "cost.no_change", {"event": f"an operator's {override.mode}"})
    if override.extra_micros <= 0 or override.until_us <= now_us or not state.budget.amount_micros:
        evidence: Evidence = {
            "extra_positive": int(override.extra_micros > 0),
            "over": int(override.until_us <= now_us),
        }
        return Verdict(state, "refuse", "cost.refused_extra", evidence, refused=True)
    return judge(book.grant_extra(state, override.extra_micros, override.until_us, policy, now_us), policy, now_us)


def on_override_end(state: CostState, _event: Event, policy: CostPolicy, now_us: int) -> CostVerdict:
    """What an operator added is taken away again; other overrides leave nothing behind here."""
    if not state.budget.extra_micros:
        return Verdict(state, "none", "cost.no_change", {"event": "the end of an override"})
    state, cause = book.catch_up(book.end_extra(state), policy, now_us)
    return judge((state, cause if cause.fresh else book.EXTRA_ENDED), policy, now_us)


def on_action_result(state: CostState, _event: Event, _policy: CostPolicy, _now_us: int) -> CostVerdict:
    """Whether an action worked changes what is true outside, not what the tenant has spent."""
    return Verdict(state, "none", "cost.no_change", {"event": "the result of an action"})


def _refuse_money(state: CostState, currency: str, budget_micros: int) -> CostVerdict | None:
    evidence: Evidence
    budget = state.budget
    if currency == budget.currency and budget_micros > 0:
        return None
    if budget.amount_micros and currency != budget.currency:
        evidence = {"currency": currency, "budget_currency": budget.currency}
        return Verdict(state, "refuse", "cost.refused_currency", evidence, refused=True)
    if budget_micros <= 0:
        evidence = {"budget_micros": int(budget_micros), "currency": currency}
        return Verdict(state, "refuse", "cost.refused_budget", evidence, refused=True)
    return None


def _refuse_future(state: CostState, at_us: int, policy: CostPolicy, now_us: int) -> CostVerdict | None:
    ahead_us = at_us - now_us
    limit_us = policy.future_skew_s * SECOND_US
    if ahead_us <= limit_us:
        return None
    evidence: Evidence = {"ahead_ms": ahead_us // 1000, "limit_ms": limit_us // 1000}
    return Verdict(state, "refuse", "cost.refused_future", evidence, refused=True)


# What the runtime asks about a state.

_NOTICES: Final = {
    level: Effect("notify", {"level": word})
    for level, word in (
        (NOTICE_PACE, "pace"),
        (NOTICE_LIMIT, "limit"),
        (NOTICE_HIGH, "high"),
        (NOTICE_PACE | NOTICE_UNUSUAL, "anomaly"),
        (NOTICE_LIMIT | NOTICE_UNUSUAL, "limit_anomaly"),
        (NOTICE_HIGH | NOTICE_UNUSUAL, "high_anomaly"),
    )
}
_STOPPED: Final = Effect("stop")
_CRITICAL_ONLY: Final = AdmitRule(critical_only=True)


def deadline(state: CostState, policy: CostPolicy) -> int | None:
    """The soonest of the period's end, the next step of a fraction, the end of a dwell or of extra budget."""
    if not state.budget.amount_micros:
        return None
    due_us = state.end_us
    # A throttle that holds nothing back waits for what the signals say.
    if 0 < state.step_due_us < due_us and state.fraction_ppm < FULL_PPM:
        due_us = state.step_due_us
    if state.calm_since_us:
        due_us = min(due_us, state.calm_since_us + policy.clear_dwell_s * SECOND_US)
    if state.budget.extra_until_us:
        due_us = min(due_us, state.budget.extra_until_us)
    return due_us


def effect(state: CostState, status: CostStatus, policy: CostPolicy) -> Effect | None:
    """A notice, a fraction or a stop; by level and quantum only, so that equal needs are equal effects."""
    if status is WARN:
        return _NOTICES[state.notice or NOTICE_LIMIT]
    if status is THROTTLE or status is RECOVERING:
        return Effect("throttle", {"fraction_ppm": _fraction_in_force(state, status, policy)})
    return _STOPPED if status is STOP else None


def admit(state: CostState, status: CostStatus, policy: CostPolicy) -> AdmitRule:
    """A fraction while throttled or recovering, the class `critical` alone while stopped."""
    if status is THROTTLE or status is RECOVERING:
        return AdmitRule(fraction_ppm=_fraction_in_force(state, status, policy))
    return _CRITICAL_ONLY if status is STOP else ADMIT_ALL


def _fraction_in_force(state: CostState, status: CostStatus, policy: CostPolicy) -> int:
    if state.status is status:
        return state.fraction_ppm
    # An operator holds or forces this status against the numbers: the last fraction, or the policy's word.
    if status is RECOVERING:
        return policy.recover_start_ppm
    return state.fraction_ppm if state.fraction_ppm < FULL_PPM else policy.forced_throttle_ppm


def expected_period_us(state: CostState, policy: CostPolicy) -> int | None:
    """A feed is due regularly. A meter is not: a stopped or idle tenant has nothing to report."""
    return policy.feed_period_s * SECOND_US if state.budget.feed_micros else None


# The table. Being stopped is left only through RECOVERING; nothing enters UNBUDGETED.

_SAME: Final = {status: frozenset({status}) for status in CostStatus}
_BUDGETED: Final = frozenset({NORMAL, WARN, THROTTLE, STOP})
_TARGETS: Final = {
    UNBUDGETED: _BUDGETED | {UNBUDGETED},
    NORMAL: _BUDGETED,
    WARN: _BUDGETED,
    THROTTLE: _BUDGETED | {RECOVERING},
    STOP: frozenset({STOP, RECOVERING}),
    RECOVERING: _BUDGETED | {RECOVERING},
}

TABLE: Final[Table] = {
    (UNBUDGETED, CostSnapshot): Row(on_snapshot, _TARGETS[UNBUDGETED]),
    (UNBUDGETED, CostDelta): Row(on_delta, _SAME[UNBUDGETED]),
    (UNBUDGETED, BudgetSet): Row(on_budget, _TARGETS[UNBUDGETED]),
    (UNBUDGETED, Timeout): Row(on_timeout, _SAME[UNBUDGETED]),
    (UNBUDGETED, OverrideGranted): Row(on_override, _SAME[UNBUDGETED]),
    (UNBUDGETED, OverrideEnded): Row(on_override_end, _SAME[UNBUDGETED]),
    (UNBUDGETED, ActionResult): Row(on_action_result, _SAME[UNBUDGETED]),
    (NORMAL, CostSnapshot): Row(on_snapshot, _TARGETS[NORMAL]),
    (NORMAL, CostDelta): Row(on_delta, _TARGETS[NORMAL]),
    (NORMAL, BudgetSet): Row(on_budget, _TARGETS[NORMAL]),
    (NORMAL, Timeout): Row(on_timeout, _TARGETS[NORMAL]),
    (NORMAL, OverrideGranted): Row(on_override, _TARGETS[NORMAL]),
    (NORMAL, OverrideEnded): Row(on_override_end, _TARGETS[NORMAL]),
    (NORMAL, ActionResult): Row(on_action_result, _SAME[NORMAL]),
    (WARN, CostSnapshot): Row(on_snapshot, _TARGETS[WARN]),
    (WARN, CostDelta): Row(on_delta, _TARGETS[WARN]),
    (WARN, BudgetSet): Row(on_budget, _TARGETS[WARN]),
    (WARN, Timeout): Row(on_timeout, _TARGETS[WARN]),
    (WARN, OverrideGranted): Row(on_override, _TARGETS[WARN]),
    (WARN, OverrideEnded): Row(on_override_end, _TARGETS[WARN]),
    (WARN, ActionResult): Row(on_action_result, _SAME[WARN]),
    (THROTTLE, CostSnapshot): Row(on_snapshot, _TARGETS[THROTTLE]),
    (THROTTLE, CostDelta): Row(on_delta, _TARGETS[THROTTLE]),
    (THROTTLE, BudgetSet): Row(on_budget, _TARGETS[THROTTLE]),
    (THROTTLE, Timeout): Row(on_timeout, _TARGETS[THROTTLE]),
    (THROTTLE, OverrideGranted): Row(on_override, _TARGETS[THROTTLE]),
    (THROTTLE, OverrideEnded): Row(on_override_end, _TARGETS[THROTTLE]),
    (THROTTLE, ActionResult): Row(on_action_result, _SAME[THROTTLE]),
    (STOP, CostSnapshot): Row(on_snapshot, _TARGETS[STOP]),
    (STOP, CostDelta): Row(on_delta, _TARGETS[STOP]),
    (STOP, BudgetSet): Row(on_budget, _TARGETS[STOP]),
    (STOP, Timeout): Row(on_timeout, _TARGETS[STOP]),
    (STOP, OverrideGranted): Row(on_override, _TARGETS[STOP]),
    (STOP, OverrideEnded): Row(on_override_end, _TARGETS[STOP]),
    (STOP, ActionResult): Row(on_action_result, _SAME[STOP]),
    (RECOVERING, CostSnapshot): Row(on_snapshot, _TARGETS[RECOVERING]),
    (RECOVERING, CostDelta): Row(on_delta, _TARGETS[RECOVERING]),
    (RECOVERING, BudgetSet): Row(on_budget, _TARGETS[RECOVERING]),
    (RECOVERING, Timeout): Row(on_timeout, _TARGETS[RECOVERING]),
    (RECOVERING, OverrideGranted): Row(on_override, _TARGETS[RECOVERING]),
    (RECOVERING, OverrideEnded): Row(on_override_end, _TARGETS[RECOVERING]),
    (RECOVERING, ActionResult): Row(on_action_result, _SAME[RECOVERING]),
}

COST_GUARD: Final = Governor(
    name="cost_guard",
    version=3,
    status=CostStatus,
    state=CostState,
    policy=CostPolicy,
    kinds=frozenset({CostSnapshot, CostDelta, BudgetSet}),
    table=TABLE,
    initial=CostState,
    deadline=deadline,
    effect=effect,
    admit=admit,
    expected_period_us=expected_period_us,
    undo=MappingProxyType({"throttle": "restore", "stop": "restore"}),
    released=MappingProxyType(
        {UNBUDGETED: UNBUDGETED, NORMAL: NORMAL, WARN: WARN, THROTTLE: WARN, STOP: WARN, RECOVERING: NORMAL}
    ),
    severity=MappingProxyType({UNBUDGETED: 0, NORMAL: 0, WARN: 1, RECOVERING: 2, THROTTLE: 3, STOP: 4}),
    stale_tolerance_us=MappingProxyType({CostSnapshot: 0, BudgetSet: 0}),
    rules=MappingProxyType(RULES),
)
