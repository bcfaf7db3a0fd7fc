"""The three governors by name and by the signals they take, and the sentences of all their rules."""

from collections.abc import Mapping
from typing import Final

from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.cost_guard import COST_GUARD
from governors.machines.governor import Governor
from governors.machines.overlays import OVERLAY_RULES
from governors.machines.rollback_guard import ROLLBACK_GUARD

GOVERNORS: Final = (COST_GUARD, ROLLBACK_GUARD, BACKLOG_VALVE)
BY_NAME: Final[Mapping[str, Governor]] = {governor.name: governor for governor in GOVERNORS}
BY_SIGNAL: Final[Mapping[type, Governor]] = {kind: governor for governor in GOVERNORS for kind in governor.kinds}

# The tenant itself is the fourth machine that receipts name: its entitlement, its quarantine.
TENANT: Final = "tenant"
TENANT_RULES: Final = {
    "tenant.entitlement": "entitlement is {status}, profile {profile}, as {source} says",
    "tenant.entitlement_unknown_profile": "profile {profile} is not configured",
    "tenant.not_active": "the tenant is {status}",
    "tenant.unknown": "the tenant is not known and unknown tenants are refused",
    "tenant.too_many_machines": "the tenant has {machines} machines, at most {limit} are allowed",
    "tenant.before_horizon": "observed before the oldest signal whose repetition could still be told",
    "tenant.dead_lettered": "the machine failed {attempts} times on this signal: {error}",
    "tenant.quarantined": "the tenant is quarantined: its signals are dead-lettered until an operator releases it",
    "tenant.quarantine": "the tenant failed too often and is quarantined alone: {error}",
    "tenant.emergency_stop": "{by} stopped the tenant's governors: they decide, and act on nothing",
    "tenant.resumed": "{by} lets the tenant's governors act again",
    "tenant.released": "{by} released the tenant from quarantine",
}

# And the runtime itself the fifth: what its decisions are taken under.
RUNTIME: Final = "runtime"
RUNTIME_RULES: Final = {
    "runtime.emergency_stop": "{by} stopped all governors: they decide, and act on nothing",
    "runtime.resumed": "{by} lets governors act again",
    "runtime.policy_loaded": "decisions are taken under the policy {digest} from here on",
}

# And what operators ask for the sixth: their receipts have a chain of their own.
OPERATOR: Final = "operator"
OPERATOR_RULES: Final = {
    "operator.asked": "{by} asked for {action}, and was answered with {status}",
}

RULES: Final[Mapping[str, str]] = {
    **OVERLAY_RULES,
    **TENANT_RULES,
    **RUNTIME_RULES,
    **OPERATOR_RULES,
    **{rule: text for governor in GOVERNORS for rule, text in governor.rules.items()},
}
