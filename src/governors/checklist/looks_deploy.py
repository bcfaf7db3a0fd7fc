"""Looks at what is deployed: the checkout's manifests, rules and documents, and the cluster where there is one."""

import importlib.metadata
import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import yaml

from governors.checklist.place import Place
from governors.checklist.verdict import CannotLookError, Verdict, failed, held, passed
from governors.machines.catalog import BY_NAME
from governors.machines.diagram import document
from governors.settings import Effective, load

PLACEHOLDER: Final = re.compile(r"\b(PROJECT|REGION)\b")
NODES_MIN: Final = 3
START_S_MAX: Final = 5.0
STEP: Final = re.compile(r"^\d+\. \S", re.MULTILINE)
_PROFILED: Final = {name: one.policy for name, one in BY_NAME.items()}


def container_of(place: Place) -> dict[str, Any]:
    """The pod's one container, as it is deployed."""
    [container] = place.one("StatefulSet", "governors")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def effective(place: Place) -> Effective:
    """The configuration: of `--config`, with this environment's variables, or what the pods start with."""
    if place.config is not None:
        return load(place.config, os.environ, {}, _PROFILED)
    text = place.one("ConfigMap", "governors-config")["data"]["governors.yaml"]
    env = place.one("ConfigMap", "governors-env")["data"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "governors.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, env, {}, _PROFILED)


def groups_of(place: Place) -> list[dict[str, Any]]:
    """All groups of rules in the checkout."""
    found = []
    for name in ("alerts", "slo"):
        read = yaml.safe_load(place.file(f"deploy/observability/{name}.yaml").read_text(encoding="utf-8"))
        found += read["spec"]["groups"]
    return found


def alerts_of(place: Place) -> list[dict[str, Any]]:
    """All alerts of the checkout."""
    return [rule for group in groups_of(place) for rule in group["rules"] if "alert" in rule]


# 1.2


def nodes(place: Place) -> Verdict:
    """Nodes of the cluster that are ready."""
    found = place.kubectl_json("get", "nodes")["items"]
    ready = [
        node
        for node in found
        if any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])
    ]
    return held(len(ready) >= NODES_MIN, f"{len(ready)} of {len(found)} nodes are ready")


def network_policies(place: Place) -> Verdict:
    """That everything is denied, and then something allowed."""
    policies = place.all("NetworkPolicy")
    denies = [one for one in policies if one["spec"]["podSelector"] == {} and not one["spec"].get("egress")]
    if not denies:
        return failed("no policy denies what is not allowed")
    own = place.one("NetworkPolicy", "governors")["spec"]
    both = set(own["policyTypes"]) == {"Ingress", "Egress"}
    return held(
        both, f"{len(policies)} policies, one of which denies all; the cluster has to enforce them (Dataplane V2)"
    )


def workload_identity(place: Place) -> Verdict:
    """Which Google account the pods have."""
    account = place.one("ServiceAccount", "governors")["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
    return held(not PLACEHOLDER.search(account), f"pods are {account}")


def pod_security(place: Place) -> Verdict:
    """The namespace's profile."""
    [namespace] = place.all("Namespace")
    profile = namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
    return held(profile == "restricted", f"namespace {namespace['metadata']['name']} enforces {profile}")


# 1.3


def structured_logs(place: Place) -> Verdict:
    """That entries are JSON where an agent reads them."""
    form = effective(place).settings.log.format
    # `auto` is JSON wherever there is no terminal.
    return held(form in ("json", "auto"), f"log.format is {form}")


def metrics_are_collected(place: Place) -> Verdict:
    """Who scrapes, and how they show who they are."""
    found = [one for kind in ("PodMonitoring", "PodMonitor") for one in place.all(kind)]
    if not found:
        return failed("the overlay has neither a PodMonitoring nor a PodMonitor")
    spec = found[0]["spec"]
    [endpoint] = spec.get("endpoints") or spec.get("podMetricsEndpoints")
    ok = endpoint["path"] == "/metrics" and "authorization" in endpoint
    return held(ok, f"{found[0]['kind']} asks {endpoint['path']} every {endpoint['interval']}")


def alerting_rules(place: Place) -> Verdict:
    """That what was asked for has an alert, and that Prometheus can read them all."""
    alerts = alerts_of(place)
    text = " ".join(one["expr"] for one in alerts)
    wanted = {
        "processor": "governors_process_cpu_seconds_total",
        "memory": "governors_process_resident_memory_bytes",
        "error rate": "governors:requests_bad",
    }
    if missing := [name for name, metric in wanted.items() if metric not in text]:
        return failed(f"no alert on {', '.join(missing)}")
    if shutil.which("promtool") is None:
        return passed(f"{len(alerts)} alerts; promtool is not here to check them")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rules.yaml"
        path.write_text(yaml.safe_dump({"groups": groups_of(place)}), encoding="utf-8")
        done = place.run(["promtool", "check", "rules", str(path)])
    said = (done.stdout + done.stderr).strip().splitlines()
    return held(done.returncode == 0, f"{len(alerts)} alerts; promtool: {said[-1].strip() if said else 'nothing'}")


# 1.4


def release_is_one(place: Place) -> Verdict:
    """That this command line, the checkout and the image are of one version."""
    own = importlib.metadata.version("governors")
    stated = re.search(r'^version = "(.+)"$', place.file("pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    of_checkout = stated[1] if stated else "unknown"
    return held(own == of_checkout, f"governors {own}; the checkout is {of_checkout}")


def image_is_named(place: Place) -> Verdict:
    """By a digest, or by the version."""
    image = container_of(place)["image"]
    if PLACEHOLDER.search(image):
        return failed(f"the overlay still has placeholders: {image}")
    tag = image.rpartition(":")[2]
    ok = "@sha256:" in image or tag == importlib.metadata.version("governors")
    return held(ok, image)


def release_notes(place: Place) -> Verdict:
    """A section of the changelog for this version."""
    version = importlib.metadata.version("governors")
    text = place.file("CHANGELOG.md").read_text(encoding="utf-8")
    if re.search(rf"^## \[{re.escape(version)}\]", text, re.MULTILINE):
        return passed(f"CHANGELOG.md has {version}")
    return failed(f"CHANGELOG.md has no section for {version}: what is unreleased has to be given its number")


# 1.5


def configuration(place: Place) -> Verdict:
    """That the service would start with it."""
    found = effective(place)
    said = [row.key for row in found.rows if row.origin != "default"]
    values = [str(msgspec.to_builtins(row.value, enc_hook=str)) for row in found.rows if row.origin != "default"]
    if any(PLACEHOLDER.search(value) for value in values):
        return failed("the configuration still has placeholders: PROJECT or REGION")
    return passed(f"{len(found.rows)} settings, {len(said)} of which are not defaults: {', '.join(said)}")


def resources(place: Place) -> Verdict:
    """Requests, limits, and time to stop."""
    container = container_of(place)
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    missing = {"cpu", "memory"} - requests.keys() | {"cpu", "memory"} - limits.keys()
    if missing:
        return failed(f"no request or limit of {', '.join(sorted(missing))}")
    grace = place.one("StatefulSet", "governors")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    return passed(f"asks for {requests['cpu']} and {requests['memory']}, at most {limits['memory']}; {grace} s to stop")


def secrets(place: Place) -> Verdict:
    """That no secret stands in a manifest, and that files of a configuration here are closed to others."""
    if place.config is not None:
        settings = effective(place).settings
        files = [settings.ledger.signing_key, settings.tls.key if settings.tls else None]
        there = [path for path in files if path is not None]
        if gone := [path for path in there if not path.exists()]:
            raise CannotLookError(f"not on this machine: {gone[0]}")
        open_ = [str(path) for path in there if path.stat().st_mode & 0o077]
        return held(
            not open_, f"open to others: {', '.join(open_)}" if open_ else f"{len(there)} files, closed to others"
        )
    if inline := place.all("Secret"):
        return failed(f"a Secret stands in the manifests: {inline[0]['metadata']['name']}")
    listed = place.one("SecretProviderClass", "governors-secrets")["spec"]["parameters"]["secrets"]
    names = re.findall(r"resourceName: (\S+)", listed)
    return held(not PLACEHOLDER.search(listed), f"from Secret Manager: {', '.join(names)}")


# 2.1, 3.1, 3.2


def applied(place: Place) -> Verdict:
    """That the cluster has what the overlay says."""
    found = place.kubectl_json("get", "statefulset", "governors")
    image = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return held(image == container_of(place)["image"], f"the cluster runs {image}")


def stateful_set_ready(place: Place) -> Verdict:
    """That all its pods are ready and of the newest template."""
    found = place.kubectl_json("get", "statefulset", "governors")
    status, wanted = found["status"], found["spec"]["replicas"]
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    ok = ready == updated == wanted and status.get("observedGeneration") == found["metadata"]["generation"]
    return held(ok, f"{ready} of {wanted} ready, {updated} of the newest revision")


def clean_logs(place: Place) -> Verdict:
    """Errors of the last hour."""
    logs = place.kubectl("logs", "--selector=app.kubernetes.io/name=governors", "--since=1h", "--tail=-1")
    bad = [line for line in logs.splitlines() if '"severity":"ERROR"' in line or '"severity":"CRITICAL"' in line]
    if not bad:
        return passed(f"{len(logs.splitlines())} lines in the last hour, no error")
    return failed(f"{len(bad)} errors in the last hour, the last: {json.loads(bad[-1]).get('message')}")


def start_time(place: Place) -> Verdict:
    """From the container's start to ready, by the cluster's own times."""
    pods = place.kubectl_json("get", "pods", "--selector=app.kubernetes.io/name=governors")["items"]
    took = []
    for pod in pods:
        [container] = pod["status"]["containerStatuses"]
        begun = datetime.fromisoformat(container["state"]["running"]["startedAt"])
        ready = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")
        took.append((datetime.fromisoformat(ready["lastTransitionTime"]) - begun).total_seconds())
    if not took:
        return failed("there is no pod")
    return held(max(took) <= START_S_MAX, f"the slowest pod was ready after {max(took):.0f} s")


def dry_run(place: Place) -> Verdict:
    """What the cluster would say to the manifests; without a cluster, whether they can be rendered."""
    count = len(place.manifests)
    if PLACEHOLDER.search(yaml.safe_dump(place.manifests)):
        return failed("the overlay still has placeholders: PROJECT or REGION")
    overlay = str(place.file(f"deploy/k8s/overlays/{place.env}"))
    place.kubectl("apply", "--server-side", "--dry-run=server", "--kustomize", overlay)
    return passed(f"the cluster accepts all {count} objects")


def rollback_plan(place: Place) -> Verdict:
    """The page, and its steps."""
    return _page(place, "rollback")


def manual_restart(place: Place) -> Verdict:
    """The page that has it."""
    return _page(place, "fenced")


def _page(place: Place, name: str) -> Verdict:
    page = place.file(f"docs/runbooks/{name}.md")
    steps = len(STEP.findall(page.read_text(encoding="utf-8")))
    return held(steps >= 3, f"docs/runbooks/{name}.md has {steps} steps")


# 3.5, risks, 4.3, 4.4


def runbooks_linked(place: Place) -> Verdict:
    """That each alert's link is one that people can follow."""
    alerts = alerts_of(place)
    without = [one["alert"] for one in alerts if not one["annotations"].get("runbook_url")]
    if without:
        return failed(f"no runbook: {', '.join(without)}")
    hosts = {one["annotations"]["runbook_url"].split("/")[2] for one in alerts}
    if "runbooks.example.com" in hosts:
        return failed("links still go to runbooks.example.com: put your address there (deploy/observability)")
    return passed(f"{len(alerts)} alerts link to {', '.join(sorted(hosts))}")


def runbooks_exist(place: Place) -> Verdict:
    """A page for each alert."""
    alerts = alerts_of(place)
    names = {one["annotations"]["runbook_url"].rpartition("/")[2] for one in alerts}
    missing = [name for name in sorted(names) if not place.file(f"docs/runbooks/{name}.md").exists()]
    return held(not missing, f"missing: {missing}" if missing else f"{len(names)} pages for {len(alerts)} alerts")


def nightly_restart(place: Place) -> Verdict:
    """That it is there, and off."""
    job = place.one("CronJob", "governors-nightly-restart")["spec"]
    return held(job["suspend"] is True, f"a CronJob at {job['schedule']!r}, suspended: {job['suspend']}")


def dead_letters(place: Place) -> Verdict:
    """Where messages go that nobody can handle."""
    pubsub = effective(place).settings.pubsub
    if pubsub is None:
        raise CannotLookError("nothing is pulled from Pub/Sub (section pubsub)")
    topic = pubsub.dead_letter_topic
    return held(topic is not None, f"dead letters go to {topic}; pulls back off by themselves")


def renewed_early(place: Place) -> Verdict:
    """When cert-manager renews."""
    spec = place.one("Certificate", "governors-tls")["spec"]
    hours = int(spec["renewBefore"].removesuffix("h"))
    return held(hours >= 720, f"renewed {hours / 24:.0f} days before its end")


def diagrams(place: Place) -> Verdict:
    """That the machines' page is what this code draws."""
    same = place.file("docs/machines.md").read_text(encoding="utf-8") == document()
    return held(
        same, "docs/machines.md is drawn from this code" if same else "docs/machines.md is not what this code draws"
    )


def runtime_parameters(place: Place) -> Verdict:
    """There is no JVM; what there is instead is set by the process itself and bounded by the container."""
    return resources(place)
