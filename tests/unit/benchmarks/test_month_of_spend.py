import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import month_of_spend
from benchmarks.month_of_spend import judge, summary, verdicts
from benchmarks.support_spend import (
    DAY,
    FAULTS,
    HISTORY,
    MONTH,
    MONTH_MICROS,
    SPAN,
    Fault,
    Month,
    Seen,
    Shape,
    Thresholds,
    make,
    nab_shapes,
    token_shapes,
)

FLAT = Shape("flat", [1.0] * SPAN, frozenset())
BY_NAME = {fault.name: fault for fault in FAULTS}


class Scripted:
    """Says what the test wants, by bucket of the month; spends all."""

    def __init__(self, said: dict[int, tuple[str, str]], status: dict[int, str] | None = None) -> None:
        self._said = said
        self._status = status or {}

    def watch(self, month: Month) -> Iterator[Seen]:
        status = "NORMAL"
        for at in range(MONTH):
            status = self._status.get(at, status)
            said = (self._said[at],) if at in self._said else ()
            yield Seen(HISTORY + at, status, said, month.demand[HISTORY + at])


def test_a_month_costs_what_its_budget_is_made_for_and_a_fault_multiplies_it() -> None:
    calm = make(FLAT, BY_NAME["calm"])
    assert calm.ungoverned_micros == pytest.approx(MONTH_MICROS, rel=1e-6)
    assert not calm.overruns
    step = make(FLAT, BY_NAME["step in the middle"])
    begin = HISTORY + step.fault.begin
    assert step.demand[begin] == pytest.approx(3 * step.demand[begin - 1], rel=1e-6)
    assert step.overruns
    assert make(FLAT, BY_NAME["credit"]).ungoverned_micros == pytest.approx(0.9 * MONTH_MICROS, rel=1e-6)


def test_warnings_of_statistics_are_false_away_from_faults_only() -> None:
    said = {DAY: ("warn", "cost.anomaly"), 2 * DAY: ("warn", "cost.warn"), 10 * DAY + 50: ("warn", "cost.forecast")}
    assert judge(make(FLAT, BY_NAME["calm"]), Scripted(said)).false_warnings == 2
    assert judge(make(FLAT, BY_NAME["spike"]), Scripted(said)).false_warnings == 1
    assert judge(make(FLAT, BY_NAME["step late"]), Scripted(said)).false_warnings == 0
    assert judge(make(FLAT, BY_NAME["calm, tight budget"]), Scripted(said)).false_warnings == 1
    odd = Shape("odd", FLAT.demand, frozenset({HISTORY + DAY - 5}))
    assert judge(make(odd, BY_NAME["calm"]), Scripted(said)).false_warnings == 1


def test_a_stop_before_the_budget_is_spent_is_false() -> None:
    calm = make(FLAT, BY_NAME["calm"])
    assert judge(calm, Scripted({}, {DAY: "STOP"})).false_stops == 1
    small = make(FLAT, BY_NAME["too small a budget"])
    spent = next(at for at in range(MONTH) if sum(small.demand[HISTORY : HISTORY + at + 1]) >= small.budget_micros)
    assert judge(small, Scripted({}, {spent: "STOP"})).false_stops == 0
    assert judge(small, Scripted({}, {spent - 1: "STOP"})).false_stops == 1


def test_a_step_is_warned_of_in_time_up_to_its_second_bucket() -> None:
    step = make(FLAT, BY_NAME["step early"])
    begin = step.fault.begin
    assert judge(step, Scripted({begin + 1: ("warn", "cost.anomaly")})).warned_after == 2
    late = judge(step, Scripted({begin - 1: ("warn", "cost.anomaly"), begin + 2: ("warn", "cost.anomaly")}))
    assert late.warned_after == 3
    assert judge(step, Scripted({})).warned_after is None
    found = summary("guard", [late])
    assert (found["steady_steps"], found["steady_steps_warned"]) == (1, 0)
    assert [ok for _, ok in verdicts(found)] == [True, True, False]
    nothing = summary("guard", [judge(make(FLAT, BY_NAME["calm"]), Scripted({}))])
    assert [ok for _, ok in verdicts(nothing)] == [True, True, False], "what was not seen was not kept"


def test_a_shape_that_doubles_for_half_an_hour_is_not_steady() -> None:
    assert FLAT.is_steady
    once, twice = list(FLAT.demand), list(FLAT.demand)
    once[500] = 5.0
    twice[500:502] = [5.0, 5.0]
    assert Shape("once", once, frozenset()).is_steady
    assert not Shape("twice", twice, frozenset()).is_steady


def test_fixed_thresholds_tell_at_each_of_them_and_stop_at_the_last() -> None:
    seen = list(Thresholds().watch(make(FLAT, BY_NAME["too small a budget"])))
    assert [one.status for one in seen if one.said] == ["WARN", "WARN", "STOP"]
    assert seen[-1].spent_micros == 0
    lagging = make(FLAT, Fault("late", 0, 0, lambda _at, _length: 1.0, late_feed=True, budget=0.8))
    late = list(Thresholds().watch(lagging))
    first, behind = (next(one.bucket for one in each if one.said) for each in (seen, late))
    assert DAY <= behind - first < 2 * DAY


def test_shapes_are_made_of_what_there_is(tmp_path: Path) -> None:
    made_up = token_shapes(tmp_path / "none.csv", 2)
    assert [shape.name for shape in made_up] == ["made-up 0", "made-up 1"]
    assert all(len(shape.demand) == SPAN for shape in made_up)
    assert nab_shapes(tmp_path, tmp_path / "labels.json") == []
    trace = tmp_path / "tokens.csv"
    rows = [f"2023-11-16 18:15:{second:02}.6805900,{second},7" for second in range(60)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    assert token_shapes(trace, 1)[0].name == "azure-llm 0"


def test_the_run_says_what_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(month_of_spend, "FAULTS", (BY_NAME["calm"], BY_NAME["step early"]))
    made_up = ["--nab", str(tmp_path), "--tokens", str(tmp_path / "none.csv"), "--shapes", "1"]
    assert month_of_spend.main([*made_up, "--processes", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    guard, peer = report["governors"]
    assert [one["ok"] for one in report["promises"]] == [True, True, True]
    assert guard["false_throttles"] == 0
    assert (guard["months"], guard["steady_steps"], guard["false_stops"]) == (2, 1, 0)
    assert guard["faults"][1]["median_warned_after"] == 2
    assert peer["faults"][1]["median_warned_after"] > DAY
