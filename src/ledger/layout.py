"""How segments are named: sortable by first index, then epoch; sealed ones apart from the one being written."""

import re
from pathlib import Path
from typing import Final, NamedTuple

from ledger.disk import Disk
from ledger.durable import POSIX

SEALED_SUFFIX: Final = ".seg"
OPEN_SUFFIX: Final = ".open"
QUARANTINE: Final = ".quarantine-"
"""In the name of a segment that was put aside, between the name that it had and an epoch."""
_NAME = re.compile(r"(\d{20})-(\d{10})(\.seg|\.open)")


class SegmentName(NamedTuple):
    """`epoch` tells apart two segments that begin at the same index, the earlier of which has no receipt."""

    first_index: int
    epoch: int
    sealed: bool

    def __str__(self) -> str:
        return f"{self.first_index:020d}-{self.epoch:010d}{SEALED_SUFFIX if self.sealed else OPEN_SUFFIX}"


def parse(name: str) -> SegmentName | None:
    """None for a file that is no segment."""
    match = _NAME.fullmatch(name)
    return SegmentName(int(match[1]), int(match[2]), match[3] == SEALED_SUFFIX) if match else None


def list_segments(folder: Path, disk: Disk = POSIX) -> list[SegmentName]:
    """The segments of a partition in log order."""
    return sorted(found for name in disk.names(folder) if (found := parse(name)) is not None)
