"""What a log may drop next. Pure.

Dropped is, oldest first, what the policy does not want kept any more, as long as the log can be brought back without
it: two snapshots in the store stand for what is dropped, the segments from the older one's last on are kept, and every
receipt in a dropped segment is published, in an entry bundle of its own kind.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from ledger.format.retention import SNAPSHOTS_MAX, Retention
from ledger.format.tiles import TILE_WIDTH


class Wanted(NamedTuple):
    """What the policy lets go: payloads of receipts below `payloads_below`, and receipts below `receipts_below`."""

    payloads_below: int
    receipts_below: int


class Candidate(NamedTuple):
    """A snapshot that could be put into the store: how many receipts it stands for, and where its last segment begins.
    All of it is committed.
    """

    size: int
    first_index: int


class Plan(NamedTuple):
    """The new bounds, and whether the candidate is to be put into the store and named."""

    entries_from: int
    segments_from: int
    takes_candidate: bool


def plan(
    said: Retention, wanted: Wanted, *, segments: Sequence[int], published: int, candidate: Candidate | None
) -> Plan | None:
    """What to say next, None if there is nothing to gain.

    `said` is what holds now, `segments` are the first indices of the sealed segments here, ascending, `published` is
    the size of the public checkpoint.
    """
    named = [one.first_index for one in said.snapshots]
    takes = candidate is not None and (not said.snapshots or candidate.size > said.snapshots[-1].size)
    if candidate is not None and takes:
        named = [*named, candidate.first_index][-SNAPSHOTS_MAX:]
    standing = named[0] if len(named) == SNAPSHOTS_MAX else 0
    # Receipts are read from full bundles once their segment is gone.
    goal = _boundary(segments, min(wanted.payloads_below, published // TILE_WIDTH * TILE_WIDTH))
    segments_from = max(said.segments_from, _boundary(segments, min(goal, standing)))
    entries_from = max(said.entries_from, min(wanted.receipts_below, segments_from) // TILE_WIDTH * TILE_WIDTH)
    gains = (entries_from, segments_from) != (said.entries_from, said.segments_from)
    # A snapshot that is taken now lets something go the next time.
    return Plan(entries_from, segments_from, takes) if gains or (takes and goal > said.segments_from) else None


def _boundary(segments: Sequence[int], index: int) -> int:
    """The first index of the last segment that begins at or before this index; 0 if none does."""
    at = bisect_right(segments, index)
    return segments[at - 1] if at else 0
