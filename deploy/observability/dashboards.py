"""Makes the dashboards of Grafana and of Cloud Monitoring from one table: `make docs`.

A panel is a question that somebody on call asks, the queries that answer it, and a line where it stops being fine. Both
kinds of dashboard take PromQL, so nothing is said twice.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
WIDTH: Final = 24
HEIGHT: Final = 8
PER_ROW: Final = 3
# Grafana's variable; Cloud Monitoring has a filter of its own above its charts.
NAMESPACE: Final = 'namespace=~"$namespace"'
SERIES: Final = re.compile(r"\b(governors[_:][a-z0-9_:]+)(\{)?")


@dataclass(frozen=True)
class Panel:
    """`queries`: legend -> PromQL. `limit`: what it should stay under, in the panel's unit."""

    title: str
    unit: str
    queries: dict[str, str]
    limit: float | None = None


def quantile(share: float, metric: str, by: str = "") -> str:
    """Of a histogram, over five minutes."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket[5m])))"


def rate(metric: str, by: str) -> str:
    """Of a counter, per second, by a label."""
    return f"sum by ({by}) (rate({metric}[5m]))"


def most(metric: str) -> str:
    """Of a partition, whichever pod has it: while it moves, two may have been asked."""
    return f"max by (namespace, partition) ({metric})"


ROWS: Final[dict[str, list[Panel]]] = {
    "Objectives": [
        Panel(
            "Requests that fail",
            "percentunit",
            {"5 m": "governors:requests_bad:ratio_rate5m", "1 h": "governors:requests_bad:ratio_rate1h"},
            0.001,
        ),
        Panel(
            "Signals decided later than 100 ms",
            "percentunit",
            {"5 m": "governors:decisions_bad:ratio_rate5m", "1 h": "governors:decisions_bad:ratio_rate1h"},
            0.01,
        ),
        Panel(
            "From received to decided",
            "s",
            {
                "p50 {{source}}": quantile(0.5, "governors_decision_seconds", "source"),
                "p99 {{source}}": quantile(0.99, "governors_decision_seconds", "source"),
            },
            0.1,
        ),
        Panel("Memory", "bytes", {"{{pod}}": "governors_process_resident_memory_bytes"}, 600e6),
        Panel(
            "Processor, of the one core that decides",
            "percentunit",
            {"{{pod}}": "rate(governors_process_cpu_seconds_total[5m])"},
            0.7,
        ),
        Panel("Event loop late, p99", "s", {"{{pod}}": quantile(0.99, "governors_event_loop_lag_seconds", "pod")}, 0.1),
    ],
    "Signals and decisions": [
        Panel("Signals", "ops", {"{{source}} {{kind}}": rate("governors_signals_received_total", "source, kind")}),
        Panel(
            "What became of them",
            "ops",
            {"{{governor}} {{outcome}}": rate("governors_signal_outcomes_total", "governor, outcome")},
        ),
        Panel(
            "Decisions to act",
            "ops",
            {"{{governor}} {{decision}}": rate('governors_decisions_total{decision!="none"}', "governor, decision")},
        ),
        Panel(
            "Changes of state",
            "ops",
            {"{{governor}} {{from}} to {{to}}": rate("governors_transitions_total", "governor, from, to")},
        ),
        Panel(
            "Rejected and put aside",
            "ops",
            {
                "rejected: {{reason}}": rate("governors_rejected_total", "reason"),
                "dead letter: {{reason}}": rate("governors_dead_letters_total", "reason"),
                "too fast: {{limit}}": rate("governors_rate_limited_total", "limit"),
            },
        ),
        Panel(
            "Waiting, and tenants in memory",
            "short",
            {"signals {{pod}}": "governors_queued_signals", "tenants {{pod}}": "governors_active_tenants"},
        ),
    ],
    "Ledger": [
        Panel(
            "Receipts",
            "short",
            {
                "all {{partition}}": most("governors_ledger_size"),
                "committed {{partition}}": most("governors_ledger_committed_size"),
            },
        ),
        Panel(
            "How long receipts wait",
            "s",
            {
                "for the store {{partition}}": most("governors_ledger_uncommitted_seconds"),
                "for a checkpoint {{partition}}": most("governors_ledger_checkpoint_age_seconds"),
            },
            60.0,
        ),
        Panel(
            "Commits, p99",
            "s",
            {
                "to the disk": quantile(0.99, "governors_commit_seconds"),
                "to the store": quantile(0.99, "governors_store_commit_seconds"),
            },
        ),
        Panel("Waiting for the disk", "bytes", {"{{pod}}": "sum by (pod) (governors_ledger_pending_bytes)"}),
        Panel(
            "Receipts lost when it was taken", "short", {"{{partition}}": most("governors_ledger_lost_receipts")}, 1.0
        ),
        Panel("Partitions that a pod has", "short", {"{{pod}}": "count by (pod) (governors_ledger_size)"}),
        Panel("Who writes", "short", {"{{partition}} {{pod}}": "governors_ledger_epoch"}),
        Panel(
            "How often partitions moved, per hour",
            "short",
            {"{{partition}}": f"changes({most('governors_ledger_epoch')}[1h:1m])"},
        ),
    ],
    "Pub/Sub": [
        Panel(
            "From published to committed, p99",
            "s",
            {"{{source}}": quantile(0.99, "governors_publish_to_commit_seconds", "source")},
            5.0,
        ),
        Panel("Connected", "short", {"{{pod}}": "governors_pull_connected"}),
        Panel(
            "Messages",
            "ops",
            {
                "pulled": "sum(rate(governors_pull_received_total[5m]))",
                "acknowledged": "sum(rate(governors_pull_acked_total[5m]))",
                "given back": "sum(rate(governors_pull_nacked_total[5m]))",
                "again": "sum(rate(governors_pull_redelivered_total[5m]))",
            },
        ),
        Panel(
            "Trouble",
            "ops",
            {
                "pulls failed": "sum(rate(governors_pull_pull_errors_total[5m]))",
                "acknowledging failed": "sum(rate(governors_pull_ack_errors_total[5m]))",
                "dead-lettering failed": "sum(rate(governors_pull_dead_letter_errors_total[5m]))",
            },
        ),
        Panel("Held here", "short", {"{{pod}}": "governors_pull_held_messages"}),
        Panel(
            "Seconds of backing off, per second", "short", {"{{pod}}": "rate(governors_pull_backoff_seconds_total[5m])"}
        ),
    ],
    "Actions and admission": [
        Panel("Ended", "ops", {"{{kind}} {{outcome}}": rate("governors_action_outcomes_total", "kind, outcome")}),
        Panel(
            "Attempts",
            "ops",
            {"{{executor}} {{outcome}}": rate("governors_action_attempts_total", "executor, outcome")},
        ),
        Panel(
            "Open",
            "short",
            {"open {{pod}}": "governors_outbox_depth", "receivers that fail {{pod}}": "governors_executors_ailing"},
        ),
        Panel("The oldest open action", "s", {"{{pod}}": "governors_outbox_oldest_seconds"}, 600.0),
        Panel("Admission", "ops", {"{{answer}} {{governor}}": rate("governors_admissions_total", "answer, governor")}),
        Panel(
            "Admission, p99",
            "s",
            {
                "{{route}}": "histogram_quantile(0.99, sum by (le, route) "
                '(rate(governors_http_request_seconds_bucket{route=~"/v1/admit.*"}[5m])))'
            },
            0.01,
        ),
        Panel(
            "How old views of other pods' admission are",
            "s",
            {"{{pod}}": "max by (pod) (governors_admission_view_age_seconds)"},
            10.0,
        ),
    ],
    "Service": [
        Panel("Requests", "ops", {"{{status}}": rate("governors_http_requests_total", "status")}),
        Panel("Requests, p99", "s", {"{{route}}": quantile(0.99, "governors_http_request_seconds", "route")}),
        Panel(
            "Connections",
            "short",
            {
                "open {{pod}}": "governors_http_connections",
                "dropped per minute: {{reason}}": "60 * " + rate("governors_http_connections_dropped_total", "reason"),
            },
        ),
        Panel(
            "Restarts of children",
            "short",
            {"{{child}}": "sum by (child) (increase(governors_child_restarts_total[1h]))"},
        ),
        Panel(
            "Days until the certificate expires",
            "short",
            {"{{pod}}": "(governors_tls_certificate_expiry_timestamp_seconds - time()) / 86400"},
        ),
        Panel("Version", "short", {"{{version}} {{pod}}": "governors_build_info"}),
    ],
}


def grafana() -> dict[str, Any]:
    """For Grafana 9 and newer, with a data source and namespaces to choose from."""
    panels: list[dict[str, Any]] = []
    top = 0
    source = {"type": "prometheus", "uid": "${source}"}
    for row, members in ROWS.items():
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": place, "panels": []})
        top += 1
        for number, panel in enumerate(members):
            steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
            if panel.limit is not None:
                steps.append({"color": "red", "value": panel.limit})
            column, line = number % PER_ROW, number // PER_ROW
            width = WIDTH // PER_ROW
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "timeseries",
                    "title": panel.title,
                    "datasource": source,
                    "gridPos": {"x": column * width, "y": top + line * HEIGHT, "w": width, "h": HEIGHT},
                    "fieldConfig": {
                        "defaults": {
                            "unit": panel.unit,
                            "min": 0,
                            "thresholds": {"mode": "absolute", "steps": steps},
                            "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}},
                        },
                        "overrides": [],
                    },
                    "targets": [
                        {
                            "refId": chr(ord("A") + at),
                            "datasource": source,
                            "expr": in_namespace(expr),
                            "legendFormat": name,
                        }
                        for at, (name, expr) in enumerate(panel.queries.items())
                    ],
                }
            )
        top += (len(members) + PER_ROW - 1) // PER_ROW * HEIGHT
    return {
        "uid": "governors",
        "title": "Governors",
        "tags": ["governors"],
        "schemaVersion": 38,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                {
                    "name": "namespace", "type": "query", "label": "Namespace", "datasource": source, "refresh": 2,
                    "query": "label_values(governors_build_info, namespace)", "includeAll": True, "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }  # fmt: skip


def in_namespace(expr: str) -> str:
    """The query, limited to the namespaces that are chosen."""
    return SERIES.sub(lambda found: f"{found[1]}{{{NAMESPACE}{', ' if found[2] else '}'}", expr)


def cloud_monitoring() -> dict[str, Any]:
    """For `gcloud monitoring dashboards create --config-from-file`."""
    width = 48 // PER_ROW
    tiles: list[dict[str, Any]] = []
    top = 0
    for row, members in ROWS.items():
        tiles.append({"xPos": 0, "yPos": top, "width": 48, "height": 4, "widget": {"title": row, "sectionHeader": {}}})
        top += 4
        for number, panel in enumerate(members):
            chart: dict[str, Any] = {
                "dataSets": [
                    {
                        "plotType": "LINE",
                        "timeSeriesQuery": {"prometheusQuery": expr},
                    }
                    for expr in panel.queries.values()
                ],
                "yAxis": {"scale": "LINEAR"},
            }
            if panel.limit is not None:
                chart["thresholds"] = [{"value": panel.limit}]
            place = {
                "xPos": number % PER_ROW * width,
                "yPos": top + number // PER_ROW * 16,
                "width": width,
                "height": 16,
            }
            tiles.append({**place, "widget": {"title": panel.title, "xyChart": chart}})
        top += (len(members) + PER_ROW - 1) // PER_ROW * 16
    return {"displayName": "Governors", "mosaicLayout": {"columns": 48, "tiles": tiles}}


def documents() -> dict[str, str]:
    """File name -> its text."""
    made = {"grafana.json": grafana(), "cloud-monitoring.json": cloud_monitoring()}
    return {name: json.dumps(document, indent=2) + "\n" for name, document in made.items()}


def main() -> int:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
