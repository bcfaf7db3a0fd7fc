"""Read `/metrics` as Prometheus would."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Scrape:
    """One exposition."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        families = text_string_to_metric_families(text)
        return cls(tuple((one.name, dict(one.labels), one.value) for family in families for one in family.samples))

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of this name that have these labels; 0.0 where there are none."""
        return sum(value for _, value in self._matching(name, labels))

    def quantile(self, name: str, share: float, **labels: str) -> float:
        """A histogram's quantile as `histogram_quantile` of PromQL has it: linear inside its bucket. NaN when empty."""
        buckets = sorted((float(at["le"]), count) for at, count in self._matching(f"{name}_bucket", labels))
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

    def _matching(self, name: str, labels: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        for sample, at, value in self.samples:
            if sample == name and labels.items() <= at.items():
                yield at, value
