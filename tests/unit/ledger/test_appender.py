import asyncio
import json
from pathlib import Path

import pytest
from support.ledger_scenes import Disk, draft, open_ledger, running, seeded_entropy, segments

from ledger.draft import Limits
from ledger.errors import (
    LedgerClosedError,
    LedgerFailedError,
    PushbackError,
    ReceiptInvalidError,
    ReceiptNotFoundError,
)
from ledger.format import chain
from ledger.format.canonical import decode
from ledger.format.merkle import EMPTY_ROOT, leaf_hash, root_of
from ledger.format.receipt import Fsm


async def until_started(disk: Disk) -> None:
    """The disk has begun an append."""
    assert await asyncio.to_thread(disk.started.wait, 30)
    disk.started.clear()


async def test_the_ledger_fills_in_what_the_caller_does_not_know(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        first = ledger.append(draft(1, payload=b"sent"))
        second = ledger.append(draft(2, decision="stop", rule="over_stop", evidence={"limit": 5}, actions=("a1",)))
        await ledger.wait_local(second)
        stored = [await ledger.read(index) for index in (first, second)]
        key, payload = await ledger.payload(first)
        one, two = (decode(each.leaf) for each in stored)
        assert (one.tenant, one.tseq, one.epoch, one.v) == (ledger.pseudonym("acme"), 0, 1, 1)
        assert (one.log, one.writer) == (ledger.origin, "w")
        assert one.prev == chain.genesis(ledger.origin, one.tenant).hex()
        assert one.inputs_commit == chain.commitment(key, payload)
        assert payload == b"sent"
        assert (two.tseq, two.prev) == (1, leaf_hash(stored[0].leaf).hex())
        assert json.loads(stored[1].leaf) == {
            "actions": ["a1"], "decision": "stop", "epoch": 1, "event_id": "e-2", "evidence": {"limit": 5},
            "fsm": {"event": "e", "from": "A", "machine": "m", "subject": "s", "to": "B", "version": 1},
            "inputs_commit": two.inputs_commit, "log": ledger.origin, "observed_us": 1_700_000_000_000_002,
            "outcome": "decided", "policy_digest": "d", "prev": two.prev, "rule": "over_stop", "source": "test",
            "tenant": one.tenant, "ts_us": 1_700_000_000_000_003, "tseq": 1, "v": 1, "writer": "w",
        }  # fmt: skip


async def test_the_root_is_that_of_the_durable_receipts(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        assert ledger.root == EMPTY_ROOT
        for number in range(600):
            ledger.append(draft(number, tenant=f"t{number % 7}"))
        assert (ledger.size, ledger.local_size, ledger.root) == (600, 0, EMPTY_ROOT)
        await ledger.wait_committed(599)
        leaves = [(await ledger.read(index)).leaf for index in range(600)]
        assert ledger.root == root_of([leaf_hash(leaf) for leaf in leaves])
        assert ledger.local_size == ledger.committed_size == 600


async def test_a_tenants_receipts_come_in_order_and_in_pages(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(batch_receipts=3)) as ledger:
        for number in range(10):
            ledger.append(draft(number, tenant="even" if number % 2 == 0 else "odd"))
            await asyncio.sleep(0)
        await ledger.wait_local(9)
        page = await ledger.tenant_receipts("odd", -1, 3)
        assert [each.index for each in page] == [1, 3, 5]
        assert [each.index for each in await ledger.tenant_receipts("odd", page[-1].index, 3)] == [7, 9]
        assert [decode(each.leaf).event_id for each in await ledger.tenant_receipts("even", 3, 2)] == ["e-4", "e-6"]
        assert await ledger.tenant_receipts("nobody", -1, 3) == []
        assert [ledger.next_tseq(tenant) for tenant in ("odd", "even", "nobody")] == [5, 5, 0]


async def test_receipts_that_are_not_durable_are_not_shown(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as ledger:
        disk.hold()
        ledger.append(draft(0))
        await until_started(disk)
        with pytest.raises(ReceiptNotFoundError):
            await ledger.read(0)
        assert await ledger.tenant_receipts("acme", -1, 10) == []
        disk.let_go()
        await ledger.wait_local(0)
        assert (await ledger.read(0)).committed
        assert len(await ledger.tenant_receipts("acme", -1, 10)) == 1


async def test_what_comes_while_a_batch_is_written_goes_into_the_next_one(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as ledger:
        disk.hold()
        ledger.append(draft(0))
        await until_started(disk)
        for number in range(1, 50):
            ledger.append(draft(number))
        waits = [asyncio.create_task(ledger.wait_local(index)) for index in (49, 0, 17)]
        await asyncio.sleep(0)
        assert not any(wait.done() for wait in waits)
        disk.let_go()
        await asyncio.gather(*waits)
        assert disk.appends == 2


async def test_waiters_of_one_batch_do_not_wait_for_the_next(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as ledger:
        disk.hold()
        ledger.append(draft(0))
        await until_started(disk)
        ledger.append(draft(1))
        first, second = (asyncio.create_task(ledger.wait_local(index)) for index in (0, 1))
        await asyncio.sleep(0)
        disk.let_one_go()
        await first
        await until_started(disk)
        assert not second.done()
        assert ledger.local_size == 1
        disk.let_go()
        await second


async def test_a_waiter_that_gives_up_harms_nobody(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as ledger:
        disk.hold()
        ledger.append(draft(0))
        impatient, patient = (asyncio.create_task(ledger.wait_local(0)) for _ in range(2))
        await until_started(disk)
        impatient.cancel()
        disk.let_go()
        await patient
        with pytest.raises(asyncio.CancelledError):
            await impatient


@pytest.mark.parametrize("landed", [True, False])
async def test_an_io_error_is_final_whether_the_batch_landed_or_not(tmp_path: Path, landed: bool) -> None:
    disk = Disk(fail_at=1, landed=landed)
    ledger = open_ledger(tmp_path, disk=disk)
    run = asyncio.create_task(ledger.run())
    ledger.append(draft(0))
    await ledger.wait_local(0)
    disk.hold()
    ledger.append(draft(1))
    waits = [asyncio.create_task(ledger.wait_local(1))]
    disk.started.clear()
    await until_started(disk)
    ledger.append(draft(2))
    waits.append(asyncio.create_task(ledger.wait_committed(2)))
    await asyncio.sleep(0)
    disk.let_go()
    with pytest.raises(LedgerFailedError):
        await run
    for wait in waits:
        with pytest.raises(LedgerFailedError):
            await wait
    with pytest.raises(LedgerFailedError):
        await ledger.wait_local(2)
    with pytest.raises(LedgerClosedError):
        ledger.append(draft(3))
    assert isinstance(ledger.failed, OSError)
    assert (ledger.local_size, disk.appends) == (1, 2)
    async with running(tmp_path) as again:
        assert again.size == (2 if landed else 1)


async def test_a_state_that_cannot_be_encoded_ends_the_ledger_and_writes_nothing(tmp_path: Path) -> None:
    def encode(value: object) -> bytes:
        raise TypeError(f"no bytes for {value}")

    ledger = open_ledger(tmp_path, encode_state=encode, limits=Limits(batch_receipts=1))
    run = asyncio.create_task(ledger.run())
    await asyncio.sleep(0)
    ledger.append(draft(0))
    ledger.put_state("k", object())
    with pytest.raises(LedgerFailedError):
        await ledger.wait_local(0)
    with pytest.raises(LedgerFailedError):
        await run
    assert segments(tmp_path) == []


async def test_the_ledger_pushes_back_before_it_holds_too_much(tmp_path: Path) -> None:
    disk = Disk()
    limits = Limits(pending_bytes=5_000, batch_bytes=1_000)
    async with running(tmp_path, disk=disk, limits=limits) as ledger:
        disk.hold()
        accepted = 0
        while ledger.pending_bytes < 5_000:
            accepted = ledger.append(draft(accepted)) + 1
            await asyncio.sleep(0)
        with pytest.raises(PushbackError) as pushed:
            ledger.append(draft(accepted))
        assert pushed.value.retry_after_s > 0
        assert ledger.size == accepted
        disk.let_go()
        await ledger.wait_local(accepted - 1)
        assert ledger.pending_bytes == 0
        assert ledger.append(draft(accepted)) == accepted


async def test_a_backlog_is_cut_into_batches_of_bounded_size(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk, limits=Limits(batch_receipts=4)) as ledger:
        disk.hold()
        for number in range(14):
            ledger.append(draft(number))
            await asyncio.sleep(0)
        disk.let_go()
        await ledger.wait_local(13)
    assert disk.appends >= 4


async def test_the_states_in_a_batch_are_those_after_its_receipts(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    disk = Disk()
    async with running(tmp_path, disk=disk, limits=Limits(batch_receipts=2)) as ledger:
        disk.hold()
        for number in range(6):  # a cut becomes due in the middle of this and must wait for its end
            ledger.append(draft(number))
            ledger.put_state("count", number + 1)
        await asyncio.sleep(0)
        ledger.append(draft(6))
        ledger.put_state("count", 7)
        disk.let_go()
        await ledger.wait_local(6)
    sizes: list[int] = []
    async with running(
        tmp_path,
        on_receipt=lambda index, _: sizes.append(index + 1),
        on_state=lambda key, value: seen.append((f"{key} of {sizes[-1]}", value.decode())),
    ):
        assert seen == [("count of 6", "6"), ("count of 7", "7")]


async def test_a_refused_receipt_changes_nothing(tmp_path: Path) -> None:
    fsm = Fsm("e", "A", "m", "\ud800", "B", 1)
    async with running(tmp_path) as ledger:
        ledger.append(draft(0))
        for evidence in ({"x": 2**53}, {"x": -(2**53)}, {"é": 1}, {"x": 1.5}, {"x": True}, {"x": "\ud800"}):
            with pytest.raises(ReceiptInvalidError):
                ledger.append(draft(1, evidence=evidence))
        with pytest.raises(ReceiptInvalidError):
            ledger.append(draft(1, ts_us=2**53))
        with pytest.raises(ReceiptInvalidError):
            ledger.append(draft(1, event_id="x" * 65_536))
        for texts in ({"event_id": "\ud800"}, {"source": "\ud800"}, {"fsm": fsm}, {"tenant": "\ud800"}):
            with pytest.raises(ReceiptInvalidError):
                ledger.append(draft(1, **texts))
        with pytest.raises(ReceiptInvalidError):
            ledger.put_state("x" * 16_001, 1)
        ledger.put_state("\U0001f600" * 16_000, 1)
        assert ledger.size == 1
        assert ledger.append(draft(1)) == 1
        await ledger.wait_local(1)
        assert decode((await ledger.read(1)).leaf).tseq == 1


async def test_a_receipt_has_room_for_texts_by_their_characters(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        for text in ("x" * 7_000, "é" * 7_000, "\U0001f600" * 7_000, "\0" * 7_000):
            index = ledger.append(draft(0, evidence={"text": text, "least": -(2**53) + 1, "most": 2**53 - 1}))
            await ledger.wait_local(index)
            assert decode((await ledger.read(index)).leaf).evidence["text"] == text
            with pytest.raises(ReceiptInvalidError):
                ledger.append(draft(0, evidence={"text": text}, event_id="x" * 1_001))


async def test_closing_writes_what_is_pending_and_seals(tmp_path: Path) -> None:
    disk = Disk()
    ledger = open_ledger(tmp_path, disk=disk)
    run = asyncio.create_task(ledger.run())
    disk.hold()
    ledger.append(draft(0))
    await until_started(disk)
    ledger.append(draft(1))
    waits = [asyncio.create_task(ledger.wait_local(index)) for index in (0, 1)]
    await asyncio.sleep(0)
    run.cancel()
    await asyncio.sleep(0)
    with pytest.raises(LedgerClosedError):
        ledger.append(draft(2))
    disk.let_go()
    await asyncio.gather(*waits)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [path.suffix for path in segments(tmp_path)] == [".seg"]
    assert ledger.failed is None
    async with running(tmp_path) as again:
        assert (again.size, again.epoch, again.torn) == (2, 2, None)


async def test_a_second_cancellation_leaves_nobody_waiting(tmp_path: Path) -> None:
    disk = Disk()
    ledger = open_ledger(tmp_path, disk=disk)
    run = asyncio.create_task(ledger.run())
    disk.hold()
    ledger.append(draft(0))
    wait = asyncio.create_task(ledger.wait_local(0))
    await until_started(disk)
    for _ in range(3):
        run.cancel()
        await asyncio.sleep(0)
    with pytest.raises(LedgerFailedError):
        await wait
    with pytest.raises(asyncio.CancelledError):
        await run
    disk.let_go()


async def test_segments_rotate_and_a_run_without_receipts_leaves_none(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(segment_bytes=2_000)) as ledger:
        for number in range(12):
            await ledger.wait_local(ledger.append(draft(number)))
        assert [(await ledger.read(index)).index for index in range(12)] == list(range(12))
    names = [path.name for path in segments(tmp_path)]
    assert len(names) > 3
    assert all(path.suffix == ".seg" and path.stat().st_size <= 2_000 for path in segments(tmp_path))
    async with running(tmp_path):
        pass
    assert [path.name for path in segments(tmp_path)] == names


async def test_entropy_is_asked_for_in_blocks(tmp_path: Path) -> None:
    calls: list[int] = []
    source = seeded_entropy()

    def entropy(count: int) -> bytes:
        calls.append(count)
        return source(count)

    async with running(tmp_path, entropy=entropy) as ledger:
        opening = len(calls)
        for number in range(512):
            ledger.append(draft(number))
        await ledger.wait_local(511)
        assert len(calls) - opening <= 512 // 100
        keys = {(await ledger.payload(index))[0] for index in range(512)}
        assert len(keys) == 512


async def test_waiting_for_what_was_never_appended_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        with pytest.raises(ReceiptNotFoundError):
            await ledger.wait_local(0)


async def test_more_tenants_than_are_cached_keep_their_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.chains._TENANTS_CACHED_MAX", 3)
    async with running(tmp_path) as ledger:
        for number in range(40):
            ledger.append(draft(number, tenant=f"t{number % 8}"))
        await ledger.wait_local(39)
        assert [ledger.next_tseq(f"t{tenant}") for tenant in range(8)] == [5] * 8
        assert len(ledger._chains.cached) <= 3
    async with running(tmp_path) as again:
        assert again.size == 40
