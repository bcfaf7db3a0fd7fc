"""Workers over one store, in one process: what each answers, and what becomes of the partitions."""

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from governors.app import App, wall_clock_us
from governors.cluster import ownership, router
from governors.cluster.heartbeat import Heartbeat
from governors.custody import Custodian
from governors.settings import (
    AuthSettings,
    ClusterSettings,
    HttpSettings,
    LedgerSettings,
    Settings,
    StoreSettings,
    TenantSettings,
)
from governors.supervision.errors import IntensityExceededError
from ingest.signals import format_time
from ledger.format.note import Signer
from ledger.fsck import verify_log

ORIGIN = "ledger.test/workers"


def settings(folder: Path, name: str = "a", partitions: int = 1, **others: Any) -> Settings:
    key = folder / "signing.key"
    if not key.exists():
        key.write_text(f"{Signer(ORIGIN, os.urandom(32)).skey}\n")
    given = {
        "store": StoreSettings(url=(folder / "store").as_uri(), lease_s=2.0, commit_interval_s=0.1),
        "ledger": LedgerSettings(origin=ORIGIN, signing_key=key),
        "cluster": ClusterSettings(partitions=partitions),
        "tenants": TenantSettings(auto_create=True),
        "http": HttpSettings(port=0),
    }
    return Settings(data_dir=folder / name, **{**given, **others})


class Worker:
    """One that runs, and a client of it."""

    def __init__(self, app: App, task: "asyncio.Task[None]") -> None:
        self.app = app
        self.task = task
        self.client = httpx.AsyncClient(base_url=app.http.url, timeout=30.0)

    async def owned(self) -> list[int]:
        """The partitions that it says it has itself."""
        view = (await self.client.get("/v1/cluster")).json()
        return [one["partition"] for one in view["partitions"] if one["owner"] == view["worker"]]


@contextlib.asynccontextmanager
async def working(given: Settings, ahead_s: int = 0) -> AsyncIterator[Worker]:
    """From when it answers to when it has handed over and ended. Its clock is so far ahead of this machine's."""
    rng = random.Random(1)

    def clock_us() -> int:
        return wall_clock_us() + ahead_s * 1_000_000

    custodian = await Custodian.open(given, clock_us=clock_us, entropy=os.urandom, rng=rng, owner="test")
    answers = asyncio.Event()
    app = App(given, clock_us=clock_us, executors=(), custodian=custodian)
    task = asyncio.create_task(app.run(lambda: None, answers.set))
    waiting = asyncio.create_task(answers.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    worker = Worker(app, task)
    try:
        yield worker
    finally:
        waiting.cancel()
        await worker.client.aclose()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await custodian.close()


@pytest.fixture(autouse=True)
def each_gets_its_share_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SETTLE_S", 0.0)

    def ranked(partition: int, urls: Iterable[str]) -> list[str]:
        """Each is first for as many, whatever ports they were given."""
        order = sorted(urls)
        first = partition % len(order) if order else 0
        return order[first:] + order[:first]

    monkeypatch.setattr(ownership, "ranked", ranked)


async def until(holds: Callable[[], Any]) -> None:
    """The test's own time limit ends it."""
    while not await holds():  # noqa: ASYNC110 - it is another worker's doing, of which it tells when it is asked
        await asyncio.sleep(0.05)


def signals(count: int, begin: int = 0) -> list[dict[str, Any]]:
    data = {"depth": 1, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1}
    now = format_time(wall_clock_us())
    return [
        {
            "id": f"s-{number}", "source": "test", "tenant": f"tenant-{number % 20}", "kind": "queue.sample",
            "observed_at": now, "data": data,
        }
        for number in range(begin, begin + count)
    ]  # fmt: skip


async def all_owned(*workers: Worker, partitions: int) -> bool:
    owned = [await one.owned() for one in workers]
    return sorted(number for numbers in owned for number in numbers) == list(range(partitions)) and all(owned)


async def test_two_workers_share_the_partitions_and_answer_for_all_of_them(tmp_path: Path) -> None:
    async with working(settings(tmp_path, "a", 4)) as a, working(settings(tmp_path, "b", 4)) as b:
        await until(lambda: all_owned(a, b, partitions=4))
        for number, (worker, wait) in enumerate([(a, "local"), (b, "local"), (a, "committed"), (b, "committed")]):
            sent = signals(20, 20 * number)
            answer = await worker.client.post("/v1/signals", params={"wait": wait}, json=sent)
            results = answer.json()["results"]
            assert [(one["id"], one["outcome"], one["durability"]) for one in results] == [
                (one["id"], "decided", wait) for one in sent
            ]
            assert {one["receipt"].partition(":")[0] for one in results} == {"0", "1", "2", "3"}
        again = (await b.client.post("/v1/signals", json=signals(20))).json()["results"]
        assert {one["outcome"] for one in again} == {"duplicate"}
        for worker in (a, b):
            names: list[str] = []
            after: str | None = ""
            while after is not None:
                page = (await worker.client.get("/v1/tenants", params={"limit": 7, "after": after})).json()
                names += [one["tenant"] for one in page["tenants"]]
                after = page["next"]
            assert names == sorted(f"tenant-{number}" for number in range(20))
            for name in names:
                assert (await worker.client.get(f"/v1/tenants/{name}")).json()["tenant"] == name
                receipts = (await worker.client.get(f"/v1/tenants/{name}/receipts")).json()["receipts"]
                assert len(receipts) == 4
                found = await worker.client.get(f"/v1/receipts/{receipts[0]['id']}")
                assert found.json() == receipts[0]
    for name in ("a", "b"):
        assert verify_log(tmp_path / name).ok


async def test_what_concerns_everybody_is_done_everywhere_and_receipted_once_a_worker(tmp_path: Path) -> None:
    async with working(settings(tmp_path, "a", 4)) as a, working(settings(tmp_path, "b", 4)) as b:
        await until(lambda: all_owned(a, b, partitions=4))
        asked = {"reason": "a drill", "by": "alice"}
        stopped = await a.client.put("/v1/emergency-stop", json=asked)
        assert (stopped.status_code, stopped.json()["stopped"]) == (200, True)
        for worker in (a, b):
            assert (await worker.client.get("/v1/policies")).json()["stopped"] is True
            assert all(one.in_force.stopped for one in worker.app.runtimes.values())
        lifted = await b.client.delete("/v1/emergency-stop", params=asked)
        assert (lifted.status_code, lifted.json()["stopped"]) == (200, False)
        assert (await b.client.post("/v1/policies/reload")).json()["changed"] is False
        actions: list[str] = []
        after: str | None = ""
        while after is not None:
            page = (await a.client.get("/v1/operations", params={"limit": 2, "after": after})).json()
            actions += [one["operation"]["action"] for one in page["operations"]]
            after = page["next"]
        expected = ["PUT /v1/emergency-stop", "DELETE /v1/emergency-stop", "POST /v1/policies/reload"]
        assert actions == [one for one in expected for _ in (a, b)]


async def send_for_ever(worker: Worker) -> None:
    for number in itertools.count():
        await worker.client.post("/v1/signals", json=signals(20, 20 * number))
        await asyncio.sleep(0.1)


async def test_decisions_of_all_workers_are_heard_at_each(tmp_path: Path) -> None:
    async with working(settings(tmp_path, "a", 4)) as a, working(settings(tmp_path, "b", 4)) as b:
        await until(lambda: all_owned(a, b, partitions=4))
        async with a.client.stream("GET", "/v1/stream", params={"all": "true"}, timeout=60.0) as response:
            sending = asyncio.create_task(send_for_ever(b))
            heard: set[str] = set()
            async for line in response.aiter_lines():
                if line.startswith("id: "):
                    heard.add(line[4:].partition(":")[0])
                if heard == {"0", "1", "2", "3"}:
                    break
            sending.cancel()


async def test_a_worker_that_is_told_to_end_hands_over_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    async with working(settings(tmp_path, "b", 4)) as b:
        async with working(settings(tmp_path, "a", 4)) as a:
            await until(lambda: all_owned(a, b, partitions=4))
            for worker in (a, b):
                await worker.client.post("/v1/signals", json=signals(20), params={"wait": "committed"})
        answer = await b.client.post("/v1/signals", json=signals(20))
        assert {one["outcome"] for one in answer.json()["results"]} == {"duplicate"}
        assert sorted(b.app.runtimes) == [0, 1, 2, 3]


async def test_a_drained_worker_gives_everything_away_and_takes_part_again_when_it_is_told_to(tmp_path: Path) -> None:
    async with working(settings(tmp_path, "a", 4)) as a, working(settings(tmp_path, "b", 4)) as b:
        await until(lambda: all_owned(a, b, partitions=4))
        had = await a.owned()
        assert (await a.client.post("/v1/cluster/drain")).status_code == 200

        async def has_none() -> bool:
            return not await a.owned() and await b.owned() == [0, 1, 2, 3]

        await until(has_none)
        answer = await a.client.post("/v1/signals", json=signals(20))
        assert {one["outcome"] for one in answer.json()["results"]} == {"decided"}
        assert (await a.client.get("/v1/tenants")).json()["next"] is None
        assert (await a.client.get("/v1/policies")).status_code == 200
        assert (await a.client.put("/v1/emergency-stop", json={"reason": "a drill", "by": "bob"})).status_code == 200
        assert (await a.client.get("/readyz")).status_code == 200
        assert (await a.client.delete("/v1/cluster/drain")).status_code == 200

        async def has_them_again() -> bool:
            return await a.owned() == had

        await until(has_them_again)


async def test_while_nobody_has_a_partition_a_worker_is_alive_and_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Custodian, "take", never)
    monkeypatch.setattr(router, "OWNER_WAIT_S", 0.1)
    async with working(settings(tmp_path)) as worker:
        client = worker.client
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["a worker that has the log"])
        asked = await client.get("/v1/tenants/acme")
        assert (asked.status_code, asked.json()["type"]) == (503, "urn:governors:problem:not-accepting")
        assert (await client.get("/v1/tenants")).status_code == 503
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v1/cluster")).json()["partitions"] == [
            {"partition": 0, "owner": None, "epoch": None}
        ]


async def test_its_own_metrics_are_for_those_who_may_have_them(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("tokens: []\n")
    async with working(settings(tmp_path, auth=AuthSettings(tokens_file=tokens))) as worker:
        assert (await worker.client.get("/healthz")).status_code == 200
        for path in ("/metrics", "/v1/tree", "/v1/cluster", "/v1/tenants"):
            assert (await worker.client.get(path)).status_code == 401
        assert (await worker.client.post("/v1/cluster/signals", params={"wait": "local"})).status_code == 401


async def test_workers_know_each_other_where_others_need_a_token_whatever_their_clocks_say(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("tokens: []\n")
    auth = AuthSettings(tokens_file=tokens)
    async with (
        working(settings(tmp_path, "a", 4, auth=auth), ahead_s=3_600) as a,
        working(settings(tmp_path, "b", 4, auth=auth), ahead_s=-3_600) as b,
    ):

        async def shared() -> bool:
            return len(a.app.runtimes) + len(b.app.runtimes) == 4 and bool(a.app.runtimes) and bool(b.app.runtimes)

        await until(shared)
        for here, there in ((a, b), (b, a)):
            elsewhere = here.app._membership.neighbours  # type: ignore[union-attr]
            (number,) = list(there.app.runtimes)[:1]

            async def known(elsewhere: Any = elsewhere, number: int = number) -> bool:
                return bool(elsewhere.knows(number))

            await until(known)
            assert await elsewhere.submit(number, [], "local") == []


async def test_it_says_where_it_is_as_the_configuration_has_it(tmp_path: Path) -> None:
    given = settings(tmp_path, cluster=ClusterSettings(advertise="https://governors-0.example.com:8443"))
    async with working(given) as worker:
        assert worker.app._membership is not None
        assert worker.app._membership.heartbeat.url == "https://governors-0.example.com:8443"


async def test_a_part_that_fails_for_good_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: Heartbeat) -> None:
        raise RuntimeError("for good")

    monkeypatch.setattr(Heartbeat, "run", run)
    with pytest.raises(IntensityExceededError):
        async with working(settings(tmp_path)) as worker:
            await worker.task
