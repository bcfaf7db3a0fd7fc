"""What ledger code does to files, all of it: `durable.PosixDisk` does it for real, and a simulated disk can lose, tear
and spoil what was not durable yet.

Every call that changes something returns once the change is durable. It raises OSError otherwise, and then nobody
knows what is on the disk: never call it again, end the process.
"""

from pathlib import Path
from typing import Protocol


class SegmentFile(Protocol):
    """A file that only grows."""

    def append(self, data: bytes) -> None:
        """Append durably. A crash in between leaves any part of `data`."""

    def rename(self, path: Path) -> None:
        """Give the file another name. A crash in between leaves either."""

    def close(self) -> None: ...


class Disk(Protocol):
    """One machine's files. Calls block; several threads may make them at a time, on different files."""

    def names(self, folder: Path) -> list[str]:
        """What is in a folder, in any order."""

    def sizes(self, folder: Path) -> dict[str, int]:
        """The same with sizes in bytes, which takes a call for each."""

    def read(self, path: Path, offset: int = 0, length: int = -1) -> bytes:
        """Bytes from `offset` on, all of them by default, fewer where the file ends. Raises FileNotFoundError."""

    def create(self, path: Path, head: bytes) -> SegmentFile:
        """A new file with `head` in it: whole or not at all. Raises FileExistsError."""

    def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Put `data` in the place of whatever `path` held. A crash leaves the one or the other, and perhaps a
        leftover that ends in `durable.TMP_SUFFIX`.
        """

    def rename(self, path: Path, new: Path) -> None:
        """Rename a file within its folder. A crash leaves either name."""

    def link(self, path: Path, new: Path) -> None:
        """Give a file a second name, on the same file system. Raises FileExistsError, and changes nothing then."""

    def sync_names(self, folder: Path) -> None:
        """Make the names in a folder durable, whoever gave or removed them."""

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there. A crash may bring it back."""
