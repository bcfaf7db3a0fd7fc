"""Every transition and every rule of the Rollback Guard, driven as the runtime drives it but without the overlays."""

from typing import Any

import msgspec
import pytest

from governors.fsm.table import Verdict, step
from governors.machines.events import ActionResult, Event, EventBody, OverrideEnded, OverrideGranted, Timeout
from governors.machines.explain import explain
from governors.machines.governor import ADMIT_ALL, Effect
from governors.machines.rollback_guard import ROLLBACK_GUARD, TABLE
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.rollback_state import RollbackState, Status
from ingest.signals import Alert, DeployFinished, DeploySample, DeployStarted, RollbackTarget

S = 1_000_000
NOON_US = 1_790_000_000 * S
RUNTIME = (Timeout, ActionResult, OverrideGranted, OverrideEnded)
TARGET = RollbackTarget("Deployment", "shop", "cart")


class Guard:
    """One machine and its clock, in seconds since noon."""

    def __init__(self, **policy: Any) -> None:
        self.policy = RollbackPolicy(**policy)
        self.state: RollbackState = ROLLBACK_GUARD.initial()
        self.now_s = 0
        self.last: Verdict[RollbackState]

    def tell(self, body: EventBody, *, observed_s: int | None = None) -> Verdict[RollbackState]:
        observed_us = NOON_US + (self.now_s if observed_s is None else observed_s) * S
        self.last = step(TABLE, self.state, Event("e", observed_us, body), self.policy, NOON_US + self.now_s * S)
        self.state = self.last.state
        text = explain(ROLLBACK_GUARD.rules, self.last.rule, self.last.evidence)
        assert text != self.last.rule, f"{self.last.rule} has no sentence for {self.last.evidence}"
        return self.last

    def deploy(self, deploy_id: str = "d1", revision: str = "r2", previous: str = "r1") -> Verdict[RollbackState]:
        return self.tell(DeployStarted(deploy_id, revision, previous, TARGET))

    def sample(
        self, arm: Any, requests: int, errors: int = 0, slow: int = 0, *, deploy_id: str = "d1", window_s: float = 15.0
    ) -> Verdict[RollbackState]:
        return self.tell(DeploySample(deploy_id, arm, requests, errors, slow, window_s))

    def interval(self, canary: tuple[int, int], baseline: tuple[int, int] = (1000, 5)) -> Verdict[RollbackState]:
        """15 s later both arms report: requests and errors."""
        self.now_s += 15
        self.sample("canary", *canary)
        return self.sample("baseline", *baseline)

    def intervals(self, count: int, canary: tuple[int, int], baseline: tuple[int, int] = (1000, 5)) -> None:
        for _ in range(count):
            self.interval(canary, baseline)

    def alert(
        self,
        status: Any = "firing",
        severity: str = "critical",
        fingerprint: str = "f1",
        *,
        observed_s: int | None = None,
    ) -> None:
        self.tell(Alert(fingerprint, status, severity, "HighErrorRate"), observed_s=observed_s)

    def at_deadline(self) -> Verdict[RollbackState]:
        assert self.state.deadline_us is not None
        self.now_s = max(self.now_s, (self.state.deadline_us - NOON_US) // S)
        return self.tell(Timeout())

    def result(self, *, ok: bool, kind: str = "rollback") -> Verdict[RollbackState]:
        return self.tell(ActionResult("a1", kind, ok))

    def override(self, mode: Any) -> Verdict[RollbackState]:
        return self.tell(OverrideGranted(mode=mode, until_us=NOON_US, by="ann", reason="because"))

    def status(self) -> Status:
        return self.state.status

    def effect(self) -> Effect | None:
        return ROLLBACK_GUARD.effect(self.state, self.status(), self.policy)

    def rolled_back(self, deploy_id: str = "d1", revision: str = "r2") -> "Guard":
        self.deploy(deploy_id, revision)
        self.now_s += 15
        self.sample("baseline", 1000, 5, deploy_id=deploy_id)
        self.sample("canary", 100, 60, deploy_id=deploy_id)
        assert self.status() is Status.ROLLING_BACK
        return self

    def verifying(self) -> "Guard":
        self.rolled_back()
        self.now_s += 20
        self.result(ok=True)
        return self

    def cooled(self, deploy_id: str, revision: str) -> None:
        """A whole rollback, through to the end of the cooldown."""
        self.rolled_back(deploy_id, revision)
        self.result(ok=True)
        self.now_s += 60
        self.sample("baseline", 1000, 5, deploy_id=deploy_id)
        self.at_deadline()
        assert self.at_deadline().state.status is Status.IDLE


def held_by_suspicion(**policy: Any) -> Guard:
    """A hold for evidence between the hold's odds and the rollback's."""
    guard = Guard(**policy)
    guard.deploy()
    guard.interval((100, 4), (1000, 4))
    assert (guard.status(), guard.last.rule) == (Status.HOLD, "rollback.suspect")
    return guard


# The table


def test_every_status_answers_every_event() -> None:
    events = (*ROLLBACK_GUARD.kinds, *RUNTIME)
    assert {(status, event) for status in Status for event in events} == TABLE.keys()


def test_every_row_may_stay_where_it_is() -> None:
    assert all(status in row.targets for (status, _), row in TABLE.items())


def test_every_status_can_be_reached() -> None:
    reached = {target for row in TABLE.values() for target in row.targets}
    assert reached == set(Status)


def test_every_status_has_a_severity_and_admits_all() -> None:
    assert ROLLBACK_GUARD.severity.keys() == set(Status)
    state = ROLLBACK_GUARD.initial()
    assert {ROLLBACK_GUARD.admit(state, status, RollbackPolicy()) for status in Status} == {ADMIT_ALL}


def test_a_call_for_a_person_never_lifts_a_hold() -> None:
    assert ROLLBACK_GUARD.severity[Status.ESCALATED] > ROLLBACK_GUARD.severity[Status.HOLD]


# Deploys


def test_a_deploy_is_watched_for_half_an_hour() -> None:
    guard = Guard()
    assert guard.deploy().decision == "watch"
    assert guard.status() is Status.WATCHING
    assert guard.state.deadline_us == NOON_US + 1800 * S
    assert guard.effect() is None


def test_a_new_deploy_supersedes_the_one_under_watch_and_its_evidence() -> None:
    guard = held_by_suspicion()
    assert guard.deploy("d2", "r3", "r1").rule == "rollback.supersedes"
    assert guard.status() is Status.WATCHING
    assert guard.state.evidence.canary.requests == 0


def test_the_same_deploy_announced_again_changes_nothing() -> None:
    guard = held_by_suspicion()
    before = guard.state
    assert guard.deploy().rule == "rollback.known_deploy"
    assert guard.state == before


def test_samples_of_another_deploy_do_not_count() -> None:
    guard = Guard()
    guard.deploy()
    before = guard.state
    assert guard.sample("canary", 100, 100, deploy_id="other").rule == "rollback.other_deploy"
    assert guard.state == before


def test_samples_without_a_deploy_do_not_count() -> None:
    guard = Guard()
    assert guard.sample("canary", 100, 100).rule == "rollback.unwatched_sample"
    assert guard.state == ROLLBACK_GUARD.initial()


def test_a_cancelled_deploy_ends_watch_and_hold() -> None:
    watching = Guard()
    watching.deploy()
    for guard in (watching, held_by_suspicion()):
        assert guard.tell(DeployFinished("d1", "cancelled")).rule == "rollback.cancelled"
        assert guard.status() is Status.IDLE
        assert guard.effect() is None


def test_a_deploy_that_failed_by_itself_is_inconclusive_and_somebody_is_told() -> None:
    guard = Guard()
    guard.deploy()
    guard.tell(DeployFinished("d1", "failed"))
    assert guard.status() is Status.INCONCLUSIVE
    assert guard.effect() == Effect("notify", {"deploy_id": "d1", "revision": "r2", "cause": "deploy_failed"})


def test_a_held_deploy_that_is_reported_failed_or_succeeded_stays_held() -> None:
    for result in ("failed", "succeeded"):
        guard = held_by_suspicion()
        guard.tell(DeployFinished("d1", result))
        assert guard.status() is Status.HOLD


def test_a_deploy_that_succeeded_is_watched_to_the_end() -> None:
    guard = Guard()
    guard.deploy()
    guard.interval((100, 0))
    guard.tell(DeployFinished("d1", "succeeded"))
    assert guard.status() is Status.WATCHING
    guard.interval((100, 60))
    assert guard.status() is Status.ROLLING_BACK


def test_the_end_of_another_deploy_is_ignored() -> None:
    guard = Guard()
    guard.deploy()
    assert guard.tell(DeployFinished("other", "cancelled")).rule == "rollback.other_deploy"
    assert guard.status() is Status.WATCHING


def test_a_deploy_with_nothing_else_to_go_back_to_waits_for_a_person() -> None:
    guard = Guard()
    guard.deploy("d1", "r2", "r2")
    guard.interval((100, 60))
    assert (guard.status(), guard.last.rule) == (Status.HOLD, "rollback.needs_approval")
    guard.interval((100, 60))
    guard.at_deadline()
    assert guard.status() is Status.ESCALATED


# Promotion and its absence


def test_a_watch_without_evidence_ends_promoted_but_unproven() -> None:
    guard = Guard()
    guard.deploy()
    guard.intervals(10, (100, 0))
    assert guard.at_deadline().rule == "rollback.unproven"
    assert guard.status() is Status.PROMOTED
    assert guard.state.deadline_us is None


def test_a_proven_deploy_is_promoted_early_but_not_at_once() -> None:
    guard = Guard()
    guard.deploy()
    while guard.status() is Status.WATCHING:
        guard.now_s += 15
        guard.sample("canary", 5000, 50, 50)
        guard.sample("baseline", 5000, 50, 50)
    assert guard.last.rule == "rollback.proven"
    assert guard.now_s == 600


def test_hardly_any_canary_traffic_is_inconclusive_never_a_rollback() -> None:
    guard = Guard()
    guard.deploy()
    guard.intervals(4, (12, 0))
    assert guard.at_deadline().rule == "rollback.no_traffic"
    assert guard.status() is Status.INCONCLUSIVE
    assert guard.effect() == Effect("hold_rollout", {"deploy_id": "d1", "revision": "r2"}), "paused"


def test_a_pause_for_want_of_traffic_ends_with_a_veto_or_a_new_deploy() -> None:
    for ends in ("veto", "deploy"):
        guard = Guard()
        guard.deploy()
        guard.at_deadline()
        assert guard.override("approve").state.status is Status.INCONCLUSIVE
        if ends == "veto":
            assert guard.override("veto").rule == "rollback.let_go"
            assert guard.status() is Status.PROMOTED
        else:
            guard.deploy("d2", "r3")
        assert guard.effect() is None


def test_a_rollout_that_is_out_already_is_not_paused_for_want_of_traffic() -> None:
    guard = Guard()
    guard.deploy()
    guard.tell(DeployFinished("d1", "succeeded"))
    guard.at_deadline()
    assert guard.effect() == Effect("notify", {"deploy_id": "d1", "revision": "r2", "cause": "no_traffic"})


def test_no_samples_at_all_are_inconclusive() -> None:
    guard = Guard()
    guard.deploy()
    assert guard.at_deadline().state.status is Status.INCONCLUSIVE


def test_what_is_pending_when_the_watch_ends_is_weighed() -> None:
    guard = Guard(watch_s=20)
    guard.deploy()
    guard.now_s = 10
    guard.sample("canary", 100, 60)
    guard.sample("baseline", 1000, 5)
    assert guard.status() is Status.WATCHING
    assert guard.at_deadline().rule == "rollback.errors"
    assert guard.status() is Status.ROLLING_BACK


def test_samples_are_due_from_the_first_one_to_the_end_of_the_deploy() -> None:
    guard = Guard()

    def period() -> int | None:
        return ROLLBACK_GUARD.expected_period_us(guard.state, guard.policy)

    assert period() is None
    guard.deploy()
    assert period() is None
    guard.interval((100, 0))
    assert period() == 30 * S
    guard.tell(DeployFinished("d1", "succeeded"))
    assert period() is None


def test_an_early_timeout_does_nothing() -> None:
    for guard in (held_by_suspicion(), Guard().rolled_back(), Guard().verifying()):
        before = guard.state
        assert guard.tell(Timeout()).rule == "rollback.not_due"
        assert guard.state == before


# Evidence


def test_a_canary_that_fails_far_more_is_rolled_back_in_two_intervals() -> None:
    guard = Guard()
    guard.deploy()
    guard.interval((75, 4), (675, 3))
    guard.interval((75, 4), (675, 3))
    assert (guard.status(), guard.last.decision) == (Status.ROLLING_BACK, "rollback")
    assert guard.effect() == Effect(
        "rollback",
        {
            "deploy_id": "d1",
            "revision": "r2",
            "to": "r1",
            "attempt": 1,
            "kind": "Deployment",
            "namespace": "shop",
            "name": "cart",
        },
    )


def test_a_slow_canary_is_rolled_back_although_nothing_fails() -> None:
    guard = Guard()
    guard.deploy()
    guard.now_s = 15
    guard.sample("baseline", 1000, 0, 10)
    guard.sample("canary", 100, 0, 30)
    assert (guard.status(), guard.last.rule) == (Status.ROLLING_BACK, "rollback.slow")


def test_a_suspected_canary_is_held() -> None:
    guard = held_by_suspicion()
    assert guard.effect() == Effect("hold_rollout", {"deploy_id": "d1", "revision": "r2"})
    assert ROLLBACK_GUARD.undo["hold_rollout"] == "resume_rollout"
    assert guard.state.deadline_us == NOON_US + (15 + 300) * S


def test_four_bad_requests_never_roll_back_however_unlikely() -> None:
    guard = Guard()
    guard.deploy()
    guard.interval((10, 4), (1_000_000, 0))
    assert guard.last.evidence["e_errors_milli_nats"] > guard.last.evidence["limit_errors_milli_nats"]  # type: ignore[operator]
    assert guard.status() is Status.HOLD
    guard.interval((10, 0), (10, 0))
    assert guard.at_deadline().rule == "rollback.hold_few_events"
    assert guard.status() is Status.ESCALATED


def test_a_fault_of_both_arms_is_held_but_not_blamed_on_the_deploy() -> None:
    guard = Guard()
    guard.deploy()
    guard.interval((100, 60), (1000, 600))
    assert (guard.status(), guard.last.rule) == (Status.HOLD, "rollback.both")
    guard.intervals(5, (100, 90), (1000, 400))
    assert guard.status() is Status.HOLD
    assert guard.at_deadline().rule == "rollback.hold_both"
    assert guard.status() is Status.ESCALATED
    assert guard.effect() == Effect("page", {"deploy_id": "d1", "revision": "r2", "cause": "not_the_deploy"})


def test_a_burning_canary_is_rolled_back_at_the_odds_of_a_hold() -> None:
    guard = Guard()
    guard.deploy()
    guard.interval((400, 18), (200, 1))
    assert guard.last.rule == "rollback.burn"
    assert guard.last.evidence["e_errors_milli_nats"] < guard.last.evidence["limit_errors_milli_nats"]  # type: ignore[operator]
    assert guard.status() is Status.ROLLING_BACK


def test_burning_alone_only_holds() -> None:
    guard = Guard()
    guard.deploy()
    guard.interval((400, 18), (60, 1))
    assert (guard.status(), guard.last.rule) == (Status.HOLD, "rollback.burning")


def test_a_burning_canary_without_a_baseline_is_held_and_a_person_called() -> None:
    guard = Guard()
    guard.deploy()
    for _ in range(8):
        guard.now_s += 15
        guard.sample("canary", 100, 50)
    assert (guard.status(), guard.state.cause) == (Status.HOLD, "no_baseline")
    assert guard.at_deadline().rule == "rollback.hold_unheard"
    assert guard.status() is Status.ESCALATED


def test_the_policy_may_take_the_risk_of_rolling_back_without_a_baseline() -> None:
    guard = Guard(unpaired="rollback")
    guard.deploy()
    for _ in range(8):
        guard.now_s += 15
        guard.sample("canary", 100, 50)
    assert guard.status() is Status.HOLD
    assert guard.at_deadline().rule == "rollback.hold_unpaired"
    assert guard.status() is Status.ROLLING_BACK


def test_a_quiet_canary_without_a_baseline_is_promoted_unproven() -> None:
    guard = Guard()
    guard.deploy()
    for _ in range(8):
        guard.now_s += 15
        guard.sample("canary", 100, 0)
    assert guard.at_deadline().rule == "rollback.unproven"


# The hold


def test_a_hold_whose_evidence_grows_rolls_back_before_its_time() -> None:
    guard = held_by_suspicion()
    guard.interval((100, 10))
    assert guard.status() is Status.ROLLING_BACK


def test_a_hold_whose_evidence_fades_resumes_the_watch_until_its_own_end() -> None:
    guard = held_by_suspicion()
    while guard.status() is Status.HOLD:
        guard.interval((100, 0))
    assert (guard.status(), guard.last.rule) == (Status.WATCHING, "rollback.faded")
    assert guard.state.deadline_us == NOON_US + 1800 * S


def test_a_hold_that_nobody_vetoes_acts_while_its_evidence_stands() -> None:
    guard = held_by_suspicion()
    guard.interval((100, 1), (1000, 4))
    assert guard.status() is Status.HOLD
    guard.at_deadline()
    assert (guard.status(), guard.last.rule) == (Status.ROLLING_BACK, "rollback.hold_elapsed")


def test_a_hold_does_not_act_on_what_was_seen_before_everything_fell_silent() -> None:
    guard = held_by_suspicion(bad_events_min=3)
    assert guard.at_deadline().rule == "rollback.hold_unheard"
    assert guard.status() is Status.ESCALATED


def test_a_hold_whose_evidence_weakened_resumes_at_its_end() -> None:
    guard = held_by_suspicion()
    guard.interval((100, 0), (1000, 4))
    guard.interval((100, 0), (1000, 4))
    assert guard.status() is Status.HOLD
    assert guard.at_deadline().rule == "rollback.hold_gone"
    assert guard.status() is Status.WATCHING


def test_approval_rolls_back_now() -> None:
    guard = held_by_suspicion()
    assert guard.override("approve").decision == "rollback"
    assert guard.status() is Status.ROLLING_BACK


def test_a_veto_spends_the_evidence_and_new_evidence_holds_again() -> None:
    guard = held_by_suspicion()
    assert guard.override("veto").rule == "rollback.vetoed"
    guard.interval((100, 1))
    assert guard.status() is Status.WATCHING
    guard.interval((100, 60))
    assert guard.status() is Status.ROLLING_BACK


def test_a_veto_does_not_make_the_traffic_before_it_unseen() -> None:
    guard = held_by_suspicion()
    guard.override("veto")
    guard.at_deadline()
    assert guard.status() is Status.PROMOTED


def test_other_overrides_change_nothing() -> None:
    for mode in ("hold", "release", "force", "extra_budget"):
        guard = held_by_suspicion()
        before = guard.state
        guard.override(mode)
        guard.tell(OverrideEnded())
        assert guard.state == before


def test_approve_and_veto_need_a_hold() -> None:
    guard = Guard()
    guard.deploy()
    guard.override("approve")
    assert guard.status() is Status.WATCHING
    idle = Guard()
    idle.override("approve")
    assert idle.status() is Status.IDLE


# Alerts


def test_a_critical_alert_holds_and_its_resolution_resumes() -> None:
    guard = Guard()
    guard.deploy()
    guard.alert()
    assert (guard.status(), guard.last.decision) == (Status.HOLD, "hold")
    guard.alert("resolved")
    assert (guard.status(), guard.last.rule) == (Status.WATCHING, "rollback.alert_resolved")


def test_an_alert_alone_never_rolls_back() -> None:
    guard = Guard()
    guard.deploy()
    guard.alert()
    guard.intervals(3, (100, 0))
    assert guard.at_deadline().rule == "rollback.hold_alert"
    assert guard.status() is Status.ESCALATED


def test_an_alert_that_fired_before_the_deploy_is_not_its_doing() -> None:
    guard = Guard()
    guard.alert()
    guard.deploy()
    guard.alert()
    assert guard.status() is Status.WATCHING
    guard.alert("resolved")
    guard.alert()
    assert guard.status() is Status.HOLD


def test_an_alert_last_heard_of_a_day_ago_counts_as_new() -> None:
    guard = Guard()
    guard.alert()
    guard.now_s += 86_400
    guard.deploy()
    guard.alert()
    assert guard.status() is Status.HOLD


def test_a_vetoed_alert_does_not_hold_again_while_it_fires() -> None:
    guard = Guard()
    guard.deploy()
    guard.alert()
    guard.override("veto")
    guard.alert()
    assert guard.status() is Status.WATCHING
    guard.alert(fingerprint="f2")
    assert guard.status() is Status.HOLD


def test_alerts_of_lesser_severity_or_by_policy_do_not_hold() -> None:
    guard = Guard()
    guard.deploy()
    guard.alert(severity="warning")
    assert guard.status() is Status.WATCHING
    deaf = Guard(hold_on_alert=False)
    deaf.deploy()
    deaf.alert()
    assert deaf.status() is Status.WATCHING


def test_evidence_that_joins_an_alert_gives_people_the_whole_hold_to_veto() -> None:
    guard = Guard()
    guard.deploy()
    guard.alert()
    guard.now_s += 270
    guard.interval((100, 4), (1000, 4))
    assert guard.state.cause == "canary_worse"
    assert guard.state.deadline_us == NOON_US + (285 + 300) * S


def test_evidence_that_fades_leaves_a_hold_to_the_alerts_that_fire() -> None:
    guard = held_by_suspicion()
    guard.alert()
    guard.intervals(8, (100, 0))
    assert (guard.status(), guard.state.cause) == (Status.HOLD, "alert")
    guard.alert("resolved")
    assert guard.status() is Status.WATCHING


@pytest.mark.parametrize("is_watched", [False, True])
def test_an_alert_that_was_overtaken_by_its_end_does_not_fire_on_for_ever(is_watched: bool) -> None:
    guard = Guard()
    guard.alert("resolved", observed_s=60)
    if is_watched:
        guard.deploy()
    before = guard.status()
    guard.alert("firing", observed_s=30)
    assert guard.last.rule == "rollback.alert_late"
    assert not guard.state.known_alerts | guard.state.blamed_alerts
    assert guard.status() is before
    guard.alert("firing", fingerprint="f2", observed_s=30)
    assert guard.last.rule != "rollback.alert_late", "another alert has a time of its own"


def test_an_end_that_came_after_the_alert_fired_again_does_not_end_it() -> None:
    guard = Guard()
    guard.deploy()
    guard.alert("firing", observed_s=90)
    guard.alert("resolved", observed_s=60)
    assert (guard.status(), guard.last.rule) == (Status.HOLD, "rollback.alert_late")
    guard.alert("resolved", observed_s=90)
    assert guard.status() is Status.WATCHING


def test_the_number_of_remembered_alerts_is_bounded() -> None:
    guard = Guard()
    for index in range(100):
        guard.alert("resolved", fingerprint=f"f{index:03}")
        guard.alert(fingerprint=f"f{index:03}")
        guard.now_s += 1
    assert len(guard.state.known_alerts) == len(guard.state.resolved_alerts) == 32
    assert "f099" in guard.state.known_alerts


# The rollback


def test_a_rollback_that_is_done_is_verified() -> None:
    guard = Guard().rolled_back()
    assert guard.result(ok=True).decision == "verify"
    assert guard.status() is Status.VERIFYING
    assert guard.state.deadline_us == NOON_US + (15 + 300) * S


def test_a_failed_rollback_is_retried_once_and_then_a_person_is_called() -> None:
    guard = Guard().rolled_back()
    first = guard.effect()
    assert guard.result(ok=False).decision == "retry"
    retry = guard.effect()
    assert retry is not None
    assert retry != first
    assert retry.params["attempt"] == 2
    guard.result(ok=False)
    assert guard.status() is Status.ESCALATED
    assert guard.effect() == Effect("page", {"deploy_id": "d1", "revision": "r2", "cause": "rollback_failed"})


def test_a_rollback_that_is_not_heard_of_is_retried_and_then_a_person_is_called() -> None:
    guard = Guard().rolled_back()
    assert guard.at_deadline().decision == "retry"
    assert guard.state.deadline_us == NOON_US + (15 + 1200) * S
    assert guard.at_deadline().decision == "escalate"


def test_the_late_failure_of_the_attempt_given_up_does_not_use_up_the_retry() -> None:
    guard = Guard().rolled_back()
    guard.at_deadline()
    assert guard.result(ok=False).rule == "rollback.late_failure"
    assert guard.status() is Status.ROLLING_BACK
    assert guard.result(ok=False).decision == "escalate"


def test_a_rollback_that_was_taken_back_has_not_failed() -> None:
    """As under an emergency stop: it is asked for again once it may be, and no attempt of the two is used up."""
    guard = Guard().rolled_back()
    first = guard.effect()
    for _ in range(3):
        assert (
            guard.tell(ActionResult("a1", "rollback", ok=False, ended="withdrawn")).rule == "rollback.withheld_result"
        )
    assert guard.effect() == first
    assert guard.result(ok=False).decision == "retry"


def test_the_time_of_a_retry_begins_when_the_attempt_before_it_was_taken_back() -> None:
    guard = Guard().rolled_back()
    guard.at_deadline()
    taken_back = guard.tell(ActionResult("a1", "rollback", ok=False, ended="withdrawn"))
    assert taken_back.rule == "rollback.late_failure"
    assert guard.result(ok=False).decision == "escalate"


def test_the_result_of_another_action_is_not_the_rollbacks() -> None:
    guard = Guard().rolled_back()
    guard.result(ok=True, kind="hold_rollout")
    assert guard.status() is Status.ROLLING_BACK


def test_a_rollback_forced_by_an_operator_is_verified_too() -> None:
    guard = Guard()
    guard.deploy()
    forced = ROLLBACK_GUARD.effect(guard.state, Status.ROLLING_BACK, guard.policy)
    assert forced is not None
    assert forced.params["attempt"] == 1
    guard.result(ok=False)
    assert guard.status() is Status.WATCHING
    guard.result(ok=True)
    assert (guard.status(), len(guard.state.rollbacks)) == (Status.VERIFYING, 1)


def test_nothing_can_be_forced_without_a_deploy() -> None:
    effects = {status: ROLLBACK_GUARD.effect(RollbackState(), status, RollbackPolicy()) for status in Status}
    assert {status for status, effect in effects.items() if effect is not None} == {Status.ESCALATED}


def test_the_rollback_itself_is_not_watched_as_a_deploy() -> None:
    rolling, verifying = Guard().rolled_back(), Guard().verifying()
    for guard in (rolling, verifying):
        before = guard.state
        assert guard.deploy("d2", "r1", "r2").rule == "rollback.own_rollback"
        assert guard.state == before


def test_a_third_revision_during_a_rollback_calls_a_person() -> None:
    guard = Guard().rolled_back()
    guard.deploy("d2", "r3", "r2")
    assert (guard.status(), guard.state.cause) == (Status.ESCALATED, "deploy_during_rollback")


def test_the_revision_being_rolled_back_is_refused() -> None:
    guard = Guard().rolled_back()
    assert guard.deploy("d2", "r2", "r1").decision == "refuse"
    assert guard.status() is Status.ROLLING_BACK


# Verification and cooldown


def test_a_rollback_that_helped_ends_in_the_cooldown() -> None:
    guard = Guard().verifying()
    guard.now_s += 60
    guard.sample("baseline", 1000, 5)
    assert guard.at_deadline().rule == "rollback.verified"
    assert guard.status() is Status.COOLDOWN
    assert guard.effect() is None


def test_a_rollback_that_did_not_help_calls_a_person() -> None:
    guard = Guard().verifying()
    guard.now_s += 60
    guard.sample("baseline", 1000, 300)
    assert guard.at_deadline().rule == "rollback.not_verified"
    assert guard.status() is Status.ESCALATED


def test_slow_requests_after_a_rollback_did_not_help_either() -> None:
    guard = Guard().verifying()
    guard.now_s += 60
    guard.sample("baseline", 1000, 5, 300)
    assert guard.at_deadline().rule == "rollback.not_verified"


def test_unknown_is_not_success() -> None:
    guard = Guard().verifying()
    guard.now_s += 60
    guard.sample("baseline", 49, 0)
    assert guard.at_deadline().rule == "rollback.verify_unknown"
    assert guard.status() is Status.ESCALATED


def test_requests_from_before_the_rollback_settled_do_not_count() -> None:
    guard = Guard().verifying()
    guard.now_s += 40
    assert guard.sample("canary", 1000, 900).rule == "rollback.verify_too_early"
    guard.now_s += 5
    assert guard.sample("canary", 1000, 4).rule == "rollback.verify_sample"


def test_a_fix_may_come_before_the_rollback_is_verified_and_the_bad_revision_stays_refused() -> None:
    guard = Guard().verifying()
    guard.deploy("d2", "r3", "r1")
    assert guard.status() is Status.WATCHING
    assert guard.deploy("d3", "r2", "r1").decision == "refuse"
    assert guard.status() is Status.WATCHING


def test_the_cooldown_refuses_the_revision_and_watches_any_other() -> None:
    guard = Guard().verifying()
    guard.now_s += 60
    guard.sample("baseline", 1000, 5)
    guard.at_deadline()
    assert guard.deploy("d2", "r2", "r1").decision == "refuse"
    assert guard.status() is Status.COOLDOWN
    guard.deploy("d3", "r3", "r1")
    assert guard.status() is Status.WATCHING


def test_after_the_cooldown_the_revision_may_be_tried_again() -> None:
    guard = Guard()
    guard.cooled("d1", "r2")
    assert guard.deploy("d2", "r2", "r1").decision == "watch"


def test_the_fourth_rollback_in_a_day_waits_for_approval() -> None:
    guard = Guard()
    for index in range(3):
        guard.cooled(f"d{index}", f"bad{index}")
    guard.deploy("d9", "bad9")
    guard.now_s += 15
    guard.sample("baseline", 1000, 5, deploy_id="d9")
    guard.sample("canary", 100, 60, deploy_id="d9")
    assert (guard.status(), guard.last.rule) == (Status.HOLD, "rollback.needs_approval")
    unanswered = guard.state
    guard.override("approve")
    assert guard.status() is Status.ROLLING_BACK
    guard.state = unanswered
    guard.now_s += 15
    guard.sample("baseline", 1000, 5, deploy_id="d9")
    guard.sample("canary", 100, 60, deploy_id="d9")
    assert guard.at_deadline().rule == "rollback.hold_manual"
    assert guard.status() is Status.ESCALATED


def test_a_day_later_the_guard_rolls_back_by_itself_again() -> None:
    guard = Guard()
    for index in range(3):
        guard.cooled(f"d{index}", f"bad{index}")
    guard.now_s += 86_400
    guard.rolled_back("d9", "bad9")
    assert len(guard.state.rollbacks) == 1


@pytest.mark.parametrize("result", ["succeeded", "failed", "cancelled"])
def test_past_the_watch_the_deploy_systems_word_changes_nothing(result: Any) -> None:
    for guard in (Guard().rolled_back(), Guard().verifying()):
        before = guard.state
        guard.tell(DeployFinished("d1", result))
        assert guard.state == before


# Policy and state


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerated_ratio_milli": 2_000},
        {"proven_ratio_milli": 1_100},
        {"alpha_errors_ppm": 200_000},
        {"watch_s": 7_200},
        {"unpaired": "guess"},
        {"hold_seconds": 5},
    ],
)
def test_an_impossible_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, RollbackPolicy)


def test_the_state_stays_small_however_long_the_watch() -> None:
    guard = Guard()
    guard.deploy()
    guard.intervals(110, (100, 1), (1000, 9))
    assert guard.status() is Status.WATCHING
    assert len(msgspec.msgpack.encode(guard.state)) < 1_000
