"""JSON Web Tokens of an issuer that was configured (RFC 7519, OpenID Connect Core 1.0, section 3.1.3.7). Pure.

Only asymmetric signatures are taken, and of those only what the key itself is for: a token never chooses how it is
checked. Time is an argument; issuer, audience and expiry are always checked.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import jwt
from msgspec import Struct

from governors.auth.principal import ROLES, Principal, Role

# RFC 8725, section 3.1: an allow-list. `none` and the HMACs, which a public key could be made to sign, are not in it.
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
TOKEN_BYTES_MAX: Final = 8_192
# How far an issuer's clock may be ahead of ours, or behind.
SKEW_S: Final = 60
# It goes into receipts and logs as whose decision something was.
_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,128}")
_REQUIRED: Final = ["iss", "aud", "exp", "sub"]


class TokenInvalidError(Exception):
    """A token is not one to trust. The message is for the log; whoever sent it is told nothing."""


class UnknownKeyError(TokenInvalidError):
    """The token names a key that is not known here: the issuer may have begun to use a new one."""


class Trust(Struct, frozen=True):
    """Which tokens are believed, and how claims become a principal.

    Without `tenants_claim` every tenant is in scope. With it, a token that lacks the claim has none.
    """

    issuer: str
    audience: str
    roles_claim: str = "roles"
    tenants_claim: str | None = None


class KeySet:
    """An issuer's public keys (RFC 7517) by their ids."""

    def __init__(self, keys: Mapping[str, jwt.PyJWK]) -> None:
        self._keys = keys

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Read a JWK set; keys for other uses, or of kinds that are not taken here, are left out.

        Raises ValueError for what is no JWK set, or has no usable key.
        """
        entries = document.get("keys") if isinstance(document, Mapping) else None
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise ValueError("expected a JWK set: an object with a list of keys")  # noqa: TRY004 - a bad value to the caller
        keys = {}
        for entry in entries:
            key = _usable(entry)
            if key is not None and key.key_id is not None:
                keys[key.key_id] = key
        if not keys:
            raise ValueError(f"no key with an id for signatures by one of {', '.join(ALGORITHMS)}")
        return cls(keys)

    def find(self, key_id: str) -> jwt.PyJWK:
        """Raises UnknownKeyError."""
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKeyError(f"no key {key_id!r}")
        return key


def key_id_of(token: bytes) -> str:
    """Which key a token says that it is signed with; nothing of it was checked. Raises TokenInvalidError."""
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenInvalidError(f"{len(token)} bytes")
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError as error:
        raise TokenInvalidError(str(error)) from error
    if not isinstance(key_id, str):
        raise TokenInvalidError("it names no key")
    return key_id


def verify(token: bytes, keys: KeySet, trust: Trust, now_us: int) -> dict[str, Any]:
    """The claims of a token that is what it says. Raises TokenInvalidError."""
    key = keys.find(key_id_of(token))
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=trust.audience,
            issuer=trust.issuer,
            # The library would ask the machine's clock: times are checked below, by ours.
            options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except jwt.PyJWTError as error:
        raise TokenInvalidError(str(error)) from error
    _check_times(claims, now_us // 1_000_000)
    if not isinstance(claims["sub"], str) or not _SUBJECT.fullmatch(claims["sub"]):
        raise TokenInvalidError("sub is no name that a receipt could hold")
    return claims


def principal_of(claims: Mapping[str, Any], trust: Trust) -> Principal:
    """Whom verified claims speak for. Roles that are not ours are left out: a token may carry others' too."""
    given = claims.get(trust.roles_claim, ())
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else ()
    roles: frozenset[Role] = frozenset(role for role in ROLES if role in words)
    tenants = None
    if trust.tenants_claim is not None:
        named = claims.get(trust.tenants_claim, [])
        tenants = frozenset(one for one in named if isinstance(one, str)) if isinstance(named, list) else frozenset()
    return Principal(claims["sub"], roles, tenants)


def _usable(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK.from_dict(entry)
    except jwt.PyJWTError:
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def _check_times(claims: Mapping[str, Any], now_s: int) -> None:
    for name in ("exp", "nbf", "iat"):
        if name in claims and (type(claims[name]) not in (int, float) or not abs(claims[name]) < 2**53):
            raise TokenInvalidError(f"{name} is not a time")
    if claims["exp"] + SKEW_S <= now_s:
        raise TokenInvalidError("it has expired")
    if max(claims.get("nbf", 0), claims.get("iat", 0)) - SKEW_S > now_s:
        raise TokenInvalidError("it is not valid yet")
