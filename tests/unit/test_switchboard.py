"""All partitions as one service: what is here is done here, and what is elsewhere by whoever has it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from support.runtime import World, running, until
from support.switched import There, switchboard_of

from governors import switchboard as switchboard_module
from governors.admission import Viewed
from governors.api.proof_views import VerifyAnswer
from governors.api.service import NotAcceptingError, OutcomeUnknownError, SignalResult, Wait
from governors.cluster.moves import Moves
from governors.cluster.ownership import partition_of
from governors.runtime import Runtime
from governors.service import GovernorService
from governors.switchboard import Switchboard
from governors.telemetry.metrics import Metrics
from governors.tenants.operations import Operation
from ingest.signals import Signal
from ledger.errors import LedgerClosedError
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.note import Signer
from ledger.verify.documents import Consistency, Tree

PARTITIONS = 3
TENANTS = [
    next(f"t{one}" for one in range(99) if partition_of(f"t{one}", PARTITIONS) == it) for it in range(PARTITIONS)
]
"""One of each partition."""
OPERATION = Operation(at_us=1, by="alice", action="PUT /v1/emergency-stop", path="/v1/emergency-stop", status=200)


class Others:
    """The partitions of other workers: answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.known = {2}
        self.asked: list[tuple[int, list[str], Wait]] = []
        self.operations: list[Operation] = []
        self.failures: list[Exception] = []
        self.unreadable = False

    def knows(self, partition: int) -> bool:
        return partition in self.known

    async def submit(self, partition: int, signals: Sequence[Signal], wait: Wait) -> list[SignalResult]:
        self.asked.append((partition, [one.id for one in signals], wait))
        if self.failures:
            raise self.failures.pop(0)
        return [
            SignalResult(
                one.id,
                one.tenant,
                "backlog_valve",
                "s",
                "decided",
                "none",
                "OPEN",
                "OPEN",
                "",
                None if self.unreadable else "2:0",
                wait,
            )
            for one in signals
        ]

    async def record_operation(self, operation: Operation) -> None:
        self.operations.append(operation)

    def admit(self, partition: int, tenant: str, klass: str, user: str, cost: int) -> Viewed:
        raise AssertionError("nobody asks")


class Scene:
    """A worker that has partitions 0 and 1, with another one that has 2."""

    def __init__(self, runtimes: list[Runtime], world: World) -> None:
        self.world = world
        self.others = Others()
        self.metrics = Metrics("0")
        self.runtimes = runtimes
        self.board = self.with_these(*runtimes)

    def with_these(self, *runtimes: Runtime, is_alone: bool = False) -> Switchboard:
        others = None if is_alone else self.others
        return switchboard_of(*runtimes, metrics=self.metrics, partitions=PARTITIONS, elsewhere=others)

    def signals(self, *places: int) -> list[Signal]:
        return [self.world.queue(tenant=TENANTS[place], signal_id=f"{number}") for number, place in enumerate(places)]


class Judging:
    """A partition that finds everything in order."""

    def __init__(self, number: int, asked: list[int]) -> None:
        self._number = number
        self._asked = asked
        self.proofs = self

    async def verify(self, _document: bytes) -> VerifyAnswer:
        self._asked.append(self._number)
        return VerifyAnswer(ok=True)


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = World()
        runtimes = [
            await stack.enter_async_context(running(tmp_path / str(number), world, partition=number))
            for number in range(2)
        ]
        yield Scene(runtimes, world)


def homes(results: Sequence[SignalResult | None]) -> list[tuple[str, str]]:
    return [("", "") if one is None else (one.id, (one.receipt or "").partition(":")[0]) for one in results]


async def test_results_come_in_the_order_of_the_signals_wherever_they_are_decided(scene: Scene) -> None:
    places = [2, 0, 1, 0, 2, 1, 0]
    results = await scene.board.submit(scene.signals(*places), "committed")
    assert homes(results) == [(str(number), str(place)) for number, place in enumerate(places)]
    assert {one.outcome for one in results} == {"decided"}
    assert scene.others.asked == [(2, ["0", "4"], "committed")]  # one parcel each
    assert await scene.board.submit([], "local") == []


async def test_what_only_needs_to_be_done_goes_the_same_ways(scene: Scene) -> None:
    assert await scene.board.decide(scene.signals(0, 1, 2), "local", source="pubsub") == []
    assert sorted(tenant for tenant, _, _ in scene.world.decided) == sorted(TENANTS[:2])
    assert scene.others.asked == [(2, ["2"], "local")]


async def test_where_one_part_fails_that_is_raised_once_the_rest_is_decided(scene: Scene) -> None:
    scene.others.failures = [OutcomeUnknownError("who knows", 1.0)]
    with pytest.raises(OutcomeUnknownError):
        await scene.board.submit(scene.signals(2, 0, 1), "local")
    assert len(scene.world.decided) == 2
    again = await scene.board.submit(scene.signals(2, 0, 1), "local")
    assert [one.outcome for one in again] == ["decided", "duplicate", "duplicate"]


async def test_what_was_handed_on_is_decided_here_or_not_at_all(scene: Scene) -> None:
    handed_on = await scene.board.submit_here(scene.signals(1, 0, 1))
    assert homes(handed_on.results) == [("0", "1"), ("1", "0"), ("2", "1")]
    await handed_on.committed()
    with pytest.raises(NotAcceptingError):
        await scene.board.submit_here(scene.signals(2, 2))
    assert len(scene.world.decided) == 3
    some = await scene.board.submit_here(scene.signals(2, 2, 2, 1))
    assert homes(some.results) == [("", ""), ("", ""), ("", ""), ("3", "1")]
    await some.committed()
    assert scene.others.asked == []
    assert (await scene.board.submit_here([])).results == []


async def test_what_was_decided_is_committed_by_the_log_that_has_it_and_by_no_later_one(scene: Scene) -> None:
    handed_on = await scene.board.submit_here(scene.signals(0, 1))
    asked: list[int] = []

    async def lost(index: int) -> None:
        asked.append(index)
        raise LedgerClosedError("another writer has it")

    scene.runtimes[0].ledger.wait_committed = lost  # type: ignore[method-assign]
    # The partition comes back under another epoch, with a log that is as long: it says nothing of these receipts.
    scene.board.here = {}
    with pytest.raises(LedgerClosedError):
        await handed_on.committed()
    assert len(asked) == 1


async def test_a_signal_that_its_owner_cannot_read_is_not_taken_for_decided(scene: Scene) -> None:
    scene.others.unreadable = True
    with pytest.raises(NotAcceptingError):
        await scene.board.decide(scene.signals(2), "committed", source="test", patience_s=0.02)


async def test_a_source_hears_which_signals_nobody_could_decide_in_time(scene: Scene) -> None:
    scene.others.known.clear()
    assert await scene.board.decide(scene.signals(2, 0, 1, 2, 0), "local", source="test", patience_s=0.02) == [0, 3]
    assert len(scene.world.decided) == 3
    with pytest.raises(NotAcceptingError, match="no worker has partition 2 now"):
        await scene.board.decide(scene.signals(2, 2), "local", source="test", patience_s=0.02)
    assert await scene.board.decide([], "local", source="test") == []


async def test_what_may_have_been_decided_is_asked_of_whoever_has_the_partition_by_then(scene: Scene) -> None:
    scene.others.failures = [OutcomeUnknownError("no answer", 1.0), NotAcceptingError("it is going", 1.0)]
    assert await scene.board.decide(scene.signals(2, 0), "committed", source="test") == []
    assert [ids for _, ids, _ in scene.others.asked] == [["0"]] * 3
    lost = LedgerClosedError("another writer has it")

    async def closed(index: int) -> None:
        del index
        scene.board.here.pop(0)  # type: ignore[attr-defined]
        scene.others.known.add(0)
        raise lost

    scene.runtimes[0].ledger.wait_committed = closed  # type: ignore[method-assign]
    assert await scene.board.decide(scene.signals(0), "committed", source="test") == []
    assert scene.others.asked[-1] == (0, ["0"], "committed")


async def test_what_goes_wrong_otherwise_is_raised_though_the_rest_was_decided(scene: Scene) -> None:
    scene.others.failures = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        await scene.board.decide(scene.signals(0, 2, 1), "local", source="test")
    assert len(scene.world.decided) == 2


async def test_whoever_waits_for_a_partition_has_the_others_looked_at(scene: Scene) -> None:
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            scene.others.known.add(2)
        asyncio.get_running_loop().call_soon(scene.board._moves.tell)

    scene.board._moves = Moves(look)
    scene.others.known.clear()
    assert homes(await scene.board.submit(scene.signals(2), "local")) == [("0", "2")]
    assert looks == 3


async def test_signals_wait_for_a_partition_that_is_handed_over(scene: Scene) -> None:
    scene.others.known.clear()
    sending = asyncio.create_task(scene.board.submit(scene.signals(2, 0), "local"))
    await until(lambda: len(scene.world.decided) == 1)
    assert not sending.done()
    scene.others.known.add(2)
    scene.board._moves.tell()
    assert homes(await sending) == [("0", "2"), ("1", "0")]


async def test_what_nobody_took_is_tried_where_the_partition_is_by_then(scene: Scene) -> None:
    here: dict[int, There] = dict(scene.with_these(scene.runtimes[0]).here)  # type: ignore[arg-type]
    board = scene.with_these(scene.runtimes[0])
    board.here = here
    scene.others.known.add(1)

    class Going(list[Exception]):
        def pop(self, index: Any = -1) -> Exception:
            here[1] = There(GovernorService(scene.runtimes[1], scene.metrics, missing=list))
            return super().pop(index)

    scene.others.failures = Going([NotAcceptingError("partition 1 is not here", 1.0)])
    assert homes(await board.submit(scene.signals(1), "local")) == [("0", "1")]
    assert len(scene.others.asked) == 1


async def test_a_partition_that_stays_away_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchboard_module, "OWNER_WAIT_S", 0.02)
    scene.others.known.clear()
    with pytest.raises(NotAcceptingError, match="no worker has partition 2 now"):
        await scene.board.submit(scene.signals(2), "local")
    scene.others.known.add(2)
    scene.others.failures = [NotAcceptingError("it starts", 1.0)] * 9
    with pytest.raises(NotAcceptingError, match="it starts"):
        await scene.board.submit(scene.signals(2), "local")


async def test_who_is_alone_waits_for_nobody(scene: Scene) -> None:
    board = scene.with_these(*scene.runtimes, is_alone=True)
    with pytest.raises(NotAcceptingError, match="partition 2 is not here"):
        await board.submit(scene.signals(2), "local")


async def test_an_operation_is_receipted_beside_its_tenant_or_anywhere_here(scene: Scene) -> None:
    for tenant in ("", TENANTS[0], TENANTS[1], TENANTS[2]):
        operation = Operation(
            at_us=1, by="alice", action="PUT /v1/tenants/{tenant}", path="/", status=200, tenant=tenant
        )
        await scene.board.record_operation(operation)
    page = await scene.board.operations("", 10)
    found = [(one.id.partition(":")[0], one.operation.tenant) for one in page.operations if one.operation is not None]
    assert sorted(found) == sorted([("0", ""), ("0", TENANTS[0]), ("1", TENANTS[1]), ("0", TENANTS[2])])
    assert page.next is None
    assert scene.others.operations == []


async def test_where_nothing_is_here_another_worker_leaves_the_receipt(scene: Scene) -> None:
    await scene.with_these().record_operation(OPERATION)
    assert scene.others.operations == [OPERATION]
    with pytest.raises(NotAcceptingError):
        await scene.with_these(is_alone=True).record_operation(OPERATION)


async def test_pages_of_operations_join_over_the_partitions_that_are_here(scene: Scene) -> None:
    for number in range(7):
        tenant = TENANTS[number % 2]
        scene.world.now_us += 1_000_000
        operation = Operation(at_us=number, by="alice", action="PUT", path="/", status=200, tenant=tenant)
        await scene.board.record_operation(operation)
    shown: list[int] = []
    after: str | None = ""
    while after is not None:
        page = await scene.board.operations(after, 3)
        shown += [one.operation.at_us for one in page.operations if one.operation is not None]
        after = page.next
    assert shown == list(range(7))


async def test_what_names_a_tenant_or_a_receipt_is_asked_of_its_partition_alone(scene: Scene) -> None:
    results = await scene.board.submit(scene.signals(0, 1), "committed")
    for result, tenant in zip(results, TENANTS[:2], strict=True):
        partition, _, index = (result.receipt or "").partition(":")
        assert (await scene.board.receipt(int(partition), int(index), None)).id == result.receipt
        view = scene.board.tenant(tenant)
        assert view is not None
        assert view.tenant == tenant
    assert [one.tenant for one in scene.board.tenants("", 9, None).tenants] == sorted(TENANTS[:2])
    with pytest.raises(NotAcceptingError):
        scene.board.tenant(TENANTS[2])
    with pytest.raises(NotAcceptingError):
        await scene.board.receipt(2, 0, None)


async def test_an_emergency_stop_reaches_every_partition_that_is_here(scene: Scene) -> None:
    result = await scene.board.emergency_stop(None, "alice", "a drill", stopped=True)
    assert (result.stopped, (result.receipt or "").partition(":")[0]) == (True, "0")
    assert [one.in_force.stopped for one in scene.runtimes] == [True, True]
    again = await scene.board.emergency_stop(None, "alice", "a drill", stopped=True)
    assert again.receipt is None
    with pytest.raises(NotAcceptingError):
        await scene.with_these().emergency_stop(None, "alice", "a drill", stopped=True)


@pytest.mark.parametrize(
    ("origin", "judge"), [("log/0", 0), ("log/1", 1), ("log/3", 0), ("log/" + "9" * 5_000, 0), ("log", 0)]
)
async def test_what_is_handed_in_is_judged_by_the_log_that_it_says(scene: Scene, origin: str, judge: int) -> None:
    board = scene.with_these()
    asked: list[int] = []
    board.here = {number: Judging(number, asked) for number in (0, 1)}  # type: ignore[misc]
    note = sign_checkpoint(Checkpoint(origin, 1, bytes(32)), Signer(origin, bytes(32))).decode()
    document = msgspec.json.encode(Consistency(note, Tree(1, bytes(32)), Tree(1, bytes(32)), [], []))
    assert (await board.verify(document)).ok
    assert asked == [judge]
    assert not (await board.verify(b"what is this?")).ok
