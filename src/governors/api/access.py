"""Who may call which route: one table. A route that is not in it does not start. Pure."""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, NamedTuple

from starlette.routing import compile_path

from governors.auth.principal import Role


class Reach(Enum):
    """What a route shows or touches, and so what a principal that is limited to some tenants may do with it."""

    NOBODY = "what is no tenant's: everybody may have it, asked or not who they are"
    SHARED = "what is no tenant's alone, and tells nothing of any"
    NAMED = "one tenant, which the path names"
    OWN = "several tenants: the endpoint leaves out those that are out of scope"
    EVERY = "all tenants at once: not for a principal that is limited to some"


class Access(NamedTuple):
    """The role that a route asks for, and its reach."""

    role: Role
    reach: Reach


_OPEN: Final = Access("read", Reach.NOBODY)

ACCESS: Final[Mapping[tuple[str, str], Access]] = {
    # Probes carry no token, and say nothing but that the service runs.
    ("GET", "/healthz"): _OPEN,
    ("GET", "/readyz"): _OPEN,
    # What they describe is public: it stands in the repository.
    ("GET", "/openapi.json"): _OPEN,
    ("GET", "/docs"): _OPEN,
    ("GET", "/docs/oauth2-redirect"): _OPEN,
    ("GET", "/metrics"): Access("read", Reach.EVERY),
    ("GET", "/v1/tree"): Access("read", Reach.EVERY),
    ("POST", "/v1/signals"): Access("ingest", Reach.OWN),
    ("GET", "/v1/admit"): Access("admit", Reach.OWN),
    ("GET", "/v1/tenants"): Access("read", Reach.OWN),
    ("GET", "/v1/tenants/{tenant}"): Access("read", Reach.NAMED),
    ("PUT", "/v1/tenants/{tenant}"): Access("admin", Reach.NAMED),
    ("POST", "/v1/tenants/{tenant}/overrides"): Access("operate", Reach.NAMED),
    ("DELETE", "/v1/tenants/{tenant}/overrides/{governor}/{subject:path}"): Access("operate", Reach.NAMED),
    ("GET", "/v1/tenants/{tenant}/receipts"): Access("read", Reach.NAMED),
    ("GET", "/v1/receipts/{receipt_id}"): Access("read", Reach.OWN),
    ("GET", "/v1/stream"): Access("read", Reach.OWN),
}


class AccessTable:
    """`ACCESS` made ready for lookup by path."""

    def __init__(self, rules: Mapping[tuple[str, str], Access] = ACCESS) -> None:
        self._fixed = {key: access for key, access in rules.items() if "{" not in key[1]}
        self._patterns = [
            (method, compile_path(path)[0], access) for (method, path), access in rules.items() if "{" in path
        ]

    def find(self, method: str, path: str) -> tuple[Access, str | None] | None:
        """The access to a route, and the tenant that its path names; None where there is no such route."""
        method = "GET" if method == "HEAD" else method
        access = self._fixed.get((method, path))
        if access is not None:
            return access, None
        for own, pattern, access in self._patterns:
            if own == method and (match := pattern.match(path)):
                return access, match.groupdict().get("tenant")
        return None


def undeclared(routes: Iterable[tuple[str, str]]) -> list[str]:
    """Routes (method, path) that the table does not have."""
    return [f"{method} {path}" for method, path in routes if method != "HEAD" and (method, path) not in ACCESS]
