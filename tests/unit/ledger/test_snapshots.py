"""A snapshot stands for the segments before it: what comes back is the same, and nothing of them is read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.ledger_scenes import Events, draft, open_ledger, running, segments, write_log

from ledger.appender import Ledger
from ledger.draft import Limits
from ledger.durable import POSIX, PosixDisk
from ledger.errors import SegmentCorruptError, SnapshotInvalidError
from ledger.format import snapshot as codec
from ledger.format.merkle import leaf_hash
from ledger.format.tiles import TileTree
from ledger.identity import partition_folder
from ledger.layout import list_segments
from ledger.local_log import quarantine
from ledger.recovery import Recovered, fold, recover
from ledger.snapshots import list_snapshots, write_snapshot

LOG = "ledger.test/log/0"
SMALL = Limits(segment_bytes=4_000)


class CountingDisk(PosixDisk):
    def __init__(self) -> None:
        self.bytes_read = 0

    def read(self, path: Path, offset: int = 0, length: int = -1) -> bytes:
        data = super().read(path, offset, length)
        if path.suffix in {".seg", ".open"}:
            self.bytes_read += len(data)
        return data


def take_snapshot(data_dir: Path) -> Path | None:
    folder = partition_folder(data_dir, 0)
    made = fold(folder, LOG, Events())
    return None if made is None else write_snapshot(folder, made, POSIX)


def come_back(data_dir: Path, *, snapshots: bool = True) -> tuple[Recovered, list[list[Any]], dict[str, bytes]]:
    app, states, folder = Events(), dict[str, bytes](), partition_folder(data_dir, 0)
    if snapshots:
        recovered = recover(folder, LOG, app=app, on_state=states.__setitem__)
    else:
        recovered = recover(folder, LOG, on_receipt=app.on_receipt, on_state=states.__setitem__)
    return recovered, app.seen, states


def expect_same(data_dir: Path, *, skipped: int | None = None, notes: int = 0) -> Recovered:
    """With snapshots everything comes back as it does without."""
    whole, *content = come_back(data_dir, snapshots=False)
    found, *same = come_back(data_dir)
    assert same == content
    assert (found.size, found.epoch, found.previous_sha256, found.sealed) == (
        whole.size, whole.epoch, whole.previous_sha256, whole.sealed,
    )  # fmt: skip
    assert (found.tree.root(), found.tree.hashes()) == (whole.tree.root(), whole.tree.hashes())
    chains = [{name: (one.count, one.head) for name, one in each.chains.items()} for each in (found, whole)]
    assert chains[0] == chains[1]
    trees = []
    for each in (found, whole):
        each.fold_hashes()
        trees.append(each.edge.state())
    assert trees[0] == trees[1]
    assert len(found.notes) == notes, found.notes
    if skipped is not None:
        assert found.snapshot_size == skipped
    return found


async def test_a_start_reads_only_what_comes_after_the_snapshot(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    assert take_snapshot(tmp_path) is not None
    await write_log(tmp_path, [1] * 5, limits=SMALL, app=Events())
    expect_same(tmp_path, skipped=20)
    after = sum(path.stat().st_size for path in segments(tmp_path) if int(path.name[:20]) >= 20)
    disk = CountingDisk()
    recovered = recover(partition_folder(tmp_path, 0), LOG, app=Events(), disk=disk)
    assert recovered.size == 25
    assert disk.bytes_read == after + 64, "and the header of the first of them"


async def test_with_nothing_behind_it_the_last_segment_of_a_snapshot_is_hashed(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    take_snapshot(tmp_path)
    expect_same(tmp_path, skipped=20)
    disk = CountingDisk()
    recover(partition_folder(tmp_path, 0), LOG, app=Events(), disk=disk)
    assert disk.bytes_read == segments(tmp_path)[-1].stat().st_size
    last = segments(tmp_path)[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    with pytest.raises(SegmentCorruptError):
        come_back(tmp_path)


async def test_a_snapshot_goes_on_from_the_one_before_and_two_are_kept(tmp_path: Path) -> None:
    taken = []
    for run in range(4):
        await write_log(tmp_path, [3, 2], limits=SMALL, app=Events())
        taken.append(take_snapshot(tmp_path))
        expect_same(tmp_path, skipped=5 * (run + 1))
    assert take_snapshot(tmp_path) is None, "there is nothing new"
    assert [str(name) for name in list_snapshots(partition_folder(tmp_path, 0), POSIX)] == [
        path.name for path in taken[:1:-1] if path is not None
    ]
    made = [codec.decode(path.read_bytes()) for path in taken[2:] if path is not None]
    # From the first receipt on it comes to the same.
    for path in taken[2:]:
        assert path is not None
        path.unlink()
    assert fold(partition_folder(tmp_path, 0), LOG, Events()) == made[-1]


async def test_the_log_goes_on_after_a_snapshot(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    take_snapshot(tmp_path)
    async with running(tmp_path, app=Events(), limits=SMALL) as ledger:
        assert (ledger.size, ledger.recovered.snapshot_size, ledger.sealed_size) == (20, 20, 20)
        for number in range(20, 30):
            await ledger.wait_local(ledger.append(draft(number, tenant=f"t{number % 2}")))
        # Chains, tree, index and hashes know what lies before.
        assert ledger.next_tseq("t1") == 15
        assert [one.index for one in await ledger.tenant_receipts("t1", -1, 100)] == list(range(1, 30, 2))
        assert (await ledger.read(3)).index == 3
        assert ledger.sealed_since(0)[0].first_index == 0
        tree = TileTree.from_state(ledger.recovered.edge.state())
        assert tree.size == ledger.hashes_from
        tree.extend(ledger.take_hashes())
        assert tree.root() == ledger.root
    expect_same(tmp_path, skipped=20)


async def test_segments_may_be_dropped_while_a_snapshot_is_made(tmp_path: Path) -> None:
    """Another process drops them, after they were listed."""
    await write_log(tmp_path, [1] * 30, limits=SMALL)
    assert take_snapshot(tmp_path) is not None
    await write_log(tmp_path, [1] * 10, limits=SMALL)

    class Dropping(PosixDisk):
        listed = 0

        def names(self, folder: Path) -> list[str]:
            found = super().names(folder)
            self.listed += 1
            if self.listed == 1:
                segments(tmp_path)[0].unlink()
            return found

    made = fold(partition_folder(tmp_path, 0), LOG, Events(), Dropping())
    assert made is not None
    assert (made.size, made.segments[0].first_index) == (40, int(segments(tmp_path)[0].name[:20]))


async def test_a_spoiled_snapshot_is_passed_over(tmp_path: Path) -> None:
    taken = []
    for _ in range(2):
        await write_log(tmp_path, [1] * 10, limits=SMALL)
        taken.append(take_snapshot(tmp_path))
    old, new = taken
    assert old is not None
    assert new is not None
    whole = new.read_bytes()
    for at in [*range(0, len(whole), 61), len(whole) - 1]:
        new.write_bytes(whole[:at] + bytes((whole[at] ^ 4,)) + whole[at + 1 :])
        recovered, seen, _ = come_back(tmp_path)
        assert (recovered.snapshot_size, len(seen), len(recovered.notes)) == (10, 20, 1)
        assert str(new) in recovered.notes[0]
    new.write_bytes(whole[:-3])
    expect_same(tmp_path, skipped=10, notes=1)
    old.write_bytes(b"")
    expect_same(tmp_path, skipped=0, notes=2)
    assert take_snapshot(tmp_path) is not None
    expect_same(tmp_path, skipped=20)


def change(path: Path, **fields: Any) -> None:
    path.write_bytes(codec.encode(replace(codec.decode(path.read_bytes()), **fields)))


async def test_a_snapshot_that_contradicts_itself_or_the_log_is_passed_over(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    path = take_snapshot(tmp_path)
    assert path is not None
    whole = path.read_bytes()
    made = codec.decode(whole)
    other = TileTree()
    other.extend(leaf_hash(b"another") * 20)
    wrongs: list[dict[str, Any]] = [
        {"log": "somebody.else/0"}, {"size": 21}, {"epoch": 2}, {"root": bytes(32)}, {"edge": other.state()},
        {"edge": b""}, {"chains": made.chains[:-1]}, {"app": b"no JSON"},
        {"segments": [*made.segments[:-1], replace(made.segments[-1], sha256=bytes(32))]},
    ]  # fmt: skip
    for wrong in wrongs:
        change(path, **wrong)
        expect_same(tmp_path, skipped=0, notes=1)
        path.write_bytes(whole)
    expect_same(tmp_path, skipped=20)


async def test_a_snapshot_of_another_history_is_passed_over(tmp_path: Path) -> None:
    for name in ("a", "b"):
        await write_log(tmp_path / name, [1] * 10, limits=SMALL, entropy=lambda count, name=name: name.encode() * count)
    path = take_snapshot(tmp_path / "a")
    assert path is not None
    (partition_folder(tmp_path / "b", 0) / path.name).write_bytes(path.read_bytes())
    expect_same(tmp_path / "b", skipped=0, notes=1)
    await write_log(tmp_path / "b", [1] * 3, limits=SMALL)
    expect_same(tmp_path / "b", skipped=0, notes=1)


@pytest.mark.parametrize("lost", ["last", "middle", "all", "short"])
async def test_a_log_that_lost_what_a_snapshot_knows_is_refused(tmp_path: Path, lost: str) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    take_snapshot(tmp_path)
    paths = segments(tmp_path)
    if lost == "short":
        paths[1].write_bytes(paths[1].read_bytes()[:-1])
    for path in {"last": paths[-1:], "middle": paths[1:2], "all": paths, "short": []}[lost]:
        path.unlink()
    with pytest.raises(SegmentCorruptError, match="snapshot"):
        come_back(tmp_path)


@pytest.mark.parametrize("put_aside", [1, 2, 100])
async def test_a_snapshot_that_was_made_too_late_of_what_is_in_quarantine_is_passed_over(
    tmp_path: Path, put_aside: int
) -> None:
    """Whoever makes it is a process of its own, and may outlive a takeover that put these segments aside."""
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    folder = partition_folder(tmp_path, 0)
    made = fold(folder, LOG, Events())
    assert made is not None
    quarantine(POSIX, folder, list_segments(folder)[-put_aside:], 2)
    write_snapshot(folder, made, POSIX)
    recovered = expect_same(tmp_path, notes=1)
    assert recovered.size < 20
    await write_log(tmp_path, [1] * 5, limits=SMALL, app=Events())
    expect_same(tmp_path, notes=1)


async def test_the_first_segments_may_have_been_dropped(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 20, limits=SMALL)
    take_snapshot(tmp_path)
    dropped = segments(tmp_path)[0]
    dropped.unlink()
    recovered, seen, _ = come_back(tmp_path)
    assert (recovered.size, len(seen), recovered.notes) == (20, 20, [])
    assert recovered.sealed[0].path == segments(tmp_path)[0]
    with pytest.raises(SegmentCorruptError, match="a segment is missing"):
        come_back(tmp_path, snapshots=False)
    await write_log(tmp_path, [1] * 10, limits=SMALL, app=Events())
    take_snapshot(tmp_path)
    assert len(come_back(tmp_path)[1]) == 30


class Crash(Exception):  # noqa: N818 - it is no error of the code under test
    pass


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int, *, landed: bool) -> Callable[[], int]:
    """From system call `number` on nothing works any more; that one still has its effect, or not."""
    made = 0

    def spy(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def spied(*args: Any, **options: Any) -> Any:
            nonlocal made
            made += 1
            if made > number or (made == number and not landed):
                raise Crash
            if made == number and name == "pwrite":
                real(args[0], args[1][: len(args[1]) // 2], args[2])
                raise Crash
            result = real(*args, **options)
            if made == number:
                raise Crash
            return result

        monkeypatch.setattr(owner, name, spied)

    for owner, name in ((os, "pwrite"), (os, "fsync"), (Path, "rename"), (Path, "unlink")):
        spy(owner, name)
    return lambda: made


@pytest.mark.parametrize("landed", [True, False])
async def test_a_crash_anywhere_in_writing_a_snapshot_leaves_the_old_one_or_the_new(
    tmp_path: Path, landed: bool
) -> None:
    await write_log(tmp_path, [1] * 8, limits=SMALL)
    take_snapshot(tmp_path)
    await write_log(tmp_path, [1] * 8, limits=SMALL)
    take_snapshot(tmp_path)
    await write_log(tmp_path, [1] * 8, limits=SMALL)
    calls = 0
    for number in range(1, 100):
        with pytest.MonkeyPatch.context() as patch:
            count = crash_at(patch, number, landed=landed)
            try:
                take_snapshot(tmp_path)
            except Crash:
                crashed = True
            else:
                crashed = False
            calls = count()
        found = expect_same(tmp_path)
        assert found.snapshot_size in {16, 24}
        assert len(list_snapshots(partition_folder(tmp_path, 0), POSIX)) >= 2
        if not crashed:
            break
        for path in partition_folder(tmp_path, 0).glob(f"{24:020d}-*.snap"):
            path.unlink()
            (path.with_name(path.name.replace(f"{24:020d}", f"{8:020d}"))).write_bytes(b"an old one")
    assert calls >= 5, "it wrote, synced, renamed, synced and removed the oldest"
    assert found.snapshot_size == 24


def test_what_is_no_snapshot_is_refused() -> None:
    for data in (b"", b"GVLSNP1\n", b"GVLSNP2\n" + bytes(40), bytes(100)):
        with pytest.raises(SnapshotInvalidError):
            codec.decode(data)


async def test_opening_a_ledger_uses_snapshots_only_with_an_application(tmp_path: Path) -> None:
    await write_log(tmp_path, [1] * 8, limits=SMALL)
    take_snapshot(tmp_path)
    ledger = open_ledger(tmp_path)
    assert ledger.recovered.snapshot_size == 0
    ledger.close()
    app = Events()
    ledger = Ledger.open(tmp_path, entropy=bytes, writer="w", encode_state=bytes, app=app)
    assert (ledger.recovered.snapshot_size, len(app.seen)) == (8, 8)
    ledger.close()
