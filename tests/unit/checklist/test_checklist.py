"""The deployment checklist: that every line is looked at, and that no look passes what is not there or not right."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.manifests import ROOT

from governors.checklist import looks_deploy, looks_figures, looks_project, looks_service
from governors.checklist.place import Place
from governors.checklist.plan import SECTIONS, Answered, Line, answer, lines_of
from governors.checklist.report import ROLES, markdown, plain
from governors.checklist.verdict import CannotLookError, Status, failed, passed, to_sign

NOW_US = 1_795_348_800_000_000
LINES = [line for phase in SECTIONS for line in lines_of(phase)]
LOOKED_AT = [line for line in LINES if line.look is not None]
Answer = Callable[[httpx.Request], httpx.Response]


def fails(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess(command, 1, "", "no configuration")


def client(answer: Answer, url: str = "http://governors") -> httpx.Client:
    return httpx.Client(base_url=url, transport=httpx.MockTransport(answer))


def test_every_section_that_was_asked_for_is_there() -> None:
    asked = {"1.1", "1.2", "1.3", "1.4", "1.5", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3", "3.4"}
    asked |= {"3.5", "4.1", "4.2", "4.3", "4.4", "Risks"}
    assert {line.section for line in LINES} == asked
    assert len({line.name for line in LINES}) == len(LINES)
    assert all(line.hint for line in LINES if line.look is None), "who signs has to know what"


@pytest.mark.parametrize("line", LOOKED_AT, ids=lambda line: line.name)
def test_where_nothing_can_be_looked_at_nothing_passes(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    verdict = answer(line, Place(env="production", checkout=tmp_path, run=fails))
    assert verdict.status is Status.SKIP, verdict
    assert verdict.seen, "it has to say what it would need"


class Broken:
    """A world in which everything is wrong."""

    def __init__(self, folder: Path) -> None:
        (folder / "docs/runbooks").mkdir(parents=True)
        (folder / "deploy/observability").mkdir(parents=True)
        (folder / "docs/runbooks/rollback.md").write_text("# Rollback\n\nAsk somebody.\n")
        (folder / "docs/runbooks/fenced.md").write_text("# Fenced\n")
        (folder / "docs/machines.md").write_text("# Of an older version\n")
        (folder / "CHANGELOG.md").write_text("# Changelog\n")
        (folder / "pyproject.toml").write_text('version = "9.9.9"\n')
        url = "https://runbooks.example.com/governors/nowhere"
        alert = {"alert": "A", "expr": "vector(1)", "annotations": {"runbook_url": url}}
        rules = {"spec": {"groups": [{"name": "g", "rules": [alert]}]}}
        for name in ("alerts", "slo"):
            (folder / f"deploy/observability/{name}.yaml").write_text(yaml.safe_dump(rules))
        self.folder = folder
        self.asked = 0
        (folder / "staging.json").write_text(
            json.dumps(
                {"phase": 2, "env": "staging", "ok": False, "at": "", "counts": {"pass": 1, "fail": 1, "skip": 0}}
            )
        )

    def place(self) -> Place:
        load = {
            "tenants": 1, "rate_per_s": 10.0, "reached_per_s": 1.0, "lost": 3, "duplicates": 1, "p50_ms": 1.0,
            "p99_ms": 500.0, "states": {"cost_guard": ["NORMAL"]}, "rss_mb_start": 100.0, "rss_mb_end": 900.0,
            "seconds": 60.0, "limits": {"rate_per_s": 980.0, "rss_mb": 600.0, "rss_growth_mb": 100.0},
        }  # fmt: skip
        return Place(
            env="production",
            checkout=self.folder,
            services=(client(self.service), client(self.service)),
            google=client(self.google, "https://google"),
            project="some-project",
            vkey="no key",
            staging_report=self.folder / "staging.json",
            load=load,
            run=self.run,
            now_us=lambda: NOW_US,
        )

    def service(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/metrics":
            return httpx.Response(200, text=BAD_METRICS)
        if path == "/v1/cluster":
            self.asked += 1
            return httpx.Response(200, json=self.cluster())
        if path == "/v1/push/pubsub":
            return httpx.Response(200, json={})
        if path == "/v1/signals":
            result = {"id": "other", "governor": "none", "outcome": "rejected", "state": "", "receipt": "0:1"}
            return httpx.Response(200, json={"results": [result]})
        if path.startswith("/v1/tenants/"):
            return httpx.Response(200, json={})
        if path.endswith("/proof"):
            return httpx.Response(200, text="no proof")
        if path.startswith("/v1/receipts/"):
            return httpx.Response(200, json={"receipt": {"event_id": "somebody else's"}})
        return httpx.Response(503, json={"missing": ["ledger"]})

    def cluster(self) -> dict[str, Any]:
        """Each time another owner, which nobody reaches."""
        own, other = f"w-{self.asked}", f"v-{self.asked}"
        url = "http://127.0.0.1:1"
        return {
            "worker": own,
            "workers": [
                {"worker": own, "url": url, "state": "waiting", "heard_s_ago": 0.1},
                {"worker": other, "url": url, "state": "owner", "heard_s_ago": 0.1},
            ],
            "partitions": [{"partition": 0, "owner": other, "epoch": 1}],
        }

    def google(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(":testIamPermissions"):
            return httpx.Response(200, json={"permissions": ["storage.buckets.delete"]})
        return httpx.Response(200, json={"services": [], "dashboards": [], "entries": [], "billingEnabled": False})

    def run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        words = list(command)
        out = ""
        if words[:2] == ["kubectl", "kustomize"]:
            out = BAD_MANIFESTS
        elif "current-context" in words:
            out = "some-cluster"
        elif "nodes" in words:
            out = json.dumps({"items": [{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}]})
        elif "pods" in words:
            out = json.dumps({"items": [SLOW_POD]})
        elif "statefulset" in words:
            out = json.dumps(
                {
                    "metadata": {"generation": 2},
                    "spec": {"replicas": 1, "template": {"spec": {"containers": [{"image": "other"}]}}},
                    "status": {"observedGeneration": 1},
                }
            )
        elif "logs" in words:
            out = '{"severity":"ERROR","message":"it broke"}\n'
        elif words[0] == "promtool":
            return subprocess.CompletedProcess(words, 1, "", "bad rule")
        elif "apply" in words:
            return subprocess.CompletedProcess(words, 1, "", "forbidden")
        return subprocess.CompletedProcess(words, 0, out, "")


SLOW_POD = {
    "status": {
        "containerStatuses": [{"state": {"running": {"startedAt": "2026-11-22T12:00:00Z"}}}],
        "conditions": [{"type": "Ready", "lastTransitionTime": "2026-11-22T12:01:00Z"}],
    }
}
BAD_METRICS = """\
governors_http_requests_total{route="/v1/signals",status="503"} 10.0
governors_decision_seconds_bucket{le="0.1"} 1.0
governors_decision_seconds_bucket{le="0.25"} 1.0
governors_decision_seconds_bucket{le="+Inf"} 100.0
governors_process_resident_memory_bytes 9e+08
governors_process_cpu_seconds_total 1e+09
governors_process_start_time_seconds 1.7e+09
governors_ledger_uncommitted_seconds{partition="0"} 900.0
governors_ledger_size{partition="0"} 10.0
governors_ledger_committed_size{partition="0"} 0.0
governors_pull_connected 0.0
governors_pull_received_total 0.0
governors_action_outcomes_total{outcome="failed"} 1.0
governors_pull_batch_size_count 0.0
"""


BAD_MANIFESTS = """\
kind: Namespace
metadata: {name: governors, labels: {}}
---
kind: ServiceAccount
metadata: {name: governors, annotations: {iam.gke.io/gcp-service-account: x@PROJECT}}
---
kind: StatefulSet
metadata: {name: governors}
spec:
  template:
    spec:
      containers:
        - image: REGION-docker.pkg.dev/PROJECT/governors:latest
          resources: {requests: {cpu: 1}, limits: {}}
---
kind: NetworkPolicy
metadata: {name: open}
spec: {podSelector: {matchLabels: {a: b}}}
---
kind: ConfigMap
metadata: {name: governors-config}
data:
  governors.yaml: |
    log: {format: console}
    pubsub: {project: my-project, subscription: s}
    store: {url: gs://b/p}
---
kind: ConfigMap
metadata: {name: governors-env}
data: {GOVERNORS_STORE__URL: gs://PROJECT/log}
---
kind: Secret
metadata: {name: open-secret}
data: {key.json: x}
---
kind: Certificate
metadata: {name: governors-tls}
spec: {renewBefore: 24h}
---
kind: CronJob
metadata: {name: governors-nightly-restart}
spec: {suspend: false, schedule: 0 2 * * *}
"""


# What cannot be wrong where it can be seen at all, or needs what a mock of HTTP has not.
NOT_WRONG = {"1.5.4", "2.2.3", "3.3.2", "3.5.4", "4.4.3"}


@pytest.mark.parametrize("line", [line for line in LOOKED_AT if line.name not in NOT_WRONG], ids=lambda line: line.name)
def test_where_everything_is_wrong_every_line_fails(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    verdict = answer(line, Broken(tmp_path).place())
    assert verdict.status is Status.FAIL, verdict
    assert verdict.seen


def test_a_key_in_a_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key.json"
    key.write_text('{"type": "service_account"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    assert looks_project.no_key_file(Place(env="staging", checkout=ROOT)).status is Status.FAIL
    key.write_text('{"type": "external_account"}')
    assert looks_project.no_key_file(Place(env="staging", checkout=ROOT)).status is Status.PASS


def test_a_project_that_is_as_it_should_be_passes() -> None:
    def google(request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        if "billingInfo" in url:
            return httpx.Response(200, json={"billingEnabled": True, "billingAccountName": "billingAccounts/1"})
        if "services:batchGet" in url:
            names = request.url.params.get_list("names")
            return httpx.Response(200, json={"services": [{"name": name, "state": "ENABLED"} for name in names]})
        if "dashboards" in url:
            return httpx.Response(200, json={"dashboards": [{"displayName": "Governors"}]})
        assert url.endswith("entries:list")
        return httpx.Response(200, json={"entries": [{"timestamp": "2026-11-22T12:00:00Z"}]})

    place = Place(env="staging", checkout=ROOT, google=client(google, "https://google"), project="some-project")
    for look in (looks_project.billing, looks_project.apis, looks_project.dashboards, looks_project.logs_flow):
        assert look(place).status is Status.PASS


def test_this_checkout_is_as_it_should_be_but_for_what_names_the_project() -> None:
    place = Place(env="production", checkout=ROOT)
    try:
        assert place.manifests
    except CannotLookError as error:
        pytest.skip(str(error))
    for look in (
        looks_deploy.network_policies, looks_deploy.pod_security, looks_deploy.structured_logs,
        looks_deploy.metrics_are_collected, looks_deploy.alerting_rules, looks_deploy.resources,
        looks_deploy.rollback_plan, looks_deploy.manual_restart, looks_deploy.nightly_restart,
        looks_deploy.dead_letters, looks_deploy.renewed_early, looks_deploy.runbooks_exist, looks_deploy.diagrams,
    ):  # fmt: skip
        verdict = look(place)
        assert verdict.status is Status.PASS, (look.__name__, verdict)
    for look in (looks_deploy.workload_identity, looks_deploy.image_is_named, looks_deploy.configuration):
        assert "PROJECT" in look(place).seen


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), (BAD_METRICS, float("inf")), (BAD_METRICS.replace('+Inf"} 100', '+Inf"} 1'), 0.1)],
)
def test_a_quantile_is_the_bound_of_its_bucket(text: str, expected: float | None) -> None:
    from governors.telemetry.scrape import series_of  # noqa: PLC0415 - for this alone

    assert looks_figures.quantile(list(series_of(text)), "governors_decision_seconds", 0.99) == expected


def test_a_prometheus_is_asked_where_there_is_one() -> None:
    asked = []

    def prometheus(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["query"])
        return httpx.Response(200, json={"data": {"result": [{"metric": {}, "value": [0, "0.0005"]}]}})

    place = Place(env="staging", checkout=ROOT, prometheus=client(prometheus))
    assert looks_figures.error_rate(place).status is Status.PASS
    assert looks_figures.p99(place).status is Status.PASS
    assert looks_figures.signals_flow(place).status is Status.PASS
    assert all("governors_" in query for query in asked)


def test_a_token_without_rights_skips_and_says_which_it_would_need() -> None:
    place = Place(env="staging", checkout=ROOT, services=(client(lambda _: httpx.Response(403)),))
    for look, role in ((looks_figures.memory, "read"), (looks_service.cost_guard_decides, "admin")):
        with pytest.raises(CannotLookError, match=role):
            look(place)


def seen_by(worker: str, owners: Sequence[str | None]) -> httpx.Client:
    """A pod of two, and who has each partition as it sees it."""

    def service(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/cluster":
            return httpx.Response(200, json={"tenants": []})
        workers = [{"worker": name, "url": "", "state": "owner" if name in owners else "waiting"} for name in "ab"]
        partitions = [{"partition": number, "owner": owner, "epoch": 1} for number, owner in enumerate(owners)]
        return httpx.Response(200, json={"worker": worker, "workers": workers, "partitions": partitions})

    return client(service)


@pytest.mark.parametrize(
    ("views", "status", "seen"),
    [
        ({"a": "aba", "b": "aba"}, Status.PASS, "2 asked: a (has 0, 2), b (has 1)"),
        ({"a": "aaa", "b": "aaa"}, Status.PASS, "2 asked: a (has 0, 1, 2), b (waiting)"),
        ({"a": "aba", "b": "abb"}, Status.FAIL, "do not agree"),
        ({"a": ["a", None, "b"], "b": ["a", None, "b"]}, Status.FAIL, "nobody has partition 1"),
        ({"a": "abz", "b": "abz"}, Status.FAIL, "z has partitions and is no member"),
    ],
)
def test_pods_agree_on_one_owner_for_each_partition(
    views: dict[str, Sequence[str | None]], status: Status, seen: str
) -> None:
    services = tuple(seen_by(worker, owners) for worker, owners in views.items())
    verdict = looks_service.members_agree(Place(env="staging", checkout=ROOT, services=services))
    assert verdict.status is status
    assert seen in verdict.seen


def test_a_pod_that_has_less_than_all_partitions_has_to_answer_for_all() -> None:
    both = Place(env="staging", checkout=ROOT, services=(seen_by("a", "aba"), seen_by("b", "aba")))
    assert looks_service.peers(both).seen.startswith("2 pods")
    alone = Place(env="staging", checkout=ROOT, services=(seen_by("a", "aaa"),))
    with pytest.raises(CannotLookError, match="name each pod"):
        looks_service.peers(alone)


def test_figures_are_those_of_all_pods_together() -> None:
    def pod(partition: int, waits_s: float, rss: float) -> httpx.Client:
        text = (
            f'governors_ledger_uncommitted_seconds{{partition="{partition}"}} {waits_s}\n'
            f'governors_ledger_size{{partition="{partition}"}} 10.0\n'
            f'governors_ledger_committed_size{{partition="{partition}"}} 8.0\n'
            f"governors_process_resident_memory_bytes {rss}\n"
        )
        return client(lambda _: httpx.Response(200, text=text))

    place = Place(env="staging", checkout=ROOT, services=(pod(0, 400.0, 4e8), pod(1, 300.0, 5e8)))
    committed = looks_figures.receipts_committed(place)
    assert committed == passed("16 of 20 receipts are in the store; the oldest other waits 400 s")
    assert looks_figures.memory(place) == passed("500 MB now"), "each pod has its own"
    waiting = Place(env="staging", checkout=ROOT, services=(client(lambda _: httpx.Response(200, text="")),))
    with pytest.raises(CannotLookError, match="have no partition"):
        looks_figures.receipts_committed(waiting)


def test_the_report_has_every_line_and_room_to_sign() -> None:
    verdicts = {Status.PASS: passed("seen"), Status.FAIL: failed("a | b"), Status.SIGN: to_sign("who")}
    answered = [Answered(line, list(verdicts.values())[number % 3]) for number, line in enumerate(lines_of(3))]
    report = plain(answered, 3, "production", "2026-11-22T12:00:00Z", "1.2.3")
    assert not report["ok"]
    assert sum(report["counts"].values()) == len(answered) == len(report["lines"])
    text = markdown(report)
    for line, _ in answered:
        assert f"| {line.name} {line.text} |" in text
    assert "a \\| b" in text
    for role in ROLES:
        assert role in text


def test_a_look_that_goes_wrong_is_no_pass() -> None:
    def raises(_: Place) -> Any:
        raise KeyError("members")

    line = Line("9.9", "9.9 Nothing", 1, "nothing", raises)
    verdict = answer(line, Place(env="staging", checkout=ROOT))
    assert verdict.status is Status.FAIL
    assert "KeyError" in verdict.seen
