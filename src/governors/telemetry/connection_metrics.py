"""What Prometheus is told of connections."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from governors.telemetry.series import Tally


class ConnectionMetrics:
    """Those of the HTTP server's connections and of its certificate. Gauges are read when scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.open = Gauge("governors_http_connections", "Open HTTP connections.", registry=registry)
        self._dropped = Tally(
            registry, "governors_http_connections_dropped", "Connections that this side ended early.", ("reason",)
        )
        self._tls_reloads = Tally(
            registry, "governors_tls_reloads", "Times that the certificate's files had changed.", ("outcome",)
        )

    def dropped(self, reason: str) -> None:
        """This side refused a connection, or ended it before its time."""
        self._dropped.add(reason)

    def watch_certificate(self, expiry_s: Callable[[], float]) -> None:
        """Tell when the certificate expires, in seconds since the epoch. Where there is none, 0 would be an alert."""
        gauge = Gauge(
            "governors_tls_certificate_expiry_timestamp_seconds",
            "When the certificate expires, or one that vouches for it.",
            registry=self._registry,
        )
        gauge.set_function(expiry_s)

    def tls_reloaded(self, *, ok: bool) -> None:
        """The certificate's files had changed, and could be used or not."""
        self._tls_reloads.add("ok" if ok else "failed")
