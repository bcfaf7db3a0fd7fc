"""What a caller puts into a ledger, and how much of it may wait there."""

from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from ledger.format.receipt import Fsm


class Draft(Struct, frozen=True, gc=False):
    """What the caller knows of a receipt; the ledger adds the rest. `tenant` is its name, `payload` the sender's
    bytes. Fields as in `Receipt`.
    """

    tenant: str
    event_id: str
    source: str
    observed_us: int
    ts_us: int
    outcome: str
    decision: str
    rule: str
    evidence: dict[str, int | str]
    fsm: Fsm
    policy_digest: str
    actions: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of memory and of files."""

    batch_bytes: int = 1 << 20
    """A batch is cut soon after it has this many bytes (a slow disk writes them in 10 ms), …"""
    batch_receipts: int = 10_000
    """… or this many receipts: what one fdatasync makes everybody in it wait for."""
    segment_bytes: int = 16 << 20
    """A segment is sealed before it passes this (one long batch alone may pass it)."""
    pending_bytes: int = 64 << 20
    """What may wait for the disk before append() pushes back."""
    retry_after_s: float = 0.25
    """What append() then asks for: the time a slow disk needs for a few batches."""


DEFAULT_LIMITS: Final = Limits()
