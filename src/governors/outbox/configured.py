"""The executors that a configuration asks for, in its order; what none of them takes is said in the log."""

import hashlib
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Protocol, runtime_checkable

import httpx
import structlog

from governors.outbox.executors import Answer, Done, Executor, LogExecutor, Order
from governors.outbox.kubernetes import KubernetesExecutor
from governors.outbox.kubernetes_api import Access
from governors.outbox.read_back import Verify
from governors.outbox.selection import Selection
from governors.outbox.standard_webhooks import parse_secret
from governors.outbox.webhook import Receiver, WebhookExecutor, read_lines
from governors.outbox.workloads import WorkloadRule
from governors.settings import (
    NAMESPACE_NAME,
    PAGERDUTY_INCIDENTS,
    SERVICE_ACCOUNT,
    SLACK_HISTORY,
    ActionSettings,
    ActionTopicSettings,
    KubernetesSettings,
    SettingsError,
    VerifySettings,
    WebhookSettings,
    WorkloadSettings,
    webhook_url_problem,
    workload_pattern_problem,
)
from governors.settings_layers import Problem, shown
from governors.supervision.child import Child
from governors.tenants.tenant import OpenWork

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._~+%-]")


def executors_of(settings: ActionSettings, clock_us: Callable[[], int], worker: str) -> Sequence[Executor]:
    """Who carries out actions, in the order in which they are asked. `worker` is this one's name, the same in each of
    its lives and no other's.

    Raises SettingsError for secrets that cannot be read: better now than with the first action.
    """
    executors = [
        *([_kubernetes(settings.kubernetes, clock_us)] if settings.kubernetes is not None else []),
        *(_webhook(one, clock_us) for one in settings.webhooks),
        *(_topic(one, worker) for one in settings.topics),
    ]
    if settings.dry_run:
        return [*map(DryRun, executors), LogExecutor()]
    return [*executors, LogExecutor()]


async def close(executors: Sequence[Executor]) -> None:
    """Let go of the connections that executors keep."""
    for one in executors:
        if isinstance(one, Closing):
            await one.close()


@runtime_checkable
class Closing(Protocol):
    """An executor that keeps connections."""

    async def close(self) -> None: ...


@runtime_checkable
class Watching(Protocol):
    """An executor that has something to follow meanwhile, whether it has an order or not."""

    def children(self, rng: Random) -> Sequence[Child]: ...

    def warnings(self) -> list[str]:
        """What somebody should look at although it goes on."""


class DryRun:
    """Says in the log what an executor would have been asked for."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._log = structlog.get_logger("governors.action")

    @property
    def name(self) -> str:
        return self._executor.name

    def takes(self, work: OpenWork) -> bool:
        return self._executor.takes(work)

    async def execute(self, order: Order) -> Answer:
        action = order.work.action
        self._log.warning(
            f"dry run: action {action.kind} for {order.work.tenant} is not sent to {self.name}",
            tenant=order.work.tenant, action_id=action.id, params=action.params, receipt=order.receipt,
        )  # fmt: skip
        return Done("dry run: not sent")


def _kubernetes(settings: KubernetesSettings, clock_us: Callable[[], int]) -> Executor:
    access = Access(settings.server, settings.token_file, settings.ca_file)
    try:
        access.read()
        rules = [_workloads(one, settings) for one in settings.workloads]
    except (OSError, ValueError) as error:
        raise SettingsError([Problem("actions.kubernetes", shown(settings.server), "its files", str(error))]) from error
    return KubernetesExecutor(access, rules, clock_us)


def _workloads(settings: WorkloadSettings, cluster: KubernetesSettings) -> WorkloadRule:
    namespace = settings.namespace
    if namespace is None:
        path = (cluster.token_file or SERVICE_ACCOUNT / "token").with_name("namespace")
        namespace = path.read_text(encoding="ascii").strip()
        if problem := workload_pattern_problem(namespace, NAMESPACE_NAME):
            raise ValueError(f"{path}: {problem}")
    return WorkloadRule(
        selection=Selection(settings.kinds, settings.governors, settings.tenants),
        subjects=settings.subjects,
        kind=settings.workload,
        namespace=namespace,
        names=settings.names,
        stop_replicas=settings.stop_replicas,
    )


def _topic(settings: ActionTopicSettings, worker: str) -> Executor:
    # The client takes a third of a second.
    from governors.outbox.topic import TopicExecutor  # noqa: PLC0415
    from governors.outbox.topic_echo import Echo  # noqa: PLC0415

    selection = Selection(settings.kinds, settings.governors, settings.tenants)
    topic = f"projects/{settings.project}/topics/{settings.topic}"
    subscription = f"projects/{settings.project}/subscriptions/{own_subscription(settings, worker)}"
    echo = Echo(settings.name, topic, subscription) if settings.read_back else None
    return TopicExecutor(settings.name, selection, topic, echo)


def own_subscription(settings: ActionTopicSettings, worker: str) -> str:
    """What a worker's subscription to a topic is called: readable, and no other worker's or executor's."""
    readable = _NOT_IN_A_NAME.sub("-", f"{settings.topic[:100]}-read-back-{worker[:64]}")
    told_apart = repr((settings.name, settings.project, settings.topic, worker))
    return f"{readable}-{hashlib.sha256(told_apart.encode()).hexdigest()[:8]}"


def _webhook(settings: WebhookSettings, clock_us: Callable[[], int]) -> Executor:
    def receiver() -> Receiver:
        return _receiver(settings)

    try:
        receiver()
    except (OSError, ValueError) as error:
        raise SettingsError([Problem("actions.webhooks", shown(settings.name), "its files", str(error))]) from error
    selection = Selection(settings.kinds, settings.governors, settings.tenants)
    return WebhookExecutor(settings.name, selection, receiver, clock_us)


def _receiver(settings: WebhookSettings) -> Receiver:
    url = settings.url or ""
    if settings.url_file is not None:
        (url,) = read_lines(settings.url_file.read_text(encoding="utf-8")) or ("",)
        if problem := webhook_url_problem(url, private=settings.private):
            raise ValueError(f"{settings.url_file}: {problem}")
    secrets: Sequence[str] = ()
    if settings.secrets_file is not None:
        secrets = read_lines(settings.secrets_file.read_text(encoding="utf-8"))
        if not secrets:
            raise ValueError(f"{settings.secrets_file}: it has no secret")
    is_native = settings.format == "native"
    token = _token(secrets[0]) if settings.format == "slack_api" else ""
    return Receiver(
        name=settings.name,
        url=httpx.URL(url),
        format=settings.format,
        keys=tuple(map(parse_secret, secrets)) if is_native else (),
        routing_key=secrets[0] if settings.format == "pagerduty" else "",
        private=settings.private,
        read_back=settings.read_back,
        token=token,
        channel=settings.channel or "",
        verify=None if settings.verify is None else _verify(settings, settings.verify, token),
    )


def _verify(settings: WebhookSettings, verify: VerifySettings, token: str) -> Verify:
    of_pagerduty = settings.format == "pagerduty"
    url = verify.url or (PAGERDUTY_INCIDENTS if of_pagerduty else SLACK_HISTORY)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if verify.headers_file is not None:
        headers |= read_headers(verify.headers_file.read_text(encoding="utf-8"))
    url = url.replace("{channel}", settings.channel or "")
    return Verify(url, headers, of_pagerduty=of_pagerduty, private=settings.private)


def _token(text: str) -> str:
    if not text.isascii() or " " in text:
        raise ValueError("the token is none: expected one word")
    return text


def read_headers(text: str) -> dict[str, str]:
    """Headers, one a line. Raises ValueError for what is none."""
    headers = {}
    for number, line in enumerate(read_lines(text), start=1):
        name, colon, value = line.partition(":")
        if not colon or not name or not name.replace("-", "").isalnum() or not line.isascii():
            raise ValueError(f"header {number}: expected `name: value`")
        headers[name.lower()] = value.strip()
    return headers
