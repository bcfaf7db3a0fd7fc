"""Looks at figures: of a Prometheus where there is one, else of the service since its start; and of a load test."""

import json
from typing import Any, Final

from governors.checklist.looks_service import metrics, metrics_of_each
from governors.checklist.place import Place
from governors.checklist.verdict import CannotLookError, Verdict, failed, held, passed
from governors.telemetry.scrape import Series, total

ERRORS_MAX: Final = 0.001
P99_S_MAX: Final = 0.2
ANSWER_S_MAX: Final = 0.1
MEMORY_MAX: Final = 600e6
CPU_MAX: Final = 0.7
UNCOMMITTED_S_MAX: Final = 600.0
WATCHED_S: Final = 5.0
DECISION: Final = "governors_decision_seconds"


def quantile(series: list[Series], name: str, share: float) -> float | None:
    """The upper bound of the bucket in which a histogram's quantile lies; None where nothing was observed."""
    counts: dict[float, float] = {}
    for one in series:
        if one.name == f"{name}_bucket":
            bound = float(one.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + one.value
    bounds = sorted(counts)
    if not bounds or not counts[bounds[-1]]:
        return None
    return next(bound for bound in bounds if counts[bound] >= share * counts[bounds[-1]])


def _worst(place: Place, expr: str) -> float:
    found = [value for _, value in place.query(expr)]
    if not found:
        raise CannotLookError(f"Prometheus has no series for {expr}")
    return max(found)


# 2.5


def _load(place: Place) -> dict[str, Any]:
    """The report of a load test, made just before (`--load`)."""
    if place.load is None:
        raise CannotLookError("no load was sent: --load sends it (60 s), or --load-report names the JSON of a loadtest")
    return place.load


def load_tenants(place: Place) -> Verdict:
    """How many tenants it was."""
    report = _load(place)
    return held(report["tenants"] >= 100, f"{report['tenants']} tenants")


def load_rate(place: Place) -> Verdict:
    """What was sent and answered, and that nothing was lost."""
    report = _load(place)
    wanted = report["limits"]["rate_per_s"]
    ok = report["rate_per_s"] >= 1_000 and report["reached_per_s"] >= wanted and report["lost"] == 0
    return held(
        ok, f"{report['reached_per_s']:,} a second answered, {report['lost']} lost, {report['duplicates']} twice"
    )


def load_p99(place: Place) -> Verdict:
    """What answers took."""
    report = _load(place)
    return held(report["p99_ms"] <= 100, f"p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms")


def load_transitions(place: Place) -> Verdict:
    """That machines changed their states."""
    states = _load(place)["states"]
    moved = [governor for governor, seen in states.items() if len(seen) > 1]
    return held(bool(moved), "; ".join(f"{governor}: {', '.join(seen)}" for governor, seen in states.items()))


def load_memory(place: Place) -> Verdict:
    """What the service held before and after."""
    report = _load(place)
    if report["rss_mb_start"] is None:
        raise CannotLookError("the token may not read /metrics")
    grown = report["rss_mb_end"] - report["rss_mb_start"]
    limits = report["limits"]
    ok = report["rss_mb_end"] <= limits["rss_mb"] and grown <= limits["rss_growth_mb"]
    return held(ok, f"{report['rss_mb_end']} MB at the end, {grown:+.0f} MB over {report['seconds']:g} s")


# 3


def staging_passed(place: Place) -> Verdict:
    """By the report of phase 2 on staging."""
    if place.staging_report is None:
        raise CannotLookError("no report of staging was named: --staging-report (the JSON of phase 2)")
    report = json.loads(place.staging_report.read_text(encoding="utf-8"))
    if (report["phase"], report["env"]) != (2, "staging"):
        return failed(f"the report is of phase {report['phase']} on {report['env']}")
    counts = report["counts"]
    return held(
        report["ok"], f"of {report['at']}: {counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped"
    )


def answers_fast(place: Place) -> Verdict:
    """Decisions since the start."""
    found = quantile(metrics(place), DECISION, 0.99)
    if found is None:
        raise CannotLookError("nothing was decided since the start")
    return held(found <= ANSWER_S_MAX, f"99 of 100 signals were decided within {found:g} s")


def metrics_flow(place: Place) -> Verdict:
    """That somebody scrapes."""
    if place.prometheus is None:
        seen = len(metrics(place))
        raise CannotLookError(f"/metrics shows {seen} series; whether anybody scrapes them, --prometheus would say")
    found = place.query('up{job=~"(.+/)?governors"}')
    up = sum(value == 1 for _, value in found)
    return held(bool(found) and up == len(found), f"{up} of {len(found)} are scraped")


def _grown(place: Place, name: str, **labels: str) -> float:
    """By how much a counter has grown: over five minutes by Prometheus, else while watched."""
    if place.prometheus is not None:
        matchers = ",".join(f'{label}="{value}"' for label, value in labels.items())
        return sum(value for _, value in place.query(f"sum(increase({name}{{{matchers}}}[5m]))"))
    if not place.watched:
        place.watched.append(metrics(place))
        place.sleep(WATCHED_S)
        place.watched.append(metrics(place))
    before, after = place.watched
    return total(after, name, **labels) - total(before, name, **labels)


def signals_flow(place: Place) -> Verdict:
    """That some come now."""
    grown = _grown(place, "governors_signals_received_total")
    return held(grown > 0, f"{grown:,.0f} signals came {_while(place)}")


def governors_decide(place: Place) -> Verdict:
    """That they are decided."""
    grown = _grown(place, "governors_signal_outcomes_total", outcome="decided")
    return held(grown > 0, f"{grown:,.0f} signals were decided {_while(place)}")


def actions_happen(place: Place) -> Verdict:
    """That those that ended went well. A quiet hour has none."""
    series = metrics(place)
    done = total(series, "governors_action_outcomes_total", outcome="ok")
    bad = total(series, "governors_action_outcomes_total", outcome="failed")
    if not done + bad:
        raise CannotLookError("no action has ended since the start: nothing had to be done")
    return held(not bad, f"{done:,.0f} done, {bad:,.0f} failed since the start")


def receipts_committed(place: Place) -> Verdict:
    """That the store has them, and how long the oldest waits."""
    series = metrics(place)
    waiting_s = [one.value for one in series if one.name == "governors_ledger_uncommitted_seconds"]
    if not waiting_s:
        raise CannotLookError("the services that were named have no partition: name each pod with --url")
    waits_s = max(waiting_s)
    size, committed = total(series, "governors_ledger_size"), total(series, "governors_ledger_committed_size")
    ok = waits_s < UNCOMMITTED_S_MAX and committed > 0
    return held(
        ok, f"{committed:,.0f} of {size:,.0f} receipts are in the store; the oldest other waits {waits_s:.0f} s"
    )


def _while(place: Place) -> str:
    return "in five minutes" if place.prometheus is not None else f"in {WATCHED_S:g} s"


def objectives_active(place: Place) -> Verdict:
    """That the recording rules record."""
    found = place.query("governors:requests_bad:ratio_rate5m")
    return held(bool(found), f"{len(found)} series of governors:requests_bad:ratio_rate5m")


# 4.1


def error_rate(place: Place) -> Verdict:
    """5xx of all requests, but for the readiness probes' own."""
    if place.prometheus is not None:
        bad = 'sum(increase(governors_http_requests_total{status=~"5..",route!="/readyz"}[24h]))'
        every = 'sum(increase(governors_http_requests_total{route!="/readyz"}[24h]))'
        worst = _worst(place, f"({bad} or vector(0)) / {every}")
        return held(worst < ERRORS_MAX, f"{worst:.4%} over 24 hours")
    series = [
        one
        for one in metrics(place)
        if one.name == "governors_http_requests_total" and one.labels["route"] != "/readyz"
    ]
    every_one = sum(one.value for one in series)
    if not every_one:
        raise CannotLookError("nobody has asked anything since the start")
    failed_ones = sum(one.value for one in series if one.labels["status"].startswith("5"))
    return held(
        failed_ones / every_one < ERRORS_MAX, f"{failed_ones:,.0f} of {every_one:,.0f} requests since the start"
    )


def p99(place: Place) -> Verdict:
    """From received to decided."""
    if place.prometheus is not None:
        worst = _worst(place, f"histogram_quantile(0.99, sum by (le) (rate({DECISION}_bucket[24h])))")
        return held(worst < P99_S_MAX, f"{worst:.3f} s over 24 hours")
    found = quantile(metrics(place), DECISION, 0.99)
    if found is None:
        raise CannotLookError("nothing was decided since the start")
    return held(found < P99_S_MAX, f"at most {found:g} s since the start")


def memory(place: Place) -> Verdict:
    """What the process holds."""
    name = "governors_process_resident_memory_bytes"
    if place.prometheus is not None:
        worst = _worst(place, f"max_over_time({name}[24h])")
        return held(worst < MEMORY_MAX, f"at most {worst / 1e6:.0f} MB in 24 hours")
    now = max(total(series, name) for series in metrics_of_each(place))
    return held(0 < now < MEMORY_MAX, f"{now / 1e6:.0f} MB now")


def cpu(place: Place) -> Verdict:
    """Of the one core that decides."""
    name = "governors_process_cpu_seconds_total"
    if place.prometheus is not None:
        worst = _worst(place, f"quantile_over_time(0.95, rate({name}[5m])[24h:5m])")
        return held(worst < CPU_MAX, f"p95 of a day is {worst:.0%} of a core")
    now_s = place.now_us() / 1e6
    used = max(
        total(series, name) / max(1.0, now_s - total(series, "governors_process_start_time_seconds"))
        for series in metrics_of_each(place)
    )
    return held(used < CPU_MAX, f"{used:.0%} of a core on average since the start")


def batch_sizes(place: Place) -> Verdict:
    """How full pulls are: the loop sizes them by itself."""
    series = metrics(place)
    count = total(series, "governors_pull_batch_size_count")
    if not count:
        raise CannotLookError("no pull has brought anything since the start")
    return passed(f"{total(series, 'governors_pull_batch_size_sum') / count:.1f} messages a pull")
