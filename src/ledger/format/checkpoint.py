"""Checkpoints: what a log signs of its tree. Pure.

Format: C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint), a signed note whose text is the log's origin, the size
of its tree and the root (RFC 6962) in base64, each on a line of its own.
"""

import re
from typing import Final

from msgspec import Struct

from ledger.errors import NoteInvalidError
from ledger.format.merkle import HASH_BYTES
from ledger.format.note import Signer, Verifier, decode_base64, encode_base64, open_note

SIZE_LIMIT: Final = 2**63  # where Go's parsers stop

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class Checkpoint(Struct, frozen=True, gc=False):
    """`size` leaves have the Merkle root `root` (32 bytes) in the log called `origin`."""

    origin: str
    size: int
    root: bytes


def encode(checkpoint: Checkpoint) -> bytes:
    """The note text. Raises ValueError for what has none."""
    if not checkpoint.origin or "\n" in checkpoint.origin:
        raise ValueError(f"the origin {checkpoint.origin!r} is not a line of text")
    if not 0 <= checkpoint.size < SIZE_LIMIT or len(checkpoint.root) != HASH_BYTES:
        raise ValueError(f"no tree has the size {checkpoint.size} and a root of {len(checkpoint.root)} bytes")
    return f"{checkpoint.origin}\n{checkpoint.size}\n{encode_base64(checkpoint.root)}\n".encode()


def decode(text: bytes) -> Checkpoint:
    """The checkpoint in a note's text, whoever signed it. Extension lines are passed over. Raises NoteInvalidError."""
    try:
        origin, size, root, *extensions, rest = text.decode().split("\n")
    except ValueError as error:  # too few lines, or not UTF-8
        raise NoteInvalidError("a checkpoint has three lines: origin, size, root") from error
    if rest or not origin or not all(extensions):
        raise NoteInvalidError("a checkpoint's lines are not empty, and the last one ends in a newline")
    return Checkpoint(origin, decode_number(size), decode_hash(root))


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The whole note. A log signs one root for a size, and only what continues all that it signed before.

    Raises ValueError.
    """
    if signer.name != checkpoint.origin:
        raise ValueError(f"the key {signer.name} does not sign for the log {checkpoint.origin}")
    return signer.sign(encode(checkpoint))


def open_checkpoint(note: bytes, verifier: Verifier, origin: str) -> Checkpoint:
    """The checkpoint, if `verifier` signed it and it is of the log `origin`. Both come from the caller's own settings,
    never from where the note came from. Raises NoteInvalidError.
    """
    checkpoint = decode(open_note(note, (verifier,)).text)
    if checkpoint.origin != origin:
        raise NoteInvalidError(f"a checkpoint of the log {checkpoint.origin!r}, not of {origin!r}")
    return checkpoint


def decode_number(text: str) -> int:
    """A size or index as these formats write it: decimal, no leading zeros, below 2**63. Raises NoteInvalidError."""
    if not _NUMBER.fullmatch(text) or int(text) >= SIZE_LIMIT:
        raise NoteInvalidError(f"{text[:40]!r} is not a number as a log writes it")
    return int(text)


def decode_hash(text: str) -> bytes:
    """A hash in base64, on a line of its own. Raises NoteInvalidError."""
    try:
        data = decode_base64(text)
    except ValueError as error:
        raise NoteInvalidError(f"{text[:64]!r} is not base64: {error}") from error
    if len(data) != HASH_BYTES:
        raise NoteInvalidError(f"a hash of {len(data)} bytes, not {HASH_BYTES}")
    return data
