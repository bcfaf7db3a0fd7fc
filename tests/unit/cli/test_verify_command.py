"""What `governors verify` and `governors ledger info` say and how they end. Offline, with files alone."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.auditing import ORIGIN, SIGNER, VERIFIER, Log, leaves_of, pseudonym, publish
from support.ledger_scenes import segments, write_log
from typer.testing import CliRunner, Result

from governors.cli.main import command_line
from ledger.format import proof
from ledger.format.merkle import root_of
from ledger.format.note import Signer, Verifier
from ledger.signing import open_signing_key
from ledger.verify.documents import Consistency, TenantBundle

GOOD, BAD, NOT_CHECKED = 0, 1, 2
KEY = ("--vkey", VERIFIER.vkey)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def log() -> Log:
    log = Log()
    for number in range(12):
        log.add("acme" if number % 2 else "bazaar")
    log.add_heads()
    log.add("acme")
    return log


def run(*arguments: str, code: int = GOOD) -> Result:
    result = CliRunner().invoke(command_line(), arguments)
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str, code: int = GOOD) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


def trust_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "config" / "governors" / "trust").iterdir()
    return path


def save(folder: Path, document: Any, name: str = "document") -> str:
    path = folder / name
    is_json = isinstance(document, Consistency | TenantBundle)
    path.write_bytes(msgspec.json.encode(document) if is_json else proof.encode(document))
    return str(path)


def test_a_good_proof_says_what_the_receipt_says(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.proof(3))
    said = run("verify", "proof", file, *KEY).stdout
    assert f"receipt 3: tenant {pseudonym('acme')}, decided, none" in said
    assert f"good: {ORIGIN}, signed at 14 receipts" in said
    found = answer("verify", "bundle", file)
    assert (found["ok"], found["kind"], found["index"], found["size"]) == (True, "proof", 3, 14)
    assert found["receipt"]["event_id"] == "e-3"
    assert found["notes"] == []


def test_without_a_key_nothing_is_checked_and_nothing_is_remembered(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.proof(3))
    assert "no key is known for the log" in run("verify", "proof", file, code=NOT_CHECKED).stderr
    assert not (tmp_path / "config").exists()


def test_the_key_is_named_once(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.proof(3))
    assert str(tmp_path / "config") in run("verify", "proof", file, *KEY).stderr
    assert trust_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert run("verify", "proof", file).stderr == ""


def test_what_must_not_be_remembered_is_not(tmp_path: Path, log: Log) -> None:
    run("verify", "proof", save(tmp_path, log.proof(3)), *KEY, "--no-remember")
    assert not (tmp_path / "config").exists()


def test_another_key_than_the_known_one_is_not_taken(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.proof(3))
    run("verify", "proof", file, *KEY)
    before = trust_file(tmp_path).read_bytes()
    other = Verifier(ORIGIN, Signer(ORIGIN, bytes(32)).public_key).vkey
    assert "is not the one that" in run("verify", "proof", file, "--vkey", other, code=NOT_CHECKED).stderr
    assert (
        "of the log other/0"
        in run("verify", "proof", file, "--vkey", Verifier("other/0", SIGNER.public_key).vkey, code=NOT_CHECKED).stderr
    )
    assert "--vkey" in run("verify", "proof", file, "--vkey", "nonsense", code=NOT_CHECKED).stderr
    assert trust_file(tmp_path).read_bytes() == before


def test_one_key_stands_for_all_partitions_of_a_log(tmp_path: Path, log: Log) -> None:
    other_partition = Verifier(ORIGIN.removesuffix("0") + "7", SIGNER.public_key).vkey
    run("verify", "proof", save(tmp_path, log.proof(3)), "--vkey", other_partition)


def test_a_tampered_proof_is_bad(tmp_path: Path, log: Log) -> None:
    file = tmp_path / "document"
    save(tmp_path, log.proof(3))
    whole = file.read_bytes()
    lines = whole.split(b"\n")
    for at in range(len(lines)):
        if not lines[at]:
            continue
        spoilt = [
            *lines[:at],
            lines[at][:-2] + (b"A" if lines[at][-2:-1] != b"A" else b"B") + lines[at][-1:],
            *lines[at + 1 :],
        ]
        file.write_bytes(b"\n".join(spoilt))
        result = CliRunner().invoke(command_line(), ["verify", "proof", str(file), *KEY, "--no-remember"])
        assert result.exit_code in {BAD, NOT_CHECKED}  # not checked: it claims to be of another log
        assert "good" not in result.output
    file.write_bytes(whole[: len(whole) // 2])
    assert run("verify", "proof", str(file), *KEY, code=BAD).stdout.startswith("BAD: ")
    assert answer("verify", "proof", str(file), *KEY, code=BAD)["ok"] is False


def test_a_proof_of_another_log_is_bad(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.proof(3))
    assert "not of 'mine/0'" in run("verify", "proof", file, *KEY, "--origin", "mine/0", code=BAD).stdout


def test_a_smaller_checkpoint_later_is_a_rollback(tmp_path: Path, log: Log) -> None:
    run("verify", "proof", save(tmp_path, log.proof(3)), *KEY)
    old = save(tmp_path, log.proof(3, 9), "old")
    said = run("verify", "proof", old, code=BAD).stdout
    assert "BAD: rollback: ledger.test/log/0 shows 9 receipts, but a checkpoint of 14 was seen before" in said
    run("verify", "proof", old, "--older")
    assert "rollback" in run("verify", "proof", old, code=BAD).stdout


def test_another_root_at_the_size_seen_is_a_fork(tmp_path: Path, log: Log) -> None:
    run("verify", "proof", save(tmp_path, log.proof(3)), *KEY)
    forked = Log()
    for number in range(14):
        forked.add("acme", f"d{number}")
    said = run("verify", "bundle", save(tmp_path, forked.proof(3), "forked"), code=BAD).stdout
    assert "BAD: fork: ledger.test/log/0 had the root" in said
    assert "Keep both checkpoints" in said


def test_a_proof_that_does_not_show_the_log_has_only_grown_says_so_until_it_is_shown(tmp_path: Path, log: Log) -> None:
    run("verify", "proof", save(tmp_path, log.proof(3, 9)), *KEY)
    newer = save(tmp_path, log.proof(3), "newer")
    assert "consistency proof from 9 to 14" in run("verify", "proof", newer).stdout
    linked = answer("verify", "consistency", save(tmp_path, log.consistency(9, 14), "linked"))
    assert (linked["kind"], linked["from"], linked["to"], linked["notes"]) == ("consistency", 9, 14, [])
    assert answer("verify", "proof", newer)["notes"] == []


def test_consistency_with_a_history_that_was_not_the_one_seen_is_a_fork(tmp_path: Path, log: Log) -> None:
    run("verify", "proof", save(tmp_path, log.proof(3, 9)), *KEY)
    forked = Log()
    for number in range(14):
        forked.add("acme", f"d{number}")
    said = run("verify", "consistency", save(tmp_path, forked.consistency(9, 14), "forked"), code=BAD).stdout
    assert "BAD: fork" in said


def test_a_tenants_bundle_says_how_far_it_is_complete(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.bundle("acme", heads_at=12))
    said = run("verify", "tenant", file, *KEY).stdout
    assert "complete up to the heads receipt at index 12" in said
    assert "then 1 more receipts, of which completeness is not shown" in said
    found = answer("verify", "tenant", file)
    assert (found["kind"], found["receipts"], found["complete_to"], found["after"]) == ("tenant", 7, 12, 1)


def test_a_tenants_receipts_held_back_are_bad(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.bundle("acme", only=log.indices("acme")[:4], heads_at=12))
    assert "BAD: withheld: the tenant had 6 receipts" in run("verify", "tenant", file, *KEY, code=BAD).stdout


def test_each_kind_has_its_command(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.bundle("acme"))
    assert "another kind" in run("verify", "proof", file, *KEY, code=NOT_CHECKED).stderr
    assert "another kind" in run("verify", "consistency", file, *KEY, code=NOT_CHECKED).stderr
    run("verify", "bundle", file, *KEY)


def test_a_file_that_is_not_there_cannot_be_checked(tmp_path: Path) -> None:
    for command in ("proof", "consistency", "tenant", "bundle", "log"):
        assert run("verify", command, str(tmp_path / "nowhere"), code=NOT_CHECKED).stderr.startswith(
            "could not check: "
        )


def test_a_spoilt_trust_file_checks_nothing(tmp_path: Path, log: Log) -> None:
    file = save(tmp_path, log.proof(3))
    run("verify", "proof", file, *KEY)
    trust_file(tmp_path).write_text("{")
    assert "cannot be used" in run("verify", "proof", file, code=NOT_CHECKED).stderr


async def test_a_log_is_checked_with_its_signature_and_remembered(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    await write_log(data_dir, [20, 20], tenants=3)
    publish(data_dir / "store" / "0", leaves_of(data_dir))
    assert "no key is known" in run("verify", "log", str(data_dir)).stdout
    found = answer("verify", "log", str(data_dir), *KEY)
    assert (found["ok"], found["receipts"], found["notes"]) == (True, 40, [])
    path = trust_file(tmp_path)
    kept = json.loads(path.read_text())
    assert (kept["origin"], kept["vkey"], len(kept["checkpoints"])) == (ORIGIN, VERIFIER.vkey, 1)
    publish(data_dir / "store" / "0", leaves_of(data_dir)[:30])
    assert answer("verify", "log", str(data_dir))["ok"]  # what is published lags behind, the log itself does not
    (segment_,) = segments(data_dir)
    segment_.unlink()
    found = answer("verify", "log", str(data_dir), code=BAD)
    assert [error["kind"] for error in found["errors"]] == ["truncated", "rollback"]
    assert json.loads(path.read_text()) == kept


async def test_info_names_key_size_and_root(tmp_path: Path) -> None:
    await write_log(tmp_path, [5, 5])
    root = root_of(Log(leaves=leaves_of(tmp_path)).hashes()).hex()
    told = {
        "partition": 0,
        "origin": ORIGIN,
        "vkey": None,
        "size": 10,
        "root": root,
        "tiles": str(tmp_path / "store/0"),
    }
    assert answer("ledger", "info", "--data-dir", str(tmp_path)) == {"partitions": [told]}
    seed = open_signing_key(tmp_path, ORIGIN.removesuffix("/0"), bytes)
    vkey = Verifier(ORIGIN, Signer(ORIGIN, seed).public_key).vkey
    assert answer("ledger", "info", "--data-dir", str(tmp_path)) == {"partitions": [told | {"vkey": vkey}]}
    assert vkey in run("ledger", "info", "--data-dir", str(tmp_path)).stdout
    assert "PRIVATE" not in run("ledger", "info", "--data-dir", str(tmp_path)).stdout
    run("ledger", "info", "--data-dir", str(tmp_path / "nowhere"), code=NOT_CHECKED)


def test_every_command_helps_with_an_example() -> None:
    for command in ("proof", "consistency", "tenant", "bundle", "log"):
        assert f"Example: governors verify {command}" in run("verify", command, "--help").stdout
