"""Messages of other systems as their documentation shows them, for a test to change."""

import json
from base64 import b64encode
from typing import Any

from ingest.decode.tenants import Routing, Rule
from ingest.signals import format_time
from ingest.source import Delivery

NOON_US = 1_795_348_800_000_000  # 2026-11-22T12:00:00Z
EVERYTHING_TO_ACME = Routing([Rule(tenant="acme")])

BUDGET_ID = "de72f49d-779b-4945-a127-4d6ce8def0bb"
BUDGET_ATTRIBUTES = {"billingAccountId": "01D4EE-079462-DFD6EC", "budgetId": BUDGET_ID, "schemaVersion": "1.0"}
BUDGET = b"""{
    "budgetDisplayName": "My Personal Budget", "alertThresholdExceeded": 0.9, "forecastThresholdExceeded": 0.2,
    "costAmount": 140.321, "costIntervalStart": "2021-02-01T08:00:00Z", "budgetAmount": 152.557,
    "budgetAmountType": "SPECIFIED_AMOUNT", "currencyCode": "USD"
}"""

ROLLOUT = {
    "Action": "Start",
    "ResourceType": "Rollout",
    "Resource": "projects/1/locations/us-central1/deliveryPipelines/web/releases/r20/rollouts/r20-to-prod-0001",
    "ProjectNumber": "1",
    "Location": "us-central1",
    "DeliveryPipelineId": "web",
    "ReleaseId": "r20",
    "RolloutId": "r20-to-prod-0001",
    "TargetId": "prod",
}
APPROVAL = {name: value for name, value in ROLLOUT.items() if name not in {"Resource", "ResourceType"}} | {
    "Action": "Rejected",
    "Rollout": ROLLOUT["Resource"],
}

INCIDENT: dict[str, Any] = {
    "incident_id": "0.nrwotmyokd9n",
    "scoping_project_id": "shop-prod",
    "scoping_project_number": 365415247865,
    "url": "https://console.cloud.google.com/monitoring/alerting/incidents/0.nrwotmyokd9n?project=shop-prod",
    "started_at": 1746178794,
    "ended_at": None,
    "state": "open",
    "severity": "Critical",
    "summary": "Request latency for checkout is above the threshold of 2001 with a value of 7679.000.",
    "observed_value": "7679.000",
    "threshold_value": "2001",
    "policy_name": "Checkout latency",
    "policy_user_labels": {"tenant": "acme", "service": "checkout"},
    "condition_name": "p99",
    "condition": {
        "name": "projects/shop-prod/alertPolicies/1/conditions/2",
        "displayName": "p99",
        "conditionThreshold": {"comparison": "COMPARISON_GT", "thresholdValue": 2001, "trigger": {"count": 1}},
    },
    "documentation": {"content": "", "mime_type": "", "subject": "[ALERT] Checkout latency"},
    "metric": {"type": "run.googleapis.com/request_latencies", "displayName": "Latency", "labels": {"code": "200"}},
    "resource": {"type": "cloud_run_revision", "labels": {"service_name": "checkout-v2"}},
    "resource_id": "",
    "resource_name": "shop-prod checkout-v2",
    "resource_type_display_name": "Cloud Run Revision",
    "metadata": {"system_labels": {}, "user_labels": {}},
}
TEST_INCIDENT: dict[str, Any] = {
    "incident_id": "12345",
    "scoping_project_id": "12345",
    "scoping_project_number": 12345,
    "url": "http://www.example.com",
    "started_at": 0,
    "ended_at": 0,
    "state": "OPEN",
    "summary": "Test Incident",
    "observed_value": "1.0",
    "threshold_value": "0.5",
    "policy_name": "Test Alert Policy",
    "policy_user_labels": {"example": "label"},
    "condition_name": "Test condition",
    "documentation": "Test documentation",
    "resource": {"type": "example_resource", "labels": {"example": "label"}},
}

ALERT: dict[str, Any] = {
    "status": "firing",
    "labels": {"alertname": "HighErrorRate", "severity": "critical", "service": "checkout", "tenant": "acme"},
    "annotations": {"summary": "Too many errors"},
    "startsAt": "2026-11-22T11:58:00.123456789Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph?g0.expr=x",
    "fingerprint": "5ef77f1f8a3ecfb5",
}


def message(
    payload: bytes = b"",
    attributes: dict[str, str] | None = None,
    message_id: str = "8840",
    publish_us: int = NOON_US - 2_000_000,
) -> Delivery:
    """A message, published two seconds before noon."""
    return Delivery(payload, attributes or {}, message_id, publish_us, 1, "", "ack")


def budget(payload: bytes = BUDGET, **attributes: str) -> Delivery:
    return message(payload, BUDGET_ATTRIBUTES | attributes)


def budget_of(**changes: Any) -> Delivery:
    """The documented notification with other values; `...` takes one away."""
    document = {name: value for name, value in (json.loads(BUDGET) | changes).items() if value is not ...}
    return budget(json.dumps(document).encode())


def incident(version: str = "1.2", **changes: Any) -> Delivery:
    base = TEST_INCIDENT if version == "test" else INCIDENT
    said = {name: value for name, value in (base | changes).items() if value is not ...}
    return message(json.dumps({"version": version, "incident": said}).encode())


def rollout(**changes: str) -> Delivery:
    return message(b"", ROLLOUT | changes)


def group(*alerts: dict[str, Any], **changes: Any) -> bytes:
    document = {
        "version": "4",
        "groupKey": '{}:{alertname="HighErrorRate"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "governors",
        "groupLabels": {},
        "commonLabels": {"tenant": "acme"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "notification_reason": "first",
        "alerts": list(alerts),
    }
    return json.dumps(document | changes).encode()


def push(said: Delivery, subscription: str = "projects/p/subscriptions/budgets", **changes: Any) -> bytes:
    """The message as Pub/Sub pushes it; `changes` are of what is inside `message`, `...` takes a name away."""
    published = format_time(said.publish_us)
    inside = {
        "attributes": dict(said.attributes),
        "data": b64encode(said.payload).decode(),
        "messageId": said.message_id,
        "message_id": said.message_id,
        "publishTime": published,
        "publish_time": published,
    } | changes
    inside = {name: value for name, value in inside.items() if value is not ...}
    return json.dumps({"message": inside, "subscription": subscription}).encode()
