"""aurora-ml: a training sweep that takes sixty-four times the machines it should, on a daily budget."""

from random import Random
from typing import Final

from governors.demo.noise import Level
from governors.demo.script import TICK_S, Ask, Cue, Happening, Post, Tick, Wire, is_every, time_at
from governors.machines.overlays import OpenAction

BUDGET: Final = "2400.00"
RAISED_BUDGET: Final = "3600.00"
SPENT_BEFORE: Final = "584.20"
FEED_BEFORE: Final = "571.40"
SERVING_PER_MIN: Final = 0.35
NODE_PER_MIN: Final = 0.55
NODES_PLANNED: Final = 2
NODES_MAX: Final = 128
NODES_ADDED: Final = 6

SWEEP_AT_S: Final = 6 * 60
KILLED_AFTER_STOP_S: Final = 4 * 60
RAISED_AFTER_STOP_S: Final = 6 * 60
METER_S: Final = 15
FEED_S: Final = 30 * 60
ASK_AFTER_S: Final = 30
JOBS_TEXT: Final = "training jobs"
JOBS: Final = {"critical": 2, "normal": 18}


class Training:
    """Serving is critical and small; training jobs take what they get."""

    tenant = "aurora-ml"
    about = "trains models on rented GPUs, 2,400 USD a day"

    def __init__(self, rng: Random) -> None:
        self._post = Post(self.tenant)
        self._level = Level(rng, wander=0.05)
        self._nodes = NODES_PLANNED
        self._share = 1.0
        self._stopped_s: int | None = None
        self._unmetered = 0.0
        self._ask_at: dict[int, str] = {}

    def tick(self, second: int) -> Tick:
        cues, signals = self._people(second)
        if second > SWEEP_AT_S and self._nodes > NODES_PLANNED and is_every(second, METER_S):
            self._nodes = min(self._nodes + NODES_ADDED, NODES_MAX)
        nodes_per_min = self._nodes * NODE_PER_MIN * self._share
        per_min = (SERVING_PER_MIN + nodes_per_min) * self._level.at(second, TICK_S)
        self._unmetered += per_min * TICK_S / 60.0
        if is_every(second, METER_S) and second:
            signals.append(self._meter(second, f"{self._unmetered:.2f}"))
            self._unmetered = 0.0
        return Tick(cues, signals)

    def takes_s(self, action: OpenAction) -> int:  # noqa: ARG002 - whatever it is
        return 0

    def obey(self, subject: str, action: OpenAction, second: int) -> str:  # noqa: ARG002 - one budget
        match action.kind:
            case "throttle":
                fraction_ppm = int(action.params["fraction_ppm"])
                self._share = fraction_ppm / 1e6
                if self._stopped_s is None:
                    self._ask_at[second + ASK_AFTER_S] = JOBS_TEXT
                return f"the scheduler starts {fraction_ppm / 10_000:g} % of the training jobs"
            case "stop":
                self._share = 0.0
                self._stopped_s = second
                self._ask_at[second + ASK_AFTER_S] = JOBS_TEXT
                return "the scheduler starts no more training jobs; serving, which is critical, goes on"
            case "restore":
                self._share = 1.0
                return "the scheduler starts every job again"
            case "notify":
                return f"the team is told ({action.params.get('level', 'notice')})"
            case other:
                return other

    def hear(self, subject: str, decision: str, state: str, second: int) -> None:
        pass

    def _people(self, second: int) -> tuple[list[Cue], list[Wire]]:
        cues: list[Cue] = []
        signals: list[Wire] = []
        if is_every(second, FEED_S):
            # The provider's own feed is hours behind the meter, as billing feeds are.
            signals.append(self._feed(second))
        if second == 0:
            signals.append(self._meter(second, SPENT_BEFORE))
        if second == SWEEP_AT_S:
            self._nodes += NODES_ADDED
            cues.append(Happening(f"somebody starts a sweep on {NODES_MAX} GPU nodes instead of {NODES_PLANNED}"))
        if second in self._ask_at:
            cues.append(Ask(self._ask_at.pop(second), JOBS))
        if self._stopped_s is None:
            return cues, signals
        if second == self._stopped_s + KILLED_AFTER_STOP_S:
            self._nodes = NODES_PLANNED
            cues.append(Happening("the on-call engineer finds the sweep and kills it"))
        if second == self._stopped_s + RAISED_AFTER_STOP_S:
            cues.append(Happening(f"finance raises the budget of the day to {RAISED_BUDGET} USD"))
            budget = {"budget_amount": RAISED_BUDGET, "currency": "USD", "interval": "day"}
            signals.append(self._post.signal(second, "finance", "budget.set", "daily-gpu", budget))
        return cues, signals

    def _meter(self, second: int, amount: str) -> Wire:
        # What comes in at the full minute was used just before it.
        data = {"amount": amount, "currency": "USD", "usage_at": time_at(second - 1)}
        return self._post.signal(second, "gpu-meter", "cost.delta", "daily-gpu", data)

    def _feed(self, second: int) -> Wire:
        data = {
            "cost_amount": FEED_BEFORE,
            "budget_amount": BUDGET,
            "currency": "USD",
            "interval_start": "2026-11-27T00:00:00Z",
            "interval_end": "2026-11-28T00:00:00Z",
        }
        return self._post.signal(second, "cloud-billing", "cost.snapshot", "daily-gpu", data)
