"""Existing sources pointed at a real service: pulled and pushed budgets, rollouts, incidents and alerts."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support import foreign
from support.google import ACCOUNT, AUDIENCE, Google
from support.pubsub import PROJECT, Bench
from support.service import ServiceProcess

from benchmarks.support_scrape import Scrape
from governors.replay.folder import replay_folder
from ingest.dead_letter import StoredLetter, read_letters
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import PubsubMessage, open_channel
from ingest.signals import format_time
from ingest.source import Delivery

SUBSCRIPTION = "sources"
ROUTING = [
    {"when": {"budget": foreign.BUDGET_ID}, "tenant": "acme", "subject": "prod"},
    {"when": {"pipeline": "web", "target": "prod"}, "tenant": "acme", "subject": "checkout"},
    {"tenant_from": "label.tenant", "subject_from": "label.service"},
]


def now_us() -> int:
    return time.time_ns() // 1_000


def this_month(**changes: Any) -> Delivery:
    start = format_time(now_us())[:7] + "-01T00:00:00Z"
    return foreign.budget_of(costIntervalStart=start, **changes)


def alert(**changes: Any) -> dict[str, Any]:
    return foreign.ALERT | {"startsAt": format_time(now_us() - 60_000_000)} | changes


@pytest.fixture
async def broker() -> AsyncIterator[tuple[Bench, str]]:
    async with FakePubSub(clock_us=now_us, pull_wait_s=0.3) as fake:
        channel = await open_channel(fake.host)
        made = Bench(channel, SUBSCRIPTION)
        await made.set_up()
        yield made, fake.host
        await channel.close()


def configured(folder: Path, **sections: Any) -> Path:
    path = folder / "governors.yaml"
    document = {"tenants": {"auto_create": True}, "ingest": {"routing": ROUTING}} | sections
    path.write_text(yaml.safe_dump(document))
    return path


async def until(service: ServiceProcess, metric: str, least: float, **labels: str) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=service.url) as client:
        while True:
            seen = Scrape.parse((await client.get("/metrics")).text)
            if seen.total(metric, **labels) >= least:
                return
            await asyncio.sleep(0.02)


async def publish(bench: Bench, *messages: Delivery) -> None:
    await bench.publisher.publish(
        [PubsubMessage(data=one.payload, attributes=dict(one.attributes)) for one in messages], 10.0
    )


async def test_what_other_systems_publish_is_decided_and_can_be_decided_again(
    broker: tuple[Bench, str], tmp_path: Path
) -> None:
    bench, host = broker
    pubsub = {"project": "governors-test", "subscription": SUBSCRIPTION}
    config = configured(tmp_path, pubsub=pubsub)
    env = {"PUBSUB_EMULATOR_HOST": host}
    service = await asyncio.to_thread(ServiceProcess, tmp_path / "data", "--config", str(config), env=env)
    try:
        await publish(
            bench,
            this_month(),
            foreign.rollout(),
            foreign.rollout(Action="Create"),
            foreign.incident(),
            foreign.incident("test"),
            foreign.budget(budgetId="nobody-knows-it"),
            this_month(costAmount="a lot"),
        )
        await until(service, "governors_pull_acked_total", 7)
        async with httpx.AsyncClient(base_url=service.url) as client:
            view = (await client.get("/v1/tenants/acme")).json()
            seen = Scrape.parse((await client.get("/metrics")).text)
        assert {(one["governor"], one["subject"], one["state"]) for one in view["machines"]} == {
            ("cost_guard", "prod", "THROTTLE"),
            ("rollback_guard", "checkout", "HOLD"),
        }
        assert seen.total("governors_dead_letters_total", reason="no_tenant") == 2
        assert seen.total("governors_dead_letters_total", reason="bad_field") == 1
        assert seen.total("governors_unheard_messages_total", form="cloud_deploy") == 1
        assert service.stop() == 0
    finally:
        service.__exit__(None, None, None)

    report = replay_folder(tmp_path / "data")
    assert report.ok, report.as_dict()
    assert report.receipts >= 3
    folder = tmp_path / "data" / "dead-letter"
    letters = [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]
    assert sorted(letter["reason"] for letter in letters) == ["bad_field", "no_tenant", "no_tenant"]


def test_what_pubsub_pushes_is_believed_by_googles_keys_and_for_the_accounts_that_were_named(tmp_path: Path) -> None:
    google = Google(tmp_path / "keys.json")
    push = {"audience": AUDIENCE, "service_accounts": [ACCOUNT], "keys": str(tmp_path / "keys.json")}
    config = configured(tmp_path, push=push)
    body = foreign.push(this_month(), publishTime=format_time(now_us()), publish_time=...)
    stray = foreign.push(foreign.budget(budgetId="nobody-knows-it"))

    with (
        ServiceProcess(tmp_path / "data", "--config", str(config)) as service,
        httpx.Client(base_url=service.url) as client,
    ):

        def status(headers: dict[str, str]) -> int:
            return client.post("/v1/push/pubsub", content=body, headers=headers).status_code

        assert status({}) == 401
        for changes in (
            {"aud": "https://another.example"},
            {"iss": "https://evil.example"},
            {"email": "another@p.iam.gserviceaccount.com"},
            {"email_verified": False},
            {"exp": now_us() // 1_000_000 - 120},
        ):
            assert status(google.token(**changes)) == 401, changes
        assert client.get("/v1/tenants/acme").status_code == 404

        assert status(google.token()) == 200
        assert status(google.token()) == 200, "a redelivery"
        receipts = client.get("/v1/tenants/acme/receipts").json()["receipts"]
        assert [one["receipt"]["event_id"] for one in receipts if one["receipt"]["event_id"] == "8840"] == ["8840"]

        dead = client.post("/v1/push/pubsub", content=stray, headers=google.token())
        assert (dead.status_code, dead.json()["reason"]) == (200, "no_tenant")


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_nobody_can_read_lies_in_the_topic_however_it_came_or_in_the_folder_where_the_topic_refuses_it(
    broker: tuple[Bench, str], tmp_path: Path, is_there: bool
) -> None:
    bench, host = broker
    letters = Bench(bench.channel, "letters")
    if is_there:
        await letters.set_up()
    google = Google(tmp_path / "keys.json")
    config = configured(
        tmp_path,
        push={"audience": AUDIENCE, "service_accounts": [ACCOUNT], "keys": str(tmp_path / "keys.json")},
        pubsub={"project": PROJECT, "subscription": SUBSCRIPTION, "dead_letter_topic": letters.name},
    )
    stray = foreign.budget(budgetId="nobody-knows-it")
    env = {"PUBSUB_EMULATOR_HOST": host}
    service = await asyncio.to_thread(ServiceProcess, tmp_path / "data", "--config", str(config), env=env)
    with service:
        async with httpx.AsyncClient(base_url=service.url, timeout=30.0) as client:
            pushed = await client.post("/v1/push/pubsub", content=foreign.push(stray), headers=google.token())
            assert pushed.json() == {
                "outcome": "dead_lettered",
                "reason": "no_tenant",
                "detail": pushed.json()["detail"],
            }
            alerts = foreign.group(alert(labels={"alertname": "HighErrorRate"}))
            refused = await client.post("/v1/push/alertmanager", content=alerts)
            assert refused.json()["results"][0]["error"]["reason"] == "no_tenant"
        await publish(bench, stray)
        await until(service, "governors_pull_dead_lettered_total", 1)
        assert await asyncio.to_thread(service.stop) == 0

    in_folder = list(read_letters(tmp_path / "data" / "dead-letter"))
    if is_there:
        found = await letters.pull(3)
        assert [one.attributes["governors-dead-letter-reason"] for one in found] == ["no_tenant"] * 3
        assert sorted(one.attributes.get("budgetId", "") for one in found) == ["", "nobody-knows-it", "nobody-knows-it"]
        assert in_folder == []
    else:
        assert [isinstance(one, StoredLetter) and one.reason for one in in_folder] == ["no_tenant"] * 3


def test_alertmanager_holds_a_deploy_and_lets_it_go_on(tmp_path: Path) -> None:
    started = {
        "id": "d-1",
        "source": "deploys",
        "tenant": "acme",
        "kind": "deploy.started",
        "subject": "checkout",
        "observed_at": format_time(now_us()),
        "data": {"deploy_id": "d-1", "revision": "r2", "previous_revision": "r1"},
    }
    with (
        ServiceProcess(tmp_path / "data", "--config", str(configured(tmp_path))) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        assert client.post("/v1/signals", json=started).status_code == 200

        def told(*alerts: dict[str, Any]) -> list[tuple[str, str]]:
            answer = client.post("/v1/push/alertmanager", content=foreign.group(*alerts))
            assert answer.status_code == 200
            return [(one["outcome"], one.get("state", "")) for one in answer.json()["results"]]

        firing = alert()
        assert told(firing) == [("decided", "HOLD")]
        assert told(firing) == [("duplicate", "HOLD")], "a repetition"
        assert told(alert(labels={})) == [("rejected", "")]
        resolved = firing | {"status": "resolved", "endsAt": format_time(now_us())}
        assert told(resolved) == [("decided", "WATCHING")]
        assert service.stop() == 0
    assert replay_folder(tmp_path / "data").ok
