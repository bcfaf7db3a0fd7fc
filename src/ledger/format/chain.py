"""Each tenant's receipts form a chain: `prev` of one is the leaf hash of the one before, and the first names genesis.

The leaf hash is the tree's (RFC 6962), so one hash serves chain and tree. A chain is extra evidence: it shows that
nothing is missing between two receipts of a tenant. It never replaces a Merkle proof.
"""

import hashlib
import hmac
import struct
from collections.abc import Sequence
from operator import add
from typing import Final

GENESIS_PREFIX: Final = b"govledger/genesis/v1\0"
PSEUDONYM_CHARS: Final = 32
LEDGER_NAME: Final = "_ledger"
"""The tenant under which the log itself writes. No sender can name it."""
LEDGER_TENANT: Final = "0" * PSEUDONYM_CHARS
"""Its pseudonym, the same in every log, so that anybody can tell these receipts."""
KEY_BYTES: Final = 32

# RFC 2104: a key is filled up with zeros to SHA-256's block, and each byte of that xored with one of two pads.
_BLOCK_BYTES: Final = 64
_FILL: Final = bytes(_BLOCK_BYTES - KEY_BYTES)
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))

_sha256 = hashlib.sha256
_digest = type(_sha256()).digest
_hexdigest = type(_sha256()).hexdigest


def genesis(log: str, tenant: str) -> bytes:
    """What the first receipt of a tenant (a pseudonym) in a log (an origin) has as `prev`, as 32 bytes."""
    return _sha256(GENESIS_PREFIX + log.encode() + b"\0" + tenant.encode()).digest()


def pseudonym(key: bytes, tenant: str) -> str:
    """The name a tenant has in receipts: 128 bits of HMAC-SHA256 under the folder's key, in hex."""
    if tenant == LEDGER_NAME:
        return LEDGER_TENANT
    return hmac.digest(key, tenant.encode(), "sha256").hex()[:PSEUDONYM_CHARS]


def commitment(key: bytes, payload: bytes) -> str:
    """`inputs_commit`: HMAC-SHA256 (hex) of the sender's bytes under a random key of 32 bytes."""
    return hmac.digest(key, payload, "sha256").hex()


def commitments(keys: Sequence[bytes], payloads: Sequence[bytes]) -> list[str]:
    """`commitment` of many at half its cost: RFC 2104 written out, in columns that no step in Python goes through.

    Every key has exactly 32 bytes.
    """
    filled = _FILL.join((*keys, b""))
    inner = split(filled.translate(_INNER), _BLOCK_BYTES)
    outer = split(filled.translate(_OUTER), _BLOCK_BYTES)
    hashes = map(_digest, map(_sha256, map(add, inner, payloads)))
    return list(map(_hexdigest, map(_sha256, map(add, outer, hashes))))


def split(data: bytes, size: int) -> tuple[bytes, ...]:
    """The pieces of `size` bytes that `data` consists of."""
    return struct.unpack(f"{size}s" * (len(data) // size), data)
