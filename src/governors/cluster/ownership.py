"""Who should have which partition: every worker works it out by itself, from the same workers. Pure.

Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998): each partition
ranks all workers by a hash of both, and the first should have it. A worker that comes takes only what it is first for,
and one that goes leaves only what it had. This decides who asks for a log; who has it, its head alone says.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from hashlib import blake2b, sha256
from typing import Final

from governors.cluster.workers import Member, holder_of

SETTLE_S: Final = 25.0
"""A newcomer must have been there for so long before anything is handed over to it. By then everybody has looked who is
there (`heartbeat.LIST_EVERY`): whoever stands by and has not heard of it would take what was meant for it, and have to
hand it over in its turn. And who starts and fails again and again must not move logs each time."""
SUSPECT_S: Final = 8.0
"""Beats are at most 7 s apart: one that was not heard for so long has missed one."""
VACANT_STEP_S: Final = 5.0
"""After so long without an owner the next in the order tries too, and so on: whoever is first may be unable to."""
_HASH_BYTES: Final = 8
_DIGITS_MAX: Final = 4


def partition_of(tenant: str, partitions: int) -> int:
    """The partition that has a tenant's receipts. Part of the format: for a log it never changes."""
    return int.from_bytes(sha256(tenant.encode()).digest()[:_HASH_BYTES], "big") % partitions if partitions > 1 else 0


def read_partition(text: str, partitions: int) -> int | None:
    """The partition that a number in an address or in a log's name means; None where there is no such."""
    # Of any length, it could be one that takes a long time to read.
    number = int(text) if text.isdecimal() and len(text) <= _DIGITS_MAX else partitions
    return number if number < partitions else None


def ranked(partition: int, urls: Iterable[str]) -> list[str]:
    """The workers, by their addresses, in the order in which they should have a partition. An address outlives a
    restart: a worker that comes back is first for what it had.
    """
    return sorted(urls, key=lambda url: (_weight(partition, url), url), reverse=True)


class Aim(Enum):
    """What a worker does about a partition."""

    KEEP = "has it, and keeps it"
    RELEASE = "has it, and hands it over"
    SEEK = "takes it as soon as it is free"
    LEAVE = "leaves it to others"


def aim_of(
    me: str, partition: int, members: Sequence[Member], *, has_it: bool, is_leaving: bool, vacant_s: float = 0.0
) -> Aim:
    """What the worker called `me` does about a partition, by what it heard of everybody, itself included. Nobody is
    known to have had it for `vacant_s`.

    Beside whoever has a partition there is always one other that stands by, the first of the rest: it need not wait
    until the loss is noticed, for it sees the lease end. Nothing is handed over to one that does not stand by.
    """
    order = _order(partition, members, me, is_leaving=is_leaving)
    if has_it:
        if is_leaving:
            # The last one hands it over by ending.
            is_awaited = any(_stands_by(one, partition) and not _is_suspect(one) for one in order)
            return Aim.RELEASE if is_awaited else Aim.KEEP
        first = order[0] if order else None
        if first is None or first.beat.worker == me:
            return Aim.KEEP
        # What is handed over to one that is gone comes back after a lease, and goes there again until it is missed.
        is_settled = first.present_s >= SETTLE_S and _stands_by(first, partition) and not _is_suspect(first)
        return Aim.RELEASE if is_settled else Aim.KEEP
    if is_leaving:
        return Aim.LEAVE
    holder = holder_of(partition, members)
    # What was at the holder's address before it stands by for nothing, though it may not be missed yet.
    rest = [one for one in order if holder is None or one.beat.worker == me or one.beat.url != holder.beat.url]
    trying = 1 if holder is not None else 1 + int(vacant_s // VACANT_STEP_S)
    for one in rest:
        if one.beat.worker == me:
            return Aim.SEEK
        # One that is late or does not answer may be dead as well: then the next begins to wait for the lease before
        # that is certain.
        trying -= not _is_suspect(one)
        if trying <= 0:
            break
    return Aim.LEAVE


def _order(partition: int, members: Sequence[Member], me: str, *, is_leaving: bool) -> list[Member]:
    """Those that may have a partition, the one that should first."""
    by_url: dict[str, Member] = {}
    for one in members:
        mine = one.beat.worker == me
        # Of itself a worker knows better than what it said last.
        may = not is_leaving if mine else one.is_live and not one.beat.leaving
        before = by_url.get(one.beat.url)
        # Of two at one address the older one has ended, and is not missed yet.
        if may and (mine or before is None or (before.beat.worker != me and one.present_s < before.present_s)):
            by_url[one.beat.url] = one
    return [by_url[url] for url in ranked(partition, by_url)]


def _stands_by(one: Member, partition: int) -> bool:
    return partition in one.beat.stands_by


def _is_suspect(one: Member) -> bool:
    return one.age_s > SUSPECT_S or not one.answers


def _weight(partition: int, url: str) -> int:
    digest = blake2b(url.encode(), digest_size=_HASH_BYTES, key=b"%d" % partition).digest()
    return int.from_bytes(digest, "big")
