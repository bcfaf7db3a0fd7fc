"""The document is made from the tables, so it can only be wrong by being old."""

from pathlib import Path

import pytest

from governors.machines.catalog import GOVERNORS
from governors.machines.diagram import diagram, document
from governors.machines.governor import Governor

DOCUMENT = Path(__file__).parents[3] / "docs" / "machines.md"


def test_the_document_in_the_repository_is_of_these_machines() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "`make docs` brings it up to date"


@pytest.mark.parametrize("governor", GOVERNORS, ids=lambda governor: governor.name)
def test_a_diagram_has_every_status_and_no_other(governor: Governor) -> None:
    arrows = [line.split(":")[0].split() for line in diagram(governor).splitlines()[1:]]
    named = {word for source, _, target in arrows for word in (source, target)} - {"[*]"}
    assert named == {str(status) for status in governor.status}
    assert all(source != target for source, _, target in arrows)
