"""Looks at running services: probes, a reserved tenant's signals, the receipts that they leave."""

import socket
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import httpx
from cryptography import x509

from governors.checklist.place import Place
from governors.checklist.verdict import CannotLookError, Verdict, failed, held, passed
from governors.telemetry.scrape import Series, series_of, total
from ingest.signals import format_time
from ledger.errors import LedgerError
from ledger.format.checkpoint import open_checkpoint
from ledger.format.note import Verifier
from ledger.format.proof import TlogProof
from ledger.verify.documents import check_proof, note_of, read_document
from ledger.verify.judge import claimed_origin

TENANT: Final = "checklist"
"""Whose signals the checklist sends; nobody else's."""
DAYS_MIN: Final = 30
TRIES: Final = 10


def metrics_of_each(place: Place) -> list[list[Series]]:
    """Those of each service."""
    _ = place.service  # at least one has to be named
    found = []
    for client in place.services:
        answer = client.get("/metrics")
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise CannotLookError("the token may not read /metrics: GOVERNORS_TOKEN needs the role read")
        answer.raise_for_status()
        found.append(list(series_of(answer.text)))
    return found


def metrics(place: Place) -> list[Series]:
    """Those of all services: each pod counts what it does, and tells of the partitions that it has."""
    return [one for series in metrics_of_each(place) for one in series]


def certificate(place: Place) -> Verdict:
    """For how long the certificate that the service shows is valid."""
    url = place.service.base_url
    if url.scheme != "https":
        raise CannotLookError(f"{url} is spoken in the clear")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it is trusted, every other line shows
    with (
        socket.create_connection((url.host, url.port or 443), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=url.host) as shown,
    ):
        der = shown.getpeercert(binary_form=True)
    if der is None:
        return failed("it shows no certificate")
    until = x509.load_der_x509_certificate(der).not_valid_after_utc
    days = (until - datetime.fromtimestamp(place.now_us() / 1e6, UTC)).days
    return held(days >= DAYS_MIN, f"valid for {days} days, until {until:%Y-%m-%d}")


def healthy(place: Place) -> Verdict:
    """Both probes of each service."""
    versions = set()
    for client in place.services:
        health = client.get("/healthz")
        if health.status_code != HTTPStatus.OK:
            return failed(f"{client.base_url}healthz: {health.status_code}: {health.text[:200]}")
        versions.add(health.json()["version"])
    ready = all_ready(place)
    return ready if ready.status != "pass" else passed(f"{ready.seen}; version {', '.join(sorted(versions))}")


def all_ready(place: Place) -> Verdict:
    """That each service takes signals, and what it warns of."""
    warnings = []
    _ = place.service  # at least one has to be named
    for client in place.services:
        answer = client.get("/readyz")
        if answer.status_code != HTTPStatus.OK:
            return failed(f"{client.base_url}readyz: {answer.status_code}: {answer.text[:200]}")
        warnings += answer.json()["warnings"]
    if warnings:
        return failed(f"ready, but: {'; '.join(warnings)}")
    return passed(f"{len(place.services)} ready, no warnings")


def members_agree(place: Place) -> Verdict:
    """That every pod that is asked sees the same workers, and the same one of them with each partition."""
    views = _clusters(place)
    said = {
        (
            tuple(sorted((one["worker"], one["state"]) for one in view["workers"] if one["state"] != "gone")),
            tuple((one["partition"], one["owner"]) for one in view["partitions"]),
        )
        for view in views
    }
    if len(said) > 1:
        return failed(f"{len(views)} pods were asked, and do not agree: {sorted(said)}")
    [(workers, partitions)] = said
    if vacant := [str(partition) for partition, owner in partitions if owner is None]:
        return failed(f"{len(views)} asked: nobody has partition {', '.join(vacant)}")
    if strangers := {owner for _, owner in partitions} - {worker for worker, _ in workers}:
        return failed(f"{len(views)} asked: {', '.join(sorted(map(str, strangers)))} has partitions and is no member")
    names = ", ".join(f"{worker} ({_share(worker, state, partitions)})" for worker, state in workers)
    return held(bool(partitions), f"{len(views)} asked: {names}")


def _share(worker: str, state: str, partitions: Iterable[tuple[int, str | None]]) -> str:
    owned = [str(partition) for partition, owner in partitions if owner == worker]
    return f"has {', '.join(owned)}" if owned else state


def peers(place: Place) -> Verdict:
    """That pods reach those that have the other partitions: what each is asked about all tenants, it asks them."""
    asked = 0
    for client, view in zip(place.services, _clusters(place), strict=True):
        if all(one["owner"] == view["worker"] for one in view["partitions"]):
            continue
        asked += 1
        answer = client.get("/v1/tenants", params={"limit": 1})
        if answer.is_error:
            return failed(f"{view['worker']} asks the others, and says {answer.status_code}: {answer.text[:200]}")
    if not asked:
        raise CannotLookError("no service that was named has less than all partitions: name each pod with --url")
    return passed(f"{asked} pods answer for the partitions of others too")


def peer_ports(place: Place) -> Verdict:
    """That every worker can be connected to where it says that it is."""
    reached = []
    for one in _clusters(place)[0]["workers"]:
        if one["state"] == "gone":
            continue
        address = httpx.URL(one["url"])
        try:
            socket.create_connection((address.host, address.port or 443), timeout=5).close()
        except socket.gaierror as error:
            raise CannotLookError(f"{address.host} is known inside the cluster alone: {error}") from error
        reached.append(one["url"])
    return held(bool(reached), f"reached: {', '.join(reached)}")


def _clusters(place: Place) -> list[dict[str, Any]]:
    _ = place.service  # at least one has to be named
    views = []
    for client in place.services:
        answer = client.get("/v1/cluster")
        answer.raise_for_status()
        views.append(answer.json())
    return views


def headless_names(place: Place) -> Verdict:
    """Addresses of the pods, by the headless service's name."""
    name = f"governors-headless.{place.namespace}.svc.cluster.local"
    try:
        found = {one[4][0] for one in socket.getaddrinfo(name, 8080, proto=socket.IPPROTO_TCP)}
    except OSError as error:
        raise CannotLookError(f"{name} is known inside the cluster alone: {error}") from error
    return passed(f"{name} is {', '.join(sorted(map(str, found)))}")


def _probe(place: Place, kind: str, subject: str, data: dict[str, Any], *, wait: str = "local") -> dict[str, Any]:
    """What became of a signal of the reserved tenant."""
    client = place.service
    made = client.put(f"/v1/tenants/{TENANT}", json={"entitlement": "active", "reason": "deployment checklist"})
    if made.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise CannotLookError(f"the token may not make the tenant {TENANT}: GOVERNORS_TOKEN needs the role admin")
    made.raise_for_status()
    now_us = place.now_us()
    signal = {
        "id": f"checklist-{kind}-{now_us}",
        "source": "checklist",
        "tenant": TENANT,
        "kind": kind,
        "subject": subject,
        "observed_at": format_time(now_us),
        "data": data,
    }
    answer = client.post("/v1/signals", json=[signal], params={"wait": wait})
    if answer.is_error:
        raise ValueError(f"{answer.status_code}: {answer.text[:300]}")
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def _cost(place: Place, wait: str = "local") -> dict[str, Any]:
    month = format_time(place.now_us())[:7]
    amounts = {"cost_amount": "10.00", "budget_amount": "1000.00", "currency": "USD"}
    return _probe(place, "cost.snapshot", "budget", {**amounts, "interval_start": f"{month}-01T00:00:00Z"}, wait=wait)


def _deploy(place: Place) -> dict[str, Any]:
    data = {"deploy_id": f"d-{place.now_us()}", "revision": "r2", "previous_revision": "r1"}
    return _probe(place, "deploy.started", "web", data)


def _queue(place: Place) -> dict[str, Any]:
    return _probe(
        place, "queue.sample", "queue", {"depth": 1, "oldest_age_s": 0.1, "in_rate_per_s": 1, "done_rate_per_s": 1}
    )


def _decides(result: dict[str, Any], governor: str) -> Verdict:
    ok = result.get("governor") == governor and result["outcome"] == "decided"
    return held(ok, f"{result.get('governor')}: {result['outcome']}, {result.get('state', result.get('error'))}")


def cost_guard_decides(place: Place) -> Verdict:
    """On a snapshot of a budget that is hardly used."""
    return _decides(_cost(place), "cost_guard")


def rollback_guard_decides(place: Place) -> Verdict:
    """On a deploy that begins."""
    return _decides(_deploy(place), "rollback_guard")


def backlog_valve_decides(place: Place) -> Verdict:
    """On a queue that is nearly empty."""
    return _decides(_queue(place), "backlog_valve")


def ledger_accepts(place: Place) -> Verdict:
    """That a signal's receipt can be read back."""
    result = _cost(place)
    receipt = place.service.get(f"/v1/receipts/{result['receipt']}")
    receipt.raise_for_status()
    found = receipt.json()["receipt"]["event_id"]
    return held(found == result["id"], f"receipt {result['receipt']} is of {found}")


def routing(place: Place) -> Verdict:
    """That each kind reached its governor."""
    reached = {
        name: one(place).get("governor") for name, one in (("cost", _cost), ("deploy", _deploy), ("queue", _queue))
    }
    ok = reached == {"cost": "cost_guard", "deploy": "rollback_guard", "queue": "backlog_valve"}
    return held(ok, ", ".join(f"{kind} to {governor}" for kind, governor in reached.items()))


def subscription(place: Place) -> Verdict:
    """That pulls are answered."""
    series = metrics(place)
    if not any(one.name == "governors_pull_connected" for one in series):
        raise CannotLookError("the service pulls from no subscription (section pubsub)")
    connected = total(series, "governors_pull_connected") > 0
    pulled = total(series, "governors_pull_received_total")
    return held(connected, f"{'connected' if connected else 'not connected'}, {pulled:,.0f} messages since the start")


def push_handler(place: Place) -> Verdict:
    """That it is there, and takes nothing from whoever shows no token of Google's."""
    message = {"message": {"data": "", "messageId": "1"}, "subscription": "checklist"}
    request = place.service.build_request("POST", "/v1/push/pubsub", json=message)
    request.headers.pop("authorization", None)  # our own token is none of Google's
    answer = place.service.send(request)
    if answer.status_code == HTTPStatus.NOT_FOUND:
        raise CannotLookError("nothing is pushed here (section push)")
    refused = answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    return held(refused, f"a push without a token is answered with {answer.status_code}")


def receipt_verifies(place: Place) -> Verdict:
    """A proof of a new receipt, checked here with the key that the operator brought."""
    if not place.vkey:
        raise CannotLookError("no verifier key was named: --vkey (governors ledger info prints it)")
    result = _cost(place, wait="committed")
    path = f"/v1/receipts/{quote(result['receipt'], safe=':')}/proof"
    for _ in range(TRIES):
        answer = place.service.get(path, headers={"accept": "text/plain"})
        if answer.status_code == HTTPStatus.OK:
            break
        place.sleep(1.0)
    answer.raise_for_status()
    try:
        document = read_document(answer.content)
        if not isinstance(document, TlogProof):
            return failed("what came is no proof file")
        origin = claimed_origin(document)
        given = Verifier.parse(place.vkey.strip())
        checkpoint = open_checkpoint(note_of(document), Verifier(origin, given.public_key), origin)
        receipt = check_proof(document, checkpoint)
    except LedgerError as error:
        return failed(f"the proof does not hold: {error}")
    ok = receipt.event_id == result["id"]
    return held(
        ok, f"receipt {result['receipt']} stands in {origin} of size {checkpoint.size}, signed by the key given"
    )
