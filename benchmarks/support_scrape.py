"""Read `/metrics` as Prometheus would."""

from dataclasses import dataclass
from typing import Self

from governors.telemetry.scrape import Series, matching, series_of, total


@dataclass(frozen=True, slots=True)
class Scrape:
    """One exposition."""

    samples: tuple[Series, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(tuple(series_of(text)))

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of this name that have these labels; 0.0 where there are none."""
        return total(self.samples, name, **labels)

    def quantile(self, name: str, share: float, **labels: str) -> float:
        """A histogram's quantile as `histogram_quantile` of PromQL has it: linear inside its bucket. NaN when empty."""
        buckets = sorted(
            (float(one.labels["le"]), one.value) for one in matching(self.samples, f"{name}_bucket", labels)
        )
        if not buckets or not buckets[-1][1]:
            return float("nan")
        rank = share * buckets[-1][1]
        below, below_count = 0.0, 0.0
        for bound, count in buckets:
            if count >= rank:
                if bound == float("inf"):
                    return below
                return below + (bound - below) * (rank - below_count) / (count - below_count)
            below, below_count = bound, count
        raise AssertionError("unreachable: the last bucket has everything")
