"""How workers know each other: each signs what it asks of the others, and says in the store with which key.

So whoever may write into the store is one of the workers; there is no secret to hand out, and each process has a key of
its own. A token is a JSON Web Token (RFC 7519) signed with Ed25519 (RFC 8037), for a minute.
"""

import base64
import functools
from collections.abc import Callable, Sequence
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governors.auth.jwt import KeySet, TokenInvalidError, Trust, UnknownKeyError, principal_of, verify
from governors.auth.principal import Principal, Role
from governors.cluster.workers import Member

KEY_BYTES: Final = 32
KEYS_MAX: Final = 256
"""Of workers that come and go, made ready once and not for each token."""
LIFE_S: Final = 60
RENEW_S: Final = 30
ROLES: Final[tuple[Role, ...]] = ("ingest", "admit")
_TRUST: Final = Trust("governors-worker", "governors-workers")
_ALGORITHM: Final = "EdDSA"


def make_key(entropy: Callable[[int], bytes]) -> Ed25519PrivateKey:
    """A new one."""
    return Ed25519PrivateKey.from_private_bytes(entropy(KEY_BYTES))


def public_part(key: Ed25519PrivateKey) -> str:
    """What the others check tokens with, in base64url."""
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("=")


class Credentials:
    """Of the worker called `worker` with this key; `members` are those whose tokens are taken."""

    def __init__(
        self,
        worker: str,
        key: Ed25519PrivateKey,
        members: Callable[[], Sequence[Member]],
        clock_us: Callable[[], int],
        on_stranger: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_stranger` is called where a token is of a worker that is not among the members: it may be new."""
        self._on_stranger = on_stranger
        self._worker = worker
        self._members = members
        self._clock_us = clock_us
        self._key = key
        self._token = ""
        self._renew_us = 0

    def token(self) -> str:
        """A token to show to another worker."""
        now_us = self._clock_us()
        # Also where the clock went back: a token from the future is nobody's.
        if not self._renew_us - RENEW_S * 1_000_000 <= now_us < self._renew_us:
            now_s = now_us // 1_000_000
            claims = {
                "iss": _TRUST.issuer, "aud": _TRUST.audience, "sub": self._worker, "roles": list(ROLES), "iat": now_s,
                "exp": now_s + LIFE_S,
            }  # fmt: skip
            self._token = jwt.encode(claims, self._key, _ALGORITHM, headers={"kid": self._worker})
            self._renew_us = now_us + RENEW_S * 1_000_000
        return self._token

    async def principal_of(self, token: bytes) -> Principal | None:
        """The worker whose token it is, None if it is nobody's."""
        keys = {one.beat.worker: key for one in self._members() if (key := _key_of(one.beat.key)) is not None}
        try:
            claims = verify(token, KeySet(keys), _TRUST, self._clock_us())
        except UnknownKeyError:
            self._on_stranger()
            return None
        except TokenInvalidError:
            return None
        # Each speaks for itself alone.
        return principal_of(claims, _TRUST) if jwt.get_unverified_header(token)["kid"] == claims["sub"] else None


@functools.lru_cache(maxsize=KEYS_MAX)
def _key_of(said: str) -> jwt.PyJWK | None:
    """What a worker's tokens are checked with; None where it says nothing that could be read."""
    try:
        return jwt.PyJWK({"kty": "OKP", "crv": "Ed25519", "x": said}, _ALGORITHM) if said else None
    except jwt.PyJWTError:
        return None
