"""What operators ask of the service, as receipts in a chain of their own: who, what, when, from where, why, and what
became of it. Pure.

The decision that an operation leads to has its receipt in its tenant's chain. This one is of the asking, and so there
is one also where nothing was decided, because there was no such machine or whoever asked had no right to it.
"""

import re
from typing import Final

import msgspec
from msgspec import Struct

from governors.machines.catalog import OPERATOR
from governors.tenants.decide import Decided
from ingest.signals import DEFAULT_SUBJECT

OPERATION_VERSION: Final = 1
OPERATION: Final = "operation"
# Whose chain it is; no sender can name a tenant like this.
OPERATORS_TENANT: Final = "_operators"
ASKED_CHARS_MAX: Final = 4_096
FIRST_REFUSAL: Final = 400  # the least HTTP status that says no

# Our own tokens and JSON Web Tokens, where somebody wrote one into a body by mistake.
_TOKENS: Final = re.compile(r"gov_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class Operation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request of an operator, as the payload of its receipt.

    `by` is whom the token speaks for, never the token; `local` where nobody is asked who they are. `action` is the
    method and the route, `path` what was asked for, without the query; `asked` the body's beginning as text,
    `asked_bytes` how large all of it was; `address` that of the connection's other end, which may be a proxy's.
    `status` is the answer's, `problem` its type where it is a problem, `receipt` that of the decision. `left_out`:
    refusals since the operation before this one that have no receipt, because there were too many.
    """

    at_us: int
    by: str
    action: str
    path: str
    status: int
    address: str = ""
    tenant: str = ""
    reason: str = ""
    asked: str = ""
    asked_bytes: int = 0
    problem: str = ""
    detail: str = ""
    receipt: str = ""
    left_out: int = 0


class OperationInvalidError(ValueError):
    """The bytes are no operation."""


def decide_operation(operation: Operation) -> Decided:
    """What the receipt says: without what somebody may want to have erased, which stands in the payload alone."""
    done = operation.status < FIRST_REFUSAL
    evidence: dict[str, int | str] = {
        "action": operation.action,
        "by": operation.by,
        "left_out": operation.left_out,
        "status": operation.status,
    }
    if operation.problem:
        evidence["problem"] = operation.problem
    if operation.receipt:
        evidence["receipt"] = operation.receipt
    return Decided(
        outcome="decided" if done else "refused",
        decision="operate" if done else "none",
        rule="operator.asked",
        evidence=evidence,
        governor=OPERATOR,
        version=OPERATION_VERSION,
        subject=DEFAULT_SUBJECT,
        event=OPERATION,
        from_status="",
        to_status="",
        event_id=f"operation-{operation.at_us}",
    )


def asked_text(body: bytes) -> str:
    """The beginning of a body, without what looks like a token."""
    text = body.decode("utf-8", "replace")
    return _TOKENS.sub("(a token)", text)[:ASKED_CHARS_MAX]


encode_operation: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Operation).decode


def decode_operation(payload: bytes) -> Operation:
    """Raises OperationInvalidError."""
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationInvalidError(str(error)) from error
