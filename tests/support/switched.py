"""A switchboard over runtimes of the test's own, for as much as an API needs of it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from governors.api.proofs import Proofs
from governors.api.service import ClusterView, Health
from governors.cluster.admission_view import Source
from governors.cluster.moves import Moves
from governors.cluster.view import alone
from governors.runtime import Runtime
from governors.service import GovernorService, Watchers
from governors.supervision.report import State, TreeNode
from governors.switchboard import Elsewhere, Switchboard
from governors.telemetry.metrics import Metrics


class Probes:
    """A worker that is well and alone."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions

    def tree(self) -> TreeNode:
        return TreeNode("test", "supervisor", State.RUNNING)

    def health(self) -> Health:
        return Health("test", [])

    def missing(self) -> list[str]:
        return []

    def cluster(self) -> ClusterView:
        return alone(self._partitions, "w", "http://w", dict.fromkeys(range(self._partitions), 1))

    def drain(self, *, leaving: bool) -> NoReturn:
        raise AssertionError(f"nobody drains it (leaving: {leaving})")


@dataclass
class There:
    """A partition without proofs."""

    service: GovernorService

    @property
    def admission(self) -> Source:
        raise AssertionError("nobody follows its admission")

    @property
    def proofs(self) -> Proofs:
        raise AssertionError("nobody asks for proofs")


def switchboard_of(
    *runtimes: Runtime,
    metrics: Metrics,
    partitions: int = 1,
    elsewhere: Elsewhere | None = None,
    missing: Callable[[], list[str]] = list,
) -> Switchboard:
    """Of these, each by its own number."""
    here = {one.partition: There(GovernorService(one, metrics, missing=missing)) for one in runtimes}
    return Switchboard(
        partitions,
        Probes(partitions),
        Watchers(),
        metrics,
        random.Random(1),
        here=here,
        moves=Moves(),
        elsewhere=elsewhere,
    )
