import asyncio
import json
import os
import shutil
import stat
from pathlib import Path

import orjson
import pytest
from support.ledger_scenes import abandon, draft, running, segments, write_log

from ledger.draft import Limits
from ledger.errors import NotALedgerError
from ledger.format import segment
from ledger.format.merkle import CompactRange, leaf_hash
from ledger.format.segment import HEADER_BYTES, Kind, frame_head
from ledger.fsck import verify_log
from ledger.identity import partition_folder
from ledger.verify import parallel
from ledger.verify.report import LogReport

LOG = "ledger.test/log/0"


def spoil(path: Path, offset: int, by: int = 0x20) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= by
    path.write_bytes(data)


def contents(folder: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def kinds(report: LogReport) -> list[str]:
    return [error.kind for error in report.errors]


async def test_a_sound_log_is_reported_as_promised(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(segment_bytes=4_000)) as ledger:
        for number in range(20):
            await ledger.wait_local(ledger.append(draft(number, tenant=f"t{number % 3}")))
        root = ledger.root
    report = verify_log(tmp_path).as_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["seconds"] >= 0
    assert {name: value for name, value in report.items() if name != "seconds"} == {
        "ok": True, "receipts": 20, "tenants": 3, "partitions": [{"partition": 0, "size": 20, "root": root.hex()}],
        "errors": [], "notes": [],
    }  # fmt: skip


async def test_each_folder_that_means_the_log_is_understood(tmp_path: Path) -> None:
    await write_log(tmp_path, [3])
    for folder in (tmp_path, tmp_path / "ledger", tmp_path / "ledger" / "0"):
        report = verify_log(folder)
        assert (report.ok, report.receipts) == (True, 3)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(segments(tmp_path)[0], moved)
    assert (verify_log(moved).ok, verify_log(moved).receipts) == (True, 3)


def test_a_folder_without_a_ledger_cannot_be_checked(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotALedgerError):
            verify_log(folder)


async def test_a_live_log_verifies_while_it_grows(tmp_path: Path) -> None:
    async with running(tmp_path, limits=Limits(segment_bytes=8_000)) as ledger:

        async def write() -> None:
            for number in range(150):
                await ledger.wait_local(ledger.append(draft(number)))

        writing = asyncio.create_task(write())
        sizes = [0]
        while not writing.done():
            report = await asyncio.to_thread(verify_log, tmp_path)
            assert report.errors == []
            sizes.append(report.receipts)
        await writing
        assert sizes == sorted(sizes)
    assert verify_log(tmp_path).receipts == 150


async def test_it_needs_no_secret_and_writes_nothing(tmp_path: Path) -> None:
    await write_log(tmp_path, [3, 2])
    path = abandon(tmp_path)
    path.write_bytes(path.read_bytes() + b"torn")
    (tmp_path / "ledger" / "pseudonym.key").unlink()
    before = contents(tmp_path)
    report = verify_log(tmp_path)
    assert (report.ok, report.receipts) == (True, 5)
    assert contents(tmp_path) == before


async def test_every_flipped_byte_of_a_sealed_segment_is_found_and_named(tmp_path: Path) -> None:
    await write_log(tmp_path, [1, 1], tenants=1)
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    _, second = segment.scan(whole).batches
    for offset in range(len(whole)):
        spoil(path, offset, 1 << offset % 8)
        report = verify_log(tmp_path)
        (error,) = report.errors
        assert (error.kind, error.offset, error.file) == ("damaged", offset, str(path))
        assert str(path) in error.message
        assert f"byte {offset}" in error.message
        assert (error.index == 1) == (offset >= second.offset)
        assert report.receipts == 2  # the byte put back, all else holds
        path.write_bytes(whole)


async def test_every_flipped_byte_of_the_last_unsealed_batch_is_found_and_named(tmp_path: Path) -> None:
    await write_log(tmp_path, [1, 1], tenants=1)
    path = abandon(tmp_path)
    whole = path.read_bytes()
    for offset in range(segment.scan(whole).batches[-1].offset, len(whole)):
        spoil(path, offset, 1 << offset % 8)
        (error,) = verify_log(tmp_path).errors
        assert (error.kind, error.offset) == ("damaged", offset)
        path.write_bytes(whole)


async def test_a_flipped_byte_in_a_middle_segment_is_one_error(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=Limits(segment_bytes=4_000))
    for path in segments(tmp_path):
        for offset in (3, 40, HEADER_BYTES + 5, HEADER_BYTES + 200, path.stat().st_size - 40):
            spoil(path, offset)
            report = verify_log(tmp_path)
            assert [(error.kind, error.offset, error.file) for error in report.errors] == [
                ("damaged", offset, str(path))
            ]
            assert report.receipts == 20
            spoil(path, offset)


async def test_several_damaged_places_are_all_named(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=Limits(segment_bytes=4_000))
    places = []
    for path in segments(tmp_path):
        for batch in segment.scan(path.read_bytes()).batches:
            offset = batch.body + 30
            spoil(path, offset)
            places.append((str(path), offset))
    assert [(error.file, error.offset) for error in verify_log(tmp_path).errors] == places


async def test_damage_that_no_single_byte_explains_names_the_batch_and_judges_nothing_behind_it(tmp_path: Path) -> None:
    await write_log(tmp_path, [2, 2, 2])
    (path,) = segments(tmp_path)
    batch = segment.scan(path.read_bytes()).batches[1]
    spoil(path, batch.body + 30)
    spoil(path, batch.body + 31)
    report = verify_log(tmp_path)
    assert [(error.kind, error.offset, error.index) for error in report.errors] == [("damaged", batch.offset, 2)]
    assert report.receipts == 2
    assert "from 2 on were not judged" in report.notes[0]


async def test_a_torn_tail_is_a_note(tmp_path: Path) -> None:
    await write_log(tmp_path, [2, 1])
    path = abandon(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    report = verify_log(tmp_path)
    assert (report.ok, report.receipts) == (True, 2)
    assert "unfinished batch" in report.notes[0]


async def test_missing_swapped_and_foreign_segments_are_found(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=Limits(segment_bytes=4_000))
    second = segments(tmp_path)[1]
    kept = second.read_bytes()
    second.unlink()
    assert kinds(verify_log(tmp_path)) == ["missing"]
    second.write_bytes(kept)
    unsealed = segments(tmp_path)[0]
    unsealed.rename(unsealed.with_suffix(".open"))
    assert kinds(verify_log(tmp_path)) == ["missing"]
    unsealed.with_suffix(".open").rename(unsealed)
    (tmp_path / "ledger" / "origin").write_text("somebody.else\n")
    assert kinds(verify_log(tmp_path)) == ["foreign"]


class Forger:
    """Rewrites a log's one segment with CRCs and roots that fit: what only hashes and chains can find."""

    def __init__(self, data_dir: Path) -> None:
        (self.path,) = segments(data_dir)
        data = self.path.read_bytes()
        self.frames = [
            [(kind, data[start:end]) for kind, start, end in segment.frames(data, batch)]
            for batch in segment.scan(data).batches
        ]

    def write(self, *, roots: bool = True, count: int = 0) -> None:
        data = segment.encode_header(LOG, 1, 0, segment.NO_SEGMENT_SHA256)
        header = segment.decode_header(data)
        tree, seed = CompactRange(), header.crc
        for number, frames in enumerate(self.frames):
            body = b"".join(frame_head(len(content), kind) + content for kind, content in frames)
            first, hashes = tree.size, [leaf_hash(content) for kind, content in frames if kind == Kind.RECEIPT]
            tree.extend(hashes)
            root = tree.root() if roots else bytes(32)
            batch, seed = segment.encode_batch(header, number, first, len(hashes) + count, seed, [body], root)
            data += batch
        self.path.write_bytes(data)


@pytest.fixture
async def forger(tmp_path: Path) -> Forger:
    await write_log(tmp_path, [2, 2], tenants=1)
    return Forger(tmp_path)


async def test_a_forger_who_changes_nothing_is_not_found(forger: Forger, tmp_path: Path) -> None:
    before = forger.path.read_bytes()
    forger.write()
    assert forger.path.read_bytes() == before
    assert verify_log(tmp_path).ok


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"decision": "nine"}, ["tenant_chain"]),  # the next receipt's prev gives it away
        ({"tenant": "0" * 32}, ["tenant_chain", "tenant_chain"]),
        ({"inputs_commit": "0" * 64}, ["commitment", "tenant_chain"]),
        ({"log": "somebody.else/0"}, ["foreign", "tenant_chain"]),
        ({"epoch": 2}, ["foreign", "tenant_chain"]),
        ({"ts_us": 2**53}, ["canonical", "commitment", "tenant_chain"]),
        ({"extra": 0.5}, ["canonical", "commitment", "tenant_chain"]),
        ({"extra": "ä"}, ["tenant_chain"]),  # of a later version, perhaps
    ],
)
async def test_a_rewritten_receipt_is_found(
    forger: Forger, tmp_path: Path, change: dict[str, object], found: list[str]
) -> None:
    kind, leaf = forger.frames[0][2]
    assert kind == Kind.RECEIPT
    changed = orjson.dumps(orjson.loads(leaf) | change, option=orjson.OPT_SORT_KEYS)
    forger.frames[0][2] = (kind, changed)
    forger.write()
    report = verify_log(tmp_path)
    assert kinds(report) == found
    assert report.errors[0].index == (2 if found == ["tenant_chain"] else 1)


async def test_a_leaf_that_is_not_canonical_is_found(forger: Forger, tmp_path: Path) -> None:
    kind, leaf = forger.frames[1][2]
    forger.frames[1][2] = (kind, leaf.replace(b'":', b'": ', 1))
    forger.write()
    report = verify_log(tmp_path)
    assert kinds(report) == ["canonical", "commitment"]
    assert report.errors[0].index == 3


async def test_receipts_left_out_or_put_in_another_order_are_found(forger: Forger, tmp_path: Path) -> None:
    first, second = forger.frames[0][:2], forger.frames[0][2:4]
    rest = forger.frames[0][4:]
    forger.frames[0] = [*second, *first, *rest]
    forger.write()
    assert set(kinds(verify_log(tmp_path))) == {"tenant_chain"}
    forger.frames[0] = [*first, *rest]
    forger.write()
    assert kinds(verify_log(tmp_path)) == ["tenant_chain"]


async def test_a_payload_that_was_changed_is_found_and_one_that_was_dropped_is_not_missed(
    forger: Forger, tmp_path: Path
) -> None:
    kind, content = forger.frames[0][1]
    assert kind == Kind.PAYLOAD
    forger.frames[0][1] = (kind, content[:-1] + b"!")
    forger.write()
    assert kinds(verify_log(tmp_path)) == ["commitment"]
    del forger.frames[0][1]
    forger.write()
    assert verify_log(tmp_path).ok


async def test_wrong_roots_counts_and_frames_are_found(forger: Forger, tmp_path: Path) -> None:
    forger.write(roots=False)
    assert kinds(verify_log(tmp_path)) == ["root"]
    forger.write(count=1)
    assert "frame" in kinds(verify_log(tmp_path))
    forger.frames[0].append((Kind.STATE, b"\xff\xffshort"))
    forger.write()
    assert kinds(verify_log(tmp_path)) == ["frame"]


async def test_a_file_that_cannot_be_read_is_no_verdict(tmp_path: Path) -> None:
    await write_log(tmp_path, [1])
    (path,) = segments(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        verify_log(tmp_path)


async def test_progress_is_told_after_each_segment(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=Limits(segment_bytes=4_000))
    told: list[tuple[int, int, int]] = []
    verify_log(tmp_path, lambda *progress: told.append(progress))
    assert len(told) == len(segments(tmp_path))
    assert told[-1] == (0, 20, 0)


async def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    await write_log(tmp_path, [3] * 12, tenants=5, limits=Limits(segment_bytes=4_000))
    paths = segments(tmp_path)
    assert len(paths) >= 6
    alone = verify_log(tmp_path).as_dict()
    shared = verify_log(tmp_path, processes=3).as_dict()
    assert alone | {"seconds": 0} == shared | {"seconds": 0}
    spoil(paths[2], HEADER_BYTES + 200)
    spoil(paths[4], paths[4].stat().st_size - 40)
    alone = verify_log(tmp_path).as_dict()
    shared = verify_log(tmp_path, processes=3).as_dict()
    assert alone | {"seconds": 0} == shared | {"seconds": 0}
    assert [error["kind"] for error in alone["errors"]] == ["damaged", "damaged"]
    paths[3].unlink()
    assert kinds(verify_log(tmp_path, processes=3)) == ["damaged", "missing"]


async def test_a_file_that_another_process_cannot_read_is_no_verdict_either(tmp_path: Path) -> None:
    await write_log(tmp_path, [3] * 12, limits=Limits(segment_bytes=4_000))
    path = segments(tmp_path)[4]
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        verify_log(tmp_path, processes=2)


def test_a_process_that_is_killed_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="ended before"):
        list(parallel.in_order(os._exit, [9, 9], 2))


async def test_the_data_folder_keeps_its_secret_to_itself(tmp_path: Path) -> None:
    await write_log(tmp_path, [1])
    assert stat.S_IMODE((tmp_path / "ledger" / "pseudonym.key").stat().st_mode) == 0o600
    key = (tmp_path / "ledger" / "pseudonym.key").read_bytes()
    assert all(key not in path.read_bytes() for path in partition_folder(tmp_path, 0).iterdir())
