"""courier: two services are deployed in the same hour. One revision is as good as the last, the other one fails."""

from dataclasses import dataclass, field
from random import Random
from typing import Final

from governors.demo.noise import Level, Trickle, poisson
from governors.demo.script import TICK_S, Cue, Happening, Post, Tick, Wire, is_every
from governors.machines.overlays import OpenAction

SAMPLE_S: Final = 15
ROLLBACK_TAKES_S: Final = 40
RETRY_AFTER_ROLLBACK_S: Final = 14 * 60
WATCHED_AFTER_ROLLBACK_S: Final = 6 * 60


class Arm:
    """The pods of one revision, and what they have counted since they last told."""

    def __init__(self, per_s: float, rng: Random) -> None:
        self.per_s = per_s
        self.requests = self.errors = self.slow = 0
        self._rng = rng
        self._errors = Trickle(rng)

    def serve(self, level: float, error_share: float, slow_share: float) -> None:
        """One tick of traffic."""
        requests = poisson(self._rng, self.per_s * level * TICK_S)
        self.requests += requests
        self.errors += min(requests, self._errors.take(requests * error_share))
        self.slow += min(requests, poisson(self._rng, requests * slow_share))

    def tell(self) -> dict[str, int]:
        """The counts, which begin anew."""
        counts = {"requests": self.requests, "errors": self.errors, "slow": self.slow}
        self.requests = self.errors = self.slow = 0
        return counts


@dataclass(slots=True, kw_only=True)
class Rollout:
    """One service with a new revision on some of its pods. Rates are requests a second, shares of requests.

    `leak_s` is how long a bad revision takes to become `worse` times as bad as the one before it.
    """

    service: str
    begins_s: int
    revision: str
    previous: str
    canary_per_s: float
    baseline_per_s: float
    error_share: float
    slow_share: float
    worse: float
    leak_s: int = 1
    rng: Random
    ended: bool = False
    rolled_back_s: int | None = None
    traffic: Level = field(init=False)
    arms: dict[str, Arm] = field(init=False)

    def __post_init__(self) -> None:
        self.traffic = Level(self.rng)
        self.arms = {"canary": Arm(self.canary_per_s, self.rng), "baseline": Arm(self.baseline_per_s, self.rng)}

    @property
    def deploy_id(self) -> str:
        return f"{self.service}-{self.revision}"


class Deploys:
    """A continuous deployment that asks the guard, and does as it says."""

    tenant = "courier"
    about = "deploys `search` and `checkout` this morning, each on a tenth of its pods first"

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._post = Post(self.tenant)
        self._promoted: list[Rollout] = []
        self._rollouts = {
            "search": Rollout(
                service="search", begins_s=4 * 60, revision="r118", previous="r117", canary_per_s=40.0,
                baseline_per_s=160.0, error_share=0.006, slow_share=0.02, worse=1.0, rng=rng,
            ),
            "checkout": Rollout(
                service="checkout", begins_s=16 * 60, revision="r42", previous="r41", canary_per_s=4.0,
                baseline_per_s=36.0, error_share=0.005, slow_share=0.02, worse=6.0, leak_s=480, rng=rng,
            ),
        }  # fmt: skip

    def tick(self, second: int) -> Tick:
        cues: list[Cue] = []
        signals: list[Wire] = []
        for rollout in self._rollouts.values():
            if second == rollout.begins_s:
                cues.append(Happening(f"{rollout.service} {rollout.revision} goes out to the first pods"))
                signals.append(self._started(rollout, second, rollout.deploy_id))
            if second < rollout.begins_s or rollout.ended:
                continue
            self._serve(rollout, second)
            if is_every(second - rollout.begins_s, SAMPLE_S) and second > rollout.begins_s:
                signals += [self._sample(rollout, arm, second) for arm in ("canary", "baseline")]
            back_s = rollout.rolled_back_s
            rollout.ended = back_s is not None and second >= back_s + WATCHED_AFTER_ROLLBACK_S
        cues += self._retry(second, signals)
        for rollout in self._promoted:
            cues.append(Happening(f"{rollout.service} {rollout.revision} goes out to all pods"))
            signals.append(self._finished(rollout, second))
        self._promoted.clear()
        return Tick(cues, signals)

    def takes_s(self, action: OpenAction) -> int:
        return ROLLBACK_TAKES_S if action.kind == "rollback" else 0

    def obey(self, subject: str, action: OpenAction, second: int) -> str:
        rollout = self._rollouts[subject]
        match action.kind:
            case "hold_rollout":
                return f"the rollout of {rollout.revision} goes no further for now"
            case "resume_rollout":
                return f"the rollout of {rollout.revision} goes on"
            case "rollback":
                rollout.rolled_back_s = second
                return f"deployment shop/{subject} is back at {action.params['to']}, {ROLLBACK_TAKES_S} s later"
            case "page":
                return "somebody is called"
            case other:
                return other

    def hear(self, subject: str, decision: str, state: str, second: int) -> None:  # noqa: ARG002 - one is waited for
        rollout = self._rollouts[subject]
        if state == "PROMOTED" and not rollout.ended:
            rollout.ended = True
            self._promoted.append(rollout)

    def _retry(self, second: int, signals: list[Wire]) -> list[Cue]:
        """Somebody tries the same bytes again, as somebody always does."""
        rollout = self._rollouts["checkout"]
        if rollout.rolled_back_s is None or second != rollout.rolled_back_s + RETRY_AFTER_ROLLBACK_S:
            return []
        signals.append(self._started(rollout, second, f"{rollout.deploy_id}-again"))
        return [Happening(f"somebody deploys {rollout.service} {rollout.revision} once more, unchanged")]

    def _started(self, rollout: Rollout, second: int, deploy_id: str) -> Wire:
        data = {
            "deploy_id": deploy_id,
            "revision": rollout.revision,
            "previous_revision": rollout.previous,
            "target": {"kind": "Deployment", "namespace": "shop", "name": rollout.service},
        }
        return self._post.signal(second, "ci", "deploy.started", rollout.service, data)

    def _finished(self, rollout: Rollout, second: int) -> Wire:
        data = {"deploy_id": rollout.deploy_id, "result": "succeeded"}
        return self._post.signal(second, "ci", "deploy.finished", rollout.service, data)

    def _serve(self, rollout: Rollout, second: int) -> None:
        level = rollout.traffic.at(second, TICK_S)
        for name, arm in rollout.arms.items():
            worse = self._how_much_worse(rollout, second) if name == "canary" else 1.0
            arm.serve(level, rollout.error_share * worse, rollout.slow_share)

    def _how_much_worse(self, rollout: Rollout, second: int) -> float:
        if rollout.rolled_back_s is not None:
            return 1.0
        return 1.0 + (rollout.worse - 1.0) * min(1.0, (second - rollout.begins_s) / rollout.leak_s)

    def _sample(self, rollout: Rollout, arm: str, second: int) -> Wire:
        counts = rollout.arms[arm].tell()
        data = {"deploy_id": rollout.deploy_id, "arm": arm, **counts, "window_s": SAMPLE_S}
        return self._post.signal(second, "mesh", "deploy.sample", rollout.service, data)
