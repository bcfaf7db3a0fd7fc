"""How long a rollback takes, from the sample that convicts a deploy to the changed Deployment, under load.

Real processes: `governors serve`, whose log is committed to a stand-in for Cloud Storage; a stand-in for a Kubernetes
API server; and this one, which sends 1,000 signals a second of a hundred tenants. Now and then it sends the reports of
a deploy that fails, each of a tenant and a Deployment of its own. The time is from when the crossing report is sent
until the API server has accepted the patch. In it lie the decision, its receipt on the disk, and the commit: nothing
goes out before the store has it.

The peer is what a script without a log would do: read the Deployment, list its ReplicaSets, patch it, at the same API
server in the same run.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import httpx
import orjson

from benchmarks.pipeline import payload_of
from benchmarks.report import machine, parser, print_report, quantile, scratch
from benchmarks.support_process import Served, free_port

TARGET_S: Final = 5.0
RATE_HELD: Final = 0.95
"""Of the load that was asked for, what must have been decided for the figure to count."""
TENANTS: Final = 100
TICK_S: Final = 0.05
WARM_UP_S: Final = 5.0
PATCHED_S_MAX: Final = 60.0
NAMESPACE: Final = "shop"


class StandIns:
    """The other process, and when it accepted which patch."""

    def __init__(self, deployments: int) -> None:
        paths = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.support_stand_ins", str(deployments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the stand-ins did not start")
        self.urls: dict[str, str] = json.loads(line)
        self._patched_s: dict[str, float] = {}
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def patched_s(self, name: str) -> float:
        """When the first patch of a Deployment was accepted, once it was."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: name in self._patched_s, PATCHED_S_MAX):
                raise RuntimeError(f"{name} was not rolled back within {PATCHED_S_MAX:g} s")
            return self._patched_s[name]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            note = json.loads(line)
            if note["image"] != "web:v1":
                raise RuntimeError(f"{note['patched']} was patched to {note['image']}")
            with self._arrived:
                self._patched_s.setdefault(note["patched"], note["at_s"])
                self._arrived.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Load:
    """Sends signals at a rate, in a request for each tick, open loop; counts what was answered."""

    def __init__(self, client: httpx.AsyncClient, rate_per_s: int, seed: int) -> None:
        self._client = client
        self._per_tick = rate_per_s * TICK_S
        self._rng = random.Random(seed)
        self._seed = seed
        self._made = 0
        self.decided = 0
        self.answer_ms: list[float] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        begun_s, due = loop.time(), 0.0
        async with asyncio.TaskGroup() as requests:
            for tick in range(1_000_000_000):
                due_s = begun_s + tick * TICK_S
                await asyncio.sleep(due_s - loop.time())
                due += self._per_tick
                count, now_s = int(due), time.time()
                due -= count
                batch = [payload_of(self._rng, self._made + one, now_s, TENANTS, self._seed) for one in range(count)]
                self._made += count
                requests.create_task(self._send(b"\n".join(batch), due_s))

    async def _send(self, body: bytes, due_s: float) -> None:
        response = await self._client.post(
            "/v1/signals", content=body, headers={"content-type": "application/x-ndjson"}
        )
        response.raise_for_status()
        results = orjson.loads(response.content)["results"]
        self.decided += sum(one["outcome"] in {"decided", "stale"} for one in results)
        self.answer_ms.append((asyncio.get_running_loop().time() - due_s) * 1e3)


def deploy_signals(number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A deploy that began 20 s ago with what its baseline did since, and the canary's report that convicts it."""
    now = datetime.now(UTC)
    common = {"source": "deploys", "tenant": f"deploy-{number}", "subject": f"web-{number}"}
    sample = {"deploy_id": f"d-{number}", "slow": 0, "window_s": 15}

    def signal(name: str, kind: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
        observed = at.isoformat().replace("+00:00", "Z")
        return {**common, "id": f"{name}-{number}", "kind": kind, "observed_at": observed, "data": data}

    started = {"deploy_id": f"d-{number}", "revision": "v2", "previous_revision": "v1"}
    before = [
        signal("started", "deploy.started", now - timedelta(seconds=20), started),
        signal("baseline", "deploy.sample", now, {**sample, "arm": "baseline", "requests": 9_000, "errors": 45}),
    ]
    bad = {**sample, "arm": "canary", "requests": 1_000, "errors": 200}
    return before, signal("canary", "deploy.sample", now, bad)


async def convict(client: httpx.AsyncClient, number: int) -> float:
    """When the crossing report was sent."""
    before, crossing = deploy_signals(number)
    (await client.post("/v1/signals", json=before)).raise_for_status()
    sent_s = time.monotonic()
    response = await client.post("/v1/signals", json=crossing)
    (result,) = response.raise_for_status().json()["results"]
    if result.get("decision") != "rollback":
        raise RuntimeError(f"the report did not convict the deploy: {result}")
    return sent_s


def roll_back_by_script(url: str, name: str) -> None:
    """What is called without a log."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}"
    with httpx.Client(base_url=url, headers={"authorization": "Bearer token-1"}) as client:
        deployment = client.get(path).raise_for_status().json()
        selector = ",".join(f"{name}={value}" for name, value in deployment["spec"]["selector"]["matchLabels"].items())
        listed = client.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets", params={"labelSelector": selector})
        sets = listed.raise_for_status().json()["items"]
        revision = "deployment.kubernetes.io/revision"
        previous = sorted(sets, key=lambda one: int(one["metadata"]["annotations"][revision]))[-2]
        template = previous["spec"]["template"]
        del template["metadata"]["labels"]["pod-template-hash"]
        patch = [{"op": "replace", "path": "/spec/template", "value": template}]
        headers = {"content-type": "application/json-patch+json"}
        client.patch(path, content=orjson.dumps(patch), headers=headers).raise_for_status()


async def measure(stand_ins: StandIns, served: Served, options: Any) -> dict[str, Any]:
    """Rollbacks of ours and of the script's by turns, under the load."""
    rng = random.Random(options.seed)
    ours: list[float] = []
    script: list[float] = []
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=60.0, limits=limits) as client:
        load = Load(client, options.rate, options.seed)
        sending = asyncio.create_task(load.run())
        await asyncio.sleep(WARM_UP_S)
        begun_s, decided = time.monotonic(), load.decided
        load.answer_ms.clear()
        for number in range(options.rollbacks):
            # At any moment between two commits.
            await asyncio.sleep(rng.random() * options.pause)
            sent_s = await convict(client, 2 * number)
            ours.append(await asyncio.to_thread(stand_ins.patched_s, f"web-{2 * number}") - sent_s)
            sent_s = time.monotonic()
            await asyncio.to_thread(roll_back_by_script, stand_ins.urls["kubernetes"], f"web-{2 * number + 1}")
            script.append(await asyncio.to_thread(stand_ins.patched_s, f"web-{2 * number + 1}") - sent_s)
        rate = (load.decided - decided) / (time.monotonic() - begun_s)
        if sending.done():
            sending.result()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return {
        "seconds": summary(ours),
        "script_seconds": summary(script),
        "signals_per_s": round(rate),
        "answer_p99_ms": round(quantile(sorted(load.answer_ms), 0.99), 1),
    }


def summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(quantile(ordered, 0.5), 3),
        "p95": round(quantile(ordered, 0.95), 3),
        "max": round(ordered[-1], 3),
    }


def line(found: dict[str, float]) -> str:
    return f"p50 {found['p50']:.3f}  p95 {found['p95']:.3f}  max {found['max']:.3f} s"


def run(options: Any) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch())))
        stand_ins = stack.enter_context(StandIns(2 * options.rollbacks))
        (folder / "token").write_text("token-1")
        config = folder / "governors.yaml"
        cluster = {
            "server": stand_ins.urls["kubernetes"], "token_file": str(folder / "token"), "ca_file": None,
            "workloads": [{"namespace": NAMESPACE}],
        }  # fmt: skip
        config.write_text(
            json.dumps(
                {
                    "data_dir": str(folder / "data"),
                    "store": {"url": "gs://logs/ours", "commit_interval_s": options.commit_interval},
                    "tenants": {"auto_create": True},
                    "actions": {"kubernetes": cluster},
                }
            )
        )
        port = free_port()
        command = [sys.executable, "-m", "governors", "serve", "--config", str(config), "--port", str(port)]
        served = stack.enter_context(
            Served(
                command, port, "/readyz", log=folder / "log", env={"STORAGE_EMULATOR_HOST": stand_ins.urls["storage"]}
            )
        )
        return asyncio.run(measure(stand_ins, served, options))


def main() -> int:
    options_of = parser(__doc__ or "")
    options_of.add_argument("--rollbacks", type=int, default=20)
    options_of.add_argument("--rate", type=int, default=1_000, help="signals a second beside them")
    options_of.add_argument("--pause", type=float, default=2.0, help="most seconds between two rollbacks")
    options_of.add_argument("--commit-interval", type=float, default=2.0, help="store.commit_interval_s")
    options_of.add_argument("--seed", type=int, default=1)
    options = options_of.parse_args()
    found = run(options)
    held = found["signals_per_s"] >= RATE_HELD * options.rate
    ok = held and found["seconds"]["max"] < TARGET_S
    report = {"benchmark": "rollback_latency", "machine": machine(), "target_s": TARGET_S, "ok": ok, **found}
    ours, script = (line(found[name]) for name in ("seconds", "script_seconds"))
    rate = f"{options.rollbacks} rollbacks beside {found['signals_per_s']:,} signals/s, of {options.rate:,} asked for"
    committed = f"committed to Cloud Storage's stand-in every {options.commit_interval:g} s"
    lines = [
        f"{rate}{'' if held else ': NOT HELD'}, answered in p99 {found['answer_p99_ms']:g} ms; {committed}",
        f"crossing report -> patched   {ours}   target < {TARGET_S:g}: {'ok' if ok else 'MISSED'}",
        f"a script, without a log      {script}",
    ]
    print_report(report, lines, as_json=options.json)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
