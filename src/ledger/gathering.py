"""What was put into a ledger and is not cut into a batch yet: drafts become receipts of their chains, leaves of the
tree, and frames. In memory, without I/O and without a loop.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

from ledger.batch import Batch
from ledger.chains import Chains
from ledger.draft import Draft, Limits
from ledger.format import canonical, chain, segment
from ledger.format.merkle import CompactRange
from ledger.format.receipt import RECEIPT_VERSION, Receipt
from ledger.index import Chain

_ENCODED_AT_ONCE: Final = 128
_KEY_BYTES: Final = chain.KEY_BYTES
_sha256 = hashlib.sha256


class Gathering:
    """The batch that gathers. `size` is how many receipts there are in the log, these among them."""

    def __init__(
        self,
        origin: str,
        epoch: int,
        writer: str,
        chains: Chains,
        tree: CompactRange,
        entropy: Callable[[int], bytes],
        limits: Limits,
    ) -> None:
        """`origin`, `epoch` and `writer` stand in every receipt. `chains` and `tree` are as the log's last receipt
        left them; the tree is taken over.
        """
        self.size = tree.size
        self.batch = Batch(self.size)
        self._origin = origin
        self._epoch = epoch
        self._writer = writer
        self._chains = chains
        self._tree = tree
        self._entropy = entropy
        self._limits = limits
        self._encoded_at_once = min(_ENCODED_AT_ONCE, limits.batch_receipts)
        self.drafts: list[Draft] = []
        self._draft_chains: list[Chain] = []
        """Receipts that have their index but no bytes yet, nor a place in their chains; those chains."""
        self.waiting_bytes = 0
        """Of the drafts' payloads, and of the batch's frames."""
        self._encoded_at_bytes = limits.batch_bytes
        """Of these, or as soon as there are as many drafts as `_encoded_at_once`."""

    def __bool__(self) -> bool:
        return bool(self.drafts or self.batch)

    @property
    def is_full(self) -> bool:
        """Whether it should be cut."""
        batch, limits = self.batch, self._limits
        return batch.count >= limits.batch_receipts or batch.body_bytes >= limits.batch_bytes

    def append(self, draft: Draft) -> int:
        """Add a receipt and return its index. Raises ReceiptInvalidError (nothing changed)."""
        canonical.check_draft(
            draft.evidence, draft.ts_us, draft.observed_us, draft.event_id, draft.source, draft.fsm
        )  # fmt: skip
        chains, drafts = self._chains, self.drafts
        self._draft_chains.append(chains.cached.get(draft.tenant) or chains.open(draft.tenant))
        drafts.append(draft)
        self.waiting_bytes = waiting_bytes = self.waiting_bytes + len(draft.payload)
        index = self.size
        self.size = index + 1
        if len(drafts) >= self._encoded_at_once or waiting_bytes >= self._encoded_at_bytes:
            self.encode()
        return index

    def encode(self) -> None:
        """Make leaves and frames of the drafts that wait, many in a row: the code of each step stays in the
        processor's cache, which makes a receipt twice as cheap as encoding it where it is decided.
        """
        drafts, batch = self.drafts, self.batch
        if not drafts:
            return
        payloads = [draft.payload for draft in drafts]
        # Asked for together: each call of the kernel costs as much as a third of a receipt.
        keys = chain.split(self._entropy(_KEY_BYTES * len(drafts)), _KEY_BYTES)
        commitments = chain.commitments(keys, payloads)
        epoch, origin, writer, encode = self._epoch, self._origin, self._writer, canonical.encode_checked
        leaves, hashes = [], []
        for draft, tenant, commitment in zip(drafts, self._draft_chains, commitments, strict=True):
            tseq = tenant.count
            leaf = encode(
                # By position, which takes 0.1 µs where keywords take 0.6: the order is that of the fields.
                Receipt(
                    draft.actions,
                    draft.decision,
                    epoch,
                    draft.event_id,
                    draft.evidence,
                    draft.fsm,
                    commitment,
                    origin,
                    draft.observed_us,
                    draft.outcome,
                    draft.policy_digest,
                    tenant.head.hex(),
                    draft.rule,
                    draft.source,
                    tenant.pseudonym,
                    draft.ts_us,
                    tseq,
                    RECEIPT_VERSION,
                    writer,
                )
            )
            leaves.append(leaf)
            tenant.head = digest = _sha256(b"\0" + leaf).digest()
            hashes.append(digest)
            tenant.count = tseq + 1
        canonical.check_lengths(leaves)
        frames, offsets = segment.encode_receipts(batch.body_bytes, leaves, keys, payloads)
        batch.add(frames)
        batch.count += len(drafts)
        batch.hashes.append(b"".join(hashes))
        batch.offsets += offsets
        batch.tenants += self._draft_chains
        self._tree.extend(hashes)
        self.drafts, self._draft_chains = [], []
        self.waiting_bytes = batch.body_bytes
        self._encoded_at_bytes = batch.body_bytes + self._limits.batch_bytes

    def cut(self, encode_state: Callable[[Any], bytes]) -> Batch:
        """All of it, with the states as they are now; from here on the next batch gathers.

        Whatever `encode_state` raises leaves everything to be cut again.
        """
        self.encode()
        batch = self.batch
        states = b"".join([segment.encode_state(key, encode_state(value)) for key, value in batch.states.items()])
        if states:
            batch.add(states)
        batch.root = self._tree.root()
        self.batch, self.waiting_bytes, self._encoded_at_bytes = Batch(self.size), 0, self._limits.batch_bytes
        return batch
