"""A view of another worker's admission, whatever happens there and to the answers on their way."""

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from governors.admission import Admission, Standing
from governors.cluster.admission_view import AdmissionView, Page, Source, read_answer, tell
from governors.machines.governor import AdmitRule

TENANTS = [f"t{number}" for number in range(6)]
KEYS = ["cost_guard\x1fbudget", "backlog_valve\x1forders"]
LIMIT_S = 10.0
tenants = st.sampled_from(TENANTS)
keys = st.sampled_from(KEYS)
rules = st.none() | st.builds(
    AdmitRule,
    fraction_ppm=st.integers(0, 1_000_000),
    rate_milli_per_s=st.none() | st.integers(0, 100_000),
    critical_only=st.booleans(),
)


class Told(NamedTuple):
    """An answer: when it was asked for, and what was true when it was given."""

    asked_s: float
    page: Page
    truth: dict[str, Standing | None]


def all_of(admission: Admission | AdmissionView) -> dict[str, Standing | None]:
    return {tenant: admission.standing(tenant) for tenant in TENANTS}


class Viewing(RuleBasedStateMachine):
    """One worker has the log, another one after it; somebody follows, through a network that loses and repeats."""

    @initialize()
    def begin(self) -> None:
        self.admission = Admission()
        self.source = Source("01", 1, self.admission)
        self.view = AdmissionView(0, limit_s=LIMIT_S, fails="closed")
        self.now_s = 1_000.0
        self.told: list[Told] = []
        self.last_true: Told | None = None

    # What happens where the log is

    @rule(tenant=tenants, key=keys, admit=rules)
    def a_rule_changes(self, tenant: str, key: str, admit: AdmitRule | None) -> None:
        self.admission.update(tenant, key, admit)

    @rule(tenant=tenants, why=st.sampled_from([None, "suspended", "cancelled"]))
    def an_entitlement_changes(self, tenant: str, why: str | None) -> None:
        self.admission.set_refused(tenant, why)

    @rule(tenant=tenants)
    def a_tenant_is_forgotten(self, tenant: str) -> None:
        self.admission.forget(tenant)

    @rule(known=st.sets(tenants))
    def another_worker_takes_the_log(self, known: set[str]) -> None:
        self.admission = Admission()
        for tenant in sorted(known):
            self.admission.set_refused(tenant, None)
        epoch = self.source.epoch + 1
        self.source = Source(f"{epoch:02x}", epoch, self.admission)

    # What the follower does

    @rule(later_s=st.floats(0.0, 5.0))
    def time_passes(self, later_s: float) -> None:
        self.now_s += later_s

    @rule(weight_max=st.integers(1, 8), is_lost=st.booleans())
    def it_asks(self, weight_max: int, is_lost: bool) -> None:
        (page,) = read_answer(tell([self.view.have], {0: self.source}, weight_max))
        self.told.append(Told(self.now_s, page, all_of(self.admission)))
        if not is_lost:
            self.install(self.told[-1])

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def an_answer_comes_late_or_again(self, data: st.DataObject) -> None:
        self.install(data.draw(st.sampled_from(self.told)))

    @rule(weight_max=st.integers(1, 8))
    def it_catches_up(self, weight_max: int) -> None:
        while True:
            (page,) = read_answer(tell([self.view.have], {0: self.source}, weight_max))
            told = Told(self.now_s, page, all_of(self.admission))
            if not self.install(told):
                break
        assert all_of(self.view) == all_of(self.admission)
        assert self.view.age_s(self.now_s) == 0

    def install(self, told: Told) -> bool:
        before = self.view.age_s(self.now_s)
        more = self.view.install(told.page, told.asked_s)
        after = self.view.age_s(self.now_s)
        if after is not None and after != before:
            assert after == self.now_s - told.asked_s
            # What it says to be its age is one at which all of it was true.
            assert all_of(self.view) == told.truth
        return more

    @invariant()
    def nothing_past_its_limit_is_told_as_true(self) -> None:
        age_s = self.view.age_s(self.now_s)
        viewed = self.view.admit("t0", "normal", None, 1, int(self.now_s * 1e6), self.now_s)
        is_stale = getattr(viewed.answer, "reason", "") == "view_stale"
        assert is_stale == (age_s is None or age_s > LIMIT_S)
        assert viewed.age_ms == (None if age_s is None else int(age_s * 1_000))


Viewing.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_a_view_becomes_what_its_source_is_and_says_how_old_it_is = Viewing.TestCase
