"""What the hour must show, whatever the seed. A play that shows less is a failure of the service, or of the play."""

from collections.abc import Mapping, Sequence
from typing import Final

from governors.demo.story import Asked, Milestone, Tally

COST: Final = "cost_guard/daily-gpu"
VALVE: Final = "backlog_valve/orders"
GOOD: Final = "rollback_guard/search"
BAD: Final = "rollback_guard/checkout"


def milestones(tallies: Mapping[str, Tally]) -> list[Milestone]:
    """Each with whether it was seen."""
    return [
        *_aurora(tallies["aurora-ml"]),
        *_bazaar(tallies["bazaar"]),
        *_courier(tallies["courier"]),
        *_dovecote(tallies["dovecote"]),
        *_ember(tallies["ember"]),
    ]


def _aurora(tally: Tally) -> list[Milestone]:
    path = ["NORMAL", "WARN", "THROTTLE", "STOP", "RECOVERING"]
    return [
        _milestone(tally, "warned, throttled and stopped, each before the next", _went(tally, COST, path[:4])),
        _milestone(tally, "let back in slowly once the budget was raised", _went(tally, COST, path)),
        _milestone(
            tally,
            "while stopped, critical requests passed and no others",
            bool(tally.asked) and _passed(tally.asked[-1], critical="all", normal="none"),
        ),
    ]


def _bazaar(tally: Tally) -> list[Milestone]:
    calm, during = tally.asked[:1], tally.asked[1:-1]
    return [
        _milestone(tally, "shed while orders could still be drained", _went(tally, VALVE, ["OPEN", "SHEDDING"])),
        _milestone(tally, "closed when they could not", _went(tally, VALVE, ["SHEDDING", "DRAINING"])),
        _milestone(tally, "tried carefully, then opened again", _went(tally, VALVE, ["DRAINING", "PROBING", "OPEN"])),
        _milestone(
            tally,
            "every order admitted before and after; fewer during, and no critical one refused",
            bool(calm)
            and _passed(calm[0], critical="all", normal="all")
            and _passed(tally.asked[-1], critical="all", normal="all")
            and any(_passed(one, critical="all", normal="some") for one in during)
            and all(_passed(one, critical="all", normal="some", or_none=True) for one in during),
        ),
    ]


def _courier(tally: Tally) -> list[Milestone]:
    good = tally.states.get(GOOD, [])
    back = ["WATCHING", "HOLD", "ROLLING_BACK", "VERIFYING", "COOLDOWN"]
    return [
        _milestone(tally, "the good deploy was promoted and left alone", good[1:] == ["WATCHING", "PROMOTED"]),
        _milestone(tally, "the bad one was held, then rolled back", _went(tally, BAD, back[:3])),
        _milestone(tally, "the rollback was seen to help", _went(tally, BAD, back)),
        _milestone(tally, "the same revision was refused afterwards", "refuse" in tally.decisions.get(BAD, [])),
    ]


def _dovecote(tally: Tally) -> list[Milestone]:
    states = {state for path in tally.states.values() for state in path}
    untouched = not tally.actions and states <= {"UNBUDGETED", "NORMAL", "OPEN"}
    admitted = bool(tally.asked) and all(_passed(one, critical="all", normal="all") for one in tally.asked)
    return [
        _milestone(tally, "watched for an hour, and nothing was done", bool(tally.receipts) and untouched and admitted)
    ]


def _ember(tally: Tally) -> list[Milestone]:
    suspended = "SUSPENDED" in tally.states.get("tenant", [])
    refused = tally.outcomes["refused"]
    return [
        _milestone(tally, "suspended, and every signal since refused with a receipt", suspended and refused > 0),
        _milestone(
            tally,
            "none of its requests admitted",
            bool(tally.asked) and all(_passed(one, critical="none", normal="none") for one in tally.asked),
        ),
    ]


def _milestone(tally: Tally, text: str, seen: bool) -> Milestone:  # noqa: FBT001 - one of three columns
    return Milestone(tally.tenant, text, seen)


def _went(tally: Tally, machine: str, path: Sequence[str]) -> bool:
    """Whether the machine went through these states in this order, with others in between or not."""
    states = iter(tally.states.get(machine, []))
    return all(state in states for state in path)


def _passed(asked: Asked, *, critical: str, normal: str, or_none: bool = False) -> bool:
    found = {"critical": _share(asked, "critical"), "normal": _share(asked, "normal")}
    return found["critical"] == critical and (found["normal"] == normal or (or_none and found["normal"] == "none"))


def _share(asked: Asked, name: str) -> str:
    if asked.passed[name] == asked.asked[name]:
        return "all"
    return "some" if asked.passed[name] else "none"
