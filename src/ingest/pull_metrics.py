"""What a pull loop counts about itself."""

from dataclasses import dataclass, field
from typing import Final

BATCH_SIZE_BOUNDS: Final = (1, 10, 50, 100, 250, 500, 1000)


@dataclass(slots=True)
class PullMetrics:
    """Counters only grow; those below the line are gauges. Seconds are sums over all that they count."""

    received: int = 0
    received_bytes: int = 0
    redelivered: int = 0
    handled: int = 0
    """Messages that the handler answered for."""
    acked: int = 0
    nacked: int = 0
    dead_lettered: int = 0
    dead_letter_errors: int = 0
    handler_errors: int = 0
    poison: int = 0
    """Messages put aside because the handler failed on them again and again."""
    pulls: int = 0
    empty_pulls: int = 0
    pull_errors: int = 0
    pull_wait_s: float = 0.0
    """Time that pulls waited for the messages that they brought."""
    ack_requests: int = 0
    ack_request_s: float = 0.0
    ack_errors: int = 0
    """Requests to acknowledge, to give back or to extend that failed as a whole; all but refused ones are repeated."""
    acks_retried: int = 0
    """Single ids that a broker with exactly-once delivery did not take this time."""
    acks_lost: int = 0
    """Single ids whose lease was over, as such a broker says; their messages come again."""
    acks_given_up: int = 0
    lease_extensions: int = 0
    lease_errors: int = 0
    leases_lost: int = 0
    held_too_long: int = 0
    backoff_s: float = 0.0
    batches_by_size: list[int] = field(default_factory=lambda: [0] * (len(BATCH_SIZE_BOUNDS) + 1))
    """Pulled batches by size: counts for up to each of `BATCH_SIZE_BOUNDS`, then for what is larger."""

    # Gauges
    held_messages: int = 0
    held_bytes: int = 0
    pulls_wanted: int = 0
    """How many pulls are worth having in flight now."""
    connected: bool = False
    """Whether the latest request was answered."""
    away_since_s: float | None = None
    """Since when requests fail, on the event loop's clock; None while they are answered."""
    last_error: str = ""

    def answered(self) -> bool:
        """The broker answered a request; whether that ends an outage."""
        was_away = self.away_since_s is not None
        self.connected = True
        self.away_since_s = None
        return was_away

    def failed(self, now_s: float, error: str) -> bool:
        """The broker did not answer a request, or refused a pull; whether that begins an outage."""
        begins = self.away_since_s is None
        self.connected = False
        self.last_error = error
        if begins:
            self.away_since_s = now_s
        return begins
