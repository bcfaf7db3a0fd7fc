"""The Backlog Valve when capacity comes back, or grows, while it holds work back.

With an empty queue the completion rate is the limit looking back at itself, so that the limit must try what it cannot
know. Intervals are 30 s; noise is seeded.
"""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from support.valve import SECOND_US, START_US, Queue, Valve, govern, transitions

from governors.machines.valve_control import LOOSER
from governors.machines.valve_state import ValveStatus

OPEN, SHEDDING, DRAINING, PROBING = ValveStatus
INTERVAL_S = 30
DEMAND = 70.0


def dip(low: float, *, begins_s: int = 900, ends_s: int = 1080, high: float = 60.0) -> Callable[[int], float]:
    return lambda second: low if begins_s <= second < ends_s else high


def asked(amount: float) -> Callable[[int], float]:
    return lambda second: amount if second >= 300 else 20.0


def noise(seed: int, share: float = 0.1) -> Callable[[], float]:
    """By the second; none for seeds under 0."""
    rng = random.Random(seed)
    return lambda: max(0.0, rng.gauss(1.0, share)) if seed >= 0 else 1.0


def recovery_s(queue: Queue, since_s: int, wanted: float) -> int:
    """Seconds from `since_s` until the next two intervals serve at least 95 % of what is wanted."""
    for second in range(since_s, queue.second - 2 * INTERVAL_S):
        if queue.rate(second, second + 2 * INTERVAL_S) >= 0.95 * wanted:
            return second - since_s
    return queue.second


def turns(valve: Valve, from_s: int, until_s: int) -> int:
    """How often the limit changed its direction between two seconds."""
    seen = [v.state for v in valve.verdicts if from_s <= (v.state.sensor.at_us - START_US) / SECOND_US < until_s]
    return sum(a.control.direction != b.control.direction for a, b in pairwise(seen))


def idling(*, depth: int = 0, age_s: float = 0.0, intervals: int = 12, **policy: object) -> Valve:
    """A limit under 100/s that lets in what it may, all of which is done, before a queue of this depth."""
    valve = Valve(**policy)
    valve.samples(3, 10, 0.5, 50, 50)
    valve.samples(4, 5000, 20, 200, 100)
    for _ in range(3 * intervals):
        rate = valve.state.control.limit_milli / 1000
        valve.sample(depth, age_s, rate, rate)
    return valve


# Whole episodes


@pytest.mark.parametrize("low", [6.0, 10.0, 20.0, 40.0])
@pytest.mark.parametrize("demand", [DEMAND, 300.0])
def test_capacity_that_comes_back_while_shedding_is_used_within_ten_intervals(low: float, demand: float) -> None:
    valve = Valve()
    queue = govern(valve, 5400, asked(demand), dip(low))
    assert recovery_s(queue, 1080, 60.0) <= 10 * INTERVAL_S
    assert queue.rate(1080 + 10 * INTERVAL_S, 5400) >= 0.95 * 60


@pytest.mark.parametrize("seed", range(6))
def test_capacity_that_comes_back_is_used_however_rates_vary(seed: int) -> None:
    valve = Valve()
    queue = govern(valve, 5400, asked(DEMAND), dip(20.0), jitter=noise(seed))
    assert recovery_s(queue, 1080, 60.0) <= 12 * INTERVAL_S
    assert queue.rate(1080 + 12 * INTERVAL_S, 5400) >= 0.95 * 60


def test_a_long_dip_is_recovered_from_as_fast() -> None:
    valve = Valve()
    queue = govern(valve, 7200, asked(DEMAND), dip(20.0, ends_s=3600))
    assert recovery_s(queue, 3600, 60.0) <= 10 * INTERVAL_S


@pytest.mark.parametrize("seed", range(-1, 6))
def test_recovering_makes_no_queue_that_stands(seed: int) -> None:
    valve = Valve()
    queue = govern(valve, 5400, asked(300.0), dip(20.0), jitter=noise(seed))
    later = [v for v in valve.verdicts if v.state.sensor.at_us > START_US + (1080 + 2 * INTERVAL_S) * SECOND_US]
    assert later[-1].state.control.bad_intervals == later[0].state.control.bad_intervals
    assert max(v.state.sensor.wait_ms for v in later) <= 1.5 * valve.policy.target_ms
    assert {v.state.status for v in later} == {SHEDDING}
    assert queue.depth < 300


def test_the_limit_finds_the_new_capacity_once_and_stays() -> None:
    valve = Valve()
    queue = govern(valve, 5400, asked(300.0), dip(20.0))
    found_s = 1080 + recovery_s(queue, 1080, 60.0)
    # Up, back from having gone too far, and to where it stays but for the trim's steps of two in a hundred.
    assert turns(valve, 1080, found_s + 5 * INTERVAL_S) <= 3
    settled = [
        v.state.control.limit_milli for v in valve.verdicts if v.state.sensor.at_us > START_US + 1500 * SECOND_US
    ]
    assert min(settled) >= 0.95 * 60_000
    assert max(settled) <= 1.05 * 60_000


@pytest.mark.parametrize(("grown", "intervals"), [(120.0, 5), (150.0, 10), (200.0, 12), (300.0, 16)])
@pytest.mark.parametrize("seed", range(-1, 6))
def test_consumers_that_scale_up_under_overload_are_put_to_use(grown: float, intervals: int, seed: int) -> None:
    valve = Valve()
    queue = govern(valve, 5400, asked(400.0), lambda second: grown if second >= 1500 else 100.0, jitter=noise(seed))
    assert recovery_s(queue, 1500, grown) <= intervals * INTERVAL_S
    assert queue.rate(1500 + intervals * INTERVAL_S, 5400) >= 0.95 * grown


def test_consumers_that_scale_up_past_demand_open_the_valve_for_good() -> None:
    valve = Valve()
    queue = govern(valve, 5400, asked(300.0), lambda second: 400.0 if second >= 1500 else 100.0)
    assert transitions(valve) == [OPEN, SHEDDING, PROBING, OPEN]
    assert recovery_s(queue, 1500, 300.0) <= 10 * INTERVAL_S


def test_a_limit_that_acts_late_recovers_without_opening_onto_too_much() -> None:
    valve = Valve()
    queue = govern(valve, 7200, asked(300.0), dip(20.0), delay_s=10)
    assert recovery_s(queue, 1080, 60.0) <= 10 * INTERVAL_S
    assert queue.rate(1080 + 10 * INTERVAL_S, 7200) >= 0.95 * 60
    assert transitions(valve) == [OPEN, SHEDDING]


def test_slow_consumers_that_come_back_are_found_too() -> None:
    valve = Valve()
    queue = govern(valve, 5400, lambda second: 4.0 if second >= 300 else 0.5, dip(0.5, high=2.0, ends_s=1200))
    assert recovery_s(queue, 1200, 2.0) <= 10 * INTERVAL_S


# One rule at a time


def test_a_limit_over_an_empty_queue_climbs_in_doubling_steps_up_to_a_quarter() -> None:
    """Sample by sample, in what admission lets in; the limit that is told outside follows by the interval."""
    valve = idling(intervals=0)
    steps = []
    for _ in range(12):
        before = valve.state.sensor.done_milli
        rate = (valve.admits.rate_milli_per_s or 0) / 1000
        valve.sample(0, 0, rate, rate)
        if valve.state.control.climb_ppm:
            steps.append(valve.state.sensor.done_milli / before - 1)
    assert steps[:6] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.25, 0.25], abs=0.02)


def test_the_limit_that_is_told_climbs_to_what_is_believed() -> None:
    valve = idling(intervals=6)
    climbs = [v for v in valve.verdicts if v.rule == "valve.climb"]
    assert climbs
    for verdict in climbs:
        assert verdict.evidence["admit_rate_milli_per_s"] == verdict.state.control.limit_milli
        assert verdict.state.control.limit_milli <= 1.1 * verdict.state.sensor.done_milli


def test_a_queue_ends_the_climb_before_the_interval_is_over() -> None:
    valve = idling()
    climbed = valve.state.control.limit_milli
    verdict = valve.sample(3_000, 2.0, climbed / 1000, 100)
    assert verdict.rule == "valve.adjust_rate"
    assert valve.state.control.limit_milli < climbed
    assert valve.state.control.climb_ppm == 0
    valve.samples(20, 0, 0, 20, 20)
    assert valve.state.control.climb_ppm == 0


def test_a_queue_that_is_not_empty_is_not_climbed_over() -> None:
    assert "climb" not in idling(depth=30, age_s=0.3).rules


def test_work_that_comes_in_but_is_not_done_is_no_reason_to_climb() -> None:
    valve = idling(intervals=0)
    for _ in range(60):
        valve.sample(0, 0, valve.state.control.limit_milli / 1000, 50)
    assert valve.state.control.limit_milli <= 1.25**2 * 100_000


def test_a_limit_that_nobody_asks_for_does_not_climb() -> None:
    valve = idling(intervals=0)
    valve.samples(6, 0, 0, 30, 30)
    assert "climb" not in valve.rules


def test_a_handful_of_messages_stops_the_climb_without_tightening() -> None:
    valve = idling()
    believed, step_ppm = valve.state.sensor.done_milli, valve.state.control.climb_ppm
    climbed, limit = believed / 1000, valve.state.control.limit_milli
    valve.sample(30, 0.3, climbed, climbed)
    assert valve.state.sensor.done_milli == believed
    assert valve.state.control.climb_ppm == step_ppm // 2
    for _ in range(6):
        valve.sample(30, 0.3, climbed, climbed)
    assert valve.state.control.climb_ppm == 0
    assert valve.state.control.limit_milli >= limit


def test_the_climb_waits_for_its_turn() -> None:
    valve = idling(turn_intervals=10)
    first = next(v for v in valve.verdicts if v.state.control.direction == LOOSER and v.state.status is SHEDDING)
    shed = next(v for v in valve.verdicts if v.decision == "shed")
    assert first.state.sensor.at_us - shed.state.sensor.at_us >= 10 * INTERVAL_S * SECOND_US


@pytest.mark.parametrize("policy", [{"limit_step_ppm": 0}, {"limit_step_ppm": 400_000}, {"climb_max_ppm": 0}])
def test_no_policy_leaves_a_limit_where_it_starves_its_queue(policy: dict[str, int]) -> None:
    valve = idling(intervals=60, **policy)
    assert valve.state.control.limit_milli > 150_000


def test_calm_counts_only_while_nobody_is_held_back() -> None:
    valve = idling(intervals=10)
    assert valve.state.control.calm_intervals == 0
    while valve.status is SHEDDING:
        valve.sample(0, 0, 20, 20)
    calm = [v.state.control.calm_intervals for v in valve.verdicts if v.state.status is SHEDDING]
    assert max(calm) == valve.policy.calm_intervals - 1
    assert valve.status is PROBING


def test_a_limit_that_holds_nobody_back_is_not_tightened_before_an_empty_queue() -> None:
    valve = idling(intervals=10)
    limit = valve.state.control.limit_milli
    while valve.status is SHEDDING:
        assert valve.state.control.limit_milli == limit
        valve.sample(0, 0, limit * 0.7 / 1000, limit * 0.7 / 1000)
    assert valve.status is PROBING
