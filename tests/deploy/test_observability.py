"""Rules, dashboards and routing, against the metrics that the code exports and by the tools of those who run them."""

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.manifests import ROOT

from governors.pubsub import _PullCounts
from governors.telemetry.metrics import Metrics
from ingest.pull_metrics import PullMetrics

FOLDER = ROOT / "deploy/observability"
RUNBOOKS = ROOT / "docs/runbooks"
NAME = re.compile(r"\bgovernors_[a-z0-9_]+")


def exported() -> dict[str, frozenset[str]]:
    """Name of each series that a worker can show -> the labels that it may have."""
    metrics = Metrics("1.2.3", ["acme"])
    metrics.registry.register(_PullCounts(PullMetrics()))
    metrics.connections.watch_certificate(lambda: 0.0)
    metrics.received("http", ["alert"])
    metrics.rejected("http", "bad_field")
    metrics.rate_limited("token", 1)
    metrics.policies_read("refused")
    metrics.unheard("http", "budget")
    metrics.truncated("http", 1)
    metrics.decided("acme", "cost_guard", "decided", "warn", "NORMAL", "WARN")
    metrics.answered("http", 0.1, 1)
    metrics.committed_since("pubsub", [0], 1)
    metrics.committed(0.1, 1)
    metrics.committed_elsewhere(0.1, 1)
    metrics.published(1)
    metrics.admission("cost_guard")
    metrics.pulled("pubsub", 1)
    metrics.acknowledged("pubsub", "ack", 1)
    metrics.dead_lettered("no_tenant")
    metrics.restarted("pubsub")
    metrics.http_answered("/v1/signals", "POST", 200, 0.1)
    metrics.connections.dropped("full")
    metrics.connections.tls_reloaded(ok=False)
    metrics.actions.attempted("log", "done")
    metrics.actions.ended("rollback", "failed")
    for name, gauge in vars(metrics).items():
        if name.startswith("ledger_"):
            gauge.labels("0").set(0)
    metrics.rate_limit_keys.labels("token").set(1)
    metrics.admission_view_age_seconds.labels("0").set(0)
    body, _ = metrics.render("text/plain")
    return {
        sample.name: frozenset(sample.labels)
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


EXPORTED = exported()


GROUPS: list[dict[str, Any]] = [
    group
    for name in ("alerts", "slo")
    for group in yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["spec"]["groups"]
]


def rules() -> Iterator[dict[str, Any]]:
    for group in GROUPS:
        yield from group["rules"]


ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def queries() -> dict[str, str]:
    """Where a query stands -> the query: all rules, and all panels of both kinds of dashboards."""
    found = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    for path in sorted((FOLDER / "dashboards").glob("*.json")):
        for number, query in enumerate(queries_in(json.loads(path.read_text()))):
            found[f"{path.name} {number}"] = query
    return found


def queries_in(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("expr", "prometheusQuery") and isinstance(value, str):
                yield value
            else:
                yield from queries_in(value)
    elif isinstance(document, list):
        for one in document:
            yield from queries_in(one)


@pytest.mark.parametrize("place", sorted(queries()))
def test_every_metric_that_is_asked_for_is_exported_with_its_labels(place: str) -> None:
    query = queries()[place]
    named = set(NAME.findall(query))
    assert named <= EXPORTED.keys(), f"not exported: {named - EXPORTED.keys()}"
    assert set(re.findall(r"governors:\w+(?::\w+)?", query)) <= RECORDED
    assert named or "governors:" in query or "up{" in query
    for name, matchers in re.findall(r"\b(governors_[a-z0-9_]+)\{([^}]*)\}", query):
        labels = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers))
        # What Prometheus adds, and what the metric itself has.
        assert labels <= EXPORTED[name] | {"namespace", "pod", "job"}, f"{name} has no such label"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_says_what_it_means_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    annotations = alert["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    page = RUNBOOKS / f"{annotations['runbook_url'].rpartition('/')[2]}.md"
    assert page.exists()
    text = page.read_text()
    assert alert["alert"] in text, "the runbook does not name the alert"
    steps = re.findall(r"^\d+\. \S", text, re.MULTILINE)
    assert len(steps) >= 3, "a runbook has steps"


def test_no_runbook_names_an_alert_that_there_is_not() -> None:
    known = {alert["alert"] for alert in ALERTS}
    for page in RUNBOOKS.glob("*.md"):
        named = set(re.findall(r"\bGovernors[A-Z]\w+", page.read_text()))
        assert named <= known, page.name


# By promtool

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, from Debian's prometheus")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(path: Path, document: Any) -> str:
    path.write_text(yaml.safe_dump(document))
    return str(path)


@promtool
def test_promtool_accepts_every_rule(tmp_path: Path) -> None:
    said = run("promtool", "check", "rules", written(tmp_path / "rules.yaml", {"groups": GROUPS}))
    assert f"{len(list(rules()))} rules found" in said


def unit_tests() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load((FOLDER / "tests/alerts_test.yaml").read_text())["tests"]
    return tests


def files_of(test: dict[str, Any], number: int, folder: Path) -> str:
    """One test in a file of its own, with the rules that it is about: all of them each minute would take a minute."""
    about = {one["alertname"] for one in test["alert_rule_test"]}
    chosen = [
        {**group, "rules": [{k: v for k, v in rule.items() if k != "annotations"} for rule in kept]}
        for group in GROUPS
        if (kept := [rule for rule in group["rules"] if rule.get("alert") in about or needed(rule, about)])
    ]
    rule_file = written(folder / f"{number}-rules.yaml", {"groups": chosen})
    return written(folder / f"{number}.yaml", {"rule_files": [rule_file], "evaluation_interval": "1m", "tests": [test]})


def needed(rule: dict[str, Any], about: set[str]) -> bool:
    """Whether one of these alerts asks for what the rule records."""
    return "record" in rule and any(rule["record"] in one["expr"] for one in ALERTS if one["alert"] in about)


@promtool
def test_promtool_can_read_every_query_of_a_dashboard(tmp_path: Path) -> None:
    panels = [query for place, query in queries().items() if ".json " in place]
    assert len(panels) > 60
    # $namespace is Grafana's to fill in.
    asked = [{"record": f"panel:{at}", "expr": query} for at, query in enumerate(panels)]
    run(
        "promtool", "check", "rules", written(tmp_path / "rules.yaml", {"groups": [{"name": "panels", "rules": asked}]})
    )


@promtool
def test_every_alert_fires_when_it_shall_and_not_before(tmp_path: Path) -> None:
    fires: set[str] = set()
    is_silent: set[str] = set()
    for test in unit_tests():
        for one in test["alert_rule_test"]:
            (fires if one["exp_alerts"] else is_silent).add(one["alertname"])
    assert fires == is_silent == {alert["alert"] for alert in ALERTS}
    run("promtool", "test", "rules", *(files_of(test, number, tmp_path) for number, test in enumerate(unit_tests())))


@promtool
def test_a_rule_that_stays_silent_is_caught(tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    test = next(test for test in unit_tests() if test["name"].startswith("GovernorsReceiptsLost"))
    test["input_series"][0]["values"] = "0x40"
    done = subprocess.run(
        ["promtool", "test", "rules", files_of(test, 0, tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "GovernorsReceiptsLost" in done.stdout + done.stderr


# Dashboards and routing


def test_dashboards_are_what_their_table_makes_of_them() -> None:
    """`make docs` writes them."""
    made = runpy.run_path(str(FOLDER / "dashboards.py"))["documents"]()
    assert set(made) == {path.name for path in (FOLDER / "dashboards").iterdir()}
    for name, text in made.items():
        assert (FOLDER / "dashboards" / name).read_text() == text, name


def test_panels_lie_beside_each_other_and_not_on_top() -> None:
    grafana = json.loads((FOLDER / "dashboards/grafana.json").read_text())
    places = [panel["gridPos"] for panel in grafana["panels"]]
    assert len({panel["id"] for panel in grafana["panels"]}) == len(places)
    taken: set[tuple[int, int]] = set()
    for place in places:
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for query in queries_in(grafana):
        for name in re.findall(r"governors[_:][a-z0-9_:]+", query):
            assert f'{name}{{namespace=~"$namespace"' in query


amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="needs amtool, from Debian's prometheus-alertmanager"
)
ROUTING = str(FOLDER / "alertmanager.yaml")


@amtool
def test_amtool_accepts_the_routing() -> None:
    assert "SUCCESS" in run("amtool", "check-config", ROUTING)


@amtool
@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (("alertname=GovernorsDown", "severity=page", "namespace=governors"), {"pagerduty", "slack"}),
        (("alertname=GovernorsDown", "severity=page", "namespace=governors-staging"), {"slack"}),
        (("alertname=GovernorsDiskSlow", "severity=ticket", "namespace=governors"), {"slack"}),
        (("alertname=SomethingElse", "severity=page"), {"slack"}),
    ],
)
def test_pages_of_production_wake_somebody_and_nothing_else_does(labels: tuple[str, ...], receivers: set[str]) -> None:
    said = run("amtool", "config", "routes", "test", f"--config.file={ROUTING}", *labels)
    assert set(said.strip().split(",")) == receivers


def test_what_is_silenced_for_another_alert_exists() -> None:
    known = {alert["alert"] for alert in ALERTS}
    for rule in yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())["inhibit_rules"]:
        [source] = re.findall(r'alertname = "(\w+)"', rule["source_matchers"][0])
        assert source in known
        for pattern in re.findall(r'alertname =?~? ?"?([^"]+)"', rule["target_matchers"][0]):
            assert any(re.fullmatch(pattern.lstrip("~ "), name) for name in known), pattern


def test_no_secret_stands_in_the_routing() -> None:
    for receiver in yaml.safe_load((FOLDER / "alertmanager.yaml").read_text())["receivers"]:
        for key in ("pagerduty_configs", "slack_configs"):
            for one in receiver.get(key, []):
                assert not {"routing_key", "service_key", "api_url", "http_config"} & one.keys()
