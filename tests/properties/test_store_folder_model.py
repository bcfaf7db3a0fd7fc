"""The folder store against a model: a dictionary, and a clock of generations that never turns back."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.store.folder import FolderStore
from ledger.store.object_store import CREATE, Lost, Object, Won

KEYS = ["0/ctl/head", "0/checkpoint", "0/tile/0/000", "0/tile/0/000.p/1", "1/checkpoint"]

key = st.sampled_from(KEYS)
data = st.binary(max_size=20)
step = st.one_of(
    st.tuples(st.just("create"), key, data),
    st.tuples(st.just("swap"), key, data),
    st.tuples(st.just("zombie"), key, data, st.integers(0, 5)),
    st.tuples(st.just("link"), key, data),
    st.tuples(st.just("delete"), key),
    st.tuples(st.just("list"), st.sampled_from(["", "0/", "0/tile/", "0/tile/0/000", "1/check", "2"]), key),
    st.tuples(st.just("reopen")),
)


@dataclass
class Model:
    objects: dict[str, Object] = field(default_factory=dict)
    past: dict[str, list[int]] = field(default_factory=lambda: {key: [] for key in KEYS})

    def generation(self, key: str) -> int:
        return self.objects[key].generation if key in self.objects else CREATE

    def expect(self, key: str, data: bytes, if_generation: int, outcome: object) -> None:
        """What a write must have come to, and what it leaves."""
        if if_generation != self.generation(key):
            assert outcome == Lost(self.generation(key))
            return
        assert isinstance(outcome, Won)
        assert all(outcome.generation > earlier for earlier in self.past[key])
        self.past[key].append(outcome.generation)
        self.objects[key] = Object(data, outcome.generation)


async def _play(folder: Path, steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    store = FolderStore(folder / "store")
    for number, one in enumerate(steps):
        match one:
            case "create", key, data:
                model.expect(key, data, CREATE, await store.put(key, data, if_generation=CREATE))
            case "swap", key, data:
                now = model.generation(key)
                model.expect(key, data, now, await store.put(key, data, if_generation=now))
            case "zombie", key, data, back:
                past = model.past[key] or [7]
                then = past[max(0, len(past) - 1 - back)]
                model.expect(key, data, then, await store.put(key, data, if_generation=then))
            case "link", key, data:
                path = folder / str(number)
                path.write_bytes(data)
                model.expect(key, data, CREATE, await store.put_file(key, path))
            case "delete", key:
                await store.delete(key)
                model.objects.pop(key, None)
            case "list", prefix, after:
                expected = sorted(key for key in model.objects if key.startswith(prefix) and key > after)
                assert await store.list(prefix, after) == expected
            case _:
                await store.close()
                store = FolderStore(folder / "store")
        for key in KEYS:
            assert await store.get(key) == model.objects.get(key)
    await store.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=25))
def test_the_folder_does_as_the_model(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_play(Path(folder), steps))


async def _race(folder: Path, scripts: list[list[tuple[str, bytes]]]) -> None:
    """Writers that each do their script, swapping what they read, with whatever interleaving comes."""
    taken: dict[tuple[str, int], bytes] = {}

    async def write(script: list[tuple[str, bytes]]) -> None:
        store = FolderStore(folder)
        for key, data in script:
            seen = await store.get(key)
            if seen is not None and data.endswith(b"\x00"):
                await store.delete(key)
                continue
            outcome = await store.put(key, data, if_generation=seen.generation if seen else CREATE)
            if isinstance(outcome, Won):
                assert (key, outcome.generation) not in taken, "one generation, two objects"
                taken[key, outcome.generation] = data
            else:
                assert isinstance(outcome, Lost)
        await store.close()

    await asyncio.gather(*map(write, scripts))
    store = FolderStore(folder)
    for key in KEYS:
        found = await store.get(key)
        assert found is None or taken[key, found.generation] == found.data
    await store.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(KEYS[:2]), data), max_size=8), min_size=2, max_size=4))
def test_no_interleaving_gives_one_generation_to_two_objects(scripts: list[list[tuple[str, bytes]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_race(Path(folder), scripts))
