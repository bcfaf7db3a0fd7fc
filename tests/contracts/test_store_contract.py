"""What we rely on in an object store: one suite, for the folder, for our stand-in of Google Cloud Storage, for
fake-gcs-server, and for whatever else STORAGE_EMULATOR_HOST names. The last three through the real client.

Before anything is tested on a store it must show that its preconditions bite.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from google.api_core.exceptions import PreconditionFailed
from support.sim_gcs import SimGcs
from support.stores import (
    BUCKET,
    FakeMissingError,
    PreconditionsIgnoredError,
    check_preconditions,
    fake_gcs_server,
    gcs_store,
    make_bucket,
)

from ledger.errors import StoreRefusedError
from ledger.store.folder import FolderStore
from ledger.store.gcs import GcsStore
from ledger.store.object_store import CREATE, Lost, Object, ObjectStore, Won
from ledger.store.prefixed import PrefixedStore
from ledger.store.split import SplitStore

FOLDER = "folder"
SPLIT = "split"
SPLIT_TILES = "split, below tiles"
SIM = "sim"
FAKE = "fake-gcs-server"
NAMED = "STORAGE_EMULATOR_HOST"

SERVERS = [SIM, FAKE, *([NAMED] if NAMED in os.environ else [])]

KNOWN_WRONG = {
    (FAKE, "test_a_large_file_is_create_only_too"): "1.54 looks at no precondition of a resumable upload",
    (FAKE, "test_a_server_holds_a_delete_to_its_generation"): "1.54 looks at no precondition of a delete",
}
"""What a fake is known to get wrong, and nothing else. A test of these that passes after all fails the run."""

_names = count(1)

Open = Callable[[], ObjectStore]
"""Opens one and the same store, each time as another process would."""


class Below(PrefixedStore):
    """Everything below a prefix of a store that is its own."""

    async def close(self) -> None:
        await self._store.close()


@pytest.fixture(scope="module", params=[FOLDER, SPLIT, SPLIT_TILES, *SERVERS])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Open]]:
    """Makes an empty store of a kind whose preconditions have been seen to bite."""
    if request.param == FOLDER:

        def make() -> Open:
            folder = tmp_path_factory.mktemp("store")
            return lambda: FolderStore(folder)

        asyncio.run(check_preconditions(make()))
        yield make
        return
    if request.param in {SPLIT, SPLIT_TILES}:

        def make_split() -> Open:
            folder = tmp_path_factory.mktemp("split")

            def open_split() -> ObjectStore:
                both = SplitStore(FolderStore(folder / "once"), FolderStore(folder / "control"))
                return both if request.param == SPLIT else Below(both, "0/tile")

            return open_split

        asyncio.run(check_preconditions(make_split()))
        yield make_split
        return
    with _serve(request.param) as url:
        run = os.urandom(4).hex()  # a server that outlives the run has its objects still

        def make_below() -> Open:
            prefix = f"{run}/{next(_names)}"
            return lambda: gcs_store(url, prefix)

        asyncio.run(check_preconditions(make_below()))
        yield make_below


@contextmanager
def _serve(kind: str) -> Iterator[str]:
    if kind == SIM:
        with SimGcs(BUCKET) as sim:
            yield sim.url
    elif kind == NAMED:
        make_bucket(os.environ[NAMED], lenient=True)
        yield os.environ[NAMED]
    else:
        try:
            with fake_gcs_server() as url:
                make_bucket(url)
                yield url
        except FakeMissingError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have fake-gcs-server: {error}")
            pytest.skip(f"no fake-gcs-server: {error}")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["place"])


@pytest.fixture
async def open_store(
    place: Callable[[], Open], kind: str, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[[], ObjectStore]]:
    """Opens the test's own store, and closes it after the test."""
    if reason := KNOWN_WRONG.get((kind, request.function.__name__)):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    open_one = place()
    opened: list[ObjectStore] = []

    def open_and_keep() -> ObjectStore:
        opened.append(open_one())
        return opened[-1]

    yield open_and_keep
    for store in opened:
        await store.close()


@pytest.fixture
def store(open_store: Open) -> ObjectStore:
    return open_store()


# Preconditions


async def test_the_self_test_finds_out_who_ignores_preconditions() -> None:
    with SimGcs(BUCKET, ignores={"put"}) as careless, pytest.raises(PreconditionsIgnoredError, match="racing writers"):
        await check_preconditions(lambda: gcs_store(careless.url, "p"))


async def test_a_key_is_created_once(store: ObjectStore) -> None:
    won = await store.put("a", b"first", if_generation=CREATE)
    assert isinstance(won, Won)
    lost = await store.put("a", b"second", if_generation=CREATE)
    assert isinstance(lost, Lost)
    assert lost.generation in {None, won.generation}
    assert await store.get("a") == Object(b"first", won.generation)


async def test_a_replacement_names_the_generation_that_is_there(store: ObjectStore) -> None:
    first = await _won(store, "a", b"1", CREATE)
    second = await _won(store, "a", b"2", first)
    assert second > first
    assert isinstance(await store.put("a", b"3", if_generation=first), Lost)
    assert isinstance(await store.put("a", b"3", if_generation=second + 1), Lost)
    assert await store.get("a") == Object(b"2", second)


async def test_what_is_not_there_cannot_be_replaced(store: ObjectStore) -> None:
    assert isinstance(await store.put("a", b"1", if_generation=1), Lost)
    assert await store.get("a") is None


async def test_the_same_bytes_make_a_new_generation(store: ObjectStore) -> None:
    first = await _won(store, "a", b"same", CREATE)
    assert await _won(store, "a", b"same", first) > first


async def test_of_many_that_create_at_once_one_wins(open_store: Open) -> None:
    stores = [open_store() for _ in range(8)]
    outcomes = await asyncio.gather(*(one.put("a", b"%d" % n, if_generation=CREATE) for n, one in enumerate(stores)))
    ((winner, won),) = ((n, outcome) for n, outcome in enumerate(outcomes) if isinstance(outcome, Won))
    assert await stores[0].get("a") == Object(b"%d" % winner, won.generation)


async def test_counters_of_several_writers_lose_no_step(open_store: Open) -> None:
    async def climb(store: ObjectStore, steps: int) -> None:
        while steps:
            found = await store.get("n") or Object(b"0", CREATE)
            step = await store.put("n", b"%d" % (int(found.data) + 1), if_generation=found.generation)
            steps -= isinstance(step, Won)

    await asyncio.gather(*(climb(open_store(), 5) for _ in range(4)))
    final = await open_store().get("n")
    assert final is not None
    assert int(final.data) == 20


async def test_generations_grow_across_a_delete_and_a_restart(open_store: Open) -> None:
    store = open_store()
    generation = 0
    for index in range(3):
        created = await _won(store, "a", b"created", CREATE)
        assert created > generation
        generation = await _won(store, "a", b"%d" % index, created)
        await store.delete("a")
        await store.close()
        store = open_store()
        assert isinstance(await store.put("a", b"zombie", if_generation=generation), Lost)
    again = await _won(store, "a", b"again", CREATE)
    assert again > generation
    assert isinstance(await store.put("a", b"zombie", if_generation=generation), Lost)
    assert await store.get("a") == Object(b"again", again)


# Bytes


@pytest.mark.parametrize(
    "data", [b"", b"\x00\xff\r\n--==\r\n", bytes(range(256)) * 12_000], ids=["empty", "odd", "3 MB"]
)
async def test_what_is_put_is_what_is_got(store: ObjectStore, data: bytes) -> None:
    generation = await _won(store, "a", data, CREATE)
    assert await store.get("a") == Object(data, generation)


async def test_bytes_and_generation_belong_together(open_store: Open) -> None:
    writer, reader = open_store(), open_store()
    written = {await _won(writer, "a", b"0", CREATE): b"0"}
    done = asyncio.Event()

    async def write() -> None:
        for index in range(1, 40):
            data = b"%d" % index * index
            written[await _won(writer, "a", data, max(written))] = data
        done.set()

    async def read() -> list[Object | None]:
        seen = []
        while not done.is_set():
            seen.append(await reader.get("a"))
        return seen

    _, seen = await asyncio.gather(write(), read())
    assert all(found is not None and written[found.generation] == found.data for found in seen)
    generations = [found.generation for found in seen if found is not None]
    assert generations == sorted(generations)


async def test_a_file_is_put_once(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(b"a segment")
    won = await store.put_file("seg/0", path)
    assert isinstance(won, Won)
    assert isinstance(await store.put_file("seg/0", path), Lost)
    path.unlink()
    assert await store.get("seg/0") == Object(b"a segment", won.generation)


async def test_a_large_file_arrives_whole(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(os.urandom(1 << 20) * 9)  # more than the client sends in one part
    won = await store.put_file("seg/0", path)
    assert isinstance(won, Won)
    assert await store.get("seg/0") == Object(path.read_bytes(), won.generation)


async def test_a_large_file_is_create_only_too(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "0.seg"
    path.write_bytes(bytes(9 << 20))
    won = await store.put_file("seg/0", path)
    assert isinstance(won, Won)
    assert isinstance(await store.put_file("seg/0", path), Lost)


async def test_an_empty_file_can_be_put(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    won = await store.put_file("a", tmp_path / "empty")
    assert isinstance(won, Won)
    assert await store.get("a") == Object(b"", won.generation)


async def test_a_file_that_is_not_there_is_an_error_of_the_caller(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await store.put_file("a", tmp_path / "nothing")


async def test_many_keys_can_be_put_at_once(store: ObjectStore) -> None:
    keys = [f"tile/{index % 3}/x{index:03}" for index in range(30)]
    outcomes = await asyncio.gather(*(store.put(key, key.encode(), if_generation=CREATE) for key in keys))
    assert all(isinstance(outcome, Won) for outcome in outcomes)
    found = await asyncio.gather(*map(store.get, keys))
    assert [one.data for one in found if one] == [key.encode() for key in keys]


# Names


async def test_nothing_is_found_where_nothing_was_put(store: ObjectStore) -> None:
    assert await store.get("a") is None
    assert await store.get("a/b/c") is None
    assert await store.list("") == []
    assert await store.list("a/") == []


async def test_keys_come_sorted_and_all(store: ObjectStore) -> None:
    keys = {"0/tile/0/000", "0/tile/0/000.p/5", "0/tile/0/001", "0/tile/0/x001/000", "0/checkpoint", "00/checkpoint"}
    keys |= {f"0/seg/{index:020}-{0:010}-deadbeef.seg" for index in range(10)}
    await asyncio.gather(*(store.put(key, b"x", if_generation=CREATE) for key in keys))
    assert await store.list("") == sorted(keys)
    assert await store.list("0/") == sorted(key for key in keys if key.startswith("0/"))
    assert await store.list("0/tile/0/00") == ["0/tile/0/000", "0/tile/0/000.p/5", "0/tile/0/001"]
    assert await store.list("0/tile/0/000", "0/tile/0/000") == ["0/tile/0/000.p/5"]
    assert await store.list("0/seg/", f"0/seg/{6:020}") == sorted(key for key in keys if key > f"0/seg/{6:020}")[:4]
    assert await store.list("0/seg/", "0/z") == []


async def test_a_key_is_found_under_its_prefix_only(store: ObjectStore) -> None:
    await _won(store, "0/a", b"x", CREATE)
    assert await store.list("1/") == []
    assert await store.list("0/ab") == []


async def test_deleting_takes_one_key_and_can_be_repeated(store: ObjectStore) -> None:
    for key in ("a/1", "a/2", "b"):
        await _won(store, key, b"x", CREATE)
    await store.delete("a/1")
    await store.delete("a/1")
    await store.delete("never")
    assert await store.get("a/1") is None
    assert await store.list("") == ["a/2", "b"]
    await store.delete("a/2")
    assert await store.list("") == ["b"]


@pytest.mark.parametrize("place", SERVERS, indirect=True)
async def test_a_server_holds_a_delete_to_its_generation(store: GcsStore) -> None:
    generation = await _won(store, "a", b"x", CREATE)
    with pytest.raises(PreconditionFailed):
        await asyncio.to_thread(
            store._bucket.delete_blob, store._prefix + "a", if_generation_match=generation + 1, retry=None, timeout=10
        )
    assert await store.get("a") == Object(b"x", generation)


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", ".store/x", "a b", "a\n", "a\\b", "ä", "a" * 201, "a/" * 300 + "a"],
)
async def test_what_is_no_key_is_refused_everywhere(store: ObjectStore, key: str, tmp_path: Path) -> None:
    for call in (
        lambda: store.get(key),
        lambda: store.put(key, b"x", if_generation=CREATE),
        lambda: store.put_file(key, tmp_path),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="not a key"):
            await call()


@pytest.mark.parametrize("prefix", ["/", "..", "a//", "a/../", ".store/"])
async def test_a_prefix_of_no_key_is_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="no key begins"):
        await store.list(prefix)


async def test_a_bucket_that_is_missing_is_refused_by_name() -> None:
    with SimGcs(BUCKET) as sim:
        store = gcs_store(sim.url, "p", bucket="nowhere")
        for call in (
            store.get("a"),
            store.put("a", b"x", if_generation=CREATE),
            store.list(""),
            store.delete("a"),
        ):
            with pytest.raises(StoreRefusedError, match="gs://nowhere answered 404: The specified bucket"):
                await call
        await store.close()


async def _won(store: ObjectStore, key: str, data: bytes, if_generation: int) -> int:
    outcome = await store.put(key, data, if_generation=if_generation)
    assert isinstance(outcome, Won), outcome
    return outcome.generation
