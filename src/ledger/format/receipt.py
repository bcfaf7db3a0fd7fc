"""The receipt: one decision about one event of one tenant, as canonical JSON.

The leaf is the exact UTF-8 bytes, in the strict profile of RFC 8785 (JCS): ASCII keys in order, integers below 2**53,
no floats. Fields are declared in the order JCS sorts them, so that encoding needs no sort.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct, field

RECEIPT_VERSION: Final = 1
LEAF_BYTES_MAX: Final = 65_535
INT_LIMIT: Final = 2**53

Int = Annotated[int, Meta(gt=-INT_LIMIT, lt=INT_LIMIT)]
"""What decoding holds every number to."""


class Fsm(Struct, frozen=True, gc=False):
    """Which machine moved on what, from where to where."""

    event: str
    from_: str = field(name="from")
    machine: str
    subject: str
    to: str
    version: Int


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
    epoch: Int
    event_id: str
    evidence: dict[str, Int | str]
    fsm: Fsm
    inputs_commit: str
    log: str
    observed_us: Int
    outcome: str
    policy_digest: str
    prev: str
    rule: str
    source: str
    tenant: str
    ts_us: Int
    tseq: Int
    v: Int
    writer: str
