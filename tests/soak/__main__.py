"""An hour at 1,000 signals a second, and nothing grows: `make soak`, SOAK_S=600 for less.

Two real workers over the strict stand-in for Cloud Storage and Google's Pub/Sub emulator, each its own process, are
looked at meanwhile: at work, and twice at rest, a third of the way and at the end, for what a worker has open at work
comes and goes by dozens. At its end the log is restored from the bucket and verified, and each signal must have one
receipt.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from soak.judgement import (
    SETTLED_FROM,
    GrowthLimit,
    Point,
    Verdict,
    is_good,
    judge_growth,
    judge_least,
    judge_most,
    judge_none,
    judge_rest,
)
from soak.sampling import Course, Held, Sample, disk_mb, least, sample
from support.buckets import serve_gcs
from support.fleet import BEARER, BUCKET, write_config
from support.kept import read_receipts
from support.pubsub import Bench
from support.service import ServiceProcess
from support.steady import Books, Publisher

from benchmarks.report import machine, quantile, scratch
from benchmarks.support_emulator import STEADY, EmulatorMissingError, PubSubEmulator, find_jar
from benchmarks.support_process import rss_mb
from governors.telemetry.scrape import series_of, total
from ingest.pubsub import open_channel

STORE: Final = f"gs://{BUCKET}/soak"
RSS_MB_MAX: Final = 600.0
RSS_GROWTH: Final = GrowthLimit(0.03)
COUNT_GROWTH: Final = GrowthLimit(0.02, 2.0)
"""Of tasks, threads and files at rest: whole numbers, so two more are nothing yet."""
REST_SAMPLES: Final = 20
"""Of a rest, a second apart: what is held is the least of them, for heartbeats go on."""
LATENCY_GROWTH: Final = GrowthLimit(0.25, 5.0)
"""Of a window's percentiles in ms. On a machine with others it is theirs too that is measured."""
QUEUED_MAX: Final = 20_000
"""Signals that may wait (`tenants.mailbox_max`): past it, senders are told to come back."""
RATE_SHARE: Final = 0.98
"""Below this share of the rate it was not what was asked for."""
SAMPLES_SHARE: Final = 0.9
"""Below this share of the samples nobody looked."""
WINDOW_IDS: Final = 32_768
"""Signals that a partition remembers, a quarter of the default: with it the partition that has the fewest tenants would
still fill its memory when three quarters of an hour are over, and nothing could be told apart from a leak."""
SHARES: Final = (0.5, 0.99, 0.999)
SETTLE_S_MAX: Final = 300.0
EXIT_BAD: Final = 1
EXIT_NOT_TRIED: Final = 2


class Soak:
    """The workers, by name, and what was seen of them."""

    def __init__(self, folder: Path, workers: Mapping[str, ServiceProcess], others: Mapping[str, int]) -> None:
        """`others` are processes that are looked at and not judged, by name."""
        self._folder = folder
        self._workers = workers
        self._others = others
        self.courses = {name: Course(name) for name in workers}
        self.rests: dict[str, list[Held]] = {name: [] for name in workers}
        self.others_mb: dict[str, float] = {}

    async def watch(self, every_s: float, publisher: Publisher) -> None:
        """Sample until cancelled, at an even pace."""
        begun_s = time.monotonic()
        due_s = begun_s
        async with httpx.AsyncClient(timeout=30.0, headers=BEARER) as client:
            while True:
                due_s += every_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                try:
                    await self._sample(client, time.monotonic() - begun_s)
                except (httpx.TransportError, OSError) as error:
                    self._say(f"no sample: {error!r}")
                else:
                    self._tell(publisher)

    async def settled(self, signals: int) -> bool:
        """Wait until so many signals have their outcome and nothing is left to acknowledge; False: they never do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S_MAX), httpx.AsyncClient(timeout=30.0, headers=BEARER) as client:
                while True:
                    outcomes = held = 0.0
                    for worker in self._workers.values():
                        metrics = list(series_of((await client.get(f"{worker.url}/metrics")).text))
                        outcomes += total(metrics, "governors_signal_outcomes_total")
                        outcomes -= total(metrics, "governors_signal_outcomes_total", outcome="duplicate")
                        held += total(metrics, "governors_pull_held_messages")
                    if outcomes >= signals and not held:
                        return True
                    await asyncio.sleep(0.5)
        return False

    async def rest(self, signals: int) -> bool:
        """Wait until that is settled, and see what is held then; whether it was in time."""
        in_time = await self.settled(signals)
        seen: dict[str, list[Sample]] = {name: [] for name in self._workers}
        async with httpx.AsyncClient(timeout=30.0, headers=BEARER) as client:
            for _ in range(REST_SAMPLES):
                await asyncio.sleep(1.0)
                for name in self._workers:
                    seen[name].append(await self._look(client, name, 0.0))
        for name, samples in seen.items():
            self.rests[name].append(held := least(samples))
            self._say(f"{name} at rest: {held}")
        return in_time

    async def waiting_first(self) -> list[str]:
        """The names of all, those last that have a log: else whoever waits takes over what is about to stop too."""
        held: dict[str, int] = {}
        async with httpx.AsyncClient(timeout=30.0, headers=BEARER) as client:
            for name, worker in self._workers.items():
                cluster = (await client.get(f"{worker.url}/v1/cluster")).json()
                held[name] = sum(one["owner"] == cluster["worker"] for one in cluster["partitions"])
        return sorted(held, key=lambda name: held[name])

    async def _sample(self, client: httpx.AsyncClient, at_s: float) -> None:
        for name, course in self.courses.items():
            course.samples.append(await self._look(client, name, at_s))
        self.others_mb = {name: round(rss_mb(pid), 1) for name, pid in self._others.items()}

    async def _look(self, client: httpx.AsyncClient, name: str, at_s: float) -> Sample:
        worker = self._workers[name]
        metrics = series_of((await client.get(f"{worker.url}/metrics")).text)
        return sample(worker.pid, metrics, at_s, await asyncio.to_thread(disk_mb, self._folder / name))

    def _tell(self, publisher: Publisher) -> None:
        parts = [f"{self.courses[next(iter(self.courses))].samples[-1].at_s:6.0f} s, {publisher.signals:,} signals"]
        parts += [_told(name, course.samples[-1]) for name, course in self.courses.items()]
        parts += [f"{name} {held:.0f} MB" for name, held in self.others_mb.items()]
        self._say("; ".join(parts))

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _told(name: str, one: Sample) -> str:
    return (
        f"{name}: {one.rss_mb:.0f} MB, {one.files} files, {one.threads} threads, {one.tasks} tasks, "
        f"{one.queued} queued, {one.held} held, {one.disk_mb:,.0f} MB of disk"
    )


def stop(worker: ServiceProcess) -> int:
    """Its exit code, or that it had to be killed: an hour's figures are not lost for that."""
    try:
        return worker.stop()
    except subprocess.TimeoutExpired:
        worker.kill()
        return -signal.SIGKILL


def judge(soak: Soak, books: Books, publisher: Publisher, took_s: float) -> list[Verdict]:
    """Everything that must hold of a run that published for `took_s` seconds, but for the log as a whole."""
    verdicts = [
        judge_none("signals that are lost", books.lost),
        judge_none("signals that are decided twice", books.decided_twice),
        judge_none("receipts about what nobody sent", books.foreign),
        judge_least("signals a second", publisher.signals / took_s, publisher.rate_per_s * RATE_SHARE),
    ]
    for name, course in soak.courses.items():
        before, after = soak.rests[name]
        verdicts += [
            judge_most(f"{name}: RSS in MB", [one.rss_mb for one in course.samples], RSS_MB_MAX),
            judge_growth(f"{name}: RSS in MB", course.points("rss_mb"), RSS_GROWTH),
            judge_rest(f"{name}: tasks", before.tasks, after.tasks, COUNT_GROWTH, took_s),
            judge_rest(f"{name}: threads", before.threads, after.threads, COUNT_GROWTH, took_s),
            judge_rest(f"{name}: open files", before.files, after.files, COUNT_GROWTH, took_s),
            judge_most(f"{name}: signals that wait", [one.queued for one in course.samples], QUEUED_MAX),
        ]
    windows = list(books.windows())
    for share in SHARES[:2]:
        points = [Point(at_s, quantile(ages, share)) for at_s, ages in windows if ages]
        what = f"ms from publish to decided, p{share * 100:g} of a window"
        verdicts.append(judge_growth(what, points, LATENCY_GROWTH))
    return verdicts


def check_log(url: str, folder: Path, books: Books) -> dict[str, Any]:
    """The log as the bucket has it: restored, verified, and its receipts entered into the books."""
    restored = folder / "restored"
    env = {**os.environ, "STORAGE_EMULATOR_HOST": url}
    command = [sys.executable, "-m", "governors"]
    for arguments in (["restore", STORE, str(restored), "--json"], ["verify", "log", str(restored), "--json"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=env)
        if not done.stdout.strip():
            return {"ok": False, "receipts": 0, "said": done.stderr[-2_000:]}
    said = json.loads(done.stdout.strip().splitlines()[-1])
    read_receipts(restored, books.add)
    return {
        "ok": bool(said["ok"]),
        "receipts": books.receipts,
        "seconds": said["seconds"],
        "errors": said["errors"][:10],
    }


async def run(folder: Path, given: argparse.Namespace, emulator: PubSubEmulator) -> dict[str, Any]:
    """Everything, from the first start to the last figure."""
    window_s = max(1, min(60, given.seconds // 10))
    channel = await open_channel(emulator.host)
    bench = Bench(channel, "signals")
    await bench.set_up()
    config = write_config(folder, bench.name, STORE, dedup={"window_ids": WINDOW_IDS})
    with serve_gcs(BUCKET) as gcs, contextlib.ExitStack() as stack:
        env = {"STORAGE_EMULATOR_HOST": gcs.url, "PUBSUB_EMULATOR_HOST": emulator.host}
        workers = {
            name: stack.enter_context(ServiceProcess(folder / name, "--config", str(config), env=env, event=event))
            for name, event in (("a", "ready"), ("b", "standby"))
        }
        soak = Soak(folder, workers, {"store": gcs.pid, "emulator": emulator.pid, "publisher": os.getpid()})
        publisher = Publisher(bench, given.rate, given.tenants)
        watching = asyncio.create_task(soak.watch(given.sample_s, publisher), name="samples")
        took_s, in_time = 0.0, True
        for until_s in (given.seconds * SETTLED_FROM, given.seconds):
            begun_s = time.monotonic()
            await publisher.run(until_s)
            took_s += time.monotonic() - begun_s
            in_time = await soak.rest(publisher.signals) and in_time
        watching.cancel()
        await asyncio.wait([watching])
        exits = {name: await asyncio.to_thread(stop, workers[name]) for name in await soak.waiting_first()}
        await channel.close()
        books = Books(publisher.seconds, given.rate, window_s)
        log = await asyncio.to_thread(check_log, gcs.url, folder, books)
    verdicts = judge(soak, books, publisher, took_s)
    verdicts.append(judge_none("logs that do not verify", int(not log["ok"])))
    taken = min(len(course.samples) for course in soak.courses.values())
    verdicts.append(judge_least("samples of each", taken, SAMPLES_SHARE * (took_s / given.sample_s - 1)))
    verdicts.append(judge_none("workers that did not end in order", sum(code != 0 for code in exits.values())))
    return {
        "soak": {"seconds": round(took_s, 1), "rate_per_s": given.rate, "tenants": given.tenants},
        "machine": machine(),
        "signals": publisher.signals,
        "messages": publisher.messages,
        "publisher": {"failures": publisher.failures, "late_s": round(publisher.late_s, 3)},
        "settled": in_time,
        "not_decided": books.undecided,
        "log": log,
        "window_s": window_s,
        "latency_ms": [
            {"until_s": at_s, **{f"p{share * 100:g}": round(quantile(ages, share), 1) for share in SHARES}}
            for at_s, ages in books.windows()
        ],
        "samples": {
            name: [{key: getattr(one, key) for key in Sample.__slots__} for one in course.samples]
            for name, course in soak.courses.items()
        },
        "rests": {name: [one._asdict() for one in rests] for name, rests in soak.rests.items()},
        "others_mb": soak.others_mb,
        "verdicts": [one._asdict() for one in verdicts],
        "ok": is_good(verdicts),
    }


def print_figures(report: Mapping[str, Any]) -> None:
    """Each figure beside its limit."""
    first, last = report["latency_ms"][0], report["latency_ms"][-1]
    for name, samples in report["samples"].items():
        print(f"{name}: from {samples[0]} to {samples[-1]}" if samples else f"{name}: never seen")
    print(f"publish to decided, first window: {first}, last window: {last}")
    for one in report["verdicts"]:
        word = {True: "ok", False: "FAILED", None: "too short to tell"}[one["ok"]]
        print(f"{one['what']:<60} {one['figure']:>14,.2f}  limit {one['limit']:>12,.2f}  {word}")
    print("flat" if report["ok"] else "NOT AS IT SHOULD BE")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3_600)
    parser.add_argument("--rate", type=int, default=1_000, help="signals a second")
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--sample-s", type=float, default=10.0, help="seconds from one sample to the next")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    given = parser.parse_args(arguments)
    try:
        find_jar()
    except EmulatorMissingError as error:
        print(f"no Pub/Sub emulator: {error}", file=sys.stderr)
        return EXIT_NOT_TRIED
    folder = Path(tempfile.mkdtemp(dir=scratch(), prefix="soak-")).resolve()
    try:
        with PubSubEmulator(STEADY) as emulator:
            report = asyncio.run(run(folder, given, emulator))
    finally:
        shutil.rmtree(folder)
    print_figures(report)
    if given.json:
        print(json.dumps(_without_nan(report)))
    return 0 if report["ok"] else EXIT_BAD


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
