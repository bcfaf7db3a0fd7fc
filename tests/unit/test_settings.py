"""What `load` makes of files, variables and options, and what stops the start."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from governors.settings import Effective, Settings, SettingsError, load


class CostPolicy(Struct, frozen=True):
    warn_ppm: int = 500_000
    stop_ppm: int = 1_000_000

    def __post_init__(self) -> None:
        if self.warn_ppm > self.stop_ppm:
            raise ValueError("warn_ppm: over stop_ppm")


POLICIES: dict[str, type[Struct]] = {"cost_guard": CostPolicy}


class Files:
    """A folder for the configuration files of one test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "governors.yaml"

    def load(self, text: str, env: dict[str, str] | None = None, **options: Any) -> Effective:
        self.path.write_text(text, encoding="utf-8")
        dotted = {name.replace("__", "."): value for name, value in options.items()}
        return load(self.path, env or {}, dotted, POLICIES)

    def refused(self, text: str, env: dict[str, str] | None = None, **options: Any) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            self.load(text, env, **options)
        return [str(problem).replace(f"file {self.path}", "file") for problem in caught.value.problems]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_without_a_file_the_laptop_default_holds() -> None:
    settings = load(None, {}, {}, POLICIES).settings
    assert settings.http.host == "127.0.0.1"
    assert settings.http.port == 8080
    assert settings.tenants.auto_create is True
    assert settings.pubsub is None


def test_with_a_file_unknown_tenants_stay_unknown_unless_it_says_otherwise(files: Files) -> None:
    assert files.load("http: {port: 9000}").settings.tenants.auto_create is False
    assert files.load("").settings.tenants.auto_create is False
    assert files.load("tenants: {auto_create: true}").settings.tenants.auto_create is True


def test_an_option_wins_over_a_variable_over_the_file_over_the_default(files: Files) -> None:
    text = "http: {port: 1001, batch_max: 11, body_bytes_max: 2048}\n"
    env = {"GOVERNORS_HTTP__PORT": "1002", "GOVERNORS_HTTP__BATCH_MAX": "12"}
    effective = files.load(text, env, http__port=1003, http__host=None)
    assert effective.settings.http.port == 1003
    assert effective.settings.http.batch_max == 12
    assert effective.settings.http.body_bytes_max == 2048
    origins = effective.origins
    assert origins["http.port"] == "option"
    assert origins["http.batch_max"] == "env GOVERNORS_HTTP__BATCH_MAX"
    assert origins["http.body_bytes_max"] == f"file {files.path}"
    assert origins["http.host"] == "default"


def test_variables_are_read_in_the_keys_own_type() -> None:
    env = {
        "GOVERNORS_DATA_DIR": "/var/lib/governors",
        "GOVERNORS_HTTP__REQUEST_TIMEOUT_S": "2.5",
        "GOVERNORS_TENANTS__AUTO_CREATE": "false",
        "GOVERNORS_METRICS__TENANT_LABELS": "acme, beta",
        "GOVERNORS_LEDGER__ORIGIN": "",
        "GOVERNORS_PROFILES__PREMIUM__COST_GUARD__WARN_PPM": "700000",
    }
    settings = load(None, env, {}, POLICIES).settings
    assert settings.data_dir == Path("/var/lib/governors")
    assert settings.http.request_timeout_s == 2.5
    assert settings.tenants.auto_create is False
    assert settings.metrics.tenant_labels == ("acme", "beta")
    assert settings.ledger.origin is None
    assert settings.profiles["premium"] == {"cost_guard": {"warn_ppm": 700_000}}


def test_every_key_can_be_set_by_a_variable() -> None:
    rows = load(None, {}, {"pubsub.project": "p-1", "pubsub.subscription": "sub"}, POLICIES).rows
    env = {
        "GOVERNORS_" + row.key.upper().replace(".", "__"): "" if row.value in (None, ()) else str(row.value)
        for row in rows
    }
    again = load(None, env, {}, POLICIES)
    assert {row.key: row.value for row in again.rows} == {row.key: row.value for row in rows}
    assert all(row.origin.startswith("env GOVERNORS_") for row in again.rows)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http: {prot: 1}", "http.prot (file): unknown key, did you mean http.port?"),
        ("wallpaper: red", "wallpaper (file): unknown key"),
        ("http: {port: eighty}", "http.port = 'eighty' (file): expected an integer from 0 to 65,535"),
        ('http: {port: "8080"}', "http.port = '8080' (file): expected an integer from 0 to 65,535"),
        ("http: {port: 70000}", "http.port = 70000 (file): expected an integer from 0 to 65,535"),
        ("http: {port: true}", "http.port = True (file): expected an integer from 0 to 65,535"),
        ("http: {port: null}", "http.port = None (file): expected an integer from 0 to 65,535"),
        ("http: 8080", "http = 8080 (file): expected a section with keys of its own"),
        (
            "http: {request_timeout_s: .nan}",
            "http.request_timeout_s = nan (file): expected a number over 0 and up to 600",
        ),
        (
            "http: {request_timeout_s: .inf}",
            "http.request_timeout_s = inf (file): expected a number over 0 and up to 600",
        ),
        ("log: {level: loud}", "log.level = 'loud' (file): expected one of debug, info, warning, error"),
        ("tenants: {auto_create: maybe}", "tenants.auto_create = 'maybe' (file): expected true or false"),
        ('data_dir: ""', "data_dir = '' (file): expected a path"),
        ("pubsub: {project: p-1}", "pubsub.subscription (not set): needed because its section is in use"),
        ("default_profile: gold", "default_profile = 'gold' (file): expected one of standard, premium, enterprise"),
        (
            "profiles: {standard: {cost_gard: {warn_ppm: 1}}}",
            "profiles.standard.cost_gard (file): unknown key, did you mean profiles.standard.cost_guard?",
        ),
        (
            "profiles: {premium: {cost_guard: {warn: 1}}}",
            "profiles.premium.cost_guard.warn (file): unknown key, did you mean profiles.premium.cost_guard.warn_ppm?",
        ),
        (
            "profiles: {standard: {cost_guard: {warn_ppm: much}}}",
            "profiles.standard.cost_guard.warn_ppm = 'much' (file): expected an integer",
        ),
        (
            "profiles: {standard: {cost_guard: {warn_ppm: 2000000}}}",
            "profiles.standard.cost_guard = {'warn_ppm': 2000000} (profile): warn_ppm: over stop_ppm",
        ),
        (
            "ledger: {segment_bytes_max: 65536, batch_bytes_max: 70000}",
            "ledger.batch_bytes_max = 70000 (file): expected at most segment_bytes_max, 65536",
        ),
        (
            "ledger: {pending_bytes_max: 16384}",
            "ledger.pending_bytes_max = 16384 (file): expected at least batch_bytes_max, 4194304",
        ),
        (
            "tenants: {mailbox_max: 5}",
            "tenants.mailbox_max = 5 (file): expected at least http.batch_max, 10000, else a full batch never fits",
        ),
        (
            "store: {control_url: 'gs://b/c'}",
            "store.control_url = 'gs://b/c' (file): expected store.url, for what is not replaced",
        ),
        (
            "store: {url: 'gs://b/c', control_url: 'gs://b/c/'}",
            "store.control_url = 'gs://b/c/' (file): expected another place than store.url",
        ),
        (
            "retention: {payloads_days: 30, receipts_days: 7}",
            "retention.receipts_days = 7.0 (file): expected at least payloads_days, 30",
        ),
        (
            "tenants: {restart_intensity: 2}",
            "tenants.restart_intensity = 2 (file): expected at least dead_letter_after, 3: one bad signal quarantines",
        ),
    ],
)
def test_what_cannot_be_is_named_with_its_value_and_what_was_expected(files: Files, text: str, problem: str) -> None:
    assert files.refused(text) == [problem]


def test_all_problems_come_at_once(files: Files) -> None:
    problems = files.refused(
        "http: {port: x, batch_max: 0}\nlgo: 1\n", {"GOVERNORS_LOG__LEVEL": "loud", "GOVERNORS_HTTP_PORT": "9000"}
    )
    assert [problem.split(" ")[0] for problem in problems] == [
        "lgo",
        "GOVERNORS_HTTP_PORT",
        "http.port",
        "http.batch_max",
        "log.level",
    ]
    assert "did you mean GOVERNORS_HTTP__PORT?" in problems[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "governors.example"])
def test_a_host_beyond_loopback_is_refused_because_nobody_is_asked_who_they_are(files: Files, host: str) -> None:
    (problem,) = files.refused("", http__host=host)
    assert problem.startswith(f"http.host = '{host}' (option): expected 127.0.0.1, ::1 or localhost")
    assert "authentication" in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_hosts_are_accepted(files: Files, host: str) -> None:
    assert files.load("", http__host=host).settings.http.host == host


def test_a_file_may_add_a_profile_that_tenants_can_then_have(files: Files) -> None:
    settings = files.load("profiles: {trial: {cost_guard: {warn_ppm: 100}}, empty: }\ndefault_profile: trial").settings
    assert settings.default_profile == "trial"
    assert settings.profiles["trial"] == {"cost_guard": {"warn_ppm": 100}}
    assert set(settings.profiles) == {"standard", "premium", "enterprise", "trial", "empty"}


def test_a_key_given_twice_is_a_mistake(files: Files) -> None:
    (problem,) = files.refused("http: {port: 1}\nhttp: {port: 2}\n")
    assert "the key http is given twice" in problem


def test_a_section_with_nothing_in_it_gives_nothing(files: Files) -> None:
    assert files.load("http:\n  # port: 9000\nlog: {level: debug}\n").settings.http.port == 8080


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"http: [", "is not YAML"),
        (b"- a\n- b\n", "expected a mapping of keys"),
        (b"log: \xff", "is not UTF-8"),
        (b"!!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=expected):
        load(path, {}, {}, POLICIES)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "absent.yaml", {}, {}, POLICIES)


def test_variables_that_kubernetes_adds_for_services_are_not_taken_for_ours() -> None:
    env = {
        "GOVERNORS_SERVICE_HOST": "10.0.0.7",
        "GOVERNORS_SERVICE_PORT": "8080",
        "GOVERNORS_SERVICE_PORT_HTTP": "8080",
        "GOVERNORS_PORT": "tcp://10.0.0.7:8080",
        "GOVERNORS_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "GOVERNORS_PORT_8080_TCP_ADDR": "10.0.0.7",
        "GOVERNORS_HTTP_PORT": "tcp://10.0.0.8:80",
    }
    assert load(None, env, {}, POLICIES).settings == load(None, {}, {}, POLICIES).settings


def test_rows_name_every_key_once_with_value_and_origin(files: Files) -> None:
    rows = files.load("http: {port: 9000}").rows
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    assert ("http.port", 9000, f"file {files.path}") in rows
    assert ("data_dir", "data", "default") in rows
    assert ("profiles.enterprise.cost_guard.warn_ppm", 500_000, "default") in rows
    assert not any(key.startswith("pubsub.") for key in keys)  # not in use


def test_settings_built_directly_have_the_defaults_of_an_empty_file(files: Files) -> None:
    loaded = files.load("").settings
    assert Settings(profiles=loaded.profiles) == loaded


def test_the_variable_of_the_client_commands_does_not_stop_a_start() -> None:
    assert load(None, {"GOVERNORS_URL": "http://127.0.0.1:9"}, {}, POLICIES).settings.http.port == 8080


ROUTING = """
ingest:
  routing:
    - when: {budget: de72f49d-779b-4945-a127-4d6ce8def0bb, project: "shop-*"}
      tenant: acme
      subject: prod-budget
    - tenant_from: label.tenant
"""


def test_rules_for_messages_of_other_systems_are_read_from_the_file(files: Files) -> None:
    first, second = files.load(ROUTING).settings.ingest.routing
    assert (first.tenant, first.subject, first.when["project"]) == ("acme", "prod-budget", "shop-*")
    assert second.tenant_from == "label.tenant"
    assert files.load("").settings.ingest.routing == ()


def test_rules_are_json_in_a_variable() -> None:
    env = {"GOVERNORS_INGEST__ROUTING": '[{"when": {"budget": "b-1"}, "tenant": "acme"}, {"tenant_from": "label.t"}]'}
    first, second = load(None, env, {}, POLICIES).settings.ingest.routing
    assert (first.when, first.tenant, second.tenant_from) == ({"budget": "b-1"}, "acme", "label.t")
    for wrong in ("acme", "[{}]", '{"tenant": "acme"}', "[" * 50_000, "\x00"):
        with pytest.raises(SettingsError, match=r"ingest.routing = .*expected a list, each of when"):
            load(None, {"GOVERNORS_INGEST__ROUTING": wrong}, {}, POLICIES)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("{tenant: a/b}", "tenant: expected letters, digits and . _ : @ + -, beginning with a letter or digit"),
        ("{when: {budget: x}}", "expected either tenant or tenant_from"),
        ("{tenant_from: lable.tenant}", "unknown fact 'lable.tenant'"),
        ("{tenant: a, wen: {}}", "unknown field `wen`"),
        ("{tenant: a, when: {budget: 7}}", "Expected `str`, got `int`"),
        ("acme", "Expected `object`, got `str`"),
    ],
)
def test_a_rule_that_cannot_be_meant_stops_the_start_and_says_which_and_why(files: Files, rule: str, why: str) -> None:
    (problem,) = files.refused(f"ingest: {{routing: [{{tenant: a}}, {rule}]}}")
    assert problem.startswith("ingest.routing = ")
    assert "expected a list, each of when, tenant, tenant_from, subject, subject_from" in problem
    assert why in problem
    assert "$[1]" in problem


def test_a_push_needs_to_know_whom_to_believe(files: Files) -> None:
    push = files.load("push: {audience: x, service_accounts: [push@p.iam.gserviceaccount.com]}").settings.push
    assert push is not None
    assert push.keys.startswith("https://www.googleapis.com/")
    assert files.load("").settings.push is None
    assert files.refused("push: {audience: x}") == [
        "push.service_accounts (not set): needed because its section is in use"
    ]
    assert files.refused("push: {audience: x, service_accounts: []}") == [
        "push.service_accounts = [] (file): expected at least one"
    ]
    accounts = "service_accounts: [a@b.c]"
    assert "push.keys" in files.refused(f"push: {{audience: x, keys: 'http://keys.example', {accounts}}}")[0]
    assert "push.service_accounts" in files.refused("push: {audience: x, service_accounts: [alice]}")[0]
