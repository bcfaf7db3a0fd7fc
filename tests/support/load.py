"""Who publishes signals at a rate, and keeps what a broker has not taken yet."""

import asyncio
from collections.abc import Sequence
from typing import Final

from support.pubsub import Bench

from ingest.errors import IngestError
from ingest.pubsub import PubsubMessage

CHUNK: Final = 20


class Sender:
    """Publishes payloads at a rate, each until the broker says that it has it."""

    def __init__(self, bench: Bench, payloads: Sequence[bytes], rate_per_s: float) -> None:
        self._bench = bench
        self._payloads = payloads
        self._rate_per_s = rate_per_s
        self.sent = 0
        self.failures = 0

    async def run(self) -> None:
        now_s = asyncio.get_running_loop().time
        due_s = now_s()
        while self.sent < len(self._payloads):
            await self.publish(self._payloads[self.sent : self.sent + CHUNK])
            self.sent += CHUNK
            # What could not be sent in time is not made up for: the rate holds for what is sent.
            due_s = max(due_s + CHUNK / self._rate_per_s, now_s())
            await asyncio.sleep(due_s - now_s())

    async def again(self) -> None:
        """Everything so far, once more."""
        so_far = self._payloads[: self.sent]
        for start in range(0, len(so_far), 1_000):
            await self.publish(so_far[start : start + 1_000])

    async def publish(self, payloads: Sequence[bytes]) -> None:
        messages = [PubsubMessage(data=payload) for payload in payloads]
        while True:
            try:
                await self._bench.publisher.publish(messages, 2.0)
            except IngestError:  # NOT_FOUND too: a restarted emulator knows no topic
                self.failures += 1
                await asyncio.sleep(0.1)
            else:
                return
