"""SIGKILL at any moment under load, again and again: nothing that was answered is lost or decided twice."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from support.service import ServiceProcess

from ledger.fsck import verify_log
from ledger.identity import partition_folder
from ledger.recovery import recover

# Fifty take three minutes: `make crash`.
KILLS = int(os.environ.get("CRASH_TEST_KILLS", "5"))
TENANTS = 20
SENDERS = 4
BATCH = 40


@dataclass
class Sent:
    """What the senders know: signals that were answered, and those whose fate they never learned."""

    answered: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: int = 0


def make_signal(number: int, rng: random.Random) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    kind, subject, data = rng.choice(
        [
            ("cost.delta", "budget", {"amount": "1.25", "currency": "USD", "usage_at": now}),
            ("budget.set", "budget", {"budget_amount": "900.00", "currency": "USD", "interval": "month"}),
            (
                "queue.sample",
                "orders",
                {
                    "depth": rng.randrange(5_000),
                    "oldest_age_s": rng.random() * 90,
                    "in_rate_per_s": 50.0,
                    "done_rate_per_s": 40.0,
                },
            ),
            ("deploy.started", "web", {"deploy_id": f"d{number}", "revision": "r2", "previous_revision": "r1"}),
        ]
    )
    return {
        "id": f"s-{number:07d}",
        "source": "crash-test",
        "tenant": f"tenant-{rng.randrange(TENANTS):02d}",
        "kind": kind,
        "subject": subject,
        "observed_at": now,
        "data": data,
    }


async def load(url: str, sent: Sent, rng: random.Random, process: ServiceProcess, kill_after: int) -> None:
    """Send until the service is killed, which happens while requests are under way: when `kill_after` signals of this
    round were answered."""
    answered_before = len(sent.answered)

    async def send(client: httpx.AsyncClient) -> None:
        while True:
            # What nobody answered is sent again under the same ids, as any sender at least once does.
            batch = dict(list(sent.unknown.items())[: BATCH // 2])
            while len(batch) < BATCH:
                signal = make_signal(sent.made, rng)
                sent.made += 1
                batch[signal["id"]] = signal
            sent.unknown.update(batch)
            try:
                response = await client.post("/v1/signals", content=orjson.dumps(list(batch.values())))
            except httpx.HTTPError:
                return
            assert response.status_code == 200, response.text
            for result in response.json()["results"]:
                assert result["outcome"] in {"decided", "duplicate", "stale"}, result
                sent.answered.setdefault(result["id"], result)
                sent.unknown.pop(result["id"], None)
            if len(sent.answered) - answered_before >= kill_after:
                process.kill()
                return

    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30.0) as client:
        await asyncio.gather(*[send(client) for _ in range(SENDERS)])


def read_leaves(data_dir: Path) -> list[dict[str, Any]]:
    """Every receipt of the log."""
    found: list[dict[str, Any]] = []
    origin = (data_dir / "ledger" / "origin").read_text().strip() + "/0"
    recover(
        partition_folder(data_dir, 0),
        origin,
        on_receipt=lambda index, receipt: found.append({"index": index, "receipt": receipt}),
    )
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_in_a_row_lose_nothing_that_was_answered(tmp_path: Path) -> None:
    rng = random.Random(20261122)
    sent = Sent()
    for _ in range(KILLS):
        with ServiceProcess(tmp_path) as process:
            asyncio.run(load(process.url, sent, rng, process, kill_after=rng.randrange(1, 1_500)))

    with ServiceProcess(tmp_path) as process, httpx.Client(base_url=process.url) as client:
        machines = {
            (tenant["tenant"], machine["governor"], machine["subject"]): machine
            for tenant in client.get("/v1/tenants", params={"limit": 1000}).json()["tenants"]
            for machine in tenant["machines"]
        }
        # The states of all machines are those of their last receipts.
        for tenant in {name for name, _, _ in machines}:
            last: dict[tuple[str, str], dict[str, Any]] = {}
            after: int | None = -1
            while after is not None:
                page = client.get(f"/v1/tenants/{tenant}/receipts", params={"after": after, "limit": 1000}).json()
                for entry in page["receipts"]:
                    fsm = entry["receipt"]["fsm"]
                    last[fsm["machine"], fsm["subject"]] = entry
                after = page["next"]
            for (machine, subject), entry in last.items():
                shown = machines[tenant, machine, subject]
                assert shown["state"] == entry["receipt"]["fsm"]["to"]
                assert shown["last_receipt"] == entry["id"]
        # A repetition of anything answered is recognised, and names the receipt that it was answered with.
        some = rng.sample(sorted(sent.answered), min(200, len(sent.answered)))
        for result in (sent.answered[one] for one in some):
            if result["outcome"] != "decided":
                continue
            found = client.get(f"/v1/receipts/{result['receipt']}").json()["receipt"]
            assert found["event_id"] == result["id"]
            assert found["fsm"]["to"] == result["state"]
        assert process.stop() == 0

    decided = Counter(one["receipt"].event_id for one in read_leaves(tmp_path) if one["receipt"].source)
    assert set(sent.answered) <= set(decided), "everything answered has its receipt"
    assert [event for event, count in decided.items() if count > 1] == [], "and exactly one"
    assert verify_log(tmp_path).ok

    verified = subprocess.run(
        [sys.executable, "-m", "governors", "verify", "log", str(tmp_path), "--json"],
        capture_output=True,
        check=False,
    )
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["receipts"] >= len(sent.answered)
