"""How much of anything a decoder takes in."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on input; what passes one is refused, never cut."""

    body_bytes_max: int = 4 * 1024 * 1024
    """One HTTP body."""

    batch_max: int = 10_000
    """Signals in one HTTP body."""

    body_tokens_max: int = 640_000
    """Commas, brackets and strings, or lines, in one HTTP body: what splitting it may cost. A signal has about 40."""

    signal_bytes_max: int = 65_536
    """One signal in its wire form. The ledger keeps these bytes, so that its receipt can be run again."""

    extra_bytes_max: int = 8_192
    """The sender's own `extra`, as part of those."""

    extra_depth_max: int = 16
    """Objects and arrays inside one another in `extra`, itself counted."""

    future_us_max: int = 3_600_000_000
    """How far ahead of this service's clock a sender's clock may be, in microseconds: one hour."""


DEFAULT_LIMITS: Final = DecodeLimits()
