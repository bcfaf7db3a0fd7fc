"""How workers know each other: each signs what it asks of the others, and says in the store with which key.

So whoever may write into the store is one of the workers; there is no secret to hand out, and each process has a key of
its own. A token is a JSON Web Token (RFC 7519) signed with Ed25519 (RFC 8037), for a minute.

That minute goes by the monotonic clock of who signed, which its heartbeats tell: a worker whose wall clock is an hour
off, or steps, is believed all the same. What others know of that clock is late by as long as a beat takes to be heard
of, for which `auth.jwt` has room. Where it stood still, as that of a suspended machine does, it is known again from the
next beat on. A beat that nothing followed may be the last of a worker that ended long ago: then it is not its clock.
"""

import base64
import functools
from collections.abc import Callable, Sequence
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governors.auth.jwt import KeySet, TokenInvalidError, Trust, key_id_of, principal_of, verify
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
        now_s: Callable[[], float],
        on_stranger: Callable[[], None] = lambda: None,
    ) -> None:
        """`now_s` is the clock that its heartbeats tell. `on_stranger` is called where a token is of a worker that is
        not among the members: it may be new.
        """
        self._on_stranger = on_stranger
        self._worker = worker
        self._members = members
        self._now_s = now_s
        self._key = key
        self._token = ""
        self._renew_s = float("-inf")

    def token(self) -> str:
        """A token to show to another worker."""
        now_s = self._now_s()
        if now_s >= self._renew_s:
            claims = {
                "iss": _TRUST.issuer, "aud": _TRUST.audience, "sub": self._worker, "roles": list(ROLES),
                "iat": int(now_s), "exp": int(now_s) + LIFE_S,
            }  # fmt: skip
            self._token = jwt.encode(claims, self._key, _ALGORITHM, headers={"kid": self._worker})
            self._renew_s = now_s + RENEW_S
        return self._token

    async def principal_of(self, token: bytes) -> Principal | None:
        """The worker whose token it is, None if it is nobody's."""
        try:
            worker = key_id_of(token)
            member = next((one for one in self._members() if one.beat.worker == worker), None)
            if member is None or (key := _key_of(member.beat.key)) is None:
                self._on_stranger()
                return None
            if member.clock_s is None:
                return None
            claims = verify(token, KeySet({worker: key}), _TRUST, int(member.clock_s * 1_000_000))
        except TokenInvalidError:
            return None
        # Each speaks for itself alone.
        return principal_of(claims, _TRUST) if claims["sub"] == worker else None


@functools.lru_cache(maxsize=KEYS_MAX)
def _key_of(said: str) -> jwt.PyJWK | None:
    """What a worker's tokens are checked with; None where it says nothing that could be read."""
    try:
        return jwt.PyJWK({"kty": "OKP", "crv": "Ed25519", "x": said}, _ALGORITHM) if said else None
    except jwt.PyJWTError:
        return None
