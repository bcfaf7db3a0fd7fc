"""What operators are told to type exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from support.manifests import ROOT

from governors.cli.main import command_line

PAGES = [
    *(ROOT / "docs/runbooks").glob("*.md"),
    *(ROOT / f"docs/{name}.md" for name in ("operations", "troubleshooting", "gcp-setup")),
]
# A command in a sentence or on a line of its own; not the folder, image or account of that name.
COMMAND = re.compile(r"(?:^|[`(=|&]\s*|-m )governors ((?!\$)[a-z][^`\n]*)", re.MULTILINE)
TOP: Any = typer.main.get_command(command_line())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    text = re.sub(r"\\\n\s*", "", page.read_text())
    for typed in COMMAND.findall(text):
        words = typed.split("#")[0].split()
        command = TOP
        at = 0
        while hasattr(command, "commands") and at < len(words):
            command = command.commands.get(words[at])
            at += 1
            assert command is not None, f"governors {typed}: there is no such command"
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.split("=")[0] for word in words[at:] if word.startswith("--")}
        assert options <= known | {"--help"}, f"governors {typed}: {options - known}"


def test_commands_are_found_at_all() -> None:
    found = {typed.split()[0] for page in PAGES for typed in COMMAND.findall(page.read_text())}
    assert {"checklist", "loadtest", "restore", "verify", "replay", "pubsub", "emergency-stop", "override"} <= found
