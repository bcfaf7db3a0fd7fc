"""A real Prometheus scrapes three real pods, and every panel of the dashboards has something to show.

`make observability` runs it: it takes a minute, and `make test` has read every query and metric already.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from support.certificates import Authority
from support.manifests import ROOT
from support.pubsub import Bench
from support.service import ServiceProcess

from benchmarks.support_process import free_port
from governors.auth.tokens import digest_of, new_token
from ingest.fake_pubsub import FakePubSub
from ingest.pubsub import PubsubMessage, open_channel
from ingest.signals import format_time

FOLDER = ROOT / "deploy/observability"
PODS = ("governors-0", "governors-1", "governors-2")
PATIENCE_S = 90.0
WHY_NOT = (
    "make observability scrapes three pods"
    if not os.environ.get("OBSERVABILITY_TEST")
    else "needs prometheus, from Debian's package of that name"
    if shutil.which("prometheus") is None
    else ""
)
pytestmark = [pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT), pytest.mark.slow, pytest.mark.timeout(600)]

PARTITIONS = 8
# What a service that is well has nothing to show of: restarts, and connections that it ended early.
NOTHING_WRONG = ("governors_child_restarts_total", "governors_http_connections_dropped_total")


def now_us() -> int:
    return time.time_ns() // 1_000


def signal_of(number: int, kind: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    subject = kind.partition(".")[0]
    one = {"id": f"s-{number}-{kind}", "source": "test", "tenant": f"t-{number % 5}", "kind": kind, "subject": subject}
    return one | {"observed_at": format_time(now_us()), "data": data} | changes


def life(number: int) -> list[dict[str, Any]]:
    """What happens in one turn: spend over its budget, a queue, a deploy, and something that nobody can read."""
    spend = {"cost_amount": "990.00", "budget_amount": "1000.00", "currency": "USD"}
    spend["interval_start"] = format_time(now_us())[:7] + "-01T00:00:00Z"
    queue = {"depth": 5, "oldest_age_s": 0.1, "in_rate_per_s": 9, "done_rate_per_s": 9}
    return [
        signal_of(number, "cost.snapshot", spend),
        signal_of(number, "queue.sample", queue),
        signal_of(number, "deploy.started", {"deploy_id": f"d-{number}", "revision": "b", "previous_revision": "a"}),
        signal_of(number, "queue.sample", queue | {"depth": -1}, id=f"bad-{number}"),
    ]


class Pods:
    """Three workers over one store, with tokens and TLS, as they are deployed; only their names are made up."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        authority = Authority()
        certificate, key = authority.issue().put(folder)
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(authority.certificate)
        self.token = new_token(os.urandom(32))
        entry = {"name": "everybody", "sha256": digest_of(self.token), "roles": ["admin", "ingest", "admit", "read"]}
        (folder / "tokens.yaml").write_text(yaml.safe_dump({"tokens": [entry]}))
        document = {
            "tenants": {"auto_create": True},
            "auth": {"tokens_file": str(folder / "tokens.yaml")},
            "tls": {"certificate": str(certificate), "key": str(key)},
            "cluster": {"ca": str(self.ca), "partitions": PARTITIONS},
            "ledger": {"origin": "ledger.test/scraped", "signing_key": str(folder / "signing.key")},
            "store": {"url": (folder / "bucket").as_uri(), "lease_s": 2.0, "publish_interval_s": 1.1},
            "limits": {"tenant_signals_per_s": 40},
            "pubsub": {"project": "governors-test", "subscription": "signals"},
        }
        self.config = folder / "governors.yaml"
        self.config.write_text(yaml.safe_dump(document))
        self.env = {"PUBSUB_EMULATOR_HOST": broker}
        self.make_key(document)

    def make_key(self, document: dict[str, Any]) -> None:
        """As docs/gcp-setup.md has it: a first start makes the key, and the secret is made of that."""
        first = self.folder / "first.yaml"
        first.write_text(yaml.safe_dump({"ledger": {"origin": document["ledger"]["origin"]}}))
        with ServiceProcess(self.folder / "first", "--config", str(first)) as service:
            assert service.stop() == 0
        shutil.copy(self.folder / "first/ledger/signing.key", self.folder / "signing.key")

    def start(self, pod: str, event: str) -> ServiceProcess:
        return ServiceProcess(self.folder / pod, "--config", str(self.config), env=self.env, event=event)


@contextlib.contextmanager
def prometheus(folder: Path, pods: Pods, urls: dict[str, str]) -> Iterator[httpx.Client]:
    """Scrapes each second what PodMonitoring would scrape, with the rules that are deployed."""
    groups = []
    for name in ("alerts", "slo"):
        groups += yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["spec"]["groups"]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    targets = [
        {"targets": [url.removeprefix("https://")], "labels": {"namespace": "governors", "pod": pod}}
        for pod, url in urls.items()
    ]
    job = {
        "job_name": "governors",
        "scheme": "https",
        "authorization": {"credentials": pods.token},
        "tls_config": {"insecure_skip_verify": True},
        "static_configs": targets,
    }
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [job],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def answer_of(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    """The series of an instant query; no series as long as Prometheus is not up."""
    try:
        answer = client.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, f"{query}: {answer.text}"
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def queries() -> list[str]:
    def inside(document: Any) -> Iterator[str]:
        if isinstance(document, dict):
            for key, value in document.items():
                if key in ("expr", "prometheusQuery"):
                    yield value.replace("$namespace", ".*")
                else:
                    yield from inside(value)
        elif isinstance(document, list):
            for one in document:
                yield from inside(one)

    found: list[str] = []
    for path in (FOLDER / "dashboards").glob("*.json"):
        found += inside(json.loads(path.read_text()))
    return found


async def live(urls: list[str], pods: Pods, bench: Bench) -> None:
    """Send all kinds of things by all ways, for ever."""
    headers = {"Authorization": f"Bearer {pods.token}"}
    async with httpx.AsyncClient(verify=False, headers=headers, timeout=30.0) as client:
        number = 0
        while True:
            signals = life(number)
            await client.post(f"{urls[number % 3]}/v1/signals", json=signals)
            await client.get(f"{urls[number % 3]}/v1/admit", params={"tenant": "t-0", "user": f"u-{number}"})
            messages = [PubsubMessage(data=orjson.dumps(one)) for one in life(number + 1_000_000)]
            await bench.publisher.publish(messages, timeout_s=10.0)
            if number == 10:
                # More about one tenant than it may have at once.
                many = [signals[1] | {"id": f"many-{at}", "tenant": "loud"} for at in range(500)]
                await client.post(f"{urls[0]}/v1/signals", json=many)
            number += 1
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def broker() -> AsyncIterator[tuple[Bench, str]]:
    async with FakePubSub(clock_us=now_us, pull_wait_s=0.3) as fake:
        channel = await open_channel(fake.host)
        bench = Bench(channel, "signals")
        await bench.set_up()
        yield bench, fake.host
        await channel.close()


async def test_three_pods_are_scraped_and_every_panel_has_something_to_show(tmp_path: Path) -> None:
    async with broker() as (bench, host), contextlib.AsyncExitStack() as stack:
        pods = await asyncio.to_thread(Pods, tmp_path, host)
        urls: dict[str, str] = {}
        for pod in PODS:
            started = await asyncio.to_thread(pods.start, pod, "standby" if urls else "ready")
            urls[pod] = stack.enter_context(started).url
        client = stack.enter_context(prometheus(tmp_path, pods, urls))
        living = asyncio.create_task(live(list(urls.values()), pods, bench))
        try:
            asked = [query for query in queries() if not any(name in query for name in NOTHING_WRONG)]
            assert len(asked) > 100
            silent = asked
            until_s = time.monotonic() + PATIENCE_S
            while silent and time.monotonic() < until_s and not living.done():
                await asyncio.sleep(1.0)
                silent = [query for query in silent if not await asyncio.to_thread(answer_of, client, query)]
            assert not living.done(), "what lives has ended"
            assert silent == []
            up = await asyncio.to_thread(answer_of, client, "up == 1")
            assert {one["metric"]["pod"] for one in up} == set(PODS)
            firing = await asyncio.to_thread(answer_of, client, 'ALERTS{alertstate="firing"}')
            named = {one["metric"]["alertname"] for one in firing}
            wrong = "Governors(Down|PodDown|Nobody|Ledger|Receipts|Admission)"
            assert not {name for name in named if re.match(wrong, name)}
            # Each partition is told of by somebody, and by more than one pod among them.
            owned = await asyncio.to_thread(answer_of, client, "count by (partition) (governors_ledger_size)")
            assert {one["metric"]["partition"] for one in owned} == set(map(str, range(PARTITIONS)))
            owners = await asyncio.to_thread(answer_of, client, "count by (pod) (governors_ledger_size)")
            assert len(owners) > 1
        finally:
            living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await living
