"""Alertmanager's webhook, version 4: a group of alerts, each of which becomes an `alert` of its own.

Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config. Unknown keys are let pass: newer
versions add some. An alert is told from its repetitions, and from the same alert of the other Alertmanagers of a
cluster, by fingerprint, `startsAt` and status: those make the signal's id.

It is dated by when it came: what a notification says is so now, however long ago it began. Groups hold alerts back for
minutes, and by `startsAt` an alert would look like a repetition of something that was forgotten long ago. A firing
alert's `endsAt` says nothing at all (it is the year 1, or when the alert would lapse).

Where `max_alerts` is set Alertmanager leaves alerts out and says how many (`truncatedAlerts`): so does the outcome, and
every signal of the group.
"""

from collections.abc import Iterator
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
from ingest.decode.rejection import DECODE_ERRORS, body_rejection, rejection, too_large
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


class Entry(Struct, frozen=True):
    """One alert of a group: what it became, and its own bytes."""

    outcome: Signal | Rejected
    payload: bytes


class AlertGroup:
    """A notification that was taken apart. `truncated` counts alerts that Alertmanager left out."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self.truncated = max(0, group.truncatedAlerts)

    def entries(self, routing: Routing, received_us: int, limits: DecodeLimits) -> Iterator[Entry]:
        """An entry for each alert, in order, read as it is asked for: thousands take their time.

        `received_us` is when this service got them, in microseconds since the epoch. Nothing is raised.
        """
        for index, raw in enumerate(self._group.alerts):
            payload = bytes(raw)
            try:
                said = _translate(payload, self._group, received_us, limits)
                outcome: Signal | Rejected = finish(said, {}, routing, received_us, limits)
            except SignalRejectedError as error:
                outcome = Rejected(index, None, None, error.reason, error.field, error.message)
            yield Entry(outcome, payload)


_decode_group = json.Decoder(_Group).decode
_decode_alert = json.Decoder(_Alert).decode


def open_group(body: bytes, limits: DecodeLimits) -> AlertGroup:
    """Take a notification apart, so that good alerts never suffer for their neighbours.

    Raises BodyRejectedError where it is no notification of this version, and nothing else.
    """
    if len(body) > limits.body_bytes_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"{len(body)} bytes; a body may have {limits.body_bytes_max}")
    if not body.strip():
        raise BodyRejectedError(Reason.EMPTY_BODY, 400, "the body is empty")
    if body.count(b",") > limits.body_tokens_max:
        raise BodyRejectedError(Reason.TOO_LARGE, 413, f"at most {limits.body_tokens_max} JSON values in one body")
    try:
        group = _decode_group(body)
    except DECODE_ERRORS as error:
        raise body_rejection(error, body, limits.signal_bytes_max) from error
    if group.version != VERSION:
        raise BodyRejectedError(Reason.BAD_FIELD, 400, f'version: expected "{VERSION}"')
    if len(group.alerts) > limits.batch_max:
        raise BodyRejectedError(Reason.BATCH_TOO_LARGE, 413, f"at most {limits.batch_max} alerts in one body")
    return AlertGroup(group)


def is_group(body: bytes) -> bool:
    """Whether a body has the shape of a notification, of whatever version."""
    try:
        return bool(_decode_group(body))
    except DECODE_ERRORS:
        return False


def _translate(payload: bytes, group: _Group, received_us: int, limits: DecodeLimits) -> Translation:
    if len(payload) > limits.signal_bytes_max:
        raise too_large(len(payload), limits.signal_bytes_max)
    if (flaw := find_flaw(payload)) is not None:
        raise flaw
    try:
        alert = _decode_alert(payload)
    except DECODE_ERRORS as error:
        raise rejection(error, payload) from error
    if alert.status not in ("firing", "resolved"):
        raise SignalRejectedError(Reason.BAD_FIELD, "status", "expected one of firing, resolved")
    if not alert.fingerprint:
        raise SignalRejectedError(Reason.BAD_FIELD, "fingerprint", "expected the alert's fingerprint")
    began_us = _began(alert.startsAt)
    labels = alert.labels
    fingerprint = fingerprint_of(alert.fingerprint)
    notes = {"groupKey": group.groupKey, "receiver": group.receiver, "externalURL": group.externalURL}
    return Translation(
        form=FORM,
        kind=ALERT,
        id=f"{fingerprint}/{format_time(began_us)}/{alert.status}",
        source=SOURCE,
        subject=subject_of(labels.get("service")),
        observed_us=received_us,
        data={
            "fingerprint": fingerprint,
            "status": alert.status,
            "severity": name_of(labels.get("severity"), NO_SEVERITY),
            "name": text_of(labels.get("alertname"), fingerprint),
            "labels": labels_of(labels),
        },
        facts=_facts(labels, group),
        fields=_FIELDS,
        original={"alert": payload.decode(), "group": notes, "truncated_alerts": group.truncatedAlerts},
    )


def _facts(labels: dict[str, str], group: _Group) -> Facts:
    return {**prefixed("label", labels), **present(service=labels.get("service"), receiver=group.receiver)}


def _began(text: str) -> EpochMicros:
    try:
        return parse_time(text)
    except ValueError as error:
        raise SignalRejectedError(Reason.BAD_FIELD, "startsAt", str(error)) from error
