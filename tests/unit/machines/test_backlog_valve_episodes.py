"""The Backlog Valve with a queue behind it: whole episodes, from the load that comes to the valve that opens again.

The queue is simulated second by second, capacity 100 messages a second; nothing in it is random.
"""

from itertools import pairwise

import pytest
from support.valve import Queue, Valve, govern, transitions

from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.valve_state import ValveStatus

OPEN, SHEDDING, DRAINING, PROBING = ValveStatus
CAPACITY = 100.0


def step_of_load(times: float, *, begins_s: int = 300, lasts_s: int = 600) -> tuple[Valve, Queue]:
    """Half the capacity is asked for, `times` the capacity for a while, then half again; no end of a queue is cut."""
    valve = Valve()

    def demand(second: int) -> float:
        return times * CAPACITY if begins_s <= second < begins_s + lasts_s else CAPACITY / 2

    return valve, govern(valve, begins_s + lasts_s + 1800, demand, lambda _: CAPACITY)


def turns(valve: Valve) -> int:
    """How often the limit changed its direction."""
    directions = [1] + [verdict.state.control.direction for verdict in valve.verdicts]
    return sum(a != b for a, b in pairwise(directions))


def test_a_doubled_load_sheds_and_opens_again_and_never_flaps() -> None:
    valve, queue = step_of_load(2.0)
    assert transitions(valve) == [OPEN, SHEDDING, PROBING, OPEN]
    assert queue.depth == 0


@pytest.mark.parametrize("times", [1.3, 2.0, 3.0, 5.0])
def test_the_backlog_drains_in_about_the_promised_time(times: float) -> None:
    valve, _ = step_of_load(times, lasts_s=900)
    drained = next(verdict for verdict in valve.verdicts if verdict.rule == "valve.drained")
    assert int(drained.evidence["drained_ms"]) == pytest.approx(int(drained.evidence["drain_ms"]), rel=0.2)
    assert "promise_missed" not in valve.rules


def test_waits_are_long_only_until_the_backlog_is_drained() -> None:
    valve, queue = step_of_load(2.0)
    assert queue.age_max_s <= 60  # the objective that target and interval come from
    drained = valve.rules.index("drained")
    later = [int(verdict.evidence.get("sojourn_ms", 0)) for verdict in valve.verdicts[drained:]]
    assert max(later) < valve.policy.target_ms


def test_capacity_is_used_while_there_is_more_to_do_than_can_be_done() -> None:
    valve = Valve()
    queue = govern(valve, 300 + 3600, lambda second: 200.0 if second >= 300 else 50.0, lambda _: CAPACITY)
    assert transitions(valve) == [OPEN, SHEDDING]
    assert queue.served - 300 * 50 >= 0.99 * 3600 * CAPACITY


def test_load_that_stays_is_held_with_few_changes_of_direction() -> None:
    valve = Valve()
    govern(valve, 300 + 3600, lambda second: 200.0 if second >= 300 else 50.0, lambda _: CAPACITY)
    assert turns(valve) <= 3600 // 60 // 2


def test_a_flood_closes_the_valve_which_opens_step_by_step() -> None:
    valve = Valve()
    govern(valve, 3000, lambda second: 2000.0 if 300 <= second < 400 else 50.0, lambda _: CAPACITY)
    assert transitions(valve) == [OPEN, DRAINING, PROBING, OPEN]
    assert turns(valve) == 2


def test_consumers_that_die_close_the_valve_and_coming_back_open_it() -> None:
    valve = Valve()
    queue = govern(valve, 4000, lambda _: 50.0, lambda second: 0.0 if 300 <= second < 500 else CAPACITY)
    assert transitions(valve)[-1] is OPEN
    assert DRAINING in transitions(valve)
    assert queue.depth < 100


def test_half_the_consumers_leaving_is_followed_by_half_the_limit() -> None:
    valve = Valve()
    govern(valve, 3600, lambda _: 90.0, lambda second: 50.0 if second >= 300 else CAPACITY)
    limit = valve.admits.rate_milli_per_s
    assert limit is not None
    assert limit / 1000 == pytest.approx(50, rel=0.1)


def test_more_consumers_are_found_out_by_a_limit_that_creeps_up() -> None:
    valve = Valve()
    govern(
        valve, 300 + 4 * 3600, lambda second: 200.0 if second >= 300 else 50.0, lambda s: 100.0 if s < 3600 else 150.0
    )
    limit = valve.admits.rate_milli_per_s
    assert limit is not None
    assert limit > 130_000


def test_without_rates_an_episode_has_the_same_statuses() -> None:
    valve = Valve()
    queue = govern(
        valve, 4000, lambda second: 200.0 if 300 <= second < 900 else 50.0, lambda _: CAPACITY, has_rates=False
    )
    assert transitions(valve) == [OPEN, SHEDDING, PROBING, OPEN]
    assert turns(valve) <= 4
    assert queue.depth == 0


def test_a_load_that_fits_never_touches_the_valve() -> None:
    valve = Valve()
    govern(valve, 3600, lambda second: 300.0 if second % 600 < 5 else 60.0, lambda _: CAPACITY)
    assert transitions(valve) == [OPEN]
    assert valve.decisions == []


def test_an_episode_told_twice_is_the_same_to_the_last_number() -> None:
    (one, _), (two, _) = step_of_load(2.0), step_of_load(2.0)
    assert one.verdicts == two.verdicts
    assert BACKLOG_VALVE.initial() == Valve().state
