"""All three governors of a tenant under everything that stands above them, told anything in any order.

What may never happen is checked by `support.governed` at every decision: two actions on one target, an action of who
observes, one that a person was not asked about, storms, more than the rates allow, escalation while blind.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.governed import ASKS, ASKS_AND_ACTS, OBSERVES, House

from governors.machines.catalog import BY_NAME
from governors.machines.conduct import Conduct
from governors.machines.events import OverrideEnded, OverrideGranted
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.valve_policy import ValvePolicy
from ingest.signals import CostSnapshot, DeploySample, DeployStarted, EpochMicros, Micros, QueueSample, RollbackTarget

SUBJECTS = ("web", "api")
MICROS = 1_000_000
MODES = ("hold", "release", "force", "approve", "approve", "veto")
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {
        "rollback_guard": RollbackPolicy(watch_s=300, hold_s=60, rollback_s=60, verify_s=60, cooldown_s=60),
        "backlog_valve": ValvePolicy(age_slo_s=10.0, sample_period_s=2.0),
    },
)
keys = st.sampled_from([f"{name}/{subject}" for name in BY_NAME for subject in SUBJECTS])
guards = st.sampled_from([f"rollback_guard/{subject}" for subject in SUBJECTS])


class TenantMachine(RuleBasedStateMachine):
    @initialize(policies=st.sampled_from(POLICIES))
    def begin(self, policies: dict[str, Any]) -> None:
        self.house = House(policies, SUBJECTS)
        self.deploys = 0

    @rule(subject=st.sampled_from(SUBJECTS), cost=st.integers(0, 1_300), budget=st.sampled_from([1_000, 1_000, 5_000]))
    def spend(self, subject: str, cost: int, budget: int) -> None:
        start_us = self.house.now_us - 10 * 86_400 * MICROS
        amounts = Micros(cost * MICROS), Micros(budget * MICROS)
        self.house.tell(f"cost_guard/{subject}", CostSnapshot(*amounts, "USD", EpochMicros(start_us)))

    @rule(
        subject=st.sampled_from(SUBJECTS),
        depth=st.sampled_from([0, 5, 3_000, 500_000]),
        age_s=st.sampled_from([0.0, 3.0, 200.0]),
        times=st.integers(1, 8),
    )
    def queue(self, subject: str, depth: int, age_s: float, times: int) -> None:
        for _ in range(times):
            self.house.now_us += 3 * MICROS
            self.house.tell(f"backlog_valve/{subject}", QueueSample(depth, age_s, 50.0, 40.0 if depth < 10**5 else 1.0))

    @rule(key=guards, named=st.booleans())
    def deploy(self, key: str, named: bool) -> None:
        self.deploys += 1
        target = RollbackTarget("Deployment", "shop", "cart") if named else None
        self.house.tell(key, DeployStarted(f"d{self.deploys}", f"r{self.deploys}", "r0", target))

    @rule(key=guards, errors=st.sampled_from([0, 3, 60]), paired=st.booleans(), times=st.integers(1, 4))
    def samples(self, key: str, errors: int, paired: bool, times: int) -> None:
        for _ in range(times):
            self.house.now_us += 15 * MICROS
            deploy = self.house.machines[key].state.core.deploy
            name = "none" if deploy is None else deploy.deploy_id
            if paired:
                self.house.tell(key, DeploySample(name, "baseline", 1_000, 4, 0, 15.0))
            self.house.tell(key, DeploySample(name, "canary", 100, errors, 0, 15.0))

    @rule(key=keys, ok=st.sampled_from([True, True, False]))
    def finish(self, key: str, ok: bool) -> None:
        self.house.finish(key, ok=ok)

    @rule(ok=st.booleans())
    def finish_all(self, ok: bool) -> None:
        self.house.finish_all(ok=ok)

    @rule(seconds=st.sampled_from([1, 10, 61, 181, 901, 3_700]))
    def wait(self, seconds: int) -> None:
        self.house.pass_time(seconds)

    @rule(key=keys, conduct=st.sampled_from([Conduct(), Conduct(), ASKS, ASKS_AND_ACTS, OBSERVES]))
    def arrange(self, key: str, conduct: Conduct) -> None:
        self.house.machines[key].conduct = conduct
        self.house.reconsider()

    @rule(
        key=keys,
        mode=st.sampled_from(["hold", "release", "force", "approve", "approve", "veto"]),
        status=st.integers(0, 9),
    )
    def override(self, key: str, mode: Any, status: int) -> None:
        statuses = list(self.house.machines[key].governor.status)
        forced = str(statuses[status % len(statuses)]) if mode == "force" else ""
        until_us = self.house.now_us + 600 * MICROS
        self.house.tell(key, OverrideGranted(mode=mode, until_us=until_us, by="ana", reason="drill", status=forced))

    @rule(key=keys, times=st.integers(1, 4))
    def flap(self, key: str, times: int) -> None:
        """Somebody, or something, cannot make up their mind."""
        statuses = list(self.house.machines[key].governor.status)
        for _ in range(times):
            for mode, status in (("force", str(statuses[4 % len(statuses)])), ("release", "")):
                until_us = self.house.now_us + 600 * MICROS
                granted = OverrideGranted(mode=mode, until_us=until_us, by="ana", reason="drill", status=status)  # type: ignore[arg-type]
                self.house.tell(key, granted)
                self.house.finish_all()

    @rule(key=keys)
    def override_end(self, key: str) -> None:
        self.house.tell(key, OverrideEnded(by="ana"))

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """Whoever wants something has a time, somebody's word, or another machine that it waits for."""
        if not hasattr(self, "house"):
            return
        for key, one in self.house.machines.items():
            restraint = one.state.restraint
            if restraint.withheld and not one.conduct.observes and not restraint.waits and one.state.in_flight is None:
                assert self.house.due_us(key) is not None, (key, restraint)


TestTenant = TenantMachine.TestCase
TestTenant.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
