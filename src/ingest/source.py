"""What a batched source hands over, and what it wants back for each delivery.

A source yields batches, because every later step is cheaper on many signals than on one. It hands a batch to one
coroutine and waits; the answer says delivery by delivery what became of it, and comes only when that is durable.
Until then the source keeps the deliveries leased, so a crash anywhere in between brings them again.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct


class Delivery(Struct, frozen=True, gc=False):
    """One message as the broker delivered it.

    `publish_us` is the broker's time of publication, in microseconds since the epoch. `delivery_attempt` counts from 1
    and is 0 where the broker does not count. `ack_id` names this delivery of the message: a redelivery has another.
    """

    payload: bytes
    attributes: Mapping[str, str]
    message_id: str
    publish_us: int
    delivery_attempt: int
    ordering_key: str
    ack_id: str


class Batch(Struct, frozen=True):
    """What one pull brought, in the broker's order. `size_bytes` counts payloads; `received_us` is our own clock."""

    deliveries: list[Delivery]
    received_us: int
    size_bytes: int


class Ack(Struct, frozen=True):
    """Everything this delivery caused is committed (or it caused nothing): the broker may forget it."""


class Nack(Struct, frozen=True):
    """Not handled, through no fault of its own: the broker should deliver it again."""


class DeadLetter(Struct, frozen=True):
    """It can never be handled: put it aside for a person, then let the broker forget it.

    `reason` is a stable word for counters, `error` the text a person needs, `tenant` is None while it is unknown.
    """

    reason: str
    error: str
    tenant: str | None = None


Disposition = Ack | Nack | DeadLetter
ACK: Final = Ack()
NACK: Final = Nack()

Handle = Callable[[Batch], Awaitable[Sequence[Disposition]]]
"""Answers with one disposition per delivery, in order, once they are durable. Raising means `NACK` for all of them."""


class AckResult(Struct, frozen=True):
    """What a broker said of single ids in a request: one that delivers exactly once tells the fate of each. What is in
    neither set was taken.

    `lost` is leased to us no more, so that nothing said about it counts: the message comes again under another id, or
    was acknowledged before. `failed` was not taken this time and may be sent again.
    """

    lost: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


TAKEN: Final = AckResult()


class Subscriber(Protocol):
    """One subscription of a broker that leases messages and takes acknowledgements.

    Every method raises SourceUnavailableError where a retry may help, SourceRefusedError where it cannot.
    """

    @property
    def name(self) -> str:
        """The subscription's full name, for errors and logs."""

    async def pull(self, messages_max: int, timeout_s: float) -> list[Delivery]:
        """Wait for messages, at most `timeout_s`; an empty list says that there were none."""

    async def acknowledge(self, ack_ids: Sequence[str], timeout_s: float) -> AckResult:
        """Let the broker forget these deliveries. One request: the caller keeps it within the broker's bounds."""

    async def modify_ack_deadline(self, ack_ids: Sequence[str], deadline_s: int, timeout_s: float) -> AckResult:
        """Lease these deliveries for `deadline_s` from now; 0 asks for redelivery at once."""
