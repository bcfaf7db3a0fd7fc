"""The Pub/Sub source as a supervised child. Imported only where configured: the client takes half a second."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from random import Random
from typing import Final

import grpc.aio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from governors.settings import PubSubSettings
from governors.supervision.child import Child, Started
from governors.telemetry.metrics import Metrics
from ingest.dead_letter import DeadLetterSink
from ingest.errors import SourceRefusedError, SourceUnavailableError
from ingest.pubsub import DeadLetterTopic, PubSubPublisher, PubSubSubscriber, open_channel
from ingest.pull import PullLoop
from ingest.pull_metrics import PullMetrics
from ingest.pull_settings import PullSettings
from ingest.source import Handle

_LOGGER = logging.getLogger(__name__)

SHUTDOWN_S: Final = 20.0
NAME: Final = "pubsub"


def subscription_path(settings: PubSubSettings) -> str:
    """The subscription's full name."""
    return f"projects/{settings.project}/subscriptions/{settings.subscription}"


# Counter of the pull loop -> what it counts; the names become governors_pull_<counter>_total, seconds spelled out.
_COUNTERS: Final = {
    "received": "Messages pulled.",
    "received_bytes": "Bytes of their payloads.",
    "redelivered": "Messages that the broker had delivered before.",
    "handled": "Messages that were decided, or put aside as unreadable.",
    "acked": "Messages acknowledged.",
    "nacked": "Messages given back.",
    "dead_lettered": "Messages put aside.",
    "dead_letter_errors": "Messages that could not be put aside, and stay with the broker.",
    "handler_errors": "Batches that the service failed on, or could not take.",
    "poison": "Messages put aside because the service failed on them again and again.",
    "pulls": "Pulls that were answered.",
    "empty_pulls": "Pulls that brought nothing.",
    "pull_errors": "Pulls that failed.",
    "pull_wait_s": "Seconds that pulls waited for the messages that they brought.",
    "ack_requests": "Requests to acknowledge that were answered.",
    "ack_request_s": "Seconds that they took.",
    "ack_errors": "Requests to acknowledge or to give back that failed.",
    "acks_retried": "Acknowledgements that exactly-once delivery did not take yet.",
    "acks_lost": "Acknowledgements that came after the lease was over, as exactly-once delivery says.",
    "acks_given_up": "Messages whose acknowledgement was given up; they come again.",
    "lease_extensions": "Leases extended for slow batches.",
    "lease_errors": "Lease extensions that failed.",
    "leases_lost": "Leases that were over before they were extended, as exactly-once delivery says.",
    "held_too_long": "Batches given back because they were held too long.",
    "backoff_s": "Seconds spent waiting after failures.",
}
# A short outage is what backoff is for; nobody need look.
_AWAY_S: Final = 5.0


class _PullCounts(Collector):
    """The pull loop's own counts, read when they are scraped."""

    def __init__(self, counts: PullMetrics) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        for name, documentation in _COUNTERS.items():
            metric = f"{name[:-2]}_seconds" if name.endswith("_s") else name
            yield CounterMetricFamily(f"governors_pull_{metric}", documentation, getattr(counts, name))
        for gauge, documentation, value in (
            ("held_messages", "Messages pulled and not yet settled.", counts.held_messages),
            ("held_bytes", "Bytes of their payloads.", counts.held_bytes),
            ("pulls_wanted", "Pulls that are worth having in flight.", counts.pulls_wanted),
            ("connected", "1 while the latest request was answered.", int(counts.connected)),
        ):
            yield GaugeMetricFamily(f"governors_pull_{gauge}", documentation, value)


class _Letters:
    """Dead letters to a topic, over whichever channel is open: there is none before the first start and after the end.

    What the topic refuses goes to `folder`: a message at Pub/Sub's limits has no room for the reason, and one that can
    never be put aside would come again for ever, and hold up all others each time.
    """

    def __init__(self, topic: str, folder: DeadLetterSink) -> None:
        self._topic = topic
        self._folder = folder
        self._open: DeadLetterTopic | None = None

    @contextmanager
    def over(self, channel: grpc.aio.Channel) -> Iterator[None]:
        self._open = DeadLetterTopic(PubSubPublisher(channel, self._topic))
        try:
            yield
        finally:
            self._open = None

    async def put(
        self,
        *,
        reason: str,
        tenant: str | None,
        payload: bytes,
        attributes: Mapping[str, str],
        error: str,
        now_us: int,
    ) -> str:
        if self._open is None:
            raise SourceUnavailableError(f"{self._topic}: the channel is not open")
        try:
            return await self._open.put(
                reason=reason, tenant=tenant, payload=payload, attributes=attributes, error=error, now_us=now_us
            )
        except SourceRefusedError as refused:
            _LOGGER.warning("a dead letter goes to the folder, its topic refused it: %s", refused)
            return await self._folder.put(
                reason=reason, tenant=tenant, payload=payload, attributes=attributes, error=error, now_us=now_us
            )


class PullSource:
    """The pull loop of one subscription. `child` runs for as long as the service; a restart opens a new channel.

    `backlog` says how many signals of any source wait to be decided. `dead_letters` is where messages go that nobody
    can read, pushed ones too: the topic, where one is configured, else the folder.
    """

    def __init__(
        self,
        settings: PubSubSettings,
        attempts_max: int,
        handle: Handle,
        dead_letters: DeadLetterSink,
        metrics: Metrics,
        clock_us: Callable[[], int],
        rng: Random,
        backlog: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._attempts_max = attempts_max
        self._handle = handle
        topic = settings.dead_letter_topic
        self._letters = None if topic is None else _Letters(f"projects/{settings.project}/topics/{topic}", dead_letters)
        self.dead_letters: DeadLetterSink = self._letters or dead_letters
        self._clock_us = clock_us
        self._rng = rng
        self._backlog = backlog
        self._counts = PullMetrics()
        metrics.registry.register(_PullCounts(self._counts))

    def child(self) -> Child:
        return Child(NAME, self._run, shutdown_s=SHUTDOWN_S)

    def warnings(self) -> list[str]:
        """That the subscription is away, where it is for longer than a moment."""
        away_since_s = self._counts.away_since_s
        if away_since_s is None:
            return []
        away_s = asyncio.get_running_loop().time() - away_since_s
        if away_s < _AWAY_S:
            return []
        said = f"Pub/Sub has not answered for {away_s:.0f} s and is asked again and again"
        return [f"{said}: {self._counts.last_error}"]

    async def _run(self, started: Started) -> None:
        settings = self._settings
        channel = await open_channel()
        try:
            loop = PullLoop(
                PubSubSubscriber(channel, subscription_path(settings)),
                self._handle,
                self.dead_letters,
                PullSettings(
                    pulls_in_flight=settings.pulls_in_flight,
                    messages_per_pull=settings.max_messages,
                    messages_max=settings.outstanding_max,
                    ack_deadline_s=settings.ack_deadline_s,
                    attempts_max=self._attempts_max,
                ),
                clock_us=self._clock_us,
                rng=self._rng,
                metrics=self._counts,
                backlog=self._backlog,
            )
            with nullcontext() if self._letters is None else self._letters.over(channel):
                started()
                await loop.run()
        finally:
            await channel.close()
