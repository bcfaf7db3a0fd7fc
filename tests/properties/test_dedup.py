"""No signal counts as new twice, whatever the order, the age and the size of the window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.tenants.dedup import DedupWindow, Entries, signal_key

MACHINE = "cost_guard\x1fbudget"

arrivals = st.lists(
    st.tuples(
        st.sampled_from(["t1", "t2"]),
        st.integers(0, 30),  # which signal of the tenant
        st.integers(1, 5),  # how far the clock moves on
    ),
    max_size=200,
)


def observed_us(number: int) -> int:
    """When a signal was observed is its own, and no repetition changes it; some are dated far ahead."""
    return number * 10 + (1_000 if number % 7 == 0 else 0)


class Decider:
    """What a tenant does with its window, and nothing else."""

    def __init__(self, capacity: int) -> None:
        self.window = DedupWindow(capacity)
        self.decided: list[tuple[str, int]] = []

    def receive(self, tenant: str, number: int, now_us: int) -> str:
        window = self.window.tenant(tenant)
        key = signal_key("source", str(number))
        if key in window.seen:
            return "duplicate"
        if observed_us(number) <= window.horizons.get(MACHINE, -1):
            return "stale"
        self.decided.append((tenant, number))
        self.window.remember(window, key, MACHINE, observed_us(number), len(self.decided), now_us)
        return "decided"


@given(arrivals, st.integers(1, 20))
def test_no_signal_is_decided_twice(sequence: list[tuple[str, int, int]], capacity: int) -> None:
    decider = Decider(capacity)
    now_us = 0
    for tenant, number, step_us in sequence:
        now_us += step_us
        decider.receive(tenant, number, now_us)
    assert len(decider.decided) == len(set(decider.decided))


@given(arrivals, st.integers(1, 20))
def test_memory_is_bounded_even_by_signals_dated_ahead(sequence: list[tuple[str, int, int]], capacity: int) -> None:
    decider = Decider(capacity)
    for now_us, (tenant, number, _) in enumerate(sequence):
        decider.receive(tenant, number, now_us)
        assert len(decider.window) <= 2 * capacity


@given(st.integers(1, 50), st.integers(1, 60))
def test_signals_in_order_are_never_refused(capacity: int, count: int) -> None:
    window = DedupWindow(capacity)
    tenant = window.tenant("t")
    for number in range(1, count + 1):
        assert number * 10 > tenant.horizons.get(MACHINE, -1)
        window.remember(tenant, signal_key("s", str(number)), MACHINE, number * 10, number, number * 10)


def test_a_repetition_within_the_window_finds_the_original_receipt() -> None:
    window = DedupWindow(10)
    tenant = window.tenant("t")
    window.remember(tenant, signal_key("s", "a"), MACHINE, 5, 42, 6)
    assert tenant.seen[signal_key("s", "a")] == 42


def test_one_tenants_flood_moves_no_other_ones_horizon() -> None:
    window = DedupWindow(10)
    quiet, loud = window.tenant("quiet"), window.tenant("loud")
    window.remember(quiet, signal_key("s", "q"), MACHINE, 5, 0, 5)
    for number in range(100):
        window.remember(loud, signal_key("s", str(number)), MACHINE, 1_000 + number, number, 2_000)
    assert quiet.horizons == {MACHINE: 5}
    assert loud.horizons[MACHINE] == 1_089


def test_a_signal_dated_ahead_moves_no_horizon_before_its_time() -> None:
    window = DedupWindow(1)
    tenant = window.tenant("t")
    window.remember(tenant, signal_key("s", "ahead"), MACHINE, 1_000_000, 0, 10)
    window.remember(tenant, signal_key("s", "now"), MACHINE, 11, 1, 11)
    window.remember(tenant, signal_key("s", "next"), MACHINE, 12, 2, 12)
    assert tenant.horizons[MACHINE] == 11
    assert signal_key("s", "ahead") in tenant.seen


@given(arrivals, st.integers(1, 20), st.integers(0, 200), st.integers(1, 20))
def test_a_window_that_was_put_away_goes_on_as_if_nothing_had_happened(
    sequence: list[tuple[str, int, int]], capacity: int, cut: int, resized: int
) -> None:
    through, broken = Decider(capacity), Decider(capacity)
    now_us = 0
    for position, (tenant, number, step_us) in enumerate(sequence):
        now_us += step_us
        if position == cut:
            put_away = broken.window.state()
            assert put_away == through.window.state()
            broken.window = DedupWindow(1)
            broken.window.restore(put_away)
            for decider in (through, broken):
                decider.window.resize(resized, now_us)
        answers = [decider.receive(tenant, number, now_us) for decider in (through, broken)]
        assert answers[0] == answers[1]
    assert broken.window.state() == through.window.state()
    assert len(broken.window) == len(through.window)


@pytest.mark.parametrize("column", Entries.__struct_fields__)
@pytest.mark.parametrize("part", ["newest", "ahead"])
def test_a_state_that_no_window_had_is_refused_and_changes_nothing(column: str, part: str) -> None:
    decider = Decider(3)
    for number in (7, 14, 1, 2, 3):
        decider.receive("t1", number, 10)
    state, untouched = decider.window.state(), decider.window.state()
    assert len(state.newest.keys) == 3
    assert len(state.ahead.keys) == 2
    getattr(getattr(state, part), column).pop()
    with pytest.raises(ValueError, match=r"shorter|longer|long"):
        decider.window.restore(state)
    assert decider.window.state() == untouched


@pytest.mark.parametrize("column", ["tenants", "machines"])
def test_a_state_that_names_nobody_is_refused(column: str) -> None:
    decider = Decider(3)
    decider.receive("t1", 1, 10)
    state = decider.window.state()
    getattr(state.newest, column)[0] = 5
    with pytest.raises(IndexError):
        decider.window.restore(state)
