"""What each kind of signal does where it comes after a newer one of its kind: written a second time, by hand."""

from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.cost_guard import COST_GUARD
from governors.machines.rollback_guard import ROLLBACK_GUARD
from ingest.signals import (
    KINDS,
    Alert,
    BudgetSet,
    CostDelta,
    CostSnapshot,
    DeployFinished,
    DeploySample,
    DeployStarted,
    QueueSample,
    TenantEntitlement,
    WorkDone,
)

HALF_A_MINUTE_US = 30_000_000
# How much older than the newest applied one it may be, in µs; None: it counts whenever it comes.
MAY_BE_OLDER_US: dict[type, int | None] = {
    CostSnapshot: 0,  # what the period has cost so far: an older one would take the newer back
    BudgetSet: 0,
    CostDelta: None,  # sums add up in any order
    DeployStarted: 0,  # an old deploy must not supersede a newer one
    DeploySample: None,  # counts of a deploy, told by its id
    DeployFinished: None,
    Alert: None,  # the newest word on each alert counts, see `rollback.alert_late`
    QueueSample: 0,
    WorkDone: HALF_A_MINUTE_US,
}
BY_ITSELF = {TenantEntitlement}  # the tenant's own: tests/unit/tenants


def test_every_kind_has_its_rule_for_coming_late() -> None:
    assert MAY_BE_OLDER_US.keys() | BY_ITSELF == set(KINDS.values())
    for governor in (COST_GUARD, ROLLBACK_GUARD, BACKLOG_VALVE):
        for kind in governor.kinds:
            assert governor.stale_tolerance_us.get(kind) == MAY_BE_OLDER_US[kind], kind
