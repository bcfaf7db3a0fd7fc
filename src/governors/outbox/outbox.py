"""The outbox: an action goes out only after its receipt is committed, and its result comes back as an event.

Nothing here is durable and nothing needs to be: an open action stands in its machine's record until the result is
in, so after a crash it is submitted again under the same id. A machine has one action in flight at the most, which
bounds what is open by the number of machines.

No action waits for another; which of a tenant's may be in flight together is decided where they are asked for. An
attempt that fails is made again (`persistence.py`) until the action is done, refused, given up, abandoned by
an operator, or taken back: a machine that has moved on wants it no more, and nothing goes out for it from then on. Each
attempt is told to the machine, and so leaves a receipt: one that ends the action as its result, any other as itself.

An attempt that nobody answered may have done it, and so may one of a process that has ended. The machine is told so,
and undoes what it does not want.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from governors.machines.catalog import RULES
from governors.machines.events import ActionAttempt, ActionResult, Event
from governors.machines.explain import explain
from governors.outbox.executors import Answer, Done, Executor, Order, Refused, TryAgain
from governors.outbox.persistence import ATTEMPT_S, GIVE_UP_S, WELL, Breaker, failed, pause_s, tried
from governors.tenants.tenant import OpenWork
from ledger.appender import StoredReceipt
from ledger.errors import ReceiptNotFoundError
from ledger.format import canonical

AT_ONCE_MAX: Final = 8
"""Attempts under way at one executor."""
LOOK_S: Final = 5.0
"""How often an action that waits is looked at: whether it is wanted still."""


class Receipts(Protocol):
    """What the outbox needs of the ledger."""

    def hurry(self, index: int) -> None: ...

    async def wait_committed(self, index: int) -> None: ...

    async def read(self, index: int) -> StoredReceipt: ...


class OpenOrder(Struct, frozen=True):
    """An action that has not ended, as operators see it. `next_in_s` is None while none is planned: it waits for its
    turn or its receipt, or is being tried right now. `maybe`: it may have been done. `given_up_in_s` is None until its
    receipt is committed.
    """

    work: OpenWork
    executor: str
    since_us: int
    attempts: int
    detail: str
    next_in_s: float | None
    maybe: bool
    given_up_in_s: float | None


class _Ended(Struct, frozen=True):
    """How an action ended without the answer of an attempt."""

    how: Literal["given_up", "abandoned", "withdrawn"]
    detail: str


class _Open:
    """An action that has not ended. `maybe`: an attempt may have done it without our hearing of it; `acknowledged`: the
    other side says that it has it.
    """

    __slots__ = (
        "acknowledged", "attempts", "detail", "ended_by", "give_up_s", "maybe", "next_s", "place", "roused", "since_us",
        "work",
    )  # fmt: skip

    def __init__(self, work: OpenWork, place: "_Place", since_us: int) -> None:
        self.work = work
        self.place = place
        self.since_us = since_us
        self.attempts = work.action.attempts
        self.detail = ""
        self.maybe = work.again or work.action.doubtful
        self.acknowledged = False
        self.next_s: float | None = None
        self.give_up_s: float | None = None
        self.roused = asyncio.Event()
        self.ended_by = ""
        """The operator who abandoned it."""


class _Place:
    """An executor, how it is, and who may go there at once."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.breaker: Breaker = WELL
        self.room = asyncio.Semaphore(AT_ONCE_MAX)


class Outbox:
    """Carries out actions. `executors` are asked in order who takes one; the last of them must take everything.

    `tell(tenant, key, event)` delivers results to the machines that asked, `why_not(work)` says why an action shall not
    be done any more ("" where it shall); `on_attempt(executor, outcome)` and `on_ended(kind, outcome)` count.
    """

    def __init__(
        self,
        receipts: Receipts,
        partition: int,
        executors: Sequence[Executor],
        tell: Callable[[str, str, Event], object],
        why_not: Callable[[OpenWork], str],
        clock_us: Callable[[], int],
        on_attempt: Callable[[str, str], None],
        on_ended: Callable[[str, str], None],
    ) -> None:
        self._receipts = receipts
        self._partition = partition
        self._places = [_Place(executor) for executor in executors]
        self._tell = tell
        self._why_not = why_not
        self._clock_us = clock_us
        self._on_attempt = on_attempt
        self._on_ended = on_ended
        self._open: dict[str, _Open] = {}
        """By the action's id, in the order in which they were submitted."""
        self._arrived: deque[_Open] = deque()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger("governors.outbox")

    @property
    def depth(self) -> int:
        """Actions that have not ended."""
        return len(self._open)

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest action has been open in this process, 0 when none is."""
        oldest = next(iter(self._open.values()), None)
        return 0.0 if oldest is None else max(0, self._clock_us() - oldest.since_us) / 1e6

    def ailing(self) -> list[str]:
        """The executors that are left alone for a while, because attempts at them fail."""
        now_s = asyncio.get_running_loop().time()
        return [place.executor.name for place in self._places if place.breaker.wait_s(now_s)]

    def orders(self) -> list[OpenOrder]:
        """What has not ended, oldest first."""
        now_s = asyncio.get_running_loop().time()
        return [
            OpenOrder(
                one.work, one.place.executor.name, one.since_us, one.attempts, one.detail,
                None if one.next_s is None else max(0.0, one.next_s - now_s),
                one.maybe,
                None if one.give_up_s is None else max(0.0, one.give_up_s - now_s),
            )
            for one in self._open.values()
        ]  # fmt: skip

    def submit(self, work: OpenWork) -> None:
        """Take on an action; it goes out when its receipt is committed. One that is open already stays as it is."""
        if work.action.id in self._open:
            return
        place = next(place for place in self._places if place.executor.takes(work))
        one = self._open[work.action.id] = _Open(work, place, self._clock_us())
        self._arrived.append(one)
        self._wake.set()

    def hurry(self, action_id: str) -> bool:
        """Try again now, without the pause that it is in; false where no such action is open."""
        one = self._open.get(action_id)
        if one is not None:
            one.place.breaker = WELL
            one.roused.set()
        return one is not None

    def abandon(self, action_id: str, by: str) -> bool:
        """Make no further attempt, and tell the machine that it was not done; false where no such action is open."""
        one = self._open.get(action_id)
        if one is not None:
            one.ended_by = by
            one.roused.set()
        return one is not None

    async def run(self) -> None:
        """Carry actions out. Those under way when this is cancelled are begun anew by the next `run`, or by recovery.

        Raises LedgerFailedError where it is not known what is committed.
        """
        self._arrived = deque(self._open.values())
        async with asyncio.TaskGroup() as under_way:
            while True:
                while self._arrived:
                    under_way.create_task(self._see_through(self._arrived.popleft()))
                self._wake.clear()
                await self._wake.wait()

    async def _see_through(self, one: _Open) -> None:
        ended = await self._carry_out(one)
        work, ok = one.work, isinstance(ended, Done)
        del self._open[work.action.id]
        how = _how(ended)
        self._on_ended(work.action.kind, "ok" if ok else "withdrawn" if how == "withdrawn" else "failed")
        result = ActionResult(
            work.action.id,
            work.action.kind,
            ok,
            ended.detail,
            maybe=not ok and one.maybe,
            ended=how,
            attempts=one.attempts,
            executor=one.place.executor.name,
            verified=isinstance(ended, Done) and ended.proof == "read_back",
            proof=ended.proof if isinstance(ended, Done) else "",
        )
        self._tell(work.tenant, work.key, Event(f"{work.action.id}-result", self._clock_us(), result))

    async def _carry_out(self, one: _Open) -> Done | Refused | _Ended:
        """Try until it has ended."""
        # No action without a durable receipt.
        self._receipts.hurry(one.work.receipt)
        await self._receipts.wait_committed(one.work.receipt)
        order = await self._order(one.work)
        if order is None:
            return Refused("its receipt was dropped meanwhile")
        loop, place = asyncio.get_running_loop(), one.place
        one.give_up_s = give_up_s = loop.time() + GIVE_UP_S
        while True:
            if (ended := self._end(one, give_up_s)) is not None:
                return ended
            wait_s = place.breaker.wait_s(loop.time())
            if not wait_s:
                try:
                    async with asyncio.timeout_at(min(give_up_s, loop.time() + LOOK_S)):
                        await place.room.acquire()
                except TimeoutError:
                    continue
                try:
                    # While it waited for its turn, it may have been taken back, and the place have begun to ail.
                    if (ended := self._end(one, give_up_s)) is not None:
                        return ended
                    wait_s = place.breaker.wait_s(loop.time())
                    answer = None if wait_s else await self._attempt(one, order)
                finally:
                    place.room.release()
                if isinstance(answer, Done | Refused):
                    return answer
                if answer is not None:
                    wait_s = pause_s(one.work.action.id, one.attempts, answer.after_s)
                    self._tell_attempt(one, answer, wait_s)
            await self._rest(one, min(wait_s, give_up_s - loop.time()))

    def _end(self, one: _Open, give_up_s: float) -> _Ended | None:
        """Why no further attempt is made; None where one may be, right now."""
        if one.ended_by:
            return _Ended("abandoned", f"abandoned by {one.ended_by}" + _behind(one))
        if why_not := self._why_not(one.work):
            return _Ended("withdrawn", why_not + (_behind(one) if one.maybe else ""))
        if asyncio.get_running_loop().time() >= give_up_s:
            return _Ended("given_up", "given up" + _behind(one))
        return None

    async def _attempt(self, one: _Open, order: Order) -> Answer:
        place, loop = one.place, asyncio.get_running_loop()
        place.breaker = tried(place.breaker, loop.time())
        one.attempts += 1
        # Whatever ends this process meanwhile, or this task: it may have been done.
        before, one.maybe = one.maybe, True
        answer = await self._ask(place.executor, replace(order, maybe=before, acknowledged=one.acknowledged))
        if isinstance(answer, TryAgain):
            one.maybe = before or answer.maybe
            one.acknowledged = one.acknowledged or answer.acknowledged
            one.detail = answer.detail
            if answer.ails:
                place.breaker = failed(place.breaker, loop.time())
            self._log.warning(
                "an action was not done yet",
                action_id=one.work.action.id, executor=place.executor.name, attempts=one.attempts, reason=answer.detail,
            )  # fmt: skip
        else:
            one.maybe = before or (isinstance(answer, Refused) and answer.maybe)
            # Whoever refuses is well.
            place.breaker = WELL
        self._on_attempt(place.executor.name, _word(answer))
        return answer

    def _tell_attempt(self, one: _Open, answer: TryAgain, wait_s: float) -> None:
        action = one.work.action
        attempt = ActionAttempt(
            action.id, action.kind, one.attempts, one.place.executor.name, _word_of_failure(answer), answer.detail,
            int(wait_s * 1_000),
        )  # fmt: skip
        event = Event(f"{action.id}-attempt-{one.attempts}", self._clock_us(), attempt)
        self._tell(one.work.tenant, one.work.key, event)

    async def _ask(self, executor: Executor, order: Order) -> Answer:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                return await executor.execute(order)
        except TimeoutError:
            return TryAgain(f"no answer within {ATTEMPT_S:g} s")
        except Exception as error:  # noqa: BLE001 - a defect of an executor must not end those of others
            self._log.exception("executor failed", action_id=order.work.action.id)
            return TryAgain(f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode())

    async def _rest(self, one: _Open, seconds: float) -> None:
        """Pause before the next attempt, unless somebody is in a hurry, or it is not wanted any more."""
        loop = asyncio.get_running_loop()
        until_s = one.next_s = loop.time() + seconds
        while (left_s := until_s - loop.time()) > 0 and not self._why_not(one.work):
            try:
                async with asyncio.timeout(min(left_s, LOOK_S)):
                    await one.roused.wait()
                break
            except TimeoutError:
                pass
        one.roused.clear()
        one.next_s = None

    async def _order(self, work: OpenWork) -> Order | None:
        try:
            stored = await self._receipts.read(work.receipt)
        except ReceiptNotFoundError:
            return None
        receipt = canonical.decode(stored.leaf)
        return Order(
            work=work,
            receipt=f"{self._partition}:{work.receipt}",
            receipt_sha256=hashlib.sha256(stored.leaf).hexdigest(),
            decided_us=receipt.ts_us,
            reason=explain(RULES, receipt.rule, receipt.evidence),
        )


def _behind(one: _Open) -> str:
    """What is known of the attempts so far."""
    return f" after {one.attempts} attempts: {one.detail}" if one.attempts else ""


def _how(ended: Done | Refused | _Ended) -> Literal["done", "refused", "given_up", "abandoned", "withdrawn"]:
    match ended:
        case Done():
            return "done"
        case Refused():
            return "refused"
        case _Ended():
            return ended.how


def _word(answer: Answer) -> Literal["done", "refused", "failed", "unanswered"]:
    match answer:
        case Done():
            return "done"
        case Refused():
            return "refused"
        case TryAgain():
            return _word_of_failure(answer)


def _word_of_failure(answer: TryAgain) -> Literal["failed", "unanswered"]:
    return "unanswered" if answer.maybe else "failed"
