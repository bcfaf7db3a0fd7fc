"""A log's decisions run again: what differs is named, and what cannot be known is never called good."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from msgspec.structs import replace
from support.forge import Forge, forge_log, written
from support.life import Life, changed_valve, defects
from support.runtime import World, quiet, running, send
from typer.testing import CliRunner

from governors.cli.main import command_line
from governors.fsm.table import Row, Verdict
from governors.machines.events import Event, OverrideGranted, Timeout
from governors.replay.beginning import read_beginning
from governors.replay.findings import MISMATCHES_MAX
from governors.replay.fold import Replay, StoredReceipt
from governors.replay.folder import PartitionReport, replay_folder
from governors.settings import LedgerSettings, Settings, TenantSettings
from governors.snapshotter import make_snapshot
from governors.tenants.policy import POLICY_KEY, RUNTIME_TENANT
from governors.tenants.records import machine_key, state_key
from ledger import fsck
from ledger.draft import Draft
from ledger.errors import NotALedgerError, SegmentCorruptError
from ledger.format import retention, snapshot
from ledger.format.chain import LEDGER_TENANT
from ledger.format.receipt import Receipt
from ledger.format.retention import NamedSnapshot, Retention, RetentionStatement
from ledger.identity import partition_folder
from ledger.own_receipts import own_draft

NAMES = ["acme", "other", "ghost", RUNTIME_TENANT]


async def short_life(folder: Path) -> None:
    """Two tenants, all three machines, actions with results, an override, time."""
    world = World()
    async with running(folder, world) as runtime:
        await send(runtime, world.spend("910.25"), world.queue(5, tenant="other"), world.queue(77, tenant="other"))
        await quiet(runtime)
        granted = OverrideGranted(mode="force", until_us=world.now_us + 10**9, by="ana", reason="drill", status="WARN")
        await runtime.registry.tell("acme", machine_key("cost_guard", "default"), Event("o1", world.now_us, granted))
        await quiet(runtime)
        world.now_us += 2 * 10**9
        runtime.timers.fire_due()
        await send(runtime, world.spend("950.00"), world.queue(6, tenant="other"))
        await quiet(runtime)


def replayed(folder: Path) -> PartitionReport:
    (partition,) = replay_folder(folder).partitions
    return partition


def receipts(folder: Path) -> list[Receipt]:
    return [one.receipt for one in written(folder)]


def index_of(folder: Path, **fields: Any) -> int:
    """The first receipt with these fields."""
    return next(
        index for index, one in enumerate(receipts(folder)) if all(getattr(one, k) == v for k, v in fields.items())
    )


async def test_an_honest_log_comes_out_the_same(tmp_path: Path) -> None:
    await short_life(tmp_path)
    report = replay_folder(tmp_path)
    assert report.ok
    told = {one.fsm.event for one in receipts(tmp_path)}
    assert {"policy.loaded", "cost.snapshot", "action.result", "override.granted", "timeout"} < told
    assert report.partitions[0].replayed == report.receipts == len(receipts(tmp_path))


async def test_a_rule_that_was_changed_since_shows_at_the_receipt_it_decided(tmp_path: Path) -> None:
    await short_life(tmp_path)
    index = index_of(tmp_path, tenant=receipts(tmp_path)[2].tenant, decision="none", event_id="s2")

    def other_rule(row: Row, state: Any, event: Event, policy: Any, now_us: int) -> Any:
        if getattr(event.body, "depth", 0) != 77:
            return None
        verdict: Verdict[Any] = row.handler(state, event, policy, now_us)
        return replace(verdict, rule="valve.other")

    with changed_valve(other_rule):
        report = replayed(tmp_path)
    (found,) = report.mismatches
    assert (found.index, found.tenant) == (index, receipts(tmp_path)[index].tenant)
    assert [(one.field, one.recomputed) for one in found.differences] == [("rule", "valve.other")]
    assert found.differences[0].stored == receipts(tmp_path)[index].rule


async def test_a_machine_that_fails_now_is_no_agreement(tmp_path: Path) -> None:
    await short_life(tmp_path)

    def raises(row: Row, state: Any, event: Event, policy: Any, now_us: int) -> Any:
        if getattr(event.body, "depth", 0) == 77:
            raise ZeroDivisionError("a defect")

    with changed_valve(raises):
        (found, *_) = replayed(tmp_path).mismatches
    (difference,) = found.differences
    assert difference.field == "outcome"
    assert "the machine fails: ZeroDivisionError: a defect" in difference.recomputed


def with_fields(number: int, **fields: Any) -> Forge:
    """One receipt with other fields; `fsm_to` stands for `fsm.to`."""

    def forge(index: int, draft: Draft) -> list[Draft]:
        if index != number:
            return [draft]
        given = dict(fields)
        if "fsm_to" in given:
            given["fsm"] = replace(draft.fsm, to=given.pop("fsm_to"))
        return [replace(draft, **given)]

    return forge


@pytest.mark.parametrize(
    ("fields", "differing"),
    [
        ({"decision": "none"}, ["decision"]),
        ({"decision": "none", "fsm_to": "NORMAL"}, ["decision", "fsm.to"]),
        ({"rule": "cost.within_budget"}, ["rule"]),
        ({"evidence": {"budget_micros": 1}}, ["evidence.budget_micros"]),
        ({"actions": ()}, ["actions"]),
        ({"policy_digest": "0" * 64}, ["policy_digest"]),
        ({"outcome": "refused"}, ["outcome"]),
        ({"event_id": "another"}, ["event_id"]),
        ({"observed_us": 1}, ["observed_us"]),
        ({"source": "elsewhere"}, ["source"]),
    ],
)
async def test_a_forged_decision_in_a_valid_log_is_named(
    tmp_path: Path, fields: dict[str, Any], differing: list[str]
) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    index = index_of(honest, decision="throttle")
    await forge_log(honest, forged, NAMES, with_fields(index, **fields))
    assert fsck.verify_log(forged).ok, "only running it again can tell"
    report = replayed(forged)
    assert report.mismatches[0].index == index
    assert set(differing) <= {one.field for one in report.mismatches[0].differences}
    assert report.unknown == []


def left_out(number: int) -> Forge:
    return lambda index, draft: [] if index == number else [draft]


def twice(number: int) -> Forge:
    return lambda index, draft: [draft, draft] if index == number else [draft]


def of_another_chain(number: int) -> Forge:
    return lambda index, draft: [replace(draft, tenant="ghost") if index == number else draft]


def with_payload(number: int, change: Callable[[dict[str, Any]], Any]) -> Forge:
    def forge(index: int, draft: Draft) -> list[Draft]:
        if index != number:
            return [draft]
        document = json.loads(draft.payload)
        return [replace(draft, payload=orjson.dumps(document | change(document)))]

    return forge


async def test_a_decision_that_was_left_out_shows_in_the_next_one_that_stood_on_it(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    index = index_of(honest, decision="throttle")
    await forge_log(honest, forged, NAMES, left_out(index))
    assert fsck.verify_log(forged).ok
    acme = receipts(honest)[index].tenant
    then = next(one for one in written(honest) if one.index > index and one.receipt.tenant == acme)
    assert replayed(forged).mismatches[0].index == then.index - 1


async def test_a_signal_that_was_decided_twice_is_named(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    index = index_of(honest, decision="throttle")
    await forge_log(honest, forged, NAMES, twice(index))
    (found, *_) = replayed(forged).mismatches
    assert found.index == index + 1
    assert f"it repeats the signal of receipt {index}" in found.differences[0].recomputed


async def test_one_tenant_cannot_have_two_chains(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    acme = receipts(honest)[index_of(honest, decision="throttle")].tenant
    later = [one.index for one in written(honest) if one.receipt.tenant == acme and one.receipt.source]
    await forge_log(honest, forged, NAMES, of_another_chain(later[-1]))
    found = [one for one in replayed(forged).mismatches if one.index == later[-1]]
    assert any((one.field, one.recomputed) == ("tenant", acme) for each in found for one in each.differences)


async def test_another_payload_than_the_one_that_was_decided_is_named(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    index = index_of(honest, decision="throttle")
    cheaper = with_payload(index, lambda document: {"data": document["data"] | {"cost_amount": "10.00"}})
    await forge_log(honest, forged, NAMES, cheaper)
    assert fsck.verify_log(forged).ok
    (found, *_) = replayed(forged).mismatches
    assert found.index == index
    assert {"decision", "evidence.cost_micros"} <= {one.field for one in found.differences}


async def test_what_the_runtime_told_nobody_is_named(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    told = index_of(honest, source="", outcome="decided", rule="overlay.override")

    def early(index: int, draft: Draft) -> list[Draft]:
        if index != told:
            return [draft]
        timeout = msgspec.json.encode(Event("timeout-1", draft.ts_us, Timeout()))
        elsewhere = replace(draft, fsm=replace(draft.fsm, subject="nowhere"))
        return [replace(draft, payload=timeout), elsewhere, draft]

    await forge_log(honest, forged, NAMES, early)
    found = replayed(forged).mismatches
    assert [one.index for one in found[:2]] == [told, told + 1]
    assert "not to be told this now" in found[0].differences[0].recomputed
    assert "has no machine cost_guard/nowhere" in found[1].differences[0].recomputed


async def test_the_ledgers_own_receipts_are_counted_and_nobody_else_may_call_itself_the_ledger(tmp_path: Path) -> None:
    await short_life(tmp_path)
    heads = [one.leaf for one in written(tmp_path) if one.receipt.source][:1]
    own = [leaf.replace(json.loads(leaf)["tenant"].encode(), LEDGER_TENANT.encode()) for leaf in heads]
    posing = [leaf.replace(b'"machine":"cost_guard"', b'"machine":"ledger"') for leaf in heads]
    replay = Replay()
    replay.take([StoredReceipt(leaf, b"") for leaf in own])
    assert (replay.found.of_ledger, replay.found.replayed, replay.found.mismatched) == (1, 0, 0)
    replay = Replay()
    first = next(written(tmp_path))
    replay.take([StoredReceipt(first.leaf, first.frame), *[StoredReceipt(leaf, b"") for leaf in posing]])
    assert (replay.found.of_ledger, replay.found.mismatched) == (0, 1)


async def test_a_log_that_does_not_say_under_which_policy_it_decided_cannot_be_replayed(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    await forge_log(honest, forged, NAMES, left_out(0))
    report = replayed(forged)
    assert (report.mismatched, report.replayed) == (0, 0)
    assert len(report.unknown) == 2
    assert "policy" in report.unknown[0].reason
    assert not replay_folder(forged).ok


async def test_a_policy_of_another_program_is_no_mismatch_and_no_agreement(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest", tmp_path / "forged"
    await short_life(honest)
    await forge_log(honest, forged, NAMES, with_payload(0, lambda _: {"machines": {"cost_guard": 99}}))
    report = replayed(forged)
    assert (report.mismatched, report.replayed) == (0, 0)
    assert "run the program that decided under it" in report.unknown[0].reason


async def test_a_payload_that_is_gone_takes_its_tenant_out_and_nobody_else(tmp_path: Path) -> None:
    await short_life(tmp_path)
    whole = list(written(tmp_path))
    gone = index_of(tmp_path, decision="throttle")
    replay = Replay()
    replay.take([StoredReceipt(one.leaf, None if one.index == gone else one.frame) for one in whole])
    (unknown,) = replay.found.unknown
    assert (unknown.index, unknown.tenant, unknown.reason) == (gone, whole[gone].receipt.tenant, "its payload is gone")
    assert replay.found.mismatched == 0
    others = [one for one in whole if one.receipt.tenant != unknown.tenant]
    assert replay.found.replayed == len(others) + sum(one.index < gone for one in whole if one not in others)


async def test_signals_that_were_put_aside_agree_after_the_defect_was_mended(tmp_path: Path) -> None:
    world = World()
    settings = Settings(tenants=TenantSettings(auto_create=True, restart_intensity=4))
    with defects():
        async with running(tmp_path, world, settings) as runtime:
            await send(runtime, *[world.queue(666, tenant="sick") for _ in range(3)], world.queue(1))
            await runtime.ledger.wait_local(runtime.ledger.size - 1)
            runtime.registry.set_quarantine("sick", quarantined=False, why="ana")
            await send(runtime, world.queue(2, tenant="sick"))
        report = replayed(tmp_path)
        assert "of these it fails again on 1" in report.notes[0]
    report = replayed(tmp_path)
    assert (report.mismatched, report.unknown) == (0, [])
    assert "of these it fails again on 0" in report.notes[0]


async def test_a_log_without_its_first_segments_is_replayed_for_whoever_came_later(tmp_path: Path) -> None:
    world = World()
    settings = Settings(ledger=LedgerSettings(segment_bytes_max=20_000), tenants=TenantSettings(auto_create=True))
    async with running(tmp_path, world, settings) as runtime:
        for _ in range(100):
            await send(runtime, world.queue(1))
    bigger = msgspec.structs.replace(settings, tenants=TenantSettings(auto_create=True, machines_max=5))
    async with running(tmp_path, world, bigger) as runtime:
        await send(runtime, world.queue(1), world.queue(2, tenant="other"), world.spend("910.25", tenant="other"))
        await quiet(runtime)
    segments = sorted((tmp_path / "ledger" / "0").glob("*.seg"))
    segments[0].unlink()
    report = replayed(tmp_path)
    assert report.mismatches == []
    (unknown,) = report.unknown
    assert "receipts are gone" in unknown.reason
    assert report.replayed == 1 + 3, "the later policy, and all that followed for the other tenant"


async def test_a_segment_that_is_missing_in_the_middle_or_damaged_cannot_be_replayed(tmp_path: Path) -> None:
    await Life(tmp_path, seed=3).live(restarts=3, steps=20)
    partition = tmp_path / "ledger" / "0"
    segments = sorted(partition.glob("*.seg"))
    data = segments[1].read_bytes()
    segments[1].write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    with pytest.raises(SegmentCorruptError):
        replay_folder(tmp_path)
    segments[1].unlink()
    with pytest.raises(SegmentCorruptError, match="a segment is missing"):
        replay_folder(tmp_path)
    with pytest.raises(NotALedgerError):
        replay_folder(partition)


def test_many_mismatches_are_counted_and_the_first_are_kept() -> None:
    replay = Replay()
    replay.take([StoredReceipt(b"{}", b"")] * 150)
    assert (replay.found.mismatched, len(replay.found.mismatches)) == (150, MISMATCHES_MAX)
    assert replay.found.mismatches[-1].index == MISMATCHES_MAX - 1


async def test_a_running_service_can_be_replayed(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        await send(runtime, world.queue(1))
        assert replay_folder(tmp_path).ok


class TestCommand:
    """`governors replay`."""

    @staticmethod
    def run(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(command_line(), ["replay", "--processes", "1", *map(str, arguments)])
        return result.exit_code, result.stdout

    async def test_it_says_good_and_exits_0(self, tmp_path: Path) -> None:
        await short_life(tmp_path)
        code, said = self.run(tmp_path)
        assert (code, said.partition(":")[0]) == (0, "good")
        code, said = self.run(tmp_path, "--json")
        document = json.loads(said)
        assert (code, document["ok"], document["mismatches"]) == (0, True, [])
        assert document["receipts"] == document["replayed"] == len(receipts(tmp_path))

    async def test_it_names_what_differs_and_exits_1(self, tmp_path: Path) -> None:
        honest, forged = tmp_path / "honest", tmp_path / "forged"
        await short_life(honest)
        index = index_of(honest, decision="throttle")
        await forge_log(honest, forged, NAMES, with_fields(index, decision="none"))
        code, said = self.run(forged)
        assert code == 1
        assert f"mismatch: receipt 0:{index} of tenant {receipts(honest)[index].tenant}" in said
        assert "decision: 'none', recomputed 'throttle'" in said
        code, said = self.run(forged, "--json")
        (found,) = json.loads(said)["mismatches"]
        assert found["differences"] == [{"field": "decision", "stored": "none", "recomputed": "throttle"}]

    async def test_it_exits_2_where_something_could_not_be_replayed(self, tmp_path: Path) -> None:
        honest, forged = tmp_path / "honest", tmp_path / "forged"
        await short_life(honest)
        await forge_log(honest, forged, NAMES, left_out(0))
        code, said = self.run(forged)
        assert (code, "incomplete" in said, "not replayed: tenant" in said) == (2, True, True)
        assert self.run(tmp_path / "nothing")[0] == 2


async def forgetful_life(folder: Path) -> NamedSnapshot:
    """A life whose first receipts were dropped, as retention does it, and that went on then."""
    async with running(folder, World()) as runtime:
        await send(runtime, World().spend("1.00", signal_id="early"))
    await short_life(folder)
    path = make_snapshot(folder, 0)
    assert path is not None
    data = path.read_bytes()
    made = snapshot.decode(data)
    sha256, last = hashlib.sha256(data).hexdigest(), made.segments[-1]
    world = World()
    world.now_us += 3 * 10**9
    async with running(folder, world) as runtime:
        evidence = retention.evidence(RetentionStatement(0, last.first_index, sha256))
        index = runtime.ledger.append(own_draft("r", retention.FSM, retention.RULE, evidence, world.now_us))
        await send(runtime, world.spend("960.00", signal_id="t1"), world.queue(5, tenant="new", signal_id="t2"))
        await quiet(runtime)
    named = NamedSnapshot(made.epoch, last.first_index, index, sha256, made.size)
    (folder / "store/0/snap").mkdir(parents=True)
    (folder / "store/0" / named.key()).write_bytes(data)
    say(folder, named)
    min(partition_folder(folder, 0).glob("*.seg")).unlink()
    return named


def say(folder: Path, named: NamedSnapshot) -> None:
    said = Retention(0, named.first_index, (named,))
    (folder / "store/0/retention").write_bytes(retention.encode(said))


async def test_where_the_beginning_was_dropped_a_replay_begins_with_the_snapshot_that_the_log_names(
    tmp_path: Path,
) -> None:
    named = await forgetful_life(tmp_path)
    found = replayed(tmp_path)
    assert found.notes[0].endswith(f"began with the snapshot that receipt {named.receipt} names")
    assert (found.mismatches, found.unknown) == ([], [])
    assert found.replayed > 2
    with changed_valve(lambda row, state, event, policy, now_us: 1 // 0):
        assert replayed(tmp_path).mismatched


async def test_without_a_snapshot_that_the_log_names_old_tenants_are_not_replayed(tmp_path: Path) -> None:
    named = await forgetful_life(tmp_path)
    path = tmp_path / "store/0" / named.key()
    data = path.read_bytes()
    forged = snapshot.encode(msgspec.structs.replace(snapshot.decode(data), states={}))
    other = replace(named, sha256=hashlib.sha256(forged).hexdigest())
    (tmp_path / "store/0" / other.key()).write_bytes(forged)
    for said, content, why in (
        (named, None, f"{named.key()} is missing"),
        (named, data[:-1], f"{named.key()} was changed"),
        (other, data, f"receipt {named.receipt} does not name {other.key()}"),
        (replace(named, receipt=named.receipt + 1), data, "not a retention receipt"),
        (replace(named, receipt=9_999), data, "there is no receipt 9999"),
    ):
        say(tmp_path, said)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        found = replayed(tmp_path)
        assert why in found.notes[0]
        assert found.mismatches == []
        assert all("receipts are gone" in lost.reason or "policy" in lost.reason for lost in found.unknown)
        assert found.unknown


async def test_records_that_do_not_name_their_chain_are_not_replayed_from(tmp_path: Path) -> None:
    """Of a log that was begun by an older program."""
    await forgetful_life(tmp_path)
    (path,) = (tmp_path / "store/0/snap").iterdir()
    made = snapshot.decode(path.read_bytes())
    for key in [POLICY_KEY, state_key("acme"), state_key("other")]:
        record = msgspec.msgpack.decode(made.states[key])
        record.pop("pseudonym")
        made.states[key] = msgspec.msgpack.encode(record)
    beginning = read_beginning(made)
    assert beginning.tenants == {}
    replay = Replay(made.size, beginning)
    replay.take([StoredReceipt(one.leaf, one.frame) for one in written(tmp_path) if one.index >= made.size])
    assert replay.found.mismatches == []
    assert {lost.reason.partition(" receipts ")[2] for lost in replay.found.unknown} == {"is not in the snapshot"}
