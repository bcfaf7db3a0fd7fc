"""Alertmanager's webhook, version 4: a group of alerts, each of which becomes an `alert` of its own.

Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config. Unknown keys are let pass: newer
versions add some. An alert is told from its repetitions, and from the same alert of the other Alertmanagers of a
cluster, by fingerprint, `startsAt` and status: those make the signal's id. A firing alert's `endsAt` says nothing (it
is the year 1, or when the alert would lapse), a resolved one's is when it was so.

Where `max_alerts` is set Alertmanager leaves alerts out and says how many (`truncatedAlerts`): so does the outcome, and
every signal of the group.
"""

from typing import Final

from msgspec import Raw, Struct, json

from ingest.decode.body import Rejected
from ingest.decode.foreign import (
    NO_SEVERITY,
    Translation,
    fingerprint_of,
    finish,
    labels_of,
    name_of,
    prefixed,
    present,
    subject_of,
    text_of,
)
from ingest.decode.limits import DecodeLimits
from ingest.decode.rejection import DECODE_ERRORS, rejection, too_large
from ingest.decode.strict import find_flaw
from ingest.decode.tenants import Facts, Routing
from ingest.errors import BodyRejectedError, Reason, SignalRejectedError
from ingest.signals import ALERT, EpochMicros, Signal, format_time, parse_time

FORM: Final = "alertmanager"
VERSION: Final = "4"
SOURCE: Final = "alertmanager"

_FIELDS: Final = {"data.fingerprint": "fingerprint", "id": "fingerprint"}


class _Group(Struct, frozen=True):
    version: str
    alerts: list[Raw]
    groupKey: str = ""  # noqa: N815 - Alertmanager's names
    receiver: str = ""
    externalURL: str = ""  # noqa: N815
    truncatedAlerts: int = 0  # noqa: N815


class _Alert(Struct, frozen=True):
    status: str
    labels: dict[str, str]
    startsAt: str  # noqa: N815
    fingerprint: str
    endsAt: str = ""  # noqa: N815


class Entry(Struct, frozen=True):
    """One alert of a group: what it became, and its own bytes."""

    outcome: Signal | Rejected
    payload: bytes


class AlertGroup(Struct, frozen=True):
    """A notification. `truncated` counts alerts that Alertmanager left out."""

    entries: list[Entry]
    truncated: int


_decode_group = json.Decoder(_Group).decode
_decode_alert = json.Decoder(_Alert).decode


def read_alerts(body: bytes, routing: Routing, received_us: int, limits: DecodeLimits) -> AlertGroup:
    """Read a notification: one entry for each alert, in order, so that good ones never suffer for their neighbours.

    `received_us` is when this service got it, in microseconds since the epoch. Raises BodyRejectedError where it is no
    notification of this version, and nothing else.
    """
    if len(body) > limits.body_bytes_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"{len(body)} bytes; a body may have {limits.body_bytes_max}")
    if not body.strip():
        raise BodyRejectedError(Reason.EMPTY_BODY, 400, "the body is empty")
    if body.count(b",") > limits.body_tokens_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"at most {limits.body_tokens_max} JSON values in one body")
    if (flaw := find_flaw(body)) is not None:
        raise BodyRejectedError(flaw.reason, 400, f"{flaw.field}: {flaw.message}" if flaw.field else flaw.message)
    try:
        group = _decode_group(body)
    except DECODE_ERRORS as error:
        found = rejection(error, body)
        raise BodyRejectedError(found.reason, 400, f"{found.field}: {found.message}") from error
    if group.version != VERSION:
        raise BodyRejectedError(Reason.BAD_FIELD, 400, f'version: expected "{VERSION}"')
    if len(group.alerts) > limits.batch_max:
        raise BodyRejectedError(Reason.BATCH_TOO_LARGE, 413, f"at most {limits.batch_max} alerts in one body")
    entries = []
    for index, raw in enumerate(group.alerts):
        payload = bytes(raw)
        try:
            outcome: Signal | Rejected = finish(_translate(payload, group, limits), {}, routing, received_us, limits)
        except SignalRejectedError as error:
            outcome = Rejected(index, None, None, error.reason, error.field, error.message)
        entries.append(Entry(outcome, payload))
    return AlertGroup(entries, max(0, group.truncatedAlerts))


def is_group(body: bytes) -> bool:
    """Whether a body has the shape of a notification, of whatever version."""
    try:
        return bool(_decode_group(body))
    except DECODE_ERRORS:
        return False


def _translate(payload: bytes, group: _Group, limits: DecodeLimits) -> Translation:
    if len(payload) > limits.signal_bytes_max:
        raise too_large(len(payload), limits.signal_bytes_max)
    try:
        alert = _decode_alert(payload)
    except DECODE_ERRORS as error:
        raise rejection(error, payload) from error
    if alert.status not in ("firing", "resolved"):
        raise SignalRejectedError(Reason.BAD_FIELD, "status", "expected one of firing, resolved")
    if not alert.fingerprint:
        raise SignalRejectedError(Reason.BAD_FIELD, "fingerprint", "expected the alert's fingerprint")
    began_us = _time(alert.startsAt, "startsAt")
    observed_us = began_us if alert.status == "firing" else _time(alert.endsAt, "endsAt")
    labels = alert.labels
    fingerprint = fingerprint_of(alert.fingerprint)
    notes = {"groupKey": group.groupKey, "receiver": group.receiver, "externalURL": group.externalURL}
    return Translation(
        form=FORM,
        kind=ALERT,
        id=f"{fingerprint}/{format_time(began_us)}/{alert.status}",
        source=SOURCE,
        subject=subject_of(labels.get("service")),
        observed_us=observed_us,
        data={
            "fingerprint": fingerprint,
            "status": alert.status,
            "severity": name_of(labels.get("severity"), NO_SEVERITY),
            "name": text_of(labels.get("alertname"), fingerprint),
            "labels": labels_of(labels),
        },
        facts=_facts(labels, group),
        fields={**_FIELDS, "observed_at": "startsAt" if alert.status == "firing" else "endsAt"},
        original={"alert": payload.decode(), "group": notes, "truncated_alerts": group.truncatedAlerts},
    )


def _facts(labels: dict[str, str], group: _Group) -> Facts:
    return {**prefixed("label", labels), **present(service=labels.get("service"), receiver=group.receiver)}


def _time(text: str, field: str) -> EpochMicros:
    try:
        return parse_time(text)
    except ValueError as error:
        raise SignalRejectedError(Reason.BAD_FIELD, field, str(error)) from error
