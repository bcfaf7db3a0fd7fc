"""Between a broker and the service: deliveries in, dispositions out once everything is committed."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from governors.api.service import NotAcceptingError, OutcomeUnknownError, Wait
from governors.cluster.moves import OWNER_WAIT_S
from governors.telemetry.metrics import Metrics
from ingest.decode.foreign import Unheard
from ingest.decode.limits import DecodeLimits
from ingest.decode.message import NO_FACTS, read_message
from ingest.decode.tenants import NO_ROUTING, Facts, Routing
from ingest.errors import HandlerBusyError, SignalRejectedError
from ingest.signals import Signal
from ingest.source import ACK, NACK, Batch, DeadLetter, Disposition
from ledger.errors import LedgerError

PULLED_WAIT_S: Final = 15.0
"""How long what was pulled waits for a partition that nobody has: as long as a takeover may take. What came with it is
decided meanwhile, and acknowledged afterwards.
"""


class Decides(Protocol):
    """What decides signals, wherever their tenants are."""

    async def decide(self, signals: Sequence[Signal], wait: Wait, *, source: str, patience_s: float) -> Collection[int]:
        """Returns once their receipts are durable as far as `wait` says, but for those at these places, which took
        longer than `patience_s`. Raises NotAcceptingError, OutcomeUnknownError, LedgerError where those are all.
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
        patience_s: float = OWNER_WAIT_S,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._limits = limits
        self._source = source
        self._clock_us = clock_us
        self._routing = routing
        self._patience_s = patience_s

    async def handle(self, batch: Batch, facts: Facts = NO_FACTS) -> Sequence[Disposition]:
        """Decide a batch, of which routing rules can ask for `facts`. What belongs to a partition that nobody has is
        given back. While the service takes nothing this raises HandlerBusyError, so that the loop gives all of it back
        and pauses, longer with each time.
        """
        dispositions: list[Disposition] = [ACK] * len(batch.deliveries)
        signals: list[Signal] = []
        positions: list[int] = []
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
            positions.append(position)
        self._metrics.pulled(self._source, len(batch.deliveries))
        self._metrics.received(self._source, [signal.kind for signal in signals])
        try:
            not_done = await self._service.decide(
                signals, "committed", source=self._source, patience_s=self._patience_s
            )
        except (NotAcceptingError, OutcomeUnknownError, LedgerError) as error:
            raise HandlerBusyError(str(error)) from error
        for place in not_done:
            dispositions[positions[place]] = NACK
        published_us = [batch.deliveries[at].publish_us for at in positions if dispositions[at] is ACK]
        self._metrics.committed_since(self._source, published_us, self._clock_us())
        return dispositions
