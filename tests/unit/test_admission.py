"""Admission by its sentences: who passes, who gives way, and what the refused are told."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governors.admission import CLASSES, HOUR_US, Admission, Admitted, Refused
from governors.machines.governor import ADMIT_ALL, AdmitRule

NOW_US = 1_790_812_800_000_000  # the beginning of an hour
SECOND_US = 1_000_000
VALVE = "backlog_valve\x1forders"
COST = "cost_guard\x1fbudget"
RESERVE = 200_000


def admission(rule: AdmitRule | None = None, *, key: str = VALVE) -> Admission:
    made = Admission()
    made.update("acme", key, rule)
    return made


def ask(
    gate: Admission, klass: str = "normal", user: str | None = None, cost: int = 1, now_us: int = NOW_US
) -> Admitted | Refused:
    return gate.admit("acme", klass, user, cost, now_us)


def passed(
    gate: Admission, klass: str = "normal", user: str | None = None, cost: int = 1, now_us: int = NOW_US
) -> bool:
    return isinstance(ask(gate, klass, user, cost, now_us), Admitted)


def refused(gate: Admission, klass: str = "normal", user: str | None = None, now_us: int = NOW_US) -> Refused:
    for _ in range(1000):
        answer = ask(gate, klass, user, 1, now_us)
        if isinstance(answer, Refused):
            return answer
    raise AssertionError("never refused")


# Tenants


def test_a_tenant_that_nobody_knows_is_refused_and_told_so() -> None:
    answer = Admission().admit("nobody", "critical", None, 1, NOW_US)
    assert isinstance(answer, Refused)
    assert (answer.type, answer.reason, answer.policy) == ("unknown-tenant", "unknown_tenant", "tenant")


def test_a_tenant_that_nobody_knows_passes_where_that_is_the_policy_and_the_answer_says_so() -> None:
    assert Admission(unknown_open=True).admit("nobody", "low", None, 1, NOW_US) == Admitted("unknown_tenant")


def test_a_known_tenant_without_rules_passes() -> None:
    assert ask(admission(None)) == Admitted("unrestricted")
    assert ask(admission(ADMIT_ALL)) == Admitted("unrestricted")


def test_a_tenant_that_is_not_active_is_refused_whatever_its_class() -> None:
    gate = admission(None)
    gate.set_refused("acme", "suspended")
    for klass in CLASSES:
        answer = ask(gate, klass)
        assert isinstance(answer, Refused)
        assert (answer.type, answer.detail) == ("tenant-not-active", "suspended")
    gate.set_refused("acme", None)
    assert passed(gate)


def test_being_active_again_keeps_the_rules() -> None:
    gate = admission(AdmitRule(critical_only=True))
    gate.set_refused("acme", "suspended")
    gate.set_refused("acme", None)
    assert not passed(gate)


def test_an_active_tenant_is_known() -> None:
    gate = Admission()
    gate.set_refused("acme", None)
    assert passed(gate)


def test_a_forgotten_tenant_is_unknown() -> None:
    gate = admission(AdmitRule(critical_only=True))
    gate.forget("acme")
    assert refused(gate).reason == "unknown_tenant"


def test_one_tenants_rules_are_no_others() -> None:
    gate = admission(AdmitRule(critical_only=True))
    gate.update("other", VALVE, None)
    assert isinstance(gate.admit("other", "low", None, 1, NOW_US), Admitted)


def test_a_rule_that_is_taken_away_restricts_no_more() -> None:
    gate = admission(AdmitRule(critical_only=True))
    assert not passed(gate)
    gate.update("acme", VALVE, ADMIT_ALL)
    assert ask(gate) == Admitted("unrestricted")


def test_what_is_no_class_and_no_cost_is_an_error() -> None:
    with pytest.raises(ValueError, match="class"):
        ask(admission(None), "urgent")
    with pytest.raises(ValueError, match="cost"):
        ask(admission(None), cost=0)


# Closed


def test_a_closed_valve_lets_critical_through_and_nothing_else() -> None:
    gate = admission(AdmitRule(critical_only=True))
    assert [passed(gate, klass) for klass in CLASSES] == [True, False, False, False]
    assert refused(gate).reason == "critical_only"


# Fractions


@settings(deadline=None)
@given(st.integers(0, 999_999), st.integers(1, 400), st.sampled_from(CLASSES))
def test_without_users_exactly_the_fraction_passes(fraction_ppm: int, requests: int, klass: str) -> None:
    gate = admission(AdmitRule(fraction_ppm=fraction_ppm, critical_reserve_ppm=RESERVE))
    through = sum(passed(gate, klass) for _ in range(requests))
    assert abs(through - requests * fraction_ppm / 1_000_000) < 1


def test_with_users_about_the_fraction_of_them_passes() -> None:
    gate = admission(AdmitRule(fraction_ppm=300_000))
    through = sum(passed(gate, user=f"user-{index}") for index in range(5_000))
    assert through / 5_000 == pytest.approx(0.3, abs=0.02)


def test_retries_within_the_hour_get_the_same_answer() -> None:
    gate = admission(AdmitRule(fraction_ppm=500_000))
    users = [f"user-{index}" for index in range(50)]
    first = [passed(gate, user=user) for user in users]
    for second in range(60, 3600, 60):
        assert [passed(gate, user=user, now_us=NOW_US + second * SECOND_US) for user in users] == first


def test_another_hour_draws_other_lots() -> None:
    gate = admission(AdmitRule(fraction_ppm=500_000))
    users = [f"user-{index}" for index in range(50)]
    hours = [tuple(passed(gate, user=user, now_us=NOW_US + hour * HOUR_US) for user in users) for hour in range(5)]
    assert len(set(hours)) == 5


def test_workers_with_the_same_key_agree_and_others_do_not() -> None:
    def answers(key: bytes) -> list[bool]:
        gate = Admission(hash_key=key)
        gate.update("acme", VALVE, AdmitRule(fraction_ppm=500_000))
        return [passed(gate, user=f"user-{index}") for index in range(64)]

    assert answers(b"one") == answers(b"one")
    assert answers(b"one") != answers(b"two")


def test_a_larger_fraction_refuses_nobody_that_a_smaller_one_let_through() -> None:
    users = [f"user-{index}" for index in range(200)]
    gate = admission(AdmitRule(fraction_ppm=200_000))
    before = {user for user in users if passed(gate, user=user)}
    gate.update("acme", VALVE, AdmitRule(fraction_ppm=400_000))
    assert before < {user for user in users if passed(gate, user=user)}


def mixed(gate: Admission, mix: dict[str, int], rounds: int, *, users: bool = False) -> dict[str, float]:
    """Ask `mix` of each class, round by round; the share of each that passed, the first rounds not counted."""
    through = dict.fromkeys(mix, 0)
    for turn in range(2 * rounds):
        for klass, count in mix.items():
            for index in range(count):
                user = f"{klass}-{turn}-{index}" if users else None
                through[klass] += passed(gate, klass, user) and turn >= rounds
    return {klass: through[klass] / (rounds * count) for klass, count in mix.items()}


@pytest.mark.parametrize("users", [False, True])
def test_a_fraction_of_all_is_taken_from_the_lowest_classes_first(users: bool) -> None:
    gate = admission(AdmitRule(fraction_ppm=600_000))
    shares = mixed(gate, {"critical": 1, "high": 2, "normal": 4, "low": 3}, 100, users=users)
    assert (shares["critical"], shares["high"], shares["low"]) == (1.0, 1.0, 0.0)
    assert shares["normal"] == pytest.approx(0.75, abs=0.08)


@settings(deadline=None)
@given(
    st.integers(0, 999_999),
    st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(0, 40)), min_size=1, max_size=300),
)
def test_a_lower_class_never_passes_where_a_higher_one_with_the_same_user_would_not(
    fraction_ppm: int, requests: list[tuple[str, int]]
) -> None:
    gate = admission(AdmitRule(fraction_ppm=fraction_ppm))
    for klass, number in requests:
        ask(gate, klass, f"user-{number}")
        shares = list(gate.view("acme").gates[0].shares_ppm.values())
        assert shares == sorted(shares, reverse=True)
    # Asking four times moves the mix by too little to change a share in between.
    before = gate.view("acme").gates[0].shares_ppm
    answers = [passed(gate, klass, "somebody") for klass in CLASSES]
    if gate.view("acme").gates[0].shares_ppm == before:
        assert answers == sorted(answers, reverse=True)


def test_answers_do_not_flicker_while_the_mix_trembles() -> None:
    gate = admission(AdmitRule(fraction_ppm=500_000))
    mixed(gate, {"high": 3, "normal": 7}, 50)
    before = gate.view("acme").gates[0].shares_ppm
    mixed(gate, {"high": 31, "normal": 69}, 10)
    assert gate.view("acme").gates[0].shares_ppm == before


def test_shares_follow_a_mix_that_changes() -> None:
    gate = admission(AdmitRule(fraction_ppm=500_000))
    mixed(gate, {"low": 10}, 100)
    shares = mixed(gate, {"high": 5, "low": 5}, 400)
    assert shares["high"] == pytest.approx(1.0, abs=0.02)
    assert shares["low"] == pytest.approx(0.0, abs=0.05)


# Rates


def served(gate: Admission, seconds: int, per_s: dict[str, int], *, cost: int = 1) -> dict[str, float]:
    """Requests a second that passed of each class, the first five seconds not counted."""
    through = dict.fromkeys(per_s, 0)
    total = sum(per_s.values())
    for second in range(seconds + 5):
        asked = dict.fromkeys(per_s, 0.0)
        for index in range(total):
            # Classes take turns, as evenly as their numbers allow.
            for name in asked:
                asked[name] += per_s[name] / total
            klass = max(asked, key=lambda name: asked[name])
            asked[klass] -= 1.0
            now_us = NOW_US + second * SECOND_US + index * SECOND_US // total
            through[klass] += passed(gate, klass, None, cost, now_us) and second >= 5
    return {klass: count / seconds for klass, count in through.items()}


@pytest.mark.parametrize("klass", CLASSES)
def test_whoever_asks_alone_gets_the_whole_rate(klass: str) -> None:
    gate = admission(AdmitRule(rate_milli_per_s=20_000, critical_reserve_ppm=RESERVE))
    assert served(gate, 60, {klass: 50})[klass] == pytest.approx(20, abs=0.5)


def test_a_cost_counts_as_that_many_tokens() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=20_000))
    assert served(gate, 20, {"normal": 50}, cost=4)["normal"] == pytest.approx(5, abs=0.3)


def test_a_cost_larger_than_the_bucket_passes_a_full_one_and_is_paid_back() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=10_000))
    assert served(gate, 100, {"normal": 2}, cost=50)["normal"] * 50 == pytest.approx(10, abs=1)


def test_a_rate_far_below_one_a_second_still_passes_something() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=100, critical_reserve_ppm=RESERVE))
    assert served(gate, 100, {"low": 1})["low"] == pytest.approx(0.1, abs=0.02)


def test_a_rate_is_given_to_the_higher_classes_first() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=20_000, critical_reserve_ppm=RESERVE))
    rates = served(gate, 30, {"critical": 4, "high": 6, "normal": 20, "low": 20})
    assert rates["critical"] == pytest.approx(4, abs=0.1)
    assert rates["high"] == pytest.approx(6, abs=0.2)
    assert rates["normal"] == pytest.approx(10, abs=0.7)
    assert rates["low"] < 0.5


def test_the_reserve_is_there_for_critical_when_others_have_taken_all_they_may() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=50_000, critical_reserve_ppm=RESERVE))
    while passed(gate, "high"):
        pass
    through = 0
    while passed(gate, "critical"):
        through += 1
    assert through == 20  # a fifth of the two seconds' worth that the bucket holds


def test_a_lower_class_is_never_served_from_a_bucket_that_refuses_a_higher_one() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=50_000, critical_reserve_ppm=RESERVE))
    while passed(gate, "low"):
        pass
    assert passed(gate, "normal")
    while passed(gate, "normal"):
        pass
    assert not passed(gate, "low")
    assert passed(gate, "high")


def test_a_changed_limit_hands_out_no_second_burst() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=50_000))
    while passed(gate):
        pass
    for rate in (51_000, 52_000, 53_000):
        gate.update("acme", VALVE, AdmitRule(rate_milli_per_s=rate))
        assert not passed(gate)


def test_a_clock_that_steps_back_brings_no_tokens() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=50_000))
    while passed(gate):
        pass
    assert not passed(gate, now_us=NOW_US - HOUR_US)
    assert not passed(gate, now_us=NOW_US)


VALVE_RULE = AdmitRule(rate_milli_per_s=1_000_000, critical_reserve_ppm=RESERVE, burst=40)
MIX = ("critical", "high", "high", *["normal"] * 4, *["low"] * 3)


def crowd(
    gate: Admission, seconds: float, *, per_s: int = 1_500, begins_s: float = 0.0
) -> list[tuple[int, str, str, bool]]:
    """Everybody asks again and again: time, class, user and answer of each request."""
    answers = []
    for index in range(int(seconds * per_s)):
        now_us = NOW_US + int((begins_s + index / per_s) * SECOND_US)
        klass, user = MIX[index % len(MIX)], f"user-{index // len(MIX) % 97}"
        answers.append((now_us, klass, user, passed(gate, klass, user, 1, now_us)))
    return answers


def test_a_valves_bucket_begins_with_what_belongs_to_critical() -> None:
    gate = admission(VALVE_RULE)
    assert not passed(gate, "high")
    assert sum(passed(gate, "critical") for _ in range(20)) == 8


def test_a_rate_with_users_is_met_whole_by_class_and_then_by_user() -> None:
    answers = crowd(admission(VALVE_RULE), 10)[3_000:]
    shares = {klass: [ok for _, one, _, ok in answers if one == klass] for klass in CLASSES}
    assert sum(sum(each) for each in shares.values()) / 8 == pytest.approx(1_000, rel=0.02)
    assert sum(shares["critical"]) == len(shares["critical"])
    assert sum(shares["high"]) == len(shares["high"])
    assert sum(shares["low"]) < 0.02 * len(shares["low"])


def test_under_a_rate_users_get_the_same_answer_within_the_hour() -> None:
    """But for those at the edge of what may pass."""
    gate = admission(AdmitRule(rate_milli_per_s=20_000, critical_reserve_ppm=RESERVE, burst=40))
    asked: dict[str, list[bool]] = {}
    for _, klass, user, ok in crowd(gate, 50 * 60, per_s=30)[3_000:]:
        if klass == "normal":
            asked.setdefault(user, []).append(ok)
    steady = [user for user, answers in asked.items() if sum(answers) in (0, len(answers))]
    assert len(steady) >= 0.75 * len(asked)


def test_under_a_rate_no_request_gives_way_to_a_lower_class_that_comes_just_after_it() -> None:
    """Nor while the limit changes with each sample."""
    gate = admission(VALVE_RULE)
    answers = []
    for sample, rate in enumerate((700, 1_000, 650, 1_050, 400, 1_200, 900, 1_000)):
        gate.update("acme", VALVE, msgspec.structs.replace(VALVE_RULE, rate_milli_per_s=rate * 1_000, burst=rate // 25))
        answers += crowd(gate, 0.25, begins_s=sample * 0.25)
    ranks: dict[str, int] = {klass: rank for rank, klass in enumerate(CLASSES)}
    for index, (at_us, klass, _, ok) in enumerate(answers):
        later = [one for one in answers[index + 1 : index + 4] if one[0] <= at_us + 2_000]
        assert ok or not any(let_in and ranks[other] > ranks[klass] for _, other, _, let_in in later)


def test_a_bucket_stays_as_full_as_it_was_when_its_rate_falls() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=50_000))
    assert sum(passed(gate) for _ in range(50)) == 50  # half of what two seconds bring
    gate.update("acme", VALVE, AdmitRule(rate_milli_per_s=20_000))
    gate.update("acme", VALVE, AdmitRule(rate_milli_per_s=50_000))
    left = sum(passed(gate, "critical") for _ in range(100))
    assert left == 20


# Several rules


def test_a_request_must_pass_every_rule() -> None:
    gate = admission(AdmitRule(fraction_ppm=500_000))
    gate.update("acme", COST, AdmitRule(critical_only=True))
    assert not any(passed(gate) for _ in range(20))
    assert refused(gate).policy in ("backlog_valve/orders", "cost_guard/budget")


def test_a_user_that_passes_the_smallest_fraction_passes_all() -> None:
    gate = admission(AdmitRule(fraction_ppm=400_000))
    gate.update("acme", COST, AdmitRule(fraction_ppm=600_000))
    through = sum(passed(gate, user=f"user-{index}") for index in range(3_000))
    assert through / 3_000 == pytest.approx(0.4, abs=0.03)


def test_what_one_rule_refuses_costs_nothing_at_another() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=50_000))
    gate.update("acme", COST, AdmitRule(critical_only=True))
    for _ in range(500):
        assert not passed(gate, "high")
    gate.update("acme", COST, None)
    assert sum(passed(gate, "high") for _ in range(200)) > 50


# What the refused are told


def test_a_refusal_names_the_rule_its_numbers_and_the_kind_of_problem() -> None:
    valve = refused(admission(AdmitRule(rate_milli_per_s=50_000)))
    assert (valve.type, valve.policy) == ("temporary-reduced-capacity", "backlog_valve/orders")
    assert (valve.reason, valve.rate_milli_per_s) == ("rate", 50_000)
    cost = refused(admission(AdmitRule(fraction_ppm=250_000), key=COST))
    assert (cost.type, cost.policy) == ("quota-exceeded", "cost_guard/budget")
    assert (cost.reason, cost.fraction_ppm) == ("fraction", 250_000)


def test_users_are_sent_away_for_different_times_and_each_for_the_same() -> None:
    gate = admission(AdmitRule(fraction_ppm=0))
    waits = [refused(gate, user=f"user-{index}").retry_after_s for index in range(200)]
    assert waits == [refused(gate, user=f"user-{index}").retry_after_s for index in range(200)]
    assert len(set(waits)) > 8
    assert min(waits) >= 10
    assert max(waits) <= 20


def test_callers_without_a_name_are_sent_away_for_different_times() -> None:
    gate = admission(AdmitRule(critical_only=True))
    waits = [refused(gate).retry_after_s for _ in range(31)]
    assert len(set(waits)) > 20
    assert all(30 <= wait <= 60 for wait in waits)


def test_a_rate_sends_away_for_about_as_long_as_the_tokens_take() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=100))
    while passed(gate):
        pass
    wait_s = refused(gate).retry_after_s
    assert passed(gate, now_us=NOW_US + wait_s * SECOND_US)
    assert wait_s <= 20


def test_no_rate_sends_away_for_longer_than_two_minutes() -> None:
    gate = admission(AdmitRule(rate_milli_per_s=1))
    assert refused(gate).retry_after_s <= 120


# The view


def test_the_view_shows_the_rules_and_what_they_leave_each_class() -> None:
    rule = AdmitRule(fraction_ppm=250_000)
    gate = admission(rule)
    gate.update("acme", COST, AdmitRule(critical_only=True))
    view = gate.view("acme")
    assert view.known
    assert view.not_active is None
    assert [each.policy for each in view.gates] == ["backlog_valve/orders", "cost_guard/budget"]
    assert view.gates[0].rule == rule
    assert view.gates[0].shares_ppm == dict.fromkeys(CLASSES, 250_000)
    assert view.gates[1].shares_ppm == {"critical": 1_000_000, "high": 0, "normal": 0, "low": 0}


def test_the_view_tells_the_unknown_from_the_unrestricted_and_the_suspended() -> None:
    gate = admission(None)
    assert not gate.view("nobody").known
    assert gate.view("acme").known
    assert gate.view("acme").gates == ()
    gate.set_refused("acme", "suspended")
    assert gate.view("acme").not_active == "suspended"


def test_looking_changes_nothing() -> None:
    gate = admission(AdmitRule(fraction_ppm=500_000))
    before = [passed(gate) for _ in range(10)]
    other = admission(AdmitRule(fraction_ppm=500_000))
    after = []
    for _ in range(10):
        other.view("acme")
        after.append(passed(other))
    assert after == before
