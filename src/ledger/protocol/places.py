"""Which objects of a log are written once, where a store is in two places. Pure.

A bucket whose objects are kept by a retention policy refuses to replace or remove them, so what is replaced or removed
lies elsewhere then. docs/formats/store.md has the rule as a table.
"""

from typing import Final

PLACE_KEY: Final = "ctl/place"
"""Beside what is written once: says where the rest is."""
ONCE: Final = frozenset({"seg", "tile", "snap", "heads", "quarantine"})
"""Of a partition: below these, nothing is ever replaced."""
PARTIAL: Final = ".p/"
"""In the name of a tile or bundle that gives way to a full one."""


def is_written_once(key: str) -> bool:
    """Whether a key of a log is created and never replaced, and is removed by nothing but retention."""
    partition, _, rest = key.partition("/")
    kind = rest.partition("/")[0]
    return (partition.isdecimal() and kind in ONCE and PARTIAL not in rest) or key == PLACE_KEY
