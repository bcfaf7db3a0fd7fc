"""The Backlog Valve by its sentences: one for each rule and each way from status to status.

Unless a test says otherwise: waits are too long from 6 s on, an interval is 30 s, samples come every 10 s.
"""

import msgspec
import pytest
from support.valve import SECOND_US, START_US, Valve, transitions

from governors.fsm.table import step
from governors.machines.backlog_valve import BACKLOG_VALVE, TABLE
from governors.machines.events import ActionResult, CoreEvent, Event, OverrideEnded, OverrideGranted, Timeout
from governors.machines.explain import explain
from governors.machines.governor import ADMIT_ALL, AdmitRule, Effect
from governors.machines.valve_policy import ValvePolicy
from governors.machines.valve_rules import RULES
from governors.machines.valve_state import ValveStatus
from ingest.signals import QueueSample, WorkDone

OPEN, SHEDDING, DRAINING, PROBING = ValveStatus
EVENTS = {QueueSample, WorkDone, *CoreEvent.__args__}


def shedding(**policy: object) -> Valve:
    """Capacity 100/s, 5,000 messages, shed after 30 s of long waits."""
    valve = Valve(**policy)
    valve.samples(3, 10, 0.5, 50, 50)
    valve.samples(4, 5000, 20, 200, 100)
    assert valve.status is SHEDDING
    return valve


def closed() -> Valve:
    """Capacity 100/s, 100,000 messages: more than can be drained in five minutes."""
    valve = Valve()
    valve.samples(3, 10, 0.5, 50, 50)
    valve.samples(4, 100_000, 50, 2000, 100)
    assert valve.status is DRAINING
    return valve


def probing() -> Valve:
    """A closed valve whose queue has emptied."""
    valve = closed()
    while valve.status is DRAINING:
        valve.sample(0, 0)
    assert valve.status is PROBING
    return valve


# The table


def test_every_status_answers_every_event() -> None:
    assert {(status, kind) for status in ValveStatus for kind in EVENTS} == TABLE.keys()


def test_open_is_reached_from_probing_alone() -> None:
    assert {status for (status, _), row in TABLE.items() if OPEN in row.targets and status is not OPEN} == {PROBING}


def test_a_closed_valve_is_left_through_probing_alone() -> None:
    leaving = {target for (status, _), row in TABLE.items() if status is DRAINING for target in row.targets}
    assert leaving == {DRAINING, PROBING}


def test_only_samples_and_finished_work_move_the_valve() -> None:
    for (status, kind), row in TABLE.items():
        if kind not in (QueueSample, WorkDone):
            assert row.targets == {status}


@pytest.mark.parametrize(
    "body",
    [
        OverrideGranted(mode="hold", until_us=START_US + 1, by="ann", reason="why"),
        OverrideEnded(),
        ActionResult(action_id="a", kind="shed", ok=False),
    ],
)
def test_overrides_and_results_leave_the_state_as_it_was(body: CoreEvent) -> None:
    for valve in (Valve(), shedding(), closed(), probing()):
        before = valve.state
        assert valve.tell(body).decision == "none"
        assert valve.state == before


def test_severity_release_and_undo_speak_of_every_status() -> None:
    assert BACKLOG_VALVE.severity.keys() == set(ValveStatus)
    assert dict(BACKLOG_VALVE.released) == dict.fromkeys(ValveStatus, OPEN)
    assert set(BACKLOG_VALVE.undo.values()) == {"reopen"}


# Detecting


def test_short_waits_leave_the_valve_open() -> None:
    valve = Valve()
    valve.samples(20, 500, 5.9, 100, 100)
    assert valve.status is OPEN
    assert set(valve.rules) == {"flowing"}


def test_a_wait_at_the_target_for_a_whole_interval_sheds() -> None:
    valve = Valve()
    valve.samples(4, 700, 6.0, 120, 100)
    assert valve.status is SHEDDING
    assert valve.rules == ["standing", "standing", "standing", "shed_rate"]


def test_one_short_wait_within_the_interval_begins_it_anew() -> None:
    valve = Valve()
    for _ in range(5):
        valve.samples(3, 5000, 40, 200, 100)
        valve.sample(400, 5.9, 200, 100)
    assert valve.status is OPEN


def test_an_interval_with_too_few_samples_is_not_judged() -> None:
    valve = Valve()
    valve.sample(5000, 40, 200, 100)
    assert valve.sample(5000, 70, 200, 100, after_s=60).rule == "valve.standing"
    assert valve.sample(5000, 71, 200, 100, after_s=1).decision == "shed"


def test_an_empty_queue_has_no_age_whatever_its_sender_says() -> None:
    valve = Valve()
    valve.samples(10, 0, 4000, 0, 0)
    assert valve.status is OPEN


def test_samples_that_come_late_still_tell_how_long_the_wait_lasted() -> None:
    valve = Valve()
    valve.wait(600)
    for ago_s in (40, 30, 20, 10):
        valve.tell(QueueSample(5000, 40, 200, 100), observed_us=valve.now_us - ago_s * SECOND_US)
    assert valve.status is SHEDDING


def test_a_sender_ahead_of_our_clock_cannot_make_an_interval_pass() -> None:
    valve = Valve()
    for ahead_s in (0, 60, 120, 180):
        valve.tell(QueueSample(5000, 40, 200, 100), observed_us=valve.now_us + ahead_s * SECOND_US)
    assert valve.status is OPEN


def test_a_heap_of_late_samples_cannot_rush_the_valve_through_its_statuses() -> None:
    valve = Valve()
    valve.wait(7200)
    late_us = [valve.now_us - ago_s * SECOND_US for ago_s in range(3600, 0, -10)]
    for index, observed_us in enumerate(late_us):
        sample = QueueSample(5000, 40, 200, 100) if index < 20 else QueueSample(0, 0, 10, 10)
        valve.tell(sample, observed_us=observed_us)
    assert transitions(valve) == [OPEN, SHEDDING]


def test_finished_work_shows_the_wait_by_its_smallest_sojourn() -> None:
    valve = Valve(profile="rpc")
    assert valve.work(19).rule == "valve.flowing"
    assert valve.work(20, window_s=0.5).rule == "valve.standing"
    assert valve.work(20, window_s=0.5).decision == "shed"


def test_finished_work_within_the_target_shows_that_an_old_message_is_alone() -> None:
    valve = Valve()
    for _ in range(10):
        valve.samples(2, 3, 4000, 50, 50)
        valve.work(200, window_s=10)
    assert valve.status is OPEN


def test_no_finished_work_measures_nothing() -> None:
    valve = Valve(profile="rpc")
    before = valve.state
    assert valve.work(5000, count=0).rule == "valve.no_work_done"
    assert valve.state == before


# Shedding with rates


def test_the_first_limit_is_capacity_less_what_the_backlog_needs() -> None:
    valve = shedding(drain_s=300)
    evidence = valve.verdicts[-1].evidence
    # As soon as a fifth of capacity for critical work allows, planned a sample before it is promised.
    assert evidence["done_rate_milli_per_s"] == pytest.approx(100_000, abs=1)
    assert evidence["drain_ms"] == pytest.approx(5000 / 80 * 1000 + 10_000, rel=0.01)
    assert evidence["admit_rate_milli_per_s"] == pytest.approx(20_000, rel=0.01)
    assert valve.effect == Effect("shed", {"rate_milli_per_s": evidence["admit_rate_milli_per_s"]})


def test_a_short_backlog_is_drained_in_two_intervals() -> None:
    valve = Valve()
    valve.samples(3, 10, 0.5, 50, 50)
    valve.samples(4, 1500, 15, 200, 100)
    assert valve.verdicts[-1].evidence["drain_ms"] == 60_000


def test_the_first_limit_takes_the_longest_time_where_the_reserve_would_not_be_left() -> None:
    valve = Valve(drain_s=300)
    valve.samples(3, 10, 0.5, 50, 50)
    valve.samples(4, 24_000, 40, 200, 100)
    evidence = valve.verdicts[-1].evidence
    assert evidence["drain_ms"] == 300_000
    assert 10_000 < int(evidence["admit_rate_milli_per_s"]) < 20_000


def test_admission_follows_each_sample_while_the_limit_stays() -> None:
    valve = shedding()
    limit = valve.effect
    paces = [valve.admits.rate_milli_per_s]
    for depth in (4000, 3500, 3400):
        valve.sample(depth, 30, 20, 100)
        paces.append(valve.admits.rate_milli_per_s)
        left_s = (int(valve.state.control.due_us) - valve.now_us) / SECOND_US - 10
        pace = 100 - (depth - (valve.state.control.high_depth - 3 * 31)) / left_s
        assert paces[-1] == pytest.approx(pace * 1000, rel=0.02, abs=500) or valve.rules[-1] == "adjust_rate"
    assert len(set(paces)) == 4
    assert valve.verdicts[-2].state.control.limit_milli == limit.params["rate_milli_per_s"]


def test_while_work_is_held_back_as_much_stands_as_chance_makes_of_it() -> None:
    valve = shedding()
    valve.samples(3, 100, 1, 100, 100)
    assert valve.verdicts[-3].rule == "valve.drained"
    chance = 31  # the square root of a thousand messages between two samples
    for depth, pace in ((chance, 100.0), (chance + 60, 100 - 60 / 15), (0, 100 + chance / 15)):
        valve.sample(depth, 1, 100, 100)
        assert valve.admits.rate_milli_per_s == pytest.approx(pace * 1000, rel=0.01)


def test_the_limit_stays_between_two_intervals() -> None:
    valve = shedding()
    valve.samples(2, 9000, 60, 100, 100)
    assert valve.rules[-2:] == ["shedding", "shedding"]


def test_a_queue_behind_its_plan_tightens_the_limit() -> None:
    valve = shedding()
    before = valve.state.control.limit_milli
    valve.samples(3, 6000, 60, 80, 100)
    assert valve.verdicts[-1].rule == "valve.adjust_rate"
    assert valve.state.control.limit_milli < before


def test_a_queue_ahead_of_its_plan_loosens_a_limit_that_is_used() -> None:
    valve = shedding()
    before = valve.state.control.limit_milli
    valve.samples(6, 1000, 10, 80, 100)
    assert valve.state.control.limit_milli > before
    assert valve.decisions[-1] == "adjust"


def test_a_limit_that_is_not_half_used_is_not_raised() -> None:
    valve = shedding()
    valve.samples(15, 4900, 49, 2, 100)
    before = valve.state.control.limit_milli
    valve.samples(6, 1000, 10, 2, 100)
    assert valve.state.control.limit_milli == before
    assert valve.rules[-1] == "limit_unused"


def test_a_step_under_the_smallest_leaves_the_limit() -> None:
    valve = shedding(limit_step_ppm=1_000_000)
    before = valve.state.control.limit_milli
    valve.samples(6, 4500, 40, 80, 100)
    assert valve.state.control.limit_milli == before


def test_the_trim_stops_at_its_bound() -> None:
    valve = shedding(trim_max_ppm=50_000)
    trims = []
    for _ in range(18):
        verdict = valve.sample(9000, 50, 80, 100)
        trims.append(int(verdict.evidence.get("trim_ppm", 0)))
    assert min(trims) == -50_000


def test_shedding_turns_into_closing_when_time_runs_out() -> None:
    valve = shedding()
    valve.samples(6, 9000, 90, 100, 100)
    assert valve.status is SHEDDING
    valve.timeout()
    valve.samples(3, 9000, 90, 100, 100)
    assert transitions(valve) == [OPEN, SHEDDING, DRAINING]
    assert valve.decisions[-1] == "close"


def test_a_promise_that_slips_is_not_mended_by_closing_until_it_is_missed() -> None:
    valve = shedding()
    valve.samples(8, 5000, 50, 20, 20)
    assert valve.status is SHEDDING
    assert valve.admits.rate_milli_per_s == pytest.approx(0.05 * valve.state.sensor.done_milli, rel=0.01)


def test_consumers_that_leave_while_shedding_make_for_another_promise() -> None:
    valve = shedding()
    valve.samples(3, 100, 1, 100, 100)
    assert BACKLOG_VALVE.deadline(valve.state, valve.policy) is None
    while valve.rules[-1] != "promise_again":
        valve.sample(1500, 30, 60, 50)
    verdict = valve.verdicts[-1]
    assert (verdict.decision, verdict.state.status) == ("adjust", SHEDDING)
    assert valve.state.control.due_us == valve.now_us + int(verdict.evidence["drain_ms"]) * 1000
    assert int(verdict.evidence["admit_rate_milli_per_s"]) < 50_000


def test_the_limit_never_falls_under_the_floor() -> None:
    valve = shedding(floor_ppm=500_000)
    valve.samples(6, 12_000, 90, 100, 100)
    assert valve.status is SHEDDING
    assert valve.state.control.limit_milli == pytest.approx(50_000, rel=0.02)


def test_capacity_is_not_learned_from_a_limit_that_nothing_stands_behind() -> None:
    valve = shedding()
    before = valve.state.sensor.done_milli
    valve.samples(6, 0, 0, 40, 40)
    assert valve.status is SHEDDING
    assert valve.state.sensor.done_milli == before


def test_capacity_follows_a_standing_queue_down_and_anything_up() -> None:
    valve = shedding()
    valve.samples(6, 5000, 60, 60, 60)
    assert valve.state.sensor.done_milli < 70_000
    valve.samples(6, 100, 1, 150, 150)
    assert valve.state.sensor.done_milli > 130_000


def test_high_water_is_that_of_good_times_when_consumers_died() -> None:
    valve = Valve()
    valve.samples(10, 10, 0.5, 100, 100)
    valve.samples(4, 4000, 40, 100, 0)
    assert valve.state.control.high_depth == 100 * 6


def test_high_water_stays_while_restricted() -> None:
    valve = shedding()
    before = valve.state.control.high_depth
    valve.samples(30, 9000, 90, 500, 400)
    assert valve.state.control.high_depth == before


# Shedding without rates


def test_without_rates_each_bad_interval_takes_a_twentieth() -> None:
    valve = Valve()
    valve.samples(4, 5000, 40)
    assert valve.verdicts[-1].rule == "valve.shed_share"
    shares = [valve.effect.params["fraction_ppm"]]
    for _ in range(3):
        valve.samples(3, 5000, 40)
        shares.append(valve.effect.params["fraction_ppm"])
    assert shares == [950_000, 902_500, 857_375, 814_507]


def test_without_rates_the_share_stops_at_the_floor() -> None:
    valve = Valve()
    valve.samples(4 + 3 * 100, 5000, 40)
    assert valve.effect == Effect("shed", {"fraction_ppm": 50_000})
    assert valve.status is SHEDDING


def test_without_rates_a_backlog_that_falls_in_time_takes_no_more() -> None:
    valve = Valve()
    valve.samples(4, 5000, 40)
    for depth in (4400, 3900, 3500):
        valve.samples(3, depth, 30)
    assert valve.effect == Effect("shed", {"fraction_ppm": 950_000})


def test_without_rates_each_good_interval_gives_a_hundredth_back() -> None:
    valve = Valve()
    valve.samples(4 + 9, 5000, 40)
    before = valve.effect.params["fraction_ppm"]
    for times in (1, 2, 3):
        valve.samples(3, 5000, 4)
        assert valve.effect.params["fraction_ppm"] == before + times * 10_000


def test_what_was_loosened_is_tightened_two_intervals_later_at_the_soonest() -> None:
    valve = Valve()
    valve.samples(4 + 9, 5000, 40)
    valve.samples(3, 5000, 4)
    loosened = valve.effect.params["fraction_ppm"]
    valve.samples(3, 5000, 40)
    assert valve.effect.params["fraction_ppm"] == loosened
    valve.samples(3, 5000, 40)
    assert valve.effect.params["fraction_ppm"] < loosened


def test_without_rates_probing_starts_where_shedding_stood() -> None:
    valve = Valve()
    valve.samples(4, 5000, 40)
    while valve.status is SHEDDING:
        valve.sample(0, 0)
    assert valve.status is PROBING
    assert valve.state.control.probe_ppm >= 950_000


def test_finished_work_alone_sheds_and_reopens() -> None:
    valve = Valve(profile="rpc")
    for _ in range(5):
        valve.work(50)
    assert valve.status is SHEDDING
    for _ in range(30):
        valve.work(2)
    assert transitions(valve) == [OPEN, SHEDDING, PROBING, OPEN]


# Draining and the promise


def test_a_backlog_too_large_for_the_drain_time_closes_the_valve() -> None:
    valve = closed()
    verdict = valve.verdicts[-1]
    assert verdict.rule == "valve.close"
    capacity = int(verdict.evidence["done_rate_milli_per_s"]) / 1000
    assert int(verdict.evidence["drain_ms"]) / 1000 == pytest.approx(100_000 / capacity, rel=0.01)
    assert valve.effect == Effect("close")
    assert valve.admits == AdmitRule(critical_only=True)


def test_a_promise_that_is_kept_says_how_long_it_took() -> None:
    valve = closed()
    valve.samples(10, 50_000, 600, 0, 100)
    verdict = valve.sample(100, 1, 0, 100)
    assert verdict.rule == "valve.drained"
    assert verdict.evidence["drained_ms"] == 110_000
    assert BACKLOG_VALVE.deadline(valve.state, valve.policy) is None


def test_the_deadline_is_the_promised_time() -> None:
    """With a sample's time for what shows whether it was kept."""
    valve = shedding()
    promised_us = int(valve.verdicts[-1].evidence["drain_ms"]) * 1000
    due_us = BACKLOG_VALVE.deadline(valve.state, valve.policy)
    assert due_us == pytest.approx(valve.now_us + promised_us + 10 * SECOND_US, abs=1000)
    assert BACKLOG_VALVE.deadline(Valve().state, valve.policy) is None


def test_a_promise_that_is_missed_is_said_and_made_anew() -> None:
    valve = shedding()
    valve.samples(2, 4000, 40, 80, 100)
    verdict = valve.timeout()
    assert (verdict.rule, verdict.decision) == ("valve.promise_missed", "adjust")
    assert verdict.evidence["promised_ms"] == valve.verdicts[3 + 3].evidence["drain_ms"]
    assert verdict.evidence["drain_ms"] == 60_000
    assert valve.state.control.due_us == valve.now_us + 60 * SECOND_US


def test_a_timeout_before_the_promise_is_due_says_nothing() -> None:
    valve = shedding()
    before = valve.state
    assert valve.tell(Timeout()).rule == "valve.not_due"
    assert valve.state == before


def test_no_promise_is_longer_than_a_day() -> None:
    valve = Valve()
    valve.samples(10, 10, 0.5, 100, 100)
    valve.samples(4, 10**12, 40, 100, 0.001)
    assert valve.verdicts[-1].evidence["drain_ms"] == 86_400_000


def test_dead_consumers_close_the_valve() -> None:
    valve = Valve()
    valve.samples(5, 10, 0.5, 100, 100)
    valve.samples(7, 5000, 40, 100, 0)
    assert valve.status is DRAINING


# Reopening


def test_a_closed_valve_probes_after_three_calm_intervals() -> None:
    valve = closed()
    valve.samples(3 * 3 - 1, 0, 0)
    assert valve.status is DRAINING
    valve.sample(0, 0)
    assert valve.status is PROBING
    assert valve.effect == Effect("probe", {"fraction_ppm": 100_000})
    assert valve.admits == AdmitRule(fraction_ppm=100_000, critical_reserve_ppm=200_000)


def test_calm_intervals_count_in_a_row() -> None:
    valve = closed()
    for _ in range(10):
        valve.samples(6, 0, 0)
        valve.samples(3, 100_000, 3)
    assert valve.status is DRAINING


def test_a_depth_over_low_water_is_not_calm() -> None:
    valve = closed()
    low = valve.state.control.high_depth * 3 // 10
    valve.samples(60, low, 0.1, 0, 100)
    assert valve.status is DRAINING
    valve.samples(12, low - 1, 0.1, 0, 100)
    assert valve.status is PROBING


def test_a_wait_over_half_the_target_is_not_calm() -> None:
    valve = closed()
    valve.samples(60, 5, 3.0, 0, 100)
    assert valve.status is DRAINING


def test_shedding_that_holds_nobody_back_gives_way_to_probing_at_everything() -> None:
    valve = shedding()
    while valve.status is SHEDDING:
        valve.sample(0, 0, 30, 30)
    assert valve.status is PROBING
    assert valve.effect == Effect("probe", {"fraction_ppm": 1_000_000})


def test_shedding_that_holds_somebody_back_goes_on() -> None:
    valve = shedding()
    for _ in range(90):
        valve.sample(0, 0, valve.state.control.limit_milli / 1000, 100)
    assert valve.status is SHEDDING


def test_each_clean_interval_doubles_the_share_until_all_is_open() -> None:
    valve = probing()
    shares = []
    while valve.status is PROBING:
        shares.append(valve.state.control.probe_ppm)
        valve.samples(3, 1, 0.1, 20, 20)
    assert shares == [100_000, 200_000, 400_000, 800_000, 1_000_000]
    assert valve.verdicts[-1].decision == "reopen"
    assert valve.effect is None
    assert valve.admits == ADMIT_ALL


def test_an_interval_that_is_neither_clean_nor_bad_keeps_the_share() -> None:
    valve = probing()
    valve.samples(12, 300, 4, 20, 20)
    assert valve.state.control.probe_ppm == 100_000
    assert valve.status is PROBING


def test_one_bad_interval_sends_probing_back() -> None:
    valve = probing()
    valve.samples(6, 1, 0.1, 20, 20)
    valve.samples(3, 2000, 20, 100, 100)
    assert valve.verdicts[-1].decision == "back_off"
    assert valve.status is SHEDDING


def test_probing_goes_back_to_closed_when_the_backlog_is_too_large() -> None:
    valve = probing()
    valve.samples(6, 1, 0.1, 20, 20)
    valve.samples(3, 200_000, 20, 100, 100)
    assert valve.verdicts[-1].rule == "valve.back_off_closed"
    assert valve.status is DRAINING


def test_without_rates_probing_goes_back_to_a_share() -> None:
    valve = Valve()
    valve.samples(4, 5000, 40)
    while valve.status is SHEDDING:
        valve.sample(0, 0)
    while valve.status is PROBING:
        valve.sample(5000, 40)
    assert valve.verdicts[-1].rule == "valve.back_off_share"
    assert valve.effect == Effect("shed", {"fraction_ppm": 950_000})


def test_a_bad_interval_too_soon_after_a_turn_waits_for_the_next_turn() -> None:
    valve = probing()
    valve.samples(3, 2000, 20, 100, 100)
    assert valve.rules[-1] == "probe_bad"
    valve.samples(3, 1, 0.1, 20, 20)
    assert valve.verdicts[-1].decision == "back_off"  # one was enough, whatever came after it


def test_each_failed_probe_doubles_the_wait_up_to_ten_minutes() -> None:
    valve = probing()
    waits = []
    for _ in range(6):
        while valve.status is PROBING:
            valve.sample(200_000, 20, 100, 100)
        waits.append(int(valve.verdicts[-1].evidence["probe_wait_ms"]) // 1000)
        failed_us = valve.now_us
        while valve.status is DRAINING:
            valve.sample(0, 0)
        assert valve.now_us - failed_us >= waits[-1] * SECOND_US
    assert waits == [60, 120, 240, 480, 600, 600]


def test_a_valve_that_was_open_for_long_has_forgotten_its_failed_probes() -> None:
    valve = probing()
    while valve.status is PROBING:
        valve.sample(200_000, 20, 100, 100)
    while valve.status is not OPEN:
        valve.sample(1, 0.1, 20, 20)
    assert valve.state.control.failed_wait_us == 60 * SECOND_US
    valve.samples(60, 1, 0.1, 20, 20)
    valve.samples(5, 5000, 40, 200, 100)
    assert valve.status is SHEDDING
    assert valve.state.control.failed_wait_us == 0


def test_an_open_valve_stays_open_for_three_intervals() -> None:
    valve = probing()
    while valve.status is PROBING:
        valve.sample(1, 0.1, 20, 20)
    valve.samples(8, 5000, 40, 200, 100)
    assert valve.rules[-1] == "dwell"
    assert valve.status is OPEN
    assert valve.sample(5000, 40, 200, 100).decision == "shed"


# Stuck lag


def test_stuck_messages_are_flagged_and_left_out_of_the_reckoning() -> None:
    valve = closed()
    began_us = valve.now_us
    while valve.status is DRAINING:
        valve.sample(200, 4000, 0, 0)
    assert valve.now_us - began_us > 300 * SECOND_US
    assert valve.verdicts[-1].evidence["stuck_depth"] == 200


def test_messages_behind_stuck_ones_wait_as_long_as_they_take_to_be_served() -> None:
    valve = closed()
    valve.samples(60, 40, 4000, 0, 0)
    capacity = valve.state.sensor.done_milli / 1000
    verdict = valve.sample(40 + 500, 4000, 50, 50)
    assert int(verdict.evidence["sojourn_ms"]) == pytest.approx(500 / capacity * 1000, abs=2)


def test_stuck_messages_that_move_again_count_again() -> None:
    valve = closed()
    valve.samples(60, 40, 4000, 0, 0)
    valve.sample(10, 4000, 0, 3)
    assert valve.state.sensor.stuck_depth == 10
    valve.sample(0, 0, 0, 1)
    assert "stuck_depth" not in valve.sample(50, 1, 5, 5).evidence


def test_a_sender_without_rates_has_no_stuck_messages() -> None:
    valve = Valve()
    valve.samples(100, 40, 1)
    assert valve.state.sensor.stuck_depth == 0


def test_a_promise_that_only_stuck_messages_break_is_not_missed() -> None:
    valve = closed()
    while not valve.state.sensor.stuck_depth:
        valve.sample(2000, 4000, 0, 0)
    verdict = valve.timeout()
    assert verdict.rule == "valve.only_stuck"
    assert BACKLOG_VALVE.deadline(valve.state, valve.policy) is None


# Effects of statuses that an operator put in force


def test_forced_shedding_has_a_share_before_there_is_a_limit_and_the_last_limit_after() -> None:
    valve = Valve()
    assert BACKLOG_VALVE.effect(valve.state, SHEDDING, valve.policy) == Effect("shed", {"fraction_ppm": 500_000})
    valve = shedding()
    while valve.status is SHEDDING:
        held = valve.effect
        valve.sample(0, 0, 30, 30)
    while valve.status is not OPEN:
        valve.sample(0, 0, 30, 30)
    assert BACKLOG_VALVE.effect(valve.state, SHEDDING, valve.policy) == held


def test_forced_probing_starts_with_a_tenth() -> None:
    valve = Valve()
    assert BACKLOG_VALVE.effect(valve.state, PROBING, valve.policy) == Effect("probe", {"fraction_ppm": 100_000})


def test_a_signal_is_due_once_one_was_seen() -> None:
    valve = Valve(sample_period_s=7)
    assert BACKLOG_VALVE.expected_period_us(valve.state, valve.policy) is None
    valve.sample(1, 0.1)
    assert BACKLOG_VALVE.expected_period_us(valve.state, valve.policy) == 7 * SECOND_US


# Policy


def test_the_profiles_differ_in_target_interval_and_samples() -> None:
    queue, rpc = ValvePolicy(age_slo_s=600), ValvePolicy(profile="rpc")
    assert (queue.target_ms, queue.interval_ms, queue.samples_min, queue.drain_s) == (60_000, 300_000, 3, 300)
    assert (rpc.target_ms, rpc.interval_ms, rpc.samples_min) == (20, 1000, 1)


def test_a_key_that_is_given_beats_the_profile() -> None:
    assert ValvePolicy(profile="rpc", target_ms=5, interval_ms=100).target_ms == 5


def test_a_policy_survives_being_written_and_read() -> None:
    for policy in (ValvePolicy(), ValvePolicy(profile="rpc", drain_s=7)):
        assert msgspec.json.decode(msgspec.json.encode(policy), type=ValvePolicy) == policy


@pytest.mark.parametrize(
    "wrong",
    [{"target": 5}, {"profile": "web"}, {"floor_ppm": 0}, {"age_slo_s": 0}, {"probe_wait_s": 700}, {"drain_s": -1}],
)
def test_an_impossible_policy_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, ValvePolicy)


# Sentences and numbers


def test_a_sentence_says_what_was_seen_and_what_follows() -> None:
    verdict = closed().verdicts[-1]
    assert explain(RULES, verdict.rule, verdict.evidence) == (
        "100000 messages stand and cannot be drained within 5 min at 100/s while anything is let in: closed, "
        "drained in 16.7 min"
    )


@pytest.mark.parametrize("depth", [1, 2**53 - 1])
@pytest.mark.parametrize("rate", [0.0, 1e-9, 1e15])
def test_absurd_numbers_stay_within_what_receipts_hold(depth: int, rate: float) -> None:
    valve = Valve()
    for other in (0.0, 1e15):
        valve.samples(5, depth, 1e15, rate, other)
        valve.samples(5, depth, 1e15, other, rate)
    valve.work(1e15, window_s=86_400)


def test_stepping_leaves_the_state_that_came_in_alone() -> None:
    valve = shedding()
    before = msgspec.msgpack.encode(valve.state)
    event = Event("e", valve.now_us, QueueSample(9000, 90, 100, 100))
    step(TABLE, valve.state, event, valve.policy, valve.now_us + 10 * SECOND_US)
    assert msgspec.msgpack.encode(valve.state) == before
