"""Writers that race for one head, while the store answers as badly as a store may."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.protocol.commit import Committed, Fenced, HeadWrite, Lease, LookAgain, PutAgain
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won


@dataclass
class ModelStore:
    """One key. A put lands now, later or never, and its reply comes or is lost; a put that lands counts exactly if
    its generation is there when it lands.
    """

    current: Object | None = None
    generation: int = 0
    delayed: list[tuple[bytes, int]] = field(default_factory=list)
    history: list[bytes] = field(default_factory=list)

    def land(self, data: bytes, if_generation: int) -> PutOutcome:
        found = CREATE if self.current is None else self.current.generation
        if found != if_generation:
            return Lost(found)
        self.generation += 1
        self.current = Object(data, self.generation)
        self.history.append(data)
        return Won(self.generation)

    def put(self, data: bytes, if_generation: int, fate: str) -> PutOutcome:
        match fate:
            case "answered":
                return self.land(data, if_generation)
            case "landed, reply lost":
                self.land(data, if_generation)
            case "delayed":
                self.delayed.append((data, if_generation))
        return Unknown(fate, 1.0)

    def land_a_late_one(self, which: int) -> None:
        if self.delayed:
            self.land(*self.delayed.pop(which % len(self.delayed)))


class Writer:
    """Commits one head after the other until it is fenced. Each step is one call of the store."""

    def __init__(self, name: str, store: ModelStore) -> None:
        self.name = name
        self.store = store
        self.committed: list[bytes] = []
        self.fenced = False
        self._heads = 0
        self.take_over()

    def take_over(self) -> None:
        """As a process that starts: it has forgotten what it had under way."""
        self.fenced = False
        self._generation = CREATE if self.store.current is None else self.store.current.generation
        self._steps = self._run()
        next(self._steps)

    def step(self, fate: str) -> None:
        if not self.fenced:
            self._steps.send(fate)

    def _run(self) -> Generator[None, str, None]:
        while True:
            self._heads += 1
            write = HeadWrite(f"{self.name}{self._heads}".encode(), self._generation)
            result: object = PutAgain()
            while isinstance(result, PutAgain):
                fate = yield
                reply = write.after_put(self.store.put(write.data, write.if_generation, fate))
                if isinstance(reply, Committed):
                    result = reply
                    break
                assert isinstance(reply, LookAgain)
                yield
                result = write.after_get(self.store.current)
            if isinstance(result, Fenced):
                self.fenced = True
                yield
                return
            assert isinstance(result, Committed)
            self._generation = result.generation
            self.committed.append(write.data)


FATES = st.sampled_from(["answered", "landed, reply lost", "lost", "delayed"])
MOVES = st.one_of(
    st.tuples(st.sampled_from(["a", "b"]), FATES),
    st.tuples(st.just("late"), st.integers(0, 7)),
    st.tuples(st.sampled_from(["take a", "take b"]), st.just("")),
)


@settings(max_examples=400)
@given(st.lists(MOVES, max_size=60))
def test_what_a_writer_counts_as_committed_is_in_the_heads_history_once_and_in_its_order(
    moves: list[tuple[str, Any]],
) -> None:
    store = ModelStore()
    writers = {"a": Writer("a", store), "b": Writer("b", store)}
    for who, what in moves:
        if who == "late":
            store.land_a_late_one(what)
        elif who.startswith("take"):
            writers[who[-1]].take_over()
        else:
            writers[who].step(what)
    assert len(set(store.history)) == len(store.history)
    for writer in writers.values():
        assert [data for data in store.history if data in writer.committed] == writer.committed


@given(
    data=st.binary(min_size=1, max_size=4),
    if_generation=st.integers(0, 5),
    found=st.one_of(st.none(), st.builds(Object, st.binary(min_size=1, max_size=4), st.integers(1, 6))),
)
def test_only_my_own_bytes_count_as_mine_and_only_my_condition_lets_me_write_again(
    data: bytes, if_generation: int, found: Object | None
) -> None:
    match HeadWrite(data, if_generation).after_get(found):
        case Committed(generation):
            assert found == Object(data, generation)
        case PutAgain():
            assert (found.generation if found else CREATE) == if_generation
        case Fenced(other):
            assert other == found
            assert (found.generation if found else CREATE) != if_generation


def test_no_reply_but_a_win_is_taken_for_one() -> None:
    write = HeadWrite(b"x", 3)
    assert write.after_put(Won(4)) == Committed(4)
    assert write.after_put(Lost(7)) == LookAgain(0.0)
    assert write.after_put(Lost()) == LookAgain(0.0)
    assert write.after_put(Unknown("429", 1.5)) == LookAgain(1.5)


def test_a_head_that_is_gone_fences_whoever_replaced_one() -> None:
    assert HeadWrite(b"x", 3).after_get(None) == Fenced(None)
    assert HeadWrite(b"x", CREATE).after_get(None) == PutAgain()


times = st.floats(0, 1e6)


@given(
    lease_s=st.floats(0.1, 60),
    share=st.floats(0, 0.9),
    sent_s=times,
    landed_after=st.floats(0, 5),
    seen_after=st.floats(0, 5),
    now_s=times,
)
def test_nobody_answers_locally_when_another_may_have_taken_over(
    lease_s: float, share: float, sent_s: float, landed_after: float, seen_after: float, now_s: float
) -> None:
    """The holder counts from when it sent the head, the other from when it saw it: later, whatever the delays."""
    lease = Lease(lease_s, share * lease_s).renewed(sent_s)
    taken_over_s = sent_s + landed_after + seen_after + lease_s
    assert not (lease.may_answer(now_s) and now_s >= taken_over_s)


@given(st.lists(times, min_size=1, max_size=5))
def test_a_lease_counts_from_the_latest_head_that_was_sent(sent: list[float]) -> None:
    lease = Lease(5.0, 1.0)
    assert not lease.may_answer(0.0)
    for at_s in sent:
        lease = lease.renewed(at_s)
    assert lease.ends_s == max(sent) + 4.0
    assert max(sent) < lease.renew_s < lease.ends_s
