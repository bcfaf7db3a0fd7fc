import asyncio

from governors.demo.clock import SteppedClock


async def test_it_stands_still_until_it_is_stepped() -> None:
    clock = SteppedClock(100)
    assert clock() == 100
    clock.step_to(250)
    assert clock() == 250


async def test_it_never_runs_backwards() -> None:
    clock = SteppedClock(100)
    clock.step_to(50)
    assert clock() == 100


async def test_sleepers_wake_in_the_order_of_their_times_and_not_before() -> None:
    clock = SteppedClock(0)
    woken: list[int] = []

    async def sleep(at_us: int) -> None:
        await clock.sleep_until(at_us)
        woken.append(at_us)

    tasks = [asyncio.create_task(sleep(at_us)) for at_us in (30, 10, 20)]
    await asyncio.sleep(0)
    assert clock.sleepers == 3
    clock.step_to(20)
    await asyncio.gather(*(task for task, at_us in zip(tasks, (30, 10, 20), strict=True) if at_us <= 20))
    assert woken == [10, 20]
    assert clock.sleepers == 1
    clock.step_to(30)
    await tasks[0]
    assert woken == [10, 20, 30]


async def test_nobody_sleeps_for_a_time_that_has_come() -> None:
    clock = SteppedClock(100)
    await clock.sleep_until(100)
    assert clock.sleepers == 0
