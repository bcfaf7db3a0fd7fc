"""Has one partition whenever this worker should: seeks it, serves it, hands it over."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

from governors.cluster.heartbeat import Heartbeat
from governors.cluster.ownership import Aim, aim_of
from governors.cluster.workers import Member, holder_of
from governors.supervision.child import Started
from governors.supervision.tasks import see_out
from ledger.backoff import Backoff
from ledger.errors import StoreUnavailableError, WriterFencedError

HAND_OVER_S: Final = 30.0
"""How long it may take to give everything to the other workers, one partition after the other, before this one ends."""
TURN_S: Final = 3.0
"""How long one that is to be handed over may go on until it can: for a commit, and the distance between two heads."""
TAKEN_S: Final = 10.0
"""Whoever takes one over should have it by then. If not, the next is not held up by that."""


class Tenure(Protocol):
    """A partition that was taken: `open` it, `serve` it until cancelled, `close` it whatever became of it. One that is
    to be handed over goes on until it can go: for as long as it goes on, nobody waits.
    """

    @property
    def epoch(self) -> int: ...
    async def open(self) -> None: ...
    async def serve(self, on_ready: Callable[[], None]) -> None: ...
    async def until_it_can_go(self) -> None: ...
    async def close(self) -> None: ...


Held = TypeVar("Held", bound=Tenure)


class Holder(Generic[Held]):
    """Of one partition, as a supervised child. `take(on_standing_by, hurry)` waits until it is free, of which it looks
    sooner when `hurry` is set, and takes it; `here` is told of it once it serves, and of None as soon as it does so no
    more.

    Without a heartbeat there is nobody else, and whatever ends the partition ends this. With one, a partition that
    another worker has taken, or a store that is away, only means trying again: anything else is this machine's fault,
    and ends the process. `failed` is what did.
    """

    def __init__(
        self,
        number: int,
        take: Callable[[Callable[[], None], asyncio.Event], Awaitable[Held]],
        here: Callable[[Held | None], None],
        heartbeat: Heartbeat | None,
        rng: random.Random,
        on_lost: Callable[[int, Exception], None],
    ) -> None:
        self.number = number
        self.failed: Exception | None = None
        self.has_it = False
        self._is_ending = False
        self._take = take
        self._here = here
        self._heartbeat = heartbeat
        self._rng = rng
        self._backoff = Backoff(rng)
        self._on_lost = on_lost
        self._aim = Aim.SEEK if heartbeat is None else Aim.LEAVE
        self._aimed = asyncio.Event()
        self.hurry = asyncio.Event()
        """Set by whoever has reason to believe that it is free."""
        self._is_free = asyncio.Event()
        self._is_free.set()

    @property
    def is_going(self) -> bool:
        """Whether it is being handed over."""
        return (self._aim is Aim.RELEASE or self._is_ending) and not self._is_free.is_set()

    async def let_go(self) -> None:
        """Hand it over, if it is here or about to be; returns once that is done."""
        self.aim(Aim.RELEASE)
        await self._is_free.wait()

    def aim(self, aim: Aim) -> None:
        """Do this from now on."""
        if aim is not self._aim:
            self._aim = aim
            self._aimed.set()

    async def run(self, started: Started) -> None:
        """Until cancelled; a partition that is here is handed over then. Returns where it `failed`."""
        started()
        while True:
            await self._until(lambda: self._aim is Aim.SEEK)
            try:
                await self._seek()
            except (WriterFencedError, StoreUnavailableError) as error:
                if self._heartbeat is None:
                    self.failed = error
                    return
                self._on_lost(self.number, error)
                await self._backoff.wait()
            except Exception as error:  # noqa: BLE001 - whoever runs this process says what it is
                self.failed = error
                return

    async def _seek(self) -> None:
        """Take it and serve it, unless others shall have it before it is free."""
        self._is_free.clear()
        taking = asyncio.ensure_future(self._take(self._stand_by, self.hurry))
        held = None
        try:
            if await self._while_aim_is_to_seek(taking):
                held = taking.result()
                await held.open()
                await self._serve(held)
        finally:
            self._say_free()
            if held is None and taking.done() and not taking.cancelled() and taking.exception() is None:
                held = taking.result()  # it came as this was told to end
            if held is not None:
                await held.close()
            self._is_ending = False
            self._is_free.set()

    async def _serve(self, held: Held) -> None:
        def on_ready() -> None:
            self.has_it = True
            self._backoff = Backoff(self._rng)
            self._here(held)
            if self._heartbeat is not None:
                self._heartbeat.own(self.number, held.epoch)

        if self._aim is not Aim.RELEASE:
            self._aim = Aim.KEEP
        serving = asyncio.ensure_future(held.serve(on_ready))
        released = asyncio.ensure_future(self._until_released(held))
        try:
            await asyncio.wait({serving, released}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Whoever asks from now on is sent elsewhere, while what was taken in is brought to its end.
            self.has_it = False
            self._is_ending = True
            self._here(None)
            released.cancel()
            serving.cancel()
            # Told to end once more meanwhile: it goes on to its end all the same, for the log is its own until then.
            if (interrupted := await see_out([serving], None)) is not None:
                raise interrupted
        if not serving.cancelled():
            serving.result()

    async def _until_released(self, held: Held) -> None:
        await self._until(lambda: self._aim is Aim.RELEASE)
        self._is_ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN_S):
                await held.until_it_can_go()

    async def _while_aim_is_to_seek(self, taking: "asyncio.Future[Held]") -> bool:
        """Whether it was taken; otherwise that was given up as others shall have it."""
        changed = asyncio.ensure_future(self._until(lambda: self._aim is not Aim.SEEK))
        both: set[asyncio.Future[Any]] = {taking, changed}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            taking.cancel()
            if (interrupted := await see_out([taking], None)) is not None:
                raise interrupted
        return not taking.cancelled()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._aimed.wait()
            self._aimed.clear()

    def _stand_by(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stand_by(self.number)

    def _say_free(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.disown(self.number)


class Assignment:
    """Tells each holder what to aim at, as soon as something new is heard of the workers.

    Partitions are handed over one at a time: each stands still meanwhile, and two that are recovered at once take each
    other's time.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        holders: Sequence[Holder[Any]],
        on_heard: Callable[[], None],
        until_taken: Callable[[int, float], Awaitable[object]],
    ) -> None:
        """`on_heard` is called after each look at the others. `until_taken(partition, seconds)` returns when another
        worker has what was handed over, or nobody will, or after so long.
        """
        self._heartbeat = heartbeat
        self._holders = holders
        self._on_heard = on_heard
        self._until_taken = until_taken
        self._is_over = False
        self._vacant_since_s: dict[int, float] = {}
        self._released_s: dict[int, float] = {}
        self.is_leaving = False

    def leave(self, *, leaving: bool) -> None:
        """Hand over everything, and take nothing more; or take part again."""
        self.is_leaving = leaving
        self._heartbeat.leave(leaving=leaving)

    async def end(self) -> None:
        """Hand over everything, whether somebody stands by or not; returns once that is done, or its time is over."""
        self._is_over = True
        self.leave(leaving=True)
        held = [holder for holder in self._holders if holder.has_it]

        async def hand_over() -> None:
            for holder in held:
                await holder.let_go()
                await self._until_taken(holder.number, TAKEN_S)

        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                await asyncio.gather(hand_over(), *(holder.let_go() for holder in self._holders if holder not in held))

    async def run(self) -> None:
        """Until cancelled."""
        heartbeat = self._heartbeat
        while True:
            await heartbeat.changed.wait()
            heartbeat.changed.clear()
            self._on_heard()
            if heartbeat.has_looked and not self._is_over:
                self._look(asyncio.get_running_loop().time())

    def _look(self, now_s: float) -> None:
        members = self._heartbeat.members()
        one_goes = any(self._is_under_way(holder, members, now_s) for holder in self._holders)
        for holder in self._holders:
            number = holder.number
            if holder_of(number, members) is not None:
                self._vacant_since_s.pop(number, None)
                vacant_s = 0.0
            else:
                vacant_s = now_s - self._vacant_since_s.setdefault(number, now_s)
            aim = aim_of(
                self._heartbeat.worker, number, members,
                has_it=holder.has_it, is_leaving=self.is_leaving, vacant_s=vacant_s,
            )  # fmt: skip
            if aim is Aim.RELEASE:
                if one_goes:
                    continue
                one_goes = True
                self._released_s[number] = now_s
            holder.aim(aim)

    def _is_under_way(self, holder: Holder[Any], members: Sequence[Member], now_s: float) -> bool:
        """Whether this worker is handing it over, or has done so and nobody is known to have it yet."""
        if holder.is_going:
            return True
        since_s = self._released_s.get(holder.number, -inf)
        return now_s - since_s < TAKEN_S and holder_of(holder.number, members) is None
