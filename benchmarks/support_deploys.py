"""Made-up deploys for benchmarks: what a canary and its baseline report, and judges who look at the same reports."""

import math
import random
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from governors.machines.events import ActionResult, Event, EventBody, Timeout
from governors.machines.governor import SECOND_US
from governors.machines.overlays import Turn, advance, initial
from governors.machines.rollback_guard import ROLLBACK_GUARD
from governors.machines.rollback_policy import RollbackPolicy
from ingest.signals import DeploySample, DeployStarted

INTERVAL_S: Final = 15
WATCH_S: Final = 1_800
_START_US: Final = 1_795_348_800_000_000
_NORMAL_FROM: Final = 30.0


class Course(NamedTuple):
    """How a deploy goes. Rates are requests per second, shares of 1.

    The canary fails `ratio` times as often as the baseline. Every interval's share in each arm is multiplied by a gamma
    variable of mean 1 and coefficient of variation `burst_cv`. From `shared_from_s` on both arms fail `shared` times
    as often. For `before_s` the service reports before the deploy begins; `paired` deploys have a concurrent baseline.
    """

    base_error: float = 0.005
    ratio: float = 1.0
    canary_rps: float = 5.0
    baseline_rps: float = 45.0
    burst_cv: float = 0.0
    shared: float = 1.0
    shared_from_s: int = 0
    before_s: int = 0
    paired: bool = True


class Report(NamedTuple):
    """What both arms saw in one interval, which ended `at_s` after the deploy began; until 0 there is no canary."""

    at_s: int
    canary_requests: int
    canary_errors: int
    baseline_requests: int
    baseline_errors: int


def play(course: Course, seed: int) -> Iterator[Report]:
    """One deploy."""
    chance = random.Random(seed)
    for at_s in range(INTERVAL_S - course.before_s, 1, INTERVAL_S):
        requests = _poisson(chance, course.baseline_rps * INTERVAL_S)
        yield Report(
            at_s, 0, 0, requests, _errors(chance, requests, course.base_error * _burst(chance, course.burst_cv))
        )
    for at_s in range(INTERVAL_S, WATCH_S + 1, INTERVAL_S):
        share = course.base_error * (course.shared if at_s > course.shared_from_s else 1.0)
        canary = _poisson(chance, course.canary_rps * INTERVAL_S)
        baseline = _poisson(chance, course.baseline_rps * INTERVAL_S) if course.paired else 0
        yield Report(
            at_s,
            canary,
            _errors(chance, canary, share * course.ratio * _burst(chance, course.burst_cv)),
            baseline,
            _errors(chance, baseline, share * _burst(chance, course.burst_cv)),
        )


class Verdict(NamedTuple):
    """When a judge first paused the rollout, and when it took it back, in seconds after it began; None: never."""

    hold_s: int | None
    rollback_s: int | None


class Judge(Protocol):
    """Sees one deploy's reports and decides."""

    def judge(self, reports: Iterator[Report]) -> Verdict: ...


class Guard:
    """The Rollback Guard itself, as the runtime asks it. Nobody vetoes, and every action succeeds at once."""

    def __init__(self, policy: RollbackPolicy) -> None:
        self._policy = policy

    def judge(self, reports: Iterator[Report]) -> Verdict:
        watch = _Watch(self._policy)
        for one in reports:
            watch.see(one)
            if watch.verdict.rollback_s is not None:
                break
        return watch.verdict


class _Watch:
    """One deploy under the guard."""

    def __init__(self, policy: RollbackPolicy) -> None:
        self.verdict = Verdict(None, None)
        self._policy = policy
        self._state = initial(ROLLBACK_GUARD, _START_US)
        self._sequence = 0
        self._deadline_us: int | None = None
        self._begun = False

    def see(self, one: Report) -> None:
        now_us = _START_US + one.at_s * SECOND_US
        if one.at_s <= 0:
            self._tell(_sample("baseline", one.baseline_requests, one.baseline_errors), now_us)
            return
        if not self._begun:
            self._begun = True
            self._tell(DeployStarted(deploy_id="d", revision="r2", previous_revision="r1"), _START_US)
        while self._deadline_us is not None and self._deadline_us <= now_us:
            self._tell(Timeout(), self._deadline_us)
        self._tell(_sample("canary", one.canary_requests, one.canary_errors), now_us)
        if one.baseline_requests:
            self._tell(_sample("baseline", one.baseline_requests, one.baseline_errors), now_us)

    def _tell(self, body: EventBody, now_us: int) -> None:
        self._sequence += 1
        turn = Turn(ROLLBACK_GUARD, Event(str(self._sequence), now_us, body), self._policy, now_us, "a", self._sequence)
        found = advance(turn, self._state)
        self._state, self._deadline_us = found.state, found.deadline_us
        at_s = (now_us - _START_US) // SECOND_US
        hold_s, rollback_s = self.verdict
        if found.decision == "hold" and hold_s is None:
            self.verdict = Verdict(at_s, None)
        elif found.decision == "rollback" and rollback_s is None:
            self.verdict = Verdict(at_s if hold_s is None else hold_s, at_s)
        if found.action is not None:
            self._tell(ActionResult(found.action.id, found.action.kind, ok=True), now_us)


class FlaggerLike:
    """Fails a check of every minute with under 99 % successes in it or no request; takes back at the fifth such check.

    Defaults of Flagger's samples: interval 1m, threshold 5, request-success-rate min 99.
    """

    def judge(self, reports: Iterator[Report]) -> Verdict:
        failed = 0
        requests = errors = 0
        for one in _since_start(reports):
            requests += one.canary_requests
            errors += one.canary_errors
            if one.at_s % 60 == 0:
                failed += not requests or errors * 100 > requests
                requests = errors = 0
                if failed >= 5:
                    return Verdict(one.at_s, one.at_s)
        return Verdict(None, None)


class ArgoLike:
    """Measures the last five minutes every five minutes; takes back at the fourth with under 95 % successes.

    The analysis of Argo Rollouts' documentation: interval 5m, successCondition >= 0.95, failureLimit 3.
    """

    def judge(self, reports: Iterator[Report]) -> Verdict:
        failed = 0
        last = deque[Report](maxlen=300 // INTERVAL_S)
        for one in _since_start(reports):
            last.append(one)
            if one.at_s % 300 == 0:
                requests = sum(each.canary_requests for each in last)
                failed += bool(requests) and sum(each.canary_errors for each in last) * 20 > requests
                if failed > 3:
                    return Verdict(one.at_s, one.at_s)
        return Verdict(None, None)


def _since_start(reports: Iterator[Report]) -> Iterator[Report]:
    return (one for one in reports if one.at_s > 0)


def _sample(arm: str, requests: int, errors: int) -> DeploySample:
    return DeploySample(deploy_id="d", arm=arm, requests=requests, errors=errors, slow=0, window_s=INTERVAL_S)  # type: ignore[arg-type] # one of the two


def _burst(chance: random.Random, cv: float) -> float:
    return chance.gammavariate(1 / cv**2, cv**2) if cv else 1.0


def _errors(chance: random.Random, requests: int, share: float) -> int:
    return min(requests, _poisson(chance, requests * min(share, 1.0)))


def _poisson(chance: random.Random, mean: float) -> int:
    if mean > _NORMAL_FROM:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    count, product, floor = 0, chance.random(), math.exp(-mean)
    while product > floor:
        count += 1
        product *= chance.random()
    return count
