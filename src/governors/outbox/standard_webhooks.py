"""Signatures as the Standard Webhooks text has them (https://www.standardwebhooks.com, version 1.0.0). Pure.

Signed is `id.timestamp.body`, once for each secret, so that a receiver can change over to a new one: by HMAC-SHA256
(`v1`) with a secret that the receiver has too, written as `whsec_` and base64, or by Ed25519 (`v1a`) with a private
key, written as `whsk_` and base64, of which it needs the public part alone.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every shared secret begins with
PRIVATE_PREFIX: Final = "whsk_"
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
SEED_BYTES: Final = 32
PRIVATE_BYTES: Final = frozenset({SEED_BYTES, 2 * SEED_BYTES})
"""The seed, behind which some libraries write the public key."""
BODY_BYTES_MAX: Final = 20_000


class SecretInvalidError(ValueError):
    """A text that is no signing secret. The message does not repeat it."""


Key = bytes | Ed25519PrivateKey


def parse_secret(text: str) -> Key:
    """The key in a secret. Raises SecretInvalidError."""
    if text.startswith(PRIVATE_PREFIX):
        key = _decode(text, PRIVATE_PREFIX)
        if len(key) not in PRIVATE_BYTES:
            raise SecretInvalidError(f"a private key has {SEED_BYTES} or {2 * SEED_BYTES} bytes, not {len(key)}")
        return Ed25519PrivateKey.from_private_bytes(key[:SEED_BYTES])
    if not text.startswith(SECRET_PREFIX):
        raise SecretInvalidError(f"a secret begins with {SECRET_PREFIX} or {PRIVATE_PREFIX}")
    key = _decode(text, SECRET_PREFIX)
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise SecretInvalidError(f"a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {len(key)}")
    return key


def sign(keys: Sequence[Key], message_id: str, at_s: int, body: bytes) -> Mapping[str, str]:
    """The three headers of a message. `at_s` is the attempt's own time, the id that of all its attempts."""
    signed = f"{message_id}.{at_s}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(_sign(key, signed) for key in keys),
    }


def _sign(key: Key, signed: bytes) -> str:
    if isinstance(key, Ed25519PrivateKey):
        return "v1a," + base64.b64encode(key.sign(signed)).decode()
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def _decode(text: str, prefix: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretInvalidError(f"what follows {prefix} is not base64") from error
