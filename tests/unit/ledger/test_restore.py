import asyncio
import random
import shutil
from pathlib import Path

import pytest
from simulation.loop import run_simulated
from support.machine import InlineExecutor, Machine, stored_head
from support.memory_store import MemoryStore

from ledger.errors import HeadInvalidError, IdentityError, NoteInvalidError, RestoreError
from ledger.format.note import Signer
from ledger.fsck import verify_log
from ledger.restore import RestoredPartition, read_trusted, restore

HEAD = "0/ctl/head"


async def bring_back(store: MemoryStore, folder: Path, vkey: str | None = None) -> list[RestoredPartition]:
    return await restore(store, folder, rng=random.Random(1), vkey=vkey, executor=InlineExecutor())


async def a_log(folder: Path, seed: int = 1) -> tuple[MemoryStore, Machine]:
    store = MemoryStore()
    one = await Machine("a", folder, store, seed=seed).start()
    for number in range(4):
        await one.commit(number + 1)
    await one.stop()
    return store, one


def test_a_restored_log_is_sound_has_the_root_that_was_signed_and_can_be_gone_on_with(tmp_path: Path) -> None:
    async def run() -> None:
        store, _ = await a_log(tmp_path / "a")
        shutil.rmtree(tmp_path / "a")
        (partition,) = await bring_back(store, tmp_path / "b")
        head = await stored_head(store)
        assert (partition.size, partition.root) == (10, head.root_bytes())
        report = verify_log(tmp_path / "b")
        assert report.ok
        assert [(found.size, found.root) for found in report.partitions] == [(10, head.root)]
        trusted = tuple(read_trusted(tmp_path / "b"))
        assert [key.vkey for key in trusted] == [head.vkey]
        again = await Machine("b", tmp_path / "b", store, signing_seed=bytes(32), verifiers=trusted).start()
        await again.commit()
        assert again.ledger.next_tseq("acme") == 11
        await again.stop()

    run_simulated(run())
    assert verify_log(tmp_path / "b").ok


def test_what_was_interrupted_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        store, _ = await a_log(tmp_path / "a")
        store.takes_s = 1.0
        restoring = asyncio.create_task(bring_back(store, tmp_path / "b"))
        await asyncio.sleep(4.5)
        restoring.cancel()
        await asyncio.wait({restoring})
        await bring_back(store, tmp_path / "b")
        await bring_back(store, tmp_path / "b")

    run_simulated(run())
    assert verify_log(tmp_path / "b").receipts == 10
    assert not list(tmp_path.glob("b/ledger/0/*.fetched"))


@pytest.mark.parametrize("same_key", [True, False])
def test_a_folder_with_another_log_is_left_alone(tmp_path: Path, same_key: bool) -> None:
    async def run() -> None:
        store, _ = await a_log(tmp_path / "a")
        await a_log(tmp_path / "b", seed=2)
        if same_key:
            shutil.copy(tmp_path / "a/ledger/pseudonym.key", tmp_path / "b/ledger/pseudonym.key")
        with pytest.raises(RestoreError if same_key else IdentityError, match=r"another log|already"):
            await bring_back(store, tmp_path / "b")

    run_simulated(run())


def test_an_empty_store_has_nothing_to_restore(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(RestoreError, match="no log"):
            await bring_back(MemoryStore(), tmp_path)

    run_simulated(run())


def test_the_key_that_is_given_must_have_signed(tmp_path: Path) -> None:
    async def run() -> None:
        store, one = await a_log(tmp_path / "a")
        head = await stored_head(store)
        with pytest.raises(NoteInvalidError, match="no trusted key"):
            await bring_back(store, tmp_path / "b", Signer(one.ledger.origin, bytes(32)).verifier.vkey)
        (partition,) = await bring_back(store, tmp_path / "c", head.vkey)
        assert partition.vkey == head.vkey

    run_simulated(run())
    assert not list(tmp_path.glob("b/ledger/0/*.seg"))


def test_a_head_that_was_changed_restores_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        store, _ = await a_log(tmp_path / "a")
        whole = store.objects[HEAD]
        store.land(HEAD, whole.data.replace(b'"size":10', b'"size":9'), whole.generation)
        with pytest.raises(HeadInvalidError):
            await bring_back(store, tmp_path / "b")

    run_simulated(run())


def test_a_whole_log_that_was_signed_by_another_is_refused_by_who_knows_the_key(tmp_path: Path) -> None:
    async def run() -> None:
        store, _ = await a_log(tmp_path / "a")
        mine = (await stored_head(store)).vkey
        forged = MemoryStore()
        two = await Machine("a", tmp_path / "x", forged, signing_seed=bytes(32)).start()
        await two.commit(3)
        await two.stop()
        with pytest.raises(NoteInvalidError):
            await bring_back(forged, tmp_path / "b", mine)

    run_simulated(run())
