"""The vocabulary: every kind of signal, with typed data and units in the names.

Money travels as decimal strings and is held as integer micros (1 EUR = 1,000,000), so that no sum ever rounds.
Times travel as RFC 3339 and are held as integer microseconds since the Unix epoch, UTC.
"""

import re
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

# Receipts hold integers exactly only below 2**53 (RFC 8785 section 3.2.2.3), and every amount ends up in one.
MICROS_MAX: Final = 2**53 - 1
_AMOUNT = re.compile(r"(-?)(\d{1,10})(?:\.(\d{1,18}))?", re.ASCII)

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e15)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class Micros(int):
    """An amount of money in millionths of its currency's unit; a decimal string on the wire."""

    __slots__ = ()


class EpochMicros(int):
    """Microseconds since 1970-01-01T00:00:00Z; an RFC 3339 string with an offset on the wire."""

    __slots__ = ()


def parse_micros(text: object) -> Micros:
    """Read a decimal string; digits past the sixth are rounded half to even.

    Raises ValueError for anything but an optional minus, up to ten digits and an optional fraction, and for amounts
    whose micros pass 2**53.
    """
    if not isinstance(text, str) or (match := _AMOUNT.fullmatch(text)) is None:
        raise ValueError('expected a decimal amount in a string, like "910.25"')
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


class CostSnapshot(Struct, frozen=True, forbid_unknown_fields=True):
    """What a period has cost so far, as a billing feed reports it. May fall: credits arrive late."""

    cost_amount: Micros
    budget_amount: Micros
    currency: Currency
    interval_start: EpochMicros
    forecast_amount: Micros | None = None
    interval_end: EpochMicros | None = None


class CostDelta(Struct, frozen=True, forbid_unknown_fields=True):
    """Spend metered by the tenant's own service, added to its period. Negative amounts are credits."""

    amount: Micros
    currency: Currency
    usage_at: EpochMicros
    request_id: Text | None = None


class BudgetSet(Struct, frozen=True, forbid_unknown_fields=True):
    """A new budget; it holds from now on, and again for each interval."""

    budget_amount: Micros
    currency: Currency
    interval: Literal["day", "week", "month"]
    interval_start: EpochMicros | None = None


class RollbackTarget(Struct, frozen=True, forbid_unknown_fields=True):
    """The workload to roll back."""

    kind: Name
    namespace: Name
    name: Name


class DeployStarted(Struct, frozen=True, forbid_unknown_fields=True):
    """A revision begins to take traffic."""

    deploy_id: Name
    revision: Name
    previous_revision: Name
    target: RollbackTarget | None = None


class DeploySample(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests seen by one arm of a deploy in one window: `slow` are those over the latency objective."""

    deploy_id: Name
    arm: Literal["canary", "baseline"]
    requests: Count
    errors: Count
    slow: Count
    window_s: Seconds

    def __post_init__(self) -> None:
        if self.errors > self.requests:
            raise ValueError("errors: more than requests")
        if self.slow > self.requests:
            raise ValueError("slow: more than requests")


class DeployFinished(Struct, frozen=True, forbid_unknown_fields=True):
    """The deploy ended in the eyes of whoever ran it."""

    deploy_id: Name
    result: Literal["succeeded", "failed", "cancelled"]


class Alert(Struct, frozen=True, forbid_unknown_fields=True):
    """An alert of a monitoring system, firing or resolved."""

    fingerprint: Name
    status: Literal["firing", "resolved"]
    severity: Name
    name: Text
    labels: dict[str, str] | None = None


class QueueSample(Struct, frozen=True, forbid_unknown_fields=True):
    """A queue as its broker sees it; rates in messages a second."""

    depth: Count
    oldest_age_s: NonNegative
    in_rate_per_s: NonNegative
    done_rate_per_s: NonNegative


class WorkDone(Struct, frozen=True, forbid_unknown_fields=True):
    """What a consumer finished in one window; sojourn is the time from enqueue to completion."""

    count: Count
    errors: Count
    sojourn_min_ms: NonNegative
    sojourn_p99_ms: NonNegative
    window_s: Seconds

    def __post_init__(self) -> None:
        if self.errors > self.count:
            raise ValueError("errors: more than count")


class TenantEntitlement(Struct, frozen=True, forbid_unknown_fields=True):
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

KINDS: Final[dict[str, type[SignalData]]] = {
    "cost.snapshot": CostSnapshot,
    "cost.delta": CostDelta,
    "budget.set": BudgetSet,
    "deploy.started": DeployStarted,
    "deploy.sample": DeploySample,
    "deploy.finished": DeployFinished,
    "alert": Alert,
    "queue.sample": QueueSample,
    "work.done": WorkDone,
    "tenant.entitlement": TenantEntitlement,
}

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
