"""Actions on their way out, on a loop whose time passes at once: tried again, taken back, abandoned."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator

import pytest
from simulation.loop import simulated

from governors.machines.events import ActionAttempt, ActionResult, Event
from governors.machines.overlays import OpenAction
from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.outbox.outbox import AT_ONCE_MAX, LOOK_S, Outbox
from governors.outbox.persistence import AILING_AFTER, GIVE_UP_S, LEFT_ALONE_S
from governors.tenants.tenant import OpenWork
from ledger.appender import StoredReceipt
from ledger.errors import ReceiptNotFoundError
from ledger.format import canonical
from ledger.format.receipt import Fsm, Receipt

NOON_US = 1_795_348_800_000_000
UNREACHED = TryAgain("cannot be reached", maybe=False)
UNHEARD = TryAgain("no answer")


def leaf() -> bytes:
    fsm = Fsm("cost.snapshot", "WARN", "cost_guard", "prod", "STOP", 1)
    evidence: dict[str, int | str] = {
        "budget_micros": 10_000_000, "cost_micros": 11_000_000, "currency": "USD", "limit_ppm": 1_000_000,
    }  # fmt: skip
    return canonical.encode(
        Receipt((), "stop", 1, "e", evidence, fsm, "", "log", NOON_US, "decided", "", "", "cost.stop", "s", "t",
                NOON_US, 0, 1, "w")
    )  # fmt: skip


class Ledger:
    """Receipts that are there and committed, but for those that are not."""

    def __init__(self) -> None:
        self.committed = asyncio.Event()
        self.committed.set()
        self.dropped: set[int] = set()

    def hurry(self, index: int) -> None:
        del index

    async def wait_committed(self, index: int) -> None:
        del index
        await self.committed.wait()

    async def read(self, index: int) -> StoredReceipt:
        if index in self.dropped:
            raise ReceiptNotFoundError("dropped")
        return StoredReceipt(index, leaf(), committed=True)


class Place:
    """An executor that answers as it is told, and Done when it was told nothing."""

    def __init__(self, name: str, *kinds: str) -> None:
        self.name = name
        self._kinds = kinds
        self.answers: dict[str, deque[Answer | Exception]] = {}
        self.asked: list[str] = []
        self.at_s: list[float] = []
        self.orders: list[Order] = []
        self.hold = asyncio.Event()
        self.hold.set()

    def takes(self, work: OpenWork) -> bool:
        return not self._kinds or work.action.kind in self._kinds

    async def execute(self, order: Order) -> Answer:
        name = order.work.action.id
        self.asked.append(name)
        self.orders.append(order)
        self.at_s.append(asyncio.get_running_loop().time())
        await self.hold.wait()
        waiting = self.answers.get(name)
        answer = waiting.popleft() if waiting else Done("done")
        if isinstance(answer, Exception):
            raise answer
        return answer


class World:
    """An outbox, its executors, and what it tells."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.pager, self.rest = Place("pager", "page"), Place("rest")
        self.results: dict[str, ActionResult] = {}
        self.tried: dict[str, list[ActionAttempt]] = {}
        self.unwanted: set[str] = set()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.box = Outbox(
            self.ledger, 0, [self.pager, self.rest], self._tell,
            lambda work: "unwanted" if work.action.id in self.unwanted else "", lambda: NOON_US,
            lambda executor, outcome: self.attempts.update([(executor, outcome)]),
            lambda kind, outcome: self.ended.update([(kind, outcome)]),
        )  # fmt: skip

    def _tell(self, tenant: str, key: str, event: Event) -> None:
        assert (tenant, key) == (event.id.partition("/")[0], "cost_guard\x1fprod")
        body = event.body
        assert isinstance(body, ActionResult | ActionAttempt)
        assert body.action_id not in self.results
        if isinstance(body, ActionAttempt):
            self.tried.setdefault(body.action_id, []).append(body)
        else:
            self.results[body.action_id] = body

    def submit(self, name: str, kind: str = "stop", *, attempts: int = 0, again: bool = False) -> None:
        """`name`: the tenant, a slash and anything."""
        action = OpenAction(name, kind, {}, None, attempts)
        tenant = name.partition("/")[0]
        self.box.submit(OpenWork(tenant, "cost_guard\x1fprod", "cost_guard", "prod", action, 7, again))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.box.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def result(self, name: str) -> ActionResult:
        while name not in self.results:  # noqa: ASYNC110 - time passes at once
            await asyncio.sleep(0.1)
        return self.results[name]


@simulated
async def test_an_order_says_what_its_receipt_says() -> None:
    world = World()
    world.submit("acme/1")
    async with world.running():
        assert await world.result("acme/1") == ActionResult(
            "acme/1", "stop", ok=True, detail="done", ended="done", attempts=1, executor="rest"
        )
    assert not world.tried, "the result is the word on the attempt that ends it"
    (order,) = world.rest.orders
    assert (order.receipt, order.decided_us) == ("0:7", NOON_US)
    assert order.reason == "cost 11.00 of 10.00 USD is at or over 100 %"
    assert world.box.depth == 0


@simulated
async def test_nothing_goes_out_before_its_receipt_is_committed() -> None:
    world = World()
    world.ledger.committed.clear()
    world.submit("acme/1")
    async with world.running():
        await asyncio.sleep(60)
        assert not world.rest.asked
        world.ledger.committed.set()
        assert (await world.result("acme/1")).ok


@simulated
async def test_an_action_whose_receipt_is_gone_is_not_carried_out() -> None:
    world = World()
    world.ledger.dropped.add(7)
    world.submit("acme/1")
    async with world.running():
        assert not (await world.result("acme/1")).ok
    assert not world.rest.asked


@simulated
async def test_the_first_executor_that_takes_an_action_gets_it() -> None:
    world = World()
    world.submit("acme/1", "page")
    world.submit("acme/2", "stop")
    async with world.running():
        await world.result("acme/1")
        await world.result("acme/2")
    assert (world.pager.asked, world.rest.asked) == (["acme/1"], ["acme/2"])


@simulated
async def test_what_fails_is_tried_again_with_growing_pauses_until_it_is_done() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNREACHED, UNHEARD, OSError("odd"), Done("at last")])
    world.submit("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.ok, result.detail, result.attempts) == (True, "at last", 4)
    told = [(one.number, one.executor, one.outcome, one.detail) for one in world.tried["acme/1"]]
    assert told == [
        (1, "rest", "failed", "cannot be reached"),
        (2, "rest", "unanswered", "no answer"),
        (3, "rest", "unanswered", "OSError: odd"),
    ]
    pauses = [later - earlier for earlier, later in zip(world.rest.at_s, world.rest.at_s[1:], strict=False)]
    assert [0.5 <= pause / 2**number <= 1.01 for number, pause in enumerate(pauses)] == [True] * 3
    assert [one.next_ms for one in world.tried["acme/1"]] == [int(pause * 1_000) for pause in pauses]
    assert world.attempts == {("rest", "failed"): 1, ("rest", "unanswered"): 2, ("rest", "done"): 1}
    assert world.ended == {("stop", "ok"): 1}


@simulated
async def test_what_is_never_done_is_given_up_and_says_why() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNHEARD] * 1_000)
    world.submit("acme/1")
    begun_s = asyncio.get_running_loop().time()
    async with world.running():
        result = await world.result("acme/1")
    assert (result.ok, result.maybe, result.ended) == (False, True, "given_up")
    assert result.attempts == len(world.tried["acme/1"]) == len(world.rest.asked)
    assert result.detail.startswith("given up after ")
    assert result.detail.endswith(": no answer")
    assert GIVE_UP_S <= asyncio.get_running_loop().time() - begun_s < GIVE_UP_S + 1


@simulated
async def test_who_asks_to_be_left_alone_is_left_alone() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([TryAgain("answered 429", maybe=False, after_s=42.0)])
    world.submit("acme/1")
    async with world.running():
        await world.result("acme/1")
    assert 42 <= world.rest.at_s[1] - world.rest.at_s[0] < 43


@simulated
async def test_a_refusal_is_an_answer_and_not_tried_again() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([Refused("answered 404")])
    world.submit("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.ok, result.maybe, result.ended, result.detail) == (False, False, "refused", "answered 404")
    assert world.rest.asked == ["acme/1"]


@simulated
async def test_an_action_that_fails_holds_up_no_other() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNHEARD] * 3)
    for name in ("acme/1", "acme/2", "other/1"):
        world.submit(name)
    async with world.running():
        await world.result("acme/1")
    assert list(world.results) == ["acme/2", "other/1", "acme/1"]


@simulated
async def test_a_place_that_ails_gets_one_attempt_at_a_time() -> None:
    world = World()
    names = [f"t{number}/1" for number in range(AILING_AFTER + 3)]
    for name in names:
        world.rest.answers[name] = deque([UNHEARD])
    world.rest.hold.clear()
    for name in names[:AILING_AFTER]:
        world.submit(name)
    async with world.running():
        await asyncio.sleep(0.1)
        world.rest.hold.set()
        await asyncio.sleep(0.1)
        assert world.box.ailing() == ["rest"]
        for name in names[AILING_AFTER:]:
            world.submit(name)
        world.rest.hold.clear()
        await asyncio.sleep(LEFT_ALONE_S - 1)
        assert len(world.rest.asked) == AILING_AFTER
        await asyncio.sleep(2)
        assert len(world.rest.asked) == AILING_AFTER + 1
        world.rest.hold.set()
        for name in names:
            await world.result(name)
        assert world.box.ailing() == []


@simulated
async def test_what_was_not_done_is_taken_back_when_its_machine_has_moved_on() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNREACHED] * 5)
    world.submit("acme/1")
    async with world.running():
        await asyncio.sleep(0.1)
        world.unwanted.add("acme/1")
        result = await world.result("acme/1")
    assert (result.ok, result.maybe, result.ended, result.detail) == (False, False, "withdrawn", "unwanted")
    assert world.ended == {("stop", "withdrawn"): 1}, "nobody need look"
    assert len(world.rest.asked) == 1


@simulated
async def test_a_machine_that_has_moved_on_is_told_that_it_may_have_been_done_and_nothing_more_goes_out() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNHEARD, UNREACHED, UNREACHED, UNREACHED])
    world.submit("acme/1")
    async with world.running():
        await asyncio.sleep(5)
        asked = len(world.rest.asked)
        world.unwanted.add("acme/1")
        result = await world.result("acme/1")
    assert (result.ok, result.maybe, result.ended) == (False, True, "withdrawn")
    assert len(world.rest.asked) == asked > 1


@simulated
async def test_what_is_unwanted_is_taken_back_amid_a_long_pause() -> None:
    """Or its machine could not ask for the opposite all the while."""
    world = World()
    world.rest.answers["acme/1"] = deque([TryAgain("busy", maybe=False, after_s=100.0)])
    world.submit("acme/1")
    async with world.running():
        await asyncio.sleep(1)
        world.unwanted.add("acme/1")
        before_s = asyncio.get_running_loop().time()
        await world.result("acme/1")
        assert asyncio.get_running_loop().time() - before_s < LOOK_S + 1


@simulated
async def test_what_waits_for_its_turn_at_a_busy_place_is_taken_back_there_too() -> None:
    world = World()
    world.rest.hold.clear()
    for number in range(AT_ONCE_MAX + 1):
        world.submit(f"t{number}/1")
    async with world.running():
        await asyncio.sleep(1)
        last = f"t{AT_ONCE_MAX}/1"
        assert last not in world.rest.asked
        world.unwanted.add(last)
        world.rest.hold.set()
        assert (await world.result(last)).ended == "withdrawn"
    assert last not in world.rest.asked


@simulated
async def test_an_action_of_before_a_crash_may_have_been_done_and_its_attempts_are_counted_on() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNREACHED, Refused("no")])
    world.submit("acme/1", attempts=2, again=True)
    world.submit("acme/2", again=True)
    world.unwanted.add("acme/2")
    async with world.running():
        result, other = await world.result("acme/1"), await world.result("acme/2")
    assert [one.number for one in world.tried["acme/1"]] == [3]
    assert (result.attempts, result.ended, result.maybe) == (4, "refused", True)
    assert (other.attempts, other.ended, other.maybe) == (0, "withdrawn", True)


@simulated
async def test_an_attempt_that_is_cut_off_may_have_done_it() -> None:
    world = World()
    world.rest.hold.clear()
    world.submit("acme/1")
    async with world.running():
        await asyncio.sleep(1)
    world.unwanted.add("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.ended, result.maybe) == ("withdrawn", True)


@simulated
async def test_what_was_refused_only_in_part_may_have_been_done() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([Refused("one of two", maybe=True)])
    world.submit("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.ended, result.maybe) == ("refused", True)


@simulated
async def test_what_was_read_back_is_said() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([Done("scaled", "read_back")])
    world.submit("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.verified, result.proof) == (True, "read_back")


@simulated
async def test_what_was_acknowledged_and_not_read_back_is_said() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([Done("answered 202", "acknowledged")])
    world.submit("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.verified, result.proof) == (False, "acknowledged")


@simulated
async def test_an_attempt_knows_what_those_before_it_have_heard() -> None:
    world = World()
    taken = TryAgain("taken, and not there yet", ails=False, acknowledged=True)
    world.rest.answers["acme/1"] = deque([UNREACHED, UNHEARD, taken, UNREACHED, Done("there", "read_back")])
    world.submit("acme/1")
    async with world.running():
        assert (await world.result("acme/1")).ok
    heard = [(one.maybe, one.acknowledged) for one in world.rest.orders]
    assert heard == [(False, False), (False, False), (True, False), (True, True), (True, True)]


@simulated
async def test_the_first_attempt_of_a_new_process_knows_that_there_may_have_been_others() -> None:
    world = World()
    world.submit("acme/1", again=True)
    async with world.running():
        assert (await world.result("acme/1")).ok
    assert [(one.maybe, one.acknowledged) for one in world.rest.orders] == [(True, False)]


@simulated
async def test_what_was_taken_and_is_never_seen_is_given_up_in_doubt() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([TryAgain("not there", ails=False, acknowledged=True)] * 100)
    world.submit("acme/1")
    async with world.running():
        result = await world.result("acme/1")
    assert (result.ok, result.ended, result.maybe, result.proof) == (False, "given_up", True, "")


@simulated
async def test_an_operator_can_abandon_and_hurry_and_sees_what_is_open() -> None:
    world = World()
    world.rest.answers["acme/1"] = deque([UNREACHED] * 100)
    world.submit("acme/1")
    async with world.running():
        await asyncio.sleep(20)
        (order,) = world.box.orders()
        assert (order.executor, order.attempts, order.detail) == ("rest", len(world.rest.asked), UNREACHED.detail)
        assert order.next_in_s is not None
        assert world.box.hurry("acme/1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(world.rest.asked) == order.attempts + 1
        assert world.box.abandon("acme/1", "ana")
        result = await world.result("acme/1")
        assert not result.ok
        assert result.detail.startswith("abandoned by ana after ")
        assert world.box.orders() == []
        assert not world.box.hurry("acme/1")
        assert not world.box.abandon("acme/1", "ana")


@simulated
async def test_a_restart_begins_anew_what_has_not_ended_and_nothing_twice() -> None:
    world = World()
    world.rest.hold.clear()
    for name in ("acme/1", "acme/2", "other/1"):
        world.submit(name)
    async with world.running():
        await asyncio.sleep(1)
    world.rest.hold.set()
    world.submit("acme/1")
    async with world.running():
        for name in ("acme/1", "acme/2", "other/1"):
            assert (await world.result(name)).ok
    assert Counter(world.rest.asked) == {"acme/1": 2, "acme/2": 2, "other/1": 2}


@pytest.mark.parametrize("answer", [UNHEARD, UNREACHED, Refused("no"), Done("yes")])
@simulated
async def test_every_action_ends_with_exactly_one_result(answer: Answer) -> None:
    world = World()
    names = [f"t{number % 7}/{number}" for number in range(50)]
    for number, name in enumerate(names):
        world.rest.answers[name] = deque([answer] * (number % 4))
        world.submit(name)
    async with world.running():
        for name in names:
            await world.result(name)
    assert set(world.results) == set(names)
