"""A folder as object store: each object is a plain file at its key, which any web server can serve.

An object's generation is its file's modification time in microseconds. It travels with the file in one rename, and it
can be read together with the bytes through one descriptor; no second file can disagree with it. Where the clock gave
no greater time than the key had before, the file's time is set to one microsecond more. What deleted keys had is kept
as one floor for all keys with the same first part, so that a key that comes back does not repeat a generation.

    <root>/<key>                             the objects
    <root>/.store/<first part>.lock          flock(2), held while a key below that part changes
    <root>/.store/<first part>.floor         no key below that part is created with this generation or a smaller one
    <root>/.store/tmp/<process>/             files on their way; flocked by their process, swept when it is gone

Somebody who touches a file by hand gives it another generation: a writer that relied on the old one loses, which errs
on the safe side.
"""

import asyncio
import errno
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from ledger import durable
from ledger.errors import StoreRefusedError, StoreUnavailableError
from ledger.store.object_store import CREATE, Lost, Object, PutOutcome, Unknown, Won, check_key, check_prefix, is_key

_INNER: Final = ".store"
_THREADS: Final = 4
_LOCK_POLL_S: Final = 0.005
_RETRY_S: Final = 1.0
_RETRY_FULL_S: Final = 5.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSING: Final = _FULL | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT}
# No hard links here: another file system, one that has none, a file of another owner, too many links already.
_UNLINKABLE: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK})
_PROBE_US: Final = 1_700_000_000_123_456

T = TypeVar("T")


class FolderStore:
    """Safe for several processes at a time, on a local file system."""

    def __init__(self, root: Path, *, executor: Executor | None = None, timeout_s: float = 10.0) -> None:
        """`executor` runs what blocks; None: threads of its own. `timeout_s`: of one call.

        Raises StoreRefusedError if the folder cannot be used.
        """
        self.root = root
        self._inner = root / _INNER
        self._timeout_s = timeout_s
        self._lock_wait_s = 0.8 * timeout_s  # less than the whole, so that the reason can still be told
        self._numbers = itertools.count()
        self._thread_locks: dict[str, threading.Lock] = {}
        self._landing: set[str] = set()
        self._closing = threading.Event()
        try:
            durable.make_folder(self._inner / "tmp")
            with self._flock(self._inner / "tmp.lock"):
                self._check_times(self._inner / "tmp.lock")
                self._sweep()
                self._own = Path(tempfile.mkdtemp(dir=self._inner / "tmp"))
                self._own_fd = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._own_fd, fcntl.LOCK_EX)
        except (OSError, _BusyError) as error:
            raise StoreRefusedError(f"{root} cannot be used as an object store: {error}") from error
        self._own_executor = None if executor is not None else ThreadPoolExecutor(_THREADS, "folder-store")
        self._executor = executor if executor is not None else self._own_executor

    async def get(self, key: str) -> Object | None:
        return await self._call(self._get, check_key(key))

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        return await self._write(self._put, check_key(key), data, if_generation)

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        return await self._write(self._put_file, check_key(key), path)

    async def list(self, prefix: str, after: str = "") -> list[str]:
        return await self._call(_list, self.root, check_prefix(prefix), after)

    async def delete(self, key: str) -> None:
        await self._call(self._delete, check_key(key))

    async def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        if self._own_executor is not None:
            self._own_executor.shutdown(wait=False, cancel_futures=True)
        os.close(self._own_fd)
        shutil.rmtree(self._own, ignore_errors=True)

    async def _call(self, call: Callable[..., T], *args: object) -> T:
        try:
            return await self._in_thread(call, *args)
        except _NothingToPutError:
            raise
        except (_BusyError, TimeoutError) as error:
            raise StoreUnavailableError(str(error) or f"no answer within {self._timeout_s} s", _RETRY_S) from error
        except OSError as error:
            if error.errno in _PASSING:
                raise StoreUnavailableError(str(error), _RETRY_FULL_S) from error
            raise StoreRefusedError(f"{self.root} cannot be used: {error}") from error

    async def _write(self, call: Callable[..., PutOutcome], *args: object) -> PutOutcome:
        try:
            return await self._call(call, *args)
        except StoreUnavailableError as error:
            return Unknown(error.reason, error.retry_after_s)

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)

    # What runs in threads

    def _get(self, key: str) -> Object | None:
        if key in self._landing:
            # Its name is there and may not be durable yet: after a timeout the caller would take it for committed.
            with self._exclusive(key):
                if key in self._landing:
                    raise StoreRefusedError(f"{self._path(key)} could not be made durable")
        try:
            with self._path(key).open("rb") as file:
                return Object(file.read(), _generation(os.fstat(file.fileno())))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def _put(self, key: str, data: bytes, if_generation: int) -> PutOutcome:
        staged = self._own / str(next(self._numbers))
        try:
            with staged.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return self._land(key, staged, if_generation)
        finally:
            staged.unlink(missing_ok=True)

    def _put_file(self, key: str, path: Path) -> PutOutcome:
        if not path.exists():
            raise _NothingToPutError(errno.ENOENT, "there is no file to put", str(path))
        staged = self._own / str(next(self._numbers))
        try:
            _link_or_copy(path, staged)
            _fsync(staged)
            return self._land(key, staged, CREATE)
        finally:
            staged.unlink(missing_ok=True)

    def _land(self, key: str, staged: Path, if_generation: int) -> PutOutcome:
        """Give a whole durable file its name: utime and fsync if its time is not greater, link (or rename, if it takes
        another's place), fsync(folder). A crash leaves the object as it was or as it is to be.
        """
        path = self._path(key)
        with self._exclusive(key):
            current = _generation_of(path)
            if current != if_generation:
                return Lost(current)
            generation = _generation_of(staged)
            floor = current if current != CREATE else self._floor(key)
            if generation <= floor:
                generation = floor + 1
                os.utime(staged, ns=(generation * 1000, generation * 1000))
                _fsync(staged)
            durable.make_folder(path.parent)
            self._landing.add(key)
            try:
                if current == CREATE:
                    os.link(staged, path)
                else:
                    staged.rename(path)
            except OSError:
                self._landing.discard(key)
                raise
            # Should it raise, the key stays among those that land: nobody may take it for durable.
            durable.fsync_folder(path.parent)
            self._landing.discard(key)
            return Won(generation)

    def _delete(self, key: str) -> None:
        """Raise the floor, unlink, fsync(folder). A crash leaves the object or not; the floor may be higher than it
        need be, which harms nobody.
        """
        path = self._path(key)
        with self._exclusive(key):
            generation = _generation_of(path)
            if generation == CREATE:
                return
            if generation > self._floor(key):
                durable.replace(self._inner_file(key, "floor"), b"%d\n" % generation)
            path.unlink()
            durable.fsync_folder(path.parent)
            folder = path.parent
            with suppress(OSError):  # not empty, which is the usual case
                while folder != self.root:
                    folder.rmdir()
                    folder = folder.parent

    def _floor(self, key: str) -> int:
        try:
            return int(self._inner_file(key, "floor").read_bytes())
        except FileNotFoundError:
            return CREATE

    def _path(self, key: str) -> Path:
        return self.root / key

    def _inner_file(self, key: str, suffix: str) -> Path:
        return self._inner / f"{key.partition('/')[0]}.{suffix}"

    @contextmanager
    def _exclusive(self, key: str) -> Iterator[None]:
        """Nobody else changes keys with the same first part. Raises _BusyError after some seconds.

        Threads queue for a lock of their own first, so that only processes have to poll for the file's.
        """
        path = self._inner_file(key, "lock")
        lock = self._thread_locks.setdefault(path.name, threading.Lock())
        if not lock.acquire(timeout=self._lock_wait_s):
            raise _BusyError(f"{path} is held by another call")
        try:
            with self._flock(path):
                yield
        finally:
            lock.release()

    @contextmanager
    def _flock(self, path: Path) -> Iterator[None]:
        # No blocking flock: a frozen process that holds it would freeze this one's threads with it.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            for _ in range(max(1, int(self._lock_wait_s / _LOCK_POLL_S))):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._closing.wait(_LOCK_POLL_S)
            else:
                raise _BusyError(f"{path} is held by another process")
            yield
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        """Remove the folders of processes that are gone."""
        for folder in (self._inner / "tmp").iterdir():
            with suppress(FileNotFoundError, BlockingIOError):  # closed this moment, or alive
                fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(fd)

    def _check_times(self, probe: Path) -> None:
        """Some file systems keep times in whole seconds: two generations would be one there."""
        os.utime(probe, ns=(_PROBE_US * 1000, _PROBE_US * 1000))
        if _generation_of(probe) != _PROBE_US:
            raise StoreRefusedError(f"the file system of {self.root} does not keep times of files to the microsecond")


class _BusyError(Exception):
    """Somebody else holds the lock for longer than this call may last."""


class _NothingToPutError(FileNotFoundError):
    """The caller's file is missing, which says nothing of the store."""


def _generation(stat: os.stat_result) -> int:
    return max(stat.st_mtime_ns // 1000, 1)


def _generation_of(path: Path) -> int:
    """CREATE if there is no file. Raises IsADirectoryError where keys below this one keep it from being one."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return CREATE
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder of other objects", str(path))
    return _generation(stat)


def _list(root: Path, prefix: str, after: str) -> list[str]:
    folder, slash, _ = prefix.rpartition("/")
    return sorted(key for key in _keys_below(root / folder, folder + slash) if key.startswith(prefix) and key > after)


def _keys_below(folder: Path, path: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        key = path + entry.name
        if not is_key(key):
            continue
        if entry.is_dir():
            yield from _keys_below(Path(entry.path), key + "/")
        else:
            yield key


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        shutil.copyfile(source, target)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
