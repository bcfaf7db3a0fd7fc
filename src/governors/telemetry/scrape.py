"""Reads a service's metrics as they stand at `/metrics`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Series(NamedTuple):
    """One sample."""

    name: str
    labels: dict[str, str]
    value: float


def series_of(text: str) -> Iterator[Series]:
    """Every sample. Raises ValueError for a text that is no exposition."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Series(sample.name, dict(sample.labels), sample.value)


def value_of(text: str, name: str) -> float | None:
    """Of a metric without labels, the fast way: most of a long text is not looked at."""
    for line in text.splitlines():
        if line.startswith(name) and line[len(name) : len(name) + 1] == " ":
            return float(line.split()[1])
    return None


def matching(series: Iterable[Series], name: str, labels: Mapping[str, str]) -> Iterator[Series]:
    """Those of a name that have these labels."""
    return (one for one in series if one.name == name and labels.items() <= one.labels.items())


def total(series: Iterable[Series], name: str, **labels: str) -> float:
    """The sum over all series of a name that have these labels; 0 where there is none."""
    return sum(one.value for one in matching(series, name, labels))
