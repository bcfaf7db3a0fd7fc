"""What a piece of a log shows by itself: leaf hashes, canonical form, commitments, the tenants' chains within. Pure.

A piece is a segment, or leaves that stand alone. Pieces are judged apart from each other, in any order and in any
process, and `ledger.fsck` joins what they show. So each check stands here once, whoever runs it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.errors import NotCanonicalError, ProofInvalidError, SegmentFormatError
from ledger.format import canonical, chain, heads, retention, segment
from ledger.format.chain import LEDGER_TENANT
from ledger.format.heads import HeadsStatement
from ledger.format.merkle import leaf_hash
from ledger.format.receipt import Receipt
from ledger.format.retention import RetentionStatement
from ledger.format.segment import COMMITMENT_KEY_BYTES, Batch, Kind, Scan

FINDINGS_MAX: Final = 100
"""Of one piece: one cause may show in every receipt behind it."""
# So few that all of it stays in the processor's cache, which halves the cost of a receipt.
_GROUP: Final = 64
_RECEIPT: Final = int(Kind.RECEIPT)
_PAYLOAD: Final = int(Kind.PAYLOAD)
_STATE: Final = int(Kind.STATE)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What is wrong with receipt `index`, and the byte where it shows. `kind` is one of `fsck.LogError`'s."""

    index: int
    offset: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Link:
    """A tenant's chain within a piece: the receipt it comes in with, and what the one after its last must name."""

    index: int
    offset: int
    tseq: int
    prev: str
    next_tseq: int
    head: str
    """Leaf hash (hex) of the last."""


@dataclass(frozen=True, slots=True)
class SoundBatch:
    """A batch whose frames are in order. `hashes` are its receipts' leaf hashes, 32 bytes each."""

    offset: int
    first_index: int
    count: int
    root: bytes
    hashes: bytes


@dataclass(frozen=True, slots=True)
class StatedHeads:
    """A heads receipt, and where the chains that the piece has seen so far end (as in `Link`)."""

    index: int
    offset: int
    statement: HeadsStatement
    ends: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class StatedDrop:
    """A retention receipt."""

    index: int
    statement: RetentionStatement


@dataclass(frozen=True, slots=True)
class Facts:
    """What a piece shows. `log` is the origin that its receipts name. `broken`: the frames of the batch behind
    `batches` are not in order, and nothing from there on was looked at.
    """

    log: str | None
    batches: list[SoundBatch]
    links: dict[str, Link]
    states: dict[str, bytes]
    """SHA-256 of the last value under each key of a state frame."""
    heads: list[StatedHeads]
    drops: list[StatedDrop]
    findings: list[Finding]
    broken: bool


def of_segment(data: bytes, scan: Scan, log: str | None, skip: int = 0) -> Facts:
    """The facts of a segment's valid batches, without the first `skip`.

    `log` is the origin; None: whatever the first receipt names.
    """
    reading = _Reading(log)
    for batch in scan.batches[skip:]:
        reading.take_batch(data, batch)
        if reading.broken or len(reading.findings) >= FINDINGS_MAX:
            break
    return reading.facts()


def of_leaves(leaves: Sequence[bytes], first_index: int, log: str | None) -> Facts:
    """The facts of leaves that stand alone, as one batch without a root. Offsets are 0."""
    reading = _Reading(log)
    hashes: list[bytes] = []
    for at in range(0, len(leaves), _GROUP):
        group = _Group(first_index + at)
        for leaf in leaves[at : at + _GROUP]:
            group.add(leaf, 0)
        hashes += reading.take_group(group, None)
    reading.batches.append(SoundBatch(0, first_index, len(leaves), b"", b"".join(hashes)))
    return reading.facts()


def chain_break(tenant: str, tseq: int, next_tseq: int) -> str:
    """In words, why a tenant's receipt does not follow the one before it."""
    if tseq == next_tseq:
        return f"tenant {tenant}: its receipt {tseq} names another one before it than the one that stands there"
    if tseq > next_tseq:
        return f"tenant {tenant}: its receipt {tseq} stands where {next_tseq} must: {tseq - next_tseq} are missing"
    return f"tenant {tenant}: its receipt {tseq} stands where {next_tseq} must: repeated, or put in another order"


@dataclass(slots=True)
class _Group:
    """A few receipts in a row, with the payloads that some have."""

    first_index: int
    leaves: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    owners: list[tuple[int, int]] = field(default_factory=list)
    """Of each payload: which leaf of the group it belongs to, and where it stands."""
    keys: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)

    def add(self, leaf: bytes, start: int) -> None:
        self.leaves.append(leaf)
        self.starts.append(start)

    def add_payload(self, content: bytes, start: int) -> bool:
        """False if it is none, or the last receipt has one already."""
        owner = len(self.leaves) - 1
        if owner < 0 or len(content) < COMMITMENT_KEY_BYTES or (self.owners and self.owners[-1][0] == owner):
            return False
        self.owners.append((owner, start))
        self.keys.append(content[:COMMITMENT_KEY_BYTES])
        self.payloads.append(content[COMMITMENT_KEY_BYTES:])
        return True


@dataclass(slots=True)
class _Chain:
    entry: tuple[int, int, int, str]
    next_tseq: int = 0
    head: str = ""


@dataclass(slots=True)
class _Reading:
    """A piece, batch by batch."""

    log: str | None
    batches: list[SoundBatch] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    broken: bool = False
    chains: dict[str, _Chain] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    heads: list[StatedHeads] = field(default_factory=list)
    drops: list[StatedDrop] = field(default_factory=list)

    def facts(self) -> Facts:
        links = {tenant: Link(*one.entry, one.next_tseq, one.head) for tenant, one in self.chains.items()}
        states = {key: hashlib.sha256(value).digest() for key, value in self.states.items()}
        return Facts(self.log, self.batches, links, states, self.heads, self.drops, sorted(self.findings), self.broken)

    def take_batch(self, data: bytes, batch: Batch) -> None:
        hashes: list[bytes] = []
        group = _Group(batch.first_index)
        try:
            for kind, start, end in segment.frames(data, batch):
                content = data[start:end]
                if kind == _RECEIPT:
                    if len(group.leaves) == _GROUP:
                        hashes += self.take_group(group, batch.epoch)
                        group = _Group(batch.first_index + len(hashes))
                    group.add(content, start)
                elif kind == _PAYLOAD:
                    if not group.add_payload(content, start):
                        at = group.first_index + len(group.leaves) - 1
                        self._find(at, start, "commitment", "a payload that no receipt commits to")
                elif kind == _STATE:
                    key, value = segment.decode_state(content)
                    self.states[key] = value
                else:
                    at = group.first_index + len(group.leaves)
                    self._find(at, start, "frame", f"a frame of the unknown kind {kind}")
        except SegmentFormatError as error:
            self._find(group.first_index + len(group.leaves), error.offset, "frame", error.message)
            self.broken = True
        hashes += self.take_group(group, batch.epoch)
        if self.broken:
            return
        if len(hashes) != batch.count:
            message = f"a batch of {batch.count} receipts has {len(hashes)}"
            self._find(batch.first_index, batch.offset, "frame", message)
            self.broken = True
            return
        self.batches.append(SoundBatch(batch.offset, batch.first_index, batch.count, batch.root, b"".join(hashes)))

    def take_group(self, group: _Group, epoch: int | None) -> list[bytes]:
        """The leaf hashes. `epoch`: that which the receipts must name, if it is known."""
        receipts = [
            self._receipt(leaf, group.first_index + at, start)
            for at, (leaf, start) in enumerate(zip(group.leaves, group.starts, strict=True))
        ]
        committed = chain.commitments(group.keys, group.payloads)
        for (owner, start), commitment in zip(group.owners, committed, strict=True):
            receipt = receipts[owner]
            if receipt is None or receipt.inputs_commit != commitment:
                message = "a payload is not the one its receipt commits to"
                self._find(group.first_index + owner, start, "commitment", message)
        hashes = [leaf_hash(leaf) for leaf in group.leaves]
        index, chains = group.first_index, self.chains
        for receipt, digest, start in zip(receipts, hashes, group.starts, strict=True):
            if receipt is not None:
                if self.log is None:
                    self.log = receipt.log
                if receipt.log != self.log or (epoch is not None and receipt.epoch != epoch):
                    self._find(index, start, "foreign", f"a receipt of {receipt.log!r}, epoch {receipt.epoch}")
                tenant, tseq = receipt.tenant, receipt.tseq
                if tenant == LEDGER_TENANT:
                    self._take_statement(receipt, index, start)
                known = chains.get(tenant)
                if known is None:
                    known = chains[tenant] = _Chain((index, start, tseq, receipt.prev))
                elif tseq != known.next_tseq or receipt.prev != known.head:
                    self._find(index, start, "tenant_chain", chain_break(tenant, tseq, known.next_tseq))
                known.next_tseq = tseq + 1
                known.head = digest.hex()
            index += 1
        return hashes

    def _take_statement(self, receipt: Receipt, index: int, start: int) -> None:
        """What the log says of itself."""
        kind = {heads.RULE: "heads", retention.RULE: "retention"}.get(receipt.rule)
        try:
            if kind == "heads":
                ends = {tenant: (one.next_tseq, one.head) for tenant, one in self.chains.items()}
                self.heads.append(StatedHeads(index, start, heads.read_statement(receipt), ends))
            elif kind == "retention":
                self.drops.append(StatedDrop(index, retention.read_statement(receipt)))
        except ProofInvalidError as error:
            self._find(index, start, kind or "", str(error))

    def _receipt(self, leaf: bytes, index: int, start: int) -> Receipt | None:
        try:
            return canonical.check_receipt(leaf)
        except NotCanonicalError as error:
            self._find(index, start, "canonical", str(error))
            return None

    def _find(self, index: int, offset: int, kind: str, message: str) -> None:
        self.findings.append(Finding(index, offset, kind, message))
