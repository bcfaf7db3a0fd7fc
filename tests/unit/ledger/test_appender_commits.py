"""What a committer asks of the writer: to seal, to mark, to hand out hashes, and silence once it may not answer."""

import asyncio
import itertools
from pathlib import Path

import pytest
from support.ledger_scenes import Disk, draft, open_ledger, running, segments, write_log

from ledger.appender import Ledger
from ledger.draft import Limits
from ledger.errors import LeaseLostError, LedgerClosedError, LedgerFailedError
from ledger.format.merkle import leaf_hash, root_of
from ledger.reader import read_segment

SMALL = Limits(segment_bytes=3_000)


async def hashes_of(ledger: Ledger, first: int, end: int) -> list[bytes]:
    return [leaf_hash((await ledger.read(index)).leaf) for index in range(first, end)]


async def test_sealing_writes_what_is_pending_and_closes_the_segment(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        for number in range(5):
            ledger.append(draft(number))
        sealed = await ledger.seal()
        assert (sealed.size, sealed.root, sealed.epoch) == (5, ledger.root, ledger.epoch)
        assert [path.suffix for path in segments(tmp_path)] == [".seg"]
        await ledger.wait_local(ledger.append(draft(5)))
        assert [path.suffix for path in segments(tmp_path)] == [".seg", ".open"]
        assert (await ledger.seal()).size == 6
        assert (await ledger.seal()).size == 6
        assert [path.suffix for path in segments(tmp_path)] == [".seg", ".seg"]


async def test_sealing_while_a_batch_is_written_takes_that_batch_along(tmp_path: Path) -> None:
    disk = Disk()
    async with running(tmp_path, disk=disk) as ledger:
        disk.hold()
        ledger.append(draft(0))
        assert await asyncio.to_thread(disk.started.wait, 30)
        first = asyncio.create_task(ledger.seal())
        await asyncio.sleep(0)
        ledger.append(draft(1))
        second = asyncio.create_task(ledger.seal())
        await asyncio.sleep(0)
        assert not first.done()
        disk.let_go()
        assert ((await first).size, (await second).size) == (1, 2)
    assert [path.name[:20] for path in segments(tmp_path)] == ["0" * 20, "0" * 19 + "1"]


async def test_states_alone_are_no_segment_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        await ledger.wait_local(ledger.append(draft(0)))
        await ledger.seal()
        ledger.put_state("k", 1)
        assert (await ledger.seal()).size == 1
        assert [path.suffix for path in segments(tmp_path)] == [".seg", ".open"]
        ledger.append(draft(1))
        assert (await ledger.seal()).size == 2
    states: dict[str, bytes] = {}
    async with running(tmp_path, on_state=states.__setitem__) as again:
        assert (again.size, states) == (2, {"k": b"1"})


async def test_sealed_segments_are_told_with_their_hashes_over_restarts_too(tmp_path: Path) -> None:
    await write_log(tmp_path, [2, 2], limits=SMALL)
    async with running(tmp_path, limits=SMALL) as ledger:
        for number in range(4, 9):
            await ledger.wait_local(ledger.append(draft(number)))
        await ledger.seal()
        told = ledger.sealed_since(0)
        assert [one.path for one in told] == segments(tmp_path)
        assert [one.end for one in told[:-1]] == [one.first_index for one in told[1:]]
        for one, following in itertools.pairwise(told):
            assert read_segment(one.path.parent, following.key)[1][28:60] == one.sha256
        assert all(one.path.stat().st_size == one.bytes for one in told)
        assert ledger.sealed_since(5)[0].first_index <= 5 < ledger.sealed_since(5)[0].end
        assert ledger.sealed_since(9) == []


async def test_a_commit_elsewhere_is_waited_for_until_it_is_marked(tmp_path: Path) -> None:
    async with running(tmp_path, commits_elsewhere=True) as ledger:
        for number in range(4):
            ledger.append(draft(number))
        waits = [asyncio.create_task(ledger.wait_committed(index)) for index in (3, 0, 1)]
        await ledger.wait_local(3)
        assert (ledger.local_size, ledger.committed_size) == (4, 0)
        assert not (await ledger.read(0)).committed
        ledger.mark_committed(2)
        await asyncio.gather(waits[1], waits[2])
        assert not waits[0].done()
        assert (await ledger.read(1)).committed
        for wrong in (1, 5):
            with pytest.raises(ValueError, match="cannot be committed"):
                ledger.mark_committed(wrong)
        ledger.mark_committed(4)
        await waits[0]
        await ledger.wait_committed(3)


async def test_whoever_waits_for_a_commit_is_told_when_the_ledger_ends(tmp_path: Path) -> None:
    async with running(tmp_path, commits_elsewhere=True) as ledger:
        ledger.append(draft(0))
        wait = asyncio.create_task(ledger.wait_committed(0))
        grown = asyncio.create_task(ledger.wait_beyond(5))
        await ledger.wait_local(0)
    with pytest.raises(LedgerClosedError):
        await wait
    with pytest.raises(LedgerClosedError):
        await grown


async def test_growth_is_waited_for_without_knowing_an_index(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        grown = asyncio.create_task(ledger.wait_beyond(0))
        await asyncio.sleep(0)
        ledger.append(draft(0))
        assert await grown == 1
        assert await ledger.wait_beyond(0) == 1


async def test_without_a_lease_nobody_hears_that_a_receipt_is_durable(tmp_path: Path) -> None:
    lease = True
    async with running(tmp_path, commits_elsewhere=True, may_answer=lambda: lease) as ledger:
        await ledger.wait_local(ledger.append(draft(0)))
        lease = False
        index = ledger.append(draft(1))
        with pytest.raises(LeaseLostError):
            await ledger.wait_local(index)
        with pytest.raises(LeaseLostError):
            await ledger.wait_local(0)
        ledger.mark_committed(2)  # a commit is one, whoever holds the lease
        await ledger.wait_committed(1)


async def test_leaf_hashes_are_handed_out_once_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        for number in range(300):
            ledger.append(draft(number))
        assert (ledger.hashes_from, ledger.take_hashes()) == (0, b"")
        await ledger.wait_local(299)
        taken = ledger.take_hashes()
        assert taken == b"".join(await hashes_of(ledger, 0, 300))
        assert ledger.hashes_from == 300
        await ledger.wait_local(ledger.append(draft(300)))
        assert ledger.take_hashes() == b"".join(await hashes_of(ledger, 300, 301))


async def test_hashes_that_nobody_takes_are_forgotten_from_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.commits.HASHES_KEPT_MAX", 4)
    async with running(tmp_path) as ledger:
        for number in range(10):
            await ledger.wait_local(ledger.append(draft(number)))
        assert ledger.hashes_from == 6
        assert ledger.take_hashes() == b"".join(await hashes_of(ledger, 6, 10))


async def test_chain_heads_are_those_after_everything_appended(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        for number in range(7):
            ledger.append(draft(number, tenant=f"t{number % 2}"))
        size, heads = ledger.chain_heads()
        await ledger.wait_local(6)
        hashes = await hashes_of(ledger, 0, 7)
        assert size == 7
        assert {head.pseudonym: (head.next_tseq, head.leaf_hash) for head in heads} == {
            ledger.pseudonym("t0"): (4, hashes[6]),
            ledger.pseudonym("t1"): (3, hashes[5]),
        }
        assert ledger.root == root_of(hashes)


async def test_a_given_epoch_is_used_and_may_not_have_been(tmp_path: Path) -> None:
    await write_log(tmp_path, [1], epoch=7)
    with pytest.raises(ValueError, match="the log's last one is 7"):
        open_ledger(tmp_path, epoch=7)
    assert [path.name for path in segments(tmp_path)] == ["00000000000000000000-0000000007.seg"]


async def test_a_ledger_that_is_told_to_fail_takes_nothing_more(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, commits_elsewhere=True)
    run = asyncio.create_task(ledger.run())
    await ledger.wait_local(ledger.append(draft(0)))
    wait = asyncio.create_task(ledger.wait_committed(0))
    await asyncio.sleep(0)
    ledger.fail(RuntimeError("fenced"))
    with pytest.raises(LedgerFailedError, match="fenced"):
        await wait
    with pytest.raises(LedgerFailedError):
        await run
    with pytest.raises(LedgerClosedError):
        ledger.append(draft(1))
