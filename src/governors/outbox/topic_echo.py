"""What was published to a topic, as it comes back to who published it: a subscription of this worker's own.

It is there only to be looked at: everything is acknowledged, nothing is kept but the digests of what came, and a
subscription that is missing, that was deleted, or whose topic was made anew is made again. While it is away nothing is
known to have come back, which is no success; publishing goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Final

import grpc.aio
import structlog

from governors.outbox.arrivals import Arrivals
from governors.settings import SettingsError
from governors.settings_layers import Problem, shown
from governors.supervision.child import Child, Started
from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.flow import backoff_s
from ingest.pubsub import PubSubSubscriber, open_channel
from ingest.pubsub_own import have_own_subscription

PULL_S: Final = 3.0
"""The deadline of a pull, as of those for signals (`ingest.pull_settings`)."""
REQUEST_S: Final = 5.0
FIRST_PULL_S: Final = 1.0
"""How long the start waits for the first pull to be refused: it is at once, or else waits for a message."""
MESSAGES_PER_PULL: Final = 100
"""Bounds what is held: a message may have 10 MB, where somebody else publishes there too."""
BACKOFF_BASE_S: Final = 0.2
BACKOFF_CAP_S: Final = 10.0
LOOK_AGAIN_S: Final = 10.0
"""How often the subscription is looked at, at the most, because something did not come back."""
_AWAY_S: Final = 5.0
"""A shorter outage is what backoff is for; nobody need look."""


def mark_of(payload: bytes) -> bytes:
    """What an order is known by: it names the action, its receipt, and all that is to be done."""
    return blake2b(payload, digest_size=16).digest()


class Echo:
    """What comes back from `topic` (`projects/P/topics/T`) by `subscription` (`projects/P/subscriptions/S`), while its
    child runs. `name` is the executor's whose orders are looked for.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        subscription: str,
        open_channel: Callable[[], Awaitable[grpc.aio.Channel]] = open_channel,
    ) -> None:
        self._name = name
        self._topic = topic
        self._subscription = subscription
        self._open_channel = open_channel
        self._arrivals = Arrivals()
        self._news = asyncio.Event()
        """Set when something has come, and then another one takes its place."""
        self._looked = asyncio.Event()
        self._listening = asyncio.Event()
        self._has_begun = False
        self._why_away = "its subscription was not looked for yet"
        self._away_since_s: float | None = None
        self._is_doubted = False
        """Whether something did not come back since the subscription was looked at."""
        self._looked_s = 0.0
        self._log = structlog.get_logger("governors.outbox")

    @property
    def why_away(self) -> str:
        """Why nothing comes back; empty while the subscription is there and answers."""
        return "" if self._listening.is_set() else self._why_away

    def warnings(self) -> list[str]:
        """That nothing comes back, where it is so for longer than a moment."""
        if self._away_since_s is None:
            return []
        away_s = asyncio.get_running_loop().time() - self._away_since_s
        if away_s < _AWAY_S:
            return []
        return [f"what {self._name} publishes has not been read back for {away_s:.0f} s: {self._why_away}"]

    async def first_look(self, within_s: float) -> None:
        """Wait until the subscription was looked for once, whatever came of it; so long at the most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._looked.wait()

    def has(self, mark: bytes) -> bool:
        """Whether it has come back lately."""
        return self._arrivals.has(mark, asyncio.get_running_loop().time())

    async def comes(self, mark: bytes, within_s: float) -> bool:
        """Whether it has come back, or does within so long. Where it does not, the subscription is looked at again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not self.has(mark):
                    await self._news.wait()
        has_come = self.has(mark)
        self._is_doubted = self._is_doubted or not has_come
        return has_come

    def child(self, rng: Random) -> Child:
        return Child(f"read-back-{self._name}", partial(self._run, rng))

    async def _run(self, rng: Random, started: Started) -> None:
        """Raises SettingsError where the subscription cannot be had at first. Later on it is asked for again and again:
        whoever took a permission away can give it back.
        """
        try:
            channel = await self._open_channel()
        except SourceRefusedError as error:
            raise self._unusable(error) from error
        loop = asyncio.get_running_loop()
        subscriber = PubSubSubscriber(channel, self._subscription)
        patience: asyncio.TimerHandle | None = None
        failures = 0
        try:
            while True:
                try:
                    await self._see_to_it(channel)
                    patience = patience or loop.call_later(FIRST_PULL_S, self._begin, started)
                    await self._pull(subscriber)
                except SourceRefusedError as error:
                    if not self._has_begun:
                        raise self._unusable(error) from error
                    why = str(error)
                except SourceUnavailableError as error:
                    why = str(error)
                else:
                    failures = 0
                    self._begin(started)
                    self._listen()
                    continue
                self._begin(started)
                self._go_away(why)
                failures += 1
                await asyncio.sleep(backoff_s(failures, BACKOFF_BASE_S, BACKOFF_CAP_S, rng))
        finally:
            if patience is not None:
                patience.cancel()
            self._listening.clear()
            self._why_away = "it has ended"
            await channel.close()

    def _begin(self, started: Started) -> None:
        self._has_begun = True
        started()

    async def _see_to_it(self, channel: grpc.aio.Channel) -> None:
        """That the subscription is there, where there is a doubt."""
        now_s = asyncio.get_running_loop().time()
        if self._listening.is_set() and not (self._is_doubted and now_s >= self._looked_s + LOOK_AGAIN_S):
            return
        self._looked_s = now_s
        self._is_doubted = False
        await have_own_subscription(channel, self._subscription, self._topic, REQUEST_S)
        if not self._has_begun:
            # What is published from here on comes back. After a failure a pull has to show first that it is over.
            self._listen()

    def _listen(self) -> None:
        self._listening.set()
        self._looked.set()
        self._away_since_s = None

    async def _pull(self, subscriber: PubSubSubscriber) -> None:
        deliveries = await subscriber.pull(MESSAGES_PER_PULL, PULL_S)
        if not deliveries:
            return
        now_s = asyncio.get_running_loop().time()
        for delivery in deliveries:
            if "action_id" in delivery.attributes:
                self._arrivals.note(mark_of(delivery.payload), now_s)
        news, self._news = self._news, asyncio.Event()
        news.set()
        # What is not acknowledged comes again, and is noted again.
        await subscriber.acknowledge([delivery.ack_id for delivery in deliveries], REQUEST_S)

    def _go_away(self, why: str) -> None:
        """Nothing comes back from now on, until the subscription was looked at again."""
        self._listening.clear()
        self._looked.set()
        self._why_away = why
        if self._away_since_s is None:
            self._away_since_s = asyncio.get_running_loop().time()
            self._log.warning("what is published is not read back", executor=self._name, reason=why)

    def _unusable(self, error: SourceRefusedError) -> SettingsError:
        expected = f"what it publishes cannot be read back: {error}; `read_back: false` does without"
        return SettingsError([Problem("actions.topics", shown(self._name), "read_back", expected)])
