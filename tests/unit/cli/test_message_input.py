"""Whatever wrapping a message comes in, it is told how it would be read."""

import json
from base64 import b64encode
from typing import Any

import pytest
from support import foreign

from governors.cli.message_input import Explained, explain
from ingest.decode.tenants import Routing, Rule

ROUTING = Routing([Rule(when={"format": "budget"}, tenant="acme"), Rule(tenant_from="label.tenant")])
NATIVE = {
    "id": "q-1",
    "source": "broker",
    "tenant": "globex",
    "kind": "deploy.finished",
    "observed_at": "2026-11-22T10:00:00Z",
    "data": {"deploy_id": "d-1", "result": "failed"},
}


def read(given: bytes, attributes: dict[str, str] | None = None) -> list[Explained]:
    return explain(given, attributes or {}, ROUTING, foreign.NOON_US)


def only(given: bytes, attributes: dict[str, str] | None = None) -> Explained:
    (one,) = read(given, attributes)
    return one


def test_a_pushed_budget_is_a_snapshot_of_the_tenant_that_a_rule_names() -> None:
    one = only(foreign.push(foreign.budget()))
    assert (one.form, one.outcome, one.tenant, one.rule, one.assumed) == ("budget", "signal", "acme", 1, ())
    assert one.signal is not None
    assert one.signal["data"]["cost_amount"] == "140.321"
    assert "extra" not in one.signal


def test_the_output_of_gcloud_is_a_list_of_messages() -> None:
    pulled = [
        {"ackId": "a", "message": json.loads(foreign.push(message))["message"]}
        for message in (foreign.budget(), foreign.rollout(), foreign.rollout(Action="Create"))
    ]
    outcomes = [(one.form, one.outcome, one.reason) for one in read(json.dumps(pulled).encode())]
    assert outcomes == [
        ("budget", "signal", ""),
        ("cloud_deploy", "rejected", "no_tenant"),
        ("cloud_deploy", "nothing", ""),
    ]


def test_a_message_without_its_envelope_will_do() -> None:
    inside = json.loads(foreign.push(foreign.budget()))["message"]
    assert only(json.dumps(inside).encode()).outcome == "signal"
    bare = {name: inside[name] for name in ("data", "attributes")}
    one = only(json.dumps(bare).encode())
    assert (one.outcome, one.assumed) == ("signal", ("messageId", "publishTime"))


def test_bare_data_is_read_with_the_attributes_that_are_given() -> None:
    assert only(foreign.BUDGET).outcome == "rejected"
    one = only(foreign.BUDGET, foreign.BUDGET_ATTRIBUTES)
    assert (one.form, one.outcome, one.tenant) == ("budget", "signal", "acme")


def test_a_dead_letter_is_read_as_what_it_was() -> None:
    letter = {
        "at_us": 1,
        "attributes": foreign.BUDGET_ATTRIBUTES,
        "error": ": no rule matches",
        "payload": b64encode(foreign.BUDGET).decode(),
        "reason": "no_tenant",
        "tenant": None,
    }
    lines = json.dumps(letter) + "\n" + json.dumps(letter) + "\n"
    assert [(one.form, one.outcome) for one in read(lines.encode())] == [("budget", "signal")] * 2


def test_each_alert_of_a_notification_is_told_and_so_are_those_left_out() -> None:
    stray = foreign.ALERT | {"labels": {}}
    told = read(foreign.group(foreign.ALERT, stray, truncatedAlerts=2))
    assert [(one.outcome, one.tenant, one.rule, one.reason) for one in told] == [
        ("signal", "acme", 2, ""),
        ("rejected", None, None, "no_tenant"),
        ("nothing", None, None, ""),
    ]
    assert "2 alerts" in told[2].why


@pytest.mark.parametrize("count", [1, 2])
def test_signals_say_themselves_whose_they_are(count: int) -> None:
    for given in (json.dumps([NATIVE] * count), "\n".join([json.dumps(NATIVE)] * count)):
        told = read(given.encode())
        assert [(one.form, one.tenant, one.rule, one.assumed) for one in told] == [
            ("native", "globex", None, ())
        ] * count


def test_an_incident_as_its_data_alone() -> None:
    one = only(foreign.incident().payload)
    assert (one.form, one.tenant, one.rule) == ("monitoring", "acme", 2)


@pytest.mark.parametrize(
    "given", [b"{", b"\xff", b"42", b"null", b'{"message": {"data": "!"}}', b"x\ny", b"[" * 60_000]
)
def test_what_cannot_be_read_is_told_as_rejected(given: bytes) -> None:
    one = only(given)
    assert one.outcome == "rejected"
    assert one.reason
    assert one.why


@pytest.mark.parametrize("given", [b"", b" \n", b"\xef\xbb\xbf"])
def test_nothing_is_nothing(given: bytes) -> None:
    assert read(given) == []


def test_a_senders_extra_is_not_taken_for_a_rule() -> None:
    wire: dict[str, Any] = NATIVE | {"extra": {"routing_rule": 7}}
    assert only(json.dumps(wire).encode()).rule is None
