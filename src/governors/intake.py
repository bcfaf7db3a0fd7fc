"""Between a broker and the service: deliveries in, dispositions out once everything is committed."""

from collections.abc import Callable, Sequence
from typing import Protocol

from governors.api.service import NotAcceptingError, OutcomeUnknownError, Wait
from governors.telemetry.metrics import Metrics
from ingest.decode.foreign import Unheard
from ingest.decode.limits import DecodeLimits
from ingest.decode.message import NO_FACTS, read_message
from ingest.decode.tenants import NO_ROUTING, Facts, Routing
from ingest.errors import HandlerBusyError, SignalRejectedError
from ingest.signals import Signal
from ingest.source import ACK, Batch, DeadLetter, Disposition
from ledger.errors import LedgerError


class Decides(Protocol):
    """What decides signals, wherever their tenants are."""

    async def decide(self, signals: Sequence[Signal], wait: Wait, *, source: str) -> object:
        """Returns once their receipts are durable as far as `wait` says. Raises NotAcceptingError, OutcomeUnknownError,
        LedgerError.
        """
        ...


class Intake:
    """A pull loop's handler, and a push's. A message is acknowledged when its receipt is committed, when it tells of
    nothing that is governed, or when it can never be read and lies with the dead letters; while the service cannot take
    it, it stays with the broker.
    """

    def __init__(
        self,
        service: Decides,
        metrics: Metrics,
        limits: DecodeLimits,
        source: str,
        clock_us: Callable[[], int],
        routing: Routing = NO_ROUTING,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._limits = limits
        self._source = source
        self._clock_us = clock_us
        self._routing = routing

    async def handle(self, batch: Batch, facts: Facts = NO_FACTS) -> Sequence[Disposition]:
        """Decide a batch, of which routing rules can ask for `facts`. While the service takes nothing this raises
        HandlerBusyError, so that the loop gives the batch back and pauses, longer with each time.
        """
        dispositions: list[Disposition] = [ACK] * len(batch.deliveries)
        signals: list[Signal] = []
        published_us: list[int] = []
        for position, delivery in enumerate(batch.deliveries):
            try:
                said = read_message(delivery, self._routing, batch.received_us, self._limits, facts)
            except SignalRejectedError as error:
                self._metrics.rejected(self._source, error.reason)
                self._metrics.dead_lettered(error.reason)
                said_of_it = f"{error.field}: {error.message}" if error.field else error.message
                dispositions[position] = DeadLetter(error.reason, said_of_it)
                continue
            if isinstance(said, Unheard):
                self._metrics.unheard(self._source, said.form)
                continue
            signals.append(said)
            published_us.append(delivery.publish_us)
        self._metrics.pulled(self._source, len(batch.deliveries))
        self._metrics.received(self._source, [signal.kind for signal in signals])
        try:
            await self._service.decide(signals, "committed", source=self._source)
        except (NotAcceptingError, OutcomeUnknownError, LedgerError) as error:
            raise HandlerBusyError(str(error)) from error
        self._metrics.committed_since(self._source, published_us, self._clock_us())
        return dispositions
