"""What is to be changed at a workload for an action, and whether it has come about. Pure: objects of the Kubernetes API
in, a JSON patch or an answer out.

Each patch begins with a test of the resource version that was read, so that it changes what was looked at or nothing,
and leaves the action's id on the workload: who asks again under the same id finds it done. The annotations:

- `governors/action`: the last action that changed the workload
- `governors/rolled-back-deploy`, `governors/rolled-back-to`: the last deploy that was rolled back, so that no second
  action goes back a second time for it, and the template that the rollback went to, by its hash
- `governors/bad-templates`: those that were rolled back from, the newest first; no rollback goes to one of them
- `governors/paused-by`: the action that paused the rollout; without it, a pause is somebody else's and stays
- `governors/replicas-before`, `governors/replicas-left`: what a stop found, and what it left
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from governors.outbox.executors import Answer, Done, Refused, TryAgain
from governors.outbox.workloads import WorkloadKind

Object = Mapping[str, Any]
Patch = Sequence[Mapping[str, Any]]

ACTION: Final = "governors/action"
ROLLED_BACK_DEPLOY: Final = "governors/rolled-back-deploy"
ROLLED_BACK_TO: Final = "governors/rolled-back-to"
BAD_TEMPLATES: Final = "governors/bad-templates"
PAUSED_BY: Final = "governors/paused-by"
REPLICAS_BEFORE: Final = "governors/replicas-before"
REPLICAS_LEFT: Final = "governors/replicas-left"
CHANGE_CAUSE: Final = "kubernetes.io/change-cause"
BAD_TEMPLATES_MAX: Final = 20
VERSION_LABEL: Final = "app.kubernetes.io/version"
_WHY_CHARS_MAX: Final = 200
_UNSEEN: Final = "its controller has not seen it yet"


class Resource(NamedTuple):
    """How a kind of workload is called in addresses, and how its ReplicaSets are marked."""

    path: str
    plural: str
    hash_label: str
    revision: str
    history: str


RESOURCES: Final[Mapping[WorkloadKind, Resource]] = {
    "Deployment": Resource(
        "apis/apps/v1", "deployments", "pod-template-hash",
        "deployment.kubernetes.io/revision", "deployment.kubernetes.io/revision-history",
    ),
    "Rollout": Resource(
        "apis/argoproj.io/v1alpha1", "rollouts", "rollouts-pod-template-hash",
        "rollout.argoproj.io/revision", "rollout.argoproj.io/revision-history",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Revision:
    """A ReplicaSet: one template that the workload had. `names` is all that it may be called by."""

    hash: str
    number: int
    names: frozenset[str]
    template: Mapping[str, Any]
    replicas: int
    available: int

    @property
    def fails(self) -> bool:
        """Whether it has pods that none can use. Of one without pods nothing is known."""
        return self.replicas > 0 and self.available == 0

    def __str__(self) -> str:
        return f"revision {self.number} ({self.hash})"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The workload runs this template."""

    hash: str
    template: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Paused:
    """Its rollout is held, or not."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Scaled:
    """It has so many pods."""

    replicas: int


Goal = RolledBack | Paused | Scaled


@dataclass(frozen=True, slots=True)
class Change:
    """A patch, empty where there is nothing to change, and what shall come of it. `says` is for the receipt."""

    patch: Patch
    goal: Goal
    says: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a rollback shall do: away from `revision`, to `to` where that is known by this name."""

    action_id: str
    deploy_id: str
    revision: str
    to: str
    why: str


def undo(
    kind: WorkloadKind, workload: Object, holder: Object, replica_sets: Iterable[Object], wanted: Wanted
) -> Change | Refused:
    """Back to the last healthy template before the current one, as `kubectl rollout undo` without a number; to the one
    that the action names, where that is known and healthy; of an Argo Rollout to its stable one.

    `holder` is what has the template: the workload, or the Deployment that a Rollout refers to.
    """
    revisions = revisions_of(kind, workload, replica_sets)
    if annotations(holder).get(ROLLED_BACK_DEPLOY) == wanted.deploy_id:
        return _rolled_back_before(holder, revisions)
    current = _current(kind, workload, holder, revisions)
    if _at(workload, "spec", "paused") and PAUSED_BY not in annotations(workload):
        return Refused("its rollout is paused, and not by us: nothing would come of a rollback")
    if (answer := _moved_on(current, revisions, wanted)) is not None:
        return answer
    bad = bad_templates(holder)
    earlier = [one for one in revisions if current is None or one.number < current.number]
    healthy = [one for one in earlier if one.hash not in bad and not one.fails]
    if not healthy:
        return Refused(_nothing_to_go_back_to(earlier, bad))
    stable = _at(workload, "status", "stableRS")
    named = [one for one in healthy if wanted.to in one.names]
    back = next((one for one in healthy if one.hash == stable), (named or healthy)[0])
    left = [] if current is None else [current.hash]
    notes = {
        ACTION: wanted.action_id,
        ROLLED_BACK_DEPLOY: wanted.deploy_id,
        ROLLED_BACK_TO: back.hash,
        BAD_TEMPLATES: ",".join([*left, *(one for one in bad if one not in left)][:BAD_TEMPLATES_MAX]),
        CHANGE_CAUSE: f"rolled back by governors: {wanted.why[:_WHY_CHARS_MAX]} ({wanted.action_id})",
    }
    patch = annotate(holder, notes)
    if holder is workload:
        patch += unpause(workload)
    patch.append({"op": "replace", "path": "/spec/template", "value": back.template})
    away = "a template of no ReplicaSet yet" if current is None else str(current)
    return Change(patch, RolledBack(back.hash, back.template), f"rolled back from {away} to {back}")


def hold(workload: Object, action_id: str) -> Change:
    """Let its rollout go no further."""
    if _is_from(workload, action_id) or _at(workload, "spec", "paused"):
        return Change((), Paused(True), "its rollout is paused")
    patch = annotate(workload, {ACTION: action_id, PAUSED_BY: action_id})
    patch.append({"op": "add", "path": "/spec/paused", "value": True})
    return Change(patch, Paused(True), "its rollout is paused")


def resume(workload: Object, action_id: str) -> Change | Done:
    """Let its rollout go on, where we had it paused."""
    if _is_from(workload, action_id) or not _at(workload, "spec", "paused"):
        return Change((), Paused(False), "its rollout goes on")
    if PAUSED_BY not in annotations(workload):
        return Done("its rollout is paused by somebody else, and left so")
    patch = annotate(workload, {ACTION: action_id}) + unpause(workload)
    return Change(patch, Paused(False), "its rollout goes on")


def scale_down(workload: Object, action_id: str, left: int) -> Change:
    """Leave so many pods of it, and keep in mind how many there were."""
    now = replicas_of(workload)
    if _is_from(workload, action_id):
        return Change((), Scaled(left), f"scaled to {left} replicas")
    if now <= left:
        return Change((), Scaled(now), f"it has {now} replicas already")
    notes = {ACTION: action_id, REPLICAS_BEFORE: str(now), REPLICAS_LEFT: str(left)}
    patch = [*annotate(workload, notes), {"op": "add", "path": "/spec/replicas", "value": left}]
    return Change(patch, Scaled(left), f"scaled from {now} replicas to {left}")


def give_back(workload: Object, action_id: str) -> Change | Done:
    """Give back what a stop took, unless somebody has scaled it since."""
    notes, now = annotations(workload), replicas_of(workload)
    before, left = notes.get(REPLICAS_BEFORE, ""), notes.get(REPLICAS_LEFT, "")
    if _is_from(workload, action_id):
        return Change((), Scaled(now), f"scaled back to {now} replicas")
    if not (before.isascii() and before.isdigit()):
        return Done("nothing was taken from it")
    patch = annotate(workload, {ACTION: action_id})
    patch += [{"op": "remove", "path": _note(name)} for name in (REPLICAS_BEFORE, REPLICAS_LEFT) if name in notes]
    if left != str(now):
        return Change(patch, Scaled(now), f"scaled to {now} replicas by somebody else since, and left so")
    patch.append({"op": "add", "path": "/spec/replicas", "value": int(before)})
    return Change(patch, Scaled(int(before)), f"scaled from {now} replicas back to {before}")


def look(kind: WorkloadKind, workload: Object, holder: Object, goal: Goal) -> Answer:
    """How far a change that was accepted has come: Done, TryAgain while it is under way, Refused where somebody else
    has changed it since.
    """
    match goal:
        case RolledBack():
            return _look_at_rollback(kind, workload, holder, goal)
        case Paused(paused):
            if bool(_at(workload, "spec", "paused")) is not paused:
                return Refused("somebody else has " + ("let it go on" if paused else "paused it") + " since")
            return Done() if _is_observed(workload) else _under_way(_UNSEEN)
        case Scaled(replicas):
            if replicas_of(workload) != replicas:
                return Refused(f"somebody else has scaled it to {replicas_of(workload)} replicas since")
            return _look_at_scale(workload, replicas)


def needs_abort(workload: Object) -> bool:
    """Whether an Argo Rollout is on its way to another template than its stable one."""
    status = workload.get("status") or {}
    under_way = bool(status.get("stableRS")) and status.get("currentPodHash") != status.get("stableRS")
    return under_way and not status.get("abort")


ABORT: Final[Object] = {"status": {"abort": True}}
"""A merge patch: traffic goes to the stable pods at once, before the template is changed."""


def referred_deployment(workload: Object) -> tuple[str, str] | None:
    """Kind and name of what an Argo Rollout takes its template from; None where it has its own."""
    reference = _at(workload, "spec", "workloadRef")
    return None if not reference else (str(reference.get("kind", "")), str(reference.get("name", "")))


def annotations(workload: Object) -> Mapping[str, str]:
    """What is noted on it."""
    return _at(workload, "metadata", "annotations") or {}


def bad_templates(holder: Object) -> Sequence[str]:
    """The hashes of those that were rolled back from, the newest first."""
    return [one for one in annotations(holder).get(BAD_TEMPLATES, "").split(",") if one]


def replicas_of(workload: Object) -> int:
    """How many pods it shall have; one where it does not say."""
    replicas = _at(workload, "spec", "replicas")
    return 1 if replicas is None else int(replicas)


def annotate(workload: Object, notes: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The beginning of every patch: nothing is changed that has changed since it was read, and the notes are set."""
    version = _at(workload, "metadata", "resourceVersion")
    patch: list[Mapping[str, Any]] = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]
    if not annotations(workload):
        patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    patch += [{"op": "add", "path": _note(name), "value": value} for name, value in notes.items()]
    return patch


def unpause(workload: Object) -> list[Mapping[str, Any]]:
    """The end of a pause of ours; nothing where there is none."""
    if not _at(workload, "spec", "paused") or PAUSED_BY not in annotations(workload):
        return []
    return [{"op": "remove", "path": _note(PAUSED_BY)}, {"op": "remove", "path": "/spec/paused"}]


def selector_of(workload: Object, holder: Object) -> str:
    """Its label selector as a query parameter has it."""
    selector = _at(workload, "spec", "selector") or _at(holder, "spec", "selector") or {}
    parts = [f"{name}={value}" for name, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        name, values = one["key"], ",".join(one.get("values") or [])
        match one["operator"]:
            case "In":
                parts.append(f"{name} in ({values})")
            case "NotIn":
                parts.append(f"{name} notin ({values})")
            case "Exists":
                parts.append(name)
            case _:
                parts.append(f"!{name}")
    return ",".join(parts)


def revisions_of(kind: WorkloadKind, workload: Object, replica_sets: Iterable[Object]) -> list[Revision]:
    """Its own ReplicaSets, the newest first."""
    uid = _at(workload, "metadata", "uid")
    own = [
        one for one in replica_sets if any(_is_owner(ref, uid) for ref in _at(one, "metadata", "ownerReferences") or ())
    ]
    return sorted((_revision(kind, one) for one in own), key=lambda one: one.number, reverse=True)


def without_hash(template: Mapping[str, Any], hash_label: str) -> Mapping[str, Any]:
    """A ReplicaSet's template as its workload has it."""
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {name: value for name, value in (metadata.get("labels") or {}).items() if name != hash_label}
    return {**template, "metadata": metadata}


def _revision(kind: WorkloadKind, replica_set: Object) -> Revision:
    resource, notes = RESOURCES[kind], annotations(replica_set)
    labels = _at(replica_set, "metadata", "labels") or {}
    number = notes.get(resource.revision, "")
    hash_ = str(labels.get(resource.hash_label, ""))
    template = without_hash(_at(replica_set, "spec", "template") or {}, resource.hash_label)
    names = {hash_, number, *notes.get(resource.history, "").split(","), *_versions(template)}
    return Revision(
        hash=hash_,
        number=int(number) if number.isascii() and number.isdigit() else 0,
        names=frozenset(names - {""}),
        template=template,
        replicas=replicas_of(replica_set),
        available=int(_at(replica_set, "status", "availableReplicas") or 0),
    )


def _versions(template: Mapping[str, Any]) -> Iterable[str]:
    """What deploy systems call a template by: its version label, and the tags and digests of its images."""
    labels = (template.get("metadata") or {}).get("labels") or {}
    yield str(labels.get(VERSION_LABEL, ""))
    for container in (template.get("spec") or {}).get("containers") or []:
        image, _, digest = str(container.get("image", "")).partition("@")
        tag = image.rpartition("/")[2].partition(":")[2]
        yield from (str(container.get("image", "")), tag, digest)


def _current(kind: WorkloadKind, workload: Object, holder: Object, revisions: Sequence[Revision]) -> Revision | None:
    """The ReplicaSet of the template that the workload has now; None where its controller has not made it yet."""
    if kind == "Rollout":
        # The API server fills in defaults in a ReplicaSet's template, and not in a Rollout's: they are not comparable.
        current = _at(workload, "status", "currentPodHash")
        return next((one for one in revisions if one.hash == current), None)
    template = without_hash(_at(holder, "spec", "template") or {}, RESOURCES[kind].hash_label)
    return next((one for one in revisions if one.template == template), None)


def _moved_on(current: Revision | None, revisions: Sequence[Revision], wanted: Wanted) -> Change | Refused | None:
    """An answer where the workload runs something else than what is to be rolled back, as far as names tell."""
    if current is None or wanted.revision in current.names:
        return None
    if wanted.to in current.names:
        return Change((), RolledBack(current.hash, current.template), f"it runs {wanted.to} already, {current}")
    if any(wanted.revision in one.names for one in revisions):
        return Refused(f"it runs {current} and not {wanted.revision}: somebody else has deployed since")
    return None


def _rolled_back_before(holder: Object, revisions: Sequence[Revision]) -> Change | Refused:
    mark = annotations(holder).get(ROLLED_BACK_TO, "")
    for one in revisions:
        if one.hash == mark:
            return Change((), RolledBack(one.hash, one.template), f"rolled back to {one}")
    return Refused(f"it was rolled back to {mark}, of which there is no ReplicaSet any more")


def _nothing_to_go_back_to(earlier: Sequence[Revision], bad: Sequence[str]) -> str:
    if not earlier:
        return "there is nothing to go back to: it has no earlier ReplicaSet"
    whys = ", ".join(
        f"{one} " + ("was rolled back before" if one.hash in bad else "has no available pod") for one in earlier
    )
    return f"there is nothing healthy to go back to: {whys}"


def _look_at_rollback(kind: WorkloadKind, workload: Object, holder: Object, goal: RolledBack) -> Answer:
    if kind == "Deployment":
        if without_hash(_at(holder, "spec", "template") or {}, RESOURCES[kind].hash_label) != goal.template:
            return Refused("somebody else has changed its template since")
        return _look_at_pods(workload, replicas_of(workload))
    status = workload.get("status") or {}
    if status.get("currentPodHash") != goal.hash:
        # What changes at a Deployment that it refers to is in no generation of the Rollout's own.
        if holder is workload and _is_observed(workload):
            return Refused("somebody else has changed its template since")
        return _under_way(_UNSEEN)
    if status.get("stableRS") != goal.hash:
        return _under_way(f"{goal.hash} is not the stable template yet")
    return _look_at_pods(workload, replicas_of(workload))


def _look_at_pods(workload: Object, wanted: int) -> Answer:
    """As `kubectl rollout status` has it: seen, all updated, no old ones left, all available."""
    status = workload.get("status") or {}
    if not _is_observed(workload):
        return _under_way(_UNSEEN)
    updated, all_, available = (
        int(status.get(name) or 0) for name in ("updatedReplicas", "replicas", "availableReplicas")
    )
    if updated < wanted:
        return _under_way(f"{updated} of {wanted} replicas have the template{_stuck(status)}")
    if all_ > max(updated, wanted):
        return _under_way(f"{all_ - updated} replicas are still to end{_stuck(status)}")
    if available < wanted:
        return _under_way(f"{available} of {wanted} replicas are available{_stuck(status)}")
    return Done(f"{available} of {wanted} replicas are available")


def _look_at_scale(workload: Object, wanted: int) -> Answer:
    """Also of a rollout that stands still halfway: pods of whichever template."""
    status = workload.get("status") or {}
    all_, available = (int(status.get(name) or 0) for name in ("replicas", "availableReplicas"))
    if not _is_observed(workload):
        return _under_way(_UNSEEN)
    if all_ > wanted:
        return _under_way(f"{all_ - wanted} replicas are still to end")
    if available < wanted:
        return _under_way(f"{available} of {wanted} replicas are available")
    return Done(f"{available} of {wanted} replicas are available")


def _stuck(status: Object) -> str:
    conditions = status.get("conditions") or []
    return next((f"; {one['reason']}" for one in conditions if one.get("reason") == "ProgressDeadlineExceeded"), "")


def _is_observed(workload: Object) -> bool:
    """Whether its status is of what it shall be now. Argo writes a text, Kubernetes a number."""
    seen = str(_at(workload, "status", "observedGeneration") or "")
    return seen.isdigit() and int(seen) >= int(_at(workload, "metadata", "generation") or 0)


def _under_way(detail: str) -> TryAgain:
    return TryAgain(f"under way: {detail}", maybe=True, ails=False)


def _is_from(workload: Object, action_id: str) -> bool:
    """Whether this action was the last of ours to change it."""
    return annotations(workload).get(ACTION) == action_id


def _is_owner(reference: Object, uid: object) -> bool:
    return reference.get("uid") == uid and bool(reference.get("controller"))


def _note(name: str) -> str:
    """The JSON pointer of an annotation."""
    return "/metadata/annotations/" + name.replace("~", "~0").replace("/", "~1")


def _at(value: Object, *path: str) -> Any:
    found: Any = value
    for name in path:
        found = (found or {}).get(name)
    return found
