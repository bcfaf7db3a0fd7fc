"""A story that lacks something is found out, whatever it is."""

from collections import Counter

import pytest

from governors.demo.milestones import BAD, COST, GOOD, VALVE, milestones
from governors.demo.script import Ask
from governors.demo.story import Decided, Tally, asked, told

TENANTS = ("aurora-ml", "bazaar", "courier", "dovecote", "ember")
CLASSES = {"critical": 2, "normal": 4}


def passed(tenant: str, critical: int, normal: int) -> object:
    return asked(0, tenant, Ask("requests", CLASSES), Counter(critical=critical, normal=normal), "", 0)


def complete() -> dict[str, Tally]:
    """Tallies of an hour as it must be."""
    tallies = {tenant: Tally(tenant, "") for tenant in TENANTS}
    aurora, bazaar, courier, dovecote, ember = tallies.values()
    aurora.states[COST] = ["UNBUDGETED", "NORMAL", "WARN", "THROTTLE", "STOP", "RECOVERING"]
    bazaar.states[VALVE] = ["OPEN", "SHEDDING", "DRAINING", "PROBING", "OPEN"]
    courier.states[GOOD] = ["IDLE", "WATCHING", "PROMOTED"]
    courier.states[BAD] = ["IDLE", "WATCHING", "HOLD", "ROLLING_BACK", "VERIFYING", "COOLDOWN"]
    courier.decisions[BAD] = ["watch", "hold", "rollback", "verify", "cooldown", "refuse"]
    dovecote.states = {"cost_guard/hosting": ["UNBUDGETED", "NORMAL"], "backlog_valve/mail": ["OPEN"]}
    dovecote.receipts = 400
    ember.states["tenant"] = ["ACTIVE", "SUSPENDED"]
    ember.outcomes["refused"] = 100
    for tenant, critical, normal in (
        ("aurora-ml", 2, 3), ("aurora-ml", 2, 0), ("bazaar", 2, 4), ("bazaar", 2, 1), ("bazaar", 2, 0),
        ("bazaar", 2, 4), ("dovecote", 2, 4), ("ember", 0, 0),
    ):  # fmt: skip
        tallies[tenant].note(passed(tenant, critical, normal))  # type: ignore[arg-type]
    return tallies


def unseen(tallies: dict[str, Tally]) -> list[str]:
    return [one.tenant for one in milestones(tallies) if not one.seen]


def test_an_hour_as_it_must_be_lacks_nothing() -> None:
    assert unseen(complete()) == []


def test_an_hour_without_anything_lacks_everything() -> None:
    tallies = {tenant: Tally(tenant, "") for tenant in TENANTS}
    assert len(unseen(tallies)) == len(milestones(tallies))


@pytest.mark.parametrize(
    ("tenant", "machine", "state"),
    [
        ("aurora-ml", COST, "WARN"),
        ("aurora-ml", COST, "THROTTLE"),
        ("aurora-ml", COST, "STOP"),
        ("aurora-ml", COST, "RECOVERING"),
        ("bazaar", VALVE, "SHEDDING"),
        ("bazaar", VALVE, "DRAINING"),
        ("bazaar", VALVE, "PROBING"),
        ("courier", GOOD, "PROMOTED"),
        ("courier", BAD, "HOLD"),
        ("courier", BAD, "ROLLING_BACK"),
        ("courier", BAD, "VERIFYING"),
        ("courier", BAD, "COOLDOWN"),
        ("ember", "tenant", "SUSPENDED"),
    ],
)
def test_a_state_that_was_skipped_is_missed(tenant: str, machine: str, state: str) -> None:
    tallies = complete()
    tallies[tenant].states[machine].remove(state)
    assert set(unseen(tallies)) == {tenant}


@pytest.mark.parametrize("state", ["HOLD", "ROLLING_BACK"])
def test_a_good_deploy_that_was_not_left_alone_is_noticed(state: str) -> None:
    tallies = complete()
    tallies["courier"].states[GOOD].insert(2, state)
    assert set(unseen(tallies)) == {"courier"}


def test_anything_done_to_the_quiet_tenant_is_noticed() -> None:
    acted, warned, refused = complete(), complete(), complete()
    acted["dovecote"].actions.append("notify")
    warned["dovecote"].states["cost_guard/hosting"].append("WARN")
    refused["dovecote"].note(passed("dovecote", 2, 3))  # type: ignore[arg-type]
    assert unseen(acted) == unseen(warned) == unseen(refused) == ["dovecote"]


def test_a_suspended_tenant_that_got_anything_is_noticed() -> None:
    admitted, taken = complete(), complete()
    admitted["ember"].note(passed("ember", 1, 0))  # type: ignore[arg-type]
    taken["ember"].outcomes["refused"] = 0
    assert unseen(admitted) == unseen(taken) == ["ember"]


@pytest.mark.parametrize(("critical", "normal"), [(1, 1), (2, 4)])
def test_a_flood_that_was_shed_wrongly_is_noticed(critical: int, normal: int) -> None:
    tallies = complete()
    tallies["bazaar"].asked.insert(1, passed("bazaar", critical, normal))  # type: ignore[arg-type]
    assert unseen(tallies) == ["bazaar"]


def decision(outcome: str = "decided", decided: str = "none", before: str = "OPEN", after: str = "OPEN") -> Decided:
    return Decided(
        second=0, at="2026-11-27T09:00:00Z", tenant="t", governor="backlog_valve", subject="q", outcome=outcome,
        decision=decided, previous_state=before, state=after, reason="", receipt="0:1",
    )  # fmt: skip


def test_only_what_changes_something_is_news_and_all_of_it_counts() -> None:
    tally = Tally("t", "")
    assert not tally.note(decision())
    assert tally.note(decision(decided="adjust"))
    assert tally.note(decision(before="OPEN", after="SHEDDING"))
    assert tally.note(told(0, "t", "something happens"))
    assert tally.receipts == 3
    assert tally.states["backlog_valve/q"] == ["OPEN", "SHEDDING"]


def test_of_all_refusals_the_first_is_news() -> None:
    tally = Tally("t", "")
    assert [tally.note(decision("refused", before="", after="")) for _ in range(3)] == [True, False, False]
    assert tally.outcomes["refused"] == 3
    assert tally.states == {}
