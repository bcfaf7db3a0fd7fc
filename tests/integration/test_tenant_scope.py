"""A token of one tenant at a real service, naming another one wherever a tenant can be named.

The token has every role, so that nothing but its scope stands in the way. `acme` is its own, `globex` is not; whatever
it tries, it neither learns anything of globex nor changes anything there.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import pytest
import yaml
from support.service import ServiceProcess

ALL: Final = "gov_" + "a" * 43
OWN: Final = "gov_" + "o" * 43
# What stands in globex's signals and receipts alone.
SECRET: Final = "globex-secret-queue"
DATA: Final = {"depth": 1, "oldest_age_s": 0.1, "in_rate_per_s": 1.0, "done_rate_per_s": 1.0}


def signal_of(tenant: str, signal_id: str, **changes: Any) -> dict[str, Any]:
    subject = SECRET if tenant == "globex" else "orders"
    return {
        "id": signal_id,
        "source": "scope",
        "tenant": tenant,
        "kind": "queue.sample",
        "subject": subject,
        "observed_at": datetime.now(UTC).isoformat(),
        "data": DATA,
    } | changes


def event_of(tenant: str, event_id: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": f"//gov/{tenant}",
        "type": "gov.queue.sample.v1",
        "time": datetime.now(UTC).isoformat(),
        "subject": "orders",
        "data": DATA,
    }


def alert_of(tenant: str) -> dict[str, Any]:
    alert = {
        "status": "firing",
        "labels": {"alertname": "A", "tenant": tenant},
        "startsAt": datetime.now(UTC).isoformat(),
        "fingerprint": f"f-{tenant}",
    }
    return {"version": "4", "alerts": [alert]}


class Place:
    """The service, as it shows itself to each of the two tokens."""

    def __init__(self, process: ServiceProcess) -> None:
        self.process = process
        self.all, self.own = (
            httpx.Client(base_url=process.url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0)
            for token in (ALL, OWN)
        )

    def globex(self) -> tuple[Any, Any]:
        """All that there is of globex."""
        receipts = self.all.get("/v1/tenants/globex/receipts", params={"limit": 1_000}).json()["receipts"]
        return self.all.get("/v1/tenants/globex").json(), [one["id"] for one in receipts]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("scope")
    tokens = [
        {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "roles": ["admin"], **scope}
        for name, token, scope in (("all", ALL, {}), ("own", OWN, {"tenants": ["acme"]}))
    ]
    (folder / "tokens.yaml").write_text(json.dumps({"tokens": tokens}))
    settings = {
        "tenants": {"auto_create": True},
        "auth": {"tokens_file": str(folder / "tokens.yaml")},
        "ingest": {"routing": [{"tenant_from": "label.tenant"}]},
    }
    (folder / "governors.yaml").write_text(yaml.safe_dump(settings))
    with ServiceProcess(folder / "data", "--config", str(folder / "governors.yaml")) as process:
        made = Place(process)
        batch = [signal_of(tenant, f"{tenant}-{number}") for tenant in ("acme", "globex") for number in range(3)]
        sent = made.all.post("/v1/signals", json=batch, params={"wait": "committed"})
        assert [one["outcome"] for one in sent.json()["results"]] == ["decided"] * 6
        made.all.get("/v1/receipts/0:0/proof")  # it has a checkpoint made
        yield made
        made.all.close()
        made.own.close()
        assert process.stop() == 0


def json_body(value: Any) -> dict[str, Any]:
    return {"content": json.dumps(value), "headers": {"Content-Type": "application/json"}}


NAMED: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "a tenant's view": ("GET", "/v1/tenants/globex", {}),
    "its receipts": ("GET", "/v1/tenants/globex/receipts", {}),
    "its bundle": ("GET", "/v1/tenants/globex/bundle", {}),
    "its entitlement": ("PUT", "/v1/tenants/globex", json_body({"entitlement": "suspended"})),
    "an override": (
        "POST",
        "/v1/tenants/globex/overrides",
        json_body({"governor": "backlog_valve", "subject": SECRET, "mode": "hold", "reason": "a test"}),
    ),
    "the end of an override": ("DELETE", f"/v1/tenants/globex/overrides/backlog_valve/{SECRET}", {}),
    "an approval": (
        "POST",
        "/v1/tenants/globex/approvals",
        json_body({"governor": "backlog_valve", "subject": SECRET, "verdict": "approve", "reason": "a test"}),
    ),
    "an emergency stop": ("PUT", "/v1/tenants/globex/emergency-stop", json_body({"reason": "a test"})),
    "the end of an emergency stop": ("DELETE", "/v1/tenants/globex/emergency-stop?reason=a", {}),
    "a stop of all": ("PUT", "/v1/emergency-stop", json_body({"reason": "a test"})),
    "the policies": ("GET", "/v1/policies", {}),
    "a reload": ("POST", "/v1/policies/reload", {}),
    "operators": ("GET", "/v1/operations", {}),
    "metrics": ("GET", "/metrics", {}),
    "the tree": ("GET", "/v1/tree", {}),
    "everybody's receipts": ("GET", "/v1/logs/0/tile/entries/000.p/6", {}),
    "admission": ("GET", "/v1/admit?tenant=globex", {}),
    "admission, its own first": ("GET", "/v1/admit?tenant=acme&tenant=globex", {}),
    "the stream": ("GET", "/v1/stream?tenant=globex", {}),
    "the stream, its own first": ("GET", "/v1/stream?tenant=acme&tenant=globex", {}),
    "a path that climbs": ("GET", "/v1/tenants/acme%2F..%2Fglobex", {}),
    "a path that climbs far": ("GET", "/v1/tenants/acme/../globex/receipts", {}),
    "a name with a zero byte": ("GET", "/v1/tenants/globex%00", {}),
    "the chain of those whom nobody knows": ("GET", "/v1/tenants/_unknown/receipts", {}),
    "the chain of operators": ("GET", "/v1/tenants/_operators/receipts", {}),
}


@pytest.mark.parametrize("where", NAMED)
def test_a_tenant_that_is_not_ones_own_is_refused_where_it_is_named(place: Place, where: str) -> None:
    method, path, more = NAMED[where]
    before = place.globex()
    answer = place.own.request(method, path, **more)
    assert answer.status_code in (403, 404, 422), answer.text
    if answer.status_code == 403:
        assert answer.json()["type"] == "urn:governors:problem:forbidden"
    assert SECRET not in answer.text
    assert place.globex() == before


SENT: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "one signal": lambda: json_body(signal_of("globex", "x-1")),
    "an array": lambda: json_body([signal_of("acme", "x-2"), signal_of("globex", "x-2")]),
    "lines": lambda: {
        "content": "\n".join(json.dumps(signal_of(tenant, "x-3")) for tenant in ("globex", "acme")),
        "headers": {"Content-Type": "application/x-ndjson"},
    },
    "an event's source": lambda: {
        "content": json.dumps(event_of("globex", "x-4")),
        "headers": {"Content-Type": "application/cloudevents+json"},
    },
    "the source of one event of a batch": lambda: {
        "content": json.dumps([event_of("acme", "x-5"), event_of("globex", "x-5")]),
        "headers": {"Content-Type": "application/cloudevents-batch+json"},
    },
    "an event's header": lambda: {
        "content": json.dumps(DATA),
        "headers": {
            "Content-Type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": "x-6",
            "ce-source": "//gov/globex",
            "ce-type": "gov.queue.sample.v1",
            "ce-time": datetime.now(UTC).isoformat(),
            "ce-subject": "orders",
        },
    },
    "an entitlement": lambda: json_body(
        signal_of("globex", "x-7", kind="tenant.entitlement", subject="default", data={"status": "cancelled"})
    ),
    "an alert's label": lambda: json_body(alert_of("globex")) | {"url": "/v1/push/alertmanager"},
    "one alert of several": lambda: (
        json_body(alert_of("acme") | {"alerts": [*alert_of("acme")["alerts"], *alert_of("globex")["alerts"]]})
        | {"url": "/v1/push/alertmanager"}
    ),
}


@pytest.mark.parametrize("form", SENT)
def test_a_signal_about_another_tenant_is_refused_in_every_form_and_its_neighbours_are_decided(
    place: Place, form: str
) -> None:
    before = place.globex()
    answer = place.own.request("POST", **({"url": "/v1/signals"} | SENT[form]()))
    if answer.status_code == 403:  # it was one signal alone
        assert answer.json()["field"] == "tenant"
    else:
        assert answer.status_code == 200, answer.text
        by_tenant = {one["tenant"]: one for one in answer.json()["results"]}
        assert (by_tenant["globex"]["outcome"], by_tenant["globex"]["error"]["reason"]) == (
            "rejected",
            "forbidden_tenant",
        )
        assert by_tenant.get("acme", {"outcome": "decided"})["outcome"] == "decided"
    assert place.globex() == before


def test_every_receipt_is_told_and_proven_to_those_whose_it_is_and_to_nobody_else(place: Place) -> None:
    size = int(place.all.get("/v1/logs/0/checkpoint").text.splitlines()[1])
    theirs, ours = place.globex()[1], set()
    for index in range(size):
        for path in (f"/v1/receipts/0:{index}", f"/v1/receipts/0:{index}/proof"):
            answer = place.own.get(path)
            assert answer.status_code == (404 if f"0:{index}" in theirs else answer.status_code)
            assert SECRET not in answer.text
            if answer.status_code == 200:
                ours.add(f"0:{index}")
    own = place.own.get("/v1/tenants/acme/receipts", params={"limit": 1_000}).json()["receipts"]
    assert ours == {one["id"] for one in own if one["index"] < size}
    assert len(theirs) == 3


def test_lists_and_the_stream_leave_out_whose_they_are_not(place: Place) -> None:
    for after in ("", "acme", "globe"):
        listed = place.own.get("/v1/tenants", params={"after": after}).json()["tenants"]
        assert {one["tenant"] for one in listed} <= {"acme"}

    watching, told = threading.Event(), []

    def watch() -> None:
        with place.own.stream("GET", "/v1/stream?all=true", timeout=60.0) as response:
            for line in response.iter_lines():
                watching.set()
                if line.startswith("data: "):
                    told.append(json.loads(line.removeprefix("data: ")))
                    if told[-1]["id"] == "last":
                        return

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert watching.wait(60.0)
    place.all.post("/v1/signals", json=[signal_of("globex", "told-1"), signal_of("acme", "told-2")])
    place.all.post("/v1/signals", json=[signal_of("globex", "told-3"), signal_of("acme", "last")])
    watcher.join(60.0)
    assert [one["id"] for one in told] == ["told-2", "last"]
    assert {one["tenant"] for one in told} == {"acme"}
