"""The machines as a document: a diagram of each (Mermaid) and the sentences of its rules, made from the tables."""

from collections.abc import Iterable
from typing import Final

import msgspec

from governors.machines.catalog import GOVERNORS
from governors.machines.governor import Governor
from governors.machines.overlays import OVERLAY_RULES
from ingest.signals import KIND_OF

_HEAD: Final = """\
# The machines

Made by `governors machines` from the tables that decide; do not edit. An arrow is a change of the natural status, with
the events that may bring it about; an event that leaves a status as it is has no arrow. Above each machine stand the
overlays: an operator's override, a blind sensor, one action in flight at a time.
"""


def document(governors: Iterable[Governor] = GOVERNORS) -> str:
    """Markdown: a section for each governor, and one for what stands above all of them."""
    sections = [_section(governor) for governor in governors]
    return "\n".join([_HEAD, *sections, "## Above every machine\n", _rules(OVERLAY_RULES.items())])


class Arrow(msgspec.Struct, frozen=True):
    """A change of the natural status, and the events that may bring it about."""

    source: str
    target: str
    events: list[str]


class Described(msgspec.Struct, frozen=True):
    """A machine as data: what its diagram shows and its rules say."""

    governor: str
    version: int
    initial: str
    statuses: list[str]
    arrows: list[Arrow]
    rules: dict[str, str]


def describe(governor: Governor) -> Described:
    """A machine as data, its arrows in the order of its statuses."""
    events: dict[tuple[str, str], list[str]] = {}
    for (status, event), row in governor.table.items():
        for target in row.targets:
            if target != status:
                events.setdefault((str(status), str(target)), []).append(_word(event))
    statuses = [str(status) for status in governor.status]
    return Described(
        governor=governor.name,
        version=governor.version,
        initial=str(governor.initial().status),
        statuses=statuses,
        arrows=[
            Arrow(source, target, sorted(events[source, target]))
            for source in statuses
            for target in statuses
            if (source, target) in events
        ],
        rules=dict(sorted(governor.rules.items())),
    )


def diagram(governor: Governor) -> str:
    """Mermaid's `stateDiagram-v2` of a machine's natural statuses."""
    described = describe(governor)
    lines = ["stateDiagram-v2", f"    [*] --> {described.initial}"]
    lines += [f"    {arrow.source} --> {arrow.target}: {', '.join(arrow.events)}" for arrow in described.arrows]
    return "\n".join(lines)


def _section(governor: Governor) -> str:
    title = governor.name.replace("_", " ").title()
    return "\n".join(
        [
            f"## {title}, version {governor.version}\n",
            f"```mermaid\n{diagram(governor)}\n```\n",
            _rules(governor.rules.items()),
        ]
    )


def _rules(rules: Iterable[tuple[str, str]]) -> str:
    rows = [f"| `{name}` | {sentence} |" for name, sentence in sorted(rules)]
    return "\n".join(["| rule | what it says, with the evidence of its receipt |", "| --- | --- |", *rows, ""])


def _word(event: type) -> str:
    """What the wire calls a signal, or the runtime an event of its own."""
    return KIND_OF.get(event) or str(msgspec.inspect.type_info(event).tag)  # type: ignore[attr-defined] # of a Struct
