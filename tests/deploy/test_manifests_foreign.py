"""The manifests as other people's tools see them. `make manifests` brings those: they are too heavy for `make test`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.manifests import Manifests

TOOLS = os.environ.get("MANIFEST_TOOLS")
pytestmark = [
    pytest.mark.skipif(TOOLS is None, reason="make manifests brings kubernetes-validate and checkov"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
# Kinds whose schemas come with what is installed in a cluster, and not with Kubernetes.
CUSTOM = {"Certificate", "PodMonitoring", "Rules", "SecretProviderClass"}


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(TOOLS or "").absolute() / tool), *arguments], capture_output=True, text=True, check=False
    )


def written(folder: Path, objects: list[dict[str, Any]]) -> str:
    path = folder / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return str(path)


def test_every_object_is_one_that_kubernetes_knows(manifests: Manifests, tmp_path: Path) -> None:
    own = [one for one in manifests.objects if one["kind"] not in CUSTOM]
    assert {one["kind"] for one in manifests.objects} - {one["kind"] for one in own} == CUSTOM
    done = run("kubernetes-validate", "--strict", written(tmp_path, own))
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert said.count(" passed for resource ") == len(own), said


def test_a_field_that_is_misspelt_is_caught(manifests: Manifests, tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    [broken] = Manifests(manifests.text).all("StatefulSet")
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    done = run("kubernetes-validate", "--strict", written(tmp_path, [broken]))
    assert done.returncode != 0
    assert "terminationGracePeriod" in done.stdout + done.stderr


def test_checkov_finds_nothing_that_is_not_explained(manifests: Manifests, tmp_path: Path) -> None:
    path = written(tmp_path, manifests.objects)
    done = run("checkov", "-f", path, "--framework", "kubernetes", "--output", "json", "--skip-download")
    report = json.loads(done.stdout)
    failed = [f"{one['check_id']} {one['check_name']}: {one['resource']}" for one in report["results"]["failed_checks"]]
    assert failed == []
    assert report["summary"]["passed"] > 150
    skipped = {(one["check_id"], one["resource"].rpartition(".")[2]) for one in report["results"]["skipped_checks"]}
    assert skipped == {
        ("CKV_K8S_43", "governors"), ("CKV_K8S_43", "governors-nightly-restart"),
        ("CKV_K8S_38", "governors-nightly-restart"),
    }  # fmt: skip
