"""What somebody hands in to be checked: a proof file, a consistency proof, a tenant's bundle. Pure.

docs/formats/bundle.md describes the two that are JSON. Nothing here trusts a document: its checkpoint is opened with a
key from elsewhere, and what it says of itself is held against that.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct, field

from ledger.errors import NotCanonicalError, ProofInvalidError
from ledger.format import canonical, chain, heads, proof
from ledger.format.batch_proof import verify_batch
from ledger.format.checkpoint import Checkpoint
from ledger.format.merkle import leaf_hash, verify_consistency
from ledger.format.proof import TlogProof
from ledger.format.receipt import Receipt

TENANT_BUNDLE: Final = "governors-tenant-bundle@v1"
CONSISTENCY: Final = "governors-consistency@v1"


class Tree(Struct, frozen=True):
    """`size` leaves with the root `root`."""

    size: int
    root: bytes


class Consistency(Struct, frozen=True, tag=CONSISTENCY, tag_field="type"):
    """That the tree `to` continues the tree `from`, and the checkpoint's tree continues `to`."""

    checkpoint: str
    from_: Tree = field(name="from")
    to: Tree
    proof: list[bytes]
    checkpoint_proof: list[bytes]


class BundledReceipt(Struct, frozen=True):
    """A leaf and its index."""

    index: int
    leaf: bytes


class BundledHeads(Struct, frozen=True):
    """A heads receipt, and the tenant's entry in the tree that it has the root of: where, and the audit path.

    The tenant had `next_tseq` receipts then, the last with the leaf hash `head`.
    """

    index: int
    leaf: bytes
    next_tseq: int
    head: bytes
    position: int
    path: list[bytes]


class TenantBundle(Struct, frozen=True, tag=TENANT_BUNDLE, tag_field="type"):
    """A tenant's receipts in order, and one batch proof for them and the heads receipt.

    `more`: there are later receipts that are meant to come in another bundle.
    """

    checkpoint: str
    tenant: str
    receipts: list[BundledReceipt]
    heads: BundledHeads | None
    proof: list[bytes]
    more: bool = False


Document = TlogProof | Consistency | TenantBundle

_decode = msgspec.json.Decoder(Consistency | TenantBundle).decode


class TenantVerdict(NamedTuple):
    """What a tenant's bundle shows: receipts from `first_tseq` to before `next_tseq`, without a gap.

    `complete_to` is the index of the heads receipt that shows that none is missing up to it; None if there is none.
    `after` is how many receipts come later, of which that is not shown.
    """

    tenant: str
    first_tseq: int
    next_tseq: int
    complete_to: int | None
    after: int

    def sentences(self) -> list[str]:
        """For people."""
        count = self.next_tseq - self.first_tseq
        said = [f"{count} receipts of tenant {self.tenant}, numbers {self.first_tseq} to {self.next_tseq - 1}, no gap"]
        if self.first_tseq:
            said.append(f"begins with number {self.first_tseq}: those before it are not in the bundle")
        if self.complete_to is None:
            said.append("completeness is not shown: later receipts may exist that are not in the bundle")
        else:
            said.append(f"complete up to the heads receipt at index {self.complete_to}")
            if self.after:
                said.append(f"then {self.after} more receipts, of which completeness is not shown")
        return said


def read_document(data: bytes) -> Document:
    """What a file holds, nothing of it verified. Raises ProofInvalidError."""
    if data.startswith(proof.HEADER.encode()):
        return proof.decode(data)
    try:
        document: Consistency | TenantBundle = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProofInvalidError(f"neither a proof file nor a consistency proof nor a bundle: {error}") from error
    return document


def note_of(document: Document) -> bytes:
    """The signed checkpoint in a document."""
    note = document.checkpoint
    return note if isinstance(note, bytes) else note.encode()


def check_proof(document: TlogProof, checkpoint: Checkpoint) -> Receipt:
    """The receipt that a proof file holds, if it stands where the file says. Raises ProofInvalidError."""
    if document.extra is None:
        raise ProofInvalidError("the proof file holds no leaf: there is nothing that it could prove")
    proof.verify_at(document.extra, document, checkpoint)
    return _receipt(document.extra, checkpoint.origin)


def check_consistency(document: Consistency, checkpoint: Checkpoint) -> dict[int, bytes]:
    """The sizes and roots that the checkpoint's tree is shown to continue. Raises ProofInvalidError."""
    before, after = document.from_, document.to
    verify_consistency(before.size, before.root, after.size, after.root, document.proof)
    verify_consistency(after.size, after.root, checkpoint.size, checkpoint.root, document.checkpoint_proof)
    return {before.size: before.root, after.size: after.root}


def check_tenant(bundle: TenantBundle, checkpoint: Checkpoint) -> TenantVerdict:
    """What a tenant's bundle shows, under a checkpoint that was opened before. Raises ProofInvalidError."""
    if not bundle.receipts:
        raise ProofInvalidError("the bundle holds no receipt")
    hashes = _check_inclusion(bundle, checkpoint)
    receipts = [_receipt(one.leaf, checkpoint.origin) for one in bundle.receipts]
    _check_chain(bundle, receipts, hashes, checkpoint.origin)
    first, following = receipts[0].tseq, receipts[-1].tseq + 1
    if bundle.heads is None:
        return TenantVerdict(bundle.tenant, first, following, None, following - first)
    known = _check_heads(bundle, bundle.heads, receipts, hashes, checkpoint.origin)
    if not first <= known <= following:  # a part of the receipts, from before or behind the heads receipt
        return TenantVerdict(bundle.tenant, first, following, None, following - first)
    return TenantVerdict(bundle.tenant, first, following, bundle.heads.index, following - known)


def _check_inclusion(bundle: TenantBundle, checkpoint: Checkpoint) -> list[bytes]:
    """The receipts' leaf hashes."""
    if any(one.index >= other.index for one, other in pairwise(bundle.receipts)):
        raise ProofInvalidError("reordered: the receipts' indices do not ascend")
    hashes = [leaf_hash(one.leaf) for one in bundle.receipts]
    leaves = dict(zip([one.index for one in bundle.receipts], hashes, strict=True))
    if bundle.heads is not None:
        digest = leaf_hash(bundle.heads.leaf)
        if leaves.setdefault(bundle.heads.index, digest) != digest:
            raise ProofInvalidError(f"two leaves at index {bundle.heads.index}")
    indices = sorted(leaves)
    verify_batch(indices, [leaves[index] for index in indices], checkpoint.size, bundle.proof, checkpoint.root)
    return hashes


def _check_chain(bundle: TenantBundle, receipts: Sequence[Receipt], hashes: Sequence[bytes], origin: str) -> None:
    """That they are the tenant's, and each follows the one before."""
    first = receipts[0]
    tseq = first.tseq
    prev = chain.genesis(origin, bundle.tenant).hex() if tseq == 0 else first.prev
    for entry, receipt, digest in zip(bundle.receipts, receipts, hashes, strict=True):
        if receipt.tenant != bundle.tenant:
            raise ProofInvalidError(f"receipt {entry.index} is of tenant {receipt.tenant}, not of {bundle.tenant}")
        if receipt.tseq > tseq:
            raise ProofInvalidError(
                f"withheld: receipt {entry.index} is the tenant's number {receipt.tseq}, where {tseq} must come: "
                f"{receipt.tseq - tseq} are missing"
            )
        if receipt.tseq != tseq or receipt.prev != prev:
            raise ProofInvalidError(
                f"reordered: receipt {entry.index} is the tenant's number {receipt.tseq}, where {tseq} must come"
                if receipt.tseq != tseq
                else f"tampered: receipt {entry.index} names another one before it than the one that is here"
            )
        tseq, prev = tseq + 1, digest.hex()


def _check_heads(
    bundle: TenantBundle, shown: BundledHeads, receipts: Sequence[Receipt], hashes: Sequence[bytes], origin: str
) -> int:
    """How many receipts the tenant had at the heads receipt, if those are here that must be."""
    head = heads.Head(bundle.tenant, shown.next_tseq, shown.head)
    statement = heads.verify_head(head, shown.position, shown.path, _receipt(shown.leaf, origin))
    if statement.size > shown.index:
        raise ProofInvalidError(f"the heads receipt at {shown.index} speaks of {statement.size} receipts before it")
    following = receipts[-1].tseq + 1
    if following < shown.next_tseq and not bundle.more:
        raise ProofInvalidError(
            f"withheld: the tenant had {shown.next_tseq} receipts at the heads receipt {shown.index}, and the bundle "
            f"ends with number {following - 1}: the last {shown.next_tseq - following} are missing"
        )
    for entry, receipt, digest in zip(bundle.receipts, receipts, hashes, strict=True):
        if (receipt.tseq < shown.next_tseq) != (entry.index < statement.size):
            raise ProofInvalidError(
                f"the heads receipt {shown.index} counts {shown.next_tseq} receipts of the tenant among the first "
                f"{statement.size}, but number {receipt.tseq} stands at {entry.index}: the log contradicts itself"
            )
        if receipt.tseq == shown.next_tseq - 1 and digest != shown.head:
            raise ProofInvalidError(
                f"fork: number {receipt.tseq} of the tenant is another receipt than the heads receipt {shown.index} has"
            )
    return shown.next_tseq


def _receipt(leaf: bytes, origin: str) -> Receipt:
    try:
        receipt = canonical.check_receipt(leaf)
    except NotCanonicalError as error:
        raise ProofInvalidError(f"a leaf is not a receipt in canonical form: {error}") from error
    if receipt.log != origin:
        raise ProofInvalidError(f"a receipt of the log {receipt.log!r}, not of {origin!r}")
    return receipt
