"""bazaar: a sale that brings orders faster than they can be worked off, and a payment provider that then slows down."""

from collections import deque
from random import Random
from typing import Final

from governors.demo.noise import Level, poisson
from governors.demo.script import TICK_S, Ask, Cue, Happening, Post, Tick, Wire, is_every
from governors.machines.overlays import OpenAction

BASE_PER_S: Final = 32.0
SALE_PER_S: Final = 76.0
CAPACITY_PER_S: Final = 60.0
SLOW_CAPACITY_PER_S: Final = 2.0
CRITICAL_SHARE: Final = 0.1
ERROR_SHARE: Final = 0.002

SALE_AT_S: Final = 22 * 60
SALE_FADES_AT_S: Final = 30 * 60
SALE_HALF_LIFE_S: Final = 5 * 60.0
SLOW_AT_S: Final = 33 * 60
SLOW_UNTIL_S: Final = 36 * 60
SAMPLE_S: Final = 10
WORK_S: Final = 15
ASK_BEFORE_S: Final = 20 * 60
ASK_AMID_S: Final = 28 * 60
ASK_AFTER_S: Final = 25
ASK_WINDOW_S: Final = 2
ASK_AMID_WINDOW_S: Final = 6  # more than fit into a valve that has stood unasked
ORDERS: Final = {"critical": 4, "normal": 16}


class Sale:
    """One queue of orders behind a gateway that obeys the valve; paid orders are the critical ones."""

    tenant = "bazaar"
    about = "sells things; orders wait in a queue and are done within a minute, or customers leave"

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._post = Post(self.tenant)
        self._arriving = Level(rng, wander=0.05, bursts_per_h=8.0)
        self._working = Level(rng, drift_per_h=0.0, wander=0.03)
        self._waiting: deque[list[int]] = deque()  # [second of arrival, how many]
        self._limit_per_s: float | None = None
        self._share = 1.0
        self._closed = False
        self._arrived = 0
        self._done = 0
        self._done_for_work = 0
        self._sojourn_s = 0
        self._sojourn_max_s = 0
        self._ask_at: dict[int, str] = {ASK_BEFORE_S: "orders", ASK_AMID_S: "orders"}

    @property
    def depth(self) -> int:
        """Orders that wait."""
        return sum(count for _, count in self._waiting)

    def tick(self, second: int) -> Tick:
        demand_per_s = self._demand_per_s(second)
        self._flow(second, demand_per_s)
        cues: list[Cue] = self._told(second)
        if second in self._ask_at:
            window_s = ASK_AMID_WINDOW_S if second == ASK_AMID_S else ASK_WINDOW_S
            share = max(1, round(demand_per_s * window_s / sum(ORDERS.values())))
            cues.append(Ask(self._ask_at.pop(second), ORDERS, share))
        signals: list[Wire] = []
        if is_every(second, SAMPLE_S) and second:
            signals.append(self._sample(second))
        if is_every(second, WORK_S) and self._done_for_work:
            signals.append(self._work(second))
        return Tick(cues, signals)

    def takes_s(self, action: OpenAction) -> int:  # noqa: ARG002 - whatever it is
        return 0

    def obey(self, subject: str, action: OpenAction, second: int) -> str:  # noqa: ARG002 - one queue
        was_open = self._limit_per_s is None and not self._closed and self._share == 1.0
        self._closed, self._limit_per_s, self._share = False, None, 1.0
        match action.kind:
            case "shed":
                self._limit_per_s = int(action.params["rate_milli_per_s"]) / 1_000
                done = f"the gateway lets {self._limit_per_s:.3g} orders a second in"
            case "close":
                self._closed = True
                done = "the gateway lets only paid orders in"
            case "probe":
                self._share = int(action.params["fraction_ppm"]) / 1e6
                return f"the gateway lets {self._share * 100:g} % of the orders in"
            case "reopen":
                done = "the gateway lets every order in"
            case other:
                return other
        if was_open or action.kind != "shed":
            self._ask_at[second + ASK_AFTER_S] = "orders"
        return done

    def hear(self, subject: str, decision: str, state: str, second: int) -> None:
        pass

    def _told(self, second: int) -> list[Cue]:
        if second == SALE_AT_S:
            return [Happening("the sale opens its doors: three times the orders of a usual morning")]
        if second == SLOW_AT_S:
            return [Happening("the payment provider slows down: orders take thirty times as long")]
        if second == SLOW_UNTIL_S:
            return [Happening(f"the payment provider is well again; {self.depth:,} orders wait")]
        return []

    def _demand_per_s(self, second: int) -> float:
        demand = BASE_PER_S * self._arriving.at(second, TICK_S)
        if second >= SALE_AT_S:
            faded_s = max(0, second - SALE_FADES_AT_S)
            opening = min(1.0, (second - SALE_AT_S) / 60.0)
            demand += SALE_PER_S * opening * 0.5 ** (faded_s / SALE_HALF_LIFE_S)
        return demand

    def _flow(self, second: int, demand_per_s: float) -> None:
        rng = self._rng
        critical = poisson(rng, demand_per_s * TICK_S * CRITICAL_SHARE)
        others = poisson(rng, demand_per_s * TICK_S * (1.0 - CRITICAL_SHARE))
        if self._closed:
            others = 0
        elif self._limit_per_s is not None:
            others = max(0, min(others, int(self._limit_per_s * TICK_S) - critical))
        elif self._share < 1.0:
            others = max(0, int((critical + others) * self._share) - critical)
        capacity_per_s = SLOW_CAPACITY_PER_S if SLOW_AT_S <= second < SLOW_UNTIL_S else CAPACITY_PER_S
        room = poisson(rng, capacity_per_s * self._working.at(second, TICK_S) * TICK_S)
        self._arrived += critical + others
        self._waiting.append([second, critical + others])
        self._serve(second, room)

    def _serve(self, second: int, room: int) -> None:
        while room and self._waiting:
            arrived_s, count = self._waiting[0]
            taken = min(count, room)
            room -= taken
            self._done += taken
            self._done_for_work += taken
            if taken:
                self._sojourn_s = second - arrived_s
                self._sojourn_max_s = max(self._sojourn_max_s, second - arrived_s)
            if taken == count:
                self._waiting.popleft()
            else:
                self._waiting[0][1] = count - taken

    def _sample(self, second: int) -> Wire:
        depth = self.depth + poisson(self._rng, 5.0)
        oldest_s = second - self._waiting[0][0] if self._waiting else 0.0
        data = {
            "depth": depth,
            "oldest_age_s": round(oldest_s + self._rng.uniform(0.05, 0.4), 2),
            "in_rate_per_s": self._arrived / SAMPLE_S,
            "done_rate_per_s": self._done / SAMPLE_S,
        }
        self._arrived = self._done = 0
        return self._post.signal(second, "order-broker", "queue.sample", "orders", data)

    def _work(self, second: int) -> Wire:
        least_ms = self._sojourn_s * 1_000 + self._rng.uniform(80.0, 140.0)
        count = self._done_for_work
        data = {
            "count": count,
            "errors": min(count, poisson(self._rng, count * ERROR_SHARE)),
            "sojourn_min_ms": round(least_ms, 1),
            "sojourn_p99_ms": round(self._sojourn_max_s * 1_000 + self._rng.uniform(300.0, 900.0), 1),
            "window_s": WORK_S,
        }
        self._done_for_work = self._sojourn_max_s = 0
        return self._post.signal(second, "order-workers", "work.done", "orders", data)
