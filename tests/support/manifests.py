"""What is deployed, as kustomize renders it."""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("staging", "production")


@functools.cache
def render(folder: Path) -> str:
    """What kustomize makes of a folder; skips where nobody can render it."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, which brings kustomize")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns"
    return done.stdout


class Manifests:
    """The objects of one overlay."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.objects: list[dict[str, Any]] = list(yaml.safe_load_all(text))

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """By its name, or by what stands before the hash of its content."""
        found = [
            one
            for one in self.all(kind)
            if one["metadata"]["name"] == name or one["metadata"]["name"].rpartition("-")[0] == name
        ]
        assert len(found) == 1, f"{kind} {name}: {len(found)}"
        return found[0]

    @property
    def stateful_set(self) -> dict[str, Any]:
        return self.one("StatefulSet", "governors")

    @property
    def pod(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.stateful_set["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> dict[str, Any]:
        [container] = self.pod["containers"]
        return dict(container)


def overlay(name: str) -> Manifests:
    """What `name` deploys."""
    return Manifests(render(ROOT / "deploy/k8s/overlays" / name))
