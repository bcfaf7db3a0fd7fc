"""What a log needs of an object store: whole objects under keys, replaced only by compare-and-swap.

An object has a generation, a positive integer. Every write of a key gives it a greater one than it ever had, also
after it was deleted, so whoever names an old generation loses. There is no unconditional write.

The outcome of a write is a value, for there are three: it was won, it was lost, or nobody knows. An unknown write may
have landed, and may still land later. Read the key again, or write again under the *same* condition; a repeat that is
lost may have been lost to one's own first attempt, so compare the bytes.

A read or a list either succeeds or raises StoreUnavailableError (try again) or StoreRefusedError (do not).
docs/formats/store.md has the whole contract.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

CREATE: Final = 0
"""The generation of a key that holds nothing: `put(…, if_generation=CREATE)` creates or loses."""

_KEY_BYTES_MAX: Final = 512
# A part begins with a letter or a digit: `..` cannot be spelt, and names that begin with a dot are left to the stores.
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._~=-]{0,199}"
_KEY = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")


@dataclass(frozen=True, slots=True)
class Object:
    """The bytes under a key and the generation that they belong to."""

    data: bytes
    generation: int


@dataclass(frozen=True, slots=True)
class Won:
    """The write is durable and has this generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The key had another generation than the write named: it changed nothing. `generation` is the one it has, if the
    store said so; CREATE if it holds nothing.
    """

    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The write may have landed, or may land later. Do not write again before `retry_after_s` seconds."""

    reason: str
    retry_after_s: float


PutOutcome = Won | Lost | Unknown


class ObjectStore(Protocol):
    """Each call has a deadline inside. Keys are checked: ValueError for one that `check_key` refuses.

    No key may be a folder of another (`a` beside `a/b`): a folder cannot keep both.
    """

    async def get(self, key: str) -> Object | None:
        """None if the key holds nothing. Never older than a write that was won before the call."""
        ...

    async def put(self, key: str, data: bytes, *, if_generation: int) -> PutOutcome:
        """Write if the key has this generation now. CREATE: if it holds nothing. Raises StoreRefusedError."""
        ...

    async def put_file(self, key: str, path: Path) -> PutOutcome:
        """Create the key with the bytes of a file that never changes again. Raises StoreRefusedError, and
        FileNotFoundError if there is no such file.
        """
        ...

    async def list(self, prefix: str, after: str = "") -> list[str]:
        """All keys that begin with `prefix` and sort behind `after`, sorted. Not a snapshot: keys that come or go
        meanwhile may be in it or not.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the object that is there now, if any; one that takes its place meanwhile stays."""
        ...

    async def close(self) -> None:
        """Let go of what is open. Calls that are under way may still land."""
        ...


def is_key(key: str) -> bool:
    """ASCII parts of at most 200 characters between slashes, at most 512 in all; each begins with a letter or digit."""
    return len(key) <= _KEY_BYTES_MAX and _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """The key, if it is one. Raises ValueError."""
    if not is_key(key):
        raise ValueError(f"not a key of an object: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix, if a key can begin with it. Raises ValueError."""
    if not _PREFIX.fullmatch(prefix) or len(prefix) > _KEY_BYTES_MAX:
        raise ValueError(f"no key begins with {prefix!r}")
    return prefix
