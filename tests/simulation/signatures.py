"""What signs in a simulation: Ed25519 in some schedules, and in the others a hash that takes its place.

A tenth of the time of a schedule would go into curves, and whether a checkpoint is signed over the right bytes, by the
right key, and looked at before it is trusted, shows with either. The stand-in takes over below `ledger.format.note`, so
that notes, key ids and lengths are the same.
"""

import hashlib
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Final, Self
from unittest.mock import patch

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.format import note

TRUE_EVERY: Final = 16
"""One of so many schedules signs with Ed25519."""


def signing(seed: int) -> AbstractContextManager[object]:
    """What signs in the schedule of a seed."""
    stack = ExitStack()
    if seed % TRUE_EVERY:
        stack.enter_context(patch.object(note, "Ed25519PrivateKey", QuickPrivateKey))
        stack.enter_context(patch.object(note, "Ed25519PublicKey", QuickPublicKey))
    return stack


def verify(seed: int, public_key: bytes, signature: bytes, data: bytes) -> None:
    """Raises InvalidSignature."""
    key = QuickPublicKey if seed % TRUE_EVERY else Ed25519PublicKey
    key.from_public_bytes(public_key).verify(signature, data)


class QuickPublicKey:
    """Whoever has this key can sign with it, which nobody here does."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_public_bytes(cls, key: bytes) -> Self:
        return cls(key)

    def public_bytes_raw(self) -> bytes:
        return self._key

    def signature_of(self, data: bytes) -> bytes:
        """64 bytes, as Ed25519 makes."""
        return hashlib.sha512(self._key + data).digest()

    def verify(self, signature: bytes, data: bytes) -> None:
        if signature != self.signature_of(data):
            raise InvalidSignature


class QuickPrivateKey:
    """The same public key as Ed25519 has for a seed, and other signatures."""

    def __init__(self, public_key: QuickPublicKey) -> None:
        self._public_key = public_key

    @classmethod
    def from_private_bytes(cls, seed: bytes) -> Self:
        return cls(QuickPublicKey(_public_bytes(seed)))

    def public_key(self) -> QuickPublicKey:
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        return self._public_key.signature_of(data)


@cache
def _public_bytes(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
