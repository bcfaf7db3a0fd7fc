from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties.signal_strategies import DATA_BY_KIND, RECEIVED_US, signals

from ingest.decode.message import decode_message
from ingest.decode.native import decode_native, encode_native
from ingest.signals import (
    INTEGER_MAX,
    KINDS,
    MICROS_MAX,
    Signal,
    format_micros,
    format_time,
    parse_micros,
    parse_time,
)


def test_the_strategies_know_every_kind() -> None:
    assert DATA_BY_KIND.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_what_was_encoded_is_decoded_to_the_same(kind: str, data: st.DataObject) -> None:
    signal = data.draw(signals(kinds=(kind,)))
    assert decode_native(signal.payload, RECEIVED_US) == signal


@given(signals())
def test_a_message_with_a_native_signal_is_decoded_as_one(signal: Signal) -> None:
    assert decode_message(signal.payload, {}, RECEIVED_US) == signal


@given(signals())
def test_encoding_what_was_decoded_changes_no_byte(signal: Signal) -> None:
    again = decode_native(signal.payload, RECEIVED_US)
    assert (
        encode_native(
            again.data,
            signal_id=again.id,
            source=again.source,
            tenant=again.tenant,
            observed_us=again.observed_us,
            subject=again.subject,
            extra=again.extra,
        )
        == signal.payload
    )


@given(st.integers(-MICROS_MAX, MICROS_MAX))
def test_amounts_survive_the_wire(micros: int) -> None:
    assert parse_micros(format_micros(micros)) == micros


@given(st.integers(0, INTEGER_MAX))
def test_times_survive_the_wire(epoch_us: int) -> None:
    assert parse_time(format_time(epoch_us)) == epoch_us


@given(st.from_regex(r"-?[0-9]{1,9}(\.[0-9]{1,18})?", fullmatch=True))
def test_amounts_are_what_exact_decimal_arithmetic_says(text: str) -> None:
    expected = Decimal(text).quantize(Decimal("0.000001"), rounding=ROUND_HALF_EVEN) * 1_000_000
    assert parse_micros(text) == expected


@given(st.text("0123456789.-+eE_ ٠²\n", max_size=12))
def test_an_amount_is_read_as_a_decimal_or_not_at_all(text: str) -> None:
    try:
        micros = parse_micros(text)
    except ValueError:
        return
    assert micros == (Decimal(text) * 1_000_000).to_integral_value(ROUND_HALF_EVEN)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2254, 1, 1)),  # noqa: DTZ001 - the offset is drawn beside it
    st.integers(-1439, 1439),
)
def test_times_are_what_exact_date_arithmetic_says(wall: datetime, offset_min: int) -> None:
    time = wall.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time(time.isoformat()) == since // timedelta(microseconds=1)
