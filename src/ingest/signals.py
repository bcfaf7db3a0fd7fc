"""The vocabulary: every kind of signal, with typed data and units in the names.

Money travels as decimal strings and is held as integer micros (1 EUR = 1,000,000), so that no sum ever rounds.
Times travel as RFC 3339 and are held as integer microseconds since the Unix epoch, UTC.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

from msgspec import DecodeError, Meta, Struct, json

T = TypeVar("T")

# Receipts hold integers exactly only below 2**53 (RFC 8785 section 3.2.2.3), and amounts and times end up in them.
INTEGER_MAX: Final = 2**53 - 1
MICROS_MAX: Final = INTEGER_MAX
LABELS_MAX: Final = 64

# \A and \Z, because $ lets a newline pass at the end.
NAME_PATTERN: Final = r"\A[A-Za-z0-9][A-Za-z0-9._:/@+-]*\Z"
NAME_RULE: Final = "expected letters, digits and . _ : / @ + -, beginning with a letter or digit"
TENANT_RULE: Final = "expected letters, digits and . _ : @ + -, beginning with a letter or digit"
CURRENCY_PATTERN: Final = r"\A[A-Z]{3}\Z"
CURRENCY_RULE: Final = 'expected a currency in three capital letters, like "EUR"'
TIME_RULE: Final = 'expected an RFC 3339 time with an offset, like "2026-11-22T10:00:00Z"'
AMOUNT_RULE: Final = 'expected a decimal string, like "910.25"'

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN)]
Currency = Annotated[str, Meta(pattern=CURRENCY_PATTERN)]
Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e15)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Labels = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[str, Meta(max_length=1024)]],
    Meta(max_length=LABELS_MAX),
]
AwareTime = Annotated[datetime, Meta(tz=True)]

# The same as Name and Currency in the kinds that come by the thousand. msgspec calls a pattern's `search` for each,
# 0.3 us against 0.05 us through the caches below (names and currencies repeat); who declares one checks it by
# is_name or is_currency, as the structs here do after decoding.
CheckedName = Annotated[str, Meta(min_length=1, max_length=128)]
CheckedCurrency = Annotated[str, Meta(min_length=3, max_length=3)]

_AMOUNT = re.compile(r"(-?)(\d{1,10})(?:\.(\d{1,18}))?", re.ASCII)
_NAME = re.compile(NAME_PATTERN)
_CURRENCY = re.compile(CURRENCY_PATTERN)
_decode_time = json.Decoder(AwareTime).decode
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Memory(dict[str, T]):
    """What a pure function of a text gave last. A hit costs half of functools.lru_cache's; when full it forgets all."""

    def __init__(self, function: Callable[[str], T], *, entries_max: int) -> None:
        super().__init__()
        self._function = function
        self._entries_max = entries_max

    def __missing__(self, text: str) -> T:
        result = self._function(text)
        if len(self) >= self._entries_max:
            self.clear()
        self[text] = result
        return result


class Micros(int):
    """An amount of money in millionths of its currency's unit; a decimal string on the wire."""

    __slots__ = ()


class EpochMicros(int):
    """Microseconds since 1970-01-01T00:00:00Z; an RFC 3339 string with an offset on the wire."""

    __slots__ = ()


def parse_micros(text: str) -> Micros:
    """Read a decimal string; digits past the sixth are rounded half to even.

    Raises ValueError for anything but an optional minus, up to ten digits and an optional fraction, and for amounts
    whose micros pass 2**53.
    """
    # Nearly every amount is digits, a point and at most six digits more: three times as fast as the general way.
    whole, _, fraction = text.partition(".")
    if len(whole) <= 9 and len(fraction) <= 6 and whole.isdigit() and fraction.isdigit() and text.isascii():
        return Micros(whole + fraction.ljust(6, "0"))
    if (match := _AMOUNT.fullmatch(text)) is None:
        raise ValueError(AMOUNT_RULE)
    sign, whole, fraction = match.groups()
    micros = int(whole) * 1_000_000
    if fraction:
        micros += _round_half_even(fraction) if len(fraction) > 6 else int(fraction.ljust(6, "0"))
    if micros > MICROS_MAX:
        raise ValueError("the amount is too large: at most 9007199254.740991")
    return Micros(-micros if sign else micros)


def _round_half_even(fraction: str) -> int:
    kept, rest = int(fraction[:6]), int(fraction[6:])
    half = 5 * 10 ** (len(fraction) - 7)
    return kept + (rest > half or (rest == half and kept % 2 == 1))


def format_micros(micros: int) -> str:
    """The shortest decimal string with at least two digits after the point: 910250000 -> "910.25"."""
    whole, fraction = divmod(abs(micros), 1_000_000)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{digits}"


def to_epoch_micros(time: datetime) -> int:
    """Microseconds since the epoch of a time with an offset, exactly.

    Raises ValueError before 1970 and from the year 2255 on, where a receipt could not hold the number.
    """
    since = time - EPOCH
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not 0 <= micros <= INTEGER_MAX:
        raise ValueError("expected a time between 1970-01-01 and 2255-06-05")
    return micros


def parse_time(text: str) -> EpochMicros:
    """Read an RFC 3339 time with an offset; digits past the microsecond are rounded. Raises ValueError."""
    # A period's start repeats in each of its snapshots; moments with a fraction hardly ever do.
    return _read_time(text) if "." in text else _recall_time(text)


def _read_time(text: str) -> EpochMicros:
    if "\\" in text:  # which would begin an escape below
        raise ValueError(TIME_RULE)
    try:
        time = _decode_time(f'"{text}"')  # five times as fast as msgspec.convert, which looks at the type in each call
    except (DecodeError, UnicodeError) as error:
        raise ValueError(TIME_RULE) from error
    return EpochMicros(to_epoch_micros(time))


_recall_time = _Memory(_read_time, entries_max=1024).__getitem__


def format_time(epoch_us: int) -> str:
    """RFC 3339 in UTC, to the microsecond where there is a fraction: 0 -> "1970-01-01T00:00:00Z"."""
    return (EPOCH + timedelta(microseconds=epoch_us)).replace(tzinfo=None).isoformat() + "Z"


is_name = _Memory(lambda text: _NAME.match(text) is not None, entries_max=16_384).__getitem__
"""Whether the characters are those of a Name; its length is the caller's to check."""

is_tenant = _Memory(lambda text: _NAME.match(text) is not None and "/" not in text, entries_max=16_384).__getitem__
"""Whether the characters are those of a tenant's name: a Name that is one segment of a path."""

is_currency = _Memory(lambda text: _CURRENCY.match(text) is not None, entries_max=1024).__getitem__
"""Whether it has the shape of an ISO 4217 code."""


# The structs check in __post_init__ what no Meta can say. Such an error begins with the field's name and a colon, from
# which the decoders make its path.


class CostSnapshot(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What a period has cost so far, as a billing feed reports it. May fall: credits arrive late."""

    cost_amount: Micros
    budget_amount: Micros
    currency: CheckedCurrency
    interval_start: EpochMicros
    forecast_amount: Micros | None = None
    interval_end: EpochMicros | None = None

    def __post_init__(self) -> None:
        if not is_currency(self.currency):
            raise ValueError(f"currency: {CURRENCY_RULE}")


class CostDelta(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Spend metered by the tenant's own service, added to its period. Negative amounts are credits."""

    amount: Micros
    currency: CheckedCurrency
    usage_at: EpochMicros
    request_id: Text | None = None

    def __post_init__(self) -> None:
        if not is_currency(self.currency):
            raise ValueError(f"currency: {CURRENCY_RULE}")


class BudgetSet(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A new budget; it holds from now on, and again for each interval."""

    budget_amount: Micros
    currency: Currency
    interval: Literal["day", "week", "month"]
    interval_start: EpochMicros | None = None


class RollbackTarget(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The workload to roll back."""

    kind: Name
    namespace: Name
    name: Name


class DeployStarted(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A revision begins to take traffic."""

    deploy_id: Name
    revision: Name
    previous_revision: Name
    target: RollbackTarget | None = None


class DeploySample(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Requests seen by one arm of a deploy in one window: `slow` are those over the latency objective."""

    deploy_id: CheckedName
    arm: Literal["canary", "baseline"]
    requests: Count
    errors: Count
    slow: Count
    window_s: Seconds

    def __post_init__(self) -> None:
        if not is_name(self.deploy_id):
            raise ValueError(f"deploy_id: {NAME_RULE}")
        requests = self.requests
        if self.errors > requests:
            raise ValueError("errors: more than requests")
        if self.slow > requests:
            raise ValueError("slow: more than requests")


class DeployFinished(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The deploy ended in the eyes of whoever ran it."""

    deploy_id: Name
    result: Literal["succeeded", "failed", "cancelled"]


class Alert(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An alert of a monitoring system, firing or resolved."""

    fingerprint: Name
    status: Literal["firing", "resolved"]
    severity: Name
    name: Text
    labels: Labels | None = None


class QueueSample(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A queue as its broker sees it; rates in messages a second."""

    depth: Count
    oldest_age_s: NonNegative
    in_rate_per_s: NonNegative
    done_rate_per_s: NonNegative


class WorkDone(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What a consumer finished in one window; sojourn is the time from enqueue to completion."""

    count: Count
    errors: Count
    sojourn_min_ms: NonNegative
    sojourn_p99_ms: NonNegative
    window_s: Seconds

    def __post_init__(self) -> None:
        if self.errors > self.count:
            raise ValueError("errors: more than count")


class TenantEntitlement(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Whether a tenant may be governed at all, and under which profile."""

    status: Literal["active", "suspended", "cancelled"]
    profile: Name | None = None


SignalData = (
    CostSnapshot
    | CostDelta
    | BudgetSet
    | DeployStarted
    | DeploySample
    | DeployFinished
    | Alert
    | QueueSample
    | WorkDone
    | TenantEntitlement
)

COST_SNAPSHOT: Final = "cost.snapshot"
COST_DELTA: Final = "cost.delta"
BUDGET_SET: Final = "budget.set"
DEPLOY_STARTED: Final = "deploy.started"
DEPLOY_SAMPLE: Final = "deploy.sample"
DEPLOY_FINISHED: Final = "deploy.finished"
ALERT: Final = "alert"
QUEUE_SAMPLE: Final = "queue.sample"
WORK_DONE: Final = "work.done"
TENANT_ENTITLEMENT: Final = "tenant.entitlement"

KINDS: Final[dict[str, type[SignalData]]] = {
    COST_SNAPSHOT: CostSnapshot,
    COST_DELTA: CostDelta,
    BUDGET_SET: BudgetSet,
    DEPLOY_STARTED: DeployStarted,
    DEPLOY_SAMPLE: DeploySample,
    DEPLOY_FINISHED: DeployFinished,
    ALERT: Alert,
    QUEUE_SAMPLE: QueueSample,
    WORK_DONE: WorkDone,
    TENANT_ENTITLEMENT: TenantEntitlement,
}
KIND_OF: Final[dict[type[SignalData], str]] = {data_type: kind for kind, data_type in KINDS.items()}

DEFAULT_SUBJECT: Final = "default"


class Signal(Struct, frozen=True, gc=False):
    """One decoded signal, whatever wire form it came in.

    `payload` is the sender's own bytes of this signal alone: what a receipt commits to. `received_us` is when this
    service first had it in hand.
    """

    id: Text
    source: Text
    tenant: Name
    kind: str
    subject: Name
    observed_us: int
    received_us: int
    data: SignalData
    payload: bytes
    extra: dict[str, Any] | None = None
