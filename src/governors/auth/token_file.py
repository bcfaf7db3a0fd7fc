"""The token file on the disk, read again when it changes: tokens come and go without a restart."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from governors.auth.principal import Principal
from governors.auth.tokens import TokenFileError, Tokens

LOOK_EVERY_S: Final = 1.0
FILE_BYTES_MAX: Final = 4 * 1024 * 1024

OnReload = Callable[[int, str], None]
"""`on_reload(tokens, problem)`: the file changed. With a problem the tokens of before still hold."""


class TokenFile:
    """The tokens of a file. Made only from one that can be read: raises TokenFileError."""

    def __init__(self, path: Path, clock_us: Callable[[], int], on_reload: OnReload) -> None:
        self._path = path
        self._clock_us = clock_us
        self._on_reload = on_reload
        self._seen, self._tokens = _read(path)

    def principal_of(self, token: bytes) -> Principal | None:
        """Whose token it is now."""
        return self._tokens.principal_of(token, self._clock_us())

    async def run(self) -> None:
        """Look for changes until cancelled. A file that is gone or bad changes nothing, and is said once."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Read the file again if it changed."""
        seen = await asyncio.to_thread(_identity, self._path)
        if seen == self._seen:
            return
        try:
            self._seen, self._tokens = await asyncio.to_thread(_read, self._path)
        except TokenFileError as error:
            self._seen = seen
            self._on_reload(len(self._tokens), str(error))
        else:
            self._on_reload(len(self._tokens), "")


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced (Kubernetes replaces a link above it)."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _read(path: Path) -> tuple[tuple[int, int, int], Tokens]:
    # Its identity first: what changes while it is read is seen the next time.
    seen = _identity(path)
    if seen[2] > FILE_BYTES_MAX:
        raise TokenFileError(f"{path}: {seen[2]} bytes; a token file may have {FILE_BYTES_MAX}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{path}: {error}") from error
    try:
        return seen, Tokens.parse(text)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from error
