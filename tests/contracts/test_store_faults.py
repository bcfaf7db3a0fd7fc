"""What the real client makes of a Google Cloud Storage that answers badly, late or not at all: each fault twice, once
where the call took effect and once where it did not.
"""

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest
from google.cloud.storage import Blob
from support import sim_gcs
from support.sim_gcs import Broken, SimGcs, parts_of
from support.stores import BUCKET, gcs_store

from ledger.errors import StoreLockedError, StoreRefusedError, StoreUnavailableError
from ledger.store.gcs import GcsStore
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won

UNANSWERED = [429, 500, 502, 503, 504, 408, Broken.RESET, Broken.SILENT]
REFUSALS = {400: "answered 400: as scripted", 401: "cannot be refreshed", 403: "answered 403: as scripted"}
"""401 makes the client ask for new credentials, of which a test has none."""

both = pytest.mark.parametrize("landed", [True, False], ids=["landed", "not landed"])
unanswered = pytest.mark.parametrize("seen", UNANSWERED, ids=str)


@pytest.fixture(scope="module")
def server() -> Iterator[SimGcs]:
    with SimGcs(BUCKET) as sim:
        yield sim


@pytest.fixture
def sim(server: SimGcs) -> SimGcs:
    server.buckets[BUCKET].clear()
    return server


@pytest.fixture
async def store(sim: SimGcs) -> AsyncIterator[GcsStore]:
    """Patient: waits longer than any test."""
    store = gcs_store(sim.url, "p", timeout_s=30.0)
    yield store
    await store.close()


@pytest.fixture
async def hasty(sim: SimGcs) -> AsyncIterator[GcsStore]:
    """Gives up on a silent server soon."""
    store = gcs_store(sim.url, "p", timeout_s=0.2)
    yield store
    await store.close()


async def test_nothing_is_asked_of_the_service_but_what_it_is_asked_for(store: GcsStore, sim: SimGcs) -> None:
    before = set(threading.enumerate())
    assert isinstance(await store.put("a", b"x", if_generation=CREATE), Won)
    assert await store.get("a") is not None
    assert await store.get("b") is None
    assert await store.list("") == ["a"]
    await store.delete("a")
    ours = ("gcs_", "process_request_thread")  # the store's own, and the stand-in's
    begun = [one.name for one in set(threading.enumerate()) - before]
    assert [name for name in begun if not any(our in name for our in ours)] == []
    assert sim.not_simulated == []


async def test_calls_leave_nothing_that_waits_for_the_collector(sim: SimGcs, store: GcsStore) -> None:
    gc.collect()
    gc.disable()
    try:
        for name in ("a", "b"):
            await store.put(name, b"x", if_generation=CREATE)
            await store.put(name, b"y", if_generation=CREATE)  # which is lost
            await store.get(name)
        await store.get("c")
        await store.list("")
        assert [one for one in gc.get_objects() if isinstance(one, Blob)] == []
    finally:
        gc.enable()


# Writes


@both
@unanswered
async def test_an_unanswered_create_is_unknown_and_a_repeat_settles_it(
    sim: SimGcs, store: GcsStore, hasty: GcsStore, seen: int | Broken, landed: bool
) -> None:
    sim.break_next("put", "p/a", seen, landed=landed)
    caller = hasty if seen is Broken.SILENT else store
    unknown = await caller.put("a", b"mine", if_generation=CREATE)
    assert isinstance(unknown, Unknown)
    assert 0 < unknown.retry_after_s <= 60
    again = await store.put("a", b"mine", if_generation=CREATE)
    assert isinstance(again, Lost if landed else Won)
    found = await store.get("a")
    assert found is not None
    assert found.data == b"mine"


@both
@unanswered
async def test_an_unanswered_replacement_is_unknown_and_reading_settles_it(
    sim: SimGcs, store: GcsStore, hasty: GcsStore, seen: int | Broken, landed: bool
) -> None:
    first = await _won(store.put("a", b"old", if_generation=CREATE))
    sim.break_next("put", "p/a", seen, landed=landed)
    caller = hasty if seen is Broken.SILENT else store
    assert isinstance(await caller.put("a", b"new", if_generation=first), Unknown)
    found = await store.get("a")
    assert found is not None
    assert (found.data == b"new", found.generation > first) == (landed, landed)


@both
@unanswered
async def test_an_unanswered_file_is_unknown(
    sim: SimGcs, store: GcsStore, hasty: GcsStore, seen: int | Broken, landed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(b"a segment")
    sim.break_next("put", "p/seg", seen, landed=landed)
    caller = hasty if seen is Broken.SILENT else store
    assert isinstance(await caller.put_file("seg", path), Unknown)
    assert isinstance(await store.put_file("seg", path), Lost if landed else Won)
    assert sim.objects(BUCKET) == {"p/seg": b"a segment"}


@both
async def test_a_large_file_whose_last_answer_is_lost_is_unknown(
    sim: SimGcs, store: GcsStore, landed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(bytes(9 << 20))
    sim.break_next("put", "p/seg", Broken.RESET, landed=landed)
    assert isinstance(await store.put_file("seg", path), Unknown)
    assert isinstance(await store.put_file("seg", path), Lost if landed else Won)


@pytest.mark.parametrize("seen", [503, Broken.RESET], ids=str)
async def test_a_large_file_that_cannot_be_begun_is_unknown(
    sim: SimGcs, store: GcsStore, seen: int | Broken, tmp_path: Path
) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(bytes(9 << 20))
    sim.break_next("start", "p/seg", seen)
    assert isinstance(await store.put_file("seg", path), Unknown)
    assert isinstance(await store.put_file("seg", path), Won)


async def test_a_large_file_whose_key_is_taken_meanwhile_is_lost(sim: SimGcs, store: GcsStore, tmp_path: Path) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(bytes(9 << 20))
    held = sim.break_next("put", "p/seg", 412, late=True)
    putting = asyncio.create_task(store.put_file("seg", path))
    assert await asyncio.to_thread(held.reached.wait, 10.0)
    await _won(store.put("seg", b"of another", if_generation=CREATE))
    await asyncio.to_thread(held.land)
    assert await putting == Lost()
    assert sim.objects(BUCKET) == {"p/seg": b"of another"}


async def test_a_write_that_lands_late_loses_to_who_came_before(sim: SimGcs, store: GcsStore, hasty: GcsStore) -> None:
    generation = await _won(store.put("head", b"epoch 1", if_generation=CREATE))
    late = sim.break_next("put", "p/head", Broken.RESET, late=True)
    assert isinstance(await hasty.put("head", b"epoch 1, more", if_generation=generation), Unknown)
    taken = await _won(store.put("head", b"epoch 2", if_generation=generation))
    await asyncio.to_thread(late.land)
    assert await store.get("head") == Object(b"epoch 2", taken)


async def test_a_write_that_lands_late_fences_who_reads_before_it(
    sim: SimGcs, store: GcsStore, hasty: GcsStore
) -> None:
    generation = await _won(store.put("head", b"epoch 1", if_generation=CREATE))
    late = sim.break_next("put", "p/head", Broken.RESET, late=True)
    assert isinstance(await hasty.put("head", b"epoch 1, more", if_generation=generation), Unknown)
    await asyncio.to_thread(late.land)
    assert isinstance(await store.put("head", b"epoch 2", if_generation=generation), Lost)
    found = await store.get("head")
    assert found is not None
    assert found.data == b"epoch 1, more"


async def test_writes_may_land_in_another_order_than_they_were_sent(
    sim: SimGcs, store: GcsStore, hasty: GcsStore
) -> None:
    late = [sim.break_next("put", f"p/{key}", Broken.RESET, late=True) for key in "ab"]
    for key in "ab":
        assert isinstance(await hasty.put(key, b"x", if_generation=CREATE), Unknown)
    await store.put("c", b"x", if_generation=CREATE)
    for fault in reversed(late):
        await asyncio.to_thread(fault.land)
    generations = [found.generation for key in "cba" if (found := await store.get(key))]
    assert generations == sorted(generations)
    assert len(generations) == 3


async def test_create_only_is_no_fence_where_keys_are_deleted(sim: SimGcs, store: GcsStore, hasty: GcsStore) -> None:
    """Why the head is never deleted: the late write of a dead writer takes any name that is free."""
    late = sim.break_next("put", "p/slot", Broken.RESET, late=True)
    assert isinstance(await hasty.put("slot", b"of the dead", if_generation=CREATE), Unknown)
    await _won(store.put("slot", b"of the living", if_generation=CREATE))
    await store.delete("slot")
    await asyncio.to_thread(late.land)
    assert sim.objects(BUCKET) == {"p/slot": b"of the dead"}


async def test_the_server_says_how_long_to_wait(sim: SimGcs, store: GcsStore) -> None:
    sim.break_next("put", "p/a", 429, headers={"Retry-After": "7"})
    outcome = await store.put("a", b"x", if_generation=CREATE)
    assert isinstance(outcome, Unknown)
    assert outcome.retry_after_s == 7.0
    assert "answered 429: as scripted" in outcome.reason


async def test_no_call_is_repeated_behind_the_callers_back(sim: SimGcs, store: GcsStore) -> None:
    before = len(sim.calls)
    sim.break_next("put", "p/a", 503, landed=True)
    await store.put("a", b"x", if_generation=CREATE)
    assert sim.calls[before:] == ["put p/a"]


async def test_bytes_that_spoil_on_their_way_up_do_not_land(
    sim: SimGcs, store: GcsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim_gcs, "parts_of", lambda kind, body: (parts_of(kind, body)[0], b"as it came"))
    with pytest.raises(StoreRefusedError, match="not those that the checksum names"):
        await store.put("a", b"as sent", if_generation=CREATE)
    assert sim.objects(BUCKET) == {}


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_refused_write_is_told_apart_from_an_unknown_one(sim: SimGcs, store: GcsStore, status: int) -> None:
    sim.break_next("put", "p/a", status)
    with pytest.raises(StoreRefusedError, match=f"{BUCKET}.*{REFUSALS[status]}"):
        await store.put("a", b"x", if_generation=CREATE)


# Reads, lists and deletes


@unanswered
@pytest.mark.parametrize("verb", ["get", "list", "stat", "delete"])
async def test_what_cannot_be_read_now_says_so(
    sim: SimGcs, store: GcsStore, hasty: GcsStore, verb: str, seen: int | Broken
) -> None:
    await _won(store.put("a", b"x", if_generation=CREATE))
    sim.break_next(verb, "p/" if verb == "list" else "p/a", seen)
    # A list may take longer than other calls; its threads give up on a silent server all the same.
    caller = hasty if seen is Broken.SILENT else store
    with pytest.raises(StoreUnavailableError) as caught:
        await _call(caller, verb)
    assert 0 < caught.value.retry_after_s <= 60
    await _call(store, verb)


@both
async def test_a_delete_that_is_not_answered_can_be_repeated(sim: SimGcs, store: GcsStore, landed: bool) -> None:
    await _won(store.put("a", b"x", if_generation=CREATE))
    sim.break_next("delete", "p/a", Broken.RESET, landed=landed)
    with pytest.raises(StoreUnavailableError):
        await store.delete("a")
    await store.delete("a")
    assert await store.get("a") is None


async def test_a_delete_that_lands_late_spares_what_has_come_since(
    sim: SimGcs, store: GcsStore, hasty: GcsStore
) -> None:
    generation = await _won(store.put("a", b"old", if_generation=CREATE))
    late = sim.break_next("delete", "p/a", Broken.RESET, late=True)
    with pytest.raises(StoreUnavailableError):
        await hasty.delete("a")
    newer = await _won(store.put("a", b"new", if_generation=generation))
    await asyncio.to_thread(late.land)
    assert await store.get("a") == Object(b"new", newer)


async def test_a_delete_takes_only_what_it_saw(sim: SimGcs, store: GcsStore) -> None:
    generation = await _won(store.put("a", b"old", if_generation=CREATE))
    held = sim.break_next("delete", "p/a", 412, late=True)
    deleting = asyncio.create_task(store.delete("a"))
    assert await asyncio.to_thread(held.reached.wait, 10.0)
    newer = await _won(store.put("a", b"new", if_generation=generation))
    await asyncio.to_thread(held.land)
    await deleting
    assert await store.get("a") == Object(b"new", newer)


async def test_an_object_that_goes_while_it_is_deleted_is_gone(sim: SimGcs, store: GcsStore) -> None:
    await _won(store.put("a", b"x", if_generation=CREATE))
    held = sim.break_next("delete", "p/a", 404, late=True)
    deleting = asyncio.create_task(store.delete("a"))
    assert await asyncio.to_thread(held.reached.wait, 10.0)
    await store.delete("a")
    await asyncio.to_thread(held.land)
    await deleting


async def test_bytes_that_spoil_on_their_way_down_are_not_believed(sim: SimGcs, store: GcsStore) -> None:
    await _won(store.put("a", b"as stored", if_generation=CREATE))
    sim.break_next("get", "p/a", Broken.CUT, landed=True)
    with pytest.raises(StoreUnavailableError, match="checksum"):
        await store.get("a")
    found = await store.get("a")
    assert found is not None
    assert found.data == b"as stored"


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("verb", ["get", "list", "stat", "delete"])
async def test_a_refused_read_is_told_apart_from_an_outage(
    sim: SimGcs, store: GcsStore, verb: str, status: int
) -> None:
    await _won(store.put("a", b"x", if_generation=CREATE))
    sim.break_next(verb, "p/" if verb == "list" else "p/a", status)
    with pytest.raises(StoreRefusedError, match=REFUSALS[status]):
        await _call(store, verb)


async def test_where_nobody_listens_a_write_is_unknown_and_a_read_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        store = gcs_store(f"http://127.0.0.1:{probe.getsockname()[1]}", "p")
        assert isinstance(await store.put("a", b"x", if_generation=CREATE), Unknown)
        with pytest.raises(StoreUnavailableError):
            await store.get("a")
        await store.close()


async def _won(put: Awaitable[PutOutcome]) -> int:
    outcome = await put
    assert isinstance(outcome, Won), outcome
    return outcome.generation


async def _call(store: GcsStore, verb: str) -> None:
    match verb:
        case "get":
            await store.get("a")
        case "list":
            await store.list("")
        case _:
            await store.delete("a")


# A bucket with a retention policy


@pytest.fixture
async def kept(sim: SimGcs, store: GcsStore) -> AsyncIterator[GcsStore]:
    """In which nothing goes for an hour."""
    sim.keeps_s[BUCKET] = 3_600.0
    yield store
    del sim.keeps_s[BUCKET]


async def test_a_bucket_that_keeps_its_objects_takes_new_ones(kept: GcsStore, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"file")
    assert isinstance(await kept.put("a", b"x", if_generation=CREATE), Won)
    assert isinstance(await kept.put_file("b", path), Won)
    assert await kept.list("") == ["a", "b"]


async def test_a_create_of_what_a_bucket_keeps_has_lost_whichever_of_the_two_the_bucket_says(kept: GcsStore) -> None:
    await kept.put("a", b"x", if_generation=CREATE)
    assert isinstance(await kept.put("a", b"y", if_generation=CREATE), Lost)
    found = await kept.get("a")
    assert found is not None
    assert found.data == b"x"


async def test_what_a_bucket_keeps_is_neither_replaced_nor_removed_until_its_time_is_over(
    sim: SimGcs, kept: GcsStore
) -> None:
    won = await kept.put("a", b"x", if_generation=CREATE)
    assert isinstance(won, Won)
    with pytest.raises(StoreLockedError, match="retention policy"):
        await kept.put("a", b"y", if_generation=won.generation)
    with pytest.raises(StoreLockedError, match="retention policy"):
        await kept.delete("a")
    sim.keeps_s[BUCKET] = 0.0
    await kept.delete("a")
    assert await kept.get("a") is None


async def test_a_403_for_another_reason_is_no_lock(sim: SimGcs, store: GcsStore) -> None:
    sim.break_next("stat", "p/a", 403)
    with pytest.raises(StoreRefusedError) as refused:
        await store.delete("a")
    assert not isinstance(refused.value, StoreLockedError)
