"""The gauges of one partition, for as long as it is here."""

from collections.abc import Callable
from typing import Final

from prometheus_client import Gauge

from governors.custody import Custody
from governors.runtime import Runtime
from governors.telemetry.metrics import Metrics
from ledger.errors import WriterFencedError


class PartitionGauges:
    """They are there from now on, until `remove`: where a partition went, another worker tells of it."""

    def __init__(self, metrics: Metrics, partition: int, runtime: Runtime, custody: Custody | None) -> None:
        self._label: Final = str(partition)
        ledger = runtime.ledger
        self._functions: dict[Gauge, Callable[[], float]] = {
            metrics.ledger_size: lambda: ledger.size,
            metrics.ledger_durable_size: lambda: ledger.local_size,
            metrics.ledger_pending_bytes: lambda: ledger.pending_bytes,
        }
        if custody is not None:
            taken, committer, publisher = custody.taken, custody.committer, custody.publisher
            assert committer is not None  # noqa: S101 - the ledger was entrusted
            assert publisher is not None  # noqa: S101 - as above
            self._functions |= {
                metrics.ledger_epoch: lambda: taken.epoch,
                metrics.ledger_lost_receipts: lambda: taken.lost,
                metrics.ledger_committed_size: lambda: committer.head.size,
                metrics.ledger_uncommitted_seconds: committer.waited_s,
                metrics.ledger_published_size: lambda: publisher.published_size,
                metrics.ledger_checkpoint_age_seconds: publisher.waited_s,
                metrics.ledger_payloads_from: lambda: custody.dropped.segments_from,
                metrics.ledger_receipts_from: lambda: custody.dropped.entries_from,
                metrics.ledger_fenced: lambda: isinstance(ledger.failed, WriterFencedError),
            }
        for gauge, function in self._functions.items():
            gauge.labels(self._label).set_function(function)

    def remove(self) -> None:
        """Tell of it no more."""
        for gauge in self._functions:
            gauge.remove(self._label)
