"""The page on sources says what is done: its examples are read by its own rules, and told as it tells them."""

import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import yaml
from support.foreign import message, push

from governors.cli.ingest import told
from governors.cli.message_input import explain
from governors.machines.rollback_policy import RollbackPolicy
from governors.settings import load
from ingest.decode.tenants import FACTS, Routing
from ingest.signals import parse_time

PAGE_PATH = Path(__file__).parents[3] / "docs" / "formats" / "sources.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)( attributes)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEN_US = parse_time("2026-11-22T10:00:00Z")


class Example(NamedTuple):
    attributes: dict[str, str]
    data: bytes
    told: str


def examples() -> list[Example]:
    """What stands before each printed explanation."""
    found: list[Example] = []
    attributes: dict[str, str] = {}
    data = b""
    for language, kind, text in BLOCK.findall(PAGE):
        match language:
            case "json" if kind:
                attributes = msgspec.json.decode(text, type=dict[str, str])
            case "json":
                data = text.encode()
            case "text":
                found.append(Example(attributes, data, text.rstrip("\n")))
                attributes, data = {}, b""
    return found


def section(name: str) -> str:
    (text,) = [text for language, _, text in BLOCK.findall(PAGE) if language == "yaml" and text.startswith(f"{name}:")]
    return str(text)


def routing(tmp_path: Path) -> Routing:
    (tmp_path / "governors.yaml").write_text(section("ingest"))
    return Routing(load(tmp_path / "governors.yaml", {}, {}, {}).settings.ingest.routing)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.told.partition("\n")[0])
def test_every_example_is_told_as_it_is_printed(example: Example, tmp_path: Path) -> None:
    is_group = b'"alerts"' in example.data
    given = example.data if is_group else push(message(example.data, example.attributes, "8840", TEN_US))
    (one,) = explain(given, {}, routing(tmp_path), TEN_US)
    assert told(one) == example.told


def test_there_is_an_example_of_each_format() -> None:
    formats = {example.told.partition(":")[0] for example in examples()}
    assert formats == {"budget", "monitoring", "cloud_deploy", "alertmanager"}


def test_the_section_for_pushes_is_one_that_the_settings_take(tmp_path: Path) -> None:
    (tmp_path / "governors.yaml").write_text(section("push"))
    push_settings = load(tmp_path / "governors.yaml", {}, {}, {}).settings.push
    assert push_settings is not None
    assert push_settings.keys == yaml.safe_load(section("push"))["push"]["keys"]


def test_every_fact_is_explained() -> None:
    rows = PAGE.partition("| fact |")[2].partition("\n\n")[0].splitlines()[2:]
    named = {name.replace("NAME", "") for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    assert named == set(FACTS)


def test_no_deploy_is_held_on_a_test() -> None:
    assert "test" not in RollbackPolicy().alert_severities
    assert "critical" in RollbackPolicy().alert_severities
