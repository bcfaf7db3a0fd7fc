"""The chains of all tenants, found by a tenant's name, which no receipt has, or by its pseudonym."""

from typing import Final, NamedTuple

from ledger.errors import ReceiptInvalidError
from ledger.format import chain
from ledger.index import Chain

_TENANTS_CACHED_MAX: Final = 131_072


class ChainHead(NamedTuple):
    """Where a tenant's chain ends: the sequence number that its next receipt will have, and the last one's leaf hash.

    `pseudonym` is the tenant's name in receipts, 32 hex digits.
    """

    pseudonym: str
    next_tseq: int
    leaf_hash: bytes


class Chains:
    """Every tenant's chain, as far as its receipts have bytes."""

    def __init__(self, key: bytes, origin: str, by_pseudonym: dict[str, Chain]) -> None:
        """`key` makes pseudonyms of names, `origin` is the log's; `by_pseudonym` is taken over."""
        self._key = key
        self._origin = origin
        self._by_pseudonym = by_pseudonym
        self.cached: dict[str, Chain] = {}
        """By tenant's name: a cache that spares an HMAC."""

    def pseudonym(self, tenant: str) -> str:
        """The tenant's name in receipts."""
        cached = self.cached.get(tenant)
        return cached.pseudonym if cached is not None else chain.pseudonym(self._key, tenant)

    def find(self, tenant: str) -> Chain | None:
        """The tenant's chain; None when it has no receipt."""
        return self.cached.get(tenant) or self._by_pseudonym.get(chain.pseudonym(self._key, tenant))

    def open(self, tenant: str) -> Chain:
        """The tenant's chain, begun if it has none. Raises ReceiptInvalidError for a name that has no bytes."""
        try:
            found = self.find(tenant)
        except UnicodeEncodeError as error:
            raise ReceiptInvalidError(f"the tenant's name {tenant!r} holds a lone surrogate") from error
        if found is None:
            pseudonym = chain.pseudonym(self._key, tenant)
            found = self._by_pseudonym[pseudonym] = Chain(pseudonym, chain.genesis(self._origin, pseudonym))
        if len(self.cached) >= _TENANTS_CACHED_MAX:
            self.cached.clear()  # rare; filling it again costs 2 µs a tenant
        self.cached[tenant] = found
        return found

    def heads(self) -> list[ChainHead]:
        """Where each of them stands."""
        return [ChainHead(one.pseudonym, one.count, one.head) for one in self._by_pseudonym.values()]
