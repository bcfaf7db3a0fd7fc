"""The Pub/Sub source as a supervised child. Imported only where configured: the client takes half a second."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from governors.settings import PubSubSettings
from governors.supervision.child import Child, Started
from governors.telemetry.metrics import Metrics
from ingest.dead_letter import DeadLetterFolder
from ingest.pubsub import DeadLetterTopic, PubSubPublisher, PubSubSubscriber, open_channel
from ingest.pull import PullLoop, PullMetrics, PullSettings
from ingest.source import Handle

SHUTDOWN_S: Final = 20.0
NAME: Final = "pubsub"


def subscription_path(settings: PubSubSettings) -> str:
    """The subscription's full name."""
    return f"projects/{settings.project}/subscriptions/{settings.subscription}"


# Counter of the pull loop -> what it counts; the names become governors_pull_<counter>_total.
_COUNTERS: Final = {
    "received": "Messages pulled.",
    "received_bytes": "Bytes of their payloads.",
    "redelivered": "Messages that the broker had delivered before.",
    "acked": "Messages acknowledged.",
    "nacked": "Messages given back.",
    "dead_lettered": "Messages put aside.",
    "dead_letter_errors": "Messages that could not be put aside, and stay with the broker.",
    "handler_errors": "Batches that the service failed on.",
    "pulls": "Pulls that were answered.",
    "empty_pulls": "Pulls that brought nothing.",
    "pull_errors": "Pulls that failed.",
    "ack_errors": "Acknowledgements that failed and were tried again.",
    "acks_given_up": "Messages whose acknowledgement was given up; they come again.",
    "lease_extensions": "Leases extended for slow batches.",
    "lease_errors": "Lease extensions that failed.",
    "held_too_long": "Batches given back because they were held too long.",
    "backoff_s": "Seconds spent waiting after failures.",
}


class _PullCounts(Collector):
    """The pull loop's own counts, read when they are scraped."""

    def __init__(self, counts: PullMetrics) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for name, documentation in _COUNTERS.items():
            metric = name.replace("backoff_s", "backoff_seconds")
            yield CounterMetricFamily(f"governors_pull_{metric}", documentation, getattr(self._counts, name))
        for gauge, documentation, value in (
            ("held_messages", "Messages pulled and not yet settled.", self._counts.held_messages),
            ("held_bytes", "Bytes of their payloads.", self._counts.held_bytes),
            ("connected", "1 while the latest pull was answered.", int(self._counts.connected)),
        ):
            yield GaugeMetricFamily(f"governors_pull_{gauge}", documentation, value)


def pull_child(
    settings: PubSubSettings,
    handle: Handle,
    dead_letters: DeadLetterFolder,
    metrics: Metrics,
    clock_us: Callable[[], int],
    rng: Random,
) -> Child:
    """Pull for as long as it runs; a restart opens a channel of its own."""
    counts = PullMetrics()
    metrics.registry.register(_PullCounts(counts))

    async def run(started: Started) -> None:
        channel = await open_channel()
        try:
            topic = settings.dead_letter_topic
            sink = (
                dead_letters
                if topic is None
                else DeadLetterTopic(PubSubPublisher(channel, f"projects/{settings.project}/topics/{topic}"))
            )
            loop = PullLoop(
                PubSubSubscriber(channel, subscription_path(settings)),
                handle,
                sink,
                PullSettings(
                    pulls_in_flight=settings.pulls_in_flight,
                    messages_per_pull=settings.max_messages,
                    messages_max=settings.outstanding_max,
                    ack_deadline_s=settings.ack_deadline_s,
                ),
                clock_us=clock_us,
                rng=rng,
                metrics=counts,
            )
            started()
            await loop.run()
        finally:
            await channel.close()

    return Child(NAME, run, shutdown_s=SHUTDOWN_S)
