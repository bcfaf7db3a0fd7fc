"""Signals at an even rate for hours: made second by second, so that none has to be kept."""

import asyncio
import math
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from support.pubsub import Bench

from benchmarks.pubsub import make_load
from ingest.errors import IngestError
from ingest.pubsub import PubsubMessage
from ledger.format.receipt import Receipt

TICK_S: Final = 0.02
PUBLISH_MESSAGES_MAX: Final = 1_000
REPEATED: Final = 0.01
"""So many are published a second time within half a second, by a publisher that never got its answer."""
TIMEOUT_S: Final = 5.0


def now_us() -> int:
    return time.time_ns() // 1_000


@dataclass(slots=True)
class Publisher:
    """Publishes `rate_per_s` signals a second, each observed when it is due. What could not be published in time is
    made up for; `late_s` is how late it was at most.
    """

    bench: Bench
    rate_per_s: int
    tenants: int
    seconds: int = 0
    """Seconds whose signals are all published."""
    signals: int = 0
    messages: int = 0
    failures: int = 0
    late_s: float = 0.0
    _stopping: bool = False

    async def run(self, seconds: float = math.inf) -> None:
        """Until so many seconds are published, whole ones, or the second in which it is told to stop. Called again, it
        goes on with the second after the last.
        """
        begun_us = now_us() - self.seconds * 1_000_000
        while self.seconds < seconds and not self._stopping:
            await self._one_second(begun_us + self.seconds * 1_000_000)

    def stop(self) -> None:
        """At the end of this second."""
        self._stopping = True

    async def _one_second(self, begin_us: int) -> None:
        load = make_load(
            f"s-{self.seconds:06d}", self.rate_per_s, self.tenants, REPEATED, float(self.rate_per_s), begin_us
        )
        count, sent = len(load.payloads), 0
        while sent < count:
            passed_s = (now_us() - begin_us) / 1e6
            due = min(count, max(0, int(passed_s * count)), sent + PUBLISH_MESSAGES_MAX)
            if due > sent:
                self.late_s = max(self.late_s, passed_s - sent / count)
                await self._publish(load.payloads[sent:due])
                self.messages += due - sent
                sent = due
            else:
                await asyncio.sleep(TICK_S)
        self.seconds += 1
        self.signals += self.rate_per_s

    async def _publish(self, payloads: list[bytes]) -> None:
        messages = [PubsubMessage(data=payload) for payload in payloads]
        while True:
            try:
                await self.bench.publisher.publish(messages, TIMEOUT_S)
            except IngestError:
                self.failures += 1
                await asyncio.sleep(0.1)
            else:
                return


class Books:
    """Which signals have a receipt, and how old each was when it was decided: `read_receipts` calls `add`."""

    def __init__(self, seconds: int, rate_per_s: int, window_s: int) -> None:
        self._rate_per_s = rate_per_s
        self._window_s = window_s
        self._receipts = bytearray(seconds * rate_per_s)
        self._ages_ms = [array("f") for _ in range(-(-seconds // window_s))]
        self._epochs: dict[int, int] = {}
        self.receipts = 0
        self.foreign = 0
        """Receipts about what was never published."""
        self.undecided = 0
        """Receipts that say anything else than that the signal was decided."""
        self.out_of_epoch = 0
        """Receipts of an epoch that had ended: those behind which there is one of a later epoch."""

    def add(self, partition: int, index: int, receipt: Receipt) -> None:
        """A receipt of the log."""
        self.receipts += 1
        self.out_of_epoch += receipt.epoch < self._epochs.get(partition, 0)
        self._epochs[partition] = receipt.epoch
        if not receipt.source:
            return  # of a timer or an operator
        _, second, number = receipt.event_id.split("-")
        place = int(second) * self._rate_per_s + int(number)
        if place >= len(self._receipts):
            self.foreign += 1
            return
        self._receipts[place] = min(255, self._receipts[place] + 1)
        self.undecided += receipt.outcome != "decided"
        age_ms = (receipt.ts_us - receipt.observed_us) / 1e3
        self._ages_ms[int(second) // self._window_s].append(age_ms)

    @property
    def lost(self) -> int:
        """Signals without a receipt."""
        return self._receipts.count(0)

    def lost_ids(self, limit: int) -> list[str]:
        """Some of those signals' ids."""
        places = (place for place, count in enumerate(self._receipts) if not count)
        return [f"s-{place // self._rate_per_s:06d}-{place % self._rate_per_s:08d}" for place in islice(places, limit)]

    @property
    def decided_twice(self) -> int:
        """Signals with more than one."""
        return len(self._receipts) - self._receipts.count(0) - self._receipts.count(1)

    def windows(self) -> Iterator[tuple[float, list[float]]]:
        """When each window ended, in seconds, and the ages in it in order, in milliseconds."""
        for index, ages in enumerate(self._ages_ms, 1):
            yield float(index * self._window_s), sorted(ages)
