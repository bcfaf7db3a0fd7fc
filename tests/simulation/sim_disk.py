"""A machine's disk that forgets what was not made durable.

Beneath the `Disk` protocol lie system calls (write, fsync, rename, …), and each of them can fail, or be the last thing
that a process did. What they change is in the page cache: every later process of the machine sees it, and a power
failure loses any part of it. Data is lost by sectors of 512 bytes, names one by one; what is lost of a file that has
grown is zeros, or missing. After an fsync that failed the page cache shows what the disk does not have, and no later
fsync writes it (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from simulation.faults import DiskFate
from simulation.processes import Process

from ledger.durable import TMP_SUFFIX

SECTOR_BYTES: Final = 512
_TEMPORARY: Final = frozenset((DiskFate.EIO, DiskFate.EIO_LANDED, DiskFate.ENOSPC))


class _Inode:
    """A file: what programs see, what is on the disk, and which bytes differ and will be written."""

    __slots__ = ("data", "dirty", "durable")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.dirty: list[tuple[int, int]] = []

    def write(self, data: bytes) -> None:
        self.dirty.append((len(self.data), len(self.data) + len(data)))
        self.data += data

    def sync(self) -> None:
        if self.dirty:
            image = bytearray(self.durable)
            image += bytes(len(self.data) - len(image))
            for begin, end in self.dirty:  # only these: what an fsync failed to write no later one writes
                image[begin:end] = self.data[begin:end]
            self.durable = bytes(image)
            self.dirty = []

    def fail_to_sync(self, rng: random.Random) -> None:
        """Some of it is written, and the rest counts as written."""
        self.durable = self._what_is_left(rng)
        self.dirty = []

    def lose_power(self, rng: random.Random) -> None:
        if self.dirty:
            self.durable = self._what_is_left(rng)
        self.data = bytearray(self.durable)
        self.dirty = []

    def flip(self, rng: random.Random) -> None:
        """One bit, on the disk and in the page cache."""
        at = rng.randrange(min(len(self.durable), len(self.data)))
        flipped = self.data[at] ^ 1 << rng.randrange(8)
        self.data[at] = flipped
        self.durable = self.durable[:at] + bytes((flipped,)) + self.durable[at + 1 :]

    def _what_is_left(self, rng: random.Random) -> bytes:
        """Any of the sectors that were to be written, and any length between the old one and the new."""
        sectors = sorted({
            sector
            for begin, end in self.dirty
            for sector in range(begin // SECTOR_BYTES, (end + SECTOR_BYTES - 1) // SECTOR_BYTES)
        })  # fmt: skip
        match rng.randrange(4):
            case 0:
                sectors = []
            case 1:
                sectors = sectors[: rng.randrange(len(sectors) + 1)]
            case 2:
                sectors = [sector for sector in sectors if rng.random() < 0.5]
        lengths = {len(self.durable), len(self.data)}
        low, high = min(lengths), max(lengths)
        lengths.update(range(-(-low // SECTOR_BYTES) * SECTOR_BYTES, high, SECTOR_BYTES))
        length = rng.choice(sorted(lengths))
        image = bytearray(self.durable)
        image += bytes(max(0, length - len(image)))
        for sector in sectors:
            begin, end = sector * SECTOR_BYTES, min((sector + 1) * SECTOR_BYTES, len(self.data), len(image))
            image[begin:end] = self.data[begin:end]
        return bytes(image[:length])


_Change = tuple[str, str, str | None, _Inode | None]


class SimDisk:
    """What outlives the processes of one machine. `calls` counts their system calls; `faults` says which of them go
    wrong, until `is_sound`. Once `is_spoilt`, a bit of a sealed segment is not what was written.
    `on_power_failure` ends all processes and calls `lose_power`.
    """

    def __init__(self, rng: random.Random, log: Callable[[str], None]) -> None:
        self.calls = 0
        self.faults: dict[int, DiskFate] = {}
        self.is_sound = False
        self.is_spoilt = False
        self.on_power_failure: Callable[[], None] = self.lose_power
        self._rng = rng
        self._log = log
        # By path, as text: hashing those of pathlib takes longer than all the rest here.
        self._names: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self._pending: list[_Change] = []

    def open(self, process: Process) -> "SimFiles":
        """The disk as one process has it."""
        return SimFiles(self, process)

    def lose_power(self) -> None:
        """What is not durable is lost, or not. The process must be dead already."""
        rng = self._rng
        keep = rng.choice((0.0, 0.5, 1.0))
        for change in self._pending:
            if rng.random() < keep:
                _apply(self._durable, change)
        self._pending = []
        self._names = dict(self._durable)
        for inode in set(self._names.values()):
            inode.lose_power(rng)

    def wipe(self) -> None:
        """A new disk. The process must be dead already."""
        self._names, self._durable, self._pending = {}, {}, []
        self.is_spoilt = False

    def flip_a_bit(self, suffix: str) -> str | None:
        """Spoil one of the files that are durable and have a byte: mostly the last one."""
        paths = sorted(path for path, inode in self._durable.items() if inode.durable and path.endswith(suffix))
        if not paths:
            return None
        path = self._rng.choice((*paths, *[paths[-1]] * len(paths)))
        self.flip(self._durable[path])
        return path

    def flip(self, inode: _Inode) -> None:
        if inode.data and inode.durable:
            self.is_spoilt = True
            inode.flip(self._rng)

    def contents(self) -> dict[str, bytes]:
        """All files as programs see them, by path."""
        return {path: bytes(inode.data) for path, inode in self._names.items()}

    # System calls

    def sizes(self, folder: Path) -> dict[str, int]:
        prefix = f"{folder}/"
        start = len(prefix)
        return {path[start:]: len(inode.data) for path, inode in self._names.items() if path.startswith(prefix)}

    def inode(self, path: Path) -> _Inode:
        try:
            return self._names[str(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None

    def exists(self, path: Path) -> bool:
        return str(path) in self._names

    def change(self, change: _Change) -> None:
        _apply(self._names, change)
        self._pending.append(change)

    def sync_names(self) -> None:
        for change in self._pending:
            _apply(self._durable, change)
        self._pending = []


def _apply(names: dict[str, _Inode], change: _Change) -> None:
    kind, path, new, inode = change
    match kind:
        case "link":
            assert inode is not None
            names[path] = inode
        case "rename" if path in names:
            assert new is not None
            names[new] = names.pop(path)
        case "unlink":
            names.pop(path, None)


class SimFiles:
    """The disk of one process: a `ledger.disk.Disk`."""

    def __init__(self, disk: SimDisk, process: Process) -> None:
        self.disk = disk
        self.process = process

    def names(self, folder: Path) -> list[str]:
        return list(self.sizes(folder))

    def sizes(self, folder: Path) -> dict[str, int]:
        self.call("list", folder, lambda: None)
        return self.disk.sizes(folder)

    def read(self, path: Path, offset: int = 0, length: int = -1) -> bytes:
        inode = self.disk.inode(path)
        self.call("read", path, lambda: None)
        data = inode.data
        return bytes(data[offset:] if length < 0 else data[offset : offset + length])

    def create(self, path: Path, head: bytes) -> "SimFile":
        if self.disk.exists(path):
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        tmp = path.with_name(path.name + TMP_SUFFIX)
        if self.disk.exists(tmp):
            raise FileExistsError(errno.EEXIST, "exists already", str(tmp))
        inode = _Inode()
        self._name("link", tmp, None, inode)
        self.write(tmp, inode, head)
        self.sync(tmp, inode)
        self._name("rename", tmp, path, None)
        self._sync_names(path)
        return SimFile(self, path, inode)

    def replace(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        tmp = path.with_name(path.name + TMP_SUFFIX)
        inode = _Inode()
        self._name("link", tmp, None, inode)
        self.write(tmp, inode, data)
        self.sync(tmp, inode)
        self._name("rename", tmp, path, None)
        self._sync_names(path)

    def rename(self, path: Path, new: Path) -> None:
        self.disk.inode(path)
        self._name("rename", path, new, None)
        self._sync_names(new)

    def link(self, path: Path, new: Path) -> None:
        inode = self.disk.inode(path)
        if self.disk.exists(new):
            raise FileExistsError(errno.EEXIST, "exists already", str(new))
        self._name("link", new, None, inode)
        self._sync_names(new)

    def sync_names(self, folder: Path) -> None:
        self.call("fsync folder", folder, self.disk.sync_names)

    def unlink(self, path: Path) -> None:
        if self.disk.exists(path):
            self._name("unlink", path, None, None)

    def write(self, path: Path, inode: _Inode, data: bytes) -> None:
        self.call("write", path, lambda: inode.write(data), lambda part: inode.write(data[: int(part * len(data))]))

    def sync(self, path: Path, inode: _Inode) -> None:
        self.call("fsync", path, inode.sync, lambda _: inode.fail_to_sync(self.disk._rng))

    def _name(self, kind: str, path: Path, new: Path | None, inode: _Inode | None) -> None:
        self.call(
            kind, new or path, lambda: self.disk.change((kind, str(path), None if new is None else str(new), inode))
        )

    def _sync_names(self, path: Path) -> None:
        self.sync_names(path.parent)

    def call(
        self, name: str, path: Path, effect: Callable[[], None], partly: Callable[[float], None] | None = None
    ) -> None:
        """One system call, which goes as the disk's faults have it."""
        disk, process = self.disk, self.process
        if not process.alive:
            process.die()
        disk.calls += 1
        if disk.is_sound or (fate := disk.faults.get(disk.calls)) is None:
            effect()
            return
        disk._log(f"{process.name}: {name} {path.name}: {fate.value}")
        if fate is DiskFate.ROT:
            if name == "read" and path.suffix == ".seg":
                disk.flip(disk.inode(path))
            effect()
            return
        landed = fate in {DiskFate.KILL_AFTER, DiskFate.POWER_AFTER}
        if fate is DiskFate.EIO_LANDED and partly is None:
            landed = disk._rng.random() < 0.5
        if landed:
            effect()
        elif partly is not None and fate in {DiskFate.EIO_LANDED, DiskFate.ENOSPC, DiskFate.POWER_WITHIN}:
            partly(disk._rng.random())
        if fate in _TEMPORARY:
            raise OSError(errno.ENOSPC if fate is DiskFate.ENOSPC else errno.EIO, fate.value, str(path))
        if fate in {DiskFate.POWER_BEFORE, DiskFate.POWER_WITHIN, DiskFate.POWER_AFTER}:
            disk.on_power_failure()
        process.die()


class SimFile:
    """A `ledger.disk.SegmentFile`."""

    def __init__(self, files: SimFiles, path: Path, inode: _Inode) -> None:
        self._files = files
        self._path = path
        self._inode = inode

    def append(self, data: bytes) -> None:
        self._files.write(self._path, self._inode, data)
        self._files.sync(self._path, self._inode)

    def rename(self, path: Path) -> None:
        self._files.rename(self._path, path)
        self._path = path

    def close(self) -> None:
        """Nothing is held open."""
