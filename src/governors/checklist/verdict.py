"""What became of one line of the checklist."""

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """`skip`: nobody could look, and why. `sign`: a person has to say so."""

    PASS = "pass"  # noqa: S105 - a word, no password
    FAIL = "fail"
    SKIP = "skip"
    SIGN = "sign"


class Verdict(NamedTuple):
    """A status, and a sentence on what was seen, or why nothing was."""

    status: Status
    seen: str


class CannotLookError(Exception):
    """What a line asks about cannot be looked at from here; the message says why. The line is skipped."""


def passed(seen: str) -> Verdict:
    """It is so."""
    return Verdict(Status.PASS, seen)


def failed(seen: str) -> Verdict:
    """It is not so."""
    return Verdict(Status.FAIL, seen)


def to_sign(seen: str) -> Verdict:
    """A person has to say so; `seen` is what about."""
    return Verdict(Status.SIGN, seen)


def held(ok: bool, seen: str) -> Verdict:  # noqa: FBT001 - what was found out
    """Pass or fail, by what was found out."""
    return passed(seen) if ok else failed(seen)
