"""Who may call which route: one table. What is not in it does not exist for anybody. Pure."""

import re
from collections.abc import Mapping
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


class Door(Enum):
    """By whose word one gets in."""

    OURS = "our own tokens, or those of the configured issuer"
    PUSH = "Google's tokens for the service accounts that Pub/Sub pushes with, and no others"
    PEER = "tokens of the other workers over the same log, and no others"


class Access(NamedTuple):
    """The role that a route asks for, its reach, and the door that leads to it."""

    role: Role
    reach: Reach
    door: Door = Door.OURS


PROXIED_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_OPEN: Final = Access("read", Reach.NOBODY)

ACCESS: Final[Mapping[tuple[str, str], Access]] = {
    # Probes carry no token, and say nothing but that the service runs.
    ("GET", "/healthz"): _OPEN,
    ("GET", "/readyz"): _OPEN,
    # What they describe is public: it stands in the repository.
    ("GET", "/openapi.json"): _OPEN,
    ("GET", "/docs"): _OPEN,
    ("GET", "/metrics"): Access("read", Reach.EVERY),
    ("GET", "/v1/tree"): Access("read", Reach.EVERY),
    ("GET", "/v1/cluster"): Access("read", Reach.SHARED),
    ("GET", "/v1/cluster/admission"): Access("admit", Reach.EVERY, Door.PEER),
    ("POST", "/v1/cluster/drain"): Access("admin", Reach.EVERY),
    ("DELETE", "/v1/cluster/drain"): Access("admin", Reach.EVERY),
    ("POST", "/v1/cluster/signals"): Access("ingest", Reach.EVERY, Door.PEER),
    ("POST", "/v1/cluster/operations"): Access("ingest", Reach.EVERY, Door.PEER),
    ("POST", "/v1/signals"): Access("ingest", Reach.OWN),
    ("POST", "/v1/push/alertmanager"): Access("ingest", Reach.OWN),
    ("POST", "/v1/push/pubsub"): Access("ingest", Reach.OWN, Door.PUSH),
    ("GET", "/v1/admit"): Access("admit", Reach.OWN),
    ("GET", "/v1/admit/nginx"): Access("admit", Reach.OWN),
    # Whatever a client asks Envoy for.
    **{(method, "/v1/admit/envoy/{original:path}"): Access("admit", Reach.OWN) for method in PROXIED_METHODS},
    ("GET", "/v1/tenants"): Access("read", Reach.OWN),
    ("GET", "/v1/tenants/{tenant}"): Access("read", Reach.NAMED),
    ("PUT", "/v1/tenants/{tenant}"): Access("admin", Reach.NAMED),
    ("POST", "/v1/tenants/{tenant}/overrides"): Access("operate", Reach.NAMED),
    ("DELETE", "/v1/tenants/{tenant}/overrides/{governor}/{subject:path}"): Access("operate", Reach.NAMED),
    ("POST", "/v1/tenants/{tenant}/approvals"): Access("operate", Reach.NAMED),
    ("PUT", "/v1/tenants/{tenant}/emergency-stop"): Access("operate", Reach.NAMED),
    ("DELETE", "/v1/tenants/{tenant}/emergency-stop"): Access("operate", Reach.NAMED),
    ("GET", "/v1/actions"): Access("read", Reach.OWN),
    ("POST", "/v1/tenants/{tenant}/actions/{action_id}/retry"): Access("operate", Reach.NAMED),
    ("POST", "/v1/tenants/{tenant}/actions/{action_id}/abandon"): Access("operate", Reach.NAMED),
    ("PUT", "/v1/emergency-stop"): Access("operate", Reach.EVERY),
    ("DELETE", "/v1/emergency-stop"): Access("operate", Reach.EVERY),
    ("GET", "/v1/policies"): Access("read", Reach.EVERY),
    ("POST", "/v1/policies/reload"): Access("admin", Reach.EVERY),
    ("GET", "/v1/tenants/{tenant}/receipts"): Access("read", Reach.NAMED),
    ("GET", "/v1/receipts/{receipt_id}"): Access("read", Reach.OWN),
    ("GET", "/v1/operations"): Access("admin", Reach.EVERY),
    ("GET", "/v1/stream"): Access("read", Reach.OWN),
    ("GET", "/v1/receipts/{receipt_id}/proof"): Access("read", Reach.OWN),
    ("GET", "/v1/tenants/{tenant}/bundle"): Access("read", Reach.NAMED),
    # Hashes tell nothing of any tenant; entries are everybody's receipts. The table is searched in this order.
    ("GET", "/v1/logs/{partition}/checkpoint"): Access("read", Reach.SHARED),
    ("GET", "/v1/logs/{partition}/tile/entries/{number:path}"): Access("read", Reach.EVERY),
    ("GET", "/v1/logs/{partition}/tile/{level}/{number:path}"): Access("read", Reach.SHARED),
    ("GET", "/v1/logs/{partition}/consistency"): Access("read", Reach.SHARED),
    ("POST", "/v1/verify"): Access("read", Reach.SHARED),
}


class Place(NamedTuple):
    """A path that exists: its pattern, the access to it by method, and the tenant that it names, if it names one."""

    route: str
    access: Mapping[str, Access]
    tenant: str | None


class AccessTable:
    """`ACCESS` made ready for lookup by path. What is behind a door that nobody has opened does not exist."""

    def __init__(
        self,
        rules: Mapping[tuple[str, str], Access] = ACCESS,
        doors: frozenset[Door] = frozenset({Door.OURS}),
    ) -> None:
        by_path: dict[str, dict[str, Access]] = {}
        for (method, path), access in rules.items():
            if access.door in doors:
                by_path.setdefault(path, {})[method] = access
        self._fixed = {path: Place(path, access, None) for path, access in by_path.items() if "{" not in path}
        # A path can have a line break in it, too: Envoy passes on whatever its client wrote.
        self._patterns = [
            (re.compile(compile_path(path)[0].pattern, re.DOTALL), path, access)
            for path, access in by_path.items()
            if "{" in path
        ]

    def find(self, path: str) -> Place | None:
        """The place that a request's path means; None where there is none."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        for pattern, route, access in self._patterns:
            if match := pattern.match(path):
                return Place(route, access, match.groupdict().get("tenant"))
        return None
