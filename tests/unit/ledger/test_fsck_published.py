"""A log held against what was published of it, and against what an auditor has seen before."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.auditing import ORIGIN, SIGNER, VERIFIER, leaves_of, publish, write
from support.ledger_scenes import draft, running, segments, write_log

from ledger.appender import Ledger
from ledger.draft import Limits
from ledger.durable import POSIX
from ledger.format import heads, retention
from ledger.format.chain import LEDGER_NAME
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.heads import HeadList, HeadsStatement
from ledger.format.merkle import leaf_hash, root_of
from ledger.format.note import Signer
from ledger.format.receipt import Receipt
from ledger.format.retention import NamedSnapshot, Retention, RetentionStatement
from ledger.format.snapshot import encode as encode_snapshot
from ledger.fsck import verify_log
from ledger.protocol.head import Head, SegmentRef, encode_head, segment_key
from ledger.recovery import fold
from ledger.snapshots import write_snapshot
from ledger.verify.memory import Memory
from ledger.verify.report import LogReport

SIZE = 600
KNOWN = Memory(ORIGIN, VERIFIER)


def recall(memory: Memory = KNOWN) -> Callable[[str], Memory | None]:
    return lambda origin: memory if origin == memory.origin else None


def kinds(report: LogReport) -> list[str]:
    return [error.kind for error in report.errors]


def note_of(leaves: list[bytes], signer: Signer = SIGNER) -> bytes:
    return sign_checkpoint(Checkpoint(ORIGIN, len(leaves), root_of([*map(leaf_hash, leaves)])), signer)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    asyncio.run(write_log(folder, [40] * (SIZE // 40), tenants=7, limits=Limits(segment_bytes=40_000)))
    publish(folder / "store" / "0", leaves_of(folder)[:580])
    return folder


@pytest.fixture
def data_dir(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "data")


@pytest.fixture
def store(data_dir: Path) -> Path:
    return data_dir / "store" / "0"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_log_agrees_with_what_it_has_published(data_dir: Path, processes: int) -> None:
    report = verify_log(data_dir, processes=processes, recall=recall())
    assert (report.errors, report.receipts) == ([], SIZE)
    (learned,) = report.learned
    assert learned.newest is not None
    assert learned.newest.size == 580
    assert report.notes == ["receipts 580..599 are newer than the newest signed checkpoint"]


def test_the_store_may_stand_elsewhere(data_dir: Path, store: Path, tmp_path: Path) -> None:
    store.parent.rename(tmp_path / "elsewhere")
    assert verify_log(data_dir, recall=recall()).learned == []
    assert len(verify_log(data_dir, store=tmp_path / "elsewhere", recall=recall()).learned) == 1


def test_without_a_key_the_signature_is_not_claimed_to_hold(data_dir: Path) -> None:
    report = verify_log(data_dir)
    assert report.ok
    assert report.notes == ["whoever signed the published checkpoint was not checked: no key is known"]


def test_a_checkpoint_of_another_key_is_not_trusted(data_dir: Path, store: Path) -> None:
    (store / "checkpoint").write_bytes(note_of(leaves_of(data_dir)[:580], Signer(ORIGIN, bytes(32))))
    report = verify_log(data_dir, recall=recall())
    assert kinds(report) == ["checkpoint"]
    assert "the published checkpoint cannot be trusted" in report.errors[0].message


def test_the_committed_head_counts_where_nothing_newer_was_published(data_dir: Path, store: Path) -> None:
    leaves = leaves_of(data_dir)
    write_head(store, leaves)
    (learned,) = verify_log(data_dir, recall=recall()).learned
    assert learned.newest is not None
    assert learned.newest.size == SIZE
    segments(data_dir)[-1].unlink()
    assert "the committed head is of 600 receipts" in verify_log(data_dir).errors[-1].message
    write_head(store, [*leaves[:-1], b"another"])
    assert kinds(verify_log(data_dir))[0] == "truncated"


def write_head(store: Path, leaves: list[bytes]) -> None:
    root, last = root_of([*map(leaf_hash, leaves)]).hex(), SegmentRef(segment_key(0, 1, bytes(4)), "00" * 32)
    head = Head(
        checkpoint=note_of(leaves).decode(), epoch=1, lease_us=0, nonce="0" * 32, owner="o", root=root, segment=last,
        size=len(leaves), vkey=VERIFIER.vkey,
    )  # fmt: skip
    write(store / "ctl" / "head", encode_head(head))


def test_receipts_cut_off_the_end_are_missed(data_dir: Path) -> None:
    segments(data_dir)[-1].unlink()
    report = verify_log(data_dir, recall=recall())
    assert kinds(report) == ["truncated"]
    assert "of 580 receipts, and the log has" in report.errors[0].message
    assert "579 were in the log and are not here" in report.errors[0].message


def test_a_log_that_was_written_anew_is_a_fork(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    asyncio.run(write_log(other, [40] * (SIZE // 40), tenants=6, limits=Limits(segment_bytes=40_000)))
    shutil.rmtree(other / "ledger" / "0" / "store", ignore_errors=True)
    shutil.copytree(data_dir / "store", other / "store")
    report = verify_log(other, recall=recall())
    assert kinds(report)[-1] == "fork"
    assert "the log was written anew" in report.errors[-1].message


def test_a_log_rolled_back_behind_what_was_seen_is_caught_though_all_in_it_agrees(data_dir: Path, store: Path) -> None:
    leaves = leaves_of(data_dir)
    memory = KNOWN.learn(note_of(leaves[:580]))
    segments(data_dir)[-1].unlink()
    shutil.rmtree(store)
    publish(store, leaves_of(data_dir))
    assert verify_log(data_dir, recall=recall()).ok
    report = verify_log(data_dir, recall=recall(memory))
    assert kinds(report) == ["rollback"]
    assert "a checkpoint seen before is of 580 receipts" in report.errors[0].message


def test_a_fork_from_what_was_seen_is_caught_at_every_size(data_dir: Path) -> None:
    leaves = leaves_of(data_dir)
    for size in (1, 41, 256, 580, 600):
        seen = [*leaves[: size - 1], b"another"]
        report = verify_log(data_dir, recall=recall(KNOWN.learn(note_of(seen))))
        assert kinds(report) == ["fork"]
        assert f"at {size} receipts" in report.errors[0].message


def test_what_was_seen_is_proven_and_only_the_newest_kept(data_dir: Path) -> None:
    leaves = leaves_of(data_dir)
    memory = KNOWN.learn(note_of(leaves[:3])).learn(note_of(leaves[:300]))
    (learned,) = verify_log(data_dir, recall=recall(memory)).learned
    assert [one.checkpoint.size for one in learned.seen] == [580]
    newer = memory.learn(note_of(leaves[:590]))  # as a proof that was asked for brings it, before it is published
    (learned,) = verify_log(data_dir, recall=recall(newer)).learned
    assert [one.checkpoint.size for one in learned.seen] == [590]


def test_a_changed_missing_or_short_tile_is_named(data_dir: Path, store: Path) -> None:
    for name in ("tile/0/000", "tile/0/002.p/68", "tile/1/000.p/2"):
        tile = store / name
        whole = tile.read_bytes()
        spoilt = (whole[:-1] + bytes((whole[-1] ^ 1,)), None, whole[:-1])
        for content, said in zip(spoilt, ("not that of the log's receipts", "is missing", "bytes, not"), strict=True):
            tile.unlink() if content is None else tile.write_bytes(content)
            report = verify_log(data_dir, recall=recall())
            assert "tile" in kinds(report)
            assert any(error.file == str(tile) and said in error.message for error in report.errors)
            assert report.learned == []
        tile.write_bytes(whole)


def test_a_partial_tile_may_give_way_to_a_fuller_one(data_dir: Path, store: Path) -> None:
    """Publishing goes on while a log is verified."""
    partial = store / "tile/0/002.p/68"
    fuller = [*map(leaf_hash, leaves_of(data_dir)[512:600])]
    write(store / "tile/0/002.p/88", b"".join(fuller))
    partial.unlink()
    assert verify_log(data_dir, recall=recall()).ok


def test_a_changed_or_missing_entry_bundle_is_named(data_dir: Path, store: Path) -> None:
    bundle = store / "tile/entries/001"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole.replace(b'"decided"', b'"refused"', 1))
    report = verify_log(data_dir, recall=recall())
    assert kinds(report) == ["entries"]
    assert "entry bundle 1 does not hold the leaves" in report.errors[0].message
    bundle.write_bytes(whole[:-1])
    assert kinds(verify_log(data_dir)) == ["entries"]


def test_a_bundle_that_is_not_published_is_said_while_its_segments_are_here(data_dir: Path, store: Path) -> None:
    """A bucket need not hold each receipt twice."""
    (store / "tile/entries/001").unlink()
    report = verify_log(data_dir)
    assert report.errors == []
    assert any("1 of 3 entry bundles are not published" in note for note in report.notes)


def drop(data_dir: Path, store: Path, segments_to: int, entries_from: int = 0, *, stated: bool = True) -> int:
    """As retention drops: says it, in a receipt and beside the checkpoint, then removes whole segments and bundles."""
    if stated:
        asyncio.run(state_drop(data_dir, RetentionStatement(entries_from, segments_to, "0" * 64)))
    kept = [path for path in segments(data_dir) if int(path.name[:20]) <= segments_to]
    first = int(kept[-1].name[:20])
    (store / "retention").write_bytes(retention.encode(Retention(entries_from, segments_to)))
    for path in kept[:-1]:
        path.unlink()
    for number in range(entries_from // 256):
        (store / f"tile/entries/{number:03}").unlink()
    return first


async def state_drop(data_dir: Path, statement: RetentionStatement) -> None:
    async with running(data_dir) as ledger:
        evidence = retention.evidence(statement)
        index = ledger.append(draft(tenant=LEDGER_NAME, fsm=retention.FSM, rule=retention.RULE, evidence=evidence))
        await ledger.wait_local(index)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_retention_dropped_is_said_and_the_rest_verified(data_dir: Path, store: Path, processes: int) -> None:
    asyncio.run(state_drop(data_dir, RetentionStatement(0, 400, "0" * 64)))
    whole = verify_log(data_dir, recall=recall())
    first = drop(data_dir, store, 400, stated=False)
    assert 256 < first <= 400
    report = verify_log(data_dir, processes=processes, recall=recall())
    assert report.errors == []
    assert (report.receipts, report.tenants, report.partitions) == (SIZE + 1, 8, whole.partitions)
    assert f"receipts 0..{first - 1}: payloads dropped by retention" in report.notes[0]
    assert len(report.learned) == 1


def test_dropped_receipts_are_said_to_be_unjudged_and_their_hashes_still_count(data_dir: Path, store: Path) -> None:
    first = drop(data_dir, store, 400, 256)
    report = verify_log(data_dir, recall=recall())
    assert report.errors == []
    assert report.receipts == SIZE + 1
    assert "receipts 0..255 were dropped by retention; their hashes are in the tree" in report.notes[0]
    assert f"receipts 256..{first - 1}: payloads dropped by retention" in report.notes[1]
    tile = store / "tile/0/000"
    tile.write_bytes(tile.read_bytes()[:-1] + b"!")
    assert "root" in kinds(verify_log(data_dir, recall=recall()))
    tile.unlink()
    assert kinds(verify_log(data_dir))[:1] == ["missing"]


def test_segments_that_are_gone_unsaid_are_missing(data_dir: Path, store: Path) -> None:
    drop(data_dir, store, 400)
    (store / "retention").unlink()
    report = verify_log(data_dir)
    assert kinds(report)[0] == "missing"
    assert "says to have dropped nothing" in report.errors[0].message
    (store / "retention").write_bytes(retention.encode(Retention(0, 100)))
    assert "receipts below 100 only" in verify_log(data_dir).errors[0].message
    (store / "retention").write_text("{")
    assert "cannot be read" in verify_log(data_dir).errors[0].message


def test_what_no_receipt_says_to_be_dropped_was_taken_away(data_dir: Path, store: Path) -> None:
    """Whoever can write into the store can write the object too, and sign nothing."""
    drop(data_dir, store, 400, 256, stated=False)
    report = verify_log(data_dir, recall=recall())
    assert kinds(report) == ["retention", "retention"]
    assert "segments below receipt 400 were dropped, and no receipt of the log says so" in report.errors[0].message
    assert "entry bundles below receipt 256 were dropped" in report.errors[1].message


def test_a_snapshot_that_no_receipt_names_stands_for_nothing(data_dir: Path, store: Path) -> None:
    drop(data_dir, store, 400)
    for sha256, said in (("0" * 64, []), ("1" * 64, ["retention"])):
        named = (NamedSnapshot(1, 560, SIZE, sha256, SIZE),)
        (store / "retention").write_bytes(retention.encode(Retention(0, 400, named)))
        assert kinds(verify_log(data_dir)) == said


def test_a_bundle_that_must_stand_for_a_dropped_segment_is_held_against_its_root(data_dir: Path, store: Path) -> None:
    drop(data_dir, store, 400)
    bundle = store / "tile/entries/000"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole.replace(b'"decided"', b'"refused"', 1))
    assert {"tenant_chain", "root"} <= set(kinds(verify_log(data_dir)))
    bundle.unlink()
    report = verify_log(data_dir)
    assert kinds(report)[0] == "entries"
    assert "neither here nor in a segment" in report.errors[0].message


async def write_heads(ledger: Ledger, **lie: int) -> int:
    size, ends = ledger.chain_heads()
    entries = HeadList.of((end.pseudonym, end.next_tseq, end.leaf_hash) for end in ends)
    evidence = heads.evidence(HeadsStatement(len(entries), size, entries.root())) | lie
    return ledger.append(draft(tenant=LEDGER_NAME, fsm=heads.FSM, rule=heads.RULE, evidence=evidence))


async def test_heads_are_held_against_the_chains(tmp_path: Path) -> None:
    for number, lie in enumerate(({}, {"count": 2})):
        folder = tmp_path / str(number)
        async with running(folder, limits=Limits(segment_bytes=8_000)) as ledger:
            for at in range(60):
                index = ledger.append(draft(at, tenant=f"t{at % 4}"))
                if at % 13 == 12:
                    index = await write_heads(ledger, **(lie if at == 38 else {}))
                await ledger.wait_local(index)
        assert len(segments(folder)) > 3
        report = verify_log(folder)
        assert [(error.kind, error.index) for error in report.errors] == ([("heads", 41)] if lie else [])


class NoApp:
    """An application that makes nothing of receipts."""

    def on_receipt(self, index: int, receipt: Receipt) -> None: ...

    def encode(self) -> bytes:
        return b""

    def decode(self, data: bytes) -> None: ...


async def test_snapshots_are_held_against_the_log(tmp_path: Path) -> None:
    limits = Limits(segment_bytes=8_000)
    await write_log(tmp_path, [2] * 20, tenants=3, limits=limits)
    folder = tmp_path / "ledger" / "0"
    made = fold(folder, ORIGIN, NoApp())
    assert made is not None
    path = write_snapshot(folder, made, POSIX)
    await write_log(tmp_path, [2] * 5, tenants=3, limits=limits)
    assert verify_log(tmp_path).errors == []
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes((whole[-1] ^ 1,)))
    assert [error.kind for error in verify_log(tmp_path).errors] == ["snapshot"]
    key = next(iter(made.states))
    for change, said in (
        ({"root": bytes(32)}, "another root"),
        ({"chains": made.chains[56:]}, "other ends"),
        ({"states": made.states | {key: b"forged"}}, "other states"),
    ):
        path.write_bytes(encode_snapshot(msgspec.structs.replace(made, **change)))
        (error,) = verify_log(tmp_path).errors
        assert (error.kind, error.index, error.file) == ("snapshot", made.size, str(path))
        assert said in error.message
    path.write_bytes(whole)
    for each in segments(tmp_path)[3:]:
        each.unlink()
    assert kinds(verify_log(tmp_path)) == ["truncated"]
