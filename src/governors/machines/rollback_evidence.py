"""From samples of two arms to a finding about one deploy.

Samples of the canary and the baseline come as separate signals, out of order, with windows of different lengths. They
add up in an open interval, which is weighed as soon as both arms had requests, at least `interval_s` of observed time
passed, and both have reported about equally far (to half the shorter window). If the other arm does not come in
time, the interval is weighed without a pair: the e-process of the two arms learns nothing from it, the burn rate does.
None of these conditions reads an error or a slow request, so the e-process keeps its guarantee
(`numerics/e_process.py`).

As long as a deploy has no baseline at all its canary is compared with what was before it (`rollback_past.py`), by the
one-sample form. What that says holds and, at odds of 2/alpha, rolls back; it never acts at the odds of a hold.

A fault of both arms that begins inside an interval where one arm has reported further looks like the canary's alone
for that interval. So a verdict from arms that are not level to a second must be confirmed by the next interval.
"""

import math
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from msgspec.structs import replace

from governors.fsm.table import Evidence as Numbers
from governors.machines.governor import SECOND_US
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Evidence, Pending, Slice
from governors.numerics.e_process import Mixture, accumulate, accumulate_alone, exposure, log_e, log_spaced, mixture
from ingest.signals import INTEGER_MAX, DeploySample

MINUTE_US: Final = 60 * SECOND_US
SHORT_WINDOW_US: Final = 5 * MINUTE_US
LEVEL_US: Final = SECOND_US
STAKES: Final = (0.15, 0.7, 0.15)
"""What is bet on the mildest, the middle and the worst ratio. A bet wins nearly as much on its neighbours as on itself,
so few are enough, and most lies where deploys that are bad are hard to tell: at some five times the baseline."""
PROOF_ALTERNATIVES: Final = 4
# The other arm is awaited for so many intervals, or for the longest window seen.
PATIENCE_INTERVALS: Final = 4
PPM: Final = 1_000_000
MILLI_MAX: Final = 10**12
SIGMAS: Final = 3.0
BURNING_ERRORS_MIN: Final = 2


class Finding(StrEnum):
    """What the evidence says, from harmless to severe. UNCONFIRMED is over the limit, but from arms out of step."""

    CLEAR = "clear"
    BURNING = "burning"
    SUSPECT = "suspect"
    UNPAIRED = "unpaired"
    SUSPECT_ALONE = "suspect_alone"
    BOTH = "both"
    UNCONFIRMED = "unconfirmed"
    BY_PAST = "by_past"
    BY_BURN = "by_burn"
    BY_SLOW = "by_slow"
    BY_ERRORS = "by_errors"


CONVICTED: Final = frozenset({Finding.BY_ERRORS, Finding.BY_SLOW, Finding.BY_BURN, Finding.BY_PAST})


class Reading(NamedTuple):
    """A finding and what it was found from. Log e-values in nats; `enough_events` of the metric that accuses; `alone`:
    compared with what was before the deploy.
    """

    finding: Finding
    log_e_errors: float
    log_e_slow: float
    recent: Slice
    enough_events: bool
    alone: bool = False


def add_sample(pending: Pending, sample: DeploySample, observed_us: int, now_us: int) -> Pending:
    """The open interval with one more sample. A sender's clock that runs ahead counts as now."""
    through_us = min(now_us, observed_us)
    window_us = int(sample.window_s * SECOND_US)
    waiting_since_us = pending.waiting_since_us
    if not waiting_since_us and sample.requests:
        waiting_since_us = now_us
    if sample.arm == "canary":
        return Pending(
            _capped(pending.canary_requests + sample.requests),
            _capped(pending.canary_errors + sample.errors),
            _capped(pending.canary_slow + sample.slow),
            max(pending.canary_through_us, through_us),
            window_us,
            pending.baseline_requests,
            pending.baseline_errors,
            pending.baseline_slow,
            pending.baseline_through_us,
            pending.baseline_window_us,
            waiting_since_us,
        )
    return Pending(
        pending.canary_requests,
        pending.canary_errors,
        pending.canary_slow,
        pending.canary_through_us,
        pending.canary_window_us,
        _capped(pending.baseline_requests + sample.requests),
        _capped(pending.baseline_errors + sample.errors),
        _capped(pending.baseline_slow + sample.slow),
        max(pending.baseline_through_us, through_us),
        window_us,
        waiting_since_us,
    )


def _capped(count: int) -> int:
    return min(INTEGER_MAX, count)


def is_due(pending: Pending, evidence: Evidence, policy: RollbackPolicy, now_us: int) -> bool:
    """Whether the open interval may be weighed. Looks at requests and times alone, never at errors."""
    interval_us = policy.interval_s * SECOND_US
    canary_us, baseline_us = pending.canary_through_us, pending.baseline_through_us
    if (max(baseline_us, canary_us)) - evidence.weighed_us < interval_us:
        return False
    if not baseline_us and evidence.canary.requests:
        # A baseline that was awaited in vain once is not awaited again.
        return True
    if pending.canary_requests and pending.baseline_requests:
        apart_us = canary_us - baseline_us
        if 2 * abs(apart_us) <= min(pending.canary_window_us, pending.baseline_window_us):
            return True
    patience_us = max(PATIENCE_INTERVALS * interval_us, pending.canary_window_us, pending.baseline_window_us)
    return bool(pending.waiting_since_us) and now_us - pending.waiting_since_us >= patience_us


def weigh(
    evidence: Evidence, pending: Pending, policy: RollbackPolicy, now_us: int
) -> tuple[Evidence, Pending, Reading]:
    """Close the interval: the evidence with it, an empty interval that goes on from it, and what is found now."""
    paired = bool(pending.canary_requests and pending.baseline_requests)
    sums = _sums(evidence, pending, policy) if paired else None
    alone = not paired and _is_alone(evidence, pending)
    errors_alone, slow_alone = _alone_sums(evidence, pending, policy) if alone else ((), ())
    through_us = max(pending.canary_through_us, pending.baseline_through_us)
    level = abs(pending.canary_through_us - pending.baseline_through_us) <= LEVEL_US
    weighed = Evidence(
        weighed_us=max(evidence.weighed_us, through_us),
        canary=evidence.canary.plus(pending.canary_requests, pending.canary_errors, pending.canary_slow),
        baseline=evidence.baseline.plus(pending.baseline_requests, pending.baseline_errors, pending.baseline_slow),
        minutes=_minutes(evidence.minutes, pending, through_us),
        errors_sums=sums.errors if sums else evidence.errors_sums,
        slow_sums=sums.slow if sums else evidence.slow_sums,
        errors_proof=sums.errors_proof if sums else evidence.errors_proof,
        slow_proof=sums.slow_proof if sums else evidence.slow_proof,
        paired_us=now_us if paired or alone else evidence.paired_us,
        over=evidence.over,
        spent_requests=evidence.spent_requests,
        before=evidence.before,
        errors_alone=errors_alone,
        slow_alone=slow_alone,
    )
    reading = read(weighed, policy, confirmed=level or alone or evidence.over)
    over = reading.finding is Finding.UNCONFIRMED or reading.finding in CONVICTED
    if paired and over != weighed.over:
        weighed = replace(weighed, over=over)
    reopened = Pending(
        canary_through_us=pending.canary_through_us,
        canary_window_us=pending.canary_window_us,
        baseline_through_us=pending.baseline_through_us,
        baseline_window_us=pending.baseline_window_us,
    )
    return weighed, reopened, reading


def read(evidence: Evidence, policy: RollbackPolicy, *, confirmed: bool = True) -> Reading:
    """What the evidence says as it stands."""
    alone = bool(evidence.errors_alone)
    log_e_errors = log_e(evidence.errors_alone if alone else evidence.errors_sums)
    log_e_slow = log_e(evidence.slow_alone if alone else evidence.slow_sums)
    recent = _recent(evidence.minutes)
    canary, dispersion = evidence.canary, dispersion_of(evidence, policy)
    canary_burns = _burns(recent.canary_requests, recent.canary_errors, policy, dispersion) and _burns(
        canary.requests, canary.errors, policy, dispersion
    )
    baseline_burns = _burns(recent.baseline_requests, recent.baseline_errors, policy, dispersion)
    baseline_known = baseline_burns or recent.baseline_requests >= policy.baseline_requests_min
    suspect = max(log_e_errors, log_e_slow) >= math.log(policy.hold_e)
    enough_errors = canary.errors >= policy.bad_events_min
    enough_slow = canary.slow >= policy.bad_events_min
    by_errors = log_e_errors >= limit(policy.alpha_errors_ppm, alone=alone) and enough_errors
    by_slow = log_e_slow >= limit(policy.alpha_slow_ppm, alone=alone) and enough_slow
    # What burns is convicted at the odds of a hold. Burning alone convicts nobody: at a baseline of 1 % errors the luck
    # of a good canary's first minutes burns already.
    by_burn = canary_burns and baseline_known and enough_errors and suspect
    if baseline_burns and (canary_burns or suspect):
        finding = Finding.BOTH
    elif alone and (by_errors or by_slow):
        finding = Finding.BY_PAST
    elif alone and suspect:
        finding = Finding.SUSPECT_ALONE
    elif by_errors or by_slow or by_burn:
        finding = Finding.BY_ERRORS if by_errors else Finding.BY_SLOW if by_slow else Finding.BY_BURN
        if not confirmed:
            finding = Finding.UNCONFIRMED
    elif canary_burns and not baseline_known:
        finding = Finding.UNPAIRED
    elif suspect:
        finding = Finding.SUSPECT
    else:
        finding = Finding.BURNING if canary_burns else Finding.CLEAR
    enough = enough_errors if log_e_errors >= log_e_slow else enough_slow
    return Reading(finding, log_e_errors, log_e_slow, recent, enough, alone)


def faded(reading: Reading) -> bool:
    """Whether nothing speaks against the deploy any more: E is back to 1, ten times under what began a hold."""
    return reading.finding is Finding.CLEAR and reading.log_e_errors <= 0.0 and reading.log_e_slow <= 0.0


def is_proven(evidence: Evidence, policy: RollbackPolicy) -> bool:
    """Whether a canary `proven_ratio_milli` times as bad as the baseline has become unbelievable, on both metrics."""
    least = limit(policy.alpha_proof_ppm)
    return log_e(evidence.errors_proof) >= least and log_e(evidence.slow_proof) >= least


def numbers(evidence: Evidence, reading: Reading, policy: RollbackPolicy) -> Numbers:
    """What was compared, with its limits, as integers for a receipt."""
    canary, baseline, recent = evidence.canary, evidence.baseline, reading.recent
    before = evidence.before
    compared: Numbers = {
        "baseline_burn_milli": _burn_milli(recent.baseline_requests, recent.baseline_errors, policy),
        "baseline_errors": baseline.errors,
        "baseline_requests": baseline.requests,
        "baseline_slow": baseline.slow,
        "burn_5m_milli": _burn_milli(recent.canary_requests, recent.canary_errors, policy),
        "burn_deploy_milli": _burn_milli(canary.requests, canary.errors, policy),
        "burn_limit_milli": policy.burn_milli,
        "canary_errors": canary.errors,
        "canary_requests": canary.requests,
        "canary_slow": canary.slow,
        "e_errors_milli_nats": _milli(reading.log_e_errors),
        "e_slow_milli_nats": _milli(reading.log_e_slow),
        "hold_milli_nats": _milli(math.log(policy.hold_e)),
        "limit_errors_milli_nats": _milli(limit(policy.alpha_errors_ppm, alone=reading.alone)),
        "limit_slow_milli_nats": _milli(limit(policy.alpha_slow_ppm, alone=reading.alone)),
    }
    if before is not None:
        compared["dispersion_milli"] = _milli(dispersion_of(evidence, policy))
        if reading.alone:
            compared["before_errors"] = before.errors
            compared["before_errors_ppm"] = min(round(before.errors_share * PPM), MILLI_MAX)
            compared["before_requests"] = before.requests
            compared["before_slow"] = before.slow
            compared["before_slow_ppm"] = min(round(before.slow_share * PPM), MILLI_MAX)
    return compared


def limit(alpha_ppm: int, *, alone: bool = False) -> float:
    """ln(1/alpha), in nats; ln(2/alpha) for the one-sample form, whose bound has spent the other half."""
    return math.log((2 if alone else 1) * PPM / alpha_ppm)


def dispersion_of(evidence: Evidence, policy: RollbackPolicy) -> float:
    """Variance over mean of an interval's errors: what the policy says, or what was seen before the deploy if more."""
    told = policy.dispersion_milli / 1000
    return told if evidence.before is None else max(told, evidence.before.dispersion)


def _is_alone(evidence: Evidence, pending: Pending) -> bool:
    """Whether no baseline has reported at all. One that falls silent may have been silenced by what the canary shows,
    so it is not replaced by the past.
    """
    return (
        evidence.before is not None
        and pending.canary_requests > 0
        and not pending.baseline_through_us
        and not evidence.baseline.requests
    )


def _alone_sums(
    evidence: Evidence, pending: Pending, policy: RollbackPolicy
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    before, requests = evidence.before, pending.canary_requests
    assert before is not None  # noqa: S101 - _is_alone has looked
    mix, dispersion = _against_of(policy), dispersion_of(evidence, policy)
    return (
        accumulate_alone(mix, evidence.errors_alone, requests * before.errors_share, pending.canary_errors, dispersion),
        accumulate_alone(mix, evidence.slow_alone, requests * before.slow_share, pending.canary_slow, dispersion),
    )


def _against_of(policy: RollbackPolicy) -> Mixture:
    return _against(policy.tolerated_ratio_milli, policy.ratio_low_milli, policy.ratio_high_milli)


def share_ppm(requests: int, events: int) -> int:
    """Events of a million requests, rounded down; 0 without requests."""
    return events * PPM // requests if requests else 0


def within(requests: int, events: int, expected_ppm: int) -> bool:
    """Whether so many events are no more than chance allows at the expected share: three sigmas and one event."""
    mean = requests * expected_ppm / PPM
    return events <= mean + SIGMAS * math.sqrt(mean) + 1.0


class _Sums(NamedTuple):
    errors: tuple[float, ...]
    slow: tuple[float, ...]
    errors_proof: tuple[float, ...]
    slow_proof: tuple[float, ...]


def _sums(evidence: Evidence, pending: Pending, policy: RollbackPolicy) -> _Sums:
    against = _against_of(policy)
    proof = _proof(policy.proven_ratio_milli)
    dispersion = dispersion_of(evidence, policy)
    n_a, n_b = pending.canary_requests, pending.baseline_requests
    costs, proof_costs = exposure(against, n_a, n_b), exposure(proof, n_a, n_b)
    errors, slow = (pending.canary_errors, pending.baseline_errors), (pending.canary_slow, pending.baseline_slow)
    return _Sums(
        accumulate(against, evidence.errors_sums, costs, *errors, dispersion),
        accumulate(against, evidence.slow_sums, costs, *slow, dispersion),
        accumulate(proof, evidence.errors_proof, proof_costs, *errors, dispersion),
        accumulate(proof, evidence.slow_proof, proof_costs, *slow, dispersion),
    )


@lru_cache(maxsize=64)
def _against(tolerated_milli: int, low_milli: int, high_milli: int) -> Mixture:
    return mixture(tolerated_milli / 1000, log_spaced(low_milli / 1000, high_milli / 1000, len(STAKES)), STAKES)


@lru_cache(maxsize=64)
def _proof(proven_milli: int) -> Mixture:
    ratio = proven_milli / 1000
    return mixture(ratio, log_spaced(0.4 * ratio, 0.8 * ratio, PROOF_ALTERNATIVES))


def _minutes(minutes: tuple[Slice, ...], pending: Pending, through_us: int) -> tuple[Slice, ...]:
    """The last five minutes' slices with the interval added to the one it ended in."""
    from_us = through_us // MINUTE_US * MINUTE_US
    added = Slice(
        from_us, pending.canary_requests, pending.canary_errors, pending.baseline_requests, pending.baseline_errors
    )
    if minutes and minutes[-1].from_us == from_us:
        return (*minutes[:-1], _add(minutes[-1], added))
    return (*(minute for minute in minutes if minute.from_us > from_us - SHORT_WINDOW_US), added)


def _recent(minutes: tuple[Slice, ...]) -> Slice:
    canary_requests = canary_errors = baseline_requests = baseline_errors = 0
    for minute in minutes:
        canary_requests += minute[1]
        canary_errors += minute[2]
        baseline_requests += minute[3]
        baseline_errors += minute[4]
    return Slice(0, canary_requests, canary_errors, baseline_requests, baseline_errors)


def _add(a: Slice, b: Slice) -> Slice:
    return Slice(
        a.from_us,
        _capped(a.canary_requests + b.canary_requests),
        _capped(a.canary_errors + b.canary_errors),
        _capped(a.baseline_requests + b.baseline_requests),
        _capped(a.baseline_errors + b.baseline_errors),
    )


def _burns(requests: int, errors: int, policy: RollbackPolicy, dispersion: float) -> bool:
    """Whether the burn rate is at its limit beyond chance: three sigmas above the errors that the limit allows.

    The margin grows with the dispersion, as errors that come in clumps leave more to chance.
    """
    if errors < BURNING_ERRORS_MIN:
        return False
    allowed = requests * policy.error_budget_ppm * policy.burn_milli / (1000 * PPM)
    return errors >= min(allowed + SIGMAS * math.sqrt(allowed * dispersion), requests)


def _burn_milli(requests: int, errors: int, policy: RollbackPolicy) -> int:
    return min(errors * 1000 * PPM // (requests * policy.error_budget_ppm), MILLI_MAX) if requests else 0


def _milli(value: float) -> int:
    return max(-MILLI_MAX, min(MILLI_MAX, round(value * 1000)))
