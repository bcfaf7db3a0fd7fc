"""A principal: somebody with a name, roles, and the tenants that they may see and touch. Pure."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from msgspec import Struct

Role = Literal["ingest", "admit", "read", "operate", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
Scope = frozenset[str] | None
"""The tenants that somebody may see and touch; None for every one."""

# What else a role may do. Senders and gateways are machines with one job each; they get nothing besides.
_INCLUDED: Final[Mapping[Role, frozenset[Role]]] = {
    "ingest": frozenset({"ingest"}),
    "admit": frozenset({"admit"}),
    "read": frozenset({"read"}),
    "operate": frozenset({"operate", "read"}),
    "admin": frozenset(ROLES),
}


class Principal(Struct, frozen=True):
    """`tenants` is None for one who may see and touch every tenant, and what belongs to none."""

    name: str
    roles: frozenset[Role]
    tenants: Scope = None

    def may(self, role: Role) -> bool:
        """Whether one of the roles is, or includes, `role`."""
        # Asked for every request: most of them by somebody who has the role itself.
        return role in self.roles or any(role in _INCLUDED[own] for own in self.roles)

    def sees(self, tenant: str) -> bool:
        """Whether the tenant is in scope."""
        return self.tenants is None or tenant in self.tenants


LOCAL: Final = Principal("local", frozenset(ROLES))
"""Everybody, where nobody is asked who they are: the service is then reachable from this machine alone."""
