"""House rules that a linter does not know: links that lead somewhere, packages that say what they are, tables that
are whole.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from governors.machines.catalog import GOVERNORS, RULES
from governors.machines.events import ActionResult, OverrideEnded, OverrideGranted, Timeout
from governors.machines.governor import Governor

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert missing == []


def test_a_package_says_what_it_is_and_does_nothing() -> None:
    for path in tracked("src/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, f"{path} does something"
        assert isinstance(body[0], ast.Expr), f"{path} has no docstring"


def test_no_file_names_a_registry() -> None:
    registries = re.compile(r"pypi\.org/simple|files\.pythonhosted\.org|registry\.npmjs\.org|index-url")
    offenders = [
        path
        for path in tracked("requirements/*")
        if registries.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert offenders == []


@pytest.mark.parametrize("governor", GOVERNORS, ids=lambda governor: governor.name)
def test_every_status_answers_every_event(governor: Governor) -> None:
    events = governor.kinds | {Timeout, ActionResult, OverrideGranted, OverrideEnded}
    assert set(governor.table) == {(status, event) for status in governor.status for event in events}


@pytest.mark.parametrize("governor", GOVERNORS, ids=lambda governor: governor.name)
def test_every_status_has_a_severity_and_every_target_is_a_status(governor: Governor) -> None:
    assert set(governor.severity) == set(governor.status)
    for row in governor.table.values():
        assert row.targets <= set(governor.status)
        assert row.targets


@pytest.mark.parametrize("governor", GOVERNORS, ids=lambda governor: governor.name)
def test_every_status_but_the_first_can_be_reached(governor: Governor) -> None:
    reached = {governor.initial().status}
    while True:
        grown = reached | {
            target for (status, _), row in governor.table.items() if status in reached for target in row.targets
        }
        if grown == reached:
            break
        reached = grown
    assert reached == set(governor.status)


def test_no_two_rules_share_a_name() -> None:
    assert sum(len(governor.rules) for governor in GOVERNORS) == sum(
        1 for rule in RULES if rule.partition(".")[0] not in {"overlay", "tenant", "runtime", "operator"}
    )
