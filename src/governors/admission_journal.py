"""Which names changed in which order, so that who has read up to some version can read on from there. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

FORGOTTEN_MAX: Final = 10_000
"""Names that are there no more and that readers can still learn of. Past it, readers that are behind begin anew."""
SLACK: Final = 1_000
"""Changes that newer ones have replaced are swept when they are more than the others, and more than this."""


class Journal:
    """Each change has a version, one more than the one before it; 0 is before everything. Of each name the newest
    alone is told, so that this is never much longer than what it is about.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Those that are there already changed just now."""
        # In order, also those that are not a name's newest, until they are swept.
        self._names = list(names)
        self.version = len(self._names)
        self._versions = list(range(1, self.version + 1))
        self._newest = dict(zip(self._names, self._versions, strict=True))
        self._forgotten: set[str] = set()
        # Who has not read up to here cannot be told what is missing.
        self._floor = 0

    def note(self, name: str) -> None:
        """The name is new, or what it stands for changed."""
        self._forgotten.discard(name)
        self._append(name)

    def note_forgotten(self, name: str) -> None:
        """The name is there no more."""
        self._append(name)
        self._forgotten.add(name)
        if len(self._forgotten) > FORGOTTEN_MAX:
            for one in self._forgotten:
                del self._newest[one]
            self._forgotten.clear()
            self._floor = self.version

    def start(self, version: int) -> int:
        """From where on to tell somebody who has read up to `version`: from there, or from 0 on where it is none after
        which all can be told.
        """
        return version if self._floor <= version <= self.version else 0

    def since(self, version: int) -> Iterator[tuple[str, int]]:
        """The names that changed after a version, each with its own, in that order. Nothing may change meanwhile."""
        for index in range(bisect_right(self._versions, version), len(self._names)):
            name, then = self._names[index], self._versions[index]
            if self._newest.get(name) == then:
                yield name, then

    def _append(self, name: str) -> None:
        self.version += 1
        self._newest[name] = self.version
        self._names.append(name)
        self._versions.append(self.version)
        if len(self._names) > 2 * len(self._newest) + SLACK:
            kept = list(self.since(0))
            self._names = [name for name, _ in kept]
            self._versions = [then for _, then in kept]
