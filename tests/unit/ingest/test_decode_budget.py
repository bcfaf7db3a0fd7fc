"""Cloud Billing's budget notifications, on the documented example and on what is known to go wrong with them."""

import json
from decimal import Decimal
from typing import Any

import pytest
from support.foreign import BUDGET, BUDGET_ID, EVERYTHING_TO_ACME, NOON_US, budget, budget_of, message

from ingest.decode.foreign import Unheard
from ingest.decode.limits import DEFAULT_LIMITS
from ingest.decode.message import decode_message, form_of, read_message
from ingest.decode.tenants import Routing
from ingest.errors import SignalRejectedError
from ingest.signals import CostSnapshot, Signal
from ingest.source import Delivery


def read(said: Delivery, routing: Routing = EVERYTHING_TO_ACME) -> Signal:
    signal = read_message(said, routing, NOON_US)
    assert not isinstance(signal, Unheard)
    return signal


def snapshot(said: Delivery) -> CostSnapshot:
    data = read(said).data
    assert isinstance(data, CostSnapshot)
    return data


def rejected(said: Delivery, routing: Routing = EVERYTHING_TO_ACME) -> tuple[str, str]:
    with pytest.raises(SignalRejectedError) as caught:
        read_message(said, routing, NOON_US)
    return caught.value.reason, caught.value.field


def test_the_documented_example_is_a_snapshot() -> None:
    signal = read(budget())
    assert form_of(budget()) == "budget"
    assert signal.data == CostSnapshot(140_321_000, 152_557_000, "USD", 1_612_166_400_000_000)  # type: ignore[arg-type]
    assert (signal.tenant, signal.subject, signal.kind) == ("acme", BUDGET_ID, "cost.snapshot")
    assert signal.observed_us == NOON_US - 2_000_000, "when it was published"


def test_the_signal_keeps_what_was_sent_and_is_read_again_without_rules_or_attributes() -> None:
    signal = read(budget())
    assert signal.extra is not None
    assert signal.extra["message"]["data"].encode() == BUDGET
    assert signal.extra["message"]["attributes"]["budgetId"] == BUDGET_ID
    assert signal.extra["routing_rule"] == 1
    again = decode_message(signal.payload, {}, NOON_US, DEFAULT_LIMITS)
    assert (again.data, again.id, again.tenant) == (signal.data, signal.id, signal.tenant)


@pytest.mark.parametrize("missing", ["alertThresholdExceeded", "forecastThresholdExceeded", "budgetDisplayName"])
def test_a_routine_notification_has_no_thresholds(missing: str) -> None:
    assert snapshot(budget_of(**{missing: ...})) == snapshot(budget())


def test_keys_that_are_not_known_yet_are_let_pass() -> None:
    assert snapshot(budget_of(currentSpendTrend={"a": [1]}, budgetAmountType="SOMETHING_NEW")) == snapshot(budget())


@pytest.mark.parametrize(
    ("number", "micros"),
    [
        ("0.1", 100_000),
        ("0", 0),
        ("-12.5", -12_500_000),
        ("140.32100000000003", 140_321_000),
        ("0.0000005", 0),  # half to even
        ("0.0000015", 2),
        ("1E2", 100_000_000),
        ("1.5e-3", 1_500),
        ("123456789.123456", 123_456_789_123_456),
        ("9007199254.740991", 9_007_199_254_740_991),
        ("9007199254.740990", 9_007_199_254_740_990),  # as a double it would be ….740991
    ],
)
def test_an_amount_is_read_from_its_digits(number: str, micros: int) -> None:
    said = budget(BUDGET.replace(b"140.321", number.encode()))
    assert snapshot(said).cost_amount == micros
    assert snapshot(said).cost_amount == (Decimal(number) * 1_000_000).to_integral_value()


@pytest.mark.parametrize(
    "number", ["1e99", "1e999999999", "9007199254.740992", "-" + "9" * 39, "1" * 41, '"140.321"', "null", "true", "[]"]
)
def test_what_is_no_amount_is_refused_by_name(number: str) -> None:
    reason, field = rejected(budget(BUDGET.replace(b"140.321", number.encode())))
    assert field == "costAmount"
    assert reason in {"bad_field", "not_finite"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_what_is_no_number_never_becomes_one(number: str) -> None:
    assert rejected(budget(BUDGET.replace(b"152.557", number.encode())))[0] in {"not_finite", "bad_json", "bad_field"}


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"costAmount": ...}, "missing_field", "costAmount"),
        ({"budgetAmount": ...}, "missing_field", "budgetAmount"),
        ({"costIntervalStart": ...}, "missing_field", "costIntervalStart"),
        ({"currencyCode": ...}, "missing_field", "currencyCode"),
        ({"currencyCode": "usd"}, "bad_field", "currencyCode"),
        ({"currencyCode": 840}, "bad_field", "currencyCode"),
        ({"costIntervalStart": "February"}, "bad_field", "costIntervalStart"),
        ({"costIntervalStart": "2026-11-23T00:00:00Z"}, "future_time", "costIntervalStart"),
        ({"costIntervalStart": 1612166400}, "bad_field", "costIntervalStart"),
    ],
)
def test_a_rejection_names_googles_field(changes: dict[str, Any], reason: str, field: str) -> None:
    assert rejected(budget_of(**changes)) == (reason, field)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 60_000, b'{"costAmount":1,"costAmount":2}']
)
def test_data_that_is_no_notification_is_refused(payload: bytes) -> None:
    rejected(budget(payload))


def test_another_version_of_the_schema_is_not_guessed_at() -> None:
    assert rejected(budget(schemaVersion="2.0")) == ("bad_field", "attributes.schemaVersion")
    without = message(BUDGET, {"budgetId": BUDGET_ID, "billingAccountId": "1"})
    assert rejected(without) == ("missing_field", "attributes.schemaVersion")


def test_a_budget_that_cannot_be_a_subject_is_refused() -> None:
    assert rejected(budget(budgetId="my budget")) == ("bad_field", "attributes.budgetId")
    assert rejected(budget(budgetId="")) == ("bad_field", "attributes.budgetId")


def test_two_deliveries_of_one_message_are_one_fact_and_the_next_notification_is_another() -> None:
    first, again = read(budget()), read_message(budget(), EVERYTHING_TO_ACME, NOON_US + 60_000_000)
    assert isinstance(again, Signal)
    assert (first.id, first.source, first.observed_us) == (again.id, again.source, again.observed_us)
    later = read(Delivery(BUDGET, budget().attributes, "8841", NOON_US, 1, "", "a"))
    assert (later.id, later.source) != (first.id, first.source)


def test_without_an_id_or_a_time_a_message_is_no_fact() -> None:
    assert rejected(message(BUDGET, dict(budget().attributes), message_id="")) == ("missing_field", "messageId")
    assert rejected(message(BUDGET, dict(budget().attributes), publish_us=0)) == ("missing_field", "publishTime")


def test_what_is_too_large_is_refused_attributes_included() -> None:
    assert rejected(budget(note="x" * 70_000))[0] == "too_large"
    assert rejected(budget_of(note="x" * 70_000))[0] == "too_large"


def test_a_message_at_the_limit_is_kept_whole_whatever_it_takes_to_write_it_down() -> None:
    room = DEFAULT_LIMITS.signal_bytes_max - len(BUDGET) - 1_000
    document = json.loads(BUDGET) | {"note": '\x01"\\' * (room // 15)}
    signal = read(budget(json.dumps(document).encode()))
    assert signal.extra is not None
    assert json.loads(signal.extra["message"]["data"]) == document


def test_without_a_rule_nobody_is_charged() -> None:
    assert rejected(budget(), Routing()) == ("no_tenant", "")
