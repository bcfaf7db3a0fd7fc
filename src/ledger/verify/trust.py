"""The trust files: what one auditor knows of each log, kept on the auditor's own side.

    <folder>/<origin, percent-encoded>.json     {"checkpoints": [<signed note>, …], "origin": …, "v": 1, "vkey": …}

One is written only when its user has named the key, and its key never changes after that: what a service says of
itself never reaches it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ledger import durable
from ledger.errors import KeyInvalidError, NoteInvalidError, TrustFileError
from ledger.format.note import Verifier
from ledger.verify.memory import Memory

_SUFFIX: Final = ".json"
_VERSION: Final = 1


class TrustFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A trust file. `checkpoints` are notes, the newest last."""

    checkpoints: list[str]
    origin: str
    v: int
    vkey: str


_decode = msgspec.json.Decoder(TrustFile).decode


class TrustFolder:
    """The trust files of one user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, origin: str) -> Path:
        return self.folder / f"{quote(origin, safe='')}{_SUFFIX}"

    def find(self, origin: str) -> Memory | None:
        """What is known of a log; None if nothing is. Raises TrustFileError, OSError."""
        path = self.path(origin)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return _read(path, data, origin)

    def each(self) -> Iterator[Memory]:
        """What is known of every log. Raises as `find`."""
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            yield _read(path, path.read_bytes())

    def keep(self, memory: Memory) -> Path:
        """Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(memory.origin)
        notes = [one.note.decode() for one in memory.seen]
        written = msgspec.json.encode(TrustFile(notes, memory.origin, _VERSION, memory.verifier.vkey))
        durable.replace(path, msgspec.json.format(written) + b"\n", 0o600)
        return path


def _read(path: Path, data: bytes, origin: str | None = None) -> Memory:
    try:
        found = _decode(data)
        if found.v != _VERSION or (origin is not None and found.origin != origin):
            raise TrustFileError(f"{path} is of the log {found.origin!r}, version {found.v}")
        return Memory.of(found.origin, Verifier.parse(found.vkey), [note.encode() for note in found.checkpoints])
    except (msgspec.DecodeError, UnicodeError, KeyInvalidError, NoteInvalidError) as error:
        raise TrustFileError(f"{path} cannot be used: {error}") from error
