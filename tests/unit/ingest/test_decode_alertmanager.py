"""Alertmanager's webhook, version 4: one alert for each entry."""

import json
from typing import Any

import pytest
from support.foreign import ALERT, EVERYTHING_TO_ACME, NOON_US, group

from ingest.decode.alertmanager import Entry, open_group
from ingest.decode.body import Rejected
from ingest.decode.limits import DEFAULT_LIMITS, DecodeLimits
from ingest.decode.tenants import Routing, Rule
from ingest.errors import BodyRejectedError
from ingest.signals import Alert, Signal


def read(body: bytes, routing: Routing = EVERYTHING_TO_ACME, limits: DecodeLimits = DEFAULT_LIMITS) -> list[Entry]:
    return list(open_group(body, limits).entries(routing, NOON_US, limits))


def signal(**changes: Any) -> Signal:
    outcome = only(**changes)
    assert isinstance(outcome, Signal)
    return outcome


def only(**changes: Any) -> Signal | Rejected:
    said = {name: value for name, value in (ALERT | changes).items() if value is not ...}
    (entry,) = read(group(said))
    return entry.outcome


def test_an_alert_of_the_documented_shape_is_a_signal() -> None:
    said = signal()
    assert said.data == Alert("5ef77f1f8a3ecfb5", "firing", "critical", "HighErrorRate", ALERT["labels"])
    assert (said.tenant, said.subject, said.observed_us) == ("acme", "checkout", NOON_US)


def test_what_a_notification_says_is_so_now_however_long_ago_it_began() -> None:
    assert signal(startsAt="2026-11-20T03:00:00Z").observed_us == NOON_US
    resolved = signal(status="resolved", endsAt="2026-11-22T11:59:00Z")
    assert isinstance(resolved.data, Alert)
    assert (resolved.data.status, resolved.observed_us) == ("resolved", NOON_US)


@pytest.mark.parametrize("ends_at", ["0001-01-01T00:00:00Z", "2026-11-22T16:00:00Z", "", None, ...])
def test_the_end_of_an_alert_says_nothing(ends_at: Any) -> None:
    assert signal(endsAt=ends_at).data == signal().data


def test_repetitions_and_the_other_alertmanager_of_a_cluster_tell_the_same_fact() -> None:
    other = read(group(ALERT, externalURL="http://alertmanager-1:9093", groupKey="another"))
    told = other[0].outcome
    assert isinstance(told, Signal)
    assert (told.id, told.source) == (signal().id, signal().source)
    assert signal(startsAt="2026-11-22T12:58:00.123456789+01:00").id == signal().id


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "0000000000000001"},
        {"startsAt": "2026-11-22T11:59:00Z"},
        {"status": "resolved", "endsAt": "2026-11-22T11:59:00Z"},
    ],
)
def test_another_alert_another_begin_and_another_status_are_facts_of_their_own(changes: dict[str, Any]) -> None:
    assert signal(**changes).id != signal().id


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"status": "pending"}, "bad_field", "status"),
        ({"fingerprint": ...}, "missing_field", "fingerprint"),
        ({"fingerprint": ""}, "bad_field", "fingerprint"),
        ({"startsAt": "now"}, "bad_field", "startsAt"),
        ({"startsAt": "0001-01-01T00:00:00Z"}, "bad_field", "startsAt"),
        ({"status": ...}, "missing_field", "status"),
        ({"labels": {"a": 1}}, "bad_field", "labels"),
        ({"labels": ...}, "missing_field", "labels"),
    ],
)
def test_an_alert_that_cannot_be_is_refused_by_name(changes: dict[str, Any], reason: str, field: str) -> None:
    outcome = only(**changes)
    assert isinstance(outcome, Rejected)
    assert (outcome.reason, outcome.field) == (reason, field)


def test_a_bad_alert_never_takes_a_good_one_along() -> None:
    body = group(ALERT, ALERT | {"status": "?"}, {"alert": 1}, ALERT | {"fingerprint": "2"})
    outcomes = [entry.outcome for entry in read(body)]
    assert [isinstance(one, Signal) for one in outcomes] == [True, False, False, True]
    assert [one.index for one in outcomes if isinstance(one, Rejected)] == [1, 2]


def test_alerts_that_were_left_out_are_counted_and_noted() -> None:
    body = group(ALERT, truncatedAlerts=7)
    assert open_group(body, DEFAULT_LIMITS).truncated == 7
    outcome = read(body)[0].outcome
    assert isinstance(outcome, Signal)
    assert outcome.extra is not None
    assert outcome.extra["truncated_alerts"] == 7


def test_the_signal_keeps_the_alert_as_it_was_sent() -> None:
    body = group(ALERT)
    (entry,) = read(body)
    assert entry.payload in body
    assert isinstance(entry.outcome, Signal)
    assert entry.outcome.extra is not None
    assert entry.outcome.extra["alert"].encode() == entry.payload
    assert entry.outcome.extra["group"]["receiver"] == "governors"


def test_an_alert_without_names_still_is_one() -> None:
    said = signal(labels={})
    assert said.data == Alert("5ef77f1f8a3ecfb5", "firing", "none", "5ef77f1f8a3ecfb5", {})
    assert said.subject == "default"


def test_more_labels_than_an_alert_may_have_are_the_first_by_name() -> None:
    said = signal(labels={f"l{number:03}": "v" for number in range(100)}).data
    assert isinstance(said, Alert)
    assert said.labels is not None
    assert sorted(said.labels) == [f"l{number:03}" for number in range(64)]


def test_a_group_without_alerts_says_nothing() -> None:
    assert read(group()) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b" \n", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"version":"4"}', 400),
        (b'{"version":"4","alerts":[' + b"{}," * 30_000 + b"]", 400),
        (group(ALERT, version="3"), 400),
        (group(ALERT, version=4), 400),
        (group(ALERT, alerts={}), 400),
        (group(ALERT, truncatedAlerts="many"), 400),
        (group(*[ALERT] * 11), 413),
        (b"[" + b"," * 700_000 + b"]", 413),
        (b" " * (4 * 1024 * 1024 + 1), 413),
    ],
)
def test_a_body_that_is_no_notification_is_refused_as_a_whole(body: bytes, status: int) -> None:
    with pytest.raises(BodyRejectedError) as caught:
        read(body, limits=DecodeLimits(batch_max=10))
    assert caught.value.status == status


@pytest.mark.parametrize("depth", [3_000, 100_000])
def test_a_notification_that_is_nested_too_deeply_names_the_field(depth: int) -> None:
    with pytest.raises(BodyRejectedError) as caught:
        read(b'{"version": "4", "groupKey": "k", "commonLabels": ' + b"[" * depth)
    assert (caught.value.status, caught.value.reason, caught.value.field) == (400, "too_deep", "commonLabels")


def test_an_alert_that_is_no_i_json_is_refused_alone() -> None:
    body = group(ALERT, ALERT).replace(
        b'"status": "firing", "labels"', b'"status": "?", "status": "firing", "labels"', 1
    )
    outcomes = [entry.outcome for entry in read(body)]
    assert isinstance(outcomes[0], Rejected)
    assert (outcomes[0].reason, outcomes[0].field) == ("duplicate_field", "status")
    assert isinstance(outcomes[1], Signal)


def test_an_alert_that_is_too_large_is_refused_alone() -> None:
    large = ALERT | {"annotations": {"text": "x" * 70_000}}
    outcomes = [entry.outcome for entry in read(group(large, ALERT))]
    assert isinstance(outcomes[0], Rejected)
    assert outcomes[0].reason == "too_large"
    assert isinstance(outcomes[1], Signal)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(tenant_from="label.tenant", subject_from="label.alertname"),
        Rule(when={"receiver": "governors", "format": "alertmanager"}, tenant="acme", subject="HighErrorRate"),
        Rule(when={"label.service": "check*"}, tenant="acme", subject_from="label.alertname"),
        Rule(when={"service": "checkout"}, tenant="acme", subject_from="label.alertname"),
    ],
)
def test_rules_can_ask_for_what_an_alert_says(rule: Rule) -> None:
    outcome = read(group(ALERT), Routing([rule]))[0].outcome
    assert isinstance(outcome, Signal)
    assert (outcome.tenant, outcome.subject) == ("acme", "HighErrorRate")


def test_without_a_rule_an_alert_is_nobodys() -> None:
    outcome = read(group(ALERT), Routing([Rule(when={"label.team": "x"}, tenant="x")]))[0].outcome
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "no_tenant"
    assert "service checkout" in outcome.message
    assert json.loads(group(ALERT))["alerts"] == [ALERT]
