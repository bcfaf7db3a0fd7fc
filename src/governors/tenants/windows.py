"""Windows of time in which other terms hold: another profile, deciding without acting, a person asked first. Pure.

Times of a week are UTC. What a zone's summer time will be is decided by others, and may be decided otherwise after a
receipt was written; whoever takes the decision again must come to the same.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

MINUTE_US: Final = 60_000_000
DAY_MIN: Final = 1_440
WEEK_MIN: Final = 7 * DAY_MIN
NEVER_US: Final = 1 << 62
# The epoch was a Thursday; a week begins on Monday.
_EPOCH_MIN: Final = 3 * DAY_MIN
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SPAN: Final = re.compile(
    r"(?:(Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:-(Mon|Tue|Wed|Thu|Fri|Sat|Sun))? )?(\d\d):(\d\d)-(\d\d):(\d\d)"
)
_OFFSET: Final = re.compile(r"([+-])(\d\d):(\d\d)")

Minute = Annotated[int, Meta(ge=0, le=WEEK_MIN)]
Action = Annotated[str, Meta(pattern=r"\A[a-z_]{1,32}\Z")]


class Approval(Struct, frozen=True, forbid_unknown_fields=True):
    """Before these actions a person is asked for `wait_s` seconds; without an answer `then` follows."""

    actions: tuple[Action, ...]
    wait_s: Annotated[int, Meta(ge=1, le=7 * 86_400)] = 900
    then: Literal["act", "drop"] = "drop"


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """While it is open, these terms hold for these tenants and governors (none named: for all).

    It is open from `from_us` until `until_us`, and within those in the `weekly` spans, minutes since Monday 00:00 UTC;
    what is not given does not bound it. `observe`: decide, and act on nothing.
    """

    name: str
    tenants: tuple[str, ...] = ()
    governors: tuple[str, ...] = ()
    from_us: int | None = None
    until_us: int | None = None
    weekly: tuple[tuple[Minute, Minute], ...] = ()
    observe: bool = False
    profile: str = ""
    approval: Approval | None = None

    def concerns(self, tenant: str) -> bool:
        """Whether it can ever be open for a tenant."""
        return not self.tenants or tenant in self.tenants

    def is_open(self, now_us: int) -> bool:
        """Whether it is open at this moment."""
        if self.from_us is not None and now_us < self.from_us:
            return False
        if self.until_us is not None and now_us >= self.until_us:
            return False
        minute = _minute_of_week(now_us)
        return not self.weekly or any(begin <= minute < end for begin, end in self.weekly)

    def changes_us(self, now_us: int) -> int:
        """When it next opens or closes, about: never later than that, and after now."""
        times = [one for one in (self.from_us, self.until_us) if one is not None and one > now_us]
        week_us = (now_us // MINUTE_US - _minute_of_week(now_us)) * MINUTE_US
        for edge in {edge for span in self.weekly for edge in span}:
            at_us = week_us + edge * MINUTE_US
            times.append(at_us if at_us > now_us else at_us + WEEK_MIN * MINUTE_US)
        return min(times, default=NEVER_US)


def read_weekly(spans: tuple[str, ...], utc_offset: str) -> tuple[tuple[int, int], ...]:
    """Spans such as `Mon-Fri 09:00-18:00`, `Sat 22:00-02:00` or `03:00-04:00` (each day), by a clock that is
    `utc_offset` (`+01:00`) ahead of UTC, as minutes of the week. Raises ValueError.
    """
    if not (offset := _OFFSET.fullmatch(utc_offset)):
        raise ValueError(f"{utc_offset!r} is no offset from UTC: expected one like +01:00")
    ahead_min = (int(offset[2]) * 60 + int(offset[3])) * (-1 if offset[1] == "-" else 1)
    found: list[tuple[int, int]] = []
    for span in spans:
        match = _SPAN.fullmatch(span)
        if match is None:
            raise ValueError(f"{span!r} is no span of a week: expected one like Mon-Fri 09:00-18:00")
        begin_min, end_min = (int(match[at]) * 60 + int(match[at + 1]) for at in (3, 5))
        if max(begin_min, end_min) > DAY_MIN or begin_min == end_min:
            raise ValueError(f"{span!r} is no span of a day: expected two times between 00:00 and 24:00 that differ")
        first = _DAYS.index(match[1]) if match[1] else 0
        last = _DAYS.index(match[2]) if match[2] else first if match[1] else len(_DAYS) - 1
        for day in range(first, last + 1 + (len(_DAYS) if last < first else 0)):
            at_min = (day * DAY_MIN + begin_min - ahead_min) % WEEK_MIN
            until_min = at_min + ((end_min - begin_min) % DAY_MIN or DAY_MIN)
            found.append((at_min, min(until_min, WEEK_MIN)))
            if until_min > WEEK_MIN:
                found.append((0, until_min - WEEK_MIN))
    return _joined(found)


def _joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same without overlaps and without seams, in order."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def _minute_of_week(now_us: int) -> int:
    return (now_us // MINUTE_US + _EPOCH_MIN) % WEEK_MIN
