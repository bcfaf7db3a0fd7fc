"""Policy files: read as a whole or not at all, and what is wrong is said with its key."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from governors.machines.conduct import Asking
from governors.policies import NO_POLICIES, Policies, read_policies
from governors.policy_schema import policy_schema
from governors.runtime import policy_of
from governors.settings import Settings, SettingsError
from governors.tenants.terms import Terms

SATURDAY_US = 1_795_824_000_000_000  # 2026-11-28T00:00:00Z
HOUR_US = 3_600_000_000
DOCUMENT = Path(__file__).parents[2] / "docs" / "schema" / "policies.json"
POLICIES = """
profiles:
  strict:
    cost_guard: {throttle_ppm: 800000, throttle_clear_ppm: 700000}
tenants:
  acme:
    rollback_guard: {hold_s: 60}
windows:
  - name: try the valve
    governors: [backlog_valve]
    observe: true
  - name: weekend
    tenants: [acme]
    weekly: ["Sat-Sun 00:00-24:00"]
    utc_offset: "+02:00"
    profile: strict
  - name: black friday
    from: 2026-11-27T00:00:00+01:00
    until: 2026-11-30T00:00:00+01:00
    approval: {actions: [throttle, stop], wait_s: 600, then: act}
"""


def written(folder: Path, text: str = POLICIES, name: str = "policies.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def terms(policies: Policies, tenant: str, now_us: int, *, stopped: bool = False) -> Terms:
    return policy_of(Settings(), policies).book.of(tenant, "standard", now_us, stopped=stopped)


def test_without_a_path_there_are_none() -> None:
    assert read_policies(None, {}) == NO_POLICIES


def test_windows_put_other_terms_in_force(tmp_path: Path) -> None:
    policies = read_policies(written(tmp_path), {})
    on_saturday = terms(policies, "acme", SATURDAY_US)
    assert on_saturday.profile.policies["cost_guard"].throttle_ppm == 800_000
    assert on_saturday.profile.policies["rollback_guard"].hold_s == 60
    assert on_saturday.conduct("backlog_valve").observes == "window try the valve"
    assert on_saturday.conduct("cost_guard").asks == {kind: Asking(600_000_000, "act") for kind in ("throttle", "stop")}
    on_monday = terms(policies, "acme", SATURDAY_US + 48 * HOUR_US)
    assert on_monday.profile.policies["cost_guard"].throttle_ppm == 900_000
    assert on_monday.profile.policies["rollback_guard"].hold_s == 60
    assert on_monday.conduct("cost_guard").asks == {}
    assert on_saturday.profile.digest != on_monday.profile.digest


def test_terms_say_until_when_they_hold(tmp_path: Path) -> None:
    policies = read_policies(written(tmp_path), {})
    assert terms(policies, "acme", SATURDAY_US).until_us == SATURDAY_US + 46 * HOUR_US
    assert terms(policies, "other", SATURDAY_US).until_us == SATURDAY_US + 47 * HOUR_US


def test_others_have_their_own_profile(tmp_path: Path) -> None:
    other = terms(read_policies(written(tmp_path), {}), "other", SATURDAY_US)
    assert other.profile.policies["cost_guard"].throttle_ppm == 900_000
    assert other.profile.policies["rollback_guard"].hold_s == 300


def test_in_an_emergency_stop_nobody_acts(tmp_path: Path) -> None:
    stopped = terms(read_policies(written(tmp_path), {}), "acme", SATURDAY_US, stopped=True)
    assert {stopped.conduct(name).observes for name in ("cost_guard", "rollback_guard", "backlog_valve")} == {
        "emergency stop"
    }


def test_a_folder_is_read_as_one(tmp_path: Path) -> None:
    whole = yaml.safe_load(POLICIES)
    parts = tmp_path / "parts"
    parts.mkdir()
    for section in whole:
        written(parts, yaml.safe_dump({section: whole[section]}), f"{section}.yaml")
    written(parts, "not a policy", "README.md")
    assert read_policies(parts, {}) == read_policies(written(tmp_path), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles: {strict: {cost_guard: {throttle_ppm: 2}}}", "profiles.strict.cost_guard"),
        ("profiles: {strict: {cost_gard: {}}}", "profiles.strict.cost_gard"),
        ("tenants: {acme: {cost_guard: {warn_ppm: 1}}}", "tenants.acme.cost_guard"),
        ("tenants: {acme: {cost_guard: {warn: 1}}}", "contains unknown field `warn`"),
        ("windows: [{name: w, observe: true, governors: [cost]}]", "expected one of cost_guard"),
        ("windows: [{name: w, profile: gold}]", "expected one of standard"),
        ("windows: [{name: w}]", "it changes nothing"),
        ("windows: [{name: w, observe: true, weekly: [Mon]}]", "expected one like Mon-Fri 09:00-18:00"),
        ("windows: [{name: w, observe: true, from: 2026-11-27T00:00:00}]", "has no zone"),
        ("windows: [{name: w, observe: true}, {name: w, profile: premium}]", "expected names that differ"),
        ("windows: [{name: w, observe: 1}]", "$.windows[0].observe"),
        ("window: []", "unknown field `window`"),
        ("- a list", "expected a mapping of keys"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_policies(written(tmp_path, text), {})
    assert said in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    written(tmp_path, "windows: [{name: w}]\ntenants: {acme: {cost_guard: {warn_ppm: 1}}}", "a.yaml")
    written(tmp_path, "tenants: {acme: {}}", "b.yaml")
    written(tmp_path, "tenants: [", "c.yml")
    with pytest.raises(SettingsError) as caught:
        read_policies(tmp_path, {"gold": {}})
    said = str(caught.value)
    for part in ("it changes nothing", "tenants.acme.cost_guard", "is in another file too", "is not YAML"):
        assert part in said


def test_the_schema_in_the_repository_is_of_these_types() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == policy_schema(), "`make docs` brings it up to date"


def test_the_schema_has_every_key_of_every_governor() -> None:
    document: dict[str, Any] = json.loads(policy_schema())
    pack = document["$defs"]["PolicyText"]["properties"]["profiles"]["additionalProperties"]
    assert "\\A" not in policy_schema(), "editors know no such anchor"
    for governor, policy in policy_of(Settings(), NO_POLICIES).profiles["standard"].policies.items():
        name = pack["properties"][governor]["$ref"].rpartition("/")[2]
        assert document["$defs"][name]["properties"].keys() == set(policy.__struct_fields__)
