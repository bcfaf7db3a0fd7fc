"""Bearer tokens (RFC 6750): what a token file says, and whose token one is. Pure.

A token file is YAML. It holds no token, only SHA-256 digests: tokens are 32 random bytes (`governors token`), so
there is nothing to guess, and a slow hash would only slow the service down.

    tokens:
      - name: billing-feed
        sha256: 4f6e…                 # of the token's ASCII characters
        roles: [ingest]
        tenants: [acme, globex]       # absent: every tenant
        expires: 2027-01-01T00:00:00Z # absent: never

To rotate a token, add its successor under the same name, give the new one out, and remove the old one.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Self

import msgspec
import yaml
from msgspec import Meta, Struct

from governors.auth.principal import Principal, Role
from ingest.signals import TENANT_RULE, is_tenant

TOKEN_PREFIX: Final = "gov_"  # noqa: S105 - what every token begins with, so that scanners find leaked ones
TOKEN_BYTES: Final = 32
# RFC 6750, section 2.1: b64token. The bound keeps a header from being a way to spend our time.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]{16,512}=*")
_TOKEN_BYTES_MAX: Final = 1_024  # of what is looked at; the expression says more exactly which are none
_DIGEST: Final = r"\A[0-9a-f]{64}\Z"


class TokenFileError(Exception):
    """A token file cannot be used. The message names the entry and the field; nothing of it is taken over."""


class TokenEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a token file."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}\Z")]
    sha256: Annotated[str, Meta(pattern=_DIGEST)]
    roles: Annotated[list[Role], Meta(min_length=1)]
    tenants: Annotated[list[str], Meta(min_length=1)] | None = None
    expires: Annotated[datetime, Meta(tz=True)] | None = None


class TokenFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A token file as a whole. An empty list shuts everybody out."""

    tokens: list[TokenEntry]


class _Known(Struct, frozen=True):
    digest: bytes
    principal: Principal
    expires_us: int | None


class Tokens:
    """The principals of a token file. Tokens that were shown are known again by a hash that is faster than SHA-256; of
    those that are nobody's nothing is kept.
    """

    def __init__(self, known: Iterable[_Known] = ()) -> None:
        self._known: Mapping[bytes, _Known] = {one.digest: one for one in known}
        self._shown: dict[bytes, tuple[bytes, _Known]] = {}

    def __len__(self) -> int:
        return len(self._known)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token file. Raises TokenFileError."""
        try:
            file = msgspec.convert(_load_yaml(text), TokenFile)
        except msgspec.ValidationError as error:
            raise TokenFileError(_in_words(error)) from error
        return cls(_known(number, entry, file.tokens[:number]) for number, entry in enumerate(file.tokens))

    def principal_of(self, token: bytes, now_us: int) -> Principal | None:
        """Whose token this is; None if it is nobody's, malformed or expired."""
        if len(token) > _TOKEN_BYTES_MAX:
            return None
        # Each search goes by a digest that a caller cannot steer towards a stored one; the comparison that lets them in
        # takes the same time for every digest.
        mark = hashlib.blake2b(token, digest_size=32).digest()
        shown = self._shown.get(mark)
        if shown is not None and hmac.compare_digest(shown[0], mark):
            known = shown[1]
        elif (found := self._find(token)) is not None:
            known = found
            self._shown[mark] = (mark, known)
        else:
            return None
        if known.expires_us is not None and known.expires_us <= now_us:
            return None
        return known.principal

    def _find(self, token: bytes) -> _Known | None:
        if not _TOKEN.fullmatch(token):
            return None
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        return known if known is not None and hmac.compare_digest(known.digest, digest) else None


def new_token(entropy: bytes) -> str:
    """A token from `TOKEN_BYTES` random bytes."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()


def digest_of(token: str) -> str:
    """What a token file says of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _load_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TokenFileError("not YAML: " + " ".join(str(error).split())) from error


def _in_words(error: msgspec.ValidationError) -> str:
    message, _, path = str(error).partition(" - at ")
    return f"{path.strip('`').removeprefix('$.') or 'the file'}: {message}"


def _known(number: int, entry: TokenEntry, before: list[TokenEntry]) -> _Known:
    place = f"tokens[{number}]"
    if entry.sha256 == hashlib.sha256(b"").hexdigest():
        raise TokenFileError(f"{place}.sha256: the digest of nothing")
    for other, earlier in enumerate(before):
        if earlier.sha256 == entry.sha256:
            raise TokenFileError(f"{place}.sha256: the same token as tokens[{other}]")
    for tenant in entry.tenants or ():
        if not is_tenant(tenant):
            raise TokenFileError(f"{place}.tenants: {tenant!r}: {TENANT_RULE}")
    tenants = None if entry.tenants is None else frozenset(entry.tenants)
    expires_us = None if entry.expires is None else int(entry.expires.timestamp() * 1_000_000)
    return _Known(bytes.fromhex(entry.sha256), Principal(entry.name, frozenset(entry.roles), tenants), expires_us)
