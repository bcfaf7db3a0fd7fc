"""The benchmark of the valve: what it says of figures that are known, and how it reads a trace."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support_queue import Request, Run, inversions, read_trace
from benchmarks.valve_control import promised, setting

SETTING = setting(argparse.Namespace(profile="rpc", capacity=None, sample_s=None, delay_s=0.0))
GOOD: dict[str, Any] = {
    "settled_p99_ms": 30.0,
    "goodput": 0.97,
    "drain_s": 4.0,
    "turns": 2,
    "transitions": 2,
    "inversions": 0,
    "jain": 0.97,
    "drains": [(1.8, 2.0)],
    "promises_missed": 0,
}
PEER = {"settled_p99_ms": 900.0, "goodput": 0.7, "drain_s": 11.0, "turns": 2, "inversions": 0}


def missed(**figures: Any) -> list[str]:
    """What is not held by the worse of two runs."""
    runs = {"valve": [GOOD, {**GOOD, **figures}], "dagor": [PEER, PEER], "aimd": [PEER, PEER]}
    return [check.what for check in promised(runs, SETTING) if not check.holds]


def test_what_is_promised_holds_where_every_run_keeps_it() -> None:
    assert missed() == []


@pytest.mark.parametrize(
    ("figures", "what"),
    [
        ({"settled_p99_ms": 40.0}, "p99 after three intervals"),
        ({"goodput": 0.949}, "goodput"),
        ({"drains": [(2.5, 2.0)]}, "drained"),
        ({"drains": [(1.5, 2.0)]}, "drained"),
        ({"drains": []}, "drained"),
        ({"promises_missed": 1}, "drained"),
        ({"transitions": 3}, "changes of direction"),
        ({"jain": 0.94}, "Jain's index"),
    ],
)
def test_one_run_that_breaks_a_promise_breaks_it(figures: dict[str, Any], what: str) -> None:
    assert missed(**figures) == [what]


def test_a_rival_that_does_better_is_said() -> None:
    assert missed(turns=4) == ["turns"]
    assert missed(inversions=2) == ["priority inversions", "inversions"]


def test_waits_are_compared_with_who_does_not_count_what_is_in_flight_either() -> None:
    runs = {"valve": [GOOD], "aimd": [{**PEER, "settled_p99_ms": 1.0}], "dagor": [PEER]}
    assert all(check.holds for check in promised(runs, SETTING))
    runs["dagor"] = [{**PEER, "settled_p99_ms": 1.0}]
    assert [check.what for check in promised(runs, SETTING) if not check.holds] == ["settled_p99_ms"]


def test_work_that_swings_slowly_is_evened_out_unless_it_shall_not_be(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("at,work\n" + "".join(f"{at},{1 + at // 120 + at % 2}\n" for at in range(480)))
    even, swinging = read_trace(path), read_trace(path, swings=True)
    assert even.works is not None
    assert swinging.works is not None
    for begin in range(0, 480, 120):
        assert sum(even.works[begin : begin + 120]) == pytest.approx(120)
    assert sum(swinging.works) == pytest.approx(480)
    assert sum(swinging.works[:120]) < 0.6 * 120


def test_a_request_that_could_not_be_done_before_the_end_is_not_inverted() -> None:
    first, second = Request(1.0, 0, "a", 1.0), Request(1.001, 3, "b", 1.0)
    second.served_at = 1.1
    run = Run([first, second], [0])
    assert inversions(run, 0.002, until_s=10.0) == 1
    assert inversions(run, 0.0005, until_s=10.0) == 0
    assert inversions(run, 0.002, until_s=0.5) == 0
