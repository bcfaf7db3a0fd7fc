"""Cloud Monitoring incidents, schema 1.2, as notification channels publish them to Pub/Sub.

Source: https://cloud.google.com/monitoring/support/notification-options#pubsub and the schema that it shows. Of an
incident only what an alert needs is read; what is known to vary is not looked at (`observed_value` may be prose,
`documentation` a text or an object), and unknown keys are let pass.

An open incident is repeated, if its policy says so, and every repetition is a fact of its own: that it is still open.
So the Pub/Sub message's id is the signal's, and the time of publication its time; the incident is the alert's
fingerprint. The message by which a channel is tested has version "test": an alert of severity `test`, on which no
policy holds a deploy, so that the way of an alert can be tried from end to end.
"""

from typing import Any, Final

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, json

from ingest.decode.foreign import (
    NO_SEVERITY,
    Translation,
    attribute_facts,
    fingerprint_of,
    labels_of,
    name_of,
    prefixed,
    present,
    subject_of,
    take_message,
    text_of,
)
from ingest.decode.limits import DecodeLimits
from ingest.decode.rejection import DECODE_ERRORS, rejection
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import ALERT, INTEGER_MAX
from ingest.source import Delivery

FORM: Final = "monitoring"
VERSION: Final = "1.2"
TEST: Final = "test"
MARK: Final = b'"incident"'
"""Without these bytes a message is none of these."""
STATUS_OF: Final = {"open": "firing", "closed": "resolved"}

_FIELDS: Final = {
    "observed_at": "publishTime",
    "id": "messageId",
    "source": "incident.scoping_project_id",
    "data.fingerprint": "incident.incident_id",
}
_SECONDS_MAX: Final = INTEGER_MAX // 1_000_000


class _Labelled(Struct, frozen=True):
    type: str | None = None
    labels: dict[str, str] | None = None


class _Incident(Struct, frozen=True):
    incident_id: str
    state: str
    scoping_project_id: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    severity: str | None = None
    policy_name: str | None = None
    condition_name: str | None = None
    summary: str | None = None
    policy_user_labels: dict[str, str] | None = None
    resource: _Labelled | None = None
    metric: _Labelled | None = None


class _Notification(Struct, frozen=True):
    version: str
    incident: _Incident


class _Shape(Struct, frozen=True, gc=False):
    version: Raw | UnsetType = UNSET
    incident: Raw | UnsetType = UNSET


_decode = json.Decoder(_Notification).decode
_decode_shape = json.Decoder(_Shape).decode


def recognises(message: Delivery) -> bool:
    """Whether a message is one: an object with a version and an incident, which no signal of ours can be."""
    if MARK not in message.payload:
        return False
    try:
        shape = _decode_shape(message.payload)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return shape.version is not UNSET and shape.incident is not UNSET


def translate(message: Delivery, limits: DecodeLimits) -> Translation:
    """An incident as an `alert`. Raises SignalRejectedError, whatever the bytes."""
    original = take_message(message, limits)
    try:
        said = _decode(message.payload)
    except DECODE_ERRORS as error:
        raise rejection(error, message.payload) from error
    if said.version not in (VERSION, TEST):
        raise SignalRejectedError(Reason.BAD_FIELD, "version", f'expected "{VERSION}" or "{TEST}"')
    incident = said.incident
    status = STATUS_OF.get(incident.state.lower())
    if status is None:
        raise SignalRejectedError(Reason.BAD_FIELD, "incident.state", f"expected one of {', '.join(STATUS_OF)}")
    if not incident.incident_id:
        raise SignalRejectedError(Reason.BAD_FIELD, "incident.incident_id", "expected the incident's id")
    for field in ("started_at", "ended_at"):
        _check_seconds(getattr(incident, field), f"incident.{field}")
    severity = TEST if said.version == TEST else name_of(incident.severity, NO_SEVERITY).lower()
    return Translation(
        form=FORM,
        kind=ALERT,
        id=message.message_id,
        source=f"//monitoring.googleapis.com/projects/{incident.scoping_project_id or '-'}",
        subject=subject_of(_service(incident)),
        observed_us=message.publish_us,
        data={
            "fingerprint": fingerprint_of(incident.incident_id),
            "status": status,
            "severity": severity,
            "name": text_of(incident.policy_name, incident.condition_name, incident.summary, incident.incident_id),
            "labels": labels_of(incident.policy_user_labels),
        },
        facts={**attribute_facts(message.attributes), **_facts(incident)},
        fields=_FIELDS,
        original=original,
    )


def _facts(incident: _Incident) -> dict[str, str]:
    resource, metric = incident.resource or _Labelled(), incident.metric or _Labelled()
    return {
        **prefixed("label", incident.policy_user_labels),
        **prefixed("resource_label", resource.labels),
        **prefixed("metric_label", metric.labels),
        **present(
            project=incident.scoping_project_id,
            service=_service(incident),
            policy=incident.policy_name,
            condition=incident.condition_name,
            resource=resource.type,
        ),
    }


def _service(incident: _Incident) -> str | None:
    """What the incident is about: the policy's label, else the service that monitored resources of a service name."""
    named = (incident.policy_user_labels or {}).get("service")
    resource = incident.resource or _Labelled()
    return named or (resource.labels or {}).get("service_name")


def _check_seconds(value: Any, field: str) -> None:
    """Epoch seconds, 0 or null where there is none. Milliseconds would be a time that nobody lives to see."""
    if value is not None and not 0 <= value <= _SECONDS_MAX:
        raise SignalRejectedError(Reason.BAD_FIELD, field, "expected seconds since 1970")
