"""Tokens at a real service, from the command that makes them to the receipt that names their owner."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from support.service import ServiceProcess

AUTO_CREATE = {"GOVERNORS_TENANTS__AUTO_CREATE": "true"}
ISSUER, AUDIENCE = "https://issuer.example", "governors"
FAR_FUTURE_S = 2**33


def command(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "governors", *args]
    environment = {**os.environ, **env}
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=60, env=environment)


def make_token(*args: str) -> tuple[str, str]:
    done = command("token", *args, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    return document["token"], document["entry"]


def put(path: Path, *entries: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(["tokens:", *entries]) + "\n")
    fresh.replace(path)


def signal_of(tenant: str, number: int = 0) -> dict[str, Any]:
    data = {"depth": 1, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1}
    return {"id": f"q-{number}", "source": "broker", "tenant": tenant, "kind": "queue.sample",
            "observed_at": "2026-11-22T10:00:00Z", "data": data}  # fmt: skip


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_tokens_let_in_by_role_and_tenant_are_rotated_live_and_sign_receipts(tmp_path: Path) -> None:
    feed, feed_entry = make_token("feed", "--role", "ingest", "--tenant", "acme")
    alice, alice_entry = make_token("alice", "--role", "operate")
    put(tmp_path / "tokens.yaml", feed_entry, alice_entry)
    env = AUTO_CREATE | {"GOVERNORS_AUTH__TOKENS_FILE": str(tmp_path / "tokens.yaml")}
    with ServiceProcess(tmp_path / "data", "--host", "0.0.0.0", env=env) as service:
        url = service.url.replace("0.0.0.0", "127.0.0.1")
        with httpx.Client(base_url=url) as client:
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/signals", json=signal_of("acme")).status_code == 401
            assert client.post("/v1/signals", json=signal_of("acme"), headers=bearer(feed)).status_code == 200
            assert client.post("/v1/signals", json=signal_of("globex"), headers=bearer(feed)).status_code == 403
            assert client.get("/v1/tenants", headers=bearer(feed)).status_code == 403

            override = {"governor": "backlog_valve", "mode": "hold", "reason": "a drill"}
            granted = client.post("/v1/tenants/acme/overrides", json=override, headers=bearer(alice))
            assert granted.status_code == 201
            receipt = client.get(f"/v1/receipts/{granted.json()['receipt']}", headers=bearer(alice)).json()
            assert receipt["receipt"]["evidence"]["by"] == "alice"

            listed = command("tenants", "--json", GOVERNORS_URL=url, GOVERNORS_TOKEN=alice)
            assert [one["tenant"] for one in json.loads(listed.stdout)["tenants"]] == ["acme"]
            assert command("tenants", "--json", GOVERNORS_URL=url).returncode == 1

            successor, successor_entry = make_token("feed", "--role", "ingest", "--tenant", "acme")
            put(tmp_path / "tokens.yaml", successor_entry, alice_entry)
            wait_until_refused(client, feed)
            taken = client.post("/v1/signals", json=signal_of("acme", 1), headers=bearer(successor))
            assert taken.status_code == 200
        log = "\n".join(service.log)
        assert service.stop() == 0
    assert not any(secret in log for secret in (feed, alice, successor)), "a token in the log"


def wait_until_refused(client: httpx.Client, token: str) -> None:
    """The service looks once a second; each ask is an event to wait for."""
    for _ in range(10_000):
        if client.post("/v1/signals", json=signal_of("acme", 9), headers=bearer(token)).status_code == 401:
            return
    pytest.fail("the old token is still let in")


def test_an_issuers_tokens_are_believed_by_its_keys(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public: dict[str, Any] = jwt.get_algorithm_by_name("EdDSA").to_jwk(key.public_key(), as_dict=True)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public | {"kid": "k1"}]}))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": FAR_FUTURE_S, "roles": ["ingest"], "gov": ["acme"]}
    env = AUTO_CREATE | {
        "GOVERNORS_OIDC__ISSUER": ISSUER,
        "GOVERNORS_OIDC__AUDIENCE": AUDIENCE,
        "GOVERNORS_OIDC__KEYS": str(tmp_path / "keys.json"),
        "GOVERNORS_OIDC__TENANTS_CLAIM": "gov",
    }

    def status(client: httpx.Client, tenant: str, **changed: Any) -> int:
        token = jwt.encode(claims | changed, key, "EdDSA", headers={"kid": "k1"})
        return client.post("/v1/signals", json=signal_of(tenant), headers=bearer(token)).status_code

    with ServiceProcess(tmp_path / "data", env=env) as service, httpx.Client(base_url=service.url) as client:
        assert status(client, "acme") == 200
        assert status(client, "globex") == 403
        assert status(client, "acme", exp=1) == 401
        assert status(client, "acme", aud="another") == 401
        assert status(client, "acme", roles=["read"]) == 403


@pytest.mark.parametrize("content", [None, "tokens: {}\n"])
def test_a_token_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokens.yaml"
    if content is not None:
        path.write_text(content)

    done = command("serve", "--data-dir", str(tmp_path / "data"), GOVERNORS_AUTH__TOKENS_FILE=str(path))

    assert done.returncode == 1
    assert f"auth.tokens_file: {path}" in done.stderr
