"""One store in two places: which key goes where, what is listed, and that two heads of one log cannot begin."""

import random
from pathlib import Path

import pytest
from simulation.loop import run_simulated, simulated
from support.ledger_scenes import NAME
from support.memory_store import MemoryStore
from support.served import Served

from ledger.errors import IdentityError
from ledger.fsck import verify_log
from ledger.identity import Identity
from ledger.identity_object import IDENTITY_KEY, agree_on_place, read_identity, share_identity
from ledger.protocol.places import PLACE_KEY, is_written_once
from ledger.store.object_store import CREATE, Lost, Won
from ledger.store.opening import open_store
from ledger.store.split import SplitStore

ONCE = [
    "0/seg/00000000000000000000-0000000001-0badcafe.seg",
    "12/tile/0/x001/067",
    "0/tile/entries/000",
    "0/tile/1/000",
    "0/snap/00000000000000000400-0000000001-aa",
    "0/heads/00000000000000000007",
    "3/quarantine/2/x",
    "ctl/place",
]
REPLACED = [
    "0/ctl/head",
    "ctl/identity",
    "0/checkpoint",
    "0/retention",
    "cluster/workers/a",
    "0/tile/0/000.p/17",
    "0/tile/entries/x001/000.p/1",
    "seg/a",
    "something/else",
]
IDENTITY = Identity(NAME, bytes(32))
CONTROL = "gs://control/log"


class Places(SplitStore):
    """Both places at hand, and how often each was listed."""

    def __init__(self) -> None:
        self.here, self.there = MemoryStore(), MemoryStore()
        super().__init__(self.here, self.there)


def rng() -> random.Random:
    return random.Random(1)


@pytest.mark.parametrize("key", ONCE)
def test_what_is_created_and_stays_is_written_once(key: str) -> None:
    assert is_written_once(key)


@pytest.mark.parametrize("key", REPLACED)
def test_what_is_replaced_or_makes_room_is_not_and_neither_is_anything_unknown(key: str) -> None:
    assert not is_written_once(key)


@simulated
async def test_each_key_is_in_one_place_for_every_call(tmp_path: Path) -> None:
    store = Places()
    file = tmp_path / "f"
    file.write_bytes(b"file")
    for number, key in enumerate([*ONCE, *REPLACED]):
        put = await store.put_file(key, file) if number % 2 else await store.put(key, b"x", if_generation=CREATE)
        assert isinstance(put, Won)
        assert isinstance(await store.put(key, b"y", if_generation=CREATE), Lost)
        assert await store.get(key) is not None
    assert sorted(store.here.objects) == sorted(ONCE)
    assert sorted(store.there.objects) == sorted(REPLACED)
    for key in [*ONCE, *REPLACED]:
        await store.delete(key)
        assert await store.get(key) is None
    assert not store.here.objects
    assert not store.there.objects


PREFIXES = [
    "", "0", "0/", "0/s", "0/seg/", "0/snap/", "0/tile/", "0/tile/0/000", "0/tile/0/000.p/", "0/c", "ctl/", "ctl/p",
    "cluster/workers/",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_list_has_what_is_in_either_place_and_asks_only_where_it_can_be(prefix: str) -> None:
    @simulated
    async def run() -> None:
        store = Places()
        for key in [*ONCE, *REPLACED]:
            await store.put(key, b"x", if_generation=CREATE)
        wanted = sorted(key for key in [*ONCE, *REPLACED] if key.startswith(prefix))
        assert await store.list(prefix) == wanted
        if wanted:
            assert await store.list(prefix, wanted[0]) == wanted[1:]
        asked: list[str] = []

        async def ask(prefix: str, after: str = "") -> list[str]:
            del prefix, after
            asked.append("here")
            return []

        store.here.list = ask  # type: ignore[method-assign]
        await store.list(prefix)
        assert bool(asked) == (prefix not in {"0/tile/0/000.p/", "cluster/workers/"})

    run()


@simulated
async def test_what_a_log_of_before_has_left_in_the_other_place_does_not_count() -> None:
    store = Places()
    await store.here.put("0/ctl/head", b"old", if_generation=CREATE)
    assert await store.get("0/ctl/head") is None
    assert await store.list("0/") == []


async def test_two_urls_open_one_store(tmp_path: Path) -> None:
    store = open_store((tmp_path / "once").as_uri(), (tmp_path / "control").as_uri())
    await store.put("0/seg/a", b"x", if_generation=CREATE)
    await store.put("0/ctl/head", b"x", if_generation=CREATE)
    await store.close()
    assert (tmp_path / "once/0/seg/a").exists()
    assert (tmp_path / "control/0/ctl/head").exists()


# Of one log, all have the head in one place


@simulated
async def test_who_names_no_control_store_is_told_of_it_by_a_log_that_has_one() -> None:
    store = Places()
    await agree_on_place(store, CONTROL, rng())
    await share_identity(store, IDENTITY, rng())
    await agree_on_place(store, CONTROL, rng())  # and again, at each start
    with pytest.raises(IdentityError, match=CONTROL):
        await read_identity(store.here, rng())
    with pytest.raises(IdentityError, match=CONTROL):
        await agree_on_place(store.here, None, rng())


@simulated
async def test_who_names_another_control_store_is_refused() -> None:
    store = Places()
    await agree_on_place(store, CONTROL, rng())
    with pytest.raises(IdentityError, match=CONTROL):
        await agree_on_place(store, "gs://other", rng())


@simulated
async def test_a_log_that_was_begun_in_one_place_is_not_begun_again_in_two() -> None:
    store = Places()
    await share_identity(store.here, IDENTITY, rng())
    await agree_on_place(store.here, None, rng())
    with pytest.raises(IdentityError, match="begun without a control store"):
        await agree_on_place(store, CONTROL, rng())


@pytest.mark.parametrize("split_first", [True, False])
def test_of_two_who_begin_one_log_differently_one_at_least_is_refused(split_first: bool) -> None:
    """Whatever the order of what each writes first and then looks for."""

    @simulated
    async def run() -> None:
        store = Places()

        async def writes(is_split: bool) -> None:
            if is_split:
                await store.put(PLACE_KEY, b'{"control":"gs://control/log","v":1}', if_generation=CREATE)
            else:
                await store.here.put(IDENTITY_KEY, b"{}", if_generation=CREATE)

        await writes(split_first)
        await writes(not split_first)
        with pytest.raises(IdentityError):
            await agree_on_place(store, CONTROL, rng())
        with pytest.raises(IdentityError):
            await agree_on_place(store.here, None, rng())

    run()


def test_a_log_of_one_place_goes_on_in_two_once_what_is_replaced_was_moved(tmp_path: Path) -> None:
    """As docs/operations.md says."""

    async def run() -> None:
        first, store = MemoryStore(), Places()
        one = await Served("a", tmp_path / "a", first).begin()
        await one.commit(300)
        await one.publisher.publish()
        await one.stop()
        for key, held in first.objects.items():
            (store.here if is_written_once(key) else store.there).objects[key] = held
        await agree_on_place(store, CONTROL, rng())
        two = await Served("b", tmp_path / "b", store).begin()
        assert two.ledger.local_size == 300
        await two.commit(300)
        await two.publisher.publish()
        await two.stop()
        assert not [key for key in store.here.objects if not is_written_once(key)]
        assert "0/tile/0/001" in store.here.objects
        folders = store.here.write_to(tmp_path / "once"), store.there.write_to(tmp_path / "control")
        report = verify_log(tmp_path / "b", store=folders[0], control=folders[1], recall=lambda _: two.memory)
        assert report.errors == []
        assert report.learned, "the checkpoint was found, and held against the log"

    run_simulated(run())
