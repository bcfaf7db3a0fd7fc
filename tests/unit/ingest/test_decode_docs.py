"""The page for producers says what the decoders do."""

import re
from pathlib import Path

import pytest
from msgspec import structs

from ingest.decode.body import MEDIA_TYPES, read_body
from ingest.decode.message import decode_message
from ingest.errors import Reason
from ingest.signals import KINDS, RollbackTarget, Signal

PAGE = (Path(__file__).parents[3] / "docs" / "formats" / "signals.md").read_text(encoding="utf-8")
RECEIVED_US = 1_795_345_200_000_000  # 2026-11-22T11:00:00Z
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))


def blocks(language: str, text: str = PAGE) -> list[bytes]:
    return [block.encode() for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("example", blocks("json"))
def test_every_example_is_a_signal(example: bytes) -> None:
    assert decode_message(example, {}, RECEIVED_US).tenant == "acme"


def test_the_example_of_lines_is_a_body_of_signals() -> None:
    (lines,) = blocks("ndjson")
    assert all(isinstance(entry, Signal) for entry in read_body("application/x-ndjson", lines, RECEIVED_US))


def test_every_kind_has_a_section_with_an_example_of_it() -> None:
    assert SECTIONS.keys() == KINDS.keys()
    for kind, section in SECTIONS.items():
        assert [decode_message(example, {}, RECEIVED_US).kind for example in blocks("json", section)] == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_kind_is_explained_in_its_section(kind: str) -> None:
    names = {field.name for field in structs.fields(KINDS[kind])}
    if kind == "deploy.started":
        names |= {field.name for field in structs.fields(RollbackTarget)}
    prose = SECTIONS[kind].partition("```")[0]
    assert names <= set(re.findall(r"`(\w+)`", prose))


def test_every_reason_and_media_type_is_listed() -> None:
    reasons = PAGE.partition("## Why input is refused")[2]
    assert re.findall(r"^\| `(\w+)` \|", reasons, re.MULTILINE) == list(Reason)
    assert all(f"`{media_type}`" in PAGE for media_type in MEDIA_TYPES)
