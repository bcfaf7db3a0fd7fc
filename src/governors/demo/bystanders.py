"""dovecote, with whom all is well, and ember, who has not paid."""

from random import Random
from typing import Final

from governors.demo.noise import Level, poisson
from governors.demo.script import TICK_S, Ask, Cue, Entitle, Happening, Post, Tick, Wire, is_every, time_at
from governors.machines.overlays import OpenAction

METER_S: Final = 30
SAMPLE_S: Final = 10
BURST_AT_S: Final = 45 * 60
BURST_WAITS_S: Final = (7.4, 9.1)
ASK_AT_S: Final = 26 * 60
SUSPENDED_AT_S: Final = 3 * 60
REQUESTS: Final = {"critical": 4, "normal": 16}


class _Untouched:
    """Nothing is ever asked of these two."""

    def takes_s(self, action: OpenAction) -> int:  # noqa: ARG002 - whatever it is
        return 0

    def obey(self, subject: str, action: OpenAction, second: int) -> str:  # noqa: ARG002 - as above
        return action.kind

    def hear(self, subject: str, decision: str, state: str, second: int) -> None:
        pass


class Quiet(_Untouched):
    """Spends little, and its queue is short; one burst of mail is gone before it is a backlog."""

    tenant = "dovecote"
    about = "delivers mail; spends little, and its queue is short"

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._post = Post(self.tenant)
        self._level = Level(rng, wander=0.1)

    def tick(self, second: int) -> Tick:
        cues: list[Cue] = []
        signals: list[Wire] = []
        level = self._level.at(second, TICK_S)
        if second == 0:
            budget = {"budget_amount": "500.00", "currency": "EUR", "interval": "day"}
            signals.append(self._post.signal(second, "finance", "budget.set", "hosting", budget))
        if is_every(second, METER_S, 10):
            data = {"amount": f"{0.055 * level:.6f}", "currency": "EUR", "usage_at": time_at(second - 1)}
            signals.append(self._post.signal(second, "host-meter", "cost.delta", "hosting", data))
        if second == BURST_AT_S:
            cues.append(Happening("a newsletter goes out: mail waits for some seconds, and is gone again"))
        if second == ASK_AT_S:
            cues.append(Ask("requests", REQUESTS))
        if is_every(second, SAMPLE_S) and second:
            signals.append(self._sample(second, level))
        return Tick(cues, signals)

    def _sample(self, second: int, level: float) -> Wire:
        burst = (second - BURST_AT_S) // SAMPLE_S
        in_burst = second >= BURST_AT_S and burst < len(BURST_WAITS_S)
        data = {
            "depth": poisson(self._rng, 40.0 if in_burst else 2.0 * level),
            "oldest_age_s": round(BURST_WAITS_S[burst] if in_burst else self._rng.uniform(0.1, 0.9), 2),
            "in_rate_per_s": round((14.0 if in_burst else 4.0) * level, 3),
            "done_rate_per_s": round((9.0 if in_burst else 4.0) * level, 3),
        }
        return self._post.signal(second, "mail-broker", "queue.sample", "mail", data)


class Suspended(_Untouched):
    """Goes on sending as if nothing had happened."""

    tenant = "ember"
    about = "has not paid for sixty days, and is suspended"

    def __init__(self, rng: Random) -> None:
        self._post = Post(self.tenant)
        self._level = Level(rng, wander=0.1)

    def tick(self, second: int) -> Tick:
        cues: list[Cue] = []
        signals: list[Wire] = []
        level = self._level.at(second, TICK_S)
        if second == SUSPENDED_AT_S:
            cues.append(Entitle("suspended", "accounts receivable suspends ember"))
        if second == SUSPENDED_AT_S + 60:
            cues.append(Ask("requests", REQUESTS))
        if is_every(second, METER_S, 20):
            data = {"amount": f"{0.3 * level:.6f}", "currency": "USD", "usage_at": time_at(second - 1)}
            signals.append(self._post.signal(second, "host-meter", "cost.delta", "hosting", data))
        return Tick(cues, signals)
