"""Who waits for a partition goes on as soon as it is somewhere, and no longer than it was told to."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from simulation.loop import START_S, simulated

from governors.cluster.moves import Moves, NobodyHasItError
from ledger.backoff import Backoff

LIMIT_S = 5.0


class UndoneError(Exception):
    pass


class Place:
    """Where partitions are, and how often somebody was asked to look."""

    def __init__(self) -> None:
        self.looks = 0
        self.has: set[int] = set()
        self.moves = Moves(self._look)

    def _look(self) -> None:
        self.looks += 1

    def comes(self, partition: int) -> None:
        self.has.add(partition)
        self.moves.tell()

    def is_somewhere(self, partition: int) -> Callable[[], bool]:
        return lambda: partition in self.has

    async def wait(self, partition: int) -> bool:
        return await self.moves.wait_for(partition, self.is_somewhere(partition), LIMIT_S)

    async def carry_out(self, partition: int, do: Callable[[], Awaitable[Any]]) -> Any:
        backoff = Backoff(random.Random(1))
        return await self.moves.carry_out(partition, do, self.is_somewhere(partition), UndoneError, backoff, LIMIT_S)


def passed_s() -> float:
    """Since the test began."""
    return asyncio.get_running_loop().time() - START_S


@simulated
async def test_what_is_somewhere_is_not_waited_for() -> None:
    place = Place()
    place.has.add(3)
    assert await place.wait(3)
    assert (passed_s(), place.looks) == (0.0, 0)


@simulated
async def test_who_waits_goes_on_at_the_move_and_nobody_else_does() -> None:
    place = Place()
    third, fourth = asyncio.create_task(place.wait(3)), asyncio.create_task(place.wait(4))
    await asyncio.sleep(1.0)
    assert sorted(place.moves.waited_for) == [3, 4]
    assert place.moves.missed.is_set()
    place.comes(3)
    assert await third
    assert passed_s() == pytest.approx(1.0)
    assert place.moves.waited_for == [4]
    assert not await fourth
    assert passed_s() == pytest.approx(LIMIT_S)
    assert place.moves.waited_for == []
    assert not place.moves.missed.is_set()


@simulated
async def test_a_partition_is_missed_until_the_last_one_has_stopped_waiting_for_it() -> None:
    place = Place()
    first, second = asyncio.create_task(place.wait(3)), asyncio.create_task(place.wait(3))
    await asyncio.sleep(0.0)
    first.cancel()
    await asyncio.wait({first})
    assert place.moves.waited_for == [3]
    second.cancel()
    await asyncio.wait({second})
    assert place.moves.waited_for == []
    assert not place.moves.missed.is_set()


@simulated
async def test_others_are_looked_at_again_after_each_move_that_was_another_one() -> None:
    place = Place()
    waiting = asyncio.create_task(place.wait(3))
    for partition in (1, 2):
        await asyncio.sleep(0.1)
        place.comes(partition)
    await asyncio.sleep(0.1)
    assert place.looks == 3
    place.comes(3)
    assert await waiting


@simulated
async def test_what_was_undone_is_done_once_more_at_the_next_move() -> None:
    place, tried_s = Place(), list[float]()
    place.has.add(3)

    async def do() -> str:
        tried_s.append(passed_s())
        if len(tried_s) == 1:
            asyncio.get_running_loop().call_later(0.01, place.moves.tell)
            raise UndoneError
        return "done"

    assert await place.carry_out(3, do) == "done"
    assert tried_s == pytest.approx([0.0, 0.01])


@simulated
async def test_what_is_undone_again_and_again_is_raised_in_the_end() -> None:
    place, tries = Place(), 0
    place.has.add(3)

    async def do() -> None:
        nonlocal tries
        tries += 1
        raise UndoneError

    with pytest.raises(UndoneError):
        await place.carry_out(3, do)
    assert passed_s() > LIMIT_S
    assert 2 < tries < 100


@simulated
async def test_what_nobody_has_is_not_begun() -> None:
    async def do() -> None:
        pytest.fail("nobody has it")

    with pytest.raises(NobodyHasItError):
        await Place().carry_out(3, do)
    assert passed_s() == pytest.approx(LIMIT_S)
