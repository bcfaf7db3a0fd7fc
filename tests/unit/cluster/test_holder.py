"""A holder seeks, serves and hands over its partition as it is told to, whatever becomes of it meanwhile."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from support.memory_store import MemoryStore

from governors.cluster.heartbeat import Heartbeat
from governors.cluster.holder import Holder
from governors.cluster.moves import Moves
from governors.cluster.ownership import Aim
from ledger import backoff
from ledger.errors import SegmentCorruptError, StoreUnavailableError, WriterFencedError


class Log:
    """A partition that the test frees, fails and looks at."""

    epoch = 7

    def __init__(self) -> None:
        self.told: list[str] = []
        self.free = asyncio.Event()
        self.ends = asyncio.Event()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.error: Exception | None = None
        self.here: Log | None = None
        self.changed = Moves()

    def tell(self, what: str) -> None:
        self.told.append(what)
        self.changed.tell()

    async def take(self, on_standing_by: Callable[[], None], _hurry: asyncio.Event) -> "Log":
        self.tell("sought")
        on_standing_by()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.tell("given up")
            raise
        self.tell("taken")
        return self

    async def open(self) -> None:
        self.tell("opened")
        await self.may_open.wait()

    async def serve(self, on_ready: Callable[[], None]) -> None:
        on_ready()
        self.tell("served")
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.tell("stopping")
            await self.may_stop.wait()
            self.tell("stopped")
            raise
        assert self.error is not None
        raise self.error

    async def until_it_can_go(self) -> None:
        self.tell("going")
        await self.may_go.wait()

    async def close(self) -> None:
        self.tell("closed")

    def put(self, held: "Log | None") -> None:
        self.here = held
        self.tell("here" if held is not None else "not here")

    async def until(self, *told: str) -> None:
        """The test's own time limit ends it."""
        assert await self.changed.wait_until(lambda: self.told[-len(told) :] == list(told), 60.0), self.told


SERVED = ("sought", "taken", "opened", "here", "served")


@asynccontextmanager
async def holding(log: Log, *, alone: bool = False) -> AsyncIterator[tuple[Holder[Log], Heartbeat, list[Exception]]]:
    heartbeat = Heartbeat(MemoryStore(), "me", "http://me", 1, rng=random.Random(1), on_failed=lambda _: None)
    lost: list[Exception] = []
    holder = Holder(
        0, log.take, log.put, None if alone else heartbeat, random.Random(1), lambda _, error: lost.append(error)
    )
    task = asyncio.create_task(holder.run(lambda: None))
    try:
        yield holder, heartbeat, lost
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def serving(log: Log, *, alone: bool = False) -> AsyncIterator[tuple[Holder[Log], Heartbeat, list[Exception]]]:
    """From when it serves what it took."""
    log.free.set()
    async with holding(log, alone=alone) as (holder, heartbeat, lost):
        holder.aim(Aim.SEEK)
        await log.until(*SERVED)
        yield holder, heartbeat, lost


@pytest.fixture(autouse=True)
def tries_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.001)


async def test_it_does_nothing_until_it_is_told_to_seek_and_gives_up_when_others_shall_have_it() -> None:
    log = Log()
    async with holding(log) as (holder, heartbeat, _):
        await asyncio.sleep(0)
        assert log.told == []
        holder.aim(Aim.SEEK)
        await log.until("sought")
        assert heartbeat._stands_by == {0}
        holder.aim(Aim.LEAVE)
        await log.until("sought", "given up")
        await holder.let_go()
        assert heartbeat._stands_by == set()
        holder.aim(Aim.SEEK)
        await log.until("sought")


async def test_it_serves_what_it_took_and_hands_it_over_when_it_is_told_to() -> None:
    log = Log()
    async with serving(log) as (holder, heartbeat, _):
        assert (holder.has_it, heartbeat._owns) == (True, {0: 7})
        await holder.let_go()
        # Nobody is sent here any more before it is stopped.
        assert log.told[-5:] == ["going", "not here", "stopping", "stopped", "closed"]
        assert (holder.has_it, heartbeat._owns) == (False, {})


async def test_who_looks_for_it_while_it_is_recovered_is_told_to_ask_here() -> None:
    log = Log()
    log.free.set()
    log.may_open.clear()
    async with holding(log) as (holder, heartbeat, _):
        holder.aim(Aim.SEEK)
        await log.until("taken", "opened")
        assert (heartbeat._stands_by, heartbeat._owns) == ({0}, {})
        log.may_open.set()
        await log.until("here", "served")
        assert (heartbeat._stands_by, heartbeat._owns) == (set(), {0: 7})


async def test_what_is_to_be_handed_over_goes_on_until_it_can_go() -> None:
    log = Log()
    log.may_go.clear()
    async with serving(log) as (holder, heartbeat, _):
        letting_go = asyncio.create_task(holder.let_go())
        await log.until("going")
        assert (holder.has_it, holder.is_going, heartbeat._owns) == (True, True, {0: 7})
        holder.aim(Aim.KEEP)  # too late: it goes all the same, and so nothing else is handed over meanwhile
        assert holder.is_going
        log.may_go.set()
        await letting_go
        assert log.told[-4:] == ["not here", "stopping", "stopped", "closed"]


async def test_one_that_fails_before_it_can_go_is_not_waited_for() -> None:
    log = Log()
    log.may_go.clear()
    async with serving(log) as (holder, _, lost):
        holder.aim(Aim.RELEASE)
        await log.until("going")
        log.error = WriterFencedError("b has taken it")
        log.ends.set()
        await log.until("not here", "closed")
        assert lost == [log.error]


async def test_the_end_of_the_process_hands_it_over_too() -> None:
    log = Log()
    async with serving(log, alone=True):
        pass
    assert log.told[-3:] == ["stopping", "stopped", "closed"]


@pytest.mark.parametrize("error", [WriterFencedError("b has taken it"), StoreUnavailableError("away", 0.0)])
async def test_what_others_took_is_sought_again(error: Exception) -> None:
    log = Log()
    async with serving(log) as (holder, _, lost):
        log.error = error
        log.free.clear()
        log.ends.set()
        await log.until("not here", "closed")
        assert lost == [error]
        holder.aim(Aim.LEAVE)
        log.ends.clear()
        log.free.set()
        holder.aim(Aim.SEEK)
        await log.until(*SERVED)


async def test_without_others_losing_it_is_the_end() -> None:
    log = Log()
    async with serving(log, alone=True) as (holder, _, lost):
        log.error = WriterFencedError("b has taken it")
        log.ends.set()
        await log.until("not here", "closed")
        await holder.let_go()
        assert (holder.failed, lost) == (log.error, [])


async def test_what_is_this_machines_own_fault_is_the_end() -> None:
    log = Log()
    async with serving(log) as (holder, _, lost):
        log.error = SegmentCorruptError("a.seg", 0, 0, "it is not what was sealed")  # type: ignore[arg-type]
        log.ends.set()
        await log.until("not here", "closed")
        await holder.let_go()
        assert (holder.failed, lost) == (log.error, [])


async def test_the_end_of_the_process_amid_a_hand_over_waits_until_the_log_is_let_go_of() -> None:
    log = Log()
    async with serving(log) as (holder, _, _):
        log.may_stop.clear()
        letting_go = asyncio.create_task(holder.let_go())
        await log.until("not here", "stopping")
        asyncio.get_running_loop().call_later(0.05, log.may_stop.set)
    await letting_go
    assert log.told[-3:] == ["stopping", "stopped", "closed"]
