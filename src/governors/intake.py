"""Between a broker and the service: deliveries in, dispositions out once everything is committed."""

from collections.abc import Callable, Sequence

from governors.service import GovernorService
from governors.telemetry.metrics import Metrics
from ingest.decode.limits import DecodeLimits
from ingest.decode.message import decode_message
from ingest.errors import SignalRejectedError
from ingest.signals import Signal
from ingest.source import ACK, Batch, DeadLetter, Disposition


class Intake:
    """A pull loop's handler. A message is acknowledged when its receipt is committed, or when it can never be read
    and lies with the dead letters; while the service cannot take it, it stays with the broker.
    """

    def __init__(
        self,
        service: GovernorService,
        metrics: Metrics,
        limits: DecodeLimits,
        source: str,
        clock_us: Callable[[], int],
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._limits = limits
        self._source = source
        self._clock_us = clock_us

    async def handle(self, batch: Batch) -> Sequence[Disposition]:
        """Decide a batch. While the service takes nothing this raises, so that the loop gives the batch back and
        pauses, longer with each time.
        """
        dispositions: list[Disposition] = [ACK] * len(batch.deliveries)
        signals: list[Signal] = []
        for position, delivery in enumerate(batch.deliveries):
            try:
                signals.append(decode_message(delivery.payload, delivery.attributes, batch.received_us, self._limits))
            except SignalRejectedError as error:
                self._metrics.rejected(self._source, error.reason)
                self._metrics.dead_lettered(error.reason)
                dispositions[position] = DeadLetter(error.reason, f"{error.field}: {error.message}")
        self._metrics.pulled(self._source, len(batch.deliveries))
        self._metrics.received(self._source, [signal.kind for signal in signals])
        await self._service.decide(signals, "committed", source=self._source)
        published_us = [
            delivery.publish_us
            for delivery, disposition in zip(batch.deliveries, dispositions, strict=True)
            if disposition is ACK
        ]
        self._metrics.committed_since(self._source, published_us, self._clock_us())
        return dispositions
