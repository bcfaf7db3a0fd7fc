"""What tenants and machines were when a snapshot was made: where a replay begins if what came before was dropped."""

import msgspec
from msgspec import Struct

from governors.tenants.dedup import DedupWindow
from governors.tenants.fold import WindowFold
from governors.tenants.policy import POLICY_KEY, Policy, PolicyUnknownError, read_policy
from governors.tenants.records import (
    Header,
    MachineRecord,
    PolicyRecord,
    decode_header,
    decode_machine,
    decode_policy,
    split_state_key,
)
from ledger.errors import SnapshotInvalidError
from ledger.format.snapshot import Snapshot, decode_chains


class KnownTenant(Struct):
    """A tenant's records."""

    header: Header
    machines: list[MachineRecord[object]]


class Beginning(Struct):
    """After the log's first `size` receipts. `chains` has how many each tenant has and the leaf hash (hex) of its last;
    that and `tenants` are by pseudonym. `runtime` is the pseudonym of the runtime's own chain, `policy` what was in
    force, or else `no_policy` why that is not known, `stopped` whether nobody acted. The `window` changes with use.
    """

    size: int
    runtime: str
    policy: Policy | None
    no_policy: str
    stopped: bool
    window: DedupWindow
    chains: dict[str, tuple[int, str]]
    tenants: dict[str, KnownTenant]


def read_beginning(made: Snapshot) -> Beginning:
    """What a snapshot says. Raises SnapshotInvalidError if this program cannot read it."""
    fold = WindowFold()
    try:
        fold.decode(made.app)
        records: dict[str, KnownTenant] = {}
        for key, value in made.states.items():
            name, machine = split_state_key(key)
            if key != POLICY_KEY and not machine:
                records[name] = KnownTenant(decode_header(value), [])
        for key, value in made.states.items():
            name, machine = split_state_key(key)
            if machine:
                records[name].machines.append(decode_machine(machine, value))
        recorded = decode_policy(made.states[POLICY_KEY]) if POLICY_KEY in made.states else PolicyRecord("")
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise SnapshotInvalidError(f"this program cannot go on from it: {error}") from error
    policy, no_policy = _policy_of(recorded)
    return Beginning(
        made.size,
        recorded.pseudonym,
        policy,
        no_policy,
        recorded.stopped,
        fold.window,
        {name: (count, head.hex()) for name, count, head in decode_chains(made.chains)},
        {one.header.pseudonym: one for one in records.values() if one.header.pseudonym},
    )


def _policy_of(recorded: PolicyRecord) -> tuple[Policy | None, str]:
    if not recorded.document:
        return None, "the policy it was decided under is not in the snapshot"
    try:
        return read_policy(recorded.document), ""
    except PolicyUnknownError as error:
        return None, str(error)
