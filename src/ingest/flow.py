"""How much to ask for, how long to wait, when to extend a lease. Pure: numbers in, numbers out."""

from collections.abc import Iterator, Sequence
from enum import Enum
from random import Random
from typing import Final

# Acknowledge and ModifyAckDeadline requests are bounded at 512 KiB by the service
# (https://cloud.google.com/pubsub/quotas#resource_limits): 2,500 ids of the usual length fit.
ACK_IDS_MAX: Final = 2_500
ACK_BYTES_MAX: Final = 500 * 1024
# What one id costs on the wire beside its own bytes: the field's tag and a length of up to two bytes.
_ACK_ID_OVERHEAD_BYTES: Final = 3


def backoff_s(failures: int, base_s: float, cap_s: float, rng: Random) -> float:
    """Full jitter: anywhere between zero and a bound that doubles with each failure in a row, up to the cap.

    Spreads clients that failed together over the whole span
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    # The exponent is bounded so that a long outage does not compute astronomically large numbers.
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(max(failures - 1, 0), 32)))


def pull_size(
    *,
    per_pull_max: int,
    messages_max: int,
    messages_held: int,
    backlog_max: int,
    backlog: int,
    bytes_max: int,
    bytes_held: int,
    message_bytes: float,
) -> int:
    """How many messages to ask for now; 0 says to wait until some of the held ones are settled.

    `messages_held` includes what pulls in flight may still bring. `backlog` is what waits for the processor: more of it
    would only wait here instead of at the broker, where another worker could have it. What waits for a commit is held,
    and no backlog: the slower commits are, the more is held without anything being late. `message_bytes` is the mean
    size seen lately: the broker bounds a pull by count alone, so bytes are bounded by expectation.
    """
    wanted = min(per_pull_max, messages_max, backlog_max)
    room = min(wanted, messages_max - messages_held, backlog_max - backlog)
    # Below a tenth of a pull it pays to wait: requests for a handful cost as much as requests for a thousand.
    if room < max(1, wanted // 10) or bytes_held >= bytes_max:
        return 0
    return min(room, max(1, int((bytes_max - bytes_held) / max(message_bytes, 1.0))))


class PullsInFlight:
    """How many pulls are worth having at the broker.

    A pull that is answered as quickly as any was says that messages had been waiting for it: another one would have had
    them sooner. One that took several times as long waited for messages, or for its turn in a process or a broker that
    has no time for it: one less would have done. Where it came back full, though, messages are waiting all the same,
    and a few pulls at once are fetched, decided and committed together. `most` at first, because a start often finds a
    backlog.
    """

    # Of the quickest answer; between the two nothing changes.
    PROMPT: Final = 2.0
    SLOW: Final = 5.0
    # The emulator gives no more in one pull, the service up to ten times as many: who gets that many found a backlog.
    FULL: Final = 100
    FEW: Final = 4
    # So that a broker which became slower is not held against its better days; and what counts as prompt at most, so
    # that pulls which wait for a trickle do not.
    _QUICKEST_GROWTH: Final = 1.02
    _QUICKEST_S_MAX: Final = 0.05

    def __init__(self, most: int) -> None:
        self._most = most
        self._quickest_s = self._QUICKEST_S_MAX
        self.wanted = most

    def note(self, messages: int, waited_s: float) -> None:
        """A pull brought `messages` after `waited_s`."""
        if messages:
            self._quickest_s = min(waited_s, self._quickest_s * self._QUICKEST_GROWTH, self._QUICKEST_S_MAX)
        least = min(self._most, self.FEW) if messages >= self.FULL else 1
        is_prompt = messages and waited_s <= self.PROMPT * self._quickest_s
        if is_prompt or self.wanted < least:
            self.wanted = min(self._most, self.wanted + 1)
        elif self.wanted > least and (not messages or waited_s > self.SLOW * self._quickest_s):
            self.wanted -= 1


class Lease(Enum):
    """What a held batch needs."""

    KEEP = "keep"
    EXTEND = "extend"
    GIVE_UP = "give_up"


def assess_lease(
    now_s: float, *, received_s: float, leased_s: float, ack_deadline_s: float, held_s_max: float
) -> Lease:
    """Extend once half of the lease is spent, so that several tries fit before it lapses; give up on a stuck batch.

    `leased_s` is when the present lease began: the pull, or the last extension that was answered.
    """
    if now_s - received_s >= held_s_max:
        return Lease.GIVE_UP
    return Lease.EXTEND if now_s - leased_s >= ack_deadline_s / 2 else Lease.KEEP


def lease_check_period_s(ack_deadline_s: float) -> float:
    """How often to look: five looks fit between the time an extension falls due and the end of the lease."""
    return ack_deadline_s / 10


def lease_request_s(ack_deadline_s: float, rpc_timeout_s: float) -> float:
    """How long to wait for an extension: one that hangs leaves time for another before the lease is over."""
    return min(rpc_timeout_s, ack_deadline_s / 5)


def chunk_ack_ids(
    ack_ids: Sequence[str], ids_max: int = ACK_IDS_MAX, bytes_max: int = ACK_BYTES_MAX
) -> Iterator[Sequence[str]]:
    """Cut ids into requests of at most `ids_max` ids and `bytes_max` bytes, in order. Ids are ASCII.

    An id that alone passes `bytes_max` goes by itself: the broker will say what it thinks of it.
    """
    if len(ack_ids) <= ids_max and sum(map(len, ack_ids)) + len(ack_ids) * _ACK_ID_OVERHEAD_BYTES <= bytes_max:
        if ack_ids:
            yield ack_ids
        return
    start = size_bytes = 0
    for index, ack_id in enumerate(ack_ids):
        cost_bytes = len(ack_id) + _ACK_ID_OVERHEAD_BYTES
        if index > start and (index - start >= ids_max or size_bytes + cost_bytes > bytes_max):
            yield ack_ids[start:index]
            start, size_bytes = index, 0
        size_bytes += cost_bytes
    yield ack_ids[start:]
