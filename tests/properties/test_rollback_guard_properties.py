"""Whatever is told to the Rollback Guard, in any order: what must never happen does not."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from governors.fsm.table import Verdict, step
from governors.machines.events import ActionResult, Event, EventBody, OverrideEnded, OverrideGranted, Timeout
from governors.machines.explain import explain
from governors.machines.rollback_evidence import Finding, add_sample, share_ppm, weigh
from governors.machines.rollback_guard import ROLLBACK_GUARD, TABLE
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import Before, Evidence, Pending, RollbackState, Status
from ingest.signals import Alert, DeployFinished, DeploySample, DeployStarted

S = 1_000_000
NOON_US = 1_790_000_000 * S
ENDS = {Status.PROMOTED, Status.INCONCLUSIVE, Status.ESCALATED}
POLICIES = (
    RollbackPolicy(),
    RollbackPolicy(watch_s=120, hold_s=60, verify_s=60, cooldown_s=120, unpaired="rollback", rollbacks_per_day_max=1),
    RollbackPolicy(dispersion_milli=3_000, proven_after_s=0, hold_on_alert=False, bad_events_min=20),
)
revisions = st.sampled_from(["r1", "r2", "r3"])
deploy_ids = st.sampled_from(["d1", "d2", "d3", "d4"])
counts = st.one_of(st.integers(0, 20), st.integers(0, 5_000), st.just(2**53 - 1))
shares = st.sampled_from([0.0, 0.004, 0.02, 0.3, 1.0])


class RollbackGuardMachine(RuleBasedStateMachine):
    """Tells the guard anything, keeping the counts that it must have reckoned with."""

    def __init__(self) -> None:
        super().__init__()
        self.state: RollbackState = ROLLBACK_GUARD.initial()
        self.policy = POLICIES[0]
        self.now_us = NOON_US
        self.deploy = ""
        self.canary_bad = 0
        self.baseline_requests = 0
        self.baseline_errors = 0

    @initialize(policy=st.sampled_from(POLICIES))
    def choose_policy(self, policy: RollbackPolicy) -> None:
        self.policy = policy

    def tell(self, body: EventBody, *, behind_us: int = 0) -> Verdict[RollbackState]:
        before = self.state
        event = Event("e", self.now_us - behind_us, body)
        verdict = step(TABLE, before, event, self.policy, self.now_us)
        assert step(TABLE, before, event, self.policy, self.now_us) == verdict, "deterministic"
        for key, value in verdict.evidence.items():
            assert key.isascii()
            assert type(value) is str or (type(value) is int and abs(value) < 2**53)
        assert explain(ROLLBACK_GUARD.rules, verdict.rule, verdict.evidence) != verdict.rule
        self.state = verdict.state
        if before.status in ENDS and self.state.status is not before.status:
            let_go = isinstance(body, OverrideGranted) and before.status is Status.INCONCLUSIVE
            assert isinstance(body, DeployStarted) or let_go, "an end is left for a new deploy, or by a person"
        if self.state.status is Status.ROLLING_BACK and before.status is not Status.ROLLING_BACK:
            approved = isinstance(body, OverrideGranted)
            assert approved or self.canary_bad >= self.policy.bad_events_min
            assert approved or before.status in {Status.WATCHING, Status.HOLD}
            assert not isinstance(body, Alert | DeployFinished | DeployStarted)
            if not approved and self.policy.unpaired == "escalate":
                compared = self.baseline_requests > 0 or before.evidence.before is not None
                assert compared, "nothing is rolled back without a comparison"
        return verdict

    @rule(deploy_id=deploy_ids, revision=revisions, previous=revisions)
    def start(self, deploy_id: str, revision: str, previous: str) -> None:
        before = self.state
        refused = revision == before.refused_revision and self.now_us < before.refused_until_us
        verdict = self.tell(DeployStarted(deploy_id, revision, previous))
        if verdict.decision == "watch":
            assert not refused, "a refused revision is not watched"
            self.deploy = deploy_id
            self.canary_bad = self.baseline_requests = self.baseline_errors = 0

    @rule(
        arm=st.sampled_from(["canary", "baseline"]),
        requests=counts,
        bad=shares,
        slow=shares,
        behind_s=st.sampled_from([0, 0, 1, 7, 400, -30]),
        other=st.sampled_from([False, False, False, True]),
        window_s=st.sampled_from([15.0, 60.0, 0.5]),
    )
    def sample(
        self, arm: Any, requests: int, bad: float, slow: float, behind_s: int, other: bool, window_s: float
    ) -> None:
        self.count_and_tell(arm, requests, bad, slow, behind_s, "other" if other else self.deploy or "d1", window_s)

    @rule(canary=shares, baseline=shares, slow=shares, requests=st.integers(1, 2_000), times=st.integers(1, 6))
    def intervals(self, canary: float, baseline: float, slow: float, requests: int, times: int) -> None:
        for _ in range(times):
            self.now_us += 15 * S
            self.count_and_tell("canary", requests, canary, slow, 0, self.deploy or "d1", 15.0)
            self.count_and_tell("baseline", 5 * requests, baseline, 0.004, 0, self.deploy or "d1", 15.0)

    def count_and_tell(
        self, arm: Any, requests: int, bad: float, slow: float, behind_s: int, deploy_id: str, window_s: float
    ) -> None:
        errors, late = min(requests, int(requests * bad)), min(requests, int(requests * slow))
        watched = self.state.status in {Status.WATCHING, Status.HOLD} and deploy_id == self.deploy
        if watched and arm == "canary":
            self.canary_bad += errors + late
        elif watched:
            self.baseline_requests += requests
            self.baseline_errors += errors
        self.tell(DeploySample(deploy_id, arm, requests, errors, late, window_s), behind_us=behind_s * S)

    @rule(canary=shares, requests=st.integers(1, 2_000), times=st.integers(1, 12))
    def intervals_alone(self, canary: float, requests: int, times: int) -> None:
        for _ in range(times):
            self.now_us += 15 * S
            self.count_and_tell("canary", requests, canary, 0.004, 0, self.deploy or "d1", 15.0)

    @rule(bad=shares, times=st.integers(1, 40))
    def between_deploys(self, bad: float, times: int) -> None:
        for _ in range(times):
            self.now_us += 60 * S
            self.count_and_tell("baseline", 1_000, bad, 0.004, 0, "before", 60.0)

    @rule(seconds=st.sampled_from([1, 15, 61, 300, 3_600, 600_000]))
    def wait(self, seconds: int) -> None:
        self.now_us += seconds * S

    @rule()
    def early_timeout(self) -> None:
        self.tell(Timeout())

    @precondition(lambda self: self.state.deadline_us is not None)
    @rule()
    def deadline(self) -> None:
        assert self.state.deadline_us is not None
        self.now_us = max(self.now_us, self.state.deadline_us)
        before = self.state.status
        after = self.tell(Timeout()).state
        assert after.deadline_us != self.now_us or after.status is not before, "a deadline that is met is gone"

    @rule(status=st.sampled_from(["firing", "resolved"]), key=st.sampled_from(["f1", "f2"]))
    def alert(self, status: Any, key: str) -> None:
        self.tell(Alert(key, status, "Critical", "Überlast"))

    @rule(deploy_id=deploy_ids, result=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def finish(self, deploy_id: str, result: Any) -> None:
        self.tell(DeployFinished(deploy_id, result))

    @rule(kind=st.sampled_from(["rollback", "hold_rollout"]), ok=st.booleans())
    def result(self, kind: str, ok: bool) -> None:
        self.tell(ActionResult("a", kind, ok))

    @rule(mode=st.sampled_from(["approve", "veto", "hold", "release", "force", "extra_budget"]))
    def override(self, mode: Any) -> None:
        before = self.state
        verdict = self.tell(OverrideGranted(mode=mode, until_us=self.now_us, by="ann", reason="because"))
        if mode == "veto" and before.status is Status.HOLD:
            assert verdict.state.status is Status.WATCHING
            self.canary_bad = 0

    @rule()
    def override_end(self) -> None:
        before = self.state
        self.tell(OverrideEnded())
        assert self.state == before

    @invariant()
    def the_ledger_can_keep_the_state(self) -> None:
        encoded = msgspec.msgpack.encode(self.state)
        assert msgspec.msgpack.decode(encoded, type=RollbackState) == self.state
        assert len(encoded) < 4_000

    @invariant()
    def effects_name_a_deploy_and_nothing_that_moves(self) -> None:
        effect = ROLLBACK_GUARD.effect(self.state, self.state.status, self.policy)
        if effect is not None:
            known = {"deploy_id", "revision", "to", "attempt", "cause", "kind", "namespace", "name"}
            assert effect.params.keys() <= known
            assert self.state.deploy is not None
            assert effect.params["revision"] == self.state.deploy.revision

    @invariant()
    def what_waits_has_a_deadline_and_ends_have_none(self) -> None:
        waits = self.state.status not in ENDS | {Status.IDLE}
        assert (self.state.deadline_us is not None) == waits


class CommonFaultMachine(RuleBasedStateMachine):
    """Both arms always fail alike, and badly: nothing may ever be rolled back for it."""

    def __init__(self) -> None:
        super().__init__()
        self.state: RollbackState = ROLLBACK_GUARD.initial()
        self.now_us = NOON_US
        self.tell(DeployStarted("d1", "r2", "r1"))

    def tell(self, body: EventBody) -> None:
        event = Event("e", self.now_us, body)
        self.state = step(TABLE, self.state, event, RollbackPolicy(), self.now_us).state
        assert self.state.status is not Status.ROLLING_BACK

    @rule(requests=st.integers(50, 2_000), ppm=st.sampled_from([0, 1_000, 50_000, 300_000, 1_000_000]))
    def interval(self, requests: int, ppm: int) -> None:
        self.now_us += 15 * S
        for arm, served in (("canary", requests), ("baseline", 9 * requests)):
            errors = served * ppm // 1_000_000
            assert share_ppm(served, errors) <= ppm
            self.tell(DeploySample("d1", arm, served, errors, errors, 15.0))  # type: ignore[arg-type]

    @precondition(lambda self: self.state.deadline_us is not None)
    @rule()
    def deadline(self) -> None:
        assert self.state.deadline_us is not None
        self.now_us = max(self.now_us, self.state.deadline_us)
        self.tell(Timeout())

    @rule(status=st.sampled_from(["firing", "resolved"]))
    def alert(self, status: Any) -> None:
        self.tell(Alert("f1", status, "critical", "HighErrorRate"))


arms = st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))


@given(
    intervals=st.lists(st.tuples(arms, st.one_of(arms, st.just((0, 0, 0)))), min_size=1, max_size=12),
    more=st.integers(1, 300),
    before=st.sampled_from([None, Before(10_000, 50, 20, 0.006, 0.003, 1.0), Before(9_000, 900, 0, 0.11, 0.001, 4.0)]),
    policy=st.sampled_from(POLICIES),
)
def test_more_errors_of_the_canary_never_make_the_finding_milder(
    intervals: list[tuple[tuple[int, int, int], tuple[int, int, int]]],
    more: int,
    before: Before | None,
    policy: RollbackPolicy,
) -> None:
    """A baseline that burns shields the deploy, whatever the canary shows: that is the one finding past which nothing
    grows.
    """

    def found(extra: int) -> Finding:
        evidence, pending = Evidence(weighed_us=NOON_US, before=before), Pending()
        for number, (canary, baseline) in enumerate(intervals, 1):
            now_us = NOON_US + number * 15 * S
            last = number == len(intervals)
            for arm, (requests, errors, slow) in (("canary", canary), ("baseline", baseline)):
                if arm == "baseline" and not requests:
                    continue
                counted = requests + 700 * (arm == "canary")
                failed = min(errors, requests) + extra * (last and arm == "canary")
                sample = DeploySample("d", arm, counted, min(failed, counted), min(slow, requests), 15.0)  # type: ignore[arg-type]
                pending = add_sample(pending, sample, now_us, now_us)
            evidence, pending, reading = weigh(evidence, pending, policy, now_us)
        return reading.finding

    order = list(Finding)
    assert order.index(found(0)) <= order.index(found(more))


TestRollbackGuard = RollbackGuardMachine.TestCase
TestRollbackGuard.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestCommonFault = CommonFaultMachine.TestCase
TestCommonFault.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
