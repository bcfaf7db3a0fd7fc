"""Whether what a machine wants done may be asked for now: what stands between a decision and its action. Pure.

A machine decides, and leaves its receipt, whatever this says. Withheld is the action alone: while the machine only
observes, while a person is asked, and while it asks so often that something must be wrong with it.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from governors.machines.governor import Effect

STORM_US: Final = 180_000_000
STORM_REPEATS: Final = 3
"""The same action asked for so often within so long does not do what it is asked for: a person is paged instead."""
FREEZE_US: Final = 1_800_000_000
"""How long nothing is asked for then: what half an hour does not mend, the page has."""
RATE_US: Final = 60_000_000
RATE_MAX: Final = 10
"""Most actions of one machine in a minute, whatever they are."""

STORM: Final = "the same action was asked for too often"
RATE: Final = "too many actions in a minute"
APPROVAL: Final = "a person is asked"
REFUSED: Final = "a person refused it"
EXPIRED: Final = "nobody approved it in time"


class Asking(Struct, frozen=True):
    """How long a person is asked before an action, and what follows without an answer."""

    wait_us: int
    then: Literal["act", "drop"]


class Conduct(Struct, frozen=True, gc=False):
    """On what terms a machine acts. `observes` says why it acts on nothing ("" where it acts); `asks` has the kinds of
    action that a person is asked about first.
    """

    observes: str = ""
    asks: Mapping[str, Asking] = {}


class Asked(Struct, frozen=True):
    """An action that was asked for, and when."""

    what: Effect
    at_us: int


class Awaited(Struct, frozen=True):
    """A person's word on a kind of action is waited for, until then."""

    kind: str
    until_us: int
    then: Literal["act", "drop"]


class Restraint(Struct, frozen=True, omit_defaults=True):
    """What a machine remembers of all this.

    `withheld` is the kind of action that it wants and may not ask for ("" for none), and `why`; `again_us` when it may
    ask again, where that is known; `asked` what it asked for lately; `awaited` what a person is asked about; `approved`
    and `refused` the kind that was decided about, for as long as it is wanted.
    """

    withheld: str = ""
    why: str = ""
    again_us: int | None = None
    asked: tuple[Asked, ...] = ()
    awaited: Awaited | None = None
    approved: str = ""
    refused: str = ""


class Permit(NamedTuple):
    """`restraint` is what is remembered. `acts`: it is asked for now; else `notice`: people are told why not."""

    restraint: Restraint
    acts: bool
    notice: bool = False


ACTS: Final = Conduct()
FREE: Final = Restraint()


def permit(before: Restraint, conduct: Conduct, what: Effect, now_us: int) -> Permit:
    """Whether `what` may be asked for now."""
    asked = tuple(one for one in before.asked if one.at_us > now_us - STORM_US)
    approved = before.approved if before.approved == what.kind else ""
    refused = before.refused if before.refused == what.kind else ""
    awaited = before.awaited if before.awaited is not None and before.awaited.kind == what.kind else None

    def withheld(why: str, again_us: int | None = None) -> Restraint:
        return Restraint(what.kind, why, again_us, asked, awaited, approved, refused)

    is_frozen = before.again_us is not None and now_us < before.again_us
    if conduct.observes:
        return Permit(withheld(conduct.observes, before.again_us if is_frozen else None), acts=False)
    if is_frozen:
        return Permit(withheld(before.why, before.again_us), acts=False)
    asking = conduct.asks.get(what.kind)
    if asking is not None and not approved:
        if refused:
            return Permit(withheld(before.why if before.why in {REFUSED, EXPIRED} else REFUSED), acts=False)
        if awaited is not None:
            return Permit(withheld(APPROVAL), acts=False)
        awaited = Awaited(what.kind, now_us + asking.wait_us, asking.then)
        return Permit(withheld(APPROVAL), acts=False, notice=True)
    if sum(one.what == what for one in asked) >= STORM_REPEATS - 1:
        asked = ()
        return Permit(withheld(STORM, now_us + FREEZE_US), acts=False, notice=True)
    lately_us = [one.at_us for one in asked if one.at_us > now_us - RATE_US]
    if len(lately_us) >= RATE_MAX:
        return Permit(withheld(RATE, lately_us[0] + RATE_US), acts=False)
    return Permit(Restraint(asked=(*asked, Asked(what, now_us)), approved=approved), acts=True)


def answer(before: Restraint, *, approved: bool, why: str) -> Restraint:
    """What a person was asked about is decided; an answer that nobody waits for changes nothing."""
    if before.awaited is None:
        return before
    kind = before.awaited.kind
    return Restraint(
        withheld=before.withheld,
        why=why,
        again_us=before.again_us,
        asked=before.asked,
        approved=kind if approved else "",
        refused="" if approved else kind,
    )


def calm(before: Restraint, stands: str, now_us: int) -> Restraint:
    """Nothing is wanted but what stands outside already ("" for nothing): nothing is withheld any more, and who is
    asked need not answer. An approval holds while its kind of action stands, and a storm is not forgotten.
    """
    asked = tuple(one for one in before.asked if one.at_us > now_us - STORM_US)
    approved = before.approved if before.approved == stands else ""
    if before.again_us is not None and now_us < before.again_us:
        return Restraint(why=before.why, again_us=before.again_us, asked=asked, approved=approved)
    return Restraint(asked=asked, approved=approved)


def due_us(restraint: Restraint) -> int | None:
    """When the machine wants to be told that its time is over."""
    times = [restraint.awaited.until_us] if restraint.awaited is not None else []
    if restraint.withheld and restraint.again_us is not None:
        times.append(restraint.again_us)
    return min(times, default=None)
