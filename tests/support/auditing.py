"""A log in memory with a key of its own: what auditors' tests verify, forge and spoil."""

from dataclasses import dataclass, field
from pathlib import Path

from support.ledger_scenes import FSM, segments

from ledger.format import canonical, chain, heads, segment
from ledger.format.batch_proof import batch_ranges
from ledger.format.checkpoint import Checkpoint, sign_checkpoint
from ledger.format.heads import HeadList, HeadsStatement
from ledger.format.merkle import consistency_proof, inclusion_proof, leaf_hash, root_of
from ledger.format.note import Signer, Verifier
from ledger.format.proof import TlogProof
from ledger.format.receipt import Fsm, Receipt
from ledger.format.segment import Kind
from ledger.format.tiles import TILE_WIDTH, TileTree, bundles_between, encode_entries, tile_path, tiles_between
from ledger.verify.documents import BundledHeads, BundledReceipt, Consistency, TenantBundle, Tree

ORIGIN = "ledger.test/log/0"
SIGNER = Signer(ORIGIN, bytes(range(32)))
VERIFIER = Verifier(ORIGIN, SIGNER.public_key)


def pseudonym(name: str) -> str:
    return chain.pseudonym(bytes(32), name)


@dataclass
class Log:
    """A log that signs whatever it is told to."""

    leaves: list[bytes] = field(default_factory=list)
    ends: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    heads: dict[int, HeadList] = field(default_factory=dict)

    def add(self, name: str, decision: str = "none") -> int:
        return self.append(pseudonym(name), decision, FSM, {"n": len(self.leaves)}, "r")

    def add_heads(self) -> int:
        entries = HeadList.of((tenant, count, last) for tenant, (count, last) in self.ends.items())
        statement = HeadsStatement(len(entries), len(self.leaves), entries.root())
        index = self.append(chain.LEDGER_TENANT, "none", heads.FSM, heads.evidence(statement), heads.RULE)
        self.heads[index] = entries
        return index

    def append(self, tenant: str, decision: str, fsm: Fsm, evidence: dict[str, int | str], rule: str) -> int:
        tseq, last = self.ends.get(tenant) or (0, chain.genesis(ORIGIN, tenant))
        index = len(self.leaves)
        receipt = Receipt(
            (), decision, 1, f"e-{index}", evidence, fsm, "0" * 64, ORIGIN, 1, "decided", "d", last.hex(), rule, "s",
            tenant, 2, tseq, 1, "w",
        )  # fmt: skip
        self.leaves.append(canonical.encode(receipt))
        self.ends[tenant] = (tseq + 1, leaf_hash(self.leaves[-1]))
        return index

    def hashes(self, size: int | None = None) -> list[bytes]:
        return [leaf_hash(leaf) for leaf in self.leaves[:size]]

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        hashes = self.hashes(size)
        return Checkpoint(ORIGIN, len(hashes), root_of(hashes))

    def note(self, size: int | None = None) -> bytes:
        return sign_checkpoint(self.checkpoint(size), SIGNER)

    def proof(self, index: int, size: int | None = None) -> TlogProof:
        path = tuple(inclusion_proof(self.hashes(size), index))
        return TlogProof(index, path, self.note(size), self.leaves[index])

    def consistency(self, old: int, size: int, signed: int | None = None) -> Consistency:
        return Consistency(
            self.note(signed).decode(),
            Tree(old, root_of(self.hashes(old))),
            Tree(size, root_of(self.hashes(size))),
            consistency_proof(self.hashes(size), old),
            consistency_proof(self.hashes(signed), size),
        )

    def indices(self, name: str) -> list[int]:
        tenant = f'"tenant":"{pseudonym(name)}"'.encode()
        return [index for index, leaf in enumerate(self.leaves) if tenant in leaf]

    def bundle(
        self, name: str, *, only: list[int] | None = None, heads_at: int | None = None, more: bool = False
    ) -> TenantBundle:
        """`only`: these of the tenant's indices."""
        indices = self.indices(name) if only is None else only
        shown = None
        if heads_at is not None:
            found = self.heads[heads_at].prove(pseudonym(name))
            leaf, end = self.leaves[heads_at], found.head
            shown = BundledHeads(heads_at, leaf, end.next_tseq, end.leaf_hash, found.index, found.path)
        proven = sorted({*indices, *([heads_at] if heads_at is not None else [])})
        hashes = self.hashes()
        return TenantBundle(
            self.note().decode(),
            pseudonym(name),
            [BundledReceipt(index, self.leaves[index]) for index in indices],
            shown,
            [root_of(hashes[start:end]) for start, end in batch_ranges(proven, len(hashes))],
            more,
        )


def publish(folder: Path, leaves: list[bytes], signer: Signer = SIGNER) -> None:
    """Checkpoint, tiles and entry bundles of a log, as a folder serves them."""
    tree = TileTree()
    tree.extend(b"".join(map(leaf_hash, leaves)))
    for tile in tiles_between(0, len(leaves)):
        write(folder / tile_path(tile), tree.tile(tile))
    for bundle in bundles_between(0, len(leaves)):
        first = bundle.number * TILE_WIDTH
        write(folder / tile_path(bundle), encode_entries(leaves[first : first + bundle.width]))
    write(folder / "checkpoint", sign_checkpoint(Checkpoint(signer.name, len(leaves), tree.root()), signer))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def leaves_of(data_dir: Path) -> list[bytes]:
    """All leaves of a data folder's one partition."""
    found = []
    for path in segments(data_dir):
        data = path.read_bytes()
        for batch in segment.scan(data).batches:
            found += [data[start:end] for kind, start, end in segment.frames(data, batch) if kind == Kind.RECEIPT]
    return found
