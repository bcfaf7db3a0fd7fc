"""Cloud Billing budget notifications: what a budget's period has cost so far, several times a day.

Source: https://cloud.google.com/billing/docs/how-to/budgets-programmatic-notifications#notification_format. The
attributes name the budget, the data its cost; unknown keys of the data are let pass, and so are the thresholds, which
most notifications lack: the Cost Guard decides by the amounts, with thresholds of its own.

Notifications come at least once and in any order. The Pub/Sub message is the fact: its id is the signal's, and when it
was published is when it was so, for the data has no time of its own.
"""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from msgspec import Raw, Struct, json

from ingest.decode.foreign import Translation, attribute_facts, present, take_message
from ingest.decode.limits import DecodeLimits
from ingest.decode.rejection import DECODE_ERRORS, rejection
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import COST_SNAPSHOT
from ingest.source import Delivery

FORM: Final = "budget"
SCHEMA_VERSION: Final = "1.0"

# RFC 8259, section 6. Bounded, because an exponent is a short way to write a very long number.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,39})(\.\d{1,60})?([eE][+-]?\d{1,2})?", re.ASCII)
_MICRO: Final = Decimal("0.000001")
# Enough digits for whatever _NUMBER lets through, so that only quantize rounds.
_EXACT: Final = Context(prec=250, rounding=ROUND_HALF_EVEN)

_FIELDS: Final = {
    "observed_at": "publishTime",
    "data.cost_amount": "costAmount",
    "data.budget_amount": "budgetAmount",
    "data.currency": "currencyCode",
    "data.interval_start": "costIntervalStart",
    "subject": "attributes.budgetId",
    "source": "attributes.billingAccountId",
    "id": "messageId",
}


class _Notification(Struct, frozen=True):
    costAmount: Raw  # noqa: N815 - Google's names
    budgetAmount: Raw  # noqa: N815
    costIntervalStart: str  # noqa: N815
    currencyCode: str  # noqa: N815
    budgetDisplayName: str | None = None  # noqa: N815


_decode = json.Decoder(_Notification).decode


def recognises(message: Delivery) -> bool:
    """Whether a message is one: only budgets have these two attributes."""
    return "budgetId" in message.attributes and "billingAccountId" in message.attributes


def translate(message: Delivery, limits: DecodeLimits) -> Translation:
    """A budget's notification as a `cost.snapshot`. Raises SignalRejectedError, whatever the bytes."""
    attributes = message.attributes
    version = attributes.get("schemaVersion")
    if version != SCHEMA_VERSION:
        reason = Reason.MISSING_FIELD if version is None else Reason.BAD_FIELD
        raise SignalRejectedError(reason, "attributes.schemaVersion", f'expected "{SCHEMA_VERSION}"')
    original = take_message(message, limits)
    try:
        said = _decode(message.payload)
    except DECODE_ERRORS as error:
        raise rejection(error, message.payload) from error
    budget, account = attributes["budgetId"], attributes["billingAccountId"]
    if not budget:
        raise SignalRejectedError(Reason.BAD_FIELD, "attributes.budgetId", "expected the budget's id")
    return Translation(
        form=FORM,
        kind=COST_SNAPSHOT,
        id=message.message_id,
        source=f"//cloudbilling.googleapis.com/billingAccounts/{account}/budgets/{budget}",
        subject=budget,
        observed_us=message.publish_us,
        data={
            "cost_amount": _amount(said.costAmount, "costAmount"),
            "budget_amount": _amount(said.budgetAmount, "budgetAmount"),
            "currency": said.currencyCode,
            "interval_start": said.costIntervalStart,
        },
        facts={
            **attribute_facts(attributes),
            **present(budget=budget, billing_account=account, budget_name=said.budgetDisplayName),
        },
        fields=_FIELDS,
        original=original,
    )


def _amount(raw: Raw, field: str) -> str:
    """A JSON number as a decimal string with six digits after the point, read from its text: a float in between would
    make 0.1 something else.
    """
    text = bytes(raw).decode()
    if not _NUMBER.fullmatch(text):
        raise SignalRejectedError(Reason.BAD_FIELD, field, "expected a JSON number")
    return f"{Decimal(text).quantize(_MICRO, context=_EXACT):f}"
