"""Every kind of receipt that the service writes, as it stands in a log, is what two other JCS libraries make of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jcs  # type: ignore[import-untyped]
import pytest
import rfc8785
from support.runtime import World, quiet, running, send

from governors.fsm.table import Row
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.catalog import GOVERNORS, RUNTIME, TENANT
from governors.machines.events import Event, OverrideGranted
from governors.settings import DedupSettings, Settings, TenantSettings
from governors.tenants.records import machine_key
from ledger.format import canonical, heads
from ledger.format.chain import LEDGER_TENANT
from ledger.format.heads import HeadList, HeadsStatement
from ledger.format.merkle import leaf_hash
from ledger.format.receipt import Receipt

POISON_DEPTH = 666
# Sorting, escapes and characters beyond the first 65,536 are what encoders differ in.
STRANGE = 'ü "\\/ \N{GRINNING FACE} \N{COMBINING ACUTE ACCENT} <script>&'
HOSTILE = STRANGE + "\x7f \N{LINE SEPARATOR}\x01"  # which no sender may use
SETTINGS = Settings(
    tenants=TenantSettings(auto_create=True, machines_max=6, restart_intensity=4), dedup=DedupSettings(window_ids=1_024)
)


@pytest.fixture
def defective() -> Iterator[None]:
    """A Backlog Valve that raises on one depth."""
    table: Any = BACKLOG_VALVE.table

    def broken(row: Row) -> Row:
        def handler(state: Any, event: Any, policy: Any, now_us: int) -> Any:
            if getattr(event.body, "depth", 0) == POISON_DEPTH:
                raise ZeroDivisionError(HOSTILE)
            return row.handler(state, event, policy, now_us)

        return Row(handler, row.targets)

    object.__setattr__(BACKLOG_VALVE, "table", {key: broken(row) for key, row in table.items()})
    try:
        yield
    finally:
        object.__setattr__(BACKLOG_VALVE, "table", table)


async def leaves_of_a_full_day(folder: Path) -> list[bytes]:
    """What a service leaves behind to which everything happens that has a receipt."""
    world = World()
    deploy = {"deploy_id": "d-1", "revision": "r2", "previous_revision": "r1"}
    sample = {"deploy_id": "d-1", "requests": 900, "slow": 12, "window_s": 15}
    delta = {"amount": "1.00", "currency": "USD", "usage_at": "2026-11-22T11:00:00Z"}
    async with running(folder, world, SETTINGS) as runtime:
        await send(
            runtime,
            world.signal("cost.delta", delta, ago_s=1_000.0),
            world.spend("910.25", signal_id=STRANGE, source=STRANGE),
            world.spend("1.00", ago_s=50.0),  # stale: it was observed before the one above
            world.spend("1001.00", subject="other"),
            world.signal("deploy.started", deploy, subject="web"),
            world.signal("deploy.sample", {**sample, "arm": "baseline", "errors": 1}, subject="web"),
            world.signal("deploy.sample", {**sample, "arm": "canary", "errors": 400}, subject="web"),
            world.queue(40_000, 90.0, subject="orders"),
            *[world.queue(1, subject=f"q{number}") for number in range(6)],  # too many machines
        )
        override = OverrideGranted(mode="hold", until_us=world.now_us + 10**9, by=HOSTILE, reason=HOSTILE)
        await runtime.registry.tell("acme", machine_key("cost_guard", "default"), Event("o1", world.now_us, override))
        await send(runtime, world.signal("tenant.entitlement", {"status": "active", "profile": "platinum"}))
        await send(runtime, world.signal("tenant.entitlement", {"status": "suspended"}, tenant="late"))
        await send(runtime, world.queue(1, tenant="late"))  # not active
        await send(runtime, *[world.queue(POISON_DEPTH, tenant="sick") for _ in range(3)])
        await send(runtime, world.queue(1, tenant="sick"))  # quarantined
        runtime.registry.set_quarantine("sick", quarantined=False, why=HOSTILE)
        await send(runtime, world.queue(1, tenant="sick"))
        await quiet(runtime)
        await send(runtime, *[world.queue(1, tenant="busy") for _ in range(1_100)])
        await send(runtime, world.signal("cost.delta", delta, ago_s=3_000.0))  # before the horizon by now
        return [(await runtime.ledger.read(index)).leaf for index in range(runtime.ledger.local_size)]


def heads_leaf() -> bytes:
    """The receipt that the log itself writes."""
    some = HeadList.of([("ab" * 16, 3, leaf_hash(b"x"))])
    return canonical.encode(
        Receipt(
            actions=(), decision="none", epoch=1, event_id="heads-1",
            evidence=heads.evidence(HeadsStatement(1, 3, some.root())), fsm=heads.FSM, inputs_commit="00", log="o/0",
            observed_us=1, outcome="decided", policy_digest="", prev="00", rule=heads.RULE, source="",
            tenant=LEDGER_TENANT, ts_us=1, tseq=0, v=1, writer="w",
        )
    )  # fmt: skip


@pytest.mark.usefixtures("defective")
async def test_every_kind_of_receipt_is_what_two_other_libraries_write(tmp_path: Path) -> None:
    leaves = [*await leaves_of_a_full_day(tmp_path), heads_leaf()]
    for leaf in leaves:
        assert leaf == rfc8785.dumps(json.loads(leaf))
        assert leaf == jcs.canonicalize(json.loads(leaf))
        assert canonical.check(leaf) == json.loads(leaf)
    receipts = [canonical.decode(leaf) for leaf in leaves]
    assert {each.fsm.machine for each in receipts} == {
        *(governor.name for governor in GOVERNORS), TENANT, RUNTIME, heads.MACHINE,
    }  # fmt: skip
    assert {each.outcome for each in receipts} == {"decided", "stale", "refused", "rejected", "dead_lettered"}
    assert {each.rule for each in receipts} >= {
        "overlay.stale", "runtime.policy_loaded", "tenant.before_horizon", "tenant.dead_lettered", "tenant.entitlement",
        "tenant.entitlement_unknown_profile", "tenant.not_active", "tenant.quarantine", "tenant.quarantined",
        "tenant.released", "tenant.too_many_machines",
    }  # fmt: skip
    assert {each.fsm.event for each in receipts} >= {"action.result", "override.granted"}
    assert any(each.actions for each in receipts)
    assert any("\N{GRINNING FACE}" in each.event_id for each in receipts)
