"""Where the checklist looks: a checkout, running services, a Prometheus, a Google project, a cluster.

Each of them may be missing; then CannotLookError says which option names it, and lines that need it are skipped.
"""

import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from governors.checklist.verdict import CannotLookError
from governors.telemetry.scrape import Series

KUBECTL_S: Final = 20.0
NAMESPACES: Final = {"staging": "governors-staging", "production": "governors"}
Object = dict[str, Any]
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """A command's end and output. Raises CannotLookError where it does not end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=KUBECTL_S)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotLookError(f"{command[0]}: {error}") from error


@dataclass(frozen=True)
class Place:
    """`services`: a client for each pod (or one for all of them), in the order of their addresses. `google`: asks
    Google's APIs in the name of whoever runs this, None without credentials.
    """

    env: str
    checkout: Path
    services: tuple[httpx.Client, ...] = ()
    prometheus: httpx.Client | None = None
    google: httpx.Client | None = None
    project: str = ""
    vkey: str = ""
    config: Path | None = None
    staging_report: Path | None = None
    load: Object | None = None
    run: Run = run_command
    now_us: Callable[[], int] = lambda: 0
    sleep: Callable[[float], None] = lambda _: None
    watched: list[list[Series]] = field(default_factory=list)
    """The services' metrics at two moments, once somebody has watched."""

    @property
    def namespace(self) -> str:
        return NAMESPACES[self.env]

    # A checkout

    def file(self, name: str) -> Path:
        """A file of the checkout that has to be there for a line to be looked at."""
        if not (self.checkout / "deploy").is_dir():
            raise CannotLookError(f"no checkout of the project at {self.checkout}: --checkout names one")
        return self.checkout / name

    @functools.cached_property
    def manifests(self) -> list[Object]:
        """What the overlay of this environment deploys."""
        folder = self.file(f"deploy/k8s/overlays/{self.env}")
        if shutil.which("kubectl") is None:
            raise CannotLookError("kubectl is not here, which renders the manifests")
        done = self.run(["kubectl", "kustomize", str(folder)])
        if done.returncode:
            raise ValueError(f"the overlay {self.env} cannot be rendered: {done.stderr.strip()}")
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.manifests if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """One of the objects, by name; names that end in a hash by what stands before it."""
        for found in self.all(kind):
            if found["metadata"]["name"] == name or found["metadata"]["name"].rpartition("-")[0] == name:
                return found
        raise ValueError(f"the overlay {self.env} has no {kind} {name}")

    # Services

    @property
    def service(self) -> httpx.Client:
        """The first of them."""
        if not self.services:
            raise CannotLookError("no service was named: --url")
        return self.services[0]

    # Prometheus

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """An instant query's answer: labels and value of each series."""
        if self.prometheus is None:
            raise CannotLookError("no Prometheus was named: --prometheus")
        answer = self.prometheus.get("/api/v1/query", params={"query": expr})
        answer.raise_for_status()
        return [(one["metric"], float(one["value"][1])) for one in answer.json()["data"]["result"]]

    # Google

    def ask_google(self, method: str, url: str, body: Object | None = None) -> Object:
        """A JSON answer of one of Google's APIs; `{project}` in the address is filled in. Raises ValueError where it is
        refused.
        """
        if not self.project:
            raise CannotLookError("no Google project was named: --project")
        if self.google is None:
            raise CannotLookError("there are no credentials for Google here (gcloud auth application-default login)")
        answer = self.google.request(method, url.replace("{project}", self.project), json=body)
        if answer.is_error:
            raise ValueError(f"{answer.request.url.host}: {answer.status_code}: {answer.text[:200]}")
        found: Object = answer.json()
        return found

    # The cluster

    def kubectl(self, *arguments: str) -> str:
        """The output of a command on this environment's namespace. Raises ValueError where the cluster says no."""
        if shutil.which("kubectl") is None:
            raise CannotLookError("kubectl is not here")
        context = self.run(["kubectl", "config", "current-context"])
        if context.returncode:
            raise CannotLookError("kubectl knows no cluster")
        done = self.run(["kubectl", "--request-timeout=10s", "--namespace", self.namespace, *arguments])
        if done.returncode:
            said = done.stderr.strip()
            if "refused" in said or "Unable to connect" in said or "i/o timeout" in said:
                raise CannotLookError(f"the cluster cannot be reached: {said[:200]}")
            raise ValueError(said[:300])
        return done.stdout

    def kubectl_json(self, *arguments: str) -> Object:
        found: Object = json.loads(self.kubectl(*arguments, "--output=json"))
        return found
