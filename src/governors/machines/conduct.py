"""Whether what a machine wants done may be asked for now: what stands between a decision and its action. Pure.

A machine decides, and leaves its receipt, whatever this says. Withheld is the action alone: while the machine only
observes, while a person is asked, while another machine of the tenant is in the way (`conflicts.py`), and while it asks
so often that something must be wrong with it.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from governors.machines.governor import Effect

STORM_US: Final = 180_000_000
STORM_REPEATS: Final = 3
"""The same action asked for so often within so long does not do what it is asked for: a person is paged instead."""
FREEZE_US: Final = 1_800_000_000
"""How long nothing is asked for then: what half an hour does not mend, the page has."""
RATE_US: Final = 60_000_000
RATE_MAX: Final = 10
"""Most actions of one machine in a minute, whatever they are."""
ASK_AGAIN_US: Final = 3_600_000_000
"""A person who did not answer in time is asked again after an hour, if it is wanted still."""

STORM: Final = "the same action was asked for too often"
RATE: Final = "too many actions in a minute"
APPROVAL: Final = "a person is asked"
REFUSED: Final = "a person refused it"
EXPIRED: Final = "nobody approved it in time"
NOTICES: Final = frozenset({"notify", "page"})
"""Effects that tell people something, and change nothing."""


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


class Answered(Struct, frozen=True):
    """A word on a kind of action: it holds while that is wanted or stands, and until then (None: no longer bound)."""

    kind: str
    approved: bool
    why: str
    until_us: int | None


class Hindrance(NamedTuple):
    """Why a machine may not ask for something now because of others; `again_us` when it may, where that is known."""

    why: str
    again_us: int | None = None


class Restraint(Struct, frozen=True, omit_defaults=True):
    """What a machine remembers of all this.

    `withheld` is the kind of action that it wants and may not ask for ("" for none), and `why`; `again_us` when it may
    ask again, where that is known; `waits` that another machine is in the way. `frozen_us` is until when a storm keeps
    it from acting; `asked` what it asked for lately; `awaited` what a person is asked about, and `answered` what one
    said; `untold` that people were to be told why and could not be.
    """

    withheld: str = ""
    why: str = ""
    again_us: int | None = None
    waits: bool = False
    frozen_us: int | None = None
    asked: tuple[Asked, ...] = ()
    awaited: Awaited | None = None
    answered: Answered | None = None
    untold: bool = False


class Permit(NamedTuple):
    """`restraint` is what is remembered. `acts`: it is asked for now; else `notice`: people are told why not."""

    restraint: Restraint
    acts: bool
    notice: bool = False


ACTS: Final = Conduct()
FREE: Final = Restraint()


def permit(
    before: Restraint, conduct: Conduct, what: Effect, now_us: int, hindrance: Hindrance | None = None
) -> Permit:
    """Whether `what` may be asked for now. `hindrance` is what stands in its way of others."""
    kept = _lately(before, what.kind, now_us)
    if conduct.observes:
        return Permit(_withheld(kept, what, conduct.observes), acts=False)
    tells = what.kind in NOTICES
    if kept.frozen_us is not None and not tells:
        return Permit(_withheld(kept, what, STORM, kept.frozen_us), acts=False, notice=kept.untold)
    asking = conduct.asks.get(what.kind)
    answered = kept.answered
    if asking is not None and not (answered is not None and answered.approved):
        if answered is not None:
            return Permit(_withheld(kept, what, answered.why, answered.until_us), acts=False)
        if kept.awaited is not None:
            return Permit(_withheld(kept, what, APPROVAL), acts=False, notice=kept.untold)
        awaited = Awaited(what.kind, now_us + asking.wait_us, asking.then)
        return Permit(_withheld(replace(kept, awaited=awaited), what, APPROVAL), acts=False, notice=True)
    kept = replace(kept, awaited=None)
    if hindrance is not None:
        waits = hindrance.again_us is None
        return Permit(replace(_withheld(kept, what, hindrance.why, hindrance.again_us), waits=waits), acts=False)
    same_us = [one.at_us for one in kept.asked if one.what == what]
    if len(same_us) >= STORM_REPEATS - 1:
        if tells:
            # Whoever was told twice in three minutes knows.
            return Permit(_withheld(kept, what, STORM, same_us[0] + STORM_US), acts=False)
        frozen_us = now_us + FREEZE_US
        frozen = replace(kept, frozen_us=frozen_us)
        return Permit(_withheld(frozen, what, STORM, frozen_us), acts=False, notice=True)
    lately_us = [one.at_us for one in kept.asked if one.at_us > now_us - RATE_US]
    if len(lately_us) >= RATE_MAX:
        return Permit(_withheld(kept, what, RATE, lately_us[-RATE_MAX] + RATE_US), acts=False)
    asked = (*kept.asked, Asked(what, now_us))
    return Permit(Restraint(frozen_us=kept.frozen_us, asked=asked, answered=answered), acts=True)


def _lately(before: Restraint, kind: str, now_us: int) -> Restraint:
    """What of it still holds for this kind of action."""
    awaited, answered, frozen_us = before.awaited, before.answered, before.frozen_us
    return Restraint(
        withheld=before.withheld,
        frozen_us=frozen_us if frozen_us is not None and now_us < frozen_us else None,
        asked=tuple(one for one in before.asked if one.at_us > now_us - STORM_US),
        awaited=awaited if awaited is not None and awaited.kind == kind else None,
        answered=answered if answered is not None and answered.kind == kind and _holds(answered, now_us) else None,
        untold=before.untold,
    )


def _withheld(kept: Restraint, what: Effect, why: str, again_us: int | None = None) -> Restraint:
    return replace(kept, withheld=what.kind, why=why, again_us=again_us)


def _holds(answered: Answered, now_us: int) -> bool:
    return answered.until_us is None or now_us < answered.until_us


def answer(before: Restraint, *, approved: bool, why: str, until_us: int | None = None) -> Restraint:
    """What a person was asked about is decided, until then; an answer that nobody waits for changes nothing."""
    if before.awaited is None:
        return before
    answered = Answered(before.awaited.kind, approved, why, until_us)
    return replace(before, why=why, waits=False, awaited=None, answered=answered, untold=False)


def lift(before: Restraint) -> Restraint:
    """A person lets a machine that a storm has frozen act again."""
    return replace(before, again_us=None, frozen_us=None, asked=(), untold=False)


def told(before: Restraint, *, ok: bool) -> Restraint:
    """People were told why something is withheld, or could not be."""
    return replace(before, untold=bool(before.withheld) and not ok)


def calm(before: Restraint, stands: str, now_us: int) -> Restraint:
    """Nothing is wanted but what stands outside already ("" for nothing): nothing is withheld any more, and who is
    asked need not answer. An approval holds while its kind of action stands, and a storm is not forgotten.
    """
    kept = _lately(before, stands, now_us)
    answered = kept.answered if kept.answered is not None and kept.answered.approved else None
    return Restraint(frozen_us=kept.frozen_us, asked=kept.asked, answered=answered)


def again(before: Restraint, now_us: int) -> Restraint:
    """The time is over for which something was withheld, a storm lasted, or a refusal held."""
    kept = _lately(before, before.withheld, now_us)
    return replace(before, again_us=None, frozen_us=kept.frozen_us, answered=kept.answered)


def due_us(restraint: Restraint) -> int | None:
    """When the machine wants to be told that its time is over."""
    times = [restraint.awaited.until_us] if restraint.awaited is not None else []
    if restraint.withheld and restraint.again_us is not None:
        times.append(restraint.again_us)
    return min(times, default=None)
