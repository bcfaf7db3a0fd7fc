import asyncio

from governors.tenants.timers import FIRED_PER_TURN, RECHECK_S, Timers


class Clock:
    def __init__(self) -> None:
        self.now_us = 0

    def __call__(self) -> int:
        return self.now_us


def make() -> tuple[Timers, Clock, list[tuple[str, str]]]:
    clock, fired = Clock(), list[tuple[str, str]]()
    return Timers(clock, lambda tenant, key: fired.append((tenant, key))), clock, fired


def test_a_deadline_fires_when_it_has_passed_and_only_once() -> None:
    timers, clock, fired = make()
    timers.arm("acme", "m", 500_000)
    assert timers.fire_due() == 0.5
    clock.now_us = 500_000
    timers.fire_due()
    assert fired == [("acme", "m")]
    timers.fire_due()
    assert len(fired) == 1


def test_an_earlier_deadline_replaces_a_later_one() -> None:
    timers, clock, fired = make()
    timers.arm("acme", "m", 900)
    timers.arm("acme", "m", 100)
    clock.now_us = 100
    timers.fire_due()
    assert fired == [("acme", "m")]
    clock.now_us = 900
    timers.fire_due()
    assert fired == [("acme", "m")], "the later entry was left behind and means nothing"


def test_a_later_deadline_queues_nothing_and_is_looked_at_early() -> None:
    timers, clock, fired = make()
    timers.arm("acme", "m", 100)
    timers.arm("acme", "m", 900)
    assert len(timers) == 1
    clock.now_us = 100
    timers.fire_due()
    assert fired == [("acme", "m")], "the tenant finds that it is not due and sets it anew"


def test_deadlines_fire_in_order() -> None:
    timers, clock, fired = make()
    for at in (30, 10, 20):
        timers.arm("acme", str(at), at)
    clock.now_us = 100
    timers.fire_due()
    assert [key for _, key in fired] == ["10", "20", "30"]


def test_a_wall_clock_that_is_stepped_is_noticed_within_the_recheck() -> None:
    timers, _, _ = make()
    timers.arm("acme", "m", 3_600_000_000)
    assert timers.fire_due() == RECHECK_S


def test_many_due_at_once_give_the_loop_back_in_between() -> None:
    timers, clock, fired = make()
    for number in range(FIRED_PER_TURN + 1):
        timers.arm("acme", str(number), 1)
    clock.now_us = 1
    assert timers.fire_due() == 0.0
    assert len(fired) == FIRED_PER_TURN
    timers.fire_due()
    assert len(fired) == FIRED_PER_TURN + 1


async def test_whoever_moves_the_clock_by_hand_is_not_kept_waiting() -> None:
    timers, clock, fired = make()
    timers.arm("acme", "m", 3_600_000_000)
    running = asyncio.create_task(timers.run())
    await turns()
    clock.now_us = 3_600_000_000
    assert timers.is_due()
    await turns()
    assert not fired, "asleep until the next recheck"
    timers.recheck()
    await turns()
    assert fired == [("acme", "m")]
    assert not timers.is_due()
    running.cancel()


async def turns() -> None:
    """Let the loop's other tasks do what they can do without waiting."""
    for _ in range(10):
        await asyncio.sleep(0)
