"""Signed notes: a text, an empty line, and lines with signatures of it. Pure.

Format: C2SP signed-note (https://c2sp.org/signed-note), signatures and keys as Go's golang.org/x/mod/sumdb/note writes
them, Ed25519 only. Stricter than Go in one point: base64 must be the one canonical encoding (RFC 4648, sections 3.3 and
3.5), so that no two notes differ in bytes and not in meaning.
"""

import binascii
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import KeyInvalidError, NoteInvalidError

# Limits are Go's. Sixteen signatures must be accepted, and a post-quantum one takes up to 7 kB in base64.
NOTE_BYTES_MAX: Final = 1_000_000
SIGNATURES_MAX: Final = 100
SEED_BYTES: Final = 32
KEY_ID_BYTES: Final = 4

_ED25519: Final = b"\x01"
_PUBLIC_KEY_BYTES: Final = 32
_PRIVATE_PREFIX: Final = "PRIVATE+KEY+"
_DASH: Final = "\N{EM DASH}"
_CONTROLS: Final = bytes(set(range(0x20)) - {0x0A})


class Signature(NamedTuple):
    """One line below a note's text. `signature` is what follows the key id: 64 bytes if it is plain Ed25519."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> bytes:
        """As it stands in a note, with its newline."""
        return f"{_DASH} {self.name} {encode_base64(self.key_id + self.signature)}\n".encode()


class Note(NamedTuple):
    """An opened note. `verified` has each key once, however often it signed. `unknown` signatures are of other keys, a
    witness's perhaps: nothing is known of them.
    """

    text: bytes
    verified: tuple[Signature, ...]
    unknown: tuple[Signature, ...]


class Verifier:
    """A name and the Ed25519 public key that signs under it."""

    __slots__ = ("_key", "key_id", "name", "public_key")

    def __init__(self, name: str, public_key: bytes) -> None:
        """Raises KeyInvalidError."""
        if not _is_name(name):
            raise KeyInvalidError(f"the key name {name!r} is empty or holds white space, a control character or a plus")
        if len(public_key) != _PUBLIC_KEY_BYTES:
            raise KeyInvalidError(f"the public key of {name} has {len(public_key)} bytes, not {_PUBLIC_KEY_BYTES}")
        self.name = name
        self.public_key = public_key
        self.key_id = hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:KEY_ID_BYTES]
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """The verifier that `vkey` writes down: `name+key id (hex)+base64`. Raises KeyInvalidError."""
        name, key_id, material = _parse_key(vkey)
        verifier = cls(name, material)
        if verifier.key_id.hex() != key_id:
            raise KeyInvalidError(f"the key id {key_id} in {vkey[:64]!r}… is not the key's own: a character is wrong")
        return verifier

    @property
    def vkey(self) -> str:
        return _format_key(self.name, self.key_id, self.public_key)

    def verifies(self, text: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A name and the Ed25519 seed (the private key of RFC 8032) that signs under it."""

    __slots__ = ("_key", "_seed", "verifier")

    def __init__(self, name: str, seed: bytes) -> None:
        """Raises KeyInvalidError."""
        if len(seed) != SEED_BYTES:
            raise KeyInvalidError(f"the signing key of {name} has {len(seed)} bytes, not {SEED_BYTES}")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, skey: str) -> Self:
        """The signer that `skey` writes down: `PRIVATE+KEY+name+key id (hex)+base64`.

        Raises KeyInvalidError, whose message never shows the key.
        """
        if not skey.startswith(_PRIVATE_PREFIX):
            raise KeyInvalidError(f"a signing key begins with {_PRIVATE_PREFIX!r}")
        name, key_id, material = _parse_key(skey.removeprefix(_PRIVATE_PREFIX))
        signer = cls(name, material)
        if signer.key_id.hex() != key_id:
            raise KeyInvalidError(f"the key id in the signing key of {name} is not the key's own: a character is wrong")
        return signer

    @property
    def name(self) -> str:
        return self.verifier.name

    @property
    def key_id(self) -> bytes:
        return self.verifier.key_id

    @property
    def public_key(self) -> bytes:
        return self.verifier.public_key

    @property
    def seed(self) -> bytes:
        """Secret."""
        return self._seed

    @property
    def skey(self) -> str:
        """Secret."""
        return _PRIVATE_PREFIX + _format_key(self.name, self.key_id, self._seed)

    def sign(self, text: bytes) -> bytes:
        """The whole note: `text`, which ends in a newline, and this signature. Raises ValueError for another text."""
        if not text.endswith(b"\n") or text.translate(None, _CONTROLS) != text:
            raise ValueError("a note's text ends in a newline and holds no other control character")
        text.decode()  # a UnicodeDecodeError is a ValueError
        return text + b"\n" + Signature(self.name, self.key_id, self._key.sign(text)).line()


def open_note(note: bytes, verifiers: Sequence[Verifier]) -> Note:
    """The note's text, if at least one of `verifiers` signed it and none of their signatures is wrong.

    Raises NoteInvalidError.
    """
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    if len(known) != len(verifiers):
        raise ValueError("two verifiers have the same name and key id")
    text, signatures = split_note(note)
    verified, unknown = [], []
    for each in dict.fromkeys(signatures):  # whoever counts signatures must not count one twice
        verifier = known.get((each.name, each.key_id))
        if verifier is None:
            unknown.append(each)
        elif verifier.verifies(text, each.signature):
            verified.append(each)
        else:
            raise NoteInvalidError(f"the signature of {each.name} is not of this text")
    if not verified:
        signed_by = ", ".join(f"{each.name}+{each.key_id.hex()}" for each in signatures)
        raise NoteInvalidError(f"no trusted key signed the note: it is signed by {signed_by}")
    return Note(text, tuple(verified), tuple(unknown))


def split_note(note: bytes) -> tuple[bytes, tuple[Signature, ...]]:
    """A note's text (with its final newline) and its signatures, none of them verified. Raises NoteInvalidError."""
    if len(note) > NOTE_BYTES_MAX:
        raise NoteInvalidError(f"a note of {len(note)} bytes; at most {NOTE_BYTES_MAX} are read")
    if note.translate(None, _CONTROLS) != note:
        raise NoteInvalidError("the note holds a control character")
    at = note.rfind(b"\n\n")
    if at < 0:
        raise NoteInvalidError("no empty line separates a text from signatures")
    try:
        note.decode()
    except UnicodeDecodeError as error:
        raise NoteInvalidError("the note is not UTF-8") from error
    return note[: at + 1], parse_signatures(note[at + 2 :])


def parse_signatures(lines: bytes) -> tuple[Signature, ...]:
    """The signature lines of a note, or as a witness answers them. Raises NoteInvalidError."""
    try:
        *each, rest = lines.decode().split("\n")
    except UnicodeDecodeError as error:
        raise NoteInvalidError("the signature lines are not UTF-8") from error
    if rest or not each:
        raise NoteInvalidError("the signatures do not end in a newline" if rest else "no signature")
    if len(each) > SIGNATURES_MAX:
        raise NoteInvalidError(f"{len(each)} signatures; at most {SIGNATURES_MAX} are read")
    return tuple(map(_parse_signature, each))


def add_signatures(note: bytes, signatures: Iterable[Signature]) -> bytes:
    """The note with further signature lines, of witnesses for instance; those it has already are left out.

    They are not verified. Raises NoteInvalidError.
    """
    present = set(split_note(note)[1])
    fresh = [each for each in dict.fromkeys(signatures) if each not in present]
    longer = note + b"".join(each.line() for each in fresh)
    split_note(longer)  # the limits
    return longer


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding, in one line."""
    return binascii.b2a_base64(data, newline=False).decode()


def decode_base64(text: str) -> bytes:
    """The bytes that encode to just this text. Raises ValueError."""
    data = binascii.a2b_base64(text, strict_mode=True)
    if encode_base64(data) != text:
        raise ValueError("bits are set in the padding of base64")
    return data


def _parse_signature(line: str) -> Signature:
    dash, name, encoded = line.split(" ") if line.count(" ") == 2 else ("", "", "")
    if dash != _DASH or not _is_name(name):
        raise NoteInvalidError(f"not a signature line: {line[:100]!r}")
    try:
        signature = decode_base64(encoded)
    except ValueError as error:
        raise NoteInvalidError(f"the signature of {name} is not base64: {error}") from error
    if len(signature) <= KEY_ID_BYTES:
        raise NoteInvalidError(f"the signature of {name} is {len(signature)} bytes with its key id")
    return Signature(name, signature[:KEY_ID_BYTES], signature[KEY_ID_BYTES:])


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(char.isspace() or char < " " for char in name)


def _format_key(name: str, key_id: bytes, material: bytes) -> str:
    return f"{name}+{key_id.hex()}+{encode_base64(_ED25519 + material)}"


def _parse_key(key: str) -> tuple[str, str, bytes]:
    """Name, key id and key material. Shows nothing of the material, which may be secret."""
    name, *parts = key.split("+", 2)  # base64 may hold a plus, a name may not
    if len(parts) != 2 or not _is_name(name):
        raise KeyInvalidError("a key is written name+key id+base64")
    key_id, encoded = parts
    try:
        material = decode_base64(encoded)
    except ValueError as error:
        raise KeyInvalidError(f"the key of {name} is not base64") from error
    if not material.startswith(_ED25519):
        raise KeyInvalidError(f"the key of {name} is not of the type Ed25519 (0x01), the only one known here")
    return name, key_id, material.removeprefix(_ED25519)
