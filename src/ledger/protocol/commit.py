"""What a reply to a head write means, and how long its writer may answer. Pure.

A head is written under the generation that its writer last saw. Three replies are possible, and none of them alone is
the whole truth: a write that was lost may have been lost to its own first attempt, and one whose outcome is unknown may
have landed, or may land later. So everything but a win leads to reading the head, and what is found there decides:

    put -> Won                                        committed
        -> Lost, Unknown -> get -> my very bytes      committed: an earlier attempt of mine had won
                                -> the generation I named is still there: put again, the same bytes, the same condition
                                -> anything else      fenced: somebody else has written

The bytes are never changed between attempts, since an attempt whose outcome is unknown can land at any time.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won

RENEW_SHARE: Final = 0.75
"""Of the time in which a writer may answer: then its lease falls due."""
LAST_CALL_SHARE: Final = 0.85


class Committed(NamedTuple):
    """The head holds my bytes, under this generation."""

    generation: int


class LookAgain(NamedTuple):
    """Read the head, after `after_s` seconds at least: the outcome cannot be told from the reply."""

    after_s: float


class PutAgain(NamedTuple):
    """My write has not landed. Write the same bytes under the same condition."""


class Fenced(NamedTuple):
    """Somebody else has written the head: `found`, or None if it is gone. Stop answering, and end the process."""

    found: Object | None


@dataclass(frozen=True, slots=True)
class HeadWrite:
    """One head on its way: its bytes, and the generation that it replaces (CREATE for the first)."""

    data: bytes
    if_generation: int

    def after_put(self, outcome: PutOutcome) -> Committed | LookAgain:
        match outcome:
            case Won(generation):
                return Committed(generation)
            case Lost():
                return LookAgain(0.0)
            case Unknown(_, retry_after_s):
                return LookAgain(retry_after_s)

    def after_get(self, found: Object | None) -> Committed | PutAgain | Fenced:
        """`found` must have been read after the reply to the latest attempt came in."""
        if found is not None and found.data == self.data:
            return Committed(found.generation)
        generation = CREATE if found is None else found.generation
        return PutAgain() if generation == self.if_generation else Fenced(found)


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a writer may answer for receipts that are only local: nobody takes over before `lease_s` seconds have
    passed since its head was written, and it counts from when it *sent* the head, which was earlier. `margin_s` is for
    clocks that run at different rates. Times are of one monotonic clock.

    It protects local answers only. What is committed needs no clock.
    """

    lease_s: float
    margin_s: float
    sent_s: float | None = None
    """When the latest head that was committed had been sent; None while there is none."""

    def renewed(self, sent_s: float) -> "Lease":
        return replace(self, sent_s=sent_s if self.sent_s is None else max(sent_s, self.sent_s))

    @property
    def ends_s(self) -> float:
        """From here on no local answer may leave."""
        return float("-inf") if self.sent_s is None else self.sent_s + self.lease_s - self.margin_s

    @property
    def renew_s(self) -> float:
        """When it should be renewed. What is left of it then is enough for a store that takes a second for a write,
        or that refuses one and wants to be asked again a second later; and each second earlier costs a write more.
        """
        return self._after(RENEW_SHARE)

    @property
    def last_call_s(self) -> float:
        """When it is renewed though a commit that would renew it too is on its way, and takes long."""
        return self._after(LAST_CALL_SHARE)

    def _after(self, share: float) -> float:
        return float("-inf") if self.sent_s is None else self.sent_s + (self.lease_s - self.margin_s) * share

    def may_answer(self, now_s: float) -> bool:
        return now_s < self.ends_s
