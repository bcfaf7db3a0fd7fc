"""Tenants in a running runtime: decisions, repetition, failure, quarantine, passivation, recovery."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.runtime import LAPTOP, World, quiet, running, send, until

from governors.fsm.table import Row
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.events import Event, OverrideGranted
from governors.outbox.executors import Refused
from governors.settings import DedupSettings, Settings, TenantSettings
from governors.tenants.records import machine_key
from governors.tenants.tenant import EVENTS_PER_TURN
from ingest.signals import parse_micros
from ledger.errors import LedgerClosedError

POISON_DEPTH = 666
BUDGET = machine_key("cost_guard", "default")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def poisoned() -> Iterator[None]:
    """A Backlog Valve with a defect: it raises on one depth, and on one operator's reason."""
    table: Any = BACKLOG_VALVE.table
    rows = dict(table)

    def broken(row: Row) -> Row:
        def handler(state: Any, event: Any, policy: Any, now_us: int) -> Any:
            if getattr(event.body, "depth", 0) == POISON_DEPTH or getattr(event.body, "reason", "") == "poison":
                raise ZeroDivisionError("a defect of the machine")
            return row.handler(state, event, policy, now_us)

        return Row(handler, row.targets)

    spoilt = {key: broken(row) for key, row in rows.items()}
    object.__setattr__(BACKLOG_VALVE, "table", spoilt)
    try:
        yield
    finally:
        object.__setattr__(BACKLOG_VALVE, "table", table)


async def test_a_decision_has_its_receipt_and_its_action_goes_out_once(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        (outcome,) = await send(runtime, world.spend("910.25"))
        assert (outcome.decision, outcome.state) == ("throttle", "THROTTLE")
        stored = await runtime.ledger.read(outcome.receipt)
        assert b'"event_id":"%s"' % outcome.id.encode() in stored.leaf
        await quiet(runtime)
        assert [work.action.kind for work in world.executed] == ["throttle"]


async def test_a_repeated_signal_names_the_receipt_of_the_first(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        signal = world.spend("100.00")
        (first,) = await send(runtime, signal)
        size = runtime.ledger.size
        (second,) = await send(runtime, signal)
        assert (second.outcome, second.receipt) == ("duplicate", first.receipt)
        assert runtime.ledger.size == size


async def test_the_same_id_from_another_source_or_tenant_is_another_signal(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        outcomes = await send(
            runtime,
            world.queue(1, signal_id="x", source="a"),
            world.queue(2, signal_id="x", source="b"),
            world.queue(3, signal_id="x", source="a", tenant="other"),
        )
        assert [one.outcome for one in outcomes] == ["decided"] * 3


async def test_repetition_within_one_batch_is_told(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        signal = world.queue(1)
        outcomes = await send(runtime, signal, signal)
        assert [one.outcome for one in outcomes] == ["decided", "duplicate"]


async def test_repetition_is_told_across_a_restart(tmp_path: Path, world: World) -> None:
    signal = world.spend("100.00")
    async with running(tmp_path, world) as runtime:
        (first,) = await send(runtime, signal)
    async with running(tmp_path, world) as runtime:
        (second,) = await send(runtime, signal)
        assert (second.outcome, second.receipt) == ("duplicate", first.receipt)


async def test_behind_the_horizon_nothing_counts_as_new_even_after_a_restart(tmp_path: Path, world: World) -> None:
    settings = msgspec.structs.replace(LAPTOP, dedup=DedupSettings(window_ids=1_024))
    # Deltas come in any order, so only the horizon can refuse a forgotten one.
    delta = {"amount": "1.00", "currency": "USD", "usage_at": "2026-11-22T11:00:00Z"}
    first = world.signal("cost.delta", delta, ago_s=100)
    async with running(tmp_path, world, settings) as runtime:
        await send(runtime, first)
        await send(runtime, *[world.queue(1) for _ in range(1_024)])
    async with running(tmp_path, world, settings) as runtime:
        (again,) = await send(runtime, first)
        assert (again.outcome, again.rule) == ("stale", "tenant.before_horizon")
        (late,) = await send(runtime, world.signal("cost.delta", delta, ago_s=50))
        assert late.outcome == "decided"


async def test_all_state_comes_back_from_the_log(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("910.25"), world.queue(5, subject="orders"), world.spend("10.00", tenant="b"))
        await quiet(runtime)
        (last,) = await send(runtime, world.queue(6, subject="orders"))
        before = {name: runtime.registry.view(name) for name in runtime.registry.names()}
        queued = len(runtime.timers)
    async with running(tmp_path, world) as runtime:
        assert {name: runtime.registry.view(name) for name in runtime.registry.names()} == before
        assert len(runtime.timers) == queued
        assert runtime.ledger.size > last.receipt


async def test_an_action_that_was_open_at_a_crash_is_sent_again_under_the_same_id(tmp_path: Path, world: World) -> None:
    world.hold.clear()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("910.25"))
        await until(lambda: bool(world.executed))
    (first,) = world.executed
    world.hold.set()
    async with running(tmp_path, world) as runtime:
        await quiet(runtime)
        assert [work.action.id for work in world.executed] == [first.action.id] * 2


async def test_a_failed_action_is_no_success(tmp_path: Path, world: World) -> None:
    world.answer = Refused("permission missing")
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("910.25"))
        await until(lambda: any(decided.event == "action.result" for _, decided, _ in world.decided))
        view = runtime.registry.view("acme")
        assert view is not None
        state = view[1][BUDGET].state
        assert (state.in_flight, state.applied) == (None, None)
        assert state.retry_us is not None


@pytest.mark.usefixtures("poisoned")
async def test_a_poison_signal_costs_its_tenant_three_restarts_and_others_nothing(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        before, poison, after, other = await send(
            runtime,
            world.queue(1, tenant="sick"),
            world.queue(POISON_DEPTH, tenant="sick"),
            world.queue(2, tenant="sick"),
            world.queue(3, tenant="well"),
        )
        assert [before.outcome, after.outcome, other.outcome] == ["decided"] * 3
        assert (poison.outcome, poison.rule) == ("dead_lettered", "tenant.dead_lettered")
        assert poison.evidence["attempts"] == 3
        assert [letter["tenant"] for letter in world.letters] == ["sick"]
        assert b"666" in world.letters[0]["payload"]
        assert b"dead_lettered" in (await runtime.ledger.read(poison.receipt)).leaf
        tree = runtime.supervisor.tree()
        assert tree.counts["restarts_total"] == 3
        assert [child.name.partition("#")[0] for child in tree.children] == ["sick"]


@pytest.mark.usefixtures("poisoned")
async def test_a_dead_lettered_signal_is_not_tried_again(tmp_path: Path, world: World) -> None:
    poison = world.queue(POISON_DEPTH)
    async with running(tmp_path, world) as runtime:
        await send(runtime, poison)
        (again,) = await send(runtime, poison)
        assert again.outcome == "duplicate"
        assert len(world.letters) == 1


@pytest.mark.usefixtures("poisoned")
async def test_a_tenant_that_fails_too_often_is_quarantined_alone_until_released(tmp_path: Path, world: World) -> None:
    settings = Settings(tenants=TenantSettings(auto_create=True, restart_intensity=4))
    async with running(tmp_path, world, settings) as runtime:
        outcomes = await send(runtime, *[world.queue(POISON_DEPTH, tenant="sick") for _ in range(3)])
        assert {one.outcome for one in outcomes} == {"dead_lettered"}
        (still,) = await send(runtime, world.queue(1, tenant="sick"))
        assert (still.outcome, still.rule) == ("dead_lettered", "tenant.quarantined")
        (well,) = await send(runtime, world.queue(1, tenant="well"))
        assert well.outcome == "decided"
    async with running(tmp_path, world, settings) as runtime:
        (still,) = await send(runtime, world.queue(1, tenant="sick"))
        assert still.rule == "tenant.quarantined", "quarantine outlives a restart"
        runtime.registry.set_quarantine("sick", quarantined=False, why="ana")
        (healthy,) = await send(runtime, world.queue(1, tenant="sick"))
        assert healthy.outcome == "decided"


async def test_an_idle_tenant_is_passivated_and_comes_back_as_it_was(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("600.00"))
        await quiet(runtime)
        before = runtime.registry.view("acme")
        world.now_us += 3_600_000_000
        runtime.registry.passivate_idle()
        await until(lambda: runtime.registry.active_count == 0)
        assert runtime.registry.view("acme") == before
        (outcome,) = await send(runtime, world.spend("700.00"))
        assert outcome.previous_state == "WARN"


async def test_a_deadline_wakes_a_passivated_tenant(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("600.00"))
        await quiet(runtime)
        world.now_us += 3_600_000_000
        runtime.registry.passivate_idle()
        await until(lambda: runtime.registry.active_count == 0)
        world.now_us += 40 * 86_400_000_000
        runtime.timers.fire_due()
        await until(lambda: any(decided.event == "timeout" for _, decided, _ in world.decided))


async def test_unknown_tenants_are_refused_with_a_receipt_where_they_are_not_created(
    tmp_path: Path, world: World
) -> None:
    async with running(tmp_path, world, Settings()) as runtime:
        signal = world.queue(1, tenant="nobody")
        (outcome,) = await send(runtime, signal)
        assert (outcome.outcome, outcome.rule, outcome.tenant) == ("refused", "tenant.unknown", "nobody")
        assert runtime.registry.names() == []
        entitle = world.signal("tenant.entitlement", {"status": "active"}, tenant="nobody")
        (entitled,) = await send(runtime, entitle)
        assert entitled.outcome == "decided"
        (now,) = await send(runtime, signal)
        assert now.outcome == "decided", "what was refused may come again"


async def test_a_tenant_that_is_not_active_decides_nothing_and_admits_nothing(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.queue(1))
        await send(runtime, world.signal("tenant.entitlement", {"status": "suspended"}))
        (outcome,) = await send(runtime, world.queue(2))
        assert (outcome.outcome, outcome.rule) == ("refused", "tenant.not_active")
        refused = runtime.admission.admit("acme", "critical", "", 1, world.now_us)
        assert type(refused).__name__ == "Refused"
        world.now_us += 1_000_000
        await send(runtime, world.signal("tenant.entitlement", {"status": "active"}))
        (outcome,) = await send(runtime, world.queue(3))
        assert outcome.outcome == "decided"


async def test_an_entitlement_that_a_newer_one_has_overtaken_changes_nothing(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.signal("tenant.entitlement", {"status": "suspended"}))
        late = world.signal("tenant.entitlement", {"status": "active"}, ago_s=60.0)
        (outcome,) = await send(runtime, late)
        assert (outcome.outcome, outcome.rule) == ("stale", "overlay.stale")
        (outcome,) = await send(runtime, world.queue(1))
        assert (outcome.outcome, outcome.rule) == ("refused", "tenant.not_active")


async def test_an_unknown_profile_is_refused_and_never_means_allow(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        entitle = world.signal("tenant.entitlement", {"status": "active", "profile": "platinum"})
        (outcome,) = await send(runtime, entitle)
        assert (outcome.outcome, outcome.rule) == ("rejected", "tenant.entitlement_unknown_profile")


async def test_made_up_subjects_are_bounded(tmp_path: Path, world: World) -> None:
    settings = Settings(tenants=TenantSettings(auto_create=True, machines_max=3))
    async with running(tmp_path, world, settings) as runtime:
        outcomes = await send(runtime, *[world.queue(1, subject=f"q{number}") for number in range(5)])
        assert [one.outcome for one in outcomes] == ["decided"] * 3 + ["refused"] * 2


async def test_an_override_is_told_to_its_machine_and_leaves_a_receipt(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("1001.00"))
        granted = OverrideGranted(mode="force", until_us=world.now_us + 10**9, by="ana", reason="drill", status="WARN")
        told = await runtime.registry.tell("acme", BUDGET, Event("o1", world.now_us, granted))
        assert told is not None
        decided, index = told
        assert (decided.from_status, decided.to_status) == ("STOP", "WARN")
        await runtime.ledger.wait_local(index)
        assert b'"by":"ana"' in (await runtime.ledger.read(index)).leaf
        assert await runtime.registry.tell("acme", machine_key("cost_guard", "no"), Event("o2", 0, granted)) is None


async def test_submit_waits_for_room_and_nobody_is_forgotten(tmp_path: Path, world: World) -> None:
    settings = Settings(tenants=TenantSettings(auto_create=True, mailbox_max=10_000))
    async with running(tmp_path, world, settings) as runtime:
        batches = [[world.queue(1, tenant=f"t{n}") for n in range(400)] for _ in range(40)]
        sent = await asyncio.gather(*[send(runtime, *batch) for batch in batches])
        assert sum(len(outcomes) for outcomes in sent) == 16_000
        assert runtime.registry.queued == 0


async def test_what_is_undecided_when_a_partition_ends_is_not_waited_for(tmp_path: Path, world: World) -> None:
    settings = Settings(tenants=TenantSettings(auto_create=True, mailbox_max=1_000))
    async with running(tmp_path, world, settings) as runtime:
        names = [f"t{number}" for number in range(10)] * 500
        under_way = await runtime.registry.submit([world.queue(1, tenant=name) for name in names])
        for_room = asyncio.gather(*[send(runtime, world.queue(1)) for _ in range(2)], return_exceptions=True)
        await asyncio.sleep(0)
        runtime.registry.close("it is not here any more")
        with pytest.raises(LedgerClosedError, match="not here any more"):
            await under_way.decided()
        assert [type(one) for one in await for_room] == [LedgerClosedError] * 2
        with pytest.raises(LedgerClosedError, match="not here any more"):
            await runtime.registry.submit([world.queue(1)])


async def test_batches_that_came_together_are_not_all_finished_at_once(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        names = [f"t{number}" for number in range(10)] * EVENTS_PER_TURN
        tickets = [await runtime.registry.submit([world.queue(1, tenant=name) for name in names]) for _ in range(3)]
        await tickets[0].decided()
        # What the first one's sender does now, the disk and he do while the others are decided.
        assert [ticket.remaining > 0 for ticket in tickets] == [False, True, True]
        await asyncio.gather(*[ticket.decided() for ticket in tickets])


async def test_amounts_with_a_type_of_their_own_are_kept_like_any_number(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.spend("950.00"))
        extra = OverrideGranted(
            mode="extra_budget",
            until_us=world.now_us + 10**9,
            by="ana",
            reason="campaign",
            extra_micros=parse_micros("500.00"),
        )
        told = await runtime.registry.tell("acme", BUDGET, Event("o1", world.now_us, extra))
        assert told is not None
        assert told[0].outcome == "decided"
        await runtime.ledger.wait_local(told[1])


@pytest.mark.usefixtures("poisoned")
async def test_an_event_that_a_machine_cannot_take_leaves_a_receipt_too(tmp_path: Path, world: World) -> None:
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.queue(1))
        granted = OverrideGranted(mode="hold", until_us=world.now_us + 10**9, by="ana", reason="poison")
        told = await runtime.registry.tell(
            "acme", machine_key("backlog_valve", "default"), Event("o1", world.now_us, granted)
        )
        assert told is not None
        decided, index = told
        assert (decided.outcome, decided.evidence["attempts"]) == ("dead_lettered", 3)
        await runtime.ledger.wait_local(index)
