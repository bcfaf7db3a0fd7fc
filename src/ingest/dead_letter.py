"""Dead letters: what could never be handled, kept for a person with the reason why.

The folder form is files of JSON lines, so that `grep` and `jq` are tools enough. Each writer has files of its own,
`<writer>-<number>.jsonl`, the highest number being the one that grows. A line, all of it on one line:

    {"at_us": 1795341600000000, "attributes": {"k": "v"}, "error": "data.depth: expected an integer",
     "payload": "<base64>", "reason": "bad_field", "tenant": "acme"}

A letter is durable when `put` returns. A crash in the middle of a write leaves a torn last line, whose `put` never
returned: the next writer ends it with a newline, readers report it as unreadable and go on.
"""

import asyncio
import base64
import binascii
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ingest.errors import DeadLetterFullError

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
FOLDER_BYTES_MAX: Final = 1024 * 1024 * 1024
_ERROR_CHARS_MAX: Final = 4_096
_WAITING_MAX: Final = 10_000
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class DeadLetterSink(Protocol):
    """Where dead letters go: a folder, or a topic."""

    async def put(
        self,
        *,
        reason: str,
        tenant: str | None,
        payload: bytes,
        attributes: Mapping[str, str],
        error: str,
        now_us: int,
    ) -> str:
        """Keep a letter; returns where it can be found, once it is durable.

        Raises DeadLetterFullError, OSError, SourceUnavailableError or SourceRefusedError where nobody can say that it
        is kept: the caller keeps it, and puts it again later.
        """


class StoredLetter(msgspec.Struct, frozen=True):
    """A letter read back. `letter_id` is `<file>:<line>`, lines counted from 1."""

    letter_id: str
    reason: str
    tenant: str | None
    payload: bytes
    attributes: Mapping[str, str]
    error: str
    at_us: int


class UnreadableLine(msgspec.Struct, frozen=True):
    """A line that is no letter: torn by a crash, or damaged since."""

    letter_id: str
    error: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    at_us: int
    attributes: dict[str, str]
    error: str
    payload: str
    reason: str
    tenant: str | None


_DECODER: Final = msgspec.json.Decoder(_Line)


class DeadLetterFolder:
    """The folder form. One writer name has one living instance at a time; readers are free.

    Letters put at the same time share one write and one fsync, done on a thread of its own. When the folder is full,
    `put` refuses rather than drop the oldest: what was put aside is what somebody still has to look at.
    """

    def __init__(
        self,
        folder: Path,
        *,
        writer: str = "main",
        file_bytes_max: int = FILE_BYTES_MAX,
        folder_bytes_max: int = FOLDER_BYTES_MAX,
        fsync: Callable[[int], None] = os.fsync,
    ) -> None:
        if _WRITER.fullmatch(writer) is None:
            raise ValueError(f"a writer's name is part of a file's name, {writer!r} cannot be")
        self._folder = folder
        self._writer = writer
        self._file_bytes_max = file_bytes_max
        self._folder_bytes_max = folder_bytes_max
        self._fsync = fsync
        self._lock = threading.Lock()
        self._waiting: list[tuple[bytes, Future[str]]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dead-letter")
        self._fd = -1
        self._number = 0
        self._in_doubt = False
        self._lines = 0
        self._file_bytes = 0
        self._folder_bytes = 0

    async def put(
        self,
        *,
        reason: str,
        tenant: str | None,
        payload: bytes,
        attributes: Mapping[str, str],
        error: str,
        now_us: int,
    ) -> str:
        """Keep a letter; returns its id, `<file>:<line>`, once it is durable. Raises DeadLetterFullError or OSError.

        A caller that is cancelled does not stop the write: the letter is then kept, though nobody was told.
        """
        line = msgspec.json.encode(
            _Line(
                at_us=now_us,
                attributes=dict(attributes),
                error=error[:_ERROR_CHARS_MAX],
                payload=base64.b64encode(payload).decode(),
                reason=reason,
                tenant=tenant,
            )
        )
        kept: Future[str] = Future()
        with self._lock:
            if len(self._waiting) >= _WAITING_MAX:
                raise DeadLetterFullError(f"{_WAITING_MAX} letters wait for {self._folder}")
            self._waiting.append((line + b"\n", kept))
        self._thread.submit(self._write_waiting)
        return await asyncio.wrap_future(kept)

    async def close(self) -> None:
        """Wait for letters under way and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_file)
        self._thread.shutdown(wait=False)

    def _write_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if not waiting:  # an earlier call of this thread took ours along
            return
        try:
            kept = self._append([line for line, _ in waiting])
        except Exception as error:  # noqa: BLE001 - whoever waits for the letter is told, whatever it was
            # After a failed fsync the kernel may drop the pages and call them clean: that file takes no more letters.
            self._in_doubt = True
            self._close_file()
            for _, future in waiting:
                _resolve(future, error)
        else:
            for (_, future), result in zip(waiting, kept, strict=True):
                _resolve(future, result)

    def _append(self, lines: list[bytes]) -> list[str | DeadLetterFullError]:
        """Write lines in order, then make them durable: an id for each, or the refusal of those with no room."""
        if self._fd < 0:
            self._open_file()
        results: list[str | DeadLetterFullError] = []
        chunk: list[bytes] = []
        for line in lines:
            if self._folder_bytes + len(line) > self._folder_bytes_max:
                results.append(DeadLetterFullError(f"{self._folder} holds {self._folder_bytes} bytes of dead letters"))
                continue
            if self._file_bytes and self._file_bytes + len(line) > self._file_bytes_max:
                self._write_durably(chunk)
                chunk = []
                self._close_file()
                self._create_file(self._number + 1)
            chunk.append(line)
            self._lines += 1
            self._file_bytes += len(line)
            self._folder_bytes += len(line)
            results.append(f"{self._file_name(self._number)}:{self._lines}")
        self._write_durably(chunk)
        return results

    def _write_durably(self, lines: list[bytes]) -> None:
        if not lines:
            return
        view = memoryview(b"".join(lines))
        while view:
            view = view[os.write(self._fd, view) :]
        self._fsync(self._fd)

    def _open_file(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fsync_folder(self._folder.parent)
        self._folder_bytes = sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))
        own_name = re.compile(re.escape(self._writer) + r"-(\d{6})\.jsonl", re.ASCII)
        numbers = [int(match[1]) for path in self._folder.iterdir() if (match := own_name.fullmatch(path.name))]
        last = max(numbers, default=0)
        if last == 0 or self._in_doubt:
            self._create_file(last + 1)
            self._in_doubt = False
        else:
            self._continue_file(last)

    def _continue_file(self, number: int) -> None:
        path = self._folder / self._file_name(number)
        content = path.read_bytes()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if content and not content.endswith(b"\n"):
            self._write_durably([b"\n"])
            content += b"\n"
            self._folder_bytes += 1
        self._number = number
        self._lines = content.count(b"\n")
        self._file_bytes = len(content)

    def _create_file(self, number: int) -> None:
        path = self._folder / self._file_name(number)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        # Without this the file's name, and so the letters in it, may be gone after a power cut.
        self._fsync_folder(self._folder)
        self._number, self._lines, self._file_bytes = number, 0, 0

    def _fsync_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fsync(fd)
        finally:
            os.close(fd)

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _file_name(self, number: int) -> str:
        return f"{self._writer}-{number:06d}.jsonl"


def _resolve(future: "Future[str]", result: str | Exception) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def read_letters(folder: Path) -> Iterator[StoredLetter | UnreadableLine]:
    """Every line of every file, writer by writer, oldest first; nothing where there is no folder."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _read_line(f"{path.name}:{number}", line)


def _read_line(letter_id: str, line: bytes) -> StoredLetter | UnreadableLine:
    try:
        letter = _DECODER.decode(line)
        payload = base64.b64decode(letter.payload, validate=True)
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError) as error:
        return UnreadableLine(letter_id, str(error))
    return StoredLetter(letter_id, letter.reason, letter.tenant, payload, letter.attributes, letter.error, letter.at_us)
