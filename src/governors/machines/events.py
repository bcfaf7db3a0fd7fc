"""What a machine can be told: the signals of its kinds, and what the runtime itself has to say."""

from typing import Literal

from msgspec import Struct

from ingest.signals import SignalData


class Timeout(Struct, frozen=True, tag="timeout"):
    """The machine's deadline has passed."""


class ActionResult(Struct, frozen=True, tag="action.result"):
    """An action that this machine asked for has ended. `ok` is False for refused, failed and timed out alike:
    what is not known to have worked has not worked.
    """

    action_id: str
    kind: str
    ok: bool
    detail: str = ""


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
RuntimeEvent = CoreEvent | Reconsider
EventBody = SignalData | RuntimeEvent


class Event(Struct, frozen=True, gc=False):
    """A body with what is known about it. `observed_us` is the sender's time of the fact, not of its arrival."""

    id: str
    observed_us: int
    body: EventBody
