"""Who is there, by what workers say of themselves in the store. Pure.

Nobody's clock is compared with anybody else's: a worker lives for as long as what it says goes on changing, by the
clock of who looks. Who owns the log is not decided here but by the head; this only tells where to ask.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

BEAT_S: Final = 5.0
"""From one beat to the next: one write in the store each."""
LIVE_S: Final = 12.0
"""A beat may be late by as much as it takes, and one may fail, before a worker is taken for gone."""
VERSION: Final = 2
FORGET_S: Final = 600.0
"""Then whoever sees what a worker once said removes it."""


class Beat(Struct, frozen=True, forbid_unknown_fields=False):
    """What a worker says of itself: `url` is where others reach it, `key` what its tokens are checked with (Ed25519, in
    base64url, as RFC 8037 has it). `owns` are the partitions that it has, with the epochs since which; it `stands_by`
    for others and could take them now. One that is `leaving` takes no more. `run` is another one in each process,
    `number` in each beat. `clock_ms` is what its own monotonic clock said then, which begins anywhere.
    """

    worker: str
    url: str
    run: str
    number: int
    owns: dict[int, int] = {}
    stands_by: list[int] = []
    leaving: bool = False
    key: str = ""
    clock_ms: int = 0
    v: int = VERSION


class Member(NamedTuple):
    """A worker as others see it; it was heard of `age_s` ago, and for the first time `present_s` ago. Of one that
    answers nobody here it is not known whether it lives, for as long as its last beat is not missed. `goes_on`: more
    than one beat of its was heard, so it was there while somebody listened.
    """

    beat: Beat
    age_s: float
    is_live: bool
    present_s: float
    answers: bool = True
    goes_on: bool = False

    @property
    def clock_s(self) -> float | None:
        """What its own clock says now, less the time that its beat took to be heard of. None where all that was ever
        heard of it is one beat, and no other for a while: that one may be of any time.
        """
        return self.beat.clock_ms / 1_000 + self.age_s if self.is_live or self.goes_on else None


class _Heard(NamedTuple):
    beat: Beat
    at_s: float
    since_s: float
    goes_on: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Beat).decode


def encode_beat(beat: Beat) -> bytes:
    """The object's bytes."""
    return _encode(beat)


def decode_beat(data: bytes) -> Beat | None:
    """What a worker says; None where it cannot be read, as that of a later version may be."""
    try:
        beat = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return beat if beat.v == VERSION else None


def holder_of(partition: int, members: Iterable[Member]) -> Member | None:
    """Who has a partition: of those that live and say so, the one that took it last."""
    holders = [one for one in members if one.is_live and partition in one.beat.owns]
    return max(holders, key=lambda one: one.beat.owns[partition], default=None)


class Workers:
    """Everybody's last beat. Times are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._heard: dict[str, _Heard] = {}

    def hear(self, beats: Mapping[str, Beat], now_s: float) -> None:
        """These beats, by worker, are all that there are now."""
        self._heard = {name: _heard(beat, self._heard.get(name), now_s) for name, beat in beats.items()}

    def members(self, now_s: float, unreached: Collection[str] = ()) -> list[Member]:
        """By name. `unreached` are the addresses at which nobody answered lately."""
        return [
            Member(
                one.beat,
                now_s - one.at_s,
                now_s - one.at_s <= LIVE_S,
                now_s - one.since_s,
                one.beat.url not in unreached,
                one.goes_on,
            )
            for _, one in sorted(self._heard.items())
        ]

    def forgotten(self, now_s: float) -> list[str]:
        """Those that have been silent for so long that nobody need remember them."""
        return [one.beat.worker for one in self.members(now_s) if one.age_s > FORGET_S]


def _heard(beat: Beat, before: _Heard | None, now_s: float) -> _Heard:
    if before is None:
        return _Heard(beat, now_s, now_s)
    if before.beat == beat:
        return before
    is_back = now_s - before.at_s > LIVE_S
    return _Heard(beat, now_s, now_s if is_back else before.since_s, goes_on=True)
