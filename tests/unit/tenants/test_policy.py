"""The policy document: whoever has it can decide as the service did, and it is in the log before any decision."""

import hashlib
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.runtime import World, running, send

from governors.machines.catalog import RULES
from governors.machines.explain import explain
from governors.machines.profiles import build_profiles
from governors.settings import DedupSettings, Settings, SettingsError, TenantSettings
from governors.tenants.policy import Policy, PolicyUnknownError, make_policy, read_policy

RPC: dict[str, Any] = {
    "rpc": {"backlog_valve": {"profile": "rpc"}, "rollback_guard": {"alert_severities": ["sev1", "sev2"]}}
}


def policy(profiles: dict[str, Any] | None = None, **changes: Any) -> Policy:
    settings: dict[str, Any] = {
        "auto_create": False, "dead_letter_after": 3, "default_profile": "standard", "machines_max": 32,
        "window_ids": 1024,
    }  # fmt: skip
    return make_policy(build_profiles(profiles), **(settings | changes))


def test_a_document_that_is_read_back_is_the_same_policy() -> None:
    made = policy(RPC)
    read = read_policy(made.encoded)
    assert read == made
    assert read.profiles["rpc"].policies["backlog_valve"].interval_ms == 1000


def test_the_digest_of_every_profile_can_be_found_from_the_document_alone() -> None:
    document = json.loads(policy(RPC).encoded)
    found = {
        name: hashlib.sha256(orjson.dumps(pack, option=orjson.OPT_SORT_KEYS)).hexdigest()
        for name, pack in document["profiles"].items()
    }
    assert found == {name: profile.digest for name, profile in build_profiles(RPC).items()}
    assert len(set(found.values())) == 2, "the standard profiles are one policy under three names"


def test_every_setting_that_decisions_depend_on_changes_the_digest() -> None:
    digests = [
        policy(RPC).digest,
        policy().digest,
        policy(auto_create=True).digest,
        policy(dead_letter_after=4).digest,
        policy(default_profile="premium").digest,
        policy(machines_max=33).digest,
        policy(window_ids=1025).digest,
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machines": {"cost_guard": 99}}, "run the program that decided under it"),
        ({"profiles": {"standard": {"cost_guard": {"unheard_of": 1}}}}, "unheard_of"),
        ({"default_profile": "gone"}, "'gone'"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_document_of_another_program_is_refused_with_a_reason(change: dict[str, Any], said: str) -> None:
    document = json.loads(policy().encoded) | change
    with pytest.raises(PolicyUnknownError, match=said):
        read_policy(orjson.dumps(document))


async def test_the_policy_is_the_first_receipt_and_comes_again_only_when_it_changes(tmp_path: Path) -> None:
    world = World()
    bigger = Settings(tenants=TenantSettings(machines_max=64), dedup=DedupSettings(window_ids=2048))
    for settings in (Settings(), Settings(), bigger, bigger, Settings()):
        async with running(tmp_path, world, settings) as runtime:
            await send(runtime, world.queue(1))
            assert runtime.window.capacity == settings.dedup.window_ids
    async with running(tmp_path, world) as runtime:
        leaves = [orjson.loads((await runtime.ledger.read(index)).leaf) for index in range(runtime.ledger.local_size)]
    machines = [leaf["fsm"]["machine"] for leaf in leaves]
    valve = "backlog_valve"
    assert machines == ["runtime", valve, valve, "runtime", valve, valve, "runtime", valve]
    loaded = [leaf for leaf in leaves if leaf["fsm"]["machine"] == "runtime"]
    assert [leaf["fsm"]["from"] for leaf in loaded] == ["", *[leaf["fsm"]["to"] for leaf in loaded[:-1]]]
    assert loaded[0]["policy_digest"] == loaded[2]["policy_digest"] != loaded[1]["policy_digest"]
    said = explain(RULES, loaded[0]["rule"], loaded[0]["evidence"])
    assert loaded[0]["policy_digest"] in said


async def test_its_payload_is_the_document(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime:
        await runtime.ledger.wait_local(0)
        _, payload = await runtime.ledger.payload(0)
        leaf = orjson.loads((await runtime.ledger.read(0)).leaf)
    read = read_policy(payload)
    assert (read.digest, read.document.auto_create) == (leaf["evidence"]["digest"], True)


async def test_a_profile_that_tenants_have_cannot_be_taken_out_of_the_configuration(tmp_path: Path) -> None:
    world = World()
    with_gold = Settings(tenants=TenantSettings(auto_create=True), profiles={"gold": {}})
    async with running(tmp_path, world, with_gold) as runtime:
        gold = {"status": "active", "profile": "gold"}
        await send(runtime, *[world.signal("tenant.entitlement", gold, tenant=name) for name in ("acme", "other")])
        size = runtime.ledger.size
    for _ in range(2):
        with pytest.raises(
            SettingsError, match=r"profiles\.gold \(not set\): needed by tenants in the log: acme, other"
        ):
            async with running(tmp_path, world):
                pass
    async with running(tmp_path, world, with_gold) as runtime:
        assert runtime.ledger.size == size, "what could not start has left nothing"
