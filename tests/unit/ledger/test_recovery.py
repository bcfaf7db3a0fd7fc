import hashlib
import os
import shutil
from pathlib import Path

import pytest
from support.ledger_scenes import Disk, abandon, draft, open_ledger, running, segments, write_log

from ledger.draft import Limits
from ledger.durable import PosixDisk
from ledger.errors import SegmentCorruptError
from ledger.format import segment
from ledger.format.receipt import Receipt
from ledger.fsck import verify_log
from ledger.identity import partition_folder
from ledger.recovery import Recovered, recover

LOG = "ledger.test/log/0"
SMALL = Limits(segment_bytes=4_000)


def recovered_from(data_dir: Path) -> tuple[Recovered, list[Receipt], dict[str, bytes]]:
    receipts: list[Receipt] = []
    states: dict[str, bytes] = {}

    def keep(index: int, receipt: Receipt) -> None:
        assert index == len(receipts)
        receipts.append(receipt)

    return (
        recover(partition_folder(data_dir, 0), LOG, on_receipt=keep, on_state=states.__setitem__),
        receipts,
        states,
    )


def flip(path: Path, offset: int, by: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= by
    path.write_bytes(data)


async def test_everything_comes_back_from_the_log(tmp_path: Path) -> None:
    async with running(tmp_path, limits=SMALL) as ledger:
        for number in range(30):
            ledger.append(draft(number, tenant=f"t{number % 3}"))
            ledger.put_state(f"t{number % 3}/m", number)
            await ledger.wait_local(number)
        root, pseudonyms = ledger.root, [ledger.pseudonym(f"t{tenant}") for tenant in range(3)]
    assert len(segments(tmp_path)) > 3
    recovered, receipts, states = recovered_from(tmp_path)
    assert (recovered.size, recovered.tree.root(), recovered.epoch, recovered.torn) == (30, root, 1, None)
    assert [receipt.event_id for receipt in receipts] == [f"e-{number}" for number in range(30)]
    assert states == {"t0/m": b"27", "t1/m": b"28", "t2/m": b"29"}
    assert {name: each.count for name, each in recovered.chains.items()} == dict.fromkeys(pseudonyms, 10)


async def test_what_a_killed_writer_left_in_the_page_cache_is_written_anew(tmp_path: Path) -> None:
    """Its fdatasync never came, or failed: the bytes can be read, and the next power failure takes them."""
    await write_log(tmp_path, [3])
    left = abandon(tmp_path)
    before, content = left.stat().st_ino, left.read_bytes()
    recovered_from(tmp_path)
    (sealed,) = segments(tmp_path)
    assert sealed.read_bytes() == content
    assert sealed.stat().st_ino != before


async def test_names_that_were_found_are_durable_before_anything_is_written(tmp_path: Path) -> None:
    """A seal whose fsync failed is seen by the next start, and may be lost when what follows it is not."""
    calls: list[str] = []

    class Telling(PosixDisk):
        def sync_names(self, folder: Path) -> None:
            calls.append("names")
            super().sync_names(folder)

        def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
            calls.append("replace")
            super().replace(path, data, mode)

    await write_log(tmp_path, [3])
    abandon(tmp_path)
    recover(partition_folder(tmp_path, 0), LOG, disk=Telling())
    assert calls == ["names", "replace"]


async def test_chains_tree_and_epochs_go_on_over_many_runs(tmp_path: Path) -> None:
    for run in range(4):
        await write_log(tmp_path, [3, 2])
        recovered, receipts, _ = recovered_from(tmp_path)
        assert (recovered.size, recovered.epoch) == (5 * (run + 1), run + 1)
        assert [receipt.epoch for receipt in receipts][-5:] == [run + 1] * 5
    async with running(tmp_path) as ledger:
        assert [(await ledger.read(index)).index for index in (0, 7, 19)] == [0, 7, 19]
        assert len(await ledger.tenant_receipts("t1", -1, 100)) == ledger.next_tseq("t1") == 10


async def test_cut_at_any_byte_of_the_last_batch_all_before_it_comes_back_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # 5,000 of them; what is asserted here is the bytes
    await write_log(tmp_path / "whole", [2, 1, 1], tenants=1)
    path = abandon(tmp_path / "whole")
    whole = path.read_bytes()
    last = segment.scan(whole).batches[-1]
    folder = partition_folder(tmp_path / "cut", 0)
    for size in range(last.offset, len(whole)):
        folder.mkdir(parents=True)
        (folder / path.name).write_bytes(whole[:size])
        recovered, receipts, states = recovered_from(tmp_path / "cut")
        assert [receipt.event_id for receipt in receipts] == ["e-0", "e-1", "e-2"]
        assert states == {"last": b"3"}
        (sealed,) = segments(tmp_path / "cut")
        assert sealed.read_bytes() == whole[: last.offset]
        if size == last.offset:
            assert recovered.torn is None
        else:
            assert recovered.torn is not None
            assert recovered.torn.copy.read_bytes() == whole[last.offset : size]
        assert recovered_from(tmp_path / "cut")[0].torn is None
        shutil.rmtree(tmp_path / "cut")


async def test_a_torn_tail_with_lost_pages_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        await ledger.wait_local(ledger.append(draft(0)))
        for number in range(1, 20):
            ledger.append(draft(number))
        await ledger.wait_local(19)
    path = abandon(tmp_path)
    data = path.read_bytes()
    last = segment.scan(data).batches[-1]
    page = last.body + 4_096
    path.write_bytes(data[:page] + bytes(4_096) + data[page + 4_096 :])
    recovered, receipts, _ = recovered_from(tmp_path)
    assert len(receipts) == 1
    assert recovered.torn is not None
    assert recovered.torn.offset == last.offset


async def test_the_ledger_goes_on_after_a_torn_tail(tmp_path: Path) -> None:
    await write_log(tmp_path, [2, 2])
    path = abandon(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    await write_log(tmp_path, [1])
    recovered, receipts, _ = recovered_from(tmp_path)
    assert [receipt.event_id for receipt in receipts] == ["e-0", "e-1", "e-2"]
    assert recovered.epoch == 2


async def test_one_flipped_byte_in_the_last_batch_is_damage_and_no_torn_write(tmp_path: Path) -> None:
    await write_log(tmp_path, [1, 1])
    path = abandon(tmp_path)
    whole = path.read_bytes()
    for offset in range(segment.scan(whole).batches[-1].offset, len(whole), 7):
        flip(path, offset)
        spoiled = path.read_bytes()
        with pytest.raises(SegmentCorruptError) as caught:
            recovered_from(tmp_path)
        assert (caught.value.path, caught.value.offset, caught.value.index) == (path, offset, 1)
        assert path.read_bytes() == spoiled
        path.write_bytes(whole)


async def test_damage_before_the_last_batch_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    await write_log(tmp_path, [2, 2, 2])
    path = abandon(tmp_path)
    second = segment.scan(path.read_bytes()).batches[1]
    flip(path, second.body + 9)
    spoiled = path.read_bytes()
    with pytest.raises(SegmentCorruptError, match="Restore this file") as caught:
        recovered_from(tmp_path)
    assert (caught.value.path, caught.value.offset, caught.value.index) == (path, second.offset, 2)
    assert (path.read_bytes(), segments(tmp_path)) == (spoiled, [path])


async def test_damage_in_the_last_but_one_trailer_loses_no_batch(tmp_path: Path) -> None:
    await write_log(tmp_path, [1, 1])
    path = abandon(tmp_path)
    flip(path, segment.scan(path.read_bytes()).batches[0].body_end)  # its CRC, which the next batch's CRC continues
    with pytest.raises(SegmentCorruptError):
        recovered_from(tmp_path)


async def test_a_sealed_segment_has_no_torn_tail(tmp_path: Path) -> None:
    await write_log(tmp_path, [1, 1])
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SegmentCorruptError):
        recovered_from(tmp_path)


async def test_a_missing_replaced_or_foreign_segment_is_refused(tmp_path: Path) -> None:
    await write_log(tmp_path / "a", [1] * 20, limits=SMALL)
    await write_log(tmp_path / "b", [1] * 20, limits=SMALL, entropy=lambda count: b"\5" * count)
    first, second, third, *_ = segments(tmp_path / "a")
    kept = second.read_bytes()
    second.write_bytes((second.parent.parent.parent.parent / "b/ledger/0" / second.name).read_bytes())
    with pytest.raises(SegmentCorruptError, match="the segment before it is not the one"):
        recovered_from(tmp_path / "a")
    second.unlink()
    with pytest.raises(SegmentCorruptError, match="a segment is missing"):
        recovered_from(tmp_path / "a")
    third.rename(second)
    with pytest.raises(SegmentCorruptError, match="its header and its name differ"):
        recovered_from(tmp_path / "a")
    second.write_bytes(kept)
    with pytest.raises(SegmentCorruptError, match="another log"):
        recover(first.parent, "somebody.else/0")


async def test_a_segment_of_an_earlier_epoch_than_the_one_before_is_refused(tmp_path: Path) -> None:
    await write_log(tmp_path, [1])
    (path,) = segments(tmp_path)
    header = segment.encode_header(LOG, 0, 1, hashlib.sha256(path.read_bytes()).digest())
    path.with_name("00000000000000000001-0000000000.seg").write_bytes(header)
    with pytest.raises(SegmentCorruptError, match="epoch 0 comes after 1"):
        recovered_from(tmp_path)
    assert [error.kind for error in verify_log(tmp_path).errors] == ["sequence"]


async def test_only_the_last_segment_may_be_unsealed(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    path = segments(tmp_path)[0]
    path.rename(path.with_suffix(".open"))
    with pytest.raises(SegmentCorruptError, match="another segment follows"):
        recovered_from(tmp_path)


async def test_a_segment_that_never_got_its_name_is_forgotten(tmp_path: Path) -> None:
    await write_log(tmp_path, [2])
    leftover = partition_folder(tmp_path, 0) / "00000000000000000002-0000000002.open.tmp"
    leftover.write_bytes(b"GVL")
    recovered, receipts, _ = recovered_from(tmp_path)
    assert (recovered.size, len(receipts)) == (2, 2)
    assert not leftover.exists()


async def test_a_segment_without_batches_is_kept_and_its_epoch_counts(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, disk=Disk(fail_at=0))
    ledger.append(draft(0))
    with pytest.raises(Exception, match="failed on demand"):
        await ledger.run()
    assert [path.suffix for path in segments(tmp_path)] == [".open"]
    await write_log(tmp_path, [1])
    recovered, receipts, _ = recovered_from(tmp_path)
    assert (recovered.size, recovered.epoch, receipts[0].epoch) == (1, 2, 2)
    assert len(segments(tmp_path)) == 2


async def test_rotten_bytes_are_never_read_out(tmp_path: Path) -> None:
    async with running(tmp_path) as ledger:
        await ledger.wait_local(ledger.append(draft(0)))
        await ledger.wait_local(ledger.append(draft(1)))
        (path,) = segments(tmp_path)
        flip(path, segment.scan(path.read_bytes()).batches[1].body + 50)
        assert (await ledger.read(0)).index == 0
        with pytest.raises(SegmentCorruptError) as caught:
            await ledger.read(1)
        assert caught.value.index == 1


async def test_an_empty_folder_is_an_empty_log(tmp_path: Path) -> None:
    partition_folder(tmp_path, 0).mkdir(parents=True)
    recovered, receipts, states = recovered_from(tmp_path)
    assert (recovered.size, recovered.epoch, receipts, states) == (0, 0, [], {})
