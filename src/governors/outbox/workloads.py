"""Which workloads of a cluster an action is about, by configured rules. Pure.

The rules say it, never the signal alone: whoever may report deploys of one tenant must not be able to have another's
workload rolled back. A target that the signal names narrows down what the rule names.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from governors.outbox.executors import Refused
from governors.outbox.selection import Selection
from governors.settings import NAMESPACE_NAME, PLACEHOLDER, WORKLOAD_NAME
from governors.tenants.tenant import OpenWork

WorkloadKind = Literal["Deployment", "Rollout"]

ROLLOUT_ACTIONS: Final = frozenset({"rollback", "hold_rollout", "resume_rollout"})
SCALE_ACTIONS: Final = frozenset({"stop", "throttle", "restore"})


class Target(Struct, frozen=True):
    """One workload."""

    kind: WorkloadKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class WorkloadRule(Struct, frozen=True):
    """The workloads of the tenants and subjects that are named; where none is, of any.

    `namespace` and `names` may have `{tenant}` and `{subject}` in them. `stop_replicas`: what a stop leaves of each;
    None where a stop is nothing for these workloads.
    """

    selection: Selection
    subjects: tuple[str, ...]
    kind: WorkloadKind
    namespace: str
    names: tuple[str, ...]
    stop_replicas: int | None

    def takes(self, work: OpenWork) -> bool:
        """Whether an action is about these workloads, and one that can be done to them."""
        possible = ROLLOUT_ACTIONS if self.stop_replicas is None else ROLLOUT_ACTIONS | SCALE_ACTIONS
        return (
            work.action.kind in possible
            and self.selection.takes(work)
            and (not self.subjects or work.subject in self.subjects)
        )

    def targets(self, work: OpenWork) -> Sequence[Target] | Refused:
        """Which of them an action is about; Refused where that is none that the rule allows."""
        facts = {"tenant": work.tenant, "subject": work.subject}
        found = [Target(self.kind, fill(self.namespace, facts), fill(name, facts)) for name in self.names]
        for one in found:
            if not NAMESPACE_NAME.fullmatch(one.namespace) or not WORKLOAD_NAME.fullmatch(one.name):
                return Refused(f"{one.namespace}/{one.name} cannot be the name of a {self.kind}")
        named = named_in(work)
        if named is None:
            return found
        chosen = [one for one in found if (one.kind.lower(), one.namespace, one.name) == named]
        if not chosen:
            allowed = ", ".join(map(str, found))
            return Refused(f"the deploy names {named[0]} {named[1]}/{named[2]}, the configuration only {allowed}")
        return chosen


def named_in(work: OpenWork) -> tuple[str, str, str] | None:
    """Kind (lower case), namespace and name of the workload that an action names; None where it names none."""
    params = work.action.params
    if "name" not in params:
        return None
    return str(params.get("kind", "")).lower(), str(params.get("namespace", "")), str(params["name"])


def fill(pattern: str, facts: Mapping[str, str]) -> str:
    """A pattern with its placeholders replaced."""
    return PLACEHOLDER.sub(lambda found: facts[found[1]], pattern)
