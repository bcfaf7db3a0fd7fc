"""The receipt: one decision about one event of one tenant, as canonical JSON.

The leaf is the exact UTF-8 bytes, in the strict profile of RFC 8785 (JCS): ASCII keys in order, integers below 2**53,
no floats. Fields are declared in the order JCS sorts them, so that encoding needs no sort.
"""

from typing import Final

from msgspec import Struct, field

RECEIPT_VERSION: Final = 1
LEAF_BYTES_MAX: Final = 65_535


class Fsm(Struct, frozen=True, gc=False):
    """Which machine moved on what, from where to where."""

    event: str
    from_: str = field(name="from")
    machine: str
    subject: str
    to: str
    version: int


class Receipt(Struct, frozen=True, gc=False):
    """A decision as the ledger keeps it.

    `outcome` is `decided`, `stale`, `refused`, `rejected` or `dead_lettered`; `decision` the governor's word (`none`
    when nothing changed). `tenant` is the tenant's pseudonym, `prev` the leaf hash (hex) of the tenant's receipt
    before it, or its genesis; `tseq` counts the tenant's receipts from 0. `inputs_commit` is HMAC-SHA256 (hex) over
    the sender's bytes under the key that the payload frame keeps. `ts_us` is when it was decided, `observed_us` when
    the fact was observed.
    """

    actions: tuple[str, ...]
    decision: str
    epoch: int
    event_id: str
    evidence: dict[str, int | str]
    fsm: Fsm
    inputs_commit: str
    log: str
    observed_us: int
    outcome: str
    policy_digest: str
    prev: str
    rule: str
    source: str
    tenant: str
    ts_us: int
    tseq: int
    v: int
    writer: str
