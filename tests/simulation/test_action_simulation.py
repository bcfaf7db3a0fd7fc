"""A slice of the crashes amid actions in every test run, and proof that they would show what is wrong.

`make crash-actions` does ten thousand.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from simulation import action_world
from simulation.action_world import Fate, Outcome, random_crashes, run_world
from simulation.actions import report, sweep

from governors.machines import overlays
from governors.outbox import outbox
from governors.outbox.executors import Answer, Done, TryAgain
from governors.outbox.outbox import Outbox
from governors.runtime import Runtime
from governors.tenants.registry import Registry
from governors.tenants.tenant import OpenWork
from ledger.appender import Ledger

SCRIPTS = 24
SWEPT_EVERY = 60
SEEDS_MAX = 60


@pytest.mark.parametrize("part", range(2))
def test_a_service_that_is_killed_again_and_again_does_each_action_once(part: int) -> None:
    seen = Counter[str]()
    for seed in range(part, SCRIPTS, 2):
        outcome = run_world(seed, random_crashes(seed, 6))
        assert outcome.violation is None, f"seed {seed}: {outcome.violation}"
        seen += outcome.seen
    for what in (*(fate.value for fate in Fate), "asked again", "result unknown", "result withdrawn"):
        assert seen[what], f"nothing is shown of: {what}"


def test_a_crash_at_any_place_of_a_script_leaves_no_action_undone_or_done_twice() -> None:
    for job in sweep(1, SWEPT_EVERY):
        outcome = run_world(job.seed, list(job.crashes))
        assert outcome.violation is None, report(job, outcome)


def test_one_seed_gives_one_course_of_events() -> None:
    for seed in range(3):
        crashes = random_crashes(seed, 4)
        assert run_world(seed, list(crashes)) == run_world(seed, list(crashes))


# What the simulation is there to find


def _caught(defect: AbstractContextManager[object]) -> Outcome:
    with defect:
        for seed in range(SEEDS_MAX):
            outcome = run_world(seed, random_crashes(seed, 4))
            if outcome.violation is not None:
                return outcome
    pytest.fail("nothing was found")


def _says(defect: AbstractContextManager[object]) -> str:
    return str(_caught(defect).violation)


def test_an_action_that_leaves_before_its_receipt_is_committed_is_found() -> None:
    assert "before its receipt is committed" in _says(patch.object(Ledger, "wait_committed", Ledger.wait_local))


def test_an_action_that_leaves_when_nobody_wants_it_any_more_is_found() -> None:
    said = _says(patch.object(Runtime, "_why_not", lambda _runtime, _work: ""))
    assert "where it is not wanted" in said or "amid an emergency stop" in said


def test_a_further_attempt_at_what_nobody_wants_any_more_is_found() -> None:
    def why_not(runtime: Runtime, work: OpenWork) -> str:
        return "" if runtime.outbox._open[work.action.id].attempts else real(runtime, work)

    real = Runtime._why_not
    said = _says(patch.object(Runtime, "_why_not", why_not))
    assert "where it is not wanted" in said or "emergency stop" in said


def test_a_doubt_that_is_forgotten_is_found() -> None:
    said = _says(patch.object(overlays, "_in_doubt", lambda _governor, state, _asked: state))
    assert "and outside it is" in said


def test_a_start_that_thinks_that_nothing_went_out_is_found() -> None:
    class Sure(outbox._Open):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.maybe = False

    said = _says(patch.object(outbox, "_Open", Sure))
    assert "and it was done 1 times" in said or "and outside it is" in said


def test_a_start_that_forgets_what_was_open_is_found() -> None:
    def restore(registry: Registry) -> Iterator[Any]:
        for _ in real(registry):
            yield from ()

    real = Registry.restore
    with patch.object(action_world, "CALM_S", 3_000.0):
        assert "not at rest" in _says(patch.object(Registry, "restore", restore))


def test_silence_that_counts_as_success_is_found() -> None:
    async def ask(box: Outbox, *given: Any) -> Answer:
        answer = await real(box, *given)
        return Done() if isinstance(answer, TryAgain) and answer.maybe else answer

    real = Outbox._ask
    assert "the result is ok, and it was done 0 times" in _says(patch.object(Outbox, "_ask", ask))


def test_silence_that_counts_as_failure_is_found() -> None:
    async def ask(box: Outbox, *given: Any) -> Answer:
        answer = await real(box, *given)
        return TryAgain(answer.detail, maybe=False) if isinstance(answer, TryAgain) else answer

    real = Outbox._ask
    said = _says(patch.object(Outbox, "_ask", ask))
    assert "and it was done 1 times" in said or "and outside it is" in said


def test_an_undo_that_a_notice_takes_the_place_of_is_found() -> None:
    @contextmanager
    def forgets() -> Iterator[None]:
        with patch.object(overlays, "_is_relaxed", lambda _governor, _state: False):
            yield

    assert "and outside it is" in _says(forgets())
