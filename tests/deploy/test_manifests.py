"""The manifests against the code that they deploy: no flag, route, path, file or time in them that it does not have.

`make manifests` lets other people's tools look at them too.
"""

import contextlib
import os
import random
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml
from support.certificates import Authority
from support.manifests import OVERLAYS, ROOT, Manifests, overlay, render

from governors.api.health import health_router
from governors.app import App
from governors.cli.main import command_line
from governors.cluster.holder import HAND_OVER_S
from governors.cluster.ownership import SETTLE_S
from governors.custody import Custodian
from governors.machines.catalog import BY_NAME
from governors.membership import GOODBYE_S
from governors.partition import QUIET_S
from governors.policies import read_policies
from governors.settings import Effective, load

POD = {"app.kubernetes.io/name": "governors"}


def settings_of(manifests: Manifests, folder: Path) -> Effective:
    """The configuration that the pod would start with."""
    path = folder / "governors.yaml"
    path.write_text(manifests.one("ConfigMap", "governors-config")["data"]["governors.yaml"])
    env = manifests.one("ConfigMap", "governors-env")["data"] | environment(manifests)
    return load(path, env, {}, {name: one.policy for name, one in BY_NAME.items()})


def environment(manifests: Manifests) -> dict[str, str]:
    """What the kubelet makes of the container's own variables, in the first pod."""
    known = {"metadata.name": "governors-0", "metadata.namespace": manifests.stateful_set["metadata"]["namespace"]}
    env: dict[str, str] = {}
    for one in manifests.container["env"]:
        value = one["value"] if "value" in one else known[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for name, said in env.items():
            value = value.replace(f"$({name})", said)
        env[one["name"]] = value
    return {name: value for name, value in env.items() if name.startswith("GOVERNORS_")}


def mounts(manifests: Manifests) -> dict[str, str]:
    return {one["mountPath"]: one["name"] for one in manifests.container["volumeMounts"]}


def test_the_arguments_are_those_of_the_command(manifests: Manifests) -> None:
    command, *options = manifests.container["args"]
    group = typer.main.get_command(command_line())
    context = group.make_context("governors", [command, *options], resilient_parsing=False)
    serve = group.get_command(context, command)  # type: ignore[attr-defined]
    parsed = serve.make_context(command, options)
    assert parsed.params["config"] == Path("/etc/governors/config/governors.yaml")


def test_the_configuration_is_one_that_the_service_starts_with(manifests: Manifests, tmp_path: Path) -> None:
    settings = settings_of(manifests, tmp_path).settings
    assert settings.store.url is not None
    assert settings.store.url.startswith("gs://")
    assert settings.ledger.origin is not None
    assert settings.pubsub is not None
    policies = tmp_path / "policies"
    policies.mkdir()
    for name, text in manifests.one("ConfigMap", "governors-policies")["data"].items():
        (policies / name).write_text(text)
    read_policies(policies, settings.profiles)


def test_every_file_that_the_configuration_names_is_mounted(manifests: Manifests, tmp_path: Path) -> None:
    settings = settings_of(manifests, tmp_path).settings
    assert settings.tls is not None
    assert settings.policies is not None
    assert settings.ledger.signing_key is not None
    assert settings.auth.tokens_file is not None
    mounted = mounts(manifests)
    secrets = manifests.one("SecretProviderClass", "governors-secrets")["spec"]["parameters"]["secrets"]
    for path in (settings.ledger.signing_key, settings.auth.tokens_file):
        assert mounted[str(path.parent)] == "secrets"
        assert f"path: {path.name}" in secrets
    for path in (settings.tls.certificate, settings.tls.key):
        assert mounted[str(path.parent)] == "tls"
    assert mounted[str(settings.policies)] == "policies"
    assert mounted["/etc/governors/config"] == "config"
    volumes = {one["name"] for one in manifests.pod["volumes"]}
    claims = {one["metadata"]["name"] for one in manifests.stateful_set["spec"]["volumeClaimTemplates"]}
    assert set(mounted.values()) == volumes | claims
    assert manifests.one("Certificate", "governors-tls")["spec"]["secretName"] == "governors-tls"


def test_the_data_folder_is_the_disk_that_outlives_the_pod(manifests: Manifests) -> None:
    folder = next(
        word.partition("=")[2] for word in (ROOT / "Dockerfile").read_text().split() if "GOVERNORS_DATA_DIR=" in word
    )
    assert mounts(manifests)[folder] == "data"
    writable = {one["mountPath"] for one in manifests.container["volumeMounts"] if not one.get("readOnly")}
    assert writable == {folder}


def test_probes_ask_routes_that_there_are_in_the_way_that_is_spoken(manifests: Manifests, tmp_path: Path) -> None:
    routes = {cast("Any", route).path for route in health_router(cast("Any", None), cast("Any", None)).routes}
    probes = {name: manifests.container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["path"] for probe in probes.values()} <= routes
    assert probes["readiness"]["path"] == "/readyz"
    assert probes["liveness"]["path"] == "/healthz", "what is not ready must not be killed for it"
    settings = settings_of(manifests, tmp_path).settings
    assert {probe["scheme"] for probe in probes.values()} == {"HTTPS" if settings.tls else "HTTP"}
    ports = {one["name"]: one["containerPort"] for one in manifests.container["ports"]}
    assert {ports[probe["port"]] for probe in probes.values()} == {settings.http.port}
    for service in manifests.all("Service"):
        assert {ports[one["targetPort"]] for one in service["spec"]["ports"]} == {settings.http.port}


def test_pods_reach_each_other_under_a_name_that_their_certificate_has(manifests: Manifests, tmp_path: Path) -> None:
    settings = settings_of(manifests, tmp_path).settings
    assert settings.cluster.advertise is not None
    at = urlsplit(settings.cluster.advertise)
    pod, _, domain = (at.hostname or "").partition(".")
    assert (at.scheme, at.port, pod) == ("https", settings.http.port, "governors-0")
    assert f"*.{domain}" in manifests.one("Certificate", "governors-tls")["spec"]["dnsNames"]
    assert domain.partition(".")[0] == manifests.stateful_set["spec"]["serviceName"]


def test_three_pods_become_ten_under_load_one_at_a_time_and_fewer_slowly(manifests: Manifests, tmp_path: Path) -> None:
    [scaler] = manifests.all("HorizontalPodAutoscaler")
    spec = scaler["spec"]
    pods = manifests.stateful_set
    assert spec["scaleTargetRef"] == {
        "apiVersion": pods["apiVersion"], "kind": pods["kind"], "name": pods["metadata"]["name"],
    }  # fmt: skip
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 10)
    assert "replicas" not in pods["spec"], "each apply would take back what the scaler has done"
    [metric] = spec["metrics"]
    assert metric["resource"]["name"] == "cpu"
    # Before somebody is told that one core is busy (GovernorsCpuHigh).
    busy = metric["resource"]["target"]
    assert busy["type"] == "AverageValue"
    assert int(busy["averageValue"].removesuffix("m")) < 700
    for behavior in spec["behavior"].values():
        assert [(policy["type"], policy["value"]) for policy in behavior["policies"]] == [("Pods", 1)]
        # A newcomer is given nothing before it has been there for a while.
        assert all(policy["periodSeconds"] > SETTLE_S for policy in behavior["policies"])
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 1_800
    assert settings_of(manifests, tmp_path).settings.cluster.partitions == 8
    assert manifests.one("PodDisruptionBudget", "governors")["spec"]["maxUnavailable"] == 1
    [claim] = manifests.stateful_set["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


async def test_the_grace_is_what_stopping_may_take_in_the_worst_case(tmp_path: Path) -> None:
    certificate, key = Authority().issue().put(tmp_path)
    (tmp_path / "tokens.yaml").write_text("tokens: []\n")
    (tmp_path / "keys.json").write_text('{"keys": []}')
    env = {
        "GOVERNORS_AUTH__TOKENS_FILE": str(tmp_path / "tokens.yaml"),
        "GOVERNORS_TLS__CERTIFICATE": str(certificate),
        "GOVERNORS_TLS__KEY": str(key),
        "GOVERNORS_HTTP__PORT": "0",
        "GOVERNORS_DATA_DIR": str(tmp_path / "data"),
        "GOVERNORS_STORE__URL": (tmp_path / "store").as_uri(),
        "GOVERNORS_PUBSUB__PROJECT": "some-project",
        "GOVERNORS_PUBSUB__SUBSCRIPTION": "governors",
        "GOVERNORS_PUSH__AUDIENCE": "governors",
        "GOVERNORS_PUSH__SERVICE_ACCOUNTS": '["push@example.com"]',
        "GOVERNORS_PUSH__KEYS": str(tmp_path / "keys.json"),
        "GOVERNORS_OIDC__ISSUER": "https://issuer.example.com",
        "GOVERNORS_OIDC__AUDIENCE": "governors",
        "GOVERNORS_OIDC__KEYS": str(tmp_path / "keys.json"),
        "GOVERNORS_RETENTION__PAYLOADS_DAYS": "30",
    }
    settings = load(None, env, {}, {name: one.policy for name, one in BY_NAME.items()}).settings
    clock = lambda: 1_795_348_800_000_000  # noqa: E731 - a clock that stands still
    custodian = await Custodian.open(settings, clock_us=clock, entropy=os.urandom, rng=random.Random(1), owner="test")
    try:
        worker = App(settings, clock_us=clock, executors=(), custodian=custodian)
        assert worker._membership is not None
        with contextlib.closing(worker._membership.listener):
            children = [slot.child for slot in worker._supervisor._slots]
            (holder,) = worker._holders
            partition = await holder._take(lambda: None, holder.hurry)
            await partition.open()
            children += [slot.child for slot in partition._tree._slots]
            await partition.close()
    finally:
        await custodian.close()
    names = {child.name for child in children}
    assert {"http", "pubsub", "committer", "pruner", "issuer", "push-issuer", "certificates"} <= names
    # Partitions are handed over one after the other before anything else ends; those that are left when the time for it
    # is over end together, whatever their number, and one tree's deadlines stand for all.
    partitions_s = HAND_OVER_S + QUIET_S
    # A supervisor waits for its children, which it stops together: tenants have a worker's deadline.
    trees_s = sum(child.shutdown_s if child.shutdown_s is not None else 5.0 for child in children)
    stopping_s = partitions_s + trees_s + GOODBYE_S
    for manifests in map(overlay, OVERLAYS):
        sleep_s = manifests.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert manifests.pod["terminationGracePeriodSeconds"] >= stopping_s + sleep_s


def test_selectors_find_the_pods_and_nothing_else(manifests: Manifests) -> None:
    template = manifests.stateful_set["spec"]["template"]
    assert POD.items() <= template["metadata"]["labels"].items()
    assert manifests.stateful_set["spec"]["selector"]["matchLabels"] == POD
    for service in manifests.all("Service"):
        assert service["spec"]["selector"] == POD
    assert manifests.one("PodDisruptionBudget", "governors")["spec"]["selector"]["matchLabels"] == POD
    assert manifests.one("NetworkPolicy", "governors")["spec"]["podSelector"]["matchLabels"] == POD
    assert manifests.one("PodMonitoring", "governors")["spec"]["selector"]["matchLabels"] == POD
    assert (
        manifests.stateful_set["spec"]["serviceName"]
        == manifests.one("Service", "governors-headless")["metadata"]["name"]
    )
    job = manifests.one("CronJob", "governors-nightly-restart")["spec"]["jobTemplate"]["spec"]["template"]
    assert not POD.items() <= job["metadata"]["labels"].items()


def test_nobody_has_rights_that_they_do_not_need(manifests: Manifests) -> None:
    [namespace] = manifests.all("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    account = manifests.one("ServiceAccount", "governors")
    assert account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"].endswith(".iam.gserviceaccount.com")
    assert account["automountServiceAccountToken"] is False
    assert manifests.pod["automountServiceAccountToken"] is False
    assert manifests.pod["securityContext"]["runAsNonRoot"] is True
    assert manifests.pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    context = manifests.container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    user = next(line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("USER"))
    assert f"{context['runAsUser']}:{manifests.pod['securityContext']['runAsGroup']}" == user
    for role in manifests.all("Role"):
        for rule in role["rules"]:
            assert rule["resourceNames"], f"{role['metadata']['name']} is for everything of its kind"
            assert "*" not in rule["verbs"]


def test_nothing_goes_out_but_names_the_metadata_server_and_what_is_spoken_by_tls(manifests: Manifests) -> None:
    assert manifests.one("NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    policy = manifests.one("NetworkPolicy", "governors")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    reached = {
        (
            to["ipBlock"]["cidr"] if "ipBlock" in to else next(iter(to["podSelector"]["matchLabels"].values())),
            port["port"],
        )
        for rule in policy["egress"]
        for to in rule["to"]
        for port in rule["ports"]
    }
    assert reached == {
        ("kube-dns", 53), ("169.254.20.10/32", 53), ("169.254.169.254/32", 80), ("169.254.169.252/32", 988),
        ("0.0.0.0/0", 443), ("governors", 8080),
    }  # fmt: skip
    anywhere = next(
        to["ipBlock"] for rule in policy["egress"] for to in rule["to"] if to.get("ipBlock", {}).get("except")
    )
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(anywhere["except"])
    assert all(rule["from"] and {port["port"] for port in rule["ports"]} == {8080} for rule in policy["ingress"])


def test_a_certificate_is_renewed_thirty_days_before_its_end_and_names_the_service(manifests: Manifests) -> None:
    spec = manifests.one("Certificate", "governors-tls")["spec"]
    assert spec["renewBefore"] == "720h"
    assert int(spec["duration"][:-1]) > 720
    namespace = manifests.stateful_set["metadata"]["namespace"]
    assert f"governors.{namespace}.svc" in spec["dnsNames"]
    assert f"*.governors-headless.{namespace}.svc.cluster.local" in spec["dnsNames"]


def test_nothing_restarts_the_pods_by_itself(manifests: Manifests) -> None:
    assert manifests.one("CronJob", "governors-nightly-restart")["spec"]["suspend"] is True


def test_everything_but_the_namespace_is_in_the_namespace(manifests: Manifests) -> None:
    [namespace] = manifests.all("Namespace")
    elsewhere = [
        one for one in manifests.objects
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != namespace["metadata"]["name"]
    ]  # fmt: skip
    assert elsewhere == []


def test_managed_prometheus_has_the_same_rules_as_prometheus_operator(manifests: Manifests) -> None:
    assert manifests.all("PrometheusRule") == []
    own = Manifests(render(ROOT / "deploy/observability"))
    for rules in own.all("PrometheusRule"):
        managed = manifests.one("Rules", rules["metadata"]["name"])
        assert managed["spec"]["groups"] == rules["spec"]["groups"] != []


@pytest.mark.parametrize("component", ["prometheus-operator", "managed-prometheus"])
def test_either_prometheus_can_be_chosen(component: str, tmp_path: Path) -> None:
    base = os.path.relpath(ROOT / "deploy", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{base}/k8s/base, {base}/observability]\ncomponents: [{base}/k8s/components/{component}]\n"
    )
    chosen = Manifests(render(tmp_path))
    monitors = {one["kind"] for one in chosen.objects} & {"PodMonitor", "PrometheusRule", "PodMonitoring", "Rules"}
    expected = {"PodMonitor", "PrometheusRule"} if component == "prometheus-operator" else {"PodMonitoring", "Rules"}
    assert monitors == expected


def test_pods_reach_the_api_of_kubernetes_where_they_act_in_it_and_else_not(
    manifests: Manifests, tmp_path: Path
) -> None:
    assert manifests.pod["automountServiceAccountToken"] is False
    base = os.path.relpath(ROOT / "deploy/k8s", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{base}/overlays/production]\ncomponents: [{base}/components/kubernetes-executor]\n"
    )
    acting = Manifests(render(tmp_path))
    assert acting.pod["automountServiceAccountToken"] is True
    # Rights are granted to this account, in this namespace.
    [subject] = yaml.safe_load((ROOT / "deploy/k8s/executor/deployments/rolebinding.yaml").read_text())["subjects"]
    account = acting.one("ServiceAccount", acting.pod["serviceAccountName"])["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], acting.stateful_set["metadata"]["namespace"])
    policy = next(one for one in acting.all("NetworkPolicy") if one["metadata"]["name"] == "governors-kubernetes-api")
    assert policy["spec"]["podSelector"]["matchLabels"] == POD
    assert [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]] == [443]
