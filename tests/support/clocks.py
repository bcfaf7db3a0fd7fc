"""A wall clock for a process that a test can step, by libfaketime. Its monotonic clock goes on as every other."""

from functools import cache
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 1
"""So long may a process go by what the file said before."""


@cache
def find_library() -> Path | None:
    """Debian's package libfaketime; None where it is not installed."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


class SteppedClock:
    """`env` is what a process is started with that goes by it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.step(0)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(find_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Its way around a fault of glibc before 2.25 ends every timed wait of a thread at once, and threads that
            # wait for the interpreter's lock take it from each other a hundred times as often as they should.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_CACHE_DURATION": str(LOOK_EVERY_S),
        }

    def step(self, ahead_s: int) -> None:
        """So many seconds ahead of this machine's, behind it where that is negative."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+d}\n")
        fresh.replace(self._path)
