"""What operators ask for, in a real log: found again after a restart, replayed, and never without its receipt."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.runtime import World, running, send
from support.switched import switchboard_of

from governors.api.app import build_api
from governors.auth.principal import Principal
from governors.replay.folder import replay_folder
from governors.runtime import Runtime
from governors.settings import Settings
from governors.telemetry.metrics import Metrics
from governors.tenants.operations import OPERATORS_TENANT, Operation, OperationInvalidError, decode_operation
from ledger import fsck
from ledger.appender import Ledger

PRINCIPALS = {
    "alice": Principal("alice", frozenset({"admin"})),
    "rita": Principal("rita", frozenset({"read"})),
    "oscar": Principal("oscar", frozenset({"operate"}), frozenset({"acme"})),
}
OVERRIDE = {"governor": "cost_guard", "mode": "release", "reason": "launch day"}


async def authenticate(token: bytes) -> Principal | None:
    return PRINCIPALS.get(token.decode())


@asynccontextmanager
async def asked(runtime: Runtime, world: World) -> AsyncIterator[Any]:
    """Asks the real service by its real API: `ask(token, method, path, body)`."""
    metrics = Metrics("test")
    service = switchboard_of(runtime, metrics=metrics)
    app = build_api(service, Settings(), metrics, lambda: world.now_us, random.Random(1), authenticate)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("10.4.0.17", 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://governors") as client:

        async def ask(token: str, method: str, path: str, body: Any = None) -> httpx.Response:
            return await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})

        yield ask


async def operate(ask: Any) -> None:
    """A change, a refusal, an override, one of a machine that is not there, and a withdrawal."""
    overrides = "/v1/tenants/acme/overrides"
    assert (
        await ask("alice", "PUT", "/v1/tenants/acme", {"profile": "premium", "reason": "upgrade"})
    ).status_code == 200
    assert (await ask("rita", "PUT", "/v1/tenants/acme", {"profile": "standard"})).status_code == 403
    assert (await ask("oscar", "POST", overrides, OVERRIDE)).status_code == 201
    assert (await ask("oscar", "POST", overrides, OVERRIDE | {"subject": "none"})).status_code == 404
    assert (await ask("oscar", "DELETE", f"{overrides}/cost_guard/default?reason=over")).status_code == 200


SAID = [
    ("alice", "PUT /v1/tenants/{tenant}", 200, "upgrade"),
    ("rita", "PUT /v1/tenants/{tenant}", 403, ""),
    ("oscar", "POST /v1/tenants/{tenant}/overrides", 201, "launch day"),
    ("oscar", "POST /v1/tenants/{tenant}/overrides", 404, "launch day"),
    ("oscar", "DELETE /v1/tenants/{tenant}/overrides/{governor}/{subject:path}", 200, "over"),
]


async def test_each_operation_is_told_in_order_with_the_receipt_of_what_it_changed(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime, asked(runtime, world) as ask:
        await send(runtime, world.spend("910.00"))
        await operate(ask)
        page = (await ask("alice", "GET", "/v1/operations")).json()
        told = [one["operation"] for one in page["operations"]]
        assert [(one["by"], one["action"], one["status"], one.get("reason", "")) for one in told] == SAID
        assert {one["address"] for one in told} == {"10.4.0.17"}
        assert {one["tenant"] for one in told} == {"acme"}
        for one in (told[0], told[2], told[4]):
            changed = (await ask("alice", "GET", f"/v1/receipts/{one['receipt']}")).json()["receipt"]
            assert one["by"] in str(changed["evidence"]) or changed["fsm"]["event"] == "override.ended"
        receipts = [one["receipt"] for one in page["operations"]]
        assert [one["tseq"] for one in receipts] == list(range(5))
        assert [one["outcome"] for one in receipts] == ["decided", "refused", "decided", "refused", "decided"]
        # What somebody may want to have erased is in the payload alone.
        for word in ("acme", "10.4.0.17", "launch day", "upgrade"):
            assert word not in str(receipts)
        assert page["next"] is None


async def test_pages_join_and_a_restart_loses_nothing(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime, asked(runtime, world) as ask:
        await send(runtime, world.spend("910.00"))
        await operate(ask)
    async with running(tmp_path, world) as runtime, asked(runtime, world) as ask:
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = (await ask("alice", "GET", f"/v1/operations?after={after}&limit=2")).json()
            seen += [one["operation"]["by"] for one in page["operations"]]
            after = page["next"]
        assert seen == [by for by, _, _, _ in SAID]
        await ask("oscar", "POST", "/v1/tenants/acme/overrides", OVERRIDE)
        assert runtime.ledger.next_tseq(OPERATORS_TENANT) == 6


async def test_who_operates_is_for_admins_of_all_tenants_alone(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime, asked(runtime, world) as ask:
        assert [(await ask(who, "GET", "/v1/operations")).status_code for who in PRINCIPALS] == [200, 403, 403]


async def test_the_chain_of_operators_is_verified_and_replayed_like_any_other(tmp_path: Path) -> None:
    world = World()
    async with running(tmp_path, world) as runtime, asked(runtime, world) as ask:
        await send(runtime, world.spend("910.00"))
        await operate(ask)
    assert fsck.verify_log(tmp_path).ok
    report = replay_folder(tmp_path)
    assert report.ok
    assert report.partitions[0].replayed == report.receipts


async def test_nothing_is_answered_where_the_receipt_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    async with running(tmp_path, world) as runtime, asked(runtime, world) as ask:
        await send(runtime, world.spend("910.00"))
        append = Ledger.append

        def fail(ledger: Ledger, draft: Any) -> int:
            if draft.tenant == OPERATORS_TENANT:
                raise runtime.ledger._fail(OSError(28, "No space left on device"))
            return append(ledger, draft)

        monkeypatch.setattr(Ledger, "append", fail)
        response = await ask("oscar", "POST", "/v1/tenants/acme/overrides", OVERRIDE)
        assert response.status_code == 503


def test_bytes_that_are_no_operation_are_said_to_be_none() -> None:
    for payload in (b"", b"{", b"\xff", b"[]", b'{"at_us": 1}'):
        with pytest.raises(OperationInvalidError):
            decode_operation(payload)
    good = b'{"at_us":1,"by":"a","action":"PUT /v1","path":"/v1","status":200}'
    assert decode_operation(good) == Operation(at_us=1, by="a", action="PUT /v1", path="/v1", status=200)
