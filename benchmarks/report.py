"""How benchmarks report: the machine, the method, then each figure beside its target; JSON on the last line."""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    return made


def scratch() -> Path:
    """A folder on the disk under test, not on a memory file system as /tmp may be."""
    folder = Path(".benchmarks")
    folder.mkdir(exist_ok=True)
    return folder


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
    }


def quantile(ordered: list[float], share: float) -> float:
    """The value that `share` of the ordered values do not pass."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def print_report(report: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    """Lines for people, and the whole report for programs."""
    print(f"python {report['machine']['python']}, {report['machine']['cores']} cores, {report['machine']['machine']}")
    for line in lines:
        print(line)
    if as_json:
        print(json.dumps(report))
