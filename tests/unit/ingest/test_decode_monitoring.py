"""Cloud Monitoring's incidents, on the documented shape and on what is known to vary."""

import json
from typing import Any

import pytest
from support.foreign import EVERYTHING_TO_ACME, INCIDENT, NOON_US, incident, message

from ingest.decode.foreign import Unheard
from ingest.decode.message import form_of, read_message
from ingest.decode.tenants import Routing, Rule
from ingest.errors import SignalRejectedError
from ingest.signals import Alert, Signal
from ingest.source import Delivery


def read(said: Delivery, routing: Routing = EVERYTHING_TO_ACME) -> Signal:
    signal = read_message(said, routing, NOON_US)
    assert not isinstance(signal, Unheard)
    return signal


def alert(said: Delivery) -> Alert:
    data = read(said).data
    assert isinstance(data, Alert)
    return data


def rejected(said: Delivery) -> tuple[str, str]:
    with pytest.raises(SignalRejectedError) as caught:
        read_message(said, EVERYTHING_TO_ACME, NOON_US)
    return caught.value.reason, caught.value.field


def test_an_open_incident_is_a_firing_alert() -> None:
    signal = read(incident())
    assert form_of(incident()) == "monitoring"
    assert signal.data == Alert(
        "0.nrwotmyokd9n", "firing", "critical", "Checkout latency", {"service": "checkout", "tenant": "acme"}
    )
    assert (signal.subject, signal.source) == ("checkout", "//monitoring.googleapis.com/projects/shop-prod")


def test_a_closed_incident_is_the_same_alert_resolved() -> None:
    closed = alert(incident(state="closed", ended_at=1746179000, observed_value="Incident cancelled because of …"))
    assert (closed.fingerprint, closed.status) == (alert(incident()).fingerprint, "resolved")


def test_the_test_of_a_channel_is_an_alert_on_which_no_deploy_is_held() -> None:
    said = alert(incident("test"))
    assert (said.severity, said.status, said.name) == ("test", "firing", "Test Alert Policy")


@pytest.mark.parametrize(
    "changes",
    [
        {"observed_value": "Incident cancelled because the policy was deleted."},
        {"observed_value": 7679.0, "threshold_value": None},
        {"documentation": "a text"},
        {"documentation": None},
        {"documentation": ...},
        {"metric": ..., "metadata": ...},
        {"condition": []},
        {"started_at": 1746178794, "ended_at": 0},
        {"something_new": {"a": [1, None]}},
    ],
)
def test_what_is_known_to_vary_changes_nothing(changes: dict[str, Any]) -> None:
    assert read(incident(**changes)).data == read(incident()).data


@pytest.mark.parametrize(
    ("severity", "read_as"),
    [
        ("Critical", "critical"),
        ("Error", "error"),
        ("No severity", "no-severity"),
        (None, "none"),
        (..., "none"),
        ("", "none"),
    ],
)
def test_a_severity_is_a_word_in_small_letters(severity: Any, read_as: str) -> None:
    assert alert(incident(severity=severity)).severity == read_as


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"state": "acknowledged"}, "incident.state"),
        ({"state": 1}, "incident.state"),
        ({"incident_id": ""}, "incident.incident_id"),
        ({"incident_id": 7}, "incident.incident_id"),
        ({"started_at": "1746178794"}, "incident.started_at"),
        ({"started_at": -1}, "incident.started_at"),
        ({"ended_at": 1746178794000 * 1000}, "incident.ended_at"),
        ({"policy_user_labels": {"a": 1}}, "incident.policy_user_labels"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    assert rejected(incident(**changes)) == ("bad_field", field)


def test_what_is_missing_is_named() -> None:
    assert rejected(incident(incident_id=...)) == ("missing_field", "incident.incident_id")
    assert rejected(incident(state=...)) == ("missing_field", "incident.state")


@pytest.mark.parametrize("version", ["1.1", "2.0", ""])
def test_another_version_is_not_guessed_at(version: str) -> None:
    assert rejected(incident(version)) == ("bad_field", "version")


def test_a_repeated_notification_is_a_new_fact_and_a_redelivery_is_not() -> None:
    first, again = read(incident()), read(incident())
    assert (first.id, first.source) == (again.id, again.source)
    repeated = read(Delivery(incident().payload, {}, "8841", NOON_US, 1, "", "a"))
    assert repeated.id != first.id
    assert repeated.observed_us > first.observed_us


def test_what_is_for_people_is_made_to_fit() -> None:
    labels = {f"label-{number:03}": "v" * 2_000 for number in range(20)} | {"line": "a\nb"}
    said = alert(incident(policy_name="Latency\u202e " + "x" * 300, policy_user_labels=labels))
    assert said.name.startswith("Latency? x")
    assert len(said.name) == 256
    assert said.labels is not None
    assert len(said.labels["label-000"]) == 1_024
    assert said.labels["line"] == "a?b"


def test_an_incident_whose_id_is_no_name_still_has_one_fingerprint() -> None:
    one, two = alert(incident(incident_id="an id")), alert(incident(incident_id="another id"))
    assert one.fingerprint == alert(incident(incident_id="an id")).fingerprint != two.fingerprint


def test_the_service_of_the_resource_is_the_subject_where_the_policy_names_none() -> None:
    assert read(incident(policy_user_labels=None)).subject == "checkout-v2"
    assert read(incident(policy_user_labels={"service": "no name!"})).subject == "default"
    assert read(incident(policy_user_labels=None, resource=None)).subject == "default"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(tenant_from="label.tenant"),
        Rule(when={"project": "shop-*"}, tenant="acme"),
        Rule(when={"policy": "Checkout latency", "condition": "p99"}, tenant="acme"),
        Rule(when={"resource": "cloud_run_revision", "resource_label.service_name": "checkout*"}, tenant="acme"),
        Rule(when={"metric_label.code": "200", "service": "checkout"}, tenant="acme"),
        Rule(when={"format": "monitoring"}, tenant="acme"),
    ],
)
def test_rules_can_ask_for_what_an_incident_says(rule: Rule) -> None:
    assert read(incident(), Routing([Rule(when={"project": "other"}, tenant="x"), rule])).tenant == "acme"


def test_an_incident_inside_a_native_signal_is_not_one() -> None:
    wire = {"id": "1", "extra": {"incident": INCIDENT, "version": "1.2"}}
    assert form_of(message(json.dumps(wire).encode())) == "native"
    assert form_of(message(b'{"incident": {}}')) == "native"
    assert form_of(message(b'{"incident"')) == "native"
