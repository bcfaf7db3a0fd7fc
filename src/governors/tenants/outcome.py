"""What a sender is told of each signal, and the ticket that a batch of them holds while they are decided."""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from governors.fsm.table import Evidence
from governors.tenants.decide import Decided
from ingest.signals import Signal


class Outcome(Struct, frozen=True, gc=False):
    """One signal's fate. `receipt` is the index of its receipt in the partition: a duplicate's names the original."""

    signal: Signal
    decided: Decided
    receipt: int

    @property
    def id(self) -> str:
        """The signal's."""
        return self.signal.id

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.signal.tenant

    @property
    def governor(self) -> str:
        """The governor that takes it, or `tenant`."""
        return self.decided.governor

    @property
    def subject(self) -> str:
        """What its machine is of."""
        return self.decided.subject

    @property
    def outcome(self) -> str:
        """`decided`, `duplicate`, `stale`, `refused`, `rejected` or `dead_lettered`."""
        return self.decided.outcome

    @property
    def decision(self) -> str:
        """The governor's word."""
        return self.decided.decision

    @property
    def state(self) -> str:
        """The machine's status from now on."""
        return self.decided.to_status

    @property
    def previous_state(self) -> str:
        """The machine's status before."""
        return self.decided.from_status

    @property
    def rule(self) -> str:
        """What says so; empty for a duplicate."""
        return self.decided.rule

    @property
    def evidence(self) -> Evidence:
        """The numbers that the rule compared."""
        return self.decided.evidence


class Ticket:
    """A batch under way: outcomes in the order of its signals, and the newest receipt among them."""

    __slots__ = ("_done", "last_receipt", "outcomes", "remaining", "signals")

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.signals = signals
        self.outcomes: list[Outcome | None] = [None] * len(signals)
        self.remaining = len(signals)
        self.last_receipt = -1
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not signals:
            self._done.set_result(None)

    def settle(self, count: int, last_receipt: int) -> None:
        """Note that `count` more outcomes are in; the last one completes the ticket."""
        self.last_receipt = max(self.last_receipt, last_receipt)
        self.remaining -= count
        if not self.remaining and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nobody will decide the rest."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # seen: whoever sent it may be gone

    async def decided(self) -> list[Outcome]:
        """Every outcome, in order, once all are decided; their receipts may not be durable yet. Raises what it failed
        with.
        """
        await self._done
        return [outcome for outcome in self.outcomes if outcome is not None]
