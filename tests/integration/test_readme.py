"""The README's examples, run as they are printed against a service that is started as the README says."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.service import ServiceProcess

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKER = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Example(NamedTuple):
    command: str
    expected: str


def examples() -> list[Example]:
    """Every `sh` block with the output that is printed below it."""
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    found = []
    for (language, command), (then, expected) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "sh":
            assert then in {"json", "text"}, f"no output is printed for:\n{command}"
            found.append(Example(command, expected))
    return found


@pytest.mark.slow
def test_every_example_works_as_printed(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with ServiceProcess(tmp_path / "data") as process:
        env["GOVERNORS_URL"] = process.url
        env["XDG_CONFIG_HOME"] = str(tmp_path / "config")  # where the auditor's trust file goes
        for example in examples():
            command = example.command.replace("http://127.0.0.1:8080", process.url)
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            expected = example.expected.replace("…", "...")
            assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
            assert CHECKER.check_output(expected, ran.stdout + "\n", FLAGS), (
                f"{command}\nprinted\n{ran.stdout}\nbut the README says\n{expected}"
            )


def test_there_are_examples() -> None:
    assert len(examples()) >= 8
