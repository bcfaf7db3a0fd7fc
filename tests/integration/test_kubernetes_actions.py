"""A real service before a stand-in for a Kubernetes API server: a deploy that fails is rolled back, with a receipt."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.api_server import ApiServer
from support.cluster import Cluster
from support.service import ServiceProcess

pytestmark = pytest.mark.slow

ROLE = Path(__file__).parents[2] / "deploy/k8s/executor/deployments/role.yaml"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(rules=yaml.safe_load(ROLE.read_text(encoding="utf-8"))["rules"]).listening() as listening:
        yield listening


def signals(window_s: int = 15) -> list[dict[str, Any]]:
    """A deploy that began 20 s ago, and what its two arms did since."""
    now = datetime.now(UTC)

    def signal(name: str, kind: str, at: datetime, **data: Any) -> dict[str, Any]:
        observed = at.isoformat().replace("+00:00", "Z")
        about = {"id": name, "source": "deploys", "tenant": "acme", "subject": "web", "kind": kind}
        return {**about, "observed_at": observed, "data": {"deploy_id": "d-2", **data}}

    sample = {"slow": 0, "window_s": window_s}
    target = {"kind": "Deployment", "namespace": "shop", "name": "web"}
    began = now - timedelta(seconds=20)
    return [
        signal("started", "deploy.started", began, revision="v2", previous_revision="v1", target=target),
        signal("baseline", "deploy.sample", now, arm="baseline", requests=9_000, errors=45, **sample),
        signal("canary", "deploy.sample", now, arm="canary", requests=1_000, errors=200, **sample),
    ]


def results_of(client: httpx.Client) -> list[dict[str, Any]]:
    page = client.get("/v1/tenants/acme/receipts", params={"limit": 100}).json()["receipts"]
    return [one["receipt"] for one in page if one["receipt"]["fsm"]["event"] == "action.result"]


def test_a_deploy_that_fails_is_rolled_back_once_and_its_result_has_a_receipt(
    tmp_path: Path, server: ApiServer
) -> None:
    key = server.cluster.deployment("web", "web:v1")
    server.cluster.deploy(key, "web:v2", steps=2)
    patched = threading.Event()

    def note(_: Cluster) -> None:
        patched.set()

    server.before_patch = note
    (tmp_path / "token").write_text("token-1")
    cluster = {
        "server": server.url, "token_file": str(tmp_path / "token"), "ca_file": None,
        "workloads": [{"tenants": ["acme"], "namespace": "shop"}],
    }  # fmt: skip
    config = tmp_path / "governors.yaml"
    config.write_text(yaml.safe_dump({"tenants": {"auto_create": True}, "actions": {"kubernetes": cluster}}))
    with (
        ServiceProcess(tmp_path / "data", "--config", str(config)) as service,
        httpx.Client(base_url=service.url, timeout=30) as client,
    ):
        results = client.post("/v1/signals", json=signals()).json()["results"]
        assert results[-1]["decision"] == "rollback"
        assert patched.wait(60)
        while not (ended := results_of(client)):
            pass
        (result,) = ended
        assert result["evidence"]["result"] == "ok"
        assert "rolled back from revision 2" in result["evidence"]["detail"]
        assert client.get("/v1/tenants/acme").json()["machines"][0]["state"] == "VERIFYING"
        assert client.get("/v1/actions").json()["actions"] == []
    assert server.cluster.image(key) == "web:v1"
    assert sum(call.startswith("PATCH") for call in server.calls) == 1
