"""`governors demo` as a newcomer runs it."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ledger import fsck

TENANTS = ["aurora-ml", "bazaar", "courier", "dovecote", "ember"]
PLAYED_S = 100.0


def start(temporary: Path, *args: str) -> "subprocess.Popen[str]":
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "governors", "demo", "--fast", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8"},
    )


class Played:
    """One play with `--json`: its events, and the summary at the end."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        out, self.err = process.communicate(timeout=PLAYED_S)
        self.code = process.returncode
        assert not self.err, self.err
        *self.events, self.summary = [json.loads(line) for line in out.splitlines()]

    def of(self, tenant: str, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["tenant"] == tenant and one["event"] == event]

    @property
    def story(self) -> list[dict[str, Any]]:
        """Everything that was told, but for the places of receipts in the log."""
        return [{key: value for key, value in one.items() if key != "receipt"} for one in self.events]


class Plays:
    """Three plays at the same time: one kept, one again with its seed, and one for people."""

    def __init__(self, folder: Path) -> None:
        self.kept = folder / "kept" / "ledger"
        self.temporary = [folder / name for name in ("kept", "again", "text")]
        with (
            start(self.temporary[0], "--json", "--seed", "11", "--keep", str(self.kept)) as first,
            start(self.temporary[1], "--json", "--seed", "11") as again,
            start(self.temporary[2], "--seed", "12") as text,
        ):
            try:
                self.first, self.again = Played(first), Played(again)
                self.text, self.text_err = text.communicate(timeout=PLAYED_S)
                self.text_code = text.returncode
            finally:
                for process in (first, again, text):
                    process.kill()


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Plays:
    return Plays(tmp_path_factory.mktemp("demo"))


def test_the_hour_comes_out_as_it_must(plays: Plays) -> None:
    for played in (plays.first, plays.again):
        missed = [one["text"] for one in played.summary["milestones"] if not one["seen"]]
        assert (played.code, played.summary["ok"], missed) == (0, True, [])


def test_the_same_seed_plays_the_same_hour(plays: Plays) -> None:
    assert plays.first.story == plays.again.story
    assert plays.first.summary["signals"] == plays.again.summary["signals"]
    assert plays.first.summary["tenants"] == plays.again.summary["tenants"]


def test_each_tenant_is_told_of_in_the_order_of_the_hour(plays: Plays) -> None:
    events = plays.first.events
    assert sorted({one["tenant"] for one in events}) == TENANTS
    assert [one["second"] for one in events] == sorted(one["second"] for one in events)
    assert events[0]["at"].startswith("2026-11-27T09:00:00")
    assert 3_000 < events[-1]["second"] <= 3_600


def test_the_runaway_job_is_warned_throttled_and_stopped_before_it_recovers(plays: Plays) -> None:
    moves = [one["state"] for one in plays.first.of("aurora-ml", "decision") if one["state"] != one["previous_state"]]
    assert moves == ["NORMAL", "WARN", "THROTTLE", "STOP", "RECOVERING"]
    throttled, stopped, *_ = plays.first.of("aurora-ml", "admission")
    assert throttled["passed"]["critical"] == throttled["asked"]["critical"]
    assert 0 < throttled["passed"]["normal"] < throttled["asked"]["normal"], "a share of the jobs, not all or none"
    assert stopped["passed"] == {"critical": stopped["asked"]["critical"], "normal": 0}


def test_the_reason_is_the_services_own_sentence_with_its_numbers(plays: Plays) -> None:
    (stop,) = [one for one in plays.first.of("aurora-ml", "decision") if one["decision"] == "stop"]
    assert stop["reason"].startswith("cost 24")
    assert stop["reason"].endswith(" of 2400.00 USD is at or over 100 %")


def test_the_flood_is_shed_closed_tried_and_opened(plays: Plays) -> None:
    moves = [one["state"] for one in plays.first.of("bazaar", "decision") if one["state"] != one["previous_state"]]
    assert moves[:2] == ["SHEDDING", "DRAINING"]
    assert moves[-2:] == ["PROBING", "OPEN"]
    before, *during, after = plays.first.of("bazaar", "admission")
    assert before["passed"] == before["asked"]
    assert after["passed"] == after["asked"]
    assert all(one["passed"]["critical"] == one["asked"]["critical"] for one in during)
    assert all(one["passed"]["normal"] < one["asked"]["normal"] for one in during)
    assert all(one["retry_after_s"] > 0 for one in during)


def test_the_bad_deploy_is_taken_back_and_the_good_one_is_not(plays: Plays) -> None:
    decisions = plays.first.of("courier", "decision")
    good = [one["decision"] for one in decisions if one["subject"] == "search"]
    assert good == ["watch", "promote"]
    bad = [one["decision"] for one in decisions if one["subject"] == "checkout"]
    assert [word for word in bad if word != "resume"][-6:][:5] == ["hold", "rollback", "verify", "cooldown", "refuse"]
    actions = [(one["subject"], one["action"]) for one in plays.first.of("courier", "action")]
    assert actions[-1] == ("checkout", "rollback")
    assert {subject for subject, _ in actions} == {"checkout"}


def test_nothing_is_done_to_the_quiet_tenant(plays: Plays) -> None:
    assert plays.first.of("dovecote", "action") == []
    assert {one["state"] for one in plays.first.of("dovecote", "decision")} == {"NORMAL"}
    assert all(one["passed"] == one["asked"] for one in plays.first.of("dovecote", "admission"))
    (quiet,) = [one for one in plays.first.summary["tenants"] if one["tenant"] == "dovecote"]
    assert quiet["signals"] > 400
    assert quiet["actions"] == 0


def test_the_suspended_tenant_is_refused(plays: Plays) -> None:
    (ember,) = [one for one in plays.first.summary["tenants"] if one["tenant"] == "ember"]
    assert ember["state"] == "SUSPENDED"
    assert ember["refused"] > 100
    assert [one["outcome"] for one in plays.first.of("ember", "decision")] == ["decided", "refused"]
    (asked,) = plays.first.of("ember", "admission")
    assert set(asked["passed"].values()) == {0}


def test_signals_that_come_again_are_not_decided_again(plays: Plays) -> None:
    assert sum(one["repeated"] for one in plays.first.summary["tenants"]) > 0


def test_the_ledger_that_was_kept_verifies_and_has_every_receipt_of_the_story(plays: Plays) -> None:
    report = fsck.verify_log(plays.kept)
    assert report.ok
    assert report.receipts == plays.first.summary["receipts"]
    assert report.tenants == len(TENANTS) + 2, "chains of the runtime (under which policy) and of operators (who asked)"
    assert report.partitions[0].root == plays.first.summary["ledger"]["partitions"][0]["root"]
    receipts = Counter(one["receipt"] for one in plays.first.events if one["event"] == "decision")
    assert max(receipts.values()) == 1
    assert all(int(receipt.partition(":")[2]) < report.receipts for receipt in receipts)


def test_a_throw_away_hour_leaves_nothing_behind(plays: Plays) -> None:
    assert [list(folder.iterdir()) for folder in plays.temporary[1:]] == [[], []]
    assert plays.again.summary["folder"] is None
    assert plays.first.summary["folder"] == str(plays.kept)


def test_people_get_a_story_that_says_the_same(plays: Plays) -> None:
    assert (plays.text_code, plays.text_err) == (0, "")
    lines = plays.text.splitlines()
    for moved in ("WARN → THROTTLE", "OPEN → SHEDDING", "HOLD → ROLLING_BACK", "WATCHING → PROMOTED"):
        assert sum(moved in line for line in lines) == 1
    assert sum("✓" in line for line in lines) == len(plays.first.summary["milestones"])
    assert any(line.split()[:1] == ["dovecote"] and line.split()[-1] == "NORMAL" for line in lines)
    assert "\x1b" not in plays.text, "no colours where nobody sees them"
    assert max(len(line) for line in lines) <= 110


@pytest.mark.parametrize("what", ["not empty", "not a folder"])
def test_a_folder_that_cannot_be_used_is_a_sentence_and_exit_2(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path if what == "not empty" else tmp_path / "file"
    process = start(tmp_path / "tmp", "--keep", str(folder))
    out, err = process.communicate(timeout=PLAYED_S)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1
    assert "→" not in out
