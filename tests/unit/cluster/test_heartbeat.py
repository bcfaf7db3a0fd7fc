"""Workers that hear each other through a store, also where it forgets to answer."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.memory_store import LANDED, LATE, MemoryStore

from governors.cluster.heartbeat import PREFIX, Heartbeat
from governors.cluster.workers import decode_beat


def heartbeat(store: MemoryStore, name: str, failures: list[str] | None = None) -> Heartbeat:
    told = (failures if failures is not None else []).append
    return Heartbeat(store, name, f"http://{name}:8080", 2, rng=random.Random(name), on_failed=told)


@asynccontextmanager
async def beating(*hearts: Heartbeat) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in hearts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(true: Callable[[], bool], *hearts: Heartbeat) -> None:
    """They look again and again; the test's own time limit ends it."""
    while not true():
        for one in hearts:
            one.look_soon()
        await asyncio.sleep(0.01)


def names(one: Heartbeat) -> list[str]:
    return [member.beat.worker for member in one.members()]


async def test_workers_hear_of_each_other_and_of_who_has_what() -> None:
    store = MemoryStore()
    first, second = heartbeat(store, "first"), heartbeat(store, "second")
    first.own(1, 3)
    second.stand_by(1)
    async with beating(first, second):
        await until(lambda: second.holder(1) is not None and len(names(first)) == 2, first, second)
    owner = second.holder(1)
    assert owner is not None
    assert (owner.beat.worker, owner.beat.url, owner.beat.owns) == ("first", "http://first:8080", {1: 3})
    assert first.holder(1) is None  # nobody else has it
    assert second.holder(0) is None
    assert [one.beat.stands_by for one in first.members()] == [[], [1]]


async def test_what_is_new_is_said_at_once_and_what_is_not_is_not_said_again() -> None:
    store = MemoryStore()
    first, second = heartbeat(store, "first"), heartbeat(store, "second")
    async with beating(first, second):
        await until(lambda: len(names(second)) == 2, first, second)
        first.own(0, 1)
        await until(lambda: second.holder(0) is not None, second)
        first.disown(0)
        first.leave(leaving=True)
        await until(lambda: second.holder(0) is None and second.members()[0].beat.leaving, second)
        said = len(store.puts)
        for _ in range(3):
            first.changed.clear()
            first.look_soon()
            await first.changed.wait()
        assert len(store.puts) == said


@pytest.mark.parametrize("fate", [LANDED, LATE])
async def test_a_write_of_which_nobody_knows_is_found_out_about(fate: str) -> None:
    store = MemoryStore()
    store.fail(PREFIX, "", fate)
    one = heartbeat(store, "one")
    async with beating(one):
        await until(lambda: bool(store.puts), one)
        store.land_late_ones()
        count = len(store.puts)
        one.own(0, 1)
        await until(lambda: len(store.puts) > count, one)
        await until(lambda: 0 in one.members()[0].beat.owns, one)
    beat = decode_beat(store.objects[f"{PREFIX}one"].data)
    assert beat is not None
    assert beat.owns == {0: 1}  # it goes on being heard


async def test_a_store_that_is_away_is_told_of_once_and_asked_again() -> None:
    store, failures = MemoryStore(), list[str]()
    store.land(f"{PREFIX}stranger", b"\xff", 0)  # something to read: its own beat it knows
    one = heartbeat(store, "one", failures)
    async with beating(one):
        await until(lambda: names(one) == ["one"], one)
        store.unreadable = 3
        await until(lambda: store.unreadable == 0, one)
        one.own(0, 1)
        await until(lambda: bool(one.members()[0].beat.owns), one)
    assert len(failures) == 1
    assert "on demand" in failures[0]


async def test_who_says_goodbye_is_gone_at_once() -> None:
    store = MemoryStore()
    first, second = heartbeat(store, "first"), heartbeat(store, "second")
    async with beating(second):
        async with beating(first):
            await until(lambda: len(names(second)) == 2, first, second)
        await first.stop()
        await until(lambda: names(second) == ["second"], second)


async def test_what_cannot_be_read_is_nobody_and_stays_where_it_is() -> None:
    store = MemoryStore()
    store.land(f"{PREFIX}stranger", b"\xff", 0)
    one = heartbeat(store, "one")
    async with beating(one):
        await until(lambda: names(one) == ["one"], one)
    assert f"{PREFIX}stranger" in store.objects


async def test_a_newcomer_is_found_when_somebody_asks_for_it() -> None:
    store = MemoryStore()
    first, newcomer = heartbeat(store, "first"), heartbeat(store, "newcomer")
    for partition in range(2):
        first.own(partition, 1)  # nothing is vacant, so lists are rare
    async with beating(first):
        await until(lambda: first.members() != [] and bool(first.members()[0].beat.owns), first)
        async with beating(newcomer):
            await until(lambda: len(names(newcomer)) == 2, newcomer)
            assert names(first) == ["first"]
            first.list_soon()
            await until(lambda: len(names(first)) == 2, first)
