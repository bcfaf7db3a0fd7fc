"""A document judged under its own checkpoint, and told to people and to scripts. Pure."""

from typing import Any, NamedTuple

from ledger.format import canonical, checkpoint
from ledger.format.checkpoint import Checkpoint
from ledger.format.note import split_note
from ledger.format.proof import TlogProof
from ledger.verify import documents
from ledger.verify.documents import Consistency, Document, TenantBundle


class Judgement(NamedTuple):
    """What a good document shows. `found` is for JSON, `sentences` for people; `proven` has sizes and roots of trees
    that the checkpoint's was shown to continue.
    """

    found: dict[str, Any]
    sentences: list[str]
    proven: dict[int, bytes]


def claimed_origin(document: Document) -> str:
    """The log that a document says it is of: which of the known keys may open it. Raises ProofInvalidError."""
    return checkpoint.decode(split_note(documents.note_of(document))[0]).origin


def judge(document: Document, opened: Checkpoint) -> Judgement:
    """`opened` is the document's own checkpoint, opened with the log's key. Raises ProofInvalidError."""
    match document:
        case TlogProof():
            receipt = documents.check_proof(document, opened)
            told = f"receipt {document.index}: tenant {receipt.tenant}, {receipt.outcome}, {receipt.decision}"
            decoded = canonical.check(document.extra or b"")
            return Judgement({"kind": "proof", "index": document.index, "receipt": decoded}, [told], {})
        case Consistency():
            proven = documents.check_consistency(document, opened)
            before, after = document.from_.size, document.to.size
            told = f"the log of {after} receipts continues that of {before}"
            return Judgement({"kind": "consistency", "from": before, "to": after}, [told], proven)
        case TenantBundle():
            verdict = documents.check_tenant(document, opened)
            count = verdict.next_tseq - verdict.first_tseq
            return Judgement({"kind": "tenant", "receipts": count, **verdict._asdict()}, verdict.sentences(), {})
