"""Proofs from a running log, each checked as a stranger would: with the key, and nothing else of the log's."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from simulation.loop import run_simulated
from support.machine import LIMITS, InlineExecutor
from support.memory_store import HELD, MemoryStore
from support.served import Served

from ledger import prover as provers
from ledger.committer import Cadence
from ledger.errors import ReceiptNotFoundError, StoreUnavailableError
from ledger.format import proof
from ledger.format.tiles import ENTRIES, TILE_WIDTH, TileId, decode_entries, root_of, tiles_between
from ledger.verify.documents import Consistency, TenantBundle, note_of, read_document
from ledger.verify.judge import judge


async def served(folder: Path, store: MemoryStore, name: str = "a", heads_every: int = 0) -> Served:
    return await Served(name, folder, store, limits=LIMITS, heads_every=heads_every).begin()


async def assert_proves_everything(one: Served) -> None:
    size = one.prover.head.size
    for index in {0, 1, size // 2, size - 2, size - 1, *range(0, size, 97)}:
        found, head = await one.prover.inclusion(index)
        checkpoint = proof.verify(found.extra or b"", found, one.memory.verifier, one.ledger.origin)
        assert (checkpoint.size, head.size) == (size, size)
        assert found.extra == (await one.ledger.read(index)).leaf
    for old in {0, 1, size // 3, size - 1, size}:
        shown = await one.prover.consistency(old)
        assert judge(shown, one.memory.open(note_of(shown))).proven[size] == bytes.fromhex(one.prover.head.root)


def test_proofs_hold_whatever_is_published_and_whatever_is_only_in_memory(tmp_path: Path) -> None:
    async def run() -> None:
        one = await served(tmp_path, MemoryStore())
        for step in (3, 253, 1, 300, 800, 5):
            await one.commit(step)
            await assert_proves_everything(one)
            await one.publisher.publish()
            await assert_proves_everything(one)
        await one.stop()

    run_simulated(run())


def test_a_start_takes_up_what_the_last_one_published(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store)
        await one.commit(700)
        await one.publisher.publish()
        await one.commit(30)
        await one.stop()
        two = await served(tmp_path, store, "a")
        await two.publisher.publish()
        await assert_proves_everything(two)
        await two.commit(300)
        await assert_proves_everything(two)
        await two.stop()

    run_simulated(run())


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        one = await served(tmp_path, MemoryStore())
        for _ in range(6):
            await one.commit(600)
            await one.publisher.publish()
            await asyncio.sleep(1)
            assert len(one.prover._tree.state()) < 3 * TILE_WIDTH * 32
        await one.stop()

    run_simulated(run())


def test_a_receipt_that_is_not_committed_is_committed_for_its_proof(tmp_path: Path) -> None:
    async def run() -> None:
        one = await Served("a", tmp_path, MemoryStore(), cadence=Cadence(interval_s=300.0)).begin()
        await one.commit(5)
        index = await one.append(2)
        assert one.prover.head.size <= index
        found, head = await one.prover.inclusion(index)
        assert head.size > index
        proof.verify(found.extra or b"", found, one.memory.verifier, one.ledger.origin)
        await one.stop()

    run_simulated(run())


def test_nothing_is_proven_that_could_still_be_lost(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store)
        await one.commit(5)
        store.fail("0/seg/", HELD)
        index = await one.append()
        with pytest.raises(StoreUnavailableError, match="not committed yet"):
            await one.prover.inclusion(index)
        store.let_go.set()
        await one.ledger.wait_committed(index)
        await one.prover.inclusion(index)
        with pytest.raises(ReceiptNotFoundError):
            await one.prover.inclusion(index + 1)
        await one.stop()

    run_simulated(run())


def test_tiles_and_bundles_are_the_same_before_and_after_they_are_published(tmp_path: Path) -> None:
    async def run() -> None:
        one = await served(tmp_path, MemoryStore())
        await one.commit(900)
        size = one.prover.head.size
        wanted = [
            *tiles_between(0, size),
            TileId(0, 1, 7),
            TileId(ENTRIES, 2, TILE_WIDTH),
            TileId(ENTRIES, 3, size % 256),
        ]
        one.prover._keep_up()
        young = {tile: await one.prover.tile(tile) for tile in wanted}
        assert root_of(size, young.__getitem__) == bytes.fromhex(one.prover.head.root)
        leaves = decode_entries(young[wanted[-1]], size % 256)
        assert leaves == [(await one.ledger.read(index)).leaf for index in range(768, size)]
        await one.publisher.publish()
        await asyncio.sleep(1)
        assert {tile: await one.prover.tile(tile) for tile in wanted} == young
        for beyond in (TileId(0, 3, size % 256 + 1), TileId(1, 0, 4), TileId(ENTRIES, 4, 1), TileId(7, 0, 1)):
            with pytest.raises(ReceiptNotFoundError):
                await one.prover.tile(beyond)
        await one.stop()

    run_simulated(run())


def test_a_full_tile_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await served(tmp_path, store)
        await one.commit(1_100)
        await one.publisher.publish()
        await asyncio.sleep(1)
        asked: list[str] = []
        get = one.store.get

        async def counted(key: str) -> object:
            asked.append(key)
            return await get(key)

        monkeypatch.setattr(one.store, "get", counted)
        monkeypatch.setattr(provers, "TILES_CACHED_MAX", 2)
        for index in (3, 4, 300, 5):
            await one.prover.inclusion(index)
        assert asked == ["tile/0/000", "tile/0/001"]
        await one.prover.inclusion(600)  # a third tile: the one that was not asked for longest gives way
        await one.prover.inclusion(6)
        assert asked[2:] == ["tile/0/002"]
        await one.stop()

    run_simulated(run())


def test_consistency_is_shown_between_any_two_sizes(tmp_path: Path) -> None:
    async def run() -> None:
        one = await served(tmp_path, MemoryStore())
        await one.commit(600)
        await one.publisher.publish()
        for old, size in ((0, 0), (1, 599), (256, 512), (300, 600), (600, 600)):
            document = read_document(msgspec.json.encode(await one.prover.consistency(old, size)))
            assert isinstance(document, Consistency)
            found = judge(document, one.memory.open(note_of(document)))
            assert found.proven == {old: await one.prover.root(old), size: await one.prover.root(size)}
        with pytest.raises(IndexError):
            await one.prover.consistency(5, 4)
        with pytest.raises(ReceiptNotFoundError):
            await one.prover.consistency(5, 601)
        await one.stop()

    run_simulated(run())


def test_a_tenants_bundle_comes_with_the_newest_heads_that_speak_of_it(tmp_path: Path) -> None:
    async def run() -> None:
        one = await served(tmp_path, MemoryStore(), heads_every=1)
        assert await one.prover.tenant_bundle("acme", -1, 10) is None
        for tenant in ("acme", "bazaar", "acme"):
            index = await one.append(4, tenant)
        await one.ledger.wait_committed(index)
        publishing = asyncio.create_task(one.publisher.run())
        await asyncio.sleep(100)  # heads are appended, committed, and their list published with the next checkpoint
        index = await one.append(2)
        await one.append(1, "courier")

        async def verdict(tenant: str, after: int = -1, limit: int = 100) -> tuple[object, ...]:
            bundle = await one.prover.tenant_bundle(tenant, after, limit)
            document = read_document(msgspec.json.encode(bundle))
            assert isinstance(document, TenantBundle)
            found = judge(document, one.memory.open(note_of(document))).found
            return found["first_tseq"], found["next_tseq"], found["complete_to"] is not None, found["after"]

        assert await verdict("acme") == (0, 10, True, 2)
        assert await verdict("bazaar") == (0, 4, True, 0)
        assert await verdict("courier") == (0, 1, False, 1)
        assert await verdict("acme", limit=3) == (0, 3, False, 3)
        assert await verdict("acme", after=8, limit=4) == (5, 9, True, 1)
        publishing.cancel()
        await asyncio.wait({publishing})
        await one.stop()

    run_simulated(run())


def test_a_large_bundle_is_hashed_off_the_event_loop(tmp_path: Path) -> None:
    async def run() -> None:
        one = await served(tmp_path, MemoryStore())
        for number in range(900):
            index = await one.append(1, "acme" if number % 3 else "bazaar")
        await one.ledger.wait_committed(index)
        elsewhere: list[object] = []

        class Counted(InlineExecutor):
            def submit(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
                elsewhere.append(args)
                return super().submit(*args, **kwargs)  # type: ignore[arg-type]

        one.prover._executor = Counted()
        await one.prover.inclusion(5)
        assert elsewhere == []
        bundle = await one.prover.tenant_bundle("bazaar", -1, 300)
        assert bundle is not None
        assert elsewhere
        assert judge(bundle, one.memory.open(note_of(bundle))).found["receipts"] == 300
        await one.stop()

    run_simulated(run())
