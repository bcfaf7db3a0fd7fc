"""Looks at the Google project, in the name of whoever runs this."""

import json
import os
from pathlib import Path
from typing import Final

from governors.checklist.looks_deploy import effective
from governors.checklist.place import Place
from governors.checklist.verdict import CannotLookError, Verdict, failed, held, passed

APIS: Final = (
    "container.googleapis.com", "pubsub.googleapis.com", "storage.googleapis.com", "secretmanager.googleapis.com",
    "monitoring.googleapis.com", "logging.googleapis.com",
)  # fmt: skip
# What an account that may do more than it needs could do; a minimal one can do none of it.
TOO_MUCH: Final = (
    "resourcemanager.projects.setIamPolicy", "iam.serviceAccountKeys.create", "container.clusters.delete",
    "storage.buckets.delete", "pubsub.topics.delete",
)  # fmt: skip
MANAGER: Final = "https://cloudresourcemanager.googleapis.com/v1/projects/{project}"


def billing(place: Place) -> Verdict:
    """Whether the project is paid for."""
    found = place.ask_google("GET", "https://cloudbilling.googleapis.com/v1/projects/{project}/billingInfo")
    return held(found.get("billingEnabled") is True, f"{place.project} is billed to {found.get('billingAccountName')}")


def apis(place: Place) -> Verdict:
    """Which of the APIs are switched on."""
    names = "&".join(f"names=projects/{place.project}/services/{api}" for api in APIS)
    found = place.ask_google(
        "GET", f"https://serviceusage.googleapis.com/v1/projects/{{project}}/services:batchGet?{names}"
    )
    enabled = {one["name"].rpartition("/")[2] for one in found.get("services", []) if one["state"] == "ENABLED"}
    missing = sorted(set(APIS) - enabled)
    return held(not missing, f"not enabled: {', '.join(missing)}" if missing else f"all {len(APIS)} are enabled")


def permissions(place: Place) -> Verdict:
    """What the account that runs this may do: in the pod, or as it (`gcloud … --impersonate-service-account`)."""
    settings = effective(place).settings
    found = place.ask_google("POST", f"{MANAGER}:testIamPermissions", {"permissions": list(TOO_MUCH)})
    if may := found.get("permissions"):
        return failed(f"this account may {', '.join(may)}, which the service never needs")
    said = ["nothing too much"]
    if settings.pubsub is not None:
        subscription = f"projects/{settings.pubsub.project}/subscriptions/{settings.pubsub.subscription}"
        url = f"https://pubsub.googleapis.com/v1/{subscription}:testIamPermissions"
        wanted = ["pubsub.subscriptions.consume"]
        if place.ask_google("POST", url, {"permissions": wanted}).get("permissions") != wanted:
            return failed(f"it may not pull from {subscription}")
        said.append("may pull")
    for store in (settings.store.url, settings.store.control_url):
        if store is None or not store.startswith("gs://"):
            continue
        bucket = store.removeprefix("gs://").partition("/")[0]
        wanted = [f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list")]
        query = "&".join(f"permissions={one}" for one in wanted)
        url = f"https://storage.googleapis.com/storage/v1/b/{bucket}/iam/testPermissions?{query}"
        missing = set(wanted) - set(place.ask_google("GET", url).get("permissions", []))
        if missing:
            return failed(f"it may not {', '.join(sorted(missing))} in gs://{bucket}")
        said.append(f"may write gs://{bucket}")
    return passed(", ".join(said))


def no_key_file(place: Place) -> Verdict:
    """That nobody goes by a key that lies in a file."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named is None:
        mounted = [one for one in place.all("Secret") if "key.json" in str(one)]
        return held(not mounted, "no key file is named here, and none is mounted: Workload Identity")
    try:
        kind = json.loads(Path(named).read_text(encoding="utf-8")).get("type")
    except (OSError, json.JSONDecodeError) as error:
        return failed(f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which cannot be read: {error}")
    return held(kind != "service_account", f"GOOGLE_APPLICATION_CREDENTIALS is of the type {kind}")


def logs_flow(place: Place) -> Verdict:
    """That Cloud Logging has an entry of the pods."""
    body = {
        "resourceNames": [f"projects/{place.project}"],
        "filter": f'resource.type="k8s_container" resource.labels.namespace_name="{place.namespace}" '
        'resource.labels.container_name="governors"',
        "orderBy": "timestamp desc",
        "pageSize": 1,
    }
    entries = place.ask_google("POST", "https://logging.googleapis.com/v2/entries:list", body).get("entries", [])
    if not entries:
        return failed(f"Cloud Logging has no entry of the namespace {place.namespace}")
    return passed(f"the newest entry is of {entries[0]['timestamp']}")


def dashboards(place: Place) -> Verdict:
    """That the dashboard was created."""
    found = place.ask_google("GET", "https://monitoring.googleapis.com/v1/projects/{project}/dashboards")
    names = [one.get("displayName") for one in found.get("dashboards", [])]
    return held("Governors" in names, f"dashboards: {', '.join(map(str, names)) or 'none'}")


def credentials_of() -> object:
    """Whoever runs this, as Google's libraries find them. Raises CannotLookError."""
    import google.auth  # noqa: PLC0415 - takes a while to import
    import google.auth.exceptions  # noqa: PLC0415

    try:
        found, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise CannotLookError(str(error).splitlines()[0]) from error
    return found
