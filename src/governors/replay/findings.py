"""What a replay finds. Several that share a log out by tenant are joined into one. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

MISMATCHES_MAX: Final = 100
"""How many are kept: one cause may show in every receipt behind it."""


class Difference(Struct, frozen=True):
    """One member of a receipt (`fsm.to`, say): what the log has, and what came out. None where there is no such."""

    field: str
    stored: Any
    recomputed: Any


class Mismatch(Struct, frozen=True):
    """A receipt that does not come out as it is stored. `tenant` is the pseudonym."""

    index: int
    tenant: str
    differences: list[Difference]


class Unknown(Struct, frozen=True):
    """A tenant (pseudonym) whose receipts from `index` on could not be replayed, and why."""

    tenant: str
    index: int
    reason: str


class Named(Struct, frozen=True, gc=False):
    """A chain that got its name with receipt `index`."""

    name: str
    tenant: str
    index: int


class Findings(Struct):
    """`receipts` are all that were read, `replayed` those that were made anew, `mismatched` those of them that differ,
    of which the first are kept. `of_ledger` are the ledger's own receipts, which decide nothing. `failed` are events
    that were put aside because a machine failed on them, and on `failed_again` of these it fails still.
    """

    receipts: int = 0
    replayed: int = 0
    mismatched: int = 0
    of_ledger: int = 0
    failed: int = 0
    failed_again: int = 0
    mismatches: list[Mismatch] = []
    unknown: list[Unknown] = []
    named: list[Named] = []

    def differs(self, index: int, tenant: str, differences: list[Difference]) -> None:
        """Note a mismatch."""
        self.mismatched += 1
        if len(self.mismatches) < MISMATCHES_MAX:
            self.mismatches.append(Mismatch(index, tenant, differences))


def join(shares: Sequence[Findings]) -> Findings:
    """The findings of replays that read the same receipts and took different tenants of them."""
    joined = Findings(
        receipts=shares[0].receipts,
        replayed=sum(one.replayed for one in shares),
        mismatched=sum(one.mismatched for one in shares),
        of_ledger=sum(one.of_ledger for one in shares),
        failed=sum(one.failed for one in shares),
        failed_again=sum(one.failed_again for one in shares),
        mismatches=[found for one in shares for found in one.mismatches],
        unknown=sorted((lost for one in shares for lost in one.unknown), key=lambda lost: (lost.index, lost.tenant)),
        named=sorted((named for one in shares for named in one.named), key=lambda named: named.index),
    )
    for found in _second_chains(joined.named):
        joined.mismatched += 1
        joined.mismatches.append(found)
    joined.mismatches = sorted(joined.mismatches, key=lambda found: found.index)[:MISMATCHES_MAX]
    return joined


def _second_chains(named: Sequence[Named]) -> Iterator[Mismatch]:
    """Who has a name has one chain: another one would let a tenant begin as if nothing had been."""
    first: dict[str, str] = {}
    for one in named:
        owner = first.setdefault(one.name, one.tenant)
        if owner != one.tenant:
            yield Mismatch(one.index, one.tenant, [Difference("tenant", one.tenant, owner)])


def differences(stored: bytes, again: bytes) -> Iterator[Difference]:
    """Which members of two leaves differ, those of `evidence` and `fsm` one by one."""
    here, there = _members(stored), _members(again)
    if here == there:
        yield Difference("leaf", stored.decode(errors="replace"), again.decode())
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            yield Difference(name, here.get(name), there.get(name))


def _members(leaf: bytes) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in msgspec.json.decode(leaf).items():
        if name in {"evidence", "fsm"}:
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            flat[name] = value
    return flat
