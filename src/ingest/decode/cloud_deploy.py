"""Cloud Deploy's notifications: attributes alone, the data is empty.

Source: https://cloud.google.com/deploy/docs/subscribe-deploy-notifications. The topic `clouddeploy-operations` says how
rollouts go, `clouddeploy-approvals` which were turned down; what else comes there, and all that comes on
`clouddeploy-resources` and `clouddeploy-advances`, neither begins nor ends a deploy and is only acknowledged.

A rollout is the deploy, a pipeline's target what is deployed to, a release the revision. Which release was there before
Cloud Deploy does not say; its own rollback goes to the last one that succeeded, and `PREVIOUS` stands for that.
"""

from collections.abc import Mapping
from typing import Any, Final

from ingest.decode.foreign import Translation, Unheard, attribute_facts, present, subject_of, take_message
from ingest.decode.limits import DecodeLimits
from ingest.errors import Reason, SignalRejectedError
from ingest.signals import DEPLOY_FINISHED, DEPLOY_STARTED
from ingest.source import Delivery

FORM: Final = "cloud_deploy"
PREVIOUS: Final = "last-successful"
ROLLOUT: Final = "Rollout"

START: Final = "Start"
RESULT_OF: Final = {
    "Succeed": "succeeded",
    "Failure": "failed",
    "Cancelled": "cancelled",
    "Terminated": "cancelled",
    "Rejected": "cancelled",  # an approval's: the rollout will never be
}
# What is done to a rollout as a resource, what an approval waits for, and the steps from phase to phase.
_UNHEARD_ACTIONS: Final = frozenset({"Create", "Update", "Delete", "Required", "Approved", "Advanced"})

_FIELDS: Final = {
    "observed_at": "publishTime",
    "id": "messageId",
    "source": "attributes.DeliveryPipelineId",
    "data.deploy_id": "attributes.RolloutId",
    "data.revision": "attributes.ReleaseId",
}


def recognises(message: Delivery) -> bool:
    """Whether a message is one: no data, and attributes that say what happened to what in which project."""
    attributes = message.attributes
    return (
        not message.payload
        and "Action" in attributes
        and "ProjectNumber" in attributes
        and ("ResourceType" in attributes or ROLLOUT in attributes)
    )


def translate(message: Delivery, limits: DecodeLimits) -> Translation | Unheard:
    """A rollout's begin or end as `deploy.started` or `deploy.finished`. Raises SignalRejectedError."""
    attributes = message.attributes
    action = attributes["Action"]
    # Approvals and advances are about rollouts and do not say so.
    resource = attributes.get("ResourceType", ROLLOUT)
    if resource != ROLLOUT or action in _UNHEARD_ACTIONS:
        return Unheard(FORM, f"{action} of a {resource} neither begins nor ends a deploy"[:200])
    if action != START and action not in RESULT_OF:
        expected = ", ".join([START, *RESULT_OF, *sorted(_UNHEARD_ACTIONS)])
        raise SignalRejectedError(Reason.BAD_FIELD, "attributes.Action", f"expected one of {expected}")
    original = take_message(message, limits)
    pipeline, target, release, rollout = (
        _required(attributes, name) for name in ("DeliveryPipelineId", "TargetId", "ReleaseId", "RolloutId")
    )
    project, location = attributes["ProjectNumber"], attributes.get("Location")
    deploy_id = f"{release}/{rollout}"
    data: dict[str, Any]
    if action == START:
        kind = DEPLOY_STARTED
        data = {"deploy_id": deploy_id, "revision": release, "previous_revision": PREVIOUS}
    else:
        kind = DEPLOY_FINISHED
        data = {"deploy_id": deploy_id, "result": RESULT_OF[action]}
    return Translation(
        form=FORM,
        kind=kind,
        id=message.message_id,
        source=f"//clouddeploy.googleapis.com/projects/{project}/deliveryPipelines/{pipeline}",
        subject=subject_of(f"{pipeline}/{target}"),
        observed_us=message.publish_us,
        data=data,
        facts={
            **attribute_facts(attributes),
            **present(project=project, location=location, pipeline=pipeline, target=target, service=pipeline),
        },
        fields=_FIELDS,
        original=original,
    )


def _required(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name)
    if not value:
        raise SignalRejectedError(Reason.MISSING_FIELD, f"attributes.{name}", "required")
    return value
