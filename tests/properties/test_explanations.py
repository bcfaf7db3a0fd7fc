"""Every rule's sentence is made from the evidence that its verdicts really carry.

No evidence is written here by hand: lives of a tenant's machines, made up from seeds, go on until each rule of each
machine has been given as a reason, and `support.governed` renders the sentence of every verdict on the way.
"""

import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.governed import ASKS, ASKS_AND_ACTS, OBSERVES, House

from governors.fsm.table import Evidence
from governors.machines.backlog_valve import BACKLOG_VALVE
from governors.machines.catalog import BY_NAME, RULES
from governors.machines.conduct import Conduct
from governors.machines.cost_guard import COST_GUARD
from governors.machines.cost_policy import CostPolicy
from governors.machines.events import ActionResult, OverrideEnded, OverrideGranted, Timeout
from governors.machines.explain import explain
from governors.machines.governor import Governor
from governors.machines.overlays import OVERLAY_RULES
from governors.machines.rollback_guard import ROLLBACK_GUARD
from governors.machines.rollback_policy import RollbackPolicy
from governors.machines.valve_policy import ValvePolicy
from ingest.signals import (
    Alert,
    BudgetSet,
    CostDelta,
    CostSnapshot,
    DeployFinished,
    DeploySample,
    DeployStarted,
    EpochMicros,
    Micros,
    QueueSample,
    RollbackTarget,
    WorkDone,
)

S = 1_000_000
DAY_US = 86_400 * S
NOVEMBER_US = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
LIVES_MAX = 400
STEPS = 60
GUARD, COST, VALVE = (f"{name}/default" for name in ("rollback_guard", "cost_guard", "backlog_valve"))
POLICIES: dict[str, tuple[Any, ...]] = {
    "rollback_guard": (
        RollbackPolicy(),
        RollbackPolicy(watch_s=240, hold_s=45, rollback_s=60, verify_s=60, cooldown_s=120, proven_after_s=60),
        RollbackPolicy(unpaired="rollback", rollbacks_per_day_max=1, hold_s=60, watch_s=600),
    ),
    "cost_guard": (
        CostPolicy(),
        CostPolicy(lag_margin_stops=True, bucket_s=60, clear_dwell_s=60, feed_period_s=600, recover_ramp_s=600),
        CostPolicy(pace_min_elapsed_ppm=1, warn_ppm=800_000, warn_clear_ppm=700_000, clear_dwell_s=60),
    ),
    "backlog_valve": (ValvePolicy(), ValvePolicy(profile="rpc"), ValvePolicy(age_slo_s=10.0, sample_period_s=2.0)),
}


class Life:
    """One life: the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.house = House({name: self.chance.choice(found) for name, found in POLICIES.items()})
        self.deploys = 0
        self.month_us = self.house.now_us - self.chance.choice([1, 10, 25]) * DAY_US
        self.cost = 0

    def live(self, governor: str) -> None:
        """A course that chance takes too seldom, and then what comes."""
        self.chance.choice(self.courses()[governor])()
        doings = {"rollback_guard": self.deploy_or_sample, "cost_guard": self.spend, "backlog_valve": self.queue}
        for _ in range(STEPS):
            if self.chance.random() < 0.7:
                doings[governor]()
            else:
                self.happen(f"{governor}/default")

    def courses(self) -> dict[str, list[Callable[[], None]]]:
        return {
            "rollback_guard": [self.suspected_alone, self.burning_alone, self.given_up, self.stormy, lambda: None],
            "cost_guard": [self.not_clear, self.fast, self.with_a_history, lambda: None],
            "backlog_valve": [self.probed_in_vain, self.stuck, lambda: None],
        }

    def suspected_alone(self) -> None:
        for _ in range(60):
            self.house.now_us += 60 * S
            self.house.tell(GUARD, DeploySample("between", "baseline", 1_000, 5, 2, 60.0))
        self.burning_alone(errors=3)

    def burning_alone(self, errors: int = 30) -> None:
        self.deploys += 1
        self.house.tell(GUARD, DeployStarted(f"d{self.deploys}", "r2", "r1"))
        for _ in range(12):
            self.house.now_us += 15 * S
            self.house.tell(GUARD, DeploySample(f"d{self.deploys}", "canary", 200, errors, 0, 15.0))
        self.house.pass_time(1_000)

    def given_up(self) -> None:
        self.deploys += 1
        self.house.tell(GUARD, DeployStarted(f"d{self.deploys}", "r2", "r1"))
        self.house.now_us += 15 * S
        self.house.tell(GUARD, DeploySample(f"d{self.deploys}", "baseline", 1_000, 5, 0, 15.0))
        self.house.tell(GUARD, DeploySample(f"d{self.deploys}", "canary", 100, 60, 0, 15.0))
        self.house.pass_time(self.chance.choice([61, 601]))
        self.house.finish(GUARD, ok=False)

    def stormy(self) -> None:
        self.burning_alone()
        for _ in range(4):
            for mode in ("force", "release"):
                self.override(GUARD, mode, "HOLD")
                self.house.finish_all()
        self.override(GUARD, "approve")

    def not_clear(self) -> None:
        for cost in (950, 870, 870, 1_000, 900):
            start = EpochMicros(self.month_us)
            self.house.tell(COST, CostSnapshot(Micros(cost * S), Micros(1_000 * S), "USD", start))
            self.house.pass_time(60)

    def fast(self) -> None:
        for cost in (100, 500, 870, 880):
            start = EpochMicros(self.month_us)
            self.house.tell(COST, CostSnapshot(Micros(cost * S), Micros(1_000 * S), "USD", start))
            self.house.pass_time(4 * 3_600)

    def with_a_history(self) -> None:
        """Weeks of metered spend, and then twice as much of it."""
        self.house.machines[COST].policy = CostPolicy()
        self.house.now_us = self.month_us = NOVEMBER_US - 20 * DAY_US
        budget = self.chance.choice([12_000, 6_500])
        self.house.tell(COST, BudgetSet(Micros(budget * S), "USD", "month"))
        for days, factor in ((25, 1), (12, 2)):
            until_us = self.house.now_us + days * DAY_US
            while self.house.now_us < until_us:
                self.house.now_us += 900 * S
                amount = factor * (2_500_000 + (self.house.now_us // (900 * S) * 7_919 % 101 - 50) * 5_000)
                self.house.tell(COST, CostDelta(Micros(amount), "USD", EpochMicros(self.house.now_us)))
                while (due_us := self.house.due_us(COST)) is not None and due_us <= self.house.now_us:
                    self.house.tell(COST, Timeout())

    def probed_in_vain(self) -> None:
        """A sender without rates: what is probed turns out to be bad."""
        valve = self.house.machines[VALVE]
        for depth, age_s, until in ((5_000, 900.0, "SHEDDING"), (0, 0.0, "PROBING"), (5_000, 900.0, "SHEDDING")):
            for _ in range(200):
                if valve.state.core.status == until:
                    break
                self.house.now_us += 10 * S
                self.house.tell(VALVE, QueueSample(depth, age_s, 0.0, 0.0))

    def stuck(self) -> None:
        """A dead partition: its messages age, and nothing else waits."""
        for depth, age_s, into, done in [(10, 0.5, 50.0, 50.0)] * 3 + [(10**5, 50.0, 2_000.0, 100.0)] * 4:
            self.house.now_us += 10 * S
            self.house.tell(VALVE, QueueSample(depth, age_s, into, done))
        while (due_us := self.house.machines[VALVE].state.core.control.due_us) > self.house.now_us:
            self.house.now_us = min(due_us, self.house.now_us + 10 * S)
            self.house.tell(VALVE, QueueSample(2_000, 4_000.0, 0.0, 0.0))
        self.house.tell(VALVE, Timeout())

    # What comes from outside

    def deploy_or_sample(self) -> None:
        chance, house = self.chance, self.house
        deploy = house.machines[GUARD].state.core.deploy
        known = "none" if deploy is None else deploy.deploy_id
        match chance.randrange(10):
            case 0 | 1:
                self.deploys += chance.random() < 0.9
                revision = chance.choice([f"r{self.deploys}", "r1", "r0"])
                target = chance.choice([None, RollbackTarget("Deployment", "shop", "cart")])
                started = DeployStarted(f"d{self.deploys}", revision, chance.choice(["r0", "r1"]), target)
                house.tell(GUARD, started, behind_us=chance.choice([0, 0, 0, 600]) * S)
            case 2:
                result: Any = chance.choice(["succeeded", "failed", "cancelled"])
                house.tell(GUARD, DeployFinished(chance.choice([known, known, "d-other"]), result))
            case 3:
                status: Any = chance.choice(["firing", "resolved"])
                severity = chance.choice(["critical", "critical", "info"])
                house.tell(GUARD, Alert(chance.choice(["f1", "f2"]), status, severity, "HighErrorRate"))
                if chance.random() < 0.5:
                    late_us = chance.choice([0, 600]) * S
                    house.tell(GUARD, Alert("f1", "resolved", severity, "HighErrorRate"), behind_us=late_us)
            case 4:
                for _ in range(chance.choice([1, 30])):
                    house.now_us += 60 * S
                    house.tell(GUARD, DeploySample("between", "baseline", 1_000, chance.choice([0, 5, 30]), 3, 60.0))
            case _:
                self.intervals(chance.choice([known, known, known, "d-other"]))

    def intervals(self, deploy: str) -> None:
        chance, house = self.chance, self.house
        errors, slow = chance.choice([0, 1, 2, 3, 4, 10, 60]), chance.choice([0, 0, 0, 30])
        baseline = chance.choice([None, 5, 5, 5, 600])
        for _ in range(chance.choice([1, 4, 12, 45])):
            house.now_us += 15 * S
            if baseline is not None:
                ahead_us = chance.choice([0, 0, 5]) * S
                house.tell(GUARD, DeploySample(deploy, "baseline", 1_000, baseline, 4, 15.0), behind_us=ahead_us)
            if chance.random() < 0.95:
                house.tell(GUARD, DeploySample(deploy, "canary", 100, errors, slow, 15.0))

    def spend(self) -> None:
        chance, house = self.chance, self.house
        currency = chance.choices(["USD", "EUR"], [97, 3])[0]
        self.cost += chance.choice([-300, -50, 0, 1, 5, 20, 100, 100])
        match chance.randrange(10):
            case 9:
                end_us = house.machines[COST].state.core.end_us
                if end_us > house.now_us:
                    house.now_us = max(house.now_us, end_us - 1_000 * S)
                    house.tell(COST, CostDelta(Micros(S), currency, EpochMicros(end_us)))
            case 0:
                budget = chance.choice([1_000, 1_000, 2_000, 400, 0, -5])
                start = chance.choice([None, EpochMicros(self.month_us)])
                interval: Any = chance.choice(["day", "week", "month"])
                house.tell(COST, BudgetSet(Micros(budget * S), currency, interval, start))
            case 1 | 2:
                ago_us = chance.choice([0, 0, 3_600, 40 * 86_400, -7_200]) * S
                amount = chance.choice([1, 5, 30, -10])
                house.tell(COST, CostDelta(Micros(amount * S), currency, EpochMicros(house.now_us - ago_us)))
            case 3:
                self.month_us = house.now_us
                self.cost = 0
            case _:
                start_us = self.month_us - chance.choice([0, 0, 0, 0, 31]) * DAY_US + chance.choice([0] * 9 + [S]) * 3
                end = chance.choice([None, None, EpochMicros(self.month_us + 30 * DAY_US), EpochMicros(start_us)])
                forecast = chance.choice([None, None, Micros(1_500 * S)])
                budget = chance.choice([1_000, 1_000, 1_000, 1_200, 3_000, 0])
                body = CostSnapshot(
                    Micros(self.cost * S), Micros(budget * S), currency, EpochMicros(start_us), forecast, end
                )
                house.tell(COST, body, behind_us=chance.choice([0, 0, 0, 7_200 * S]))
        house.pass_time(chance.choice([1, 60, 900, 4_000, 30_000]))

    def queue(self) -> None:
        chance, house = self.chance, self.house
        depth, age_s = chance.choice([(0, 0.0), (3, 0.5), (3_000, 90.0), (500_000, 900.0), (40, 400.0)])
        rates = chance.choice([(50.0, 60.0), (80.0, 40.0), (900.0, 1.0), (0.0, 0.0), (1.0, 50.0)])
        if chance.random() < 0.15:
            count = chance.choice([0, 100])
            for _ in range(chance.choice([1, 10])):
                house.now_us += 5 * S
                wait_ms = chance.choice([1.0, 40.0, 9_000.0])
                house.tell(VALVE, WorkDone(count, 0, wait_ms, wait_ms * 2, 5.0))
            return
        if chance.random() < 0.05:
            # A partition dies while what stands in it is drained.
            for dying in [(80.0, 40.0)] * 12 + [(0.0, 0.0)] * 48:
                house.pass_time(10)
                house.tell(VALVE, QueueSample(3_000, 90.0, *dying))
            return
        for _ in range(chance.choice([1, 5, 20, 60])):
            house.now_us += chance.choice([1, 5, 10]) * S
            shrunk = max(0, depth + chance.randrange(-2, 3))
            house.tell(VALVE, QueueSample(shrunk, age_s, *rates), behind_us=chance.choice([0, 0, 0, 60 * S]))
            if chance.random() < 0.3:
                house.finish(VALVE)

    # What the runtime and people say

    def happen(self, key: str) -> None:
        chance, house = self.chance, self.house
        match chance.randrange(10):
            case 0:
                house.finish_all(ok=chance.random() < 0.7)
            case 1:
                house.finish(key, ok=chance.random() < 0.8)
            case 2:
                house.attempt(key, chance.choice(["failed", "unanswered"]))
                ended = chance.choice(["given_up", "abandoned", "withdrawn"])
                house.finish(key, ok=False, ended=ended, maybe=chance.random() < 0.5)
            case 3:
                house.pass_time(chance.choice([1, 61, 400, 2_000, 90_000]))
            case 4:
                house.machines[key].conduct = chance.choice([Conduct(), Conduct(), ASKS, ASKS_AND_ACTS, OBSERVES])
                house.reconsider()
            case 5:
                house.tell(key, OverrideEnded(by="ana"))
            case 6:
                house.tell(key, chance.choice([Timeout(), ActionResult("not-ours", "close", ok=True)]))
            case 7:
                for _ in range(chance.choice([1, 4])):
                    self.override(key, chance.choice(["force", "release"]))
                    house.finish_all()
            case _:
                self.override(key)

    def override(self, key: str, mode: Any = None, status: str = "") -> None:
        chance, house = self.chance, self.house
        modes = ["hold", "release", "force", "approve", "approve", "veto", "extra_budget"]
        mode = mode or chance.choice(modes)
        statuses = list(house.machines[key].governor.status)
        body = OverrideGranted(
            mode=mode,
            until_us=house.now_us + chance.choice([60, 3_600]) * S,
            by="ana@example.com",
            reason="drill",
            status=(status or str(chance.choice(statuses))) if mode == "force" else "",
            extra_micros=chance.choice([0, 500 * S]) if mode == "extra_budget" else 0,
        )
        house.tell(key, body)


def lived(governor: str) -> Iterator[dict[str, Evidence]]:
    for seed in range(LIVES_MAX):
        life = Life(seed)
        life.live(governor)
        yield life.house.seen


@pytest.mark.parametrize("governor", [COST_GUARD, ROLLBACK_GUARD, BACKLOG_VALVE], ids=lambda one: one.name)
def test_every_rule_is_explained_from_the_evidence_that_it_comes_with(governor: Governor) -> None:
    wanted = {*governor.rules, *OVERLAY_RULES} if governor is ROLLBACK_GUARD else set(governor.rules)
    seen: dict[str, Evidence] = {}
    for found in lived(governor.name):
        seen = found | seen
        if wanted <= seen.keys():
            break
    assert not wanted - seen.keys(), "no life came to these rules"
    for rule, evidence in seen.items():
        assert explain(RULES, rule, evidence) != rule
        named = {name for _, name, _, _ in string.Formatter().parse(RULES[rule]) if name}
        assert named <= evidence.keys()


def test_every_governor_is_in_it() -> None:
    assert set(POLICIES) == set(BY_NAME)
