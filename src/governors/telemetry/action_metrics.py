"""What Prometheus is told of actions."""

from prometheus_client import CollectorRegistry, Gauge

from governors.telemetry.series import Tally


class ActionMetrics:
    """Those of actions on their way out. Gauges are read when scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Tally(
            registry, "governors_action_attempts", "Attempts at actions.", ("executor", "outcome")
        )  # fmt: skip
        self._outcomes = Tally(registry, "governors_action_outcomes", "Actions that ended.", ("kind", "outcome"))
        self.depth = Gauge("governors_outbox_depth", "Actions that have not ended.", registry=registry)
        self.oldest_seconds = Gauge(
            "governors_outbox_oldest_seconds", "Age of the oldest action that has not ended.", registry=registry
        )
        self.ailing = Gauge(
            "governors_executors_ailing", "Executors that are left alone because attempts fail.", registry=registry
        )

    def attempted(self, executor: str, outcome: str) -> None:
        """An attempt at an action: `done`, `refused`, `failed` or `unanswered`."""
        self._attempts.add(executor, outcome)

    def ended(self, kind: str, outcome: str) -> None:
        """An action is over: `ok`, `failed` or `withdrawn`."""
        self._outcomes.add(kind, outcome)
