"""Who is asked, how often, and what becomes of the views of one that does not answer; on virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from math import inf
from urllib.parse import parse_qsl, urlsplit

from prometheus_client import CollectorRegistry, Gauge
from simulation.loop import simulated

from governors.admission import Admission, Admitted
from governors.cluster.admission_follow import ASK_S, BACKOFF_S_MAX, EVERY_S, AdmissionFollower, PeerUnavailableError
from governors.cluster.admission_view import AdmissionView, Source, tell

PARTITIONS = 4


class World:
    """Two owners of partitions that a third worker follows."""

    def __init__(self) -> None:
        self.owners = {0: "http://a", 1: "http://a", 2: "http://b"}
        self.admissions = {partition: Admission() for partition in range(PARTITIONS)}
        self.epochs = dict.fromkeys(range(PARTITIONS), 1)
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.asked: list[tuple[float, str, int]] = []
        self.failures: list[tuple[str, str]] = []
        self.unreached: set[str] = set()
        self.idle = {"http://c"}
        """Those that have no partition."""
        self.views = {
            partition: AdmissionView(partition, limit_s=10.0, fails="closed") for partition in range(PARTITIONS)
        }
        self.follower = AdmissionFollower(
            self.views,
            self.others,
            self.ask,
            random.Random(1),
            lambda url, why: self.failures.append((url, why)),
            self.unreached,
        )

    def others(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {url: [] for url in self.idle}
        for partition, url in self.owners.items():
            found.setdefault(url, []).append(partition)
        return found

    async def ask(self, url: str) -> bytes:
        at = urlsplit(url)
        owner = f"{at.scheme}://{at.netloc}"
        assert at.path == "/v1/cluster/admission"
        haves = [(int(p), run, int(v)) for _, value in parse_qsl(at.query) for p, run, v in [value.split(":")]]
        self.asked.append((now_s(), owner, len(haves)))
        if owner in self.silent:
            await asyncio.sleep(3_600)
        if owner in self.broken:
            raise PeerUnavailableError("connection refused")
        await asyncio.sleep(0.01)
        sources = {
            partition: Source(f"{self.epochs[partition]:x}", self.epochs[partition], self.admissions[partition])
            for partition, url_then in self.owners.items()
            if url_then == owner
        }
        return tell(haves, sources)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follower.run(), name="follower")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def asked_of(self, owner: str) -> list[float]:
        return [at_s for at_s, url, _ in self.asked if url == owner]


def now_s() -> float:
    return asyncio.get_running_loop().time()


@simulated
async def test_each_owner_is_asked_about_once_a_second_for_all_that_it_has() -> None:
    world = World()
    async with world.following():
        await asyncio.sleep(60.0)
    for owner, partitions in (("http://a", 2), ("http://b", 1)):
        assert {count for _, url, count in world.asked if url == owner} == {partitions}
        times = world.asked_of(owner)
        gaps = [after - before for before, after in pairwise(times)]
        assert all(0.7 * EVERY_S <= gap <= EVERY_S + 0.02 for gap in gaps)
        assert len(set(gaps)) > 1  # spread out
    assert world.failures == []


@simulated
async def test_what_changes_is_known_within_two_seconds() -> None:
    world = World()
    async with world.following():
        await asyncio.sleep(5.0)
        for number in range(20):
            world.admissions[number % 3].set_refused(f"t{number}", None)
            await asyncio.sleep(2.0)
            viewed = world.views[number % 3].admit(f"t{number}", "normal", None, 1, 0, now_s())
            assert viewed.answer == Admitted("unrestricted")
            assert viewed.age_ms is not None
            assert viewed.age_ms < 2_000


@simulated
async def test_one_that_hangs_delays_no_other_and_is_asked_less_and_less() -> None:
    world = World()
    world.silent = {"http://a"}
    async with world.following():
        await asyncio.sleep(60.0)
        age_s = world.views[2].age_s(now_s())
    assert age_s is not None
    assert age_s < 2.0
    assert world.views[0].age_s(now_s()) is None
    times = world.asked_of("http://a")
    assert len(times) < 60 / (ASK_S + 0.7 * BACKOFF_S_MAX) + 4
    assert world.failures == [("http://a", f"no answer within {ASK_S:g} s")]


@simulated
async def test_one_that_is_back_is_followed_again_within_its_longest_wait() -> None:
    world = World()
    async with world.following():
        await asyncio.sleep(5.0)
        world.broken = {"http://b"}
        await asyncio.sleep(60.0)
        age_s = world.views[2].age_s(now_s())
        assert age_s is not None
        assert age_s > 55.0
        world.broken = set()
        await asyncio.sleep(BACKOFF_S_MAX + 0.1)
        age_s = world.views[2].age_s(now_s())
        assert age_s is not None
        assert age_s < 2.0
    assert world.failures == [("http://b", "connection refused")]


@simulated
async def test_who_does_not_answer_is_known_at_once_also_of_those_that_have_nothing() -> None:
    world = World()
    async with world.following():
        await asyncio.sleep(5.0)
        world.broken, world.silent = {"http://b", "http://c"}, {"http://a"}
        await asyncio.sleep(EVERY_S + ASK_S + 0.1)
        assert world.unreached == {"http://a", "http://b", "http://c"}
        world.broken, world.silent = set(), set()
        await asyncio.sleep(BACKOFF_S_MAX + ASK_S + 0.1)
        assert world.unreached == set()
        world.broken = {"http://c"}
        await asyncio.sleep(EVERY_S + 0.1)
        assert world.unreached == {"http://c"}
        world.idle.clear()  # it is gone
        await asyncio.sleep(BACKOFF_S_MAX + 0.1)
        assert world.unreached == set()


@simulated
async def test_a_partition_is_followed_to_its_new_owner() -> None:
    world = World()
    world.admissions[0].set_refused("acme", None)
    async with world.following():
        await asyncio.sleep(5.0)
        assert world.views[0].standing("acme") is not None
        world.silent = {"http://a"}
        world.owners = {0: "http://b", 1: "http://b", 2: "http://b"}
        world.admissions[0] = Admission()
        world.admissions[0].set_refused("globex", None)
        world.epochs[0] = 2
        await asyncio.sleep(2.0)
        assert world.views[0].standing("acme") is None
        assert world.views[0].standing("globex") is not None
        asked_before = len(world.asked_of("http://a"))
        await asyncio.sleep(30.0)
        assert len(world.asked_of("http://a")) == asked_before  # it has nothing any more


@simulated
async def test_an_owner_that_has_much_to_tell_is_asked_on_at_once() -> None:
    world = World()
    for number in range(7_000):
        world.admissions[0].set_refused(f"t{number}", None)
    async with world.following():
        await asyncio.sleep(0.5)
        assert world.views[0].standing("t6999") is not None
        assert world.views[0].age_s(now_s()) is not None
    assert {count for _, url, count in world.asked if url == "http://a"} == {1, 2}


@simulated
async def test_what_is_no_answer_is_a_failure_like_any_other() -> None:
    world = World()

    async def garble(_url: str) -> bytes:
        return b"<html>"

    world.follower._ask = garble
    async with world.following():
        await asyncio.sleep(10.0)
    assert sorted(url for url, _ in world.failures) == ["http://a", "http://b", "http://c"]


@simulated
async def test_the_age_of_each_view_is_a_figure() -> None:
    world = World()
    gauge = Gauge("age", "", ["partition"], registry=(registry := CollectorRegistry()))
    world.follower.tell_ages(gauge, lambda partition: partition == 3)

    def age(partition: int) -> float:
        value = registry.get_sample_value("age", {"partition": str(partition)})
        assert value is not None
        return value

    assert [age(partition) for partition in range(PARTITIONS)] == [inf, inf, inf, 0.0]
    async with world.following():
        await asyncio.sleep(5.0)
        assert all(0.0 <= age(partition) < 2.0 for partition in range(3))
        world.broken = {"http://a"}
        await asyncio.sleep(20.0)
        assert age(0) > 18.0


@simulated
async def test_every_view_takes_its_part_of_as_many_workers_as_there_are() -> None:
    world = World()
    async with world.following():
        await asyncio.sleep(1.5)
        assert {view._admission._workers for view in world.views.values()} == {4}
        world.idle.add("http://d")
        await asyncio.sleep(1.5)
        assert {view._admission._workers for view in world.views.values()} == {5}
