"""Every route, asked by every role with every scope: allowed or refused as designed."""

from typing import Any, NamedTuple

import httpx
import pytest
from support.pushes import Handler, Sink, pusher_of

from governors.api.access import ACCESS, PROXIED_METHODS, AccessTable, Door
from governors.api.push import PubSubDoor, Pushes
from governors.api.service import TenantView
from governors.auth.principal import ROLES, Principal, Role
from ingest.decode.tenants import Routing, Rule

NOW_US = 1_795_341_600_000_000  # 2026-11-22T10:00:00Z


class Ask(NamedTuple):
    """A request about `tenant`, where it is about one."""

    method: str
    path: str
    body: Any = None
    header: str = ""
    """The name of one that has the tenant."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def signal_of(tenant: str) -> dict[str, Any]:
    return {
        "id": "q-1",
        "source": "broker",
        "tenant": tenant,
        "kind": "queue.sample",
        "observed_at": "2026-11-22T10:00:00Z",
        "data": {"depth": 1, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1},
    }


def alert_of(tenant: str) -> dict[str, Any]:
    alert = {
        "status": "firing",
        "labels": {"alertname": "A", "tenant": tenant},
        "startsAt": "2026-11-22T09:59:00Z",
        "fingerprint": "1",
    }
    return {"version": "4", "alerts": [alert]}


OVERRIDE = {"governor": "cost_guard", "mode": "hold", "reason": "a test"}
STOP = {"reason": "a test"}
APPROVAL = {"governor": "cost_guard", "verdict": "approve", "reason": "a test"}
READERS: tuple[Role, ...] = ("read", "operate", "admin")

# Who may: as it is meant, written a second time by hand. `{t}` is the tenant that a request is about.
OPEN = [Ask("GET", "/healthz"), Ask("GET", "/readyz"), Ask("GET", "/openapi.json"), Ask("GET", "/docs")]
EVERYBODYS = [
    (Ask("GET", "/metrics"), READERS),
    (Ask("GET", "/v1/tree"), READERS),
    (Ask("POST", "/v1/cluster/drain"), ("admin",)),
    (Ask("DELETE", "/v1/cluster/drain"), ("admin",)),
    (Ask("GET", "/v1/operations"), ("admin",)),
    (Ask("GET", "/v1/policies"), READERS),
    (Ask("POST", "/v1/policies/reload"), ("admin",)),
    (Ask("PUT", "/v1/emergency-stop", STOP), ("operate", "admin")),
    (Ask("DELETE", "/v1/emergency-stop?reason=a"), ("operate", "admin")),
    (Ask("GET", "/v1/logs/0/tile/entries/x001/234"), READERS),
]
NAMING = [
    (Ask("POST", "/v1/signals", signal_of), ("ingest", "admin")),
    (Ask("GET", "/v1/admit?tenant={t}"), ("admit", "admin")),
    *(
        (Ask(method, path, header="x-governor-tenant"), ("admit", "admin"))
        for method, path in [("GET", "/v1/admit/nginx"), *((one, "/v1/admit/envoy/a/b") for one in PROXIED_METHODS)]
    ),
    (Ask("GET", "/v1/tenants/{t}"), READERS),
    (Ask("PUT", "/v1/tenants/{t}", {"entitlement": "active"}), ("admin",)),
    (Ask("POST", "/v1/tenants/{t}/overrides", OVERRIDE), ("operate", "admin")),
    (Ask("DELETE", "/v1/tenants/{t}/overrides/cost_guard/default"), ("operate", "admin")),
    (Ask("POST", "/v1/tenants/{t}/approvals", APPROVAL), ("operate", "admin")),
    (Ask("POST", "/v1/tenants/{t}/actions/act-1/retry", STOP), ("operate", "admin")),
    (Ask("POST", "/v1/tenants/{t}/actions/act-1/abandon", STOP), ("operate", "admin")),
    (Ask("PUT", "/v1/tenants/{t}/emergency-stop", STOP), ("operate", "admin")),
    (Ask("DELETE", "/v1/tenants/{t}/emergency-stop?reason=a"), ("operate", "admin")),
    (Ask("GET", "/v1/tenants/{t}/receipts"), READERS),
    (Ask("GET", "/v1/stream?tenant={t}"), READERS),
    (Ask("GET", "/v1/tenants/{t}/bundle"), READERS),
]
# They name no tenant; the service is told what the scope is, and leaves the rest out.
FILTERED = [
    (Ask("GET", "/v1/tenants"), READERS),
    (Ask("GET", "/v1/actions"), READERS),
    (Ask("GET", "/v1/receipts/0:1"), READERS),
    (Ask("GET", "/v1/stream"), READERS),
    (Ask("GET", "/v1/receipts/0:1/proof"), READERS),
]
# They name tenants one by one; each entry of another's is refused by itself.
BATCHES: list[tuple[Ask, tuple[Role, ...]]] = [(Ask("POST", "/v1/push/alertmanager", alert_of), ("ingest", "admin"))]
# Google's tokens lead here, and no others.
PUSHED = Ask("POST", "/v1/push/pubsub", {"message": {"data": "e30="}})
# Tokens of other workers lead here, and no others.
PEERS = [
    Ask("GET", "/v1/cluster/admission?have=0::0"),
    Ask("POST", "/v1/cluster/signals?wait=later"),
    Ask("POST", "/v1/cluster/operations", {}),
]
# They tell nothing of any tenant, so a limited token may have them too.
SHARED = [
    (Ask("GET", "/v1/logs/0/checkpoint"), READERS),
    (Ask("GET", "/v1/logs/0/tile/1/x001/234.p/8"), READERS),
    (Ask("GET", "/v1/logs/0/consistency?from=1"), READERS),
    (Ask("POST", "/v1/verify", {"type": "x"}), READERS),
    (Ask("GET", "/v1/cluster"), READERS),
]

PUSHES = Pushes(Routing([Rule(tenant_from="label.tenant")]), Sink(), PubSubDoor(pusher_of, Handler()))
SCOPES = {"all": None, "acme": frozenset({"acme"}), "none": frozenset[str]()}
PRINCIPALS = {
    f"{role}-{scope}": Principal(f"{role}-{scope}", frozenset({role}), tenants)
    for role in ROLES
    for scope, tenants in SCOPES.items()
}


async def peer_of(token: bytes) -> Principal | None:
    return Principal("b", frozenset({"ingest", "admit"})) if token == b"worker" else None


async def principal_of(token: bytes) -> Principal | None:
    return PRINCIPALS.get(token.decode("ascii", "replace"))


@pytest.fixture
def doors(doors: Any) -> Any:
    """A principal's name is its token."""
    doors.authenticate, doors.peer_of, doors.pushes = principal_of, peer_of, PUSHES
    return doors


@pytest.fixture
def guarded(api: Any) -> Any:
    """The API behind tokens."""
    for tenant in ("acme", "globex"):
        api.service.known[tenant] = TenantView(tenant, "active", "standard", "NORMAL", [])
    return api


async def ask(api: Any, one: Ask, tenant: str = "acme", token: str | None = None) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if one.header:
        headers[one.header] = tenant
    body = one.body(tenant) if callable(one.body) else one.body
    response: httpx.Response = await api.client.request(
        one.method, one.path.format(t=tenant), headers=headers, json=body
    )
    return response


def test_every_route_is_in_one_of_the_lists() -> None:
    table = AccessTable(doors=frozenset(Door))
    asked = {
        (one.method, place.route)
        for one in [*OPEN, *(one for one, _ in EVERYBODYS + NAMING + FILTERED + SHARED + BATCHES), PUSHED, *PEERS]
        if (place := table.find(one.path.format(t="acme").partition("?")[0])) is not None
    }

    assert asked == ACCESS.keys()


@pytest.mark.parametrize("one", OPEN, ids=str)
async def test_open_routes_answer_anybody(guarded: Any, one: Ask) -> None:
    assert (await ask(guarded, one)).status_code == 200
    assert (await ask(guarded, one, token="nobody's")).status_code == 200


# Making the API takes longer than asking it, so one is asked by everybody.


@pytest.mark.parametrize(("one", "_roles"), EVERYBODYS + NAMING + FILTERED + SHARED + BATCHES, ids=str)
async def test_nobody_gets_in_without_a_valid_token(guarded: Any, one: Ask, _roles: Any) -> None:
    for header in (
        *(None, "", "Bearer", "Bearer ", "Bearer nobody's"),
        *("Basic admin-all", "admin-all", "Bearer admin-all x"),
    ):
        headers = {} if header is None else {"Authorization": header}
        response = await guarded.client.request(one.method, one.path.format(t="acme"), headers=headers)

        assert response.status_code == 401, header
        assert response.json()["type"] == "urn:governors:problem:unauthenticated"
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert guarded.service.asked == guarded.service.submitted == guarded.service.scopes == []


@pytest.mark.parametrize(("one", "roles"), EVERYBODYS + NAMING + FILTERED + SHARED + BATCHES, ids=str)
async def test_a_role_may_what_it_is_for(guarded: Any, one: Ask, roles: tuple[Role, ...]) -> None:
    for role in sorted(set(ROLES) - set(roles)):
        assert (await ask(guarded, one, token=f"{role}-all")).status_code == 403, role
    assert guarded.service.asked == guarded.service.submitted == guarded.service.scopes == []
    for role in roles:
        assert (await ask(guarded, one, token=f"{role}-all")).status_code < 300, role


@pytest.mark.parametrize(("one", "roles"), NAMING, ids=str)
async def test_a_token_sees_and_touches_its_own_tenants_alone(guarded: Any, one: Ask, roles: tuple[Role, ...]) -> None:
    for role in ROLES:
        own = await ask(guarded, one, "acme", f"{role}-acme")
        assert (own.status_code < 300) == (role in roles), role
        before = (len(guarded.service.asked), len(guarded.service.submitted))

        refused = [
            await ask(guarded, one, "globex", f"{role}-acme"),
            await ask(guarded, one, "not-even-there", f"{role}-acme"),
            await ask(guarded, one, "acme", f"{role}-none"),
        ]

        assert [response.status_code for response in refused] == [403] * 3, role
        assert (len(guarded.service.asked), len(guarded.service.submitted)) == before
        if role in roles:
            assert [response.json()["field"] for response in refused] == ["tenant"] * 3


@pytest.mark.parametrize(("one", "_roles"), EVERYBODYS, ids=str)
async def test_what_concerns_all_tenants_is_not_for_a_limited_token(guarded: Any, one: Ask, _roles: Any) -> None:
    for scope in ("acme", "none"):
        assert (await ask(guarded, one, token=f"admin-{scope}")).status_code == 403, scope


@pytest.mark.parametrize(("one", "roles"), SHARED, ids=str)
async def test_what_is_no_tenants_alone_is_for_every_scope(guarded: Any, one: Ask, roles: tuple[Role, ...]) -> None:
    for scope in SCOPES:
        assert (await ask(guarded, one, token=f"{roles[0]}-{scope}")).status_code == 200, scope


@pytest.mark.parametrize(("one", "roles"), FILTERED, ids=str)
async def test_where_no_tenant_is_named_the_scope_goes_along(guarded: Any, one: Ask, roles: tuple[Role, ...]) -> None:
    for scope in SCOPES:
        await ask(guarded, one, token=f"{roles[0]}-{scope}")

    assert guarded.service.scopes == list(SCOPES.values())


async def test_of_a_batch_only_the_signals_of_own_tenants_are_taken(guarded: Any) -> None:
    batch = [signal_of(tenant) | {"id": tenant} for tenant in ("acme", "globex", "acme")]

    response = await ask(guarded, Ask("POST", "/v1/signals", batch), token="ingest-acme")

    assert response.status_code == 200
    outcomes = [(one["outcome"], one.get("error", {}).get("reason")) for one in response.json()["results"]]
    assert outcomes == [("decided", None), ("rejected", "forbidden_tenant"), ("decided", None)]
    assert [[signal.tenant for signal in taken] for taken in guarded.service.submitted] == [["acme", "acme"]]


async def test_of_a_notification_only_the_alerts_of_own_tenants_are_taken(guarded: Any) -> None:
    both = alert_of("acme") | {"alerts": [*alert_of("acme")["alerts"], *alert_of("globex")["alerts"]]}

    for token, outcomes in {
        "ingest-acme": ["decided", "rejected"],
        "ingest-all": ["decided", "decided"],
        "ingest-none": ["rejected", "rejected"],
    }.items():
        response = await ask(guarded, Ask("POST", "/v1/push/alertmanager", both), token=token)
        assert [one["outcome"] for one in response.json()["results"]] == outcomes
    assert [[signal.tenant for signal in taken] for taken in guarded.service.submitted] == [
        ["acme"],
        ["acme", "globex"],
    ]


async def test_no_token_of_ours_pushes_for_pubsub(guarded: Any) -> None:
    for token in (None, "nobody's", *PRINCIPALS):
        assert (await ask(guarded, PUSHED, token=token)).status_code == 401, token


async def test_googles_token_pushes_for_pubsub_and_does_nothing_else(guarded: Any) -> None:
    assert (await ask(guarded, PUSHED, token="google")).status_code == 200
    for one, _ in EVERYBODYS + NAMING + FILTERED + SHARED + BATCHES:
        assert (await ask(guarded, one, token="google")).status_code == 401


@pytest.mark.parametrize("one", PEERS, ids=str)
async def test_what_is_for_other_workers_is_for_nobody_else(guarded: Any, one: Ask) -> None:
    for token in (None, "nobody's", "google", *PRINCIPALS):
        assert (await ask(guarded, one, token=token)).status_code == 401
    assert (await ask(guarded, one, token="worker")).status_code in {200, 400, 422}


async def test_another_workers_token_opens_nothing_else(guarded: Any) -> None:
    for one, _ in EVERYBODYS + NAMING + FILTERED + SHARED + BATCHES:
        assert (await ask(guarded, one, token="worker")).status_code == 401


async def test_an_operators_name_is_that_of_the_token(guarded: Any) -> None:
    taken = await ask(guarded, Ask("POST", "/v1/tenants/acme/overrides", OVERRIDE), token="operate-all")
    assert taken.status_code == 201
    assert guarded.service.asked[-1][1].by == "operate-all"

    assumed = await ask(
        guarded, Ask("POST", "/v1/tenants/acme/overrides", OVERRIDE | {"by": "the boss"}), token="operate-all"
    )
    assert (assumed.status_code, assumed.json()["field"]) == (422, "by")


@pytest.mark.parametrize(
    "one",
    [Ask("GET", "/v1/nonsense"), Ask("GET", "/v1/tenants/acme/nonsense"), Ask("PATCH", "/v1/signals")],
    ids=str,
)
async def test_what_does_not_exist_is_told_only_to_those_who_are_known(guarded: Any, one: Ask) -> None:
    assert (await ask(guarded, one)).status_code == 401
    assert (await ask(guarded, one, token="read-none")).status_code in (404, 405)


@pytest.mark.parametrize(
    "path", ["//v1/tenants", "/v1/tenants/", "/v1//tenants", "/v1/tenants/..", "/V1/tree", "/v1/tree/"]
)
async def test_another_spelling_of_a_path_is_no_way_around(guarded: Any, path: str) -> None:
    for token in ("ingest-all", "read-acme"):
        response = await guarded.client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code in (403, 404)


async def test_two_authorization_headers_are_none(guarded: Any) -> None:
    headers = [("Authorization", "Bearer admin-all"), ("Authorization", "Bearer read-acme")]
    assert (await guarded.client.get("/v1/tenants", headers=headers)).status_code == 401
