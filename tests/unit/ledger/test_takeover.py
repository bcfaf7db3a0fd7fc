import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest
from simulation.loop import run_simulated
from support.broker import until
from support.machine import SEED, TERMS, Machine, stored_head
from support.memory_store import LANDED, NOT_LANDED, MemoryStore

from ledger.authority import HeadTerms
from ledger.errors import (
    HeadInvalidError,
    IdentityError,
    LogForkedError,
    NoteInvalidError,
    RestoreError,
    SegmentCorruptError,
    StoreUnavailableError,
    WriterFencedError,
)
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.note import Signer, Verifier
from ledger.fsck import verify_log
from ledger.protocol.head import encode_head
from ledger.store.object_store import PutOutcome
from ledger.takeover import HURRIED_LOOK_S

HEAD = "0/ctl/head"


def leaves(machine: Machine) -> "asyncio.Future[list[bytes]]":
    async def read() -> list[bytes]:
        return [(await machine.ledger.read(index)).leaf for index in range(machine.ledger.local_size)]

    return asyncio.ensure_future(read())


def assert_sound(data_dir: Path, size: int) -> None:
    report = verify_log(data_dir)
    assert report.ok, report.errors
    assert [one.size for one in report.partitions] == [size]


def test_an_empty_machine_takes_over_what_is_committed_and_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        for _ in range(5):
            await one.commit(7)
        before = await leaves(one)
        await one.kill()
        two = await Machine("b", tmp_path / "b", store).start()
        assert await leaves(two) == before
        assert two.taken.epoch == 2
        await two.commit(3)
        assert (await leaves(two))[:35] == before
        assert two.ledger.next_tseq("acme") == 38  # the chains go on: the pseudonym key came along
        await two.stop()

    run_simulated(run())
    assert_sound(tmp_path / "b", 38)


def test_a_tail_that_extends_what_is_committed_is_adopted_and_committed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        await one.commit(4)
        one.link.cut = True
        await one.append(6)
        before = await leaves(one)
        await one.kill()
        again = await Machine("a", tmp_path, store).start()
        assert (again.taken.adopted, again.taken.lost) == (6, 0)
        assert again.waited == []  # it holds the lock that the owner held
        await again.commit(1)
        assert (await leaves(again))[:10] == before
        assert (await stored_head(store)).size == 11
        await again.stop()

    run_simulated(run())
    assert_sound(tmp_path, 11)


def test_a_tail_that_another_owner_did_not_have_is_put_aside_and_counted(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(4)
        one.link.cut = True
        await one.append(6)
        await one.kill()
        two = await Machine("b", tmp_path / "b", store).start()
        await two.commit(9)
        committed = await leaves(two)
        await two.stop()

        again = await Machine("a", tmp_path / "a", store).start()
        assert (again.taken.adopted, again.taken.lost) == (0, 6)
        assert [path.name.partition(".")[2] for path in again.taken.put_aside] == ["open.quarantine-0000000002"]
        assert await leaves(again) == committed
        quarantined = [key for key in store.objects if "quarantine" in key]
        assert len(quarantined) == 1
        assert store.objects[quarantined[0]].data == again.taken.put_aside[0].read_bytes()
        await again.commit(1)
        await again.stop()

    run_simulated(run())
    assert_sound(tmp_path / "a", 14)


@pytest.mark.parametrize("renames", [0, 1, 2, 3, 4])
def test_a_crash_while_a_tail_is_put_aside_leaves_what_the_next_start_can_go_on_from(
    tmp_path: Path, renames: int
) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(4)
        one.link.cut = True
        for _ in range(3):
            await one.append(2)
            await one.ledger.seal()
        await one.kill()
        two = await Machine("b", tmp_path / "b", store).start()
        await two.commit(1)
        await two.commit(1)
        await two.stop()

        crashing = Machine("a", tmp_path / "a", store)
        crashing.disk.renames_left = renames
        with pytest.raises(OSError, match="dead"):
            await crashing.start()
        again = await Machine("a", tmp_path / "a", store).start()
        assert again.ledger.size == 6
        assert len(list(tmp_path.glob("a/ledger/0/*.quarantine-*"))) == 3  # noqa: ASYNC240 - nothing else runs here
        await again.stop()

    run_simulated(run())
    assert_sound(tmp_path / "a", 6)


@pytest.mark.parametrize("count", [1, 6, 9])
def test_two_logs_under_one_name_halt_whoever_comes_with_the_second(tmp_path: Path, count: int) -> None:
    """The same size and another root, and also a shorter and a longer one."""

    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(6)
        await one.stop()
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        shutil.rmtree(tmp_path / "b" / "ledger" / "0")
        elsewhere = MemoryStore()
        other = await Machine("b", tmp_path / "b", elsewhere, seed=2).start()
        await other.commit(count)
        await other.stop()
        head = await stored_head(store)
        with pytest.raises(LogForkedError, match="differ"):
            await Machine("b", tmp_path / "b", store).start()
        assert await stored_head(store) == head  # whoever cannot go on fences nobody

    run_simulated(run())
    assert not list(tmp_path.glob("b/ledger/0/*quarantine*"))


def test_whoever_comes_waits_for_the_lease_and_starts_again_when_it_is_renewed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit()
        two = Machine("b", tmp_path / "b", store)
        coming = asyncio.create_task(two.start())
        await asyncio.sleep(30.0)
        assert not coming.done()
        assert len(two.waited) > 3
        await one.commit()
        one.link.cut = True
        cut_s = asyncio.get_running_loop().time()
        await coming
        assert asyncio.get_running_loop().time() - cut_s < 6.5
        assert two.ledger.size == 2
        assert not one.authority_says
        await two.stop()
        await one.kill()

    run_simulated(run())


def test_no_two_machines_ever_may_answer_at_the_same_time(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        machines: list[Machine] = []
        for number in range(4):
            machines.append(await Machine(f"m{number}", tmp_path / str(number), store).start())
            assert [one.authority_says for one in machines] == [False] * number + [True]
            await machines[-1].commit(2)
            machines[-1].link.cut = True
        for one in machines:
            await one.kill()

    run_simulated(run())


@pytest.mark.parametrize("fate", [LANDED, NOT_LANDED])
def test_a_takeover_whose_outcome_was_unknown_happens_once(tmp_path: Path, fate: str) -> None:
    async def run() -> None:
        store = MemoryStore()
        store.fail(HEAD, fate)
        one = await Machine("a", tmp_path, store).start()
        assert one.taken.epoch == (await stored_head(store)).epoch == 1
        await one.commit()
        await one.stop()

    run_simulated(run())


def test_who_is_told_to_leave_it_while_claiming_it_gives_it_back(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        put, is_claiming = store.put, asyncio.Event()

        async def slow_put(key: str, data: bytes, *, if_generation: int) -> PutOutcome:
            if key == HEAD:
                is_claiming.set()
                await asyncio.sleep(0.5)
            return await put(key, data, if_generation=if_generation)

        store.put = slow_put  # type: ignore[method-assign]
        coming = asyncio.create_task(Machine("a", tmp_path / "a", store).start())
        await is_claiming.wait()
        coming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await coming
        head = await stored_head(store)
        assert (head.epoch, head.lease_us) == (1, 0)
        begun_s = asyncio.get_running_loop().time()
        other = await Machine("b", tmp_path / "b", store).start()
        assert asyncio.get_running_loop().time() - begun_s < TERMS.lease_s
        assert other.taken.epoch == 2
        await other.stop()

    run_simulated(run())


def test_of_two_that_come_at_once_both_get_it_one_after_the_other(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        machines = [Machine(name, tmp_path / name, store) for name in "ab"]
        first = await Machine("0", tmp_path / "0", store).start()
        await first.commit(3)
        await first.stop()
        starting = [asyncio.create_task(one.start()) for one in machines]
        done, _ = await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(60.0)
        assert [task.done() for task in starting].count(True) == 1
        winner = done.pop().result()
        await winner.commit(2)
        await winner.stop()
        (loser,) = [one for one in machines if one is not winner]
        await asyncio.wait(starting)
        assert loser.ledger.size == 5
        assert loser.taken.epoch == winner.taken.epoch + 1
        await loser.stop()

    run_simulated(run())


def test_a_log_that_was_signed_by_a_key_unknown_here_is_not_taken_over(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit()
        await one.stop()
        head = await stored_head(store)
        other_seed = bytes(32)
        with pytest.raises(NoteInvalidError, match="bring its signing key here"):
            await Machine("b", tmp_path / "b", store, signing_seed=other_seed).start()
        assert await stored_head(store) == head
        trusted = Verifier.parse(head.vkey)
        two = await Machine("b", tmp_path / "b", store, signing_seed=other_seed, verifiers=(trusted,)).start()
        assert (await stored_head(store)).vkey == head.vkey  # who signed what is committed has not changed yet
        await two.commit()
        assert (await stored_head(store)).vkey == Signer(two.ledger.origin, other_seed).verifier.vkey
        await two.stop()

    run_simulated(run())


def test_segments_without_receipts_do_not_break_the_chain_of_copies(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(2)
        one.ledger.put_state("k", "v")
        await asyncio.sleep(5.0)
        await one.stop()  # seals a segment that holds a state alone
        again = await Machine("a", tmp_path / "a", store).start()
        await again.commit(2)
        await again.stop()
        two = await Machine("b", tmp_path / "b", store).start()
        assert two.ledger.size == 4
        await two.stop()

    run_simulated(run())
    assert_sound(tmp_path / "b", 4)


def test_what_a_fenced_writer_had_uploaded_does_not_mislead_whoever_fetches_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(3)
        for key in [key for key in store.objects if "seg/" in key]:
            head, _, epoch_nonce = key.partition("-")
            for fake in (
                f"{head}-0000000009-ffffffff.seg",
                f"0/seg/{2:020d}-{epoch_nonce}",
                f"0/seg/{3:020d}-{epoch_nonce}",
            ):
                store.land(fake, b"what a fenced writer wrote", 0)
        await one.commit(3)
        await one.stop()
        two = await Machine("b", tmp_path / "b", store).start()
        assert two.ledger.size == 6
        await two.stop()

    run_simulated(run())
    assert_sound(tmp_path / "b", 6)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_segment_that_is_missing_or_changed_in_the_store_stops_the_fetch_and_puts_nothing_in_place(
    tmp_path: Path, which: int
) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        for _ in range(3):
            await one.commit(3)
        await one.stop()
        key = sorted(key for key in store.objects if "seg/" in key)[which]
        whole = store.objects.pop(key)
        with pytest.raises(RestoreError, match=f"ends before receipt {3 * which + 3} is missing"):
            await Machine("b", tmp_path / "b", store).start()
        store.land(key, whole.data[:-1] + bytes([whole.data[-1] ^ 1]), 0)
        with pytest.raises(RestoreError, match="is missing"):
            await Machine("b", tmp_path / "b", store).start()

    run_simulated(run())
    assert not list(tmp_path.glob("b/ledger/0/*.seg"))


def test_a_head_that_somebody_deleted_does_not_begin_a_new_log(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(3)
        await one.stop()
        del store.objects[HEAD]
        for name in "ab":
            with pytest.raises(HeadInvalidError, match="1 segments of the log are there"):
                await Machine(name, tmp_path / name, store).start()
        assert HEAD not in store.objects

    run_simulated(run())


def test_a_head_that_came_right_after_it_was_looked_for_is_not_missed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one, two = (Machine(name, tmp_path / name, store) for name in "ab")
        look = store.list

        async def look_late(prefix: str, after: str = "") -> list[str]:
            store.list = look  # type: ignore[method-assign]
            await one.start()
            await one.commit()
            one.link.cut = True
            return await look(prefix, after)

        store.list = look_late  # type: ignore[method-assign]
        await two.start()
        assert two.waited == ["a lock-of-a"]
        assert two.ledger.local_size == 1
        one.link.cut = False
        assert isinstance(await one.ended(), WriterFencedError)
        await two.stop()

    run_simulated(run())


def test_a_log_that_is_here_in_full_is_committed_anew_to_an_empty_store(tmp_path: Path) -> None:
    async def run() -> None:
        one = await Machine("a", tmp_path, MemoryStore()).start()
        await one.commit(3)
        await one.commit(3)
        await one.stop()
        fresh = MemoryStore()
        again = await Machine("a", tmp_path, fresh).start()
        assert again.taken.adopted == 6
        await again.commit()
        assert (await stored_head(fresh)).size == 7
        await again.stop()

    run_simulated(run())


def test_a_head_that_signs_what_its_segment_does_not_hold_is_not_believed(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(3)
        await one.stop()
        head, origin = await stored_head(store), one.ledger.origin
        for size, root in ((3, bytes(32)), (4, head.root_bytes())):
            note = sign_checkpoint(Checkpoint(origin, size, root), Signer(origin, SEED)).decode()
            forged = msgspec.structs.replace(head, checkpoint=note, size=size, root=root.hex())
            store.land(HEAD, encode_head(forged), store.objects[HEAD].generation)
            with pytest.raises(RestoreError, match="another size or root"):
                await Machine("b", tmp_path / "b", store).start()

    run_simulated(run())
    assert not list(tmp_path.glob("b/ledger/0/*.seg"))


def test_damage_to_the_last_segment_here_is_said_before_anything_is_done(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store).start()
        await one.commit(3)
        await one.stop()
        (path,) = tmp_path.glob("ledger/0/*.seg")  # noqa: ASYNC240 - nothing else runs here
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        head = await stored_head(store)
        with pytest.raises(SegmentCorruptError):
            await Machine("a", tmp_path, store).start()
        assert await stored_head(store) == head

    run_simulated(run())


def test_a_folder_of_another_log_is_told_so(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        await (await Machine("a", tmp_path / "a", store).start()).stop()
        elsewhere = MemoryStore()
        await (await Machine("b", tmp_path / "b", elsewhere).start()).stop()
        with pytest.raises(IdentityError, match="different pseudonym keys"):
            await Machine("b", tmp_path / "b", store).start()

    run_simulated(run())


def test_a_store_that_stays_silent_ends_the_attempt(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore(unreadable=10_000)
        begun_s = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailableError):
            await Machine("a", tmp_path, store).start()
        assert asyncio.get_running_loop().time() - begun_s < 70.0

    run_simulated(run())


def test_who_stands_by_has_each_commit_at_once_and_lists_nothing_for_it(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path / "a", store).start()
        await one.commit(3)
        two = Machine("b", tmp_path / "b", store)
        coming = asyncio.create_task(two.start())
        await until(lambda: two.followed[-1:] == [3])
        lists, of_folder = two.link.lists, two.disk.lists
        for size in range(4, 10):
            await one.commit()
            await until(lambda size=size: two.followed[-1] == size)  # type: ignore[misc]
        assert (two.link.lists, two.disk.lists) == (lists, of_folder)
        two.link.cut = True
        await one.commit(2)
        await one.commit(2)
        two.link.cut = False
        await until(lambda: two.followed[-1] == 13)
        assert two.link.lists == lists + 1  # for what it missed
        await one.commit()
        await until(lambda: two.followed[-1] == 14)
        assert two.link.lists == lists + 1
        await one.stop()
        await coming
        assert two.ledger.size == 14
        await two.stop()

    run_simulated(run())
    assert_sound(tmp_path / "b", 14)


def test_who_hears_that_a_log_may_be_free_looks_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        loop = asyncio.get_running_loop()
        for number in range(5):
            one = await Machine("a", tmp_path / "a", store).start()
            await one.commit()
            two = Machine("b", tmp_path / "b", store, seed=number)
            coming = asyncio.create_task(two.start())
            await until(lambda: two.followed[-1:] == [number + 1])  # noqa: B023 - awaited here
            await asyncio.sleep(number / 5)  # wherever it is between two looks
            await one.stop()
            freed_s = loop.time()
            two.hurry.set()
            await coming
            assert loop.time() - freed_s < HURRIED_LOOK_S + 0.2
            await two.stop()
            shutil.rmtree(tmp_path / "b")

    run_simulated(run())


def test_without_a_lease_the_next_start_on_the_same_disk_does_not_wait(tmp_path: Path) -> None:
    async def run() -> None:
        store = MemoryStore()
        one = await Machine("a", tmp_path, store, terms=HeadTerms()).start()
        await one.commit(3)
        await one.kill()
        begun_s = asyncio.get_running_loop().time()
        again = await Machine("a", tmp_path, store, terms=HeadTerms()).start()
        assert asyncio.get_running_loop().time() - begun_s < 1.0
        await again.stop()

    run_simulated(run())
