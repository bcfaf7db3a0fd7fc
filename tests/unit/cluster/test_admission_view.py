"""Answers from a view: what of a rate is this worker's, what is said past the limit, and what an answer may be."""

import msgspec
import pytest

from governors.admission import CLASSES, Admission, Admitted, Refused, Standing
from governors.cluster.admission_view import (
    ANSWER_BYTES_MAX,
    AdmissionView,
    AnswerInvalidError,
    Fails,
    Have,
    Page,
    Source,
    read_answer,
    tell,
)
from governors.machines.governor import AdmitRule

NOW_US = 1_790_812_800_000_000
SECOND_US = 1_000_000
VALVE = "backlog_valve\x1forders"


def view_of(source: Admission, *, fails: Fails = "open", epoch: int = 1, asked_s: float = 0.0) -> AdmissionView:
    view = AdmissionView(0, limit_s=10.0, fails=fails)
    assert not catch_up(view, Source("ab", epoch, source), asked_s)
    return view


def catch_up(view: AdmissionView, source: Source, asked_s: float) -> bool:
    more = True
    while more:
        (page,) = read_answer(tell([view.have], {0: source}))
        more = view.install(page, asked_s)
    return more


def passed(view: AdmissionView, seconds: int, per_s: int) -> int:
    count = 0
    for second in range(seconds):
        for part in range(per_s):
            at_us = NOW_US + second * SECOND_US + part * SECOND_US // per_s
            count += isinstance(view.admit("acme", "normal", None, 1, at_us, 0.0).answer, Admitted)
    return count


def test_an_answer_is_the_sources_with_its_age() -> None:
    source = Admission()
    source.set_refused("free", None)
    source.update("closed", VALVE, AdmitRule(critical_only=True))
    source.set_refused("gone", "cancelled")
    view = view_of(source, asked_s=3.0)
    for tenant in ("free", "closed", "gone", "nobody"):
        for klass in CLASSES:
            viewed = view.admit(tenant, klass, None, 1, NOW_US, 3.25)
            asked = source.admit(tenant, klass, None, 1, NOW_US)
            assert viewed.age_ms == 250
            assert type(viewed.answer) is type(asked)
            assert getattr(viewed.answer, "reason", "") == getattr(asked, "reason", "")


@pytest.mark.parametrize(("fails", "answer"), [("open", Admitted), ("closed", Refused)])
def test_past_its_limit_a_view_fails_as_the_policy_says_and_says_so(fails: Fails, answer: type) -> None:
    source = Admission()
    source.update("acme", VALVE, AdmitRule(critical_only=True))
    view = view_of(source, fails=fails)
    assert isinstance(view.admit("acme", "low", None, 1, NOW_US, 10.0).answer, Refused)
    stale = view.admit("acme", "low", None, 1, NOW_US, 10.001)
    assert isinstance(stale.answer, answer)
    assert stale.age_ms == 10_001
    said = stale.answer.basis if isinstance(stale.answer, Admitted) else stale.answer.reason
    assert said == "view_stale"


@pytest.mark.parametrize(("fails", "answer"), [("open", Admitted), ("closed", Refused)])
def test_before_everything_was_told_once_a_view_has_no_age_and_fails(fails: Fails, answer: type) -> None:
    source = Admission()
    for number in range(10):
        source.set_refused(f"t{number}", None)
    view = AdmissionView(0, limit_s=10.0, fails=fails)
    (page,) = read_answer(tell([view.have], {0: Source("ab", 1, source)}, 4))
    assert view.install(page, 0.0)
    viewed = view.admit("t0", "normal", None, 1, NOW_US, 0.0)
    assert isinstance(viewed.answer, answer)
    assert viewed.age_ms is None
    assert view.age_s(0.0) is None


def test_those_refused_by_a_stale_view_do_not_come_back_together() -> None:
    view = AdmissionView(0, limit_s=10.0, fails="closed")
    answers = [view.admit("acme", "normal", None, 1, NOW_US, 0.0).answer for _ in range(100)]
    retries = {one.retry_after_s for one in answers if isinstance(one, Refused)}
    assert retries == {2, 3, 4}


def test_of_a_rate_each_worker_lets_its_part_pass() -> None:
    source = Admission()
    source.update("acme", VALVE, AdmitRule(rate_milli_per_s=100_000))
    alone, third = view_of(source), view_of(source)
    third.share_among(3)
    assert passed(alone, 30, 200) == pytest.approx(3_000, rel=0.1)
    assert passed(third, 30, 200) == pytest.approx(1_000, rel=0.1)


def test_a_part_follows_the_number_of_workers_without_a_burst() -> None:
    source = Admission()
    source.update("acme", VALVE, AdmitRule(rate_milli_per_s=100_000))
    view = view_of(source)
    passed(view, 5, 200)  # its bucket is empty now
    for workers in (10, 1, 10, 1):
        view.share_among(workers)
    assert passed(view, 1, 1) <= 1


def test_the_parts_of_a_rate_are_never_more_than_it_and_a_refusal_names_the_whole() -> None:
    source = Admission()
    source.update("acme", VALVE, AdmitRule(rate_milli_per_s=10, burst=30))
    view = view_of(source)
    view.share_among(3)
    refusals = [view.admit("acme", "normal", None, 1, NOW_US, 0.0).answer for _ in range(100)]
    rates = {one.rate_milli_per_s for one in refusals if isinstance(one, Refused)}
    assert rates == {10}
    standing = view.standing("acme")
    assert standing is not None
    assert standing.rules == {VALVE: AdmitRule(rate_milli_per_s=10, burst=30)}


def test_a_fraction_and_a_class_are_not_shared() -> None:
    source = Admission()
    source.update("acme", VALVE, AdmitRule(fraction_ppm=500_000))
    view = view_of(source)
    view.share_among(10)
    assert passed(view, 1, 1_000) == pytest.approx(500, abs=2)


def test_who_answers_first_hand_has_a_part_too() -> None:
    gate = Admission()
    gate.update("acme", VALVE, AdmitRule(rate_milli_per_s=100_000))
    gate.share_among(4)
    gate.update("acme", VALVE, AdmitRule(rate_milli_per_s=200_000))
    count = sum(
        isinstance(gate.admit("acme", "normal", None, 1, NOW_US + part * 5_000), Admitted) for part in range(6_000)
    )
    assert count == pytest.approx(50 * 30, rel=0.15)


def test_the_owner_before_tells_nothing_any_more() -> None:
    before, after = Admission(), Admission()
    before.update("acme", VALVE, AdmitRule(critical_only=True))
    after.set_refused("acme", None)
    view = view_of(before, epoch=1)
    late = read_answer(tell([Have(0, "", 0)], {0: Source("ab", 1, before)}))[0]
    catch_up(view, Source("cd", 2, after), 5.0)
    assert view.standing("acme") == Standing(None, {})
    assert not view.install(late, 6.0)
    assert view.standing("acme") == Standing(None, {})
    assert view.age_s(7.0) == 2.0


def test_a_new_owner_keeps_what_is_known_until_it_has_told_everything() -> None:
    before, after = Admission(), Admission()
    for tenant in ("a", "b", "c"):
        before.set_refused(tenant, None)
    for tenant in ("c", "d"):
        after.set_refused(tenant, None)
    view = view_of(before)
    source = Source("cd", 2, after)
    (page,) = read_answer(tell([view.have], {0: source}, 1))
    assert view.install(page, 1.0)
    assert view.standing("a") is not None
    assert view.age_s(2.0) == 2.0
    catch_up(view, source, 3.0)
    assert [view.standing(tenant) is not None for tenant in "abcd"] == [False, False, True, True]
    assert view.age_s(3.0) == 0.0


def test_an_answer_has_its_weight_over_all_partitions_and_tells_of_each() -> None:
    sources = {}
    for partition in range(3):
        admission = Admission()
        for number in range(100):
            admission.update(f"t{number}", VALVE, AdmitRule(critical_only=True))
        sources[partition] = Source("ab", 1, admission)
    pages = read_answer(tell([Have(partition, "", 0) for partition in range(5)], sources, 50))
    assert [page.partition for page in pages] == [0, 1, 2]  # of 3 and 4 nobody here knows
    assert all(page.more and page.restricted for page in pages)
    assert sum(2 * len(page.restricted) for page in pages) <= 50 + 2 * 2


def test_what_did_not_change_is_not_told_again() -> None:
    source = Admission()
    source.set_refused("acme", None)
    source.update("acme", VALVE, AdmitRule(critical_only=True))
    view = view_of(source)
    source.set_refused("acme", None)
    source.update("acme", VALVE, AdmitRule(critical_only=True))
    source.update("acme", "cost_guard\x1fb", None)
    (page,) = read_answer(tell([view.have], {0: Source("ab", 1, source)}))
    assert page == Page(0, 1, "ab", view.have.version, view.have.version, False, [], [], [])


def test_admission_that_nobody_follows_keeps_no_journal() -> None:
    alone = Admission()
    alone.set_refused("acme", None)
    assert alone._journal is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b'{"v":1}', b'{"v":2,"pages":[]}', b'{"pages":[{}],"v":1}', b'{"pages":[],"v":1',
        b'{"pages":[],"v":1}\xff', b" " * (ANSWER_BYTES_MAX + 1),
    ],
    ids=lambda data: repr(data[:24]),
)  # fmt: skip
def test_what_is_no_answer_is_an_error(data: bytes) -> None:
    with pytest.raises(AnswerInvalidError):
        read_answer(data)


def test_members_of_a_later_program_are_left_out() -> None:
    source = Admission()
    source.set_refused("acme", None)
    document = msgspec.json.decode(tell([Have(0, "", 0)], {0: Source("ab", 1, source)}))
    document["pages"][0]["colour"] = "red"
    (page,) = read_answer(msgspec.json.encode(document))
    assert page.unrestricted == ["acme"]
