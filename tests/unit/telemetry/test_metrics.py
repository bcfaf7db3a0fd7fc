"""Metrics as a scrape sees them."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from governors.telemetry.metrics import LOOP_PROBE_S, Metrics
from governors.telemetry.series import BatchHistogram, Tally


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_batch_counts_each_of_its_kinds_once_for_each_signal() -> None:
    metrics = Metrics("1.0")
    metrics.received("http", ["alert", "queue.sample", "alert"])
    metrics.received("http", ["alert"])
    assert value(metrics, "governors_signals_received_total", source="http", kind="alert") == 3
    assert value(metrics, "governors_signals_received_total", source="http", kind="queue.sample") == 1


def test_a_transition_counts_only_where_the_state_changed() -> None:
    metrics = Metrics("1.0")
    metrics.decided("acme", "cost_guard", "decided", "throttle", "WARN", "THROTTLE")
    metrics.decided("acme", "cost_guard", "decided", "none", "THROTTLE", "THROTTLE")
    metrics.decided("acme", "cost_guard", "stale", "none", "THROTTLE", "THROTTLE")
    name = "governors_transitions_total"
    assert value(metrics, name, governor="cost_guard", **{"from": "WARN", "to": "THROTTLE"}) == 1
    assert value(metrics, name, governor="cost_guard", **{"from": "THROTTLE", "to": "THROTTLE"}) is None
    assert value(metrics, "governors_signal_outcomes_total", governor="cost_guard", outcome="stale") == 1
    assert value(metrics, "governors_decisions_total", governor="cost_guard", decision="none") == 1


def test_only_listed_tenants_get_series_of_their_own() -> None:
    metrics = Metrics("1.0", ["acme"])
    for tenant in ("acme", "beta"):
        metrics.decided(tenant, "cost_guard", "decided", "warn", "NORMAL", "WARN")
    text = metrics.render("")[0].decode()
    assert 'tenant="acme"' in text
    assert "beta" not in text


def test_a_histogram_takes_a_whole_batch_at_once() -> None:
    metrics = Metrics("1.0")
    metrics.answered("http", 0.004, 1_000)
    metrics.answered("http", 60.0, 1)
    bucket = "governors_decision_seconds_bucket"
    assert value(metrics, bucket, source="http", le="0.0025") == 0
    assert value(metrics, bucket, source="http", le="0.005") == 1_000
    assert value(metrics, bucket, source="http", le="30.0") == 1_000
    assert value(metrics, bucket, source="http", le="+Inf") == 1_001
    assert value(metrics, "governors_decision_seconds_sum", source="http") == pytest.approx(64.0)
    assert value(metrics, "governors_decision_seconds_count", source="http") == 1_001


def test_each_message_counts_from_its_own_publishing_and_clocks_that_disagree_as_no_time() -> None:
    metrics = Metrics("1.0")
    metrics.committed_since("pubsub", [1_000_000, 1_030_000, 1_080_000], 1_040_000)
    name = "governors_publish_to_commit_seconds"
    assert value(metrics, f"{name}_bucket", source="pubsub", le="0.0025") == 1
    assert value(metrics, f"{name}_bucket", source="pubsub", le="0.01") == 2
    assert value(metrics, f"{name}_count", source="pubsub") == 3
    assert value(metrics, f"{name}_sum", source="pubsub") == pytest.approx(0.05)


def test_a_value_on_a_bound_lies_in_its_bucket() -> None:
    registry = CollectorRegistry()
    BatchHistogram(registry, "h", "h", (1, 2)).observe(1)
    assert registry.get_sample_value("h_bucket", {"le": "1.0"}) == 1


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    Tally(registry, "t", "t")
    with pytest.raises(ValueError, match="Duplicated"):
        Tally(registry, "t", "t")


def test_each_instance_counts_for_itself() -> None:
    one, other = Metrics("1.0"), Metrics("1.0")
    one.restarted("ledger")
    assert value(one, "governors_child_restarts_total", child="ledger") == 1
    assert value(other, "governors_child_restarts_total", child="ledger") is None


def test_gauges_are_read_when_they_are_scraped() -> None:
    metrics = Metrics("1.0")
    sizes = [1]
    metrics.ledger_size.labels("0").set_function(lambda: sizes[-1])
    assert value(metrics, "governors_ledger_size", partition="0") == 1
    sizes.append(7)
    assert value(metrics, "governors_ledger_size", partition="0") == 7


@pytest.mark.parametrize(
    ("accept", "parse", "content_type"),
    [
        ("", parse_text, "text/plain"),
        ("text/plain;version=0.0.4", parse_text, "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", parse_openmetrics, "application/openmetrics"),
    ],
)
def test_the_exposition_parses_in_the_format_that_was_asked_for(accept: str, parse: object, content_type: str) -> None:
    assert callable(parse)
    metrics = Metrics("1.2.3")
    metrics.received("http", ["alert"])
    metrics.answered("http", 0.001, 5)
    metrics.http_answered("/v1/signals", "POST", 200, 0.001)
    body, content = metrics.render(accept)
    assert content.startswith(content_type)
    families = {family.name: family for family in parse(body.decode())}
    ours = [name for name in families if not name.startswith("governors_")]
    assert ours == []
    (build,) = families["governors_build_info"].samples
    assert build.labels == {"version": "1.2.3"}
    assert families["governors_process_resident_memory_bytes"].samples[0].value > 1_000_000


async def test_the_event_loops_lag_is_what_a_probe_came_late() -> None:
    loop = asyncio.get_running_loop()
    metrics = Metrics("1.0")
    probe = asyncio.create_task(metrics.watch_event_loop())
    await asyncio.sleep(0)
    until = loop.time() + LOOP_PROBE_S + 0.05
    while loop.time() < until:  # the loop is held up past the probe's due time
        pass
    for _ in range(3):  # the timer fires, its future wakes the probe, the probe observes
        await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert (value(metrics, "governors_event_loop_lag_seconds_sum") or 0) >= 0.05


async def test_a_scrape_counts_the_tasks_that_run() -> None:
    metrics = Metrics("1.0")
    before = value(metrics, "governors_asyncio_tasks") or 0
    task = asyncio.create_task(asyncio.Event().wait())
    assert value(metrics, "governors_asyncio_tasks") == before + 1 > 1
    task.cancel()
    await asyncio.wait([task])
    assert value(metrics, "governors_asyncio_tasks") == before


def test_outside_of_an_event_loop_there_are_no_tasks() -> None:
    assert value(Metrics("1.0"), "governors_asyncio_tasks") == 0
