"""What lives in a cluster of the tests' own: Deployments, Argo Rollouts, their ReplicaSets, and controllers that move
one step whenever somebody looks.

No clock: a controller makes its next step when a workload is read. What a patch answers is unseen yet; who reads it
back sees it under way, then done. Images whose tag begins with `bad` never become available.
"""

import copy
import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Resource, namespace, name."""

DEPLOYMENTS, REPLICA_SETS, ROLLOUTS = "deployments.apps", "replicasets.apps", "rollouts.argoproj.io"
HASH: Final = {DEPLOYMENTS: "pod-template-hash", ROLLOUTS: "rollouts-pod-template-hash"}
REVISION: Final = {DEPLOYMENTS: "deployment.kubernetes.io/revision", ROLLOUTS: "rollout.argoproj.io/revision"}
DEFAULTS: Final = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"}


def with_defaults(template: Object) -> Object:
    """As the API server completes it."""
    return {**template, "spec": {**DEFAULTS, **template["spec"]}}


class Cluster:
    """Objects by key. `touch` stores one as written, `step` lets its controller act."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self._versions = itertools.count(1_000)
        self._uids = itertools.count(1)

    def touch(self, key: Key, new: Object) -> Object:
        """Store it under its next resource version, and its next generation where its spec is another."""
        old = self.objects.get(key)
        new = copy.deepcopy(new)
        if key[0] == DEPLOYMENTS:
            new["spec"]["template"] = with_defaults(new["spec"]["template"])
        metadata = new["metadata"]
        metadata["resourceVersion"] = str(next(self._versions))
        if old is None:
            metadata |= {"uid": f"uid-{next(self._uids)}", "generation": 1}
        elif new.get("spec") != old.get("spec"):
            metadata["generation"] = old["metadata"]["generation"] + 1
        self.objects[key] = new
        return new

    def deployment(
        self, name: str, image: str, *, namespace: str = "shop", replicas: int = 3, labels: dict[str, str] | None = None
    ) -> Key:
        """A Deployment, rolled out."""
        return self._workload(DEPLOYMENTS, "Deployment", namespace, name, replicas, image, labels or {})

    def rollout(self, name: str, image: str, *, namespace: str = "shop", replicas: int = 3) -> Key:
        """An Argo Rollout, rolled out."""
        return self._workload(ROLLOUTS, "Rollout", namespace, name, replicas, image, {})

    def deploy(self, key: Key, image: str, *, labels: dict[str, str] | None = None, steps: int = 20) -> None:
        """Another image, and so many steps of its controller."""
        new = copy.deepcopy(self.objects[key])
        template = new["spec"]["template"]
        template["metadata"]["labels"] |= labels or {}
        template["spec"]["containers"][0]["image"] = image
        self.touch(key, new)
        self.steps(key, steps)

    def steps(self, key: Key, count: int = 20) -> None:
        for _ in range(count):
            self.step(key)

    def step(self, key: Key) -> None:
        """One step of a workload's controller."""
        if key[0] == DEPLOYMENTS:
            self._step_deployment(key)
        elif key[0] == ROLLOUTS:
            self._step_rollout(key)
            # Of a Deployment that a Rollout refers to, the Rollout's controller sees to the pods.

    def image(self, key: Key) -> str:
        """What it shall run."""
        return str(self.objects[key]["spec"]["template"]["spec"]["containers"][0]["image"])

    def replica_sets(self, key: Key) -> list[Object]:
        """Its own, the newest revision first."""
        uid = self.objects[key]["metadata"]["uid"]
        own = [one for one in self._of(REPLICA_SETS) if one["metadata"]["ownerReferences"][0]["uid"] == uid]
        return sorted(own, key=lambda one: -int(one["metadata"]["annotations"][REVISION[key[0]]]))

    def _workload(
        self, resource: str, kind: str, namespace: str, name: str, replicas: int, image: str, labels: dict[str, str]
    ) -> Key:
        key = (resource, namespace, name)
        version = "apps/v1" if resource == DEPLOYMENTS else "argoproj.io/v1alpha1"
        template = {
            "metadata": {"labels": {"app": name, **labels}},
            "spec": {"containers": [{"name": "main", "image": image}]},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
        metadata = {"name": name, "namespace": namespace}
        self.touch(key, {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec, "status": {}})
        self.steps(key)
        return key

    def _of(self, resource: str) -> Iterator[Object]:
        return (one for (of, _, _), one in self.objects.items() if of == resource)

    # Controllers

    def _step_deployment(self, key: Key) -> None:
        deployment = copy.deepcopy(self.objects[key])
        spec = deployment["spec"]
        own = self.replica_sets(key)
        new = next((one for one in own if self._same(one, spec["template"], HASH[DEPLOYMENTS])), None)
        if not spec.get("paused"):
            new = self._newest(key, own, new, spec["template"])
            self._move(own, new, spec["replicas"])
        else:
            # Of what is paused only the size follows.
            self._resize(own, spec["replicas"])
        self._report(key, deployment, self.replica_sets(key), new)

    def _step_rollout(self, key: Key) -> None:
        rollout = copy.deepcopy(self.objects[key])
        spec, status = rollout["spec"], rollout["status"]
        template = self._template_of(rollout)
        own = self.replica_sets(key)
        new = self._newest(
            key, own, next((one for one in own if self._same(one, template, HASH[ROLLOUTS])), None), template
        )
        hash_ = new["metadata"]["labels"][HASH[ROLLOUTS]]
        stable = status.get("stableRS") or hash_
        if status.get("currentPodHash") != hash_:
            status.pop("abort", None)
        status |= {"currentPodHash": hash_, "stableRS": stable}
        stable_set = next(one for one in self.replica_sets(key) if one["metadata"]["labels"][HASH[ROLLOUTS]] == stable)
        if status.get("abort") or stable == hash_:
            self._move(self.replica_sets(key), stable_set, spec["replicas"])
        else:
            # A canary of one pod, for as long as nobody promotes it.
            self._scale(new, 1)
            self._scale(stable_set, spec["replicas"] - 1)
        self._report(key, rollout, self.replica_sets(key), new)

    def promote(self, key: Key) -> None:
        """What is the canary becomes the stable one."""
        rollout = copy.deepcopy(self.objects[key])
        rollout["status"]["stableRS"] = rollout["status"]["currentPodHash"]
        self.touch(key, rollout)
        self.steps(key)

    def _template_of(self, rollout: Object) -> Object:
        reference = rollout["spec"].get("workloadRef")
        namespace = rollout["metadata"]["namespace"]
        holder = rollout if reference is None else self.objects[DEPLOYMENTS, namespace, reference["name"]]
        template: Object = holder["spec"]["template"]
        return template

    def _same(self, replica_set: Object, template: Object, label: str) -> bool:
        theirs = copy.deepcopy(replica_set["spec"]["template"])
        theirs["metadata"]["labels"].pop(label)
        return bool(theirs == with_defaults(template))

    def _newest(self, key: Key, own: list[Object], new: Object | None, template: Object) -> Object:
        """The ReplicaSet of the template, made where there is none, with the highest revision."""
        label, note = HASH[key[0]], REVISION[key[0]]
        numbers = [int(one["metadata"]["annotations"][note]) for one in own]
        if new is None:
            text = json.dumps(with_defaults(template), sort_keys=True).encode()
            hash_ = hashlib.sha256(text).hexdigest()[:10]
            owner = self.objects[key]
            metadata = {
                "name": f"{key[2]}-{hash_}", "namespace": key[1],
                "labels": {**template["metadata"]["labels"], label: hash_},
                "annotations": {note: str(max(numbers, default=0) + 1)},
                "ownerReferences": [{"kind": owner["kind"], "uid": owner["metadata"]["uid"], "controller": True}],
            }  # fmt: skip
            theirs = copy.deepcopy(with_defaults(template))
            theirs["metadata"]["labels"][label] = hash_
            spec = {"replicas": 0, "selector": {"matchLabels": metadata["labels"]}, "template": theirs}
            made = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec, "status": {}}
            return self.touch((REPLICA_SETS, key[1], str(metadata["name"])), made)
        mine = int(new["metadata"]["annotations"][note])
        if mine < max(numbers):
            new = copy.deepcopy(new)
            notes = new["metadata"]["annotations"]
            history = notes.get(f"{note}-history")
            notes[f"{note}-history"] = f"{history},{mine}" if history else str(mine)
            notes[note] = str(max(numbers) + 1)
            new = self.touch((REPLICA_SETS, key[1], new["metadata"]["name"]), new)
        return new

    def _move(self, own: list[Object], new: Object, wanted: int) -> None:
        """One pod more of the new, one less of the old where the new ones can be used."""
        new = self.objects[REPLICA_SETS, new["metadata"]["namespace"], new["metadata"]["name"]]
        if new["spec"]["replicas"] < wanted:
            new = self._scale(new, new["spec"]["replicas"] + 1)
        elif new["spec"]["replicas"] > wanted:
            new = self._scale(new, new["spec"]["replicas"] - 1)
        others = [one for one in own if one["metadata"]["name"] != new["metadata"]["name"] and one["spec"]["replicas"]]
        available = new["status"].get("availableReplicas", 0)
        if others and (available + sum(one["spec"]["replicas"] for one in others) > wanted or _is_bad(others[-1])):
            self._scale(others[-1], others[-1]["spec"]["replicas"] - 1)

    def _resize(self, own: list[Object], wanted: int) -> None:
        have = sum(one["spec"]["replicas"] for one in own)
        if own and have != wanted:
            one = next((one for one in own if one["spec"]["replicas"]), own[0])
            self._scale(one, one["spec"]["replicas"] + (1 if have < wanted else -1))

    def _scale(self, replica_set: Object, replicas: int) -> Object:
        new = copy.deepcopy(replica_set)
        new["spec"]["replicas"] = replicas
        new["status"] = {"replicas": replicas, "availableReplicas": 0 if _is_bad(new) else replicas}
        return self.touch((REPLICA_SETS, new["metadata"]["namespace"], new["metadata"]["name"]), new)

    def _report(self, key: Key, workload: Object, own: list[Object], new: Object | None) -> None:
        generation = workload["metadata"]["generation"]
        updated = 0 if new is None else next(one for one in own if one["metadata"]["name"] == new["metadata"]["name"])[
            "status"
        ].get("replicas", 0)  # fmt: skip
        workload["status"] |= {
            "observedGeneration": generation if key[0] == DEPLOYMENTS else str(generation),
            "replicas": sum(one["status"].get("replicas", 0) for one in own),
            "updatedReplicas": updated,
            "availableReplicas": sum(one["status"].get("availableReplicas", 0) for one in own),
        }
        if workload != self.objects[key]:
            self.touch(key, workload)


def _is_bad(replica_set: Object) -> bool:
    image = str(replica_set["spec"]["template"]["spec"]["containers"][0]["image"])
    return image.rpartition(":")[2].startswith("bad")
