"""What a machine can be told: the signals of its kinds, and what the runtime itself has to say."""

from typing import Literal

from msgspec import Struct

from ingest.signals import SignalData


class Timeout(Struct, frozen=True, tag="timeout"):
    """The machine's deadline has passed."""


class ActionResult(Struct, frozen=True, tag="action.result"):
    """An action that this machine asked for has ended. `ok` is False for refused, failed and timed out alike:
    what is not known to have worked has not worked.

    `maybe`: it may have been done all the same, for an attempt got no answer; whoever needs to be sure asks for it
    again, or for its opposite. `ended` says how: by the answer of the last of `attempts` (`done`, `refused`), after
    the time for all of them (`given_up`), by an operator (`abandoned`), or because it was not to be done any more
    (`withdrawn`: nobody has failed at it). `executor` is who was asked, `verified` that it was seen to be so by
    reading back, `proof` how it is known to be done: because the other side says so, or by reading back.
    """

    action_id: str
    kind: str
    ok: bool
    detail: str = ""
    maybe: bool = False
    ended: Literal["", "done", "refused", "given_up", "abandoned", "withdrawn"] = ""
    attempts: int = 0
    executor: str = ""
    verified: bool = False
    proof: Literal["", "acknowledged", "read_back"] = ""


class ActionAttempt(Struct, frozen=True, tag="action.attempt"):
    """An attempt at an action of this machine that did not end it; the one that does is told as ActionResult.

    `number` counts from 1. It `failed` where it is known that nothing was done, and was `unanswered` where that is not
    known. `next_ms`: the pause before the next attempt, which may come sooner or not at all.
    """

    action_id: str
    kind: str
    number: int
    executor: str
    outcome: Literal["failed", "unanswered"]
    detail: str = ""
    next_ms: int = 0


class OverrideGranted(Struct, frozen=True, tag="override.granted", kw_only=True):
    """An operator takes the decision for a while.

    `hold` keeps the status that is in force, `release` lifts restrictions, `force` puts `status` in force, `approve`
    and `veto` answer a decision that waits for one, `extra_budget` adds `extra_micros` to a budget. Always ends at
    `until_us`.
    """

    mode: Literal["hold", "release", "force", "approve", "veto", "extra_budget"]
    until_us: int
    by: str
    reason: str
    status: str = ""
    extra_micros: int = 0


class OverrideEnded(Struct, frozen=True, tag="override.ended"):
    """The override was withdrawn, or its time is over."""

    by: str = ""


class Reconsider(Struct, frozen=True, tag="reconsider"):
    """The terms have changed on which actions are asked for: see whether what was withheld may be now."""


CoreEvent = Timeout | ActionResult | OverrideGranted | OverrideEnded
"""What the runtime tells the machines themselves; the rest is for what stands above them."""
RuntimeEvent = CoreEvent | ActionAttempt | Reconsider
EventBody = SignalData | RuntimeEvent


class Event(Struct, frozen=True, gc=False):
    """A body with what is known about it. `observed_us` is the sender's time of the fact, not of its arrival."""

    id: str
    observed_us: int
    body: EventBody
