"""How fast a backlog in Google's Pub/Sub emulator is worked off: by Governors, and by consumers that do nothing.

One topic, three subscriptions, so that everybody has the same messages waiting. One after the other, in another order
in each round, they are emptied by a bare loop of pulls and acknowledgements, by the library's streaming pull with an
empty callback, and by a real `governors serve` that decides each signal, commits its receipt and then acknowledges.
Afterwards the ledger is read from its files: every id must have exactly one receipt.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from google.protobuf import empty_pb2
from google.pubsub_v1.types import pubsub as types

from benchmarks.pubsub import count_receipts, make_load
from benchmarks.report import machine, parser, print_report, scratch
from benchmarks.support_drain import Drained, drain_bare, drain_streaming
from benchmarks.support_emulator import EmulatorMissingError, PubSubEmulator, find_jar
from benchmarks.support_process import Served, free_port
from benchmarks.support_pubsub import now_us, publish_all
from benchmarks.support_scrape import Scrape
from ingest.pubsub import EMULATOR_ENVIRONMENT, call, open_channel, routing, unary
from ingest.pubsub_setup import SetupPlan, setup
from ledger.fsck import verify_log

TARGET_OF_BARE: Final = 0.5
TARGET_OF_STREAMING: Final = 2.0
"""How many times the streaming pull is "far ahead" of it."""
PROJECT: Final = "benchmark"
BARE: Final = "bare"
OURS: Final = "governors"
STREAMING: Final = "streaming"
NAMES: Final = (BARE, OURS, STREAMING)
DONE_S_MAX: Final = 300.0
LEASE_S: Final = 60
"""On a slow machine the emulator delivers again what a consumer has just got: its leases begin before it delivers. So
they are long here, for everybody."""
LOOK_S: Final = 2.0
"""Often enough to know when it is done, seldom enough not to be noticed: being looked at costs the service too."""
WARM_UP_MESSAGES: Final = 10_000
"""Taken by a bare loop before anything is measured: Java compiles its hot paths."""
CPU_SECONDS: Final = "governors_process_cpu_seconds_total"
DeleteSubscriptionRequest: Final[Any] = types.DeleteSubscriptionRequest.pb()


class Round:
    """One backlog, worked off three times. `right` is what must hold whatever the machine is doing."""

    def __init__(self, host: str, folder: Path, peers: Executor, options: Any, number: int) -> None:
        self._host = host
        self._folder = folder
        self._peers = peers
        self._options = options
        self._topic = f"signals-{number + 1}"
        self.load = make_load(self._topic, options.messages, options.tenants, 0.0, 1_000.0, now_us())
        self.drained: dict[str, Drained] = {}
        self.right = False

    def warm_up(self) -> None:
        asyncio.run(self._publish((BARE,)))
        self._drain(BARE)
        asyncio.run(self._delete((BARE,)))

    def run(self, order: tuple[str, ...]) -> None:
        asyncio.run(self._publish(NAMES))
        for name in order:
            self.drained[name] = self._drain(name)
            # What streaming pull left there would keep the emulator busy.
            asyncio.run(self._delete((name,)))

    async def _publish(self, names: tuple[str, ...]) -> None:
        channel = await open_channel(self._host)
        for name in names:
            await setup(channel, self._plan(name))
        await channel.close()
        await publish_all(self._host, f"projects/{PROJECT}/topics/{self._topic}", self.load.payloads, stamp=False)

    async def _delete(self, names: tuple[str, ...]) -> None:
        channel = await open_channel(self._host)
        delete = unary(channel, "Subscriber/DeleteSubscription", DeleteSubscriptionRequest, empty_pb2.Empty)
        for name in names:
            path = self._path(name)
            await call(delete, DeleteSubscriptionRequest(subscription=path), 30.0, routing("subscription", path), path)
        await channel.close()

    def _plan(self, name: str) -> SetupPlan:
        subscription = self._subscription(name)
        return SetupPlan(project=PROJECT, topic=self._topic, subscription=subscription, ack_deadline_s=LEASE_S)

    def _subscription(self, name: str) -> str:
        return f"{self._topic}-{name}"

    def _path(self, name: str) -> str:
        return f"projects/{PROJECT}/subscriptions/{self._subscription(name)}"

    def _drain(self, name: str) -> Drained:
        subscription = self._path(name)
        expected, options = len(self.load.payloads), self._options
        match name:
            case "bare":
                pulls = options.pulls
                return self._peers.submit(drain_bare, self._host, subscription, expected, pulls).result()
            case "streaming":
                seconds = options.streaming_seconds
                return self._peers.submit(drain_streaming, self._host, subscription, expected, seconds).result()
            case _:
                return self._drain_ours()

    def _drain_ours(self) -> Drained:
        folder, expected = self._folder, len(self.load.payloads)
        config, notes = folder / "governors.yaml", folder / "notes"
        config.write_text(
            f"tenants: {{auto_create: true}}\n"
            f"pubsub: {{project: {PROJECT}, subscription: {self._subscription(OURS)}, topic: {self._topic}}}\n"
        )
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.noted_service", str(notes), "serve", "--config", str(config)]
        command += ["--data-dir", str(folder / "data"), "--port", str(port)]
        environment = {EMULATOR_ENVIRONMENT: self._host}
        with Served(command, port, "/readyz", log=folder / "service.log", env=environment) as service:
            metrics = begun = Scrape.parse(service.get("/metrics").decode())
            give_up_s = time.monotonic() + DONE_S_MAX
            while metrics.total("governors_pull_held_messages") or _decided(metrics) < expected:
                if time.monotonic() > give_up_s:
                    raise TimeoutError(f"not all decided and acknowledged after {DONE_S_MAX} s")
                time.sleep(LOOK_S)
                metrics = Scrape.parse(service.get("/metrics").decode())
            cpu_s = metrics.total(CPU_SECONDS) - begun.total(CPU_SECONDS)
            service.stop()
        kept = count_receipts(folder / "data")
        self.right = kept.keys() == self.load.ids and set(kept.values()) == {1} and verify_log(folder / "data").ok
        return Drained(expected, _seconds(notes), cpu_s)


def _decided(metrics: Scrape) -> float:
    """How many signals came that had not come before; with nothing held all of them are decided and acknowledged."""
    received = metrics.total("governors_signals_received_total", source="pubsub")
    return received - metrics.total("governors_signal_outcomes_total", outcome="duplicate")


def _seconds(notes: Path) -> float:
    """From the first batch in hand to the last acknowledgement."""
    read = [json.loads(line) for line in notes.read_text().splitlines()]
    first_us = min(note[1] for note in read if note[0] == "batch")
    return float(max(note[1] for note in read if note[0] == "acked") - first_us) / 1e6


def measure(host: str, peers: Executor, options: Any) -> dict[str, Any]:
    """All rounds; of each ratio the median, and the figures of every round."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        warming = argparse.Namespace(**{**vars(options), "messages": WARM_UP_MESSAGES})
        Round(host, Path(folder), peers, warming, -1).warm_up()
    rounds = []
    for number in range(options.rounds):
        turn = number % len(NAMES)
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            one = Round(host, Path(folder), peers, options, number)
            one.run(NAMES[turn:] + NAMES[:turn])
        rounds.append(one)
    rate = {name: [round(one.drained[name].per_second) for one in rounds] for name in NAMES}
    cpu_us = {name: round(median(one.drained[name].cpu_us for one in rounds), 1) for name in NAMES}
    of_bare = median(ours / bare for ours, bare in zip(rate[OURS], rate[BARE], strict=True))
    of_streaming = median(ours / other for ours, other in zip(rate[OURS], rate[STREAMING], strict=True))
    right = all(one.right for one in rounds)
    return {
        "messages": options.messages,
        "tenants": options.tenants,
        "pulls_in_flight": options.pulls,
        "per_second": rate,
        "cpu_us": cpu_us,
        "of_bare": round(of_bare, 2),
        "target_of_bare": TARGET_OF_BARE,
        "of_streaming": round(of_streaming, 1),
        "target_of_streaming": TARGET_OF_STREAMING,
        "right": right,
        "ok": right and of_bare >= TARGET_OF_BARE and of_streaming >= TARGET_OF_STREAMING,
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--messages", type=int, default=10_000, help="waiting; the emulator slows down with them")
    options.add_argument("--tenants", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--pulls", type=int, default=4, help="pulls in flight of the bare loop")
    options.add_argument("--streaming-seconds", type=float, default=5.0, help="the most that streaming pull gets")
    given = options.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        host = os.environ.get(EMULATOR_ENVIRONMENT) or stack.enter_context(_emulator()).host
        # The library would look at it in the peers, and take another way in.
        os.environ.pop(EMULATOR_ENVIRONMENT, None)
        peers = stack.enter_context(ProcessPoolExecutor(1, spawn, max_tasks_per_child=1))
        result = measure(host, peers, given)
    rate, cpu_us = result["per_second"], result["cpu_us"]
    lines = [
        f"{given.messages:,} messages of {given.tenants} tenants waiting, {given.rounds} rounds, per second:",
        *(
            f"{what:<46} {', '.join(f'{one:,}' for one in rate[name]):<28} {cpu_us[name]:g} us CPU a message"
            for name, what in (
                (OURS, "governors: decided, committed, acknowledged"),
                (BARE, f"bare loop, {given.pulls} pulls in flight"),
                (STREAMING, "streaming pull, empty callback"),
            )
        ),
        f"governors beside the bare loop       {result['of_bare']:g} times, target {TARGET_OF_BARE:g}",
        f"governors beside streaming pull      {result['of_streaming']:g} times, target {TARGET_OF_STREAMING:g}",
        f"receipts {'right: one for each signal' if result['right'] else 'WRONG'}",
        "the consumer and the emulator share the cores",
    ]
    print_report({"benchmark": "pull_throughput", "machine": machine(), **result}, lines, as_json=given.json)
    if not result["right"]:
        sys.exit(1)


def _emulator() -> PubSubEmulator:
    try:
        find_jar()
    except EmulatorMissingError as error:
        sys.exit(f"no Pub/Sub emulator: {error}")
    return PubSubEmulator()


if __name__ == "__main__":
    main()
