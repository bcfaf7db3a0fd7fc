"""The lines of the checklist, phase by phase, each with the look that answers it.

`None` stands for what no machine can say: the line is printed to be signed, with what to sign.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from governors.checklist import looks_deploy as deploy
from governors.checklist import looks_figures as figures
from governors.checklist import looks_project as project
from governors.checklist import looks_service as service
from governors.checklist.place import Place
from governors.checklist.verdict import CannotLookError, Status, Verdict, failed, to_sign

Look = Callable[[Place], Verdict]


class Line(NamedTuple):
    """`number` is its place in the section, from 1."""

    section: str
    title: str
    number: int
    text: str
    look: Look | None
    hint: str = ""

    @property
    def name(self) -> str:
        return f"{self.section}.{self.number}"


class Answered(NamedTuple):
    """A line, and what became of it."""

    line: Line
    verdict: Verdict


Entry = tuple[str, Look | None] | tuple[str, Look | None, str]
SECTIONS: Final[dict[int, dict[str, list[Entry]]]] = {
    1: {
        "1.1 GCP account and project": [
            ("Project created and billing enabled", project.billing),
            ("Required APIs enabled", project.apis),
            ("Service account with minimal permissions", project.permissions),
            ("Keys rotated and securely stored", project.no_key_file),
        ],
        "1.2 Kubernetes cluster": [
            ("Cluster provisioned, 3 nodes or more", deploy.nodes),
            ("Network policies", deploy.network_policies),
            ("Workload identity", deploy.workload_identity),
            ("Pod security enforced", deploy.pod_security),
        ],
        "1.3 Monitoring and logging": [
            ("Logs in Cloud Logging's form", deploy.structured_logs),
            ("Metrics are collected", deploy.metrics_are_collected),
            ("Alerting rules defined (processor, memory, error rate)", deploy.alerting_rules),
            ("PagerDuty and Slack tested", None, "docs/gcp-setup.md, step 7, sends a test through both"),
        ],
        "1.4 Release": [
            ("Release built and tested", deploy.release_is_one),
            (
                "Image scanned for vulnerabilities",
                None,
                "gcloud artifacts docker images describe … --show-package-vulnerability",
            ),
            ("Image pushed under its version or digest", deploy.image_is_named),
            ("Release notes prepared", deploy.release_notes),
        ],
        "1.5 Configuration": [
            ("Configuration reviewed", deploy.configuration),
            ("Resources and process set up for the cloud", deploy.resources),
            ("Credentials in Secret Manager, secret files closed", deploy.secrets),
            ("TLS certificates provisioned and valid for 30 days", service.certificate),
        ],
    },
    2: {
        "2.1 Deploy to staging": [
            ("Manifests applied", deploy.applied),
            ("StatefulSet created, pods started", deploy.stateful_set_ready),
            ("All pods running and ready", service.all_ready),
            ("No errors in the logs", deploy.clean_logs),
        ],
        "2.2 Cluster health": [
            ("All pods agree on their members", service.members_agree),
            ("Pods reach those that have the other partitions", service.peers),
            ("Headless service resolves", service.headless_names),
            ("Peer port answers", service.peer_ports),
        ],
        "2.3 Governors": [
            ("Cost Guard decides", service.cost_guard_decides),
            ("Rollback Guard decides", service.rollback_guard_decides),
            ("Backlog Valve decides", service.backlog_valve_decides),
            ("Receipt ledger accepts entries", service.ledger_accepts),
        ],
        "2.4 Signals": [
            ("Pub/Sub subscription configured", service.subscription),
            ("Push handler answers", service.push_handler),
            ("Signals reach the right governors", service.routing),
            ("Receipt verified from end to end", service.receipt_verifies),
        ],
        "2.5 Load": [
            ("100 tenants", figures.load_tenants),
            ("1,000 signals a second", figures.load_rate),
            ("p99 under 100 ms", figures.load_p99),
            ("State transitions seen", figures.load_transitions),
            ("Memory stable", figures.load_memory),
        ],
        "2.6 Failover": [
            ("Kill a pod that has partitions, watch the others take over", None, "docs/runbooks/failover.md, step 1"),
            ("Stop it in order, and drain its node", None, "docs/runbooks/failover.md, steps 2 and 3"),
            ("Cut it off from the store", None, "docs/runbooks/failover.md, step 4"),
            ("Freeze and thaw it", None, "docs/runbooks/failover.md, step 5"),
        ],
    },
    3: {
        "3.1 Before": [
            ("All staging tests passed", figures.staging_passed),
            ("Start under 5 s", deploy.start_time),
            ("Answers under 100 ms", figures.answers_fast),
            ("Security audit completed", None, "who did it, and when"),
            ("Change control ticket approved", None, "its number"),
            ("Rollback plan documented", deploy.rollback_plan),
        ],
        "3.2 Apply": [
            ("Dry run", deploy.dry_run),
            ("Rollout progressed", deploy.stateful_set_ready),
            ("All pods running and ready", service.all_ready),
            ("Cluster formed", service.members_agree),
        ],
        "3.3 Validation": [
            ("Health endpoints answer", service.healthy),
            ("Metrics flow", figures.metrics_flow),
            ("Logs flow", project.logs_flow),
            ("Pub/Sub signals come in", service.subscription),
            ("Receipt verified", service.receipt_verifies),
        ],
        "3.4 Real signals": [
            ("Real signals flow", figures.signals_flow),
            ("Governors decide", figures.governors_decide),
            ("Actions are carried out", figures.actions_happen),
            ("Receipts reach the store", figures.receipts_committed),
        ],
        "3.5 Monitoring": [
            ("Dashboards in Cloud Monitoring", project.dashboards),
            ("Alerts reach whoever is on call", None, "one page and one ticket arrived"),
            ("Runbooks linked in alerts", deploy.runbooks_linked),
            ("Objectives have figures", figures.objectives_active),
        ],
        "Risks": [
            ("Clustering fails: manual restart documented", deploy.manual_restart),
            ("Ledger corruption: backed up within 10 minutes", figures.receipts_committed),
            ("Memory leak: nightly restart at hand", deploy.nightly_restart),
            ("Pub/Sub delay: backoff and dead letters", deploy.dead_letters),
            ("TLS expiry: renewed 30 days before", deploy.renewed_early),
        ],
    },
    4: {
        "4.1 Stability": [
            ("Error rate under 0.1 %", figures.error_rate),
            ("p99 under 200 ms", figures.p99),
            ("Memory under 600 MB", figures.memory),
            ("Processor under 70 %", figures.cpu),
        ],
        "4.2 Incidents": [
            ("No critical incident in the first 24 hours", None, "from the incident list"),
            ("On-call playbooks tested", None, "which, and by whom"),
            ("Escalation validated", None, "somebody was reached at each step"),
            ("Communication channels work", None, "a test message arrived"),
        ],
        "4.3 Documentation": [
            ("Runbooks there for every alert", deploy.runbooks_exist),
            ("Troubleshooting guide reviewed", None, "docs/troubleshooting.md"),
            ("Diagrams up to date", deploy.diagrams),
            ("Knowledge transfer completed", None, "who can do what"),
        ],
        "4.4 Tuning": [
            ("Performance issues identified", None, "what the dashboards show after a week"),
            ("Runtime parameters", deploy.runtime_parameters),
            ("Pub/Sub batch sizes", figures.batch_sizes),
            ("Hot paths reviewed", None, "benchmarks/README.md has where time goes"),
        ],
    },
}


def lines_of(phase: int) -> Iterator[Line]:
    """All lines of a phase, in their order."""
    for title, entries in SECTIONS[phase].items():
        section = title.split(" ")[0]
        for number, (text, look, *hint) in enumerate(entries, 1):
            yield Line(section, title, number, text, look, hint[0] if hint else "")


def answer(line: Line, place: Place) -> Verdict:
    """Look at one line. A look that goes wrong is no pass: what it found instead fails the line, by name."""
    if line.look is None:
        return to_sign(line.hint)
    try:
        return line.look(place)
    except CannotLookError as error:
        return Verdict(Status.SKIP, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a service, a file or a cluster answers is a finding
        return failed(f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error))
