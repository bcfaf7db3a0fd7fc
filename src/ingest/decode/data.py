"""The `data` of each kind of signal: typed decoding, and what is known of each type for the checks around it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, get_args

from msgspec import Struct, json, structs

from ingest.decode.strict import field_path, has_unsafe_characters
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import (
    AMOUNT_RULE,
    COST_DELTA,
    COST_SNAPSHOT,
    KINDS,
    TIME_RULE,
    Alert,
    CostDelta,
    EpochMicros,
    Micros,
    RollbackTarget,
    SignalData,
    format_time,
    parse_micros,
    parse_time,
    to_epoch_micros,
)


class DataReader(Struct, frozen=True):
    """How to read one kind's data.

    `past_field` is the time in it that tells of something past (a period's end may lie ahead, and a budget's period
    may begin later). `strings` counts the strings, names and values, that data without optional fields has on the
    wire; `optional` names the other fields.
    """

    kind: str
    decode: Callable[[Any], SignalData]
    past_field: str | None
    strings: int
    optional: tuple[str, ...]


_PAST_FIELDS: Final = {COST_SNAPSHOT: "interval_start", COST_DELTA: "usage_at"}


def _read_exactly(wanted: type, value: object) -> Micros | EpochMicros:
    if wanted is Micros:
        if isinstance(value, str):
            return parse_micros(value)
        raise ValueError(AMOUNT_RULE)  # which msgspec turns into an error that names the field
    if isinstance(value, str):
        return parse_time(value)
    raise ValueError(TIME_RULE)


def decoder(wanted: Any) -> Callable[[Any], Any]:
    """A decoder of JSON whose amounts and times are exact."""
    return json.Decoder(wanted, dec_hook=_read_exactly).decode


def _reader(kind: str, data_type: type[SignalData]) -> DataReader:
    fields = structs.fields(data_type)
    required = [field for field in fields if field.required]
    return DataReader(
        kind=kind,
        decode=decoder(data_type),
        past_field=_PAST_FIELDS.get(kind),
        strings=sum(2 if _is_string_on_the_wire(field.type) else 1 for field in required),
        optional=tuple(field.name for field in fields if not field.required),
    )


def _is_string_on_the_wire(annotation: Any) -> bool:
    bare = getattr(annotation, "__origin__", annotation)
    values = get_args(annotation)
    if values and all(isinstance(value, str) for value in values):  # a Literal
        return True
    return isinstance(bare, type) and issubclass(bare, str | Micros | EpochMicros)


READERS: Final[dict[str, DataReader]] = {kind: _reader(kind, data_type) for kind, data_type in KINDS.items()}
READER_OF: Final[dict[type[SignalData], DataReader]] = {KINDS[kind]: reader for kind, reader in READERS.items()}


def strings_in_optional(data: SignalData, names: tuple[str, ...]) -> int:
    """How many strings on the wire the optional fields account for that are set."""
    count = 0
    for name in names:
        match getattr(data, name):
            case None:
                pass
            case dict() as labels:
                count += 1 + 2 * len(labels)
            case RollbackTarget():
                count += 1 + 2 * len(RollbackTarget.__struct_fields__)
            case _:
                count += 2
    return count


def read_observed(time: datetime, latest_us: int, received_us: int, field: str) -> int:
    """The time of the fact in microseconds since the epoch; refused when after `latest_us`."""
    try:
        observed_us = to_epoch_micros(time)
    except ValueError as error:
        raise SignalRejectedError(Reason.BAD_FIELD, field, str(error)) from error
    if observed_us > latest_us:
        raise _future_time(observed_us, received_us, field)
    return observed_us


def check_past(data: SignalData, past_field: str, latest_us: int, received_us: int, path: str) -> None:
    """Refuse data whose `past_field` is after `latest_us`.

    A cost counted in a period that has not begun would make every later one look stale.
    """
    time_us = getattr(data, past_field)
    if time_us is not None and time_us > latest_us:
        raise _future_time(time_us, received_us, f"{path}.{past_field}")


def _future_time(time_us: int, received_us: int, field: str) -> SignalRejectedError:
    message = f"{format_time(time_us)} is too far ahead: this service received it at {format_time(received_us)}"
    return SignalRejectedError(Reason.FUTURE_TIME, field, message)


def check_texts(texts: dict[str, str], data: SignalData, path: str) -> None:
    """Refuse unsafe characters in `texts` (by field) and in the free texts of data; names cannot hold any."""
    for field, text in (texts | _free_texts(data, path)).items():
        if has_unsafe_characters(text):
            message = "control characters and text direction overrides are not allowed"
            raise SignalRejectedError(Reason.BAD_FIELD, field, message)


def _free_texts(data: SignalData, path: str) -> dict[str, str]:
    match data:
        case CostDelta(request_id=str() as request_id):
            return {f"{path}.request_id": request_id}
        case Alert(name=name, labels=labels):
            texts = {f"{path}.name": name}
            for label, value in (labels or {}).items():
                texts[field_path(f"{path}.labels.{label}")] = label + value
            return texts
        case _:
            return {}
