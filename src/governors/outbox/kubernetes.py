"""Orders as changes of workloads in a Kubernetes cluster: rolled back, held, scaled, and read back until it is so."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import structs

from governors.outbox.executors import Answer, Done, Order, Refused, TryAgain
from governors.outbox.kubernetes_api import JSON_PATCH, MERGE_PATCH, Access, CallFailedError, Session, connected
from governors.outbox.kubernetes_changes import (
    ABORT,
    RESOURCES,
    Change,
    Object,
    Wanted,
    give_back,
    hold,
    look,
    needs_abort,
    referred_deployment,
    resume,
    scale_down,
    selector_of,
    undo,
)
from governors.outbox.workloads import Target, WorkloadRule
from governors.tenants.tenant import OpenWork

WATCH_S: Final = 5.0
"""How long an attempt looks whether what was accepted comes about; then it makes room, and another one looks."""
LOOK_EVERY_S: Final = 0.25
CHANGE_TRIES: Final = 3
"""In one attempt, as long as nothing but the status of a workload comes in between."""
LOOK_AGAIN_S: Final = 2.0
"""What is under way wants to be left alone for as long."""


class KubernetesExecutor:
    """Carries orders out at the workloads that its rules name; the first rule that takes an action counts."""

    name: Final = "kubernetes"

    def __init__(self, access: Access, rules: Sequence[WorkloadRule], clock_us: Callable[[], int]) -> None:
        self._access = access
        self._rules = rules
        self._clock_us = clock_us

    def takes(self, work: OpenWork) -> bool:
        return self._rule(work) is not None

    async def execute(self, order: Order) -> Answer:
        """One attempt, at each of the workloads."""
        rule = self._rule(order.work)
        if rule is None:
            return Refused("no workload is configured for it")
        targets = rule.targets(order.work)
        if isinstance(targets, Refused):
            return targets
        try:
            headers, trust = self._access.read()
        except (OSError, ValueError) as error:
            return TryAgain(f"the credentials cannot be read: {error}", maybe=False)
        async with (
            connected(self._access.server, headers, trust, self._clock_us) as calls,
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(_carry_out(calls, target, order, rule)) for target in targets]
        return together([(target, task.result()) for target, task in zip(targets, tasks, strict=True)])

    def _rule(self, work: OpenWork) -> WorkloadRule | None:
        return next((rule for rule in self._rules if rule.takes(work)), None)


def together(answers: Sequence[tuple[Target, Answer]]) -> Answer:
    """One answer for several workloads: it is done where it is done at each, and final where no other attempt helps."""
    said = "; ".join(f"{target}: {answer.detail}" for target, answer in answers)
    again = [answer for _, answer in answers if isinstance(answer, TryAgain)]
    if again:
        asked = [answer.after_s for answer in again if answer.after_s is not None]
        is_done_somewhere = any(isinstance(answer, Done) for _, answer in answers)
        return TryAgain(
            said,
            maybe=is_done_somewhere or any(answer.maybe for answer in again),
            after_s=max(asked, default=None),
            ails=any(answer.ails for answer in again),
        )
    if any(isinstance(answer, Refused) for _, answer in answers):
        return Refused(said, maybe=any(isinstance(answer, Done) or answer.maybe for _, answer in answers))
    # Each was read until it was so.
    return Done(said, "read_back")


async def _carry_out(calls: Session, target: Target, order: Order, rule: WorkloadRule) -> Answer:
    place = _Place(calls, target)
    try:
        answer = await _bring_about(place, order, rule)
    except CallFailedError as failed:
        answer = failed.answer
    if place.is_changed and not isinstance(answer, Done):
        return structs.replace(answer, maybe=True)
    return answer


async def _bring_about(place: "_Place", order: Order, rule: WorkloadRule) -> Answer:
    for _ in range(CHANGE_TRIES):
        await place.read()
        change = await _change(place, order, rule)
        if isinstance(change, Refused | Done):
            return change
        if not change.patch or await place.change(change):
            return await place.settle(change)
    return TryAgain("it keeps changing", maybe=False, ails=False)


async def _change(place: "_Place", order: Order, rule: WorkloadRule) -> Change | Done | Refused:
    """What the order means for a workload, as that is now."""
    action, workload = order.work.action, place.workload
    match action.kind:
        case "rollback":
            return await _undo(place, order)
        case "hold_rollout":
            return hold(workload, action.id)
        case "resume_rollout":
            return resume(workload, action.id)
        case "stop" if rule.stop_replicas is not None:
            return scale_down(workload, action.id, rule.stop_replicas)
        case "throttle" | "restore":
            # What a throttle lets pass is admission's to say: the pods that a stop took are needed for it.
            return give_back(workload, action.id)
        case _:
            return Refused(f"{action.kind} is nothing that is done to a workload")


async def _undo(place: "_Place", order: Order) -> Change | Done | Refused:
    action, kind = order.work.action, place.target.kind
    deploy_id, revision, to = (str(action.params.get(name, "")) for name in ("deploy_id", "revision", "to"))
    wanted = Wanted(action.id, deploy_id, revision, to, order.reason)
    replica_sets = await place.replica_sets()
    change = undo(kind, place.workload, place.holder, replica_sets, wanted)
    if kind == "Rollout" and isinstance(change, Change) and change.patch and needs_abort(place.workload):
        await place.abort()
        change = undo(kind, place.workload, place.holder, replica_sets, wanted)
    return change


class _Place:
    """A workload as it was last read, and `holder`, which has its template: itself, or what a Rollout refers to."""

    def __init__(self, calls: Session, target: Target) -> None:
        self._calls = calls
        self.target = target
        self.workload: Object = {}
        self.holder: Object = {}
        self.is_changed = False
        """Whether something was done to it in this attempt."""
        self._path = _path(target)
        self._holder_path = self._path

    async def read(self) -> None:
        self.workload = self.holder = await self._calls.get(self._path)
        referred = referred_deployment(self.workload) if self.target.kind == "Rollout" else None
        if referred is not None:
            kind, name = referred
            if kind != "Deployment":
                raise CallFailedError(Refused(f"its template is that of a {kind}, which is not supported"))
            self._holder_path = _path(Target("Deployment", self.target.namespace, name))
            self.holder = await self._calls.get(self._holder_path)

    async def replica_sets(self) -> Sequence[Object]:
        """All that its selector means, its own among them."""
        selector = selector_of(self.workload, self.holder)
        found = await self._calls.get(
            _path_of("apis/apps/v1", self.target.namespace, "replicasets"), labelSelector=selector
        )
        items: list[Any] = found.get("items") or []
        return items

    async def abort(self) -> None:
        """Stop a canary. Where Rollouts were installed without the subresource, their status is part of them."""
        try:
            self.workload = await self._calls.patch(f"{self._path}/status", ABORT, MERGE_PATCH)
        except CallFailedError as failed:
            if failed.status != 404:
                raise
            self.workload = await self._calls.patch(self._path, ABORT, MERGE_PATCH)
        self.is_changed = True
        if self._holder_path == self._path:
            self.holder = self.workload

    async def change(self, change: Change) -> bool:
        """Send a patch; false where nothing was changed, because the status is another than it was: in a rollout that
        is so all the time. That somebody else has changed more than that is an answer of its own.
        """
        of_template = any(str(step["path"]).startswith("/spec/template") for step in change.patch)
        path, before = (self._holder_path, self.holder) if of_template else (self._path, self.workload)
        try:
            changed = await self._calls.patch(path, change.patch, JSON_PATCH)
        except CallFailedError as failed:
            # A test in a patch that fails is 422, and so is what can never be.
            if failed.status != 422:
                raise
            was, now = before["metadata"], (await self._calls.get(path))["metadata"]
            if now["resourceVersion"] == was["resourceVersion"]:
                raise
            if (now["generation"], now.get("annotations")) == (was["generation"], was.get("annotations")):
                return False
            raise CallFailedError(TryAgain("it has changed meanwhile", maybe=False, ails=False)) from failed
        self.is_changed = True
        if path == self._path:
            self.workload = changed
        if path == self._holder_path:
            self.holder = changed
        return True

    async def settle(self, change: Change) -> Answer:
        """Read it back until it is so, or until the attempt is over."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WATCH_S
        while isinstance(answer := look(self.target.kind, self.workload, self.holder, change.goal), TryAgain):
            if loop.time() >= until_s:
                return TryAgain(f"{change.says}; {answer.detail}", answer.maybe, LOOK_AGAIN_S, answer.ails)
            await asyncio.sleep(LOOK_EVERY_S)
            await self.read()
        said = f"{change.says}; {answer.detail}" if answer.detail else change.says
        # What somebody else has changed since was so for a while.
        return Done(said) if isinstance(answer, Done) else Refused(said, maybe=True)


def _path(target: Target) -> str:
    resource = RESOURCES[target.kind]
    return f"{_path_of(resource.path, target.namespace, resource.plural)}/{target.name}"


def _path_of(group: str, namespace: str, plural: str) -> str:
    return f"{group}/namespaces/{namespace}/{plural}"
