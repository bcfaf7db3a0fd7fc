"""Signatures as the Standard Webhooks text has them (https://www.standardwebhooks.com, version 1.0.0). Pure.

Signed is `id.timestamp.body` by HMAC-SHA256, once for each secret, so that a receiver can change over to a new one.
A secret is written as `whsec_` and base64.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
BODY_BYTES_MAX: Final = 20_000


class SecretInvalidError(ValueError):
    """A text that is no signing secret. The message does not repeat it."""


def parse_secret(text: str) -> bytes:
    """The key in a secret. Raises SecretInvalidError."""
    if not text.startswith(SECRET_PREFIX):
        raise SecretInvalidError(f"a secret begins with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretInvalidError(f"what follows {SECRET_PREFIX} is not base64") from error
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise SecretInvalidError(f"a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, not {len(key)}")
    return key


def sign(keys: Sequence[bytes], message_id: str, at_s: int, body: bytes) -> Mapping[str, str]:
    """The three headers of a message. `at_s` is the attempt's own time, the id that of all its attempts."""
    signed = f"{message_id}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
