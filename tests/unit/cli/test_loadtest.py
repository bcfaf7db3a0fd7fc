"""What a load test plans, counts and holds against limits."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governors.cli.load_figures import Figures, Limits
from governors.cli.load_plan import Load, signal_of
from governors.telemetry.scrape import series_of, total, value_of
from ingest.decode.native import decode_native

NOW_US = 1_795_348_800_000_000
LIMITS = Limits(p99_ms=100.0, rss_mb=600.0, rss_growth_mb=100.0)
LOADS = st.builds(
    Load,
    tenants=st.integers(1, 300),
    rate_per_s=st.floats(0.5, 5_000),
    seconds=st.floats(1, 120),
    connections=st.integers(1, 50),
    run=st.just("0123abcd"),
    prefix=st.just("loadtest-"),
)


@settings(deadline=None, max_examples=50)
@given(LOADS)
def test_what_is_sent_adds_up_to_the_rate(load: Load) -> None:
    assert load.total <= load.rate_per_s * load.seconds + 1
    assert load.total >= load.rate_per_s * load.seconds - load.lanes
    for lane in range(load.lanes):
        assert load.due(lane, 0.0) == 0
        assert load.due(lane, load.seconds / 3) <= load.due(lane, load.seconds)


@settings(deadline=None, max_examples=50)
@given(LOADS)
def test_a_tenant_is_sent_for_by_one_lane_alone(load: Load) -> None:
    lane_of: dict[str, int] = {}
    for lane in range(load.lanes):
        for number in range(min(load.due(lane, load.seconds), load.tenants)):
            tenant = signal_of(load, lane, number, NOW_US)["tenant"]
            assert lane_of.setdefault(tenant, lane) == lane
    assert len(lane_of) <= load.tenants


@settings(deadline=None, max_examples=50)
@given(LOADS, st.integers(0, 49), st.integers(0, 5_000))
def test_every_signal_is_one_that_the_service_can_read(load: Load, lane: int, number: int) -> None:
    lane %= load.lanes
    decoded = decode_native(orjson.dumps(signal_of(load, lane, number, NOW_US)), NOW_US)
    assert decoded.id == load.event_id(lane, number)


def measured(**changes: object) -> Figures:
    """A run that was as it should be, but for the changes."""
    figures = Figures(tenants=100, rate_per_s=1_000.0, seconds=10.0, sent=10_000, lasted_s=10.0, missing=0)
    figures.rss_mb = [100.0, 120.0]
    results = [{"outcome": "decided", "governor": "cost_guard", "state": "WARN"}] * 100
    for _ in range(100):
        figures.answer(0.004, results)
    for name, value in changes.items():
        setattr(figures, name, value)
    return figures


def test_a_run_that_is_as_it_should_be_is_within_all_limits() -> None:
    report = measured().report(LIMITS)
    assert report["ok"]
    assert report["past"] == []
    assert (report["sent"], report["answered"], report["lost"], report["duplicates"]) == (10_000, 10_000, 0, 0)
    assert (report["p50_ms"], report["p99_ms"]) == (4.0, 4.0)
    assert report["states"] == {"cost_guard": ["WARN"]}
    assert report["sender_late_p99_ms"] == 0.0


def test_a_sender_that_was_late_itself_says_so() -> None:
    figures = measured()
    for late_s in [0.001] * 90 + [0.3] * 10:
        figures.woke(late_s)
    assert figures.report(LIMITS)["sender_late_p99_ms"] == 300.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sent": 10_001}, "1 signals were lost"),
        ({"missing": 2}, "2 signals were lost"),
        ({"decided_twice": 1}, "decided twice"),
        ({"lasted_s": 11.0}, "of the 1,000 asked for"),
        ({"rss_mb": [100.0, 601.0]}, "601 MB were resident"),
        ({"rss_mb": [100.0, 201.0]}, "memory grew by 101 MB"),
    ],
)
def test_each_limit_that_is_passed_is_said(changes: dict[str, object], said: str) -> None:
    report = measured(**changes).report(LIMITS)
    assert not report["ok"]
    assert any(said in sentence for sentence in report["past"]), report["past"]


def test_two_late_answers_of_a_hundred_are_past_the_limit_of_ninety_nine() -> None:
    figures = measured()
    figures.sent += 200
    for _ in range(2):
        figures.answer(0.2, [{"outcome": "decided", "governor": "cost_guard", "state": "WARN"}] * 100)
    report = figures.report(LIMITS)
    assert report["p99_ms"] == 200.0
    assert any("p99" in sentence for sentence in report["past"])


def test_signals_that_came_to_nothing_are_no_success() -> None:
    figures = measured()
    figures.sent += 1
    figures.answer(0.001, [{"outcome": "rejected", "error": {"reason": "forbidden_tenant"}}])
    assert not figures.report(LIMITS)["ok"]


def test_metrics_are_read_as_they_are_written() -> None:
    text = (
        "# TYPE governors_x_total counter\n"
        'governors_x_total{kind="a",outcome="ok"} 3.0\n'
        'governors_x_total{kind="b",outcome="ok"} 4.0\n'
        "# TYPE governors_rss gauge\n"
        "governors_rss 1.5e+06\n"
        "governors_rss_other 2.0\n"
    )
    series = list(series_of(text))
    assert total(series, "governors_x_total") == 7.0
    assert total(series, "governors_x_total", kind="b") == 4.0
    assert total(series, "governors_none") == 0.0
    assert value_of(text, "governors_rss") == 1_500_000.0
    assert value_of(text, "governors_r") is None
