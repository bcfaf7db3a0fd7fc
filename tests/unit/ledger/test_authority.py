import asyncio
import gc
import random
from itertools import pairwise
from typing import Any

import pytest
from simulation.loop import simulated
from support.memory_store import HELD, LANDED, LATE, NOT_LANDED, REFUSED, MemoryStore

from ledger.authority import HEAD_KEY, Authority, HeadTerms
from ledger.errors import StoreRefusedError, WriterFencedError
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.merkle import EMPTY_ROOT
from ledger.format.note import Signer
from ledger.protocol.head import Head, decode_head
from ledger.store.object_store import CREATE, Lost, Won

SIGNER = Signer("ledger.test/log/0", bytes(32))
FIRST = Head(
    checkpoint=sign_checkpoint(Checkpoint(SIGNER.name, 0, EMPTY_ROOT), SIGNER).decode(), epoch=1, lease_us=5_000_000,
    nonce="00" * 16, owner="a", root=EMPTY_ROOT.hex(), segment=None, size=0, vkey=SIGNER.verifier.vkey,
)  # fmt: skip
LEASED = HeadTerms(lease_s=5.0, margin_s=1.0)


def authority(store: MemoryStore, seed: int = 1, terms: HeadTerms = LEASED, **given: Any) -> Authority:
    rng = random.Random(seed)
    given = {"head": None, "generation": CREATE} | given
    return Authority(store, terms, **given, entropy=rng.randbytes, rng=rng)


def stored(store: MemoryStore) -> Head:
    return decode_head(store.objects[HEAD_KEY].data)


def now_s() -> float:
    return asyncio.get_running_loop().time()


@simulated
async def test_a_head_that_was_written_is_the_one_in_the_store() -> None:
    store = MemoryStore()
    mine = authority(store)
    head = await mine.claim(FIRST)
    assert stored(store) == head == mine.head
    second = await mine.replace(owner="b")
    assert stored(store) == second
    assert second.nonce != head.nonce


@pytest.mark.parametrize("fates", [[LANDED], [NOT_LANDED], [NOT_LANDED, LANDED], [NOT_LANDED, NOT_LANDED, NOT_LANDED]])
def test_a_head_whose_outcome_was_unknown_is_written_exactly_once(fates: list[str]) -> None:
    @simulated
    async def run() -> None:
        store = MemoryStore()
        mine = authority(store)
        first = await mine.claim(FIRST)
        store.fail(HEAD_KEY, *fates)
        written = await mine.replace(owner="b")
        assert stored(store) == written
        assert store.objects[HEAD_KEY].generation == 2
        assert first.owner == "a"

    run()


@simulated
async def test_a_put_that_lands_after_its_repetition_was_sent_does_not_fence_its_own_writer() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, LATE)
    seen = len(store.puts)
    store.before_put = lambda _: store.land_late_ones() if len(store.puts) > seen else None
    begun_s = now_s()
    written = await mine.replace(owner="b")
    assert stored(store) == written
    # Which of the two had landed cannot be told, so the lease counts from the first.
    await asyncio.sleep(begun_s + 4.0 - now_s() - 0.001)
    assert mine.may_answer()
    await asyncio.sleep(0.002)
    assert not mine.may_answer()


@simulated
async def test_reads_that_fail_are_repeated_until_the_outcome_is_known() -> None:
    store = MemoryStore(unreadable=3)
    store.fail(HEAD_KEY, LANDED)
    assert (
        stored(store) == await authority(store).claim(FIRST) if store.objects else await authority(store).claim(FIRST)
    )
    assert store.unreadable == 0


@simulated
async def test_another_writers_head_fences_for_good() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    other = authority(store, seed=2, head=mine.head, generation=1)
    await other.replace(owner="other", epoch=2)
    for _ in range(2):
        with pytest.raises(WriterFencedError, match="other has taken the log over: epoch 2, 0 receipts"):
            await mine.replace()
    assert not mine.may_answer()
    assert stored(store).owner == "other"


@pytest.mark.parametrize("fate", [LANDED, NOT_LANDED])
def test_an_unknown_outcome_followed_by_another_writer_is_fenced_even_if_it_had_landed(fate: str) -> None:
    @simulated
    async def run() -> None:
        store = MemoryStore()
        mine = authority(store)
        await mine.claim(FIRST)
        store.fail(HEAD_KEY, fate)
        writing = asyncio.create_task(mine.replace(owner="mine again"))
        await asyncio.sleep(0.05)
        other = authority(store, seed=2, head=stored(store), generation=store.objects[HEAD_KEY].generation)
        await other.replace(owner="other", epoch=2)
        with pytest.raises(WriterFencedError, match="other"):
            await writing
        assert stored(store).owner == "other"

    run()


@simulated
async def test_a_zombies_late_put_changes_nothing() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, LATE)
    writing = asyncio.create_task(mine.replace(owner="zombie"))
    await asyncio.sleep(0.05)
    other = authority(store, seed=2, head=stored(store), generation=store.objects[HEAD_KEY].generation)
    await other.replace(owner="other", epoch=2)
    assert all(isinstance(outcome, Lost) for outcome in store.land_late_ones())
    with pytest.raises(WriterFencedError):
        await writing
    assert stored(store).owner == "other"


@simulated
async def test_a_head_that_vanished_fences() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    del store.objects[HEAD_KEY]
    with pytest.raises(WriterFencedError, match="gone"):
        await mine.replace()


@simulated
async def test_what_no_retry_mends_is_raised_and_nothing_is_written_after_it() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, REFUSED)
    with pytest.raises(StoreRefusedError):
        await mine.replace()
    with pytest.raises(WriterFencedError, match="given up"):
        await mine.replace()


@simulated
async def test_a_write_is_seen_through_when_its_caller_is_cancelled() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, HELD)
    writing = asyncio.create_task(mine.replace(owner="b"))
    await asyncio.sleep(0.05)
    writing.cancel()
    await asyncio.wait({writing})
    store.let_go.set()
    third = await mine.replace(epoch=2)
    assert (third.owner, third.epoch) == ("b", 2)
    assert stored(store) == third


@simulated
async def test_a_write_that_is_lost_after_its_caller_was_cancelled_leaves_no_error_that_nobody_hears() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, HELD)
    writing = asyncio.create_task(mine.replace(owner="b"))
    await asyncio.sleep(0.05)
    writing.cancel()
    await asyncio.wait({writing})
    other = authority(store, seed=2, head=stored(store), generation=store.objects[HEAD_KEY].generation)
    await other.replace(owner="other", epoch=2)
    store.let_go.set()
    await mine.settle()
    del writing
    gc.collect()  # the simulated loop fails the test for an exception that was never retrieved
    with pytest.raises(WriterFencedError):
        await mine.replace()


@simulated
async def test_local_answers_end_with_the_lease_and_begin_again_with_the_next_head() -> None:
    store = MemoryStore()
    mine = authority(store)
    assert not mine.may_answer()
    await mine.claim(FIRST)
    assert mine.may_answer()
    await asyncio.sleep(4.0)  # five, less the margin
    assert not mine.may_answer()
    await mine.replace()
    assert mine.may_answer()


@simulated
async def test_the_lease_counts_from_the_first_attempt_when_it_is_not_known_which_one_landed() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, LANDED)
    store.unreadable = 2
    begun_s = now_s()
    await mine.replace()
    assert now_s() - begun_s > 1.0
    await asyncio.sleep(begun_s + 4.0 - now_s() - 0.001)
    assert mine.may_answer()
    await asyncio.sleep(0.002)
    assert not mine.may_answer()


@simulated
async def test_a_lease_that_is_kept_does_not_end_though_every_other_write_fails() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    keeping = asyncio.create_task(mine.keep())
    store.fail(HEAD_KEY, *[LANDED, "", NOT_LANDED, ""] * 20)
    for _ in range(600):
        await asyncio.sleep(0.1)
        assert mine.may_answer()
    keeping.cancel()
    await asyncio.wait({keeping})
    await mine.close()
    assert stored(store).owner == "a"


@simulated
async def test_without_a_lease_answers_go_on_until_somebody_else_writes() -> None:
    store = MemoryStore()
    mine = authority(store, terms=HeadTerms())
    await mine.claim(FIRST)
    await mine.keep()  # returns: there is nothing to keep
    await asyncio.sleep(1_000_000)
    assert mine.may_answer()


@simulated
async def test_handing_over_ends_local_answers_and_tells_whoever_comes_next() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    await mine.hand_over()
    assert not mine.may_answer()
    assert stored(store).lease_us == 0


@simulated
async def test_heads_keep_the_distance_that_the_store_asks_for() -> None:
    store = MemoryStore()
    mine = authority(store, terms=HeadTerms(spacing_s=1.1))
    await mine.claim(FIRST)
    await asyncio.gather(mine.replace(), mine.replace(), mine.replace())
    times = [at_s for at_s, _ in store.puts]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 1.1


@simulated
async def test_closing_gives_up_a_write_that_is_under_way() -> None:
    store = MemoryStore()
    mine = authority(store)
    await mine.claim(FIRST)
    store.fail(HEAD_KEY, HELD)
    writing = asyncio.create_task(mine.replace())
    await asyncio.sleep(0.05)
    await mine.close()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not mine.may_answer()
    with pytest.raises(WriterFencedError, match="given up"):
        await mine.replace()


def test_the_model_store_bites() -> None:
    store = MemoryStore()
    assert store.land("k", b"1", CREATE) == Won(1)
    assert store.land("k", b"2", CREATE) == Lost(1)
    assert store.land("k", b"2", 1) == Won(2)
    assert store.land("k", b"3", 1) == Lost(2)
