"""What a log may drop next: never too much, never less than was said, and in the end all that is not wanted."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.format.retention import NamedSnapshot, Retention
from ledger.format.tiles import TILE_WIDTH
from ledger.protocol.pruning import Candidate, Plan, Wanted, plan

RECEIPTS = 5_000
INDICES = st.integers(0, RECEIPTS)


@st.composite
def segment_starts(draw: st.DrawFn) -> list[int]:
    return sorted({0, *draw(st.lists(INDICES, max_size=30))})


def named(size: int, first_index: int) -> NamedSnapshot:
    return NamedSnapshot(1, first_index, size, "0" * 64, size)


@st.composite
def logs(draw: st.DrawFn) -> tuple[Retention, list[int], Candidate | None]:
    """What holds, the segments, and perhaps a new snapshot: as a log that was pruned before has them."""
    segments = draw(segment_starts())
    sizes = sorted(draw(st.sets(st.integers(1, RECEIPTS), max_size=3)))
    standing = [(size, max(one for one in segments if one < size)) for size in sizes]
    has_candidate: bool = draw(st.booleans())
    candidate = Candidate(*standing.pop()) if standing and has_candidate else None
    snapshots = tuple(named(*one) for one in standing[-2:])
    bound = draw(st.sampled_from([one for one in segments if one <= snapshots[0].first_index])) if snapshots else 0
    entries = draw(st.integers(0, bound // TILE_WIDTH)) * TILE_WIDTH
    return Retention(entries, bound, snapshots), [one for one in segments if one >= bound], candidate


@given(logs(), INDICES, INDICES, INDICES)
def test_nothing_goes_that_is_wanted_or_needed(
    log: tuple[Retention, list[int], Candidate | None], payloads: int, receipts: int, published: int
) -> None:
    said, segments, candidate = log
    wanted = Wanted(payloads, min(receipts, payloads))
    found = plan(said, wanted, segments=segments, published=published, candidate=candidate)
    if found is None:
        return
    assert (found.entries_from, found.segments_from) >= (said.entries_from, said.segments_from)
    assert found.entries_from <= found.segments_from
    assert not found.entries_from % TILE_WIDTH
    if found.segments_from > said.segments_from:
        assert found.segments_from in segments, "whole segments go"
        assert found.segments_from <= wanted.payloads_below
        assert found.segments_from <= published // TILE_WIDTH * TILE_WIDTH, "what is gone is read from full bundles"
        standing = [one.first_index for one in said.snapshots]
        if found.takes_candidate and candidate is not None:
            standing.append(candidate.first_index)
        assert len(standing) >= 2
        assert found.segments_from <= standing[-2], "from the older of the last two snapshots' last segment on"
    if found.entries_from > said.entries_from:
        assert found.entries_from <= wanted.receipts_below


@given(segment_starts(), INDICES, INDICES)
def test_rounds_come_to_an_end_with_all_gone_that_may_go(segments: list[int], payloads: int, receipts: int) -> None:
    """As long as there is a new snapshot for each round."""
    wanted = Wanted(payloads, min(receipts, payloads))
    said, size = Retention(), RECEIPTS
    last = max(segments)
    for _ in range(4):
        size += 1
        found = plan(said, wanted, segments=segments, published=RECEIPTS, candidate=Candidate(size, last))
        if found is None:
            break
        said = apply(said, found, size, last)
    else:
        raise AssertionError("there is always more to do")
    full = RECEIPTS // TILE_WIDTH * TILE_WIDTH
    goal = max(one for one in segments if one <= min(payloads, full))
    assert said.segments_from == goal
    assert said.entries_from == min(wanted.receipts_below, goal) // TILE_WIDTH * TILE_WIDTH


def apply(said: Retention, found: Plan, size: int, first_index: int) -> Retention:
    snapshots = said.snapshots
    if found.takes_candidate:
        snapshots = (*snapshots, named(size, first_index))[-2:]
    return Retention(found.entries_from, found.segments_from, snapshots)
