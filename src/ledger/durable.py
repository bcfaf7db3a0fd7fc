"""Files that survive a crash. Each operation lists its system calls and what a crash between them leaves.

An fsync that failed is never tried again: the kernel may have dropped the dirty pages and report success the second
time (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020). The error goes up, and the
process ends.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from ledger.disk import SegmentFile

TMP_SUFFIX: Final = ".tmp"


class AppendFile:
    """A file that only grows, by whole durable appends. Not for use by several threads at a time."""

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self._fd = fd
        self._size = size

    @classmethod
    def create(cls, path: Path, head: bytes) -> Self:
        """Create `path` with `head` in it, whole or not at all.

        open(tmp, O_EXCL), pwrite, fsync(tmp), rename(tmp, path), fsync(folder). A crash before the rename leaves a
        `.tmp`, which recovery deletes; after it, the whole file, whose name is lost or not until the last call.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        tmp = path.with_name(path.name + TMP_SUFFIX)
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _write_all(fd, head)
            os.fsync(fd)
            tmp.rename(path)
            fsync_folder(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd, len(head))

    def append(self, data: bytes) -> None:
        """Append and make durable.

        pwrite, fdatasync (which syncs the new length too). A crash in between leaves any part of `data`, in any order
        of pages: the reader must be able to tell.
        """
        _write_all(self._fd, data, self._size)
        os.fdatasync(self._fd)
        self._size += len(data)

    def rename(self, path: Path) -> None:
        """Give the file its final name."""
        rename(self.path, path)
        self.path = path

    def close(self) -> None:
        os.close(self._fd)


class PosixDisk:
    """The files of this machine: a `disk.Disk`."""

    def names(self, folder: Path) -> list[str]:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]

    def sizes(self, folder: Path) -> dict[str, int]:
        found = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # renamed or removed meanwhile
                    found[entry.name] = entry.stat().st_size
        return found

    def read(self, path: Path, offset: int = 0, length: int = -1) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            return file.read() if length < 0 else file.read(length)

    def create(self, path: Path, head: bytes) -> SegmentFile:
        return AppendFile.create(path, head)

    def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        replace(path, data, mode)

    def rename(self, path: Path, new: Path) -> None:
        rename(path, new)

    def link(self, path: Path, new: Path) -> None:
        link(path, new)

    def sync_names(self, folder: Path) -> None:
        fsync_folder(folder)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)


POSIX: Final = PosixDisk()


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` in place of whatever `path` held.

    open(tmp, O_TRUNC), pwrite, fsync(tmp), rename(tmp, path), fsync(folder). A crash leaves the old file or the new.
    """
    tmp = path.with_name(path.name + TMP_SUFFIX)
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        _write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    tmp.rename(path)
    fsync_folder(path.parent)


def create_once(path: Path, data: bytes, mode: int) -> bool:
    """Create `path` unless it exists; false if it does. Of several that try at once, one creates it.

    open(unique tmp, O_EXCL), fchmod, pwrite, fsync(tmp), link(tmp, path), unlink(tmp), fsync(folder). A crash leaves
    the whole file or none, and perhaps a `.tmp`.
    """
    fd, tmp = tempfile.mkstemp(prefix=f"{path.name}.", suffix=TMP_SUFFIX, dir=path.parent)
    try:
        os.fchmod(fd, mode)
        _write_all(fd, data)
        os.fsync(fd)
        os.link(tmp, path)
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        Path(tmp).unlink()
        fsync_folder(path.parent)
    return True


def rename(path: Path, new: Path) -> None:
    """Give a file another name in its folder: rename, fsync(folder). A crash in between leaves either name."""
    path.rename(new)
    fsync_folder(new.parent)


def link(path: Path, new: Path) -> None:
    """Give a file a second name: link, fsync(folder). A crash in between leaves the name or not.

    Raises FileExistsError.
    """
    os.link(path, new)
    fsync_folder(new.parent)


def make_folder(path: Path) -> None:
    """Create a folder and those above it: mkdir, fsync(parent), from the top down."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes, at: int = 0) -> None:
    """Write from byte `at` on. pwrite and not write, for it says where, and because pipes and sockets do not take it:
    whoever makes a disk fail in a test can make this fail and nothing else.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view = view[written:]
        at += written
