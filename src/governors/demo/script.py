"""What a tenant's world may do in an hour: send signals, be told of, ask for admission, be entitled anew."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from msgspec import Struct

from governors.machines.overlays import OpenAction
from ingest.signals import format_time, parse_time

# Black Friday, nine in the morning.
START_US: Final = int(parse_time("2026-11-27T09:00:00Z"))
HOUR_S: Final = 3_600
TICK_S: Final = 5
SECOND_US: Final = 1_000_000

Wire = dict[str, Any]


class Happening(Struct, frozen=True):
    """Something that happens in the world; the service sees only the signals of it."""

    text: str


class Ask(Struct, frozen=True):
    """A gateway asks whether requests may pass: how many times for each class, each time for `cost` of `what`."""

    what: str
    classes: dict[str, int]
    cost: int = 1


class Entitle(Struct, frozen=True):
    """An operator sets a tenant's entitlement."""

    entitlement: str
    text: str


Cue = Happening | Ask | Entitle


class Tick(Struct, frozen=True):
    """What one tenant's world brings in one tick: cues first, then signals in their wire form."""

    cues: list[Cue]
    signals: list[Wire]


class World(Protocol):
    """One tenant's world. What is decided changes it: an action is obeyed, a decision may be heard."""

    tenant: str
    about: str

    def tick(self, second: int) -> Tick:
        """The next `TICK_S` seconds, up to `second` of the hour."""
        ...

    def takes_s(self, action: OpenAction) -> int:
        """How long carrying out an action takes here."""
        ...

    def obey(self, subject: str, action: OpenAction, second: int) -> str:
        """Carry it out; returns what was done, as a sentence."""
        ...

    def hear(self, subject: str, decision: str, state: str, second: int) -> None:
        """A decision was taken about one of this tenant's machines."""
        ...


class Post:
    """Makes a tenant's signals, numbering them."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._number = 0

    def signal(self, second: float, source: str, kind: str, subject: str, data: Mapping[str, Any]) -> Wire:
        """One signal, observed `second` seconds into the hour."""
        self._number += 1
        return {
            "id": f"{self._tenant}-{self._number:05d}",
            "source": source,
            "tenant": self._tenant,
            "kind": kind,
            "subject": subject,
            "observed_at": time_at(second),
            "data": dict(data),
        }


def time_at(second: float) -> str:
    """A second of the hour as RFC 3339."""
    return format_time(START_US + int(second * SECOND_US))


def is_every(second: int, period_s: int, phase_s: int = 0) -> bool:
    """Whether something that comes every `period_s` comes now."""
    return second % period_s == phase_s
