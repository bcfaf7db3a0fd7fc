"""How long an action is tried, and how long a place that ails is left alone. Pure: times are seconds of one clock."""

from hashlib import blake2b
from typing import Final

from msgspec import Struct

ATTEMPT_S: Final = 20.0
"""For one attempt: the Standard Webhooks text asks receivers to answer within 15 to 30 s."""
GIVE_UP_S: Final = 120.0
"""For all attempts at one action: what else is wanted at its target waits for as long. The machine is told what was not
done by then, and asks again on what is so then."""
FIRST_PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0

AILING_AFTER: Final = 5
"""Failures in a row after which a place is left alone, …"""
LEFT_ALONE_S: Final = 30.0
"""… for so long; then one attempt tries it out."""


def pause_s(action_id: str, attempt: int, asked_s: float | None) -> float:
    """The pause behind an attempt, counted from 1: doubling, half of it by lot (so that many do not come back at once),
    and no less than what was asked for. The lot is the action's own, so that a pause can be told beforehand.
    """
    whole_s = min(FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16), PAUSE_MAX_S)
    lot = int.from_bytes(blake2b(f"{action_id}\0{attempt}".encode(), digest_size=4).digest(), "big") / 2**32
    return max(whole_s * (0.5 + 0.5 * lot), min(asked_s or 0.0, GIVE_UP_S))


class Breaker(Struct, frozen=True):
    """What is known of a place: failures in a row, and until when it is left alone."""

    failures: int = 0
    until_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long nobody may try; 0 where one may now."""
        return max(0.0, self.until_s - now_s) if self.failures >= AILING_AFTER else 0.0


WELL: Final = Breaker()


def tried(breaker: Breaker, now_s: float) -> Breaker:
    """An attempt begins. Where it is the one that tries an ailing place out, the others go on waiting."""
    return Breaker(breaker.failures, now_s + LEFT_ALONE_S) if breaker.failures >= AILING_AFTER else breaker


def failed(breaker: Breaker, now_s: float) -> Breaker:
    """An attempt said that the place ails."""
    failures = breaker.failures + 1
    return Breaker(failures, now_s + LEFT_ALONE_S if failures >= AILING_AFTER else 0.0)
