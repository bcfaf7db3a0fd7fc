"""Who may take over when, and what becomes of a log that is found on the disk. Pure.

Taking over is one compare-and-swap that raises the head's epoch: from then on the writer before is fenced, whatever its
clock says. What clocks are for is its local answers: whoever takes over first waits as long as they may go on.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ledger.protocol.head import Head


def wait_s(head: Head, *, seen_s: float, now_s: float, owner_is_gone: bool) -> float:
    """Seconds until the head's owner answers no more, 0 if it does not already.

    `seen_s` is when *this* generation of the head was first seen, by the clock of who wants to take over: it was
    written before. `owner_is_gone` says that it is certain otherwise, because we hold the lock that it held.
    """
    if head.lease_us == 0 or owner_is_gone:
        return 0.0
    return max(0.0, seen_s + head.lease_us / 1e6 - now_s)


class LocalSegment(NamedTuple):
    """A segment on the disk: `end_index` is one past its last receipt."""

    first_index: int
    epoch: int
    end_index: int


class Adopt(NamedTuple):
    """The log on the disk has all that is committed, and `receipts` more: they are committed next."""

    receipts: int


class Fetch(NamedTuple):
    """The log on the disk is a beginning of the committed one: fetch the rest."""


class Quarantine(NamedTuple):
    """From segment number `first` on the log on the disk is not the committed one: somebody took over meanwhile and
    went on from where this one had been committed. Put these segments aside; their `receipts` are lost.
    """

    first: int
    receipts: int


class Fork(NamedTuple):
    """The two logs differ and no takeover explains it. Do nothing: an operator must find out which is which."""

    message: str


Verdict = Adopt | Fetch | Quarantine | Fork


def judge_log(local: Sequence[LocalSegment], common: int, head: Head, *, has_all: bool) -> Verdict:
    """What becomes of a log on the disk whose first `common` segments are, byte for byte, in the committed log.

    `has_all`: the segment that the head names is among them. `head` is the one from before the takeover.

    Each epoch has one writer, and a writer that was fenced by the head's epoch had a smaller one. So a segment that is
    not in the committed log was left behind by a fenced writer if its epoch is smaller than the head's. Otherwise two
    logs were made under one name: the same size may have two roots, and both may have been signed.
    """
    size = local[-1].end_index if local else 0
    if has_all:
        return Adopt(size - head.size)
    if common == len(local):
        return Fetch()
    first = local[common]
    if local[-1].epoch >= head.epoch:
        same = "the same size and another root" if size == head.size else f"{size} receipts"
        return Fork(
            f"the log on the disk has {same} where {head.size} are committed; from receipt {first.first_index} on they "
            f"differ, and epoch {local[-1].epoch} on the disk does not come before {head.epoch} of the head"
        )
    return Quarantine(common, size - first.first_index)
