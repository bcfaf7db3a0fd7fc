"""A worker that waits, in one process: what it answers itself, and what ends it."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from governors.app import wall_clock_us
from governors.cluster.heartbeat import Heartbeat
from governors.settings import AuthSettings, ClusterSettings, HttpSettings, Settings, StoreSettings
from governors.standby import standing_by
from governors.supervision.errors import IntensityExceededError


def settings(folder: Path, **others: Any) -> Settings:
    store = StoreSettings(url=(folder / "store").as_uri())
    return Settings(data_dir=folder / "data", http=HttpSettings(port=0), store=store, **others)


def waiting(given: Settings, seed: int = 1) -> Any:
    assert given.store.url is not None
    return standing_by(given, given.store.url, wall_clock_us, random.Random(seed))


async def test_while_nobody_has_the_log_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    async with waiting(settings(tmp_path)) as standby, httpx.AsyncClient(base_url=standby.heartbeat.url) as client:
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["a worker that has the log"])
        asked = await client.get("/v1/tenants")
        assert (asked.status_code, asked.json()["type"]) == (503, "urn:governors:problem:not-accepting")
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v1/tree")).json()["name"] == "standby"
        assert (await client.get("/v1/cluster")).json()["partitions"] == [
            {"partition": 0, "owner": None, "epoch": None}
        ]


async def test_its_own_metrics_are_for_those_who_may_have_them(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("tokens: []\n")
    given = settings(tmp_path, auth=AuthSettings(tokens_file=tokens))
    async with waiting(given) as standby, httpx.AsyncClient(base_url=standby.heartbeat.url) as client:
        assert (await client.get("/healthz")).status_code == 200
        for path in ("/metrics", "/v1/tree", "/v1/cluster"):
            assert (await client.get(path)).status_code == 401


async def test_it_says_where_it_is_as_the_configuration_has_it(tmp_path: Path) -> None:
    given = settings(tmp_path, cluster=ClusterSettings(advertise="https://governors-0.example.com:8443"))
    async with waiting(given) as standby:
        assert standby.heartbeat.url == "https://governors-0.example.com:8443"


async def test_who_connects_after_the_end_waits_for_the_next_server(tmp_path: Path) -> None:
    async with waiting(settings(tmp_path)) as standby:
        await standby.end()
        port = standby.listener.getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


async def test_a_part_that_fails_for_good_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = asyncio.Event()

    async def run(_: Heartbeat) -> None:
        await fails.wait()
        raise RuntimeError("for good")

    monkeypatch.setattr(Heartbeat, "run", run)

    async def wait_for_ever() -> None:
        async with waiting(settings(tmp_path)):
            fails.set()
            await asyncio.Event().wait()

    with pytest.raises(IntensityExceededError):
        await asyncio.create_task(wait_for_ever())
