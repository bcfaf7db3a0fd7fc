"""A real service and a real receiver: what is decided arrives, signed, once for each id, also across a crash."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from support.auditing import leaves_of
from support.notified import API_TOKEN, ROUTING_KEY, PagerDuty
from support.receiver import Receiver
from support.service import ServiceProcess
from typer.testing import CliRunner

from governors.cli.main import command_line
from governors.replay.folder import replay_folder

pytestmark = pytest.mark.slow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().listening() as listening:
        yield listening


@pytest.fixture
def config(tmp_path: Path, receiver: Receiver) -> str:
    (tmp_path / "secrets").write_text(SECRET)
    path = tmp_path / "governors.yaml"
    path.write_text(f"""
tenants: {{auto_create: true}}
actions:
  webhooks:
    - {{name: ops, url: "{receiver.url}", private: true, secrets_file: {tmp_path}/secrets, kinds: [throttle, restore]}}
""")
    return str(path)


def spend(client: httpx.Client, number: int, cost: str, budget: str = "1000.00") -> dict[str, Any]:
    now = datetime.now(UTC)
    data = {
        "cost_amount": cost, "budget_amount": budget, "currency": "USD",
        "interval_start": now.strftime("%Y-%m-01T00:00:00Z"),
    }  # fmt: skip
    signal = {
        "id": f"b-{number}", "source": "billing", "tenant": "acme", "kind": "cost.snapshot", "subject": "prod",
        "observed_at": now.isoformat().replace("+00:00", "Z"), "data": data,
    }  # fmt: skip
    (result,) = client.post("/v1/signals", json=signal).json()["results"]
    return dict(result)


def actions(client: httpx.Client) -> list[dict[str, Any]]:
    return list(client.get("/v1/actions").json()["actions"])


def test_a_throttle_arrives_signed_and_its_result_has_a_receipt(
    tmp_path: Path, receiver: Receiver, config: str
) -> None:
    with ServiceProcess(tmp_path / "data", "--config", config) as service, httpx.Client(base_url=service.url) as client:
        decided = spend(client, 1, "910.25")
        assert decided["decision"] == "throttle"
        (got,) = receiver.wait(1)
        sent = Webhook(SECRET).verify(got.body, got.headers)
        assert sent["type"] == "governors.action.throttle"
        assert sent["data"]["receipt"] == decided["receipt"]
        assert sent["data"]["reason"] == decided["reason"]
        # What is sent is what the ledger has: anybody can look.
        leaf = client.get(f"/v1/receipts/{decided['receipt']}").json()
        assert leaf["receipt"]["actions"] == [got.headers["webhook-id"]]
        assert service.stop() == 0
    with ServiceProcess(tmp_path / "data", "--config", config) as service, httpx.Client(base_url=service.url) as client:
        page = client.get("/v1/tenants/acme/receipts", params={"limit": 100}).json()["receipts"]
        results = [one["receipt"] for one in page if one["receipt"]["fsm"]["event"] == "action.result"]
        assert [one["evidence"]["result"] for one in results] == ["ok"]
        assert actions(client) == []


def test_an_action_goes_out_again_under_the_same_id_after_a_crash(
    tmp_path: Path, receiver: Receiver, config: str
) -> None:
    receiver.answers.extend([(500, {})] * 100)
    with ServiceProcess(tmp_path / "data", "--config", config) as service, httpx.Client(base_url=service.url) as client:
        spend(client, 1, "910.25")
        receiver.wait(2)
        spend(client, 2, "911.00")  # a receipt behind the one that asked
        service.kill()
    receiver.answers.clear()
    before = len(receiver.got)
    with ServiceProcess(tmp_path / "data", "--config", config):
        got = receiver.wait(before + 1)
    assert len({one.headers["webhook-id"] for one in got}) == 1
    assert len({one.body for one in got}) == 1
    for one in got:
        Webhook(SECRET).verify(one.body, one.headers)


def test_a_page_that_was_under_way_in_a_crash_is_found_and_not_sent_twice(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(ROUTING_KEY)
    (tmp_path / "headers").write_text(f"Authorization: Token token={API_TOKEN}")
    pagerduty = PagerDuty()
    pagerduty.posts.append("held")
    with pagerduty.listening():
        verify = (
            f"""{{url: "{pagerduty.url}/incidents?incident_key={{action_id}}", headers_file: {tmp_path}/headers}}"""
        )
        config = tmp_path / "governors.yaml"
        config.write_text(f"""
tenants: {{auto_create: true}}
actions:
  webhooks:
    - name: pager
      format: pagerduty
      url: "{pagerduty.url}/v2/enqueue"
      private: true
      secrets_file: {tmp_path}/key
      kinds: [throttle]
      verify: {verify}
""")
        options = (tmp_path / "data", "--config", str(config))
        with ServiceProcess(*options) as service, httpx.Client(base_url=service.url) as client:
            spend(client, 1, "910.25")
            assert pagerduty.done.wait(60)
            service.kill()
        pagerduty.go_on.set()
        with ServiceProcess(*options) as service, httpx.Client(base_url=service.url) as client:
            while actions(client):
                pass
            assert service.stop() == 0
    assert len(pagerduty.posted) == 1
    results = [
        one["evidence"] for leaf in leaves_of(tmp_path / "data")
        if (one := json.loads(leaf))["fsm"]["event"] == "action.result"
    ]  # fmt: skip
    assert [(one["result"], one["proof"], one["verified"]) for one in results] == [("ok", "read_back", 1)]
    assert results[0]["detail"] == "it is done when read back, and was not sent again"
    assert replay_folder(tmp_path / "data").ok


def test_an_operator_sees_hurries_and_abandons_what_is_open(tmp_path: Path, receiver: Receiver, config: str) -> None:
    receiver.answers.extend([(503, {"retry-after": "110"})] * 3)
    with ServiceProcess(tmp_path / "data", "--config", config) as service, httpx.Client(base_url=service.url) as client:
        decided = spend(client, 1, "910.25")
        receiver.wait(1)
        while not (one := actions(client)[0])["attempts"] or one["next_attempt_in_s"] is None:
            pass
        assert (one["action"], one["executor"], one["detail"]) == ("throttle", "ops", "answered 503")
        assert one["receipt"] == decided["receipt"]
        assert 60 < one["next_attempt_in_s"] <= 110
        where, why = f"/v1/tenants/acme/actions/{one['id']}", {"reason": "drill", "by": "ana"}
        assert client.post(f"{where}/retry", json=why).json() == {"id": one["id"], "tenant": "acme", "asked": "retry"}
        receiver.wait(2)
        assert client.post(f"{where}/abandon", json=why).status_code == 200
        while actions(client):
            pass
        assert client.post(f"{where}/abandon", json=why).status_code == 404
        assert client.post(f"/v1/tenants/other/actions/{one['id']}/retry", json=why).status_code == 404
        page = client.get("/v1/tenants/acme/receipts", params={"limit": 100}).json()["receipts"]
        (result,) = [one["receipt"] for one in page if one["receipt"]["fsm"]["event"] == "action.result"]
        assert result["evidence"]["result"] == "failed"
        assert result["evidence"]["detail"].startswith("abandoned by ana after 2 attempts: answered 503")


def run(url: str, *args: str, code: int = 0) -> Any:
    done = CliRunner().invoke(command_line(), [*args, "--url", url, "--json"])
    assert done.exit_code == code, (done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else done.stderr


def test_the_command_line_lists_hurries_and_abandons_and_every_attempt_has_a_receipt(
    tmp_path: Path, receiver: Receiver, config: str
) -> None:
    receiver.answers.extend([(503, {"retry-after": "110"}), (504, {"retry-after": "110"})])
    with ServiceProcess(tmp_path / "data", "--config", config) as service, httpx.Client(base_url=service.url) as client:
        spend(client, 1, "910.25")
        receiver.wait(1)
        while not (one := run(service.url, "actions", "acme")["actions"][0])["attempts"] or one["doubtful"]:
            pass
        assert run(service.url, "actions", "other")["actions"] == []
        listed = CliRunner().invoke(command_line(), ["actions", "--url", service.url], env={"COLUMNS": "300"}).stdout
        assert one["id"] in listed
        assert "answered 503" in listed
        why = ("--by", "ana", "--reason", "drill")
        assert run(service.url, "retry", "acme", one["id"], *why)["asked"] == "retry"
        receiver.wait(2)
        while not run(service.url, "actions")["actions"][0]["detail"].endswith("504"):
            pass
        (machine,) = run(service.url, "tenants", "acme")["machines"]
        assert [(one["attempts"], one["doubtful"]) for one in machine["open_actions"]] == [(2, True)]
        assert "perhaps done" in CliRunner().invoke(command_line(), ["tenants", "acme", "--url", service.url]).stdout
        run(service.url, "abandon", "acme", one["id"], *why)
        while run(service.url, "actions")["actions"]:
            pass
        assert "no open action" in run(service.url, "abandon", "acme", one["id"], *why, code=1)
        assert service.stop() == 0
    page = [json.loads(leaf) for leaf in leaves_of(tmp_path / "data")]
    told = [one["evidence"] for one in page if one["fsm"]["event"].startswith("action.")]
    assert [(one["attempt"], one["outcome"], one["detail"], one["executor"]) for one in told[:2]] == [
        (1, "failed", "answered 503", "ops"),
        (2, "unanswered", "answered 504", "ops"),
    ]
    assert (told[2]["result"], told[2]["ended"], told[2]["attempts"]) == ("unknown", "abandoned", 2)
    assert replay_folder(tmp_path / "data").ok


def test_secrets_that_are_not_there_stop_the_start(tmp_path: Path, config: str) -> None:
    (tmp_path / "secrets").unlink()
    with pytest.raises(AssertionError, match=r"actions\.webhooks = 'ops'"):
        ServiceProcess(tmp_path / "data", "--config", config)
