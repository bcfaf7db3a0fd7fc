"""What a tenant is between two signals: a header and one record for each machine, and their bytes in the ledger."""

from typing import Any, Final, Generic, Literal, Self, TypeVar

from msgspec import Struct, msgpack

from governors.fsm.table import Evidence
from governors.machines.catalog import BY_NAME
from governors.machines.governor import AdmitRule, Governor
from governors.machines.overlays import MachineState

S = TypeVar("S")
SEPARATOR: Final = "\x1f"  # cannot stand in a tenant's, governor's or subject's name
HEADER_KEY: Final = ""
"""The key of the tenant's own record among those of its machines."""
Entitlement = Literal["active", "suspended", "cancelled", "unknown"]


class Header(Struct, frozen=True):
    """The tenant itself. `observed_us` is the sender's time of the newest entitlement that was applied; `pseudonym`
    names its chain of receipts (empty where it was written before that was kept). `stopped`: its governors decide, and
    act on nothing.
    """

    tenant: str
    entitlement: Entitlement
    profile: str
    since_us: int
    observed_us: int = 0
    quarantined: bool = False
    pseudonym: str = ""
    stopped: bool = False


class PolicyRecord(Struct, frozen=True):
    """The last policy document in the log, its digest (SHA-256, hex), and the pseudonym of the chain that has it. The
    two after it are empty where the record was written before they were kept. `stopped`: nobody's governors act.
    """

    digest: str
    document: bytes = b""
    pseudonym: str = ""
    stopped: bool = False


class MachineRecord(Struct, Generic[S], frozen=True, gc=False):
    """One machine: its state, when it next wants a Timeout, and the receipts that say how it got here.

    `last_receipt` is the index of its newest receipt; `because_rule` and `because_evidence` are those of the receipt
    that put its status in force; `asked_receipt` is the index of the one that asked for the action in flight.
    """

    governor: str
    subject: str
    state: MachineState[S]
    deadline_us: int | None
    last_receipt: int
    because_rule: str
    because_evidence: Evidence
    asked_receipt: int = -1


def machine_key(governor: str, subject: str) -> str:
    """Names a machine within its tenant."""
    return governor + SEPARATOR + subject


def state_key(tenant: str, key: str = "") -> str:
    """Names a record within the ledger; without a machine's key it is the header's."""
    return tenant + SEPARATOR + key


def split_state_key(key: str) -> tuple[str, str]:
    """The tenant and the machine's key ("" for the header)."""
    tenant, _, machine = key.partition(SEPARATOR)
    return tenant, machine


class Machine:
    """A live machine: what its record holds, and what its tenant's task needs at hand for every signal.

    Only a decision that has its receipt changes it.
    """

    __slots__ = (
        "admit",
        "asked_receipt",
        "because_evidence",
        "because_rule",
        "deadline_us",
        "governor",
        "last_receipt",
        "policy",
        "state",
        "state_key",
        "subject",
    )

    def __init__(self, tenant: str, governor: Governor, subject: str, policy: Any, state: MachineState[Any]) -> None:
        self.governor = governor
        self.subject = subject
        self.policy = policy
        self.state = state
        self.state_key = state_key(tenant, machine_key(governor.name, subject))
        self.deadline_us: int | None = None
        self.last_receipt = -1
        self.asked_receipt = -1
        self.because_rule = ""
        self.because_evidence: Evidence = {}
        self.admit: AdmitRule | None = None

    @classmethod
    def of(cls, tenant: str, record: MachineRecord[Any], policy: Any) -> Self:
        """The machine of a record."""
        machine = cls(tenant, BY_NAME[record.governor], record.subject, policy, record.state)
        machine.deadline_us = record.deadline_us
        machine.last_receipt = record.last_receipt
        machine.asked_receipt = record.asked_receipt
        machine.because_rule = record.because_rule
        machine.because_evidence = record.because_evidence
        return machine

    def record(self) -> MachineRecord[Any]:
        """The machine as it is now."""
        return MachineRecord(
            self.governor.name,
            self.subject,
            self.state,
            self.deadline_us,
            self.last_receipt,
            self.because_rule,
            self.because_evidence,
            self.asked_receipt,
        )


def plain(value: Any) -> int:
    """What encoders make of the integers with a name of their own (`Micros`, `EpochMicros`)."""
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} has no bytes in a record")


_ENCODER: Final = msgpack.Encoder(enc_hook=plain)
_HEADER: Final = msgpack.Decoder(Header)
_POLICY: Final = msgpack.Decoder(PolicyRecord)


def encode_record(record: Header | Machine | PolicyRecord) -> bytes:
    """A record's bytes for a state frame."""
    return _ENCODER.encode(record.record() if isinstance(record, Machine) else record)


def decode_header(data: bytes) -> Header:
    """Raises msgspec.ValidationError for bytes of another shape."""
    return _HEADER.decode(data)


def decode_policy(data: bytes) -> PolicyRecord:
    """Raises msgspec.ValidationError for bytes of another shape."""
    return _POLICY.decode(data)


def _machine_decoder(governor: Governor) -> msgpack.Decoder[Any]:
    return msgpack.Decoder(MachineRecord[governor.state])  # type: ignore[name-defined]


_MACHINES: Final = {name: _machine_decoder(governor) for name, governor in BY_NAME.items()}


def decode_machine(key: str, data: bytes) -> MachineRecord[Any]:
    """Raises KeyError for a governor this version does not have, msgspec.ValidationError for another shape."""
    governor, _, _ = key.partition(SEPARATOR)
    record: MachineRecord[Any] = _MACHINES[governor].decode(data)
    return record
