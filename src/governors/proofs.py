"""What the HTTP edge proves and checks of one partition, by its prover."""

import asyncio
from typing import Final

from governors.api.proof_views import ReceiptProof, VerifyAnswer
from governors.api.service import InvalidFieldError, NotAcceptingError, NotFoundError
from governors.auth.principal import Scope
from ledger.appender import Ledger
from ledger.errors import ProofInvalidError, ReceiptNotFoundError, StoreUnavailableError
from ledger.format import canonical, proof
from ledger.format.note import Verifier
from ledger.format.tiles import parse_tile_path
from ledger.prover import Prover
from ledger.verify.documents import Consistency, TenantBundle, note_of, read_document
from ledger.verify.judge import claimed_origin, judge
from ledger.verify.memory import Memory

_NO_LOG: Final = "this service keeps no signed log"


class LedgerProofs:
    """`Proofs` of a ledger. Without a prover nothing is signed, so there is nothing to prove."""

    def __init__(self, partition: int, ledger: Ledger, prover: Prover | None, verifier: Verifier | None) -> None:
        """`verifier` is that of the log's own key."""
        self._partition = partition
        self._ledger = ledger
        self._prover = prover
        self._verifier = verifier

    def checkpoint(self, partition: int) -> bytes:
        return self._of(partition).head.checkpoint.encode()

    async def tile(self, partition: int, path: str) -> bytes:
        prover = self._of(partition)
        try:
            return await prover.tile(parse_tile_path(path))
        except ValueError as error:
            raise NotFoundError(str(error)) from error
        except StoreUnavailableError as error:
            raise _later(error) from error

    async def consistency(self, partition: int, old: int, new: int | None) -> Consistency:
        prover = self._of(partition)
        try:
            return await prover.consistency(old, new)
        except IndexError as error:
            raise InvalidFieldError("from", str(error)) from error
        except ReceiptNotFoundError as error:
            raise InvalidFieldError("from" if new is None or old > new else "to", str(error)) from error
        except StoreUnavailableError as error:
            raise _later(error) from error

    async def proof(self, partition: int, index: int, scope: Scope) -> ReceiptProof:
        prover = self._of(partition)
        try:
            found, head = await prover.inclusion(index)
        except StoreUnavailableError as error:
            raise _later(error) from error
        leaf = found.extra or b""
        if scope is not None and canonical.decode(leaf).tenant not in map(self._ledger.pseudonym, scope):
            raise NotFoundError(f"no receipt {index} of a tenant that this token is for")
        return ReceiptProof(
            f"{partition}:{index}", index, leaf, list(found.path), head.size, head.root, head.checkpoint,
            proof.encode(found).decode(),
        )  # fmt: skip

    async def bundle(self, tenant: str, after: int, limit: int) -> TenantBundle:
        prover = self._of(self._partition)
        try:
            bundle = await prover.tenant_bundle(tenant, after, limit)
        except StoreUnavailableError as error:
            raise _later(error) from error
        if bundle is None:
            raise NotFoundError(f"there is no receipt of tenant {tenant} behind {after}")
        return bundle

    async def verify(self, document: bytes) -> VerifyAnswer:
        self._of(self._partition)
        try:
            return await self._judge(document)
        except ProofInvalidError as error:
            return VerifyAnswer(ok=False, error=str(error))
        except StoreUnavailableError as error:
            raise _later(error) from error

    async def _judge(self, data: bytes) -> VerifyAnswer:
        """As an auditor does with our key, and then by the log itself, which nobody else has at hand."""
        prover, verifier = self._of(self._partition), self._verifier
        assert verifier is not None  # noqa: S101 - who has a prover has it
        document = await asyncio.to_thread(read_document, data)
        origin = claimed_origin(document)
        if origin != self._ledger.origin:
            raise ProofInvalidError(f"it is of the log {origin!r}, and this is {self._ledger.origin!r}")
        opened = Memory(origin, verifier).open(note_of(document))
        judged = await asyncio.to_thread(judge, document, opened)
        if opened.size > prover.head.size:
            raise ProofInvalidError(
                f"rollback: it was signed at {opened.size} receipts, and this log has {prover.head.size}"
            )
        if await prover.root(opened.size) != opened.root:
            raise ProofInvalidError(
                f"fork: it was signed by this log's key, but at {opened.size} receipts this log has another root"
            )
        return VerifyAnswer(
            ok=True, origin=origin, size=opened.size, root=opened.root.hex(), found=judged.found, says=judged.sentences
        )

    def _of(self, partition: int) -> Prover:
        if partition != self._partition:
            raise NotFoundError(f"partition {partition} is not here")
        if self._prover is None:
            raise NotFoundError(_NO_LOG)
        return self._prover


def _later(error: StoreUnavailableError) -> NotAcceptingError:
    return NotAcceptingError(error.reason, error.retry_after_s)
