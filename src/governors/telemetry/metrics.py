"""The service's metrics, prefix `governors_`: each step of a signal's life, and the state of what carries it.

Never by tenant, except for tenants that the configuration lists: a label for each of 10,000 tenants would break the
Prometheus that scrapes it. `source` is the way in (`http`, `pubsub`), not the sender's own word. For the event loop's
thread alone.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import choose_encoder

from governors.telemetry.action_metrics import ActionMetrics
from governors.telemetry.connection_metrics import ConnectionMetrics
from governors.telemetry.series import BatchHistogram, Tally

# From a tenth of a millisecond, where decisions lie, to the 30 s after which a request has long failed.
SECONDS_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
# A broker alone takes 10 to 100 ms, so that is where the buckets are narrow: what is added to it must show.
BROKER_SECONDS_BOUNDS: Final = (
    0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.125,
    0.15, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0,
)  # fmt: skip
BATCH_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
LOOP_PROBE_S: Final = 0.25


class Metrics:
    """All of them, in a registry of their own. Gauges are read when scraped: `gauge.set_function(callable)`."""

    def __init__(self, version: str, tenant_labels: Iterable[str] = ()) -> None:
        self.registry = registry = CollectorRegistry()
        self._own_series = frozenset(tenant_labels)
        # RSS, CPU seconds and open files of this process, as governors_process_….
        ProcessCollector(namespace="governors", registry=registry)
        Gauge("governors_build_info", "Always 1; the label has the version.", ["version"], registry=registry).labels(
            version
        ).set(1)

        self._received = Tally(registry, "governors_signals_received", "Signals read.", ("source", "kind"))
        self._rejected = Tally(
            registry, "governors_rejected", "Signals and bodies refused as unreadable.", ("source", "reason")
        )
        self._rate_limited = Tally(
            registry, "governors_rate_limited", "Signals and requests that came too soon, by limit.", ("limit",)
        )
        self._operations_left_out = Tally(
            registry,
            "governors_operations_left_out",
            "Refused requests of operators without a receipt, for their number.",
        )
        self._policy_reloads = Tally(
            registry, "governors_policy_reloads", "Times that the policy files were read again.", ("result",)
        )
        self._unheard = Tally(
            registry, "governors_unheard_messages", "Messages that tell of nothing governed.", ("source", "form")
        )
        self._truncated = Tally(
            registry, "governors_truncated_alerts", "Alerts that Alertmanager left out.", ("source",)
        )
        self._outcomes = Tally(
            registry, "governors_signal_outcomes", "Signals by what became of them.", ("governor", "outcome")
        )
        self._decisions = Tally(registry, "governors_decisions", "Decisions.", ("governor", "decision"))
        self._transitions = Tally(
            registry, "governors_transitions", "Changes of a machine's state.", ("governor", "from", "to")
        )
        self._tenant_decisions = Tally(
            registry, "governors_tenant_decisions", "Decisions of listed tenants.", ("tenant", "governor", "decision")
        )
        self._decision_seconds = BatchHistogram(
            registry,
            "governors_decision_seconds",
            "From received to decided with a locally durable receipt.",
            SECONDS_BOUNDS,
            ("source",),
        )
        self._publish_to_commit_seconds = BatchHistogram(
            registry,
            "governors_publish_to_commit_seconds",
            "From published, by the broker's clock, to committed, by ours. One message, one observation.",
            BROKER_SECONDS_BOUNDS,
            ("source",),
        )
        self._commit_seconds = BatchHistogram(
            registry, "governors_commit_seconds", "One group commit of the ledger.", SECONDS_BOUNDS
        )
        self._commit_receipts = BatchHistogram(
            registry, "governors_commit_receipts", "Receipts in one group commit.", (*BATCH_BOUNDS, 10_000)
        )
        self._store_commit_seconds = BatchHistogram(
            registry,
            "governors_store_commit_seconds",
            "One commit to the object store, from sealed to named by the head.",
            SECONDS_BOUNDS,
        )
        self._checkpoints = Tally(registry, "governors_checkpoints", "Public checkpoints.", ())
        self._admissions = Tally(
            registry, "governors_admissions", "Answers to whether a request may pass.", ("answer", "governor")
        )
        self._pull_batch_size = BatchHistogram(
            registry, "governors_pull_batch_size", "Messages in one pull that was not empty.", BATCH_BOUNDS, ("source",)
        )
        self._acks = Tally(registry, "governors_acks", "Acknowledgements by their outcome.", ("source", "outcome"))
        self._dead_letters = Tally(registry, "governors_dead_letters", "Signals put aside.", ("reason",))
        self._restarts = Tally(registry, "governors_child_restarts", "Restarts of supervised children.", ("child",))
        self._http_requests = Tally(
            registry, "governors_http_requests", "HTTP requests answered.", ("route", "method", "status")
        )
        self._http_seconds = BatchHistogram(
            registry,
            "governors_http_request_seconds",
            "HTTP requests from begin to answer.",
            SECONDS_BOUNDS,
            ("route",),
        )
        self.connections = ConnectionMetrics(registry)
        self.actions = ActionMetrics(registry)
        self._loop_lag = BatchHistogram(
            registry,
            "governors_event_loop_lag_seconds",
            "How much later than asked for the event loop woke a probe.",
            SECONDS_BOUNDS,
        )
        Gauge(
            "governors_asyncio_tasks", "Tasks of the event loop that have not ended.", registry=registry
        ).set_function(_count_tasks)

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            return Gauge(f"governors_{name}", documentation, labels, registry=registry)

        self.ledger_size = gauge("ledger_size", "Receipts in the log.", "partition")
        self.ledger_durable_size = gauge("ledger_durable_size", "Receipts that are durable locally.", "partition")
        self.ledger_pending_bytes = gauge("ledger_pending_bytes", "Bytes that wait to be written.", "partition")
        self.ledger_epoch = gauge("ledger_epoch", "Number of takeovers of this log, this one included.", "partition")
        self.ledger_committed_size = gauge(
            "ledger_committed_size", "Receipts that the store's head names.", "partition"
        )
        self.ledger_published_size = gauge(
            "ledger_published_size", "Receipts that the public checkpoint covers.", "partition"
        )
        self.ledger_payloads_from = gauge(
            "ledger_payloads_from", "Index below which retention has dropped payloads.", "partition"
        )
        self.ledger_receipts_from = gauge(
            "ledger_receipts_from", "Index below which retention has dropped receipts.", "partition"
        )
        self.ledger_uncommitted_seconds = gauge(
            "ledger_uncommitted_seconds", "Age of the oldest receipt that the store's head does not name.", "partition"
        )
        self.ledger_checkpoint_age_seconds = gauge(
            "ledger_checkpoint_age_seconds", "Since when a receipt waits for a public checkpoint.", "partition"
        )
        self.ledger_lost_receipts = gauge(
            "ledger_lost_receipts",
            "Receipts put aside at this start: another writer went on without them.",
            "partition",
        )
        self.ledger_fenced = gauge("ledger_fenced", "1 once another writer has taken the log over.", "partition")
        self.admission_view_age_seconds = gauge(
            "admission_view_age_seconds",
            "Age of what admission is answered from; 0 where this worker has the partition's log.",
            "partition",
        )
        self.rate_limit_keys = gauge("rate_limit_keys", "Tokens and tenants whose rate is remembered.", "limit")
        self.active_tenants = gauge("active_tenants", "Tenants that are in memory.")
        self.known_tenants = gauge("known_tenants", "Tenants that have a record.")
        self.queued_signals = gauge("queued_signals", "Signals that wait to be decided.")

    def received(self, source: str, kinds: Iterable[str]) -> None:
        """A batch was read: one kind for each of its signals."""
        for kind, count in Counter(kinds).items():
            self._received.add(source, kind, count=count)

    def rejected(self, source: str, reason: str, count: int = 1) -> None:
        """Signals, or a body as a whole, could not be read; `reason` is one of the fixed words of the decoders."""
        self._rejected.add(source, reason, count=count)

    def rate_limited(self, limit: str, count: int) -> None:
        """Signals, or a request, came faster than a limit allows; those of a batch count among the rejected too."""
        self._rate_limited.add(limit, count=count)

    def operation_left_out(self) -> None:
        """A refusal came too fast after others to have a receipt of its own."""
        self._operations_left_out.add()

    def unheard(self, source: str, form: str) -> None:
        """A message was understood, and is no signal; `form` is the decoder's name for its format."""
        self._unheard.add(source, form)

    def truncated(self, source: str, alerts: int) -> None:
        """A notification came without this many of its alerts."""
        self._truncated.add(source, count=alerts)

    def decided(self, tenant: str, governor: str, outcome: str, decision: str, previous: str, state: str) -> None:
        """One signal has its outcome; `previous` and `state` are the machine's, empty when none moved."""
        self._outcomes.add(governor, outcome)
        if outcome == "decided":
            self._decisions.add(governor, decision)
            if previous != state:
                self._transitions.add(governor, previous, state)
        if tenant in self._own_series:
            self._tenant_decisions.add(tenant, governor, decision)

    def answered(self, source: str, seconds: float, count: int) -> None:
        """`count` signals that were received together are decided and locally durable, `seconds` later."""
        self._decision_seconds.observe(seconds, source, count=count)

    def committed_since(self, source: str, published_us: Iterable[int], now_us: int) -> None:
        """Messages published at these times are committed now. Clocks that disagree count as no time at all."""
        for at_us in published_us:
            self._publish_to_commit_seconds.observe(max(0.0, (now_us - at_us) / 1e6), source)

    def committed(self, seconds: float, receipts: int) -> None:
        """The ledger wrote and synced a batch."""
        self._commit_seconds.observe(seconds)
        self._commit_receipts.observe(receipts)

    def committed_elsewhere(self, seconds: float, receipts: int) -> None:
        """The store's head names `receipts` more."""
        del receipts  # a gauge has the size
        self._store_commit_seconds.observe(seconds)

    def published(self, size: int) -> None:
        """A public checkpoint covers `size` receipts."""
        del size
        self._checkpoints.add()

    def admission(self, refused_by: str) -> None:
        """A request was admitted, or refused by this governor's rule."""
        self._admissions.add("refused" if refused_by else "admitted", refused_by)

    def pulled(self, source: str, messages: int) -> None:
        """A pull brought messages."""
        self._pull_batch_size.observe(messages, source)

    def acknowledged(self, source: str, outcome: str, count: int) -> None:
        """Deliveries were acknowledged (`ack`), given back (`nack`), or the attempt failed (`failed`)."""
        self._acks.add(source, outcome, count=count)

    def policies_read(self, result: str) -> None:
        """The policy files were read again: `changed`, `same` or `refused`."""
        self._policy_reloads.add(result)

    def dead_lettered(self, reason: str, count: int = 1) -> None:
        self._dead_letters.add(reason, count=count)

    def restarted(self, child: str) -> None:
        """A child was started again. Tenants and other dynamic children count under their supervisor's name."""
        self._restarts.add(child)

    def http_answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """`route` is the route's pattern, never the path that was asked for."""
        self._http_requests.add(route, method, str(status))
        self._http_seconds.observe(seconds, route)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics when `accept` (the request's header) asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def watch_event_loop(self) -> None:
        """Measure how late the event loop runs, for as long as it does: a permanent child."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LOOP_PROBE_S
            await asyncio.sleep(LOOP_PROBE_S)
            self._loop_lag.observe(max(0.0, loop.time() - due_s))


def _count_tasks() -> int:
    """Of the loop that this runs in: a scrape is answered in the service's own. 0 outside of any."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0
