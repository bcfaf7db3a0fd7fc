"""Proof files: that a leaf stands in a log, for whoever knows the log's origin and key, without asking anybody. Pure.

Format: C2SP tlog-proof (https://c2sp.org/tlog-proof): index, audit path (RFC 6962) and signed checkpoint, as text. This
ledger puts the leaf itself into the `extra` line, so that the file is all that it takes.
"""

from typing import Final

from msgspec import Struct

from ledger.errors import NoteInvalidError
from ledger.format.checkpoint import SIZE_LIMIT, Checkpoint, decode_hash, decode_number, open_checkpoint
from ledger.format.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from ledger.format.note import NOTE_BYTES_MAX, Verifier, decode_base64, encode_base64

HEADER: Final = "c2sp.org/tlog-proof@v1"
PATH_HASHES_MAX: Final = 63
"""The depth of the largest tree that a checkpoint can speak of."""
PROOF_BYTES_MAX: Final = NOTE_BYTES_MAX + 100_000  # the longest leaf takes 87,380 characters

_EXTRA: Final = "extra "
_INDEX: Final = "index "


class TlogProof(Struct, frozen=True):
    """A proof file's content. `checkpoint` is the note as the log signed it, `extra` what nothing in the file proves:
    here the leaf, which `verify` is then given.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def encode(proof: TlogProof) -> bytes:
    """The file. Raises ValueError for what has none."""
    if not 0 <= proof.index < SIZE_LIMIT or any(len(each) != HASH_BYTES for each in proof.path) or proof.extra == b"":
        raise ValueError("an index, a hash or the extra data of the proof cannot be written")
    lines = [HEADER]
    if proof.extra is not None:
        lines.append(_EXTRA + encode_base64(proof.extra))
    lines.append(f"{_INDEX}{proof.index}")
    lines += map(encode_base64, proof.path)
    return "\n".join(lines).encode() + b"\n\n" + proof.checkpoint


def decode(data: bytes) -> TlogProof:
    """What a proof file says, nothing of it verified. Raises NoteInvalidError."""
    if len(data) > PROOF_BYTES_MAX:
        raise NoteInvalidError(f"a proof of {len(data)} bytes; at most {PROOF_BYTES_MAX} are read")
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise NoteInvalidError("the proof is not text") from error
    if first != HEADER:
        raise NoteInvalidError(f"a proof begins with the line {HEADER}")
    if not blank:
        raise NoteInvalidError("the proof has no empty line before a checkpoint")
    extra = None
    if lines and lines[0].startswith(_EXTRA):
        extra = _decode_extra(lines.pop(0).removeprefix(_EXTRA))
    if not lines or not lines[0].startswith(_INDEX):
        raise NoteInvalidError("the proof has no index where it belongs")
    if len(lines) > 1 + PATH_HASHES_MAX:
        raise NoteInvalidError(f"a path of {len(lines) - 1} hashes is longer than any tree is deep")
    index = decode_number(lines[0].removeprefix(_INDEX))
    return TlogProof(index, tuple(map(decode_hash, lines[1:])), checkpoint, extra)


def verify(leaf: bytes, proof: TlogProof, verifier: Verifier, origin: str) -> Checkpoint:
    """Check that the leaf stands at `proof.index` in the log `origin`, as `verifier` signed it; both are the caller's.

    Gives the checkpoint that it was checked against: size and root come from there only, for a path does not bind the
    size. Raises ProofInvalidError (NoteInvalidError where the checkpoint is at fault).
    """
    checkpoint = open_checkpoint(proof.checkpoint, verifier, origin)
    verify_at(leaf, proof, checkpoint)
    return checkpoint


def verify_at(leaf: bytes, proof: TlogProof, checkpoint: Checkpoint) -> None:
    """`verify` where the proof's checkpoint was opened before: for many proofs under one. Raises ProofInvalidError."""
    verify_inclusion(leaf_hash(leaf), proof.index, checkpoint.size, proof.path, checkpoint.root)


def _decode_extra(encoded: str) -> bytes:
    try:
        extra = decode_base64(encoded)
    except ValueError as error:
        raise NoteInvalidError(f"the extra data is not base64: {error}") from error
    if not extra:
        raise NoteInvalidError("an extra line without data; it would have been left out")
    return extra
